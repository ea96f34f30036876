// SPDX-License-Identifier: Apache-2.0
// memory.cc: see memory.h.
#include "flow/memory.h"

#include <sys/mman.h>
#include <sys/random.h>

#include <cerrno>
#include <cstring>

#include "abi/flow_shared.h"

namespace sluice {
namespace {

size_t page_aligned(size_t bytes) { return (bytes + 4095) & ~size_t{4095}; }

}  // namespace

flow_sizes flow_sizes::of(uint32_t sessions) {
  // Two references a session, at most 60 % of the slots used: few keys need their second bucket.
  uint64_t wanted = (2ull * sessions * 10 / 6) / SL_FLOW_BUCKET_SLOTS + 2, buckets = 64;
  while (buckets < wanted) buckets <<= 1;
  return {sessions, static_cast<uint32_t>(buckets)};
}

size_t flow_sizes::bytes() const {
  return size_t{buckets} * sizeof(sl_flow_bucket) + size_t{sessions} * (sizeof(session) + sizeof(mapping));
}

std::unique_ptr<flow_memory> flow_memory::anonymous(uint32_t sessions, std::string* error) {
  if (sessions == 0 || sessions > (1u << 28)) { *error = "limits.sessions must be between 1 and 2^28"; return nullptr; }
  const flow_sizes sizes = flow_sizes::of(sessions);
  const size_t parts[] = {page_aligned(sizeof(flow_shared)), page_aligned(size_t{sizes.buckets} * sizeof(sl_flow_bucket)), page_aligned(size_t{sizes.sessions} * sizeof(session)),
                          page_aligned(size_t{sizes.sessions} * sizeof(mapping))};
  std::unique_ptr<flow_memory> m(new flow_memory);
  for (size_t part : parts) m->owned_bytes_ += part;
  void* p = mmap(nullptr, m->owned_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    *error = "cannot map " + std::to_string(m->owned_bytes_ >> 20) + " MiB for sessions (" + std::strerror(errno) + "); lower limits.sessions or add memory";
    return nullptr;
  }
  madvise(p, m->owned_bytes_, MADV_HUGEPAGE);
  m->owned_ = p;
  auto* at = static_cast<char*>(p);
  auto take = [&](unsigned part) { char* here = at; at += parts[part]; return static_cast<void*>(here); };
  m->share(take(0));
  m->buckets = static_cast<sl_flow_bucket*>(take(1));
  m->sessions = static_cast<session*>(take(2));
  m->mappings = static_cast<mapping*>(take(3));
  m->prepare(sizes);
  return m;
}

std::unique_ptr<flow_memory> flow_memory::of_maps(uint32_t sessions, const std::function<void*(const char*, size_t, std::string*)>& map, std::string* error) {
  const flow_sizes sizes = flow_sizes::of(sessions);
  std::unique_ptr<flow_memory> m(new flow_memory);
  auto part = [&](const char* name, size_t bytes) { return error->empty() ? map(name, bytes, error) : nullptr; };
  error->clear();
  m->share(part("flow_header", sizeof(flow_shared)));
  m->buckets = static_cast<sl_flow_bucket*>(part("flow_buckets", size_t{sizes.buckets} * sizeof(sl_flow_bucket)));
  m->sessions = static_cast<session*>(part("sessions", size_t{sizes.sessions} * sizeof(session)));
  m->mappings = static_cast<mapping*>(part("nat_mappings", size_t{sizes.sessions} * sizeof(mapping)));
  if (!error->empty()) return nullptr;
  m->inherited = m->header->version == SL_FLOW_MEMORY_VERSION && m->header->capacity == sizes.sessions && m->header->bucket_mask == sizes.buckets - 1;
  if (!m->inherited) m->prepare(sizes);
  return m;
}

static_assert(offsetof(flow_shared, interfaces) % 64 == 0 && offsetof(flow_shared, adjacencies) % 64 == 0, "no entry on two cache lines");

void flow_memory::share(void* shared) {
  if (!shared) return;
  header = static_cast<sl_flow_header*>(shared);
  interfaces = reinterpret_cast<interface_state*>(static_cast<char*>(shared) + offsetof(flow_shared, interfaces));
  adjacencies = reinterpret_cast<adjacency*>(static_cast<char*>(shared) + offsetof(flow_shared, adjacencies));
}

// First use: what zeroed memory does not say by itself.
void flow_memory::prepare(const flow_sizes& sizes) {
  if (getrandom(header->hash_keys, sizeof header->hash_keys, 0) != sizeof header->hash_keys) __builtin_trap();  // never fails once booted
  if (getrandom(&header->seed, sizeof header->seed, 0) != sizeof header->seed) __builtin_trap();
  header->capacity = sizes.sessions;
  header->bucket_mask = sizes.buckets - 1;
  for (unsigned slot = 0; slot < SL_INTERFACES_MAX; ++slot) {
    interfaces[slot].port_slot.store(port_slot_none, std::memory_order_relaxed);
    interfaces[slot].vlan_id.store(SL_VLAN_NONE, std::memory_order_relaxed);
  }
  __atomic_store_n(&header->version, static_cast<uint32_t>(SL_FLOW_MEMORY_VERSION), __ATOMIC_RELEASE);
}

flow_memory::~flow_memory() { if (owned_) munmap(owned_, owned_bytes_); }

}  // namespace sluice
