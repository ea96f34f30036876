// SPDX-License-Identifier: Apache-2.0
// mapping.h: NAT bindings (RFC 4787 section 4.1): inside address and port ↔ outside address and port, shared by all
// sessions of that inside endpoint. Slow path only; buckets are guarded by striped locks. Bounds: one mapping a session
// at most, so the table has the session table's capacity; memory 64 + 16 bytes a mapping.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "flow/address_hash.h"
#include "flow/memory.h"
#include "nat/mapping_entry.h"
#include "nat/port_allocator.h"
#include "packet/bytes.h"
#include "policy/snapshot.h"

namespace sluice {

// Index of a protocol's port space: TCP, UDP, ICMP queries; -1: the protocol has no ports.
int nat_protocol_class(uint8_t protocol);

// One outside address with the ports of its protocols. Kept while a snapshot or a mapping names it.
class nat_pool {
 public:
  nat_pool(const sl_nat_address& address, unsigned workers, uint32_t reuse_s, std::atomic<uint64_t>* port_words);
  const sl_nat_address address;
  const uint32_t reuse_s;
  port_space& space(int protocol_class) { return *spaces_[protocol_class]; }
  std::optional<uint16_t> allocate(unsigned worker, int protocol_class, uint64_t now_s, uint16_t like);
  void release(int protocol_class, uint16_t port, uint64_t now_s, bool clean);
  // Gives back a port that a mapping of another pool with this address has (a commit changed the pool): it rests here.
  void rest(int protocol_class, uint16_t port, uint64_t now_s) { spaces_[protocol_class]->release(port, now_s, false); }
  // Steering: packets to this port of a shared local address go to the engine, or no more.
  void steer(int protocol_class, uint16_t port, bool to_engine);

 private:
  std::unique_ptr<port_space> spaces_[SL_NAT_PROTOCOLS];
  std::atomic<uint64_t>* port_words_;
};

class mapping_table {
 public:
  // entries: `capacity` of them, in flow memory; zeroed, or as an engine before us left them.
  void open(mapping* entries, uint32_t capacity, uint64_t seed);
  // After open() over memory of an engine before us, in this order, before anybody else uses the table: inherit() finds the
  // pools that the mappings' addresses belong to; inherit_reference() for each session that names one (false: it is void);
  // inherited() links them and frees the rest.
  void inherit(const std::vector<std::shared_ptr<nat_pool>>& pools);
  bool inherit_reference(uint32_t index);
  // The session that names this one as well cannot go on.
  void disinherit_reference(uint32_t index) { mappings_[index].references.fetch_sub(1, std::memory_order_relaxed); }
  void inherited(uint64_t now_s);
  // visit(nat_slot, protocol class, port) for each mapping on an address that is shared with the host.
  template <class Visit> void each_steered(Visit&& visit);
  // The mapping of an inside endpoint, with a reference taken; mapping_none if there is none to share.
  // wanted: whether this mapping's outside address will do.
  template <class Wanted> uint32_t acquire_inside(const sl_address& inside, uint16_t port, uint8_t protocol, Wanted&& wanted);
  // The mapping of an outside endpoint, with a reference taken (release() it), or mapping_none.
  uint32_t acquire_outside(const sl_address& outside, uint16_t port, uint8_t protocol);
  // A new mapping on a port of `pool` that the caller has allocated; one reference. mapping_none: table full or the
  // outside endpoint is taken: the caller gives the port back.
  uint32_t create(const sl_address& inside, uint16_t inside_port, uint8_t protocol, std::shared_ptr<nat_pool> pool, uint16_t outside_port,
                  uint8_t filtering, bool independent, uint32_t rule_id);
  // One more reference, unless the last one is gone.
  bool acquire(uint32_t index);
  // Drops a reference; the last one frees the port. tcp_closed_cleanly: how the session ended that held it; nothing: it was no session's.
  void release(uint32_t index, uint64_t now_s, std::optional<bool> tcp_closed_cleanly = {});
  // A commit changed filterings: filtering_of(NAT rule's id) for each mapping. Sessions of before and after it may be judged meanwhile.
  template <class FilteringOf> void refilter(FilteringOf&& filtering_of);
  // Another rule has a mapping's sessions now.
  void hand_over(uint32_t index, uint32_t rule_id, uint8_t filtering) { mappings_[index].nat_rule_id.store(rule_id); mappings_[index].filtering.store(filtering); }
  // Of a session's word for it, which may be old: 0 for none.
  uint32_t rule_of(uint32_t index) const { return index < capacity_ ? mappings_[index].nat_rule_id.load(std::memory_order_relaxed) : 0; }
  // The destination NAT rule of a session; its word for a mapping may be old, when it is not the caller's.
  uint32_t destination_rule_of(const session& s) const {
    const session_mappings held = mappings_of(s);
    return held.originator != mapping_none && held.responder != mapping_none ? rule_of(held.responder) : s.nat_destination_id;
  }
  const mapping& at(uint32_t index) const { return mappings_[index]; }
  uint32_t live() const { return live_.load(std::memory_order_relaxed); }

  // Address-dependent filtering (RFC 4787 R8): which peers has the inside sent to? A session notes its peer once, however often it says
  // so, and whoever ends it forgets it, if it was noted.
  void note_peer(uint32_t index, uint32_t session, const sl_address& peer);
  void forget_peer(uint32_t index, uint32_t session, const sl_address& peer);
  bool knows_peer(uint32_t index, const sl_address& peer);

 private:
  static constexpr unsigned stripes = 256;
  uint64_t hash_of(const sl_address& a, uint16_t port, uint8_t protocol) const;
  std::mutex& stripe(uint64_t h) { return locks_[h & (stripes - 1)]; }
  uint32_t take_free();

  mapping* mappings_ = nullptr;
  std::vector<uint32_t> inside_heads_, outside_heads_;
  uint64_t mask_ = 0, seed_ = 0;
  uint32_t capacity_ = 0, next_ = 0;
  std::vector<uint32_t> free_;
  std::mutex free_mutex_;
  std::vector<std::shared_ptr<nat_pool>> pools_;   // by mapping.pool; guarded by free_mutex_
  std::vector<uint32_t> pool_users_;
  std::mutex locks_[stripes];
  std::atomic<uint32_t> live_{0};
  struct peer_key { uint32_t index; sl_address peer; };
  struct peer_hash { size_t operator()(const peer_key& k) const { return hash(k.peer, address_hash_secret() + k.index * 0x9e3779b97f4a7c15ull); } };
  struct peer_equal { bool operator()(const peer_key& a, const peer_key& b) const { return a.index == b.index && equal(a.peer, b.peer); } };
  std::unordered_map<peer_key, uint32_t, peer_hash, peer_equal> peers_;
  std::mutex peers_mutex_;
  std::unique_ptr<std::atomic<uint64_t>[]> noted_;  // a bit a session: its peer is among peers_. Changed under peers_mutex_
};

template <class FilteringOf>
void mapping_table::refilter(FilteringOf&& filtering_of) {
  uint32_t end;
  { std::lock_guard guard(free_mutex_); end = next_; }
  for (uint32_t i = 0; i < end; ++i) {
    mapping& m = mappings_[i];
    if (m.references.load(std::memory_order_relaxed) == 0) continue;
    const uint8_t filtering = filtering_of(m.nat_rule_id.load(std::memory_order_relaxed));
    if (m.filtering.load(std::memory_order_relaxed) != filtering) m.filtering.store(filtering);
  }
}

template <class Visit>
void mapping_table::each_steered(Visit&& visit) {
  for (uint32_t i = 0; i < next_; ++i) {
    const mapping& m = mappings_[i];
    if (m.references.load(std::memory_order_relaxed) == 0 || m.pool >= pools_.size() || !pools_[m.pool]) continue;
    if (uint16_t nat_slot = pools_[m.pool]->address.nat_slot; nat_slot != SL_NAT_SLOT_NONE) visit(nat_slot, nat_protocol_class(m.protocol), m.outside_port);
  }
}

template <class Wanted>
uint32_t mapping_table::acquire_inside(const sl_address& inside, uint16_t port, uint8_t protocol, Wanted&& wanted) {
  uint64_t h = hash_of(inside, port, protocol);
  std::lock_guard guard(stripe(h));
  for (uint32_t i = inside_heads_[h & mask_]; i != mapping_none; i = mappings_[i].next_inside) {
    mapping& m = mappings_[i];
    if (m.inside_port != port || m.protocol != protocol || !equal(m.inside, inside) || !m.independent || !wanted(m)) continue;
    if (acquire(i)) return i;
  }
  return mapping_none;
}

}  // namespace sluice
