// SPDX-License-Identifier: Apache-2.0
// mapping.cc: see mapping.h. Lock order: an inside or outside stripe (one at a time) → free_mutex_.
#include "nat/mapping.h"

#include <sys/random.h>

#include <algorithm>

#include "flow/key.h"
#include "packet/packet.h"

namespace sluice {

int nat_protocol_class(uint8_t protocol) {
  switch (protocol) {
    case protocol_tcp: return 0;
    case protocol_udp: return 1;
    case protocol_icmp: case protocol_icmpv6: return 2;
    default: return -1;
  }
}

nat_pool::nat_pool(const sl_nat_address& a, unsigned workers, uint32_t reuse, std::atomic<uint64_t>* port_words)
    : address(a), reuse_s(reuse), port_words_(port_words) {
  for (auto& space : spaces_) {
    port_space::secret secret{};
    if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) __builtin_trap();  // never fails once booted
    space = std::make_unique<port_space>(a.port_lo, a.port_hi, workers, secret, reuse);
  }
}

std::optional<uint16_t> nat_pool::allocate(unsigned worker, int protocol_class, uint64_t now_s, uint16_t like) {
  auto port = spaces_[protocol_class]->allocate(worker, now_s, protocol_class == 1 ? parity_of(like) : port_parity::any);
  if (port) steer(protocol_class, *port, true);
  return port;
}

void nat_pool::release(int protocol_class, uint16_t port, uint64_t now_s, bool clean) {
  steer(protocol_class, port, false);
  spaces_[protocol_class]->release(port, now_s, clean);
}

void nat_pool::steer(int protocol_class, uint16_t port, bool to_engine) {
  if (address.nat_slot == SL_NAT_SLOT_NONE || !port_words_) return;
  auto& word = port_words_[(address.nat_slot * SL_NAT_PROTOCOLS + static_cast<unsigned>(protocol_class)) * 1024u + port / 64u];
  if (to_engine) word.fetch_or(1ull << (port & 63), std::memory_order_release);
  else word.fetch_and(~(1ull << (port & 63)), std::memory_order_release);
}

void mapping_table::open(mapping* entries, uint32_t capacity, uint64_t seed) {
  mappings_ = entries;
  capacity_ = capacity;
  seed_ = seed;
  uint64_t heads = 64;
  while (heads < capacity) heads <<= 1;
  mask_ = heads - 1;
  inside_heads_.assign(heads, mapping_none);
  outside_heads_.assign(heads, mapping_none);
  noted_ = std::make_unique<std::atomic<uint64_t>[]>(capacity / 64 + 1);
}

uint64_t mapping_table::hash_of(const sl_address& a, uint16_t port, uint8_t protocol) const {
  uint64_t h = hash_mix(hash(a, seed_) ^ port, 0xa0761d6478bd642full ^ protocol ^ seed_);
  return h ^ h >> 32;
}

uint32_t mapping_table::take_free() {
  if (!free_.empty()) {
    uint32_t index = free_.back();
    free_.pop_back();
    return index;
  }
  return next_ < capacity_ ? next_++ : mapping_none;
}

// A count of zero means that another worker is taking it apart.
bool mapping_table::acquire(uint32_t index) {
  std::atomic<uint32_t>& references = mappings_[index].references;
  uint32_t count = references.load(std::memory_order_relaxed);
  while (count != 0 && !references.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) {}
  return count != 0;
}

uint32_t mapping_table::acquire_outside(const sl_address& outside, uint16_t port, uint8_t protocol) {
  uint64_t h = hash_of(outside, port, protocol);
  std::lock_guard guard(stripe(h));
  for (uint32_t i = outside_heads_[h & mask_]; i != mapping_none; i = mappings_[i].next_outside) {
    mapping& m = mappings_[i];
    if (m.outside_port != port || m.protocol != protocol || !equal(m.outside, outside)) continue;
    return acquire(i) ? i : mapping_none;
  }
  return mapping_none;
}

uint32_t mapping_table::create(const sl_address& inside, uint16_t inside_port, uint8_t protocol, std::shared_ptr<nat_pool> pool, uint16_t outside_port,
                               uint8_t filtering, bool independent, uint32_t rule_id) {
  uint32_t index;
  uint32_t pool_index = 0;
  {
    std::lock_guard guard(free_mutex_);
    index = take_free();
    if (index == mapping_none) return mapping_none;
    uint32_t empty = mapping_none;
    for (pool_index = 0; pool_index < pools_.size() && pools_[pool_index] != pool; ++pool_index)
      if (!pools_[pool_index]) empty = pool_index;
    if (pool_index == pools_.size()) {
      if (empty != mapping_none) { pool_index = empty; pools_[empty] = pool; }
      else { pools_.push_back(pool); pool_users_.push_back(0); }
    }
    ++pool_users_[pool_index];
  }
  mapping& m = mappings_[index];
  m.inside = inside;
  m.outside = pool->address.address;
  m.inside_port = inside_port;
  m.outside_port = outside_port;
  m.protocol = protocol;
  m.filtering = filtering;
  m.independent = independent;
  m.references.store(1, std::memory_order_relaxed);
  m.nat_rule_id = rule_id;
  m.pool = pool_index;
  m.last_peer_clean = 0;
  uint64_t outside_hash = hash_of(m.outside, outside_port, protocol), inside_hash = hash_of(inside, inside_port, protocol);
  bool taken = false;
  {
    std::lock_guard guard(stripe(outside_hash));
    uint32_t& head = outside_heads_[outside_hash & mask_];
    for (uint32_t i = head; i != mapping_none && !taken; i = mappings_[i].next_outside)
      taken = mappings_[i].outside_port == outside_port && mappings_[i].protocol == protocol && equal(mappings_[i].outside, m.outside);
    if (!taken) { m.next_outside = head; head = index; }
  }
  if (taken) {
    std::lock_guard guard(free_mutex_);
    free_.push_back(index);
    if (--pool_users_[pool_index] == 0) pools_[pool_index].reset();
    return mapping_none;
  }
  {
    std::lock_guard guard(stripe(inside_hash));
    uint32_t& head = inside_heads_[inside_hash & mask_];
    m.next_inside = head;
    head = index;
  }
  live_.fetch_add(1, std::memory_order_relaxed);
  return index;
}

void mapping_table::release(uint32_t index, uint64_t now_s, std::optional<bool> tcp_closed_cleanly) {
  mapping& m = mappings_[index];
  // Whether the port may come back early depends on the last session that used it.
  if (m.protocol == protocol_tcp && tcp_closed_cleanly) m.last_peer_clean = *tcp_closed_cleanly;
  if (m.references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  auto unlink = [&](std::vector<uint32_t>& heads, uint32_t mapping::*next, uint64_t h) {
    std::lock_guard guard(stripe(h));
    for (uint32_t* at = &heads[h & mask_]; *at != mapping_none; at = &(mappings_[*at].*next)) {
      if (*at != index) continue;
      *at = m.*next;
      return;
    }
  };
  unlink(inside_heads_, &mapping::next_inside, hash_of(m.inside, m.inside_port, m.protocol));
  unlink(outside_heads_, &mapping::next_outside, hash_of(m.outside, m.outside_port, m.protocol));
  std::lock_guard guard(free_mutex_);
  auto pool = pools_[m.pool];
  pool->release(nat_protocol_class(m.protocol), m.outside_port, now_s, m.last_peer_clean);
  if (--pool_users_[m.pool] == 0) pools_[m.pool].reset();
  free_.push_back(index);
  live_.fetch_sub(1, std::memory_order_relaxed);
}

// A reference count of zero says void until a session of ours names the mapping; `pool` says whether it may.
void mapping_table::inherit(const std::vector<std::shared_ptr<nat_pool>>& pools) {
  for (const auto& pool : pools) if (std::find(pools_.begin(), pools_.end(), pool) == pools_.end()) { pools_.push_back(pool); pool_users_.push_back(0); }
  for (uint32_t i = 0; i < capacity_; ++i) {
    mapping& m = mappings_[i];
    m.references.store(0, std::memory_order_relaxed);
    m.pool = mapping_none;
    int protocol_class = nat_protocol_class(m.protocol);
    if (protocol_class < 0 || m.outside_port == 0) continue;
    for (uint32_t p = 0; p < pools_.size(); ++p)
      if (pools_[p] && equal(pools_[p]->address.address, m.outside) && pools_[p]->space(protocol_class).contains(m.outside_port)) { m.pool = p; break; }
  }
}

bool mapping_table::inherit_reference(uint32_t index) {
  if (index >= capacity_ || mappings_[index].pool == mapping_none) return false;
  mappings_[index].references.fetch_add(1, std::memory_order_relaxed);
  next_ = std::max(next_, index + 1);
  return true;
}

void mapping_table::inherited(uint64_t now_s) {
  for (uint32_t i = 0; i < next_; ++i) {
    mapping& m = mappings_[i];
    if (m.references.load(std::memory_order_relaxed) == 0) { free_.push_back(i); continue; }
    uint32_t& outside_head = outside_heads_[hash_of(m.outside, m.outside_port, m.protocol) & mask_];
    m.next_outside = outside_head;
    outside_head = i;
    uint32_t& inside_head = inside_heads_[hash_of(m.inside, m.inside_port, m.protocol) & mask_];
    m.next_inside = inside_head;
    inside_head = i;
    ++pool_users_[m.pool];
    live_.fetch_add(1, std::memory_order_relaxed);
    int protocol_class = nat_protocol_class(m.protocol);
    pools_[m.pool]->space(protocol_class).adopt(m.outside_port, now_s);
    pools_[m.pool]->steer(protocol_class, m.outside_port, true);
  }
  for (uint32_t p = 0; p < pools_.size(); ++p) if (pool_users_[p] == 0) pools_[p].reset();
}

void mapping_table::note_peer(uint32_t index, uint32_t session, const sl_address& peer) {
  std::lock_guard guard(peers_mutex_);
  if (noted_[session / 64].fetch_or(1ull << (session % 64)) >> (session % 64) & 1) return;
  ++peers_[{index, peer}];
}

void mapping_table::forget_peer(uint32_t index, uint32_t session, const sl_address& peer) {
  const uint64_t bit = 1ull << (session % 64);
  if (!(noted_[session / 64].load() & bit)) return;
  std::lock_guard guard(peers_mutex_);
  if (!(noted_[session / 64].fetch_and(~bit) & bit)) return;
  if (auto it = peers_.find({index, peer}); it != peers_.end() && --it->second == 0) peers_.erase(it);
}

bool mapping_table::knows_peer(uint32_t index, const sl_address& peer) {
  std::lock_guard guard(peers_mutex_);
  return peers_.contains({index, peer});
}

}  // namespace sluice
