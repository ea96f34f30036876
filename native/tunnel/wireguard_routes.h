// SPDX-License-Identifier: Apache-2.0
// wireguard_routes.h: cryptokey routing of one snapshot: which peer of a WireGuard interface has an address among its allowed IPs, and which
// interface listens on a UDP port. Made by wireguard_table::apply(), immutable, owned by the snapshot, read by all workers.
// Bounds: one binary search a lookup (route/lpm.h), nothing is allocated. Of equal allowed IPs of an interface the first listed peer wins.
#pragma once
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"
#include "route/lpm.h"

namespace sluice {

inline constexpr uint32_t wireguard_peer_none = UINT32_MAX;

class wireguard_routes {
 public:
  struct tunnel {
    uint32_t interface_id = 0;
    uint16_t interface = 0;             // index into the snapshot's interfaces
    uint16_t listen_port = 0;
    std::unique_ptr<const lpm> allowed; // all peers' allowed IPs
    std::vector<uint32_t> slots;        // prefix of `allowed` → slot in wireguard_table

    // The slot of the peer that `address` belongs to, or wireguard_peer_none. Out: whom to send to; in: compare with who sent it.
    uint32_t peer_of(const sl_address& address) const {
      const uint32_t prefix = allowed->lookup(address);
      return prefix == lpm::no_route ? wireguard_peer_none : slots[prefix];
    }
  };

  bool empty() const { return tunnels_.empty(); }
  // Which interface listens there, nullptr: none. Port in host byte order.
  const tunnel* listening(uint16_t port) const { return find(by_port_, port); }
  // By index into the snapshot's interfaces; nullptr: it is no WireGuard interface.
  const tunnel* of_interface(uint16_t interface) const { return find(by_interface_, interface); }
  const std::vector<tunnel>& tunnels() const { return tunnels_; }

 private:
  friend class wireguard_table;
  using places = std::unordered_map<uint16_t, uint16_t>;  // into tunnels_: SL_WIREGUARDS_MAX at most
  const tunnel* find(const places& by, uint16_t key) const {
    const auto at = by.find(key);
    return at == by.end() ? nullptr : &tunnels_[at->second];
  }

  std::vector<tunnel> tunnels_;
  places by_port_, by_interface_;
};

}  // namespace sluice
