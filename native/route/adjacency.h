// SPDX-License-Identifier: Apache-2.0
// adjacency.h: interfaces as they are right now, and next hops with their link addresses.
//
// The netlink thread writes link state and link addresses; workers read them with relaxed loads on every packet. Next
// hops are created by slow paths under a mutex. A session names a next hop by an id that carries an incarnation: a next
// hop that was recycled is noticed, and the session is routed again.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"
#include "flow/address_hash.h"
#include "packet/bytes.h"

namespace sluice {

inline constexpr unsigned interface_slots = SL_INTERFACES_MAX;
inline constexpr uint8_t port_slot_none = 0xff;
inline constexpr uint8_t port_slot_tunnel = 0xfe;  // no netdev: what leaves by it is encrypted first (native/tunnel_out.cc)
static_assert(SL_PORTS_MAX <= port_slot_tunnel);
inline constexpr uint32_t adjacencies_max = SL_ADJACENCIES_MAX;
inline constexpr uint32_t adjacency_none = UINT32_MAX;

// A logical interface's live state. Slots are kept by interface id over snapshots.
struct alignas(64) interface_state {
  std::atomic<uint64_t> mac{0};          // as six bytes in memory order, low 48 bits
  std::atomic<uint32_t> mtu_bytes{0};
  std::atomic<bool> up{false};
  std::atomic<uint8_t> port_slot{port_slot_none};
  std::atomic<uint16_t> vlan_id{SL_VLAN_NONE};
  std::atomic<uint32_t> id{0};           // 0: slot is free
  std::atomic<uint32_t> kernel_ifindex{0};
  std::atomic<uint32_t> ifindex{0};
  std::atomic<uint32_t> mtu_limit_bytes{0};  // from the configuration, 0: none
  std::atomic<uint8_t> offload{0};       // 1: the netdev takes frames that XDP redirects
};
static_assert(sizeof(interface_state) == sizeof(sl_interface_state));
static_assert(offsetof(interface_state, mtu_bytes) == offsetof(sl_interface_state, mtu_bytes) && offsetof(interface_state, up) == offsetof(sl_interface_state, up) &&
              offsetof(interface_state, port_slot) == offsetof(sl_interface_state, port_slot) && offsetof(interface_state, vlan_id) == offsetof(sl_interface_state, vlan_id) &&
              offsetof(interface_state, ifindex) == offsetof(sl_interface_state, ifindex) && offsetof(interface_state, offload) == offsetof(sl_interface_state, offload));

struct alignas(64) adjacency {
  static constexpr uint64_t resolved_bit = SL_ADJACENCY_RESOLVED;
  static constexpr uint64_t failed_bit = SL_ADJACENCY_FAILED;
  std::atomic<uint64_t> mac{0};          // low 48 bits; resolved_bit: usable; failed_bit: nobody answered
  std::atomic<uint32_t> used_ticks{0};   // last packet, in ticks; written at most once a tick
  std::atomic<uint32_t> asked_ticks{0};  // last time resolution was asked for
  std::atomic<uint32_t> waiting{0};      // packets held
  std::atomic<uint16_t> incarnation{0};
  uint16_t interface_slot = 0;
  sl_address address{};
  std::atomic<uint8_t> in_use{0};        // findable by its address
};
static_assert(sizeof(adjacency) == sizeof(sl_adjacency));
static_assert(offsetof(adjacency, used_ticks) == offsetof(sl_adjacency, used_ticks) && offsetof(adjacency, incarnation) == offsetof(sl_adjacency, incarnation) &&
              offsetof(adjacency, interface_slot) == offsetof(sl_adjacency, interface_slot) && offsetof(adjacency, address) == offsetof(sl_adjacency, address) &&
              offsetof(adjacency, in_use) == offsetof(sl_adjacency, in_use));

// A next hop through a tunnel is a peer: its address is the peer's id, and the place of the link address holds the peer's slot in
// wireguard_table. Whether a session with it is there is asked of the peer itself.
inline sl_address tunnel_next_hop(uint32_t peer_id) {
  sl_address a{};
  store32(a.bytes + 12, peer_id);
  return a;
}
inline uint32_t tunnel_peer_id(const sl_address& next_hop) { return load32(next_hop.bytes + 12); }

class adjacency_table {
 public:
  // entries: adjacencies_max of them, zeroed, or as an engine before us left them: those in use are taken over.
  void open(adjacency* entries);

  // The id of a next hop, created if new; adjacency_none when the table is full of next hops in use.
  uint32_t find_or_create(unsigned interface_slot, const sl_address& address, uint32_t now_ticks, bool* created);
  // The entry, or nullptr when the id's next hop was recycled.
  adjacency* get(uint32_t id) {
    adjacency& a = entries_[id & 0xffff];
    return a.incarnation.load(std::memory_order_relaxed) == id >> 16 ? &a : nullptr;
  }
  // Netlink: the link address of (kernel netdev, address) became known, or is known to be unreachable.
  // Returns whether a next hop of ours changed.
  bool update(const interface_state* interfaces, uint32_t kernel_ifindex, const sl_address& address, const uint8_t* mac, bool usable, bool failed);
  // A next hop through a tunnel: where its peer stands.
  void set_peer_slot(uint32_t id, uint32_t peer_slot) { if (adjacency* a = get(id)) a->mac.store(peer_slot, std::memory_order_release); }
  // What packets wait for may have come: workers look.
  void touch() { version_.fetch_add(1, std::memory_order_acq_rel); }
  // Next hops used since `since_ticks`: their neighbours are kept fresh. visit(interface_slot, address).
  template <class Visit> void each(Visit&& visit);
  // Grows with each change, so that workers look at what they hold.
  uint32_t version() const { return version_.load(std::memory_order_acquire); }
  // An interface slot was given to another interface: its next hops are void.
  void forget_interface(unsigned interface_slot);

 private:
  struct key { sl_address address; uint32_t interface_slot; };
  struct key_hash { size_t operator()(const key& k) const { return hash(k.address, address_hash_secret() + k.interface_slot); } };
  struct key_equal { bool operator()(const key& a, const key& b) const { return a.interface_slot == b.interface_slot && equal(a.address, b.address); } };
  static constexpr uint32_t recycle_looks_max = 256;
  uint32_t recycle(uint32_t now_ticks);

  adjacency* entries_ = nullptr;
  std::unordered_map<key, uint32_t, key_hash, key_equal> by_key_;
  uint32_t next_ = 0;              // entries from here on were never used
  uint32_t recycle_at_ = 0;        // where recycle() looks next
  std::vector<uint32_t> free_;     // entries below next_ that an engine before us left unused
  std::atomic<uint32_t> version_{1};
  std::mutex mutex_;
};

template <class Visit>
void adjacency_table::each(Visit&& visit) {
  std::lock_guard guard(mutex_);
  for (auto& [k, index] : by_key_) visit(entries_[index]);
}

}  // namespace sluice
