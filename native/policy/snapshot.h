// SPDX-License-Identifier: Apache-2.0
// snapshot.h: the immutable forwarding state, compiled from the flat buffer that the control plane built. Made by one
// thread, swapped in by one pointer, read by all workers, freed when each has passed a quiescent point.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"
#include "flow/address_hash.h"
#include "packet/bytes.h"
#include "policy/classifier.h"
#include "route/lpm.h"
#include "tunnel/wireguard_routes.h"

namespace sluice {

inline constexpr uint16_t index_none = 0xffff;

// What a rule counts; lives as long as the engine, shared by the snapshots that hold a rule of this id.
struct rule_counter { std::atomic<uint64_t> hits{0}; std::atomic<int64_t> sessions{0}; };

// Which of the source NAT rules' addresses, with their port spaces: see nat/pool.h.
class nat_pool;

// Which interface takes a port's frames.
struct port_interfaces {
  uint16_t untagged = index_none;                      // interface slot
  std::vector<std::pair<uint16_t, uint16_t>> tagged;   // VLAN id, interface slot
  uint16_t find(uint16_t vlan_id) const {
    if (vlan_id == SL_VLAN_NONE) return untagged;
    for (auto [id, slot] : tagged) if (id == vlan_id) return slot;
    return index_none;
  }
};

struct snapshot {
  uint64_t generation = 0;
  sl_settings settings{};
  std::vector<sl_interface> interfaces;
  std::vector<uint8_t> interface_slots;      // interface index → slot
  std::vector<uint16_t> slot_interfaces;     // slot → interface index, index_none
  std::vector<port_interfaces> ports;        // by port slot
  std::vector<sl_interface_address> addresses;
  std::unordered_map<sl_address, uint16_t, address_hash, address_equal> local;  // address → index into addresses
  std::unordered_map<sl_address, bool, address_hash, address_equal> broadcasts; // directed broadcasts of connected subnets
  std::vector<sl_prefix> prefixes;
  std::vector<sl_service> services;
  std::vector<sl_rule> rules;
  std::vector<std::shared_ptr<rule_counter>> rule_counters;  // by rule index
  std::unordered_map<uint32_t, std::shared_ptr<rule_counter>> counters_by_id;
  std::vector<sl_nat_rule> nat_rules;
  std::vector<uint32_t> source_rules, destination_rules, static_rules;  // classifier index → nat_rules index
  std::unordered_map<uint32_t, uint8_t> filterings;  // of source rules, by id: of the mappings that they made
  std::vector<sl_nat_address> nat_addresses;
  std::vector<std::shared_ptr<nat_pool>> pools;  // parallel to nat_addresses
  std::vector<sl_nexthop> nexthops;
  std::vector<sl_route> routes;
  std::vector<sl_wireguard> wireguards;
  std::vector<sl_wireguard_peer> wireguard_peers;
  std::unique_ptr<const classifier> rule_classifier, source_classifier, destination_classifier, static_in_classifier, static_out_classifier;
  std::unique_ptr<const lpm> route_table;
  std::vector<uint64_t> engine_ports;        // a bit a UDP port of a tunnel, SL_ENGINE_PORTS_WORDS; empty: there is no tunnel
  std::unique_ptr<const wireguard_routes> wireguard;  // bound by the engine; nullptr: there is no tunnel

  const sl_interface* interface_of_slot(unsigned slot) const {
    uint16_t index = slot_interfaces[slot];
    return index == index_none ? nullptr : &interfaces[index];
  }
  // Of a rule that is gone the strictest, until another one has its sessions.
  uint8_t filtering_of(uint32_t nat_rule_id) const {
    const auto it = filterings.find(nat_rule_id);
    return it == filterings.end() ? static_cast<uint8_t>(SL_FILTERING_ADDRESS_PORT) : it->second;
  }
  bool is_tunnel(uint16_t interface) const { return interfaces[interface].kind != SL_INTERFACE_PORT; }
  bool is_engine_port(uint16_t port) const { return engine_ports[port / 64] >> (port & 63) & 1; }
};

// Validates every offset, span and index of the buffer and compiles it. nullptr and a text that names the section and
// entry when it is refused. slots, pools, counters and tunnels are bound afterwards by the engine. What did not change since
// `previous` is shared with it; either may be freed first. Calls that share must come from one thread.
std::unique_ptr<snapshot> compile_snapshot(const uint8_t* buffer, size_t bytes, std::string* error, const snapshot* previous = nullptr);

}  // namespace sluice
