// SPDX-License-Identifier: Apache-2.0
// dataplane.h: what all workers share. Built by `engine` before the first worker starts, destroyed after the last one.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "capture.h"
#include "flow/memory.h"
#include "flow/table.h"
#include "nat/mapping.h"
#include "packet/reassembly.h"
#include "policy/snapshot.h"
#include "route/adjacency.h"
#include "tunnel/wireguard.h"

namespace sluice {

// Sessions a source address has, kept only while limits.sessionsPerSource is set. Slow path.
class source_limits {
 public:
  // Counts one more session, unless the source has `max` already.
  bool take(const sl_address& source, uint32_t max) {
    shard& s = shard_of(source);
    std::lock_guard guard(s.mutex);
    uint32_t& count = s.counts[source];
    if (count >= max) return false;
    ++count;
    return true;
  }
  void give_back(const sl_address& source) {
    shard& s = shard_of(source);
    std::lock_guard guard(s.mutex);
    auto it = s.counts.find(source);
    if (it != s.counts.end() && --it->second == 0) s.counts.erase(it);
  }

 private:
  struct shard { std::mutex mutex; std::unordered_map<sl_address, uint32_t, address_hash, address_equal> counts; };
  shard& shard_of(const sl_address& a) { return shards_[address_hash{}(a) >> 58]; }
  shard shards_[64];
};

struct dataplane {
  // Everything that stands in `memory` is opened by it; memory inherited from another engine keeps its sessions.
  dataplane(std::unique_ptr<flow_memory> memory_, unsigned workers_)
      : memory(std::move(memory_)), seed(memory->header->seed), workers(workers_), fragments(seed ^ 0x5851f42d4c957f2dull), interfaces(memory->interfaces) {
    epoch.set_workers(workers);
    sessions.open(*memory, workers, &epoch);
    mappings.open(memory->mappings, memory->header->capacity, seed ^ 0x9e6c63d0876a9a47ull);
    adjacencies.open(memory->adjacencies);
  }
  const std::unique_ptr<flow_memory> memory;
  const uint64_t seed;
  const unsigned workers;
  epochs epoch;
  std::atomic<const snapshot*> current{nullptr};
  std::atomic<const capture_set*> captures{nullptr};  // nullptr: none runs
  bool offload = false;  // may sessions be forwarded by the XDP program? Set before workers start
  // After a commit every worker goes through its share of the sessions (pipeline::revalidate_some); `going_through` counts
  // those that have yet to finish for `revalidation`, the generation.
  std::atomic<uint32_t> revalidation{0}, going_through{0};
  void begin_revalidation(uint32_t generation) {
    going_through.store(0, std::memory_order_relaxed);
    revalidation.store(generation, std::memory_order_release);
    going_through.store(workers, std::memory_order_release);
  }
  // From here on the XDP program forwards sessions of the newest generation only.
  void close_revalidation(uint32_t generation) {
    if (revalidation.load(std::memory_order_acquire) == generation) __atomic_store_n(&memory->header->generations[1], generation, __ATOMIC_RELEASE);
  }
  // Does the XDP program still go by what this generation decided? As is_current of bpf/offload.h.
  bool is_forwarded_by_program(uint32_t generation, uint32_t now_ticks) const {
    const sl_flow_header& header = *memory->header;
    if (generation == __atomic_load_n(&header.generations[0], __ATOMIC_ACQUIRE)) return true;
    return generation == __atomic_load_n(&header.generations[1], __ATOMIC_ACQUIRE) && now_ticks - header.committed_ticks <= SL_GRACE_TICKS;
  }
  session_table sessions;
  mapping_table mappings;
  adjacency_table adjacencies;
  reassembly_table fragments;
  interface_state* const interfaces;  // interface_slots of them
  std::unique_ptr<wireguard_table> wireguard;  // opened before workers start
  source_limits sources;
  std::atomic<uint64_t>* nat_port_words = nullptr;
  // Inside, time is monotonic; records carry wall time: monotonic + this.
  std::atomic<int64_t> wall_offset_ns{0};
  // Set before workers start. Thread-safe, non-blocking.
  std::function<bool(uint32_t kernel_ifindex, const sl_address&)> resolve;
  std::function<bool(const uint8_t* packet, unsigned bytes)> to_host;
  // The next packet that the host sends by way of us, into `packet`; 0: none waits. Worker 0, while there are tunnels.
  std::function<size_t(uint8_t* packet, size_t size)> from_host;
  int from_host_fd = -1;  // readable when a packet waits; -1: nobody sends
  std::atomic<bool> has_tunnels{false};
};

}  // namespace sluice
