// SPDX-License-Identifier: Apache-2.0
// snapshot_builder.h: a snapshot's flat buffer from C++, for fuzzers and unit tests, which have no control plane beside them.
// sample() is the network of test/cases/configs/nat.yaml in small, with a VLAN: the frames of the corpus mean something in it.
#pragma once
#include <arpa/inet.h>

#include <cstring>
#include <string>
#include <vector>

#include "packet/bytes.h"

namespace sluice::testing {

inline sl_address address_of(const char* text) {
  sl_address a{};
  if (std::strchr(text, ':')) {
    inet_pton(AF_INET6, text, a.bytes);
  } else {
    uint8_t four[4];
    inet_pton(AF_INET, text, four);
    set_ipv4(a, four);
  }
  return a;
}

struct snapshot_builder {
  sl_settings settings{30, 7440, 240, 120, 10, 300, 120, 60, 300, 60, 120, 1000, 0, 64, SL_ACTION_DENY, 0};
  uint64_t generation = 1;
  std::vector<sl_interface> interfaces;
  std::vector<sl_interface_address> addresses;
  std::vector<sl_prefix> prefixes;
  std::vector<sl_service> services;
  std::vector<sl_rule> rules;
  std::vector<sl_nat_rule> nat_rules;
  std::vector<sl_nat_address> nat_addresses;
  std::vector<sl_nexthop> nexthops;
  std::vector<sl_route> routes;
  std::vector<sl_wireguard> wireguards;
  std::vector<sl_wireguard_peer> wireguard_peers;

  void interface(uint32_t id, uint32_t ifindex, uint16_t zone, uint16_t vlan_id = SL_VLAN_NONE, uint16_t mss_clamp = 0) {
    interfaces.push_back({id, ifindex, ifindex, vlan_id, zone, SL_ANTI_SPOOFING_STRICT, mss_clamp, 0, SL_INTERFACE_PORT, 0});
  }
  // An interface's address, and the connected route to its subnet.
  void address(uint16_t interface_index, const char* text, uint8_t length, uint16_t nat_slot = SL_NAT_SLOT_NONE, uint16_t flags = 0) {
    addresses.push_back({address_of(text), interface_index, length, 0, nat_slot, flags});
    if (!(flags & SL_LOCAL_ENGINE)) route(text, length, "::", interface_index);
  }
  void route(const char* to, uint8_t length, const char* via, uint16_t interface_index, uint8_t kind = SL_NEXTHOP_FORWARD) {
    nexthops.push_back({address_of(via), interface_index, kind, 0, 0});
    routes.push_back({{cut(address_of(to), length), length, {}}, {static_cast<uint32_t>(nexthops.size() - 1), 1}});
  }
  sl_span prefix(const char* text, uint8_t length) {
    prefixes.push_back({cut(address_of(text), length), length, {}});
    return {static_cast<uint32_t>(prefixes.size() - 1), 1};
  }
  sl_span service(uint16_t protocol, uint16_t lo, uint16_t hi) {
    services.push_back({protocol, 0, 65535, lo, hi, 0});
    return {static_cast<uint32_t>(services.size() - 1), 1};
  }
  sl_rule& rule(uint32_t id, uint8_t action, uint64_t from = ~0ull, uint64_t to = ~0ull) {
    rules.push_back({from, to, id, action, SL_LOG_START | SL_LOG_END, 0, {}, {}, {}, 0, 0});
    return rules.back();
  }
  sl_nat_rule& nat(uint32_t id, uint8_t kind, uint64_t from = ~0ull, uint64_t to = ~0ull) {
    sl_nat_rule n{};
    n.from_zones = from;
    n.to_zones = to;
    n.id = id;
    n.kind = kind;
    n.interface = 0xffff;
    nat_rules.push_back(n);
    return nat_rules.back();
  }
  sl_span pool(const char* text, uint16_t lo, uint16_t hi, uint16_t nat_slot = SL_NAT_SLOT_NONE) {
    nat_addresses.push_back({address_of(text), lo, hi, nat_slot, 0});
    return {static_cast<uint32_t>(nat_addresses.size() - 1), 1};
  }

  // A WireGuard interface, and peers of it: those of one stand together, so they are added before the next interface is. Returns its index.
  uint16_t wireguard(uint32_t id, uint16_t zone, uint16_t listen_port, uint32_t mtu_bytes = 0) {
    interfaces.push_back({id, 0, 0, SL_VLAN_NONE, zone, SL_ANTI_SPOOFING_STRICT, 0, mtu_bytes, SL_INTERFACE_WIREGUARD, 0});
    const auto index = static_cast<uint16_t>(interfaces.size() - 1);
    wireguards.push_back({index, listen_port, {static_cast<uint32_t>(wireguard_peers.size()), 0}});
    return index;
  }
  struct network { const char* address; uint8_t length; };
  void peer(uint32_t id, std::initializer_list<network> allowed_ips) {
    const auto first = static_cast<uint32_t>(prefixes.size());
    for (const network& n : allowed_ips) prefix(n.address, n.length);
    wireguard_peers.push_back({id, 0, {first, static_cast<uint32_t>(allowed_ips.size())}});
    ++wireguards.back().peers.count;
  }

  std::vector<uint8_t> build() const {
    sl_snapshot_header h{};
    h.magic = SL_SNAPSHOT_MAGIC;
    h.abi_version = SL_ABI_VERSION;
    h.generation = generation;
    h.settings = settings;
    std::vector<uint8_t> out(sizeof h);
    auto lay = [&](sl_section& section, const auto& entries) {
      out.resize((out.size() + 7) / 8 * 8);
      section = {static_cast<uint32_t>(out.size()), static_cast<uint32_t>(entries.size())};
      const size_t at = out.size(), bytes = entries.size() * sizeof entries[0];
      out.resize(at + bytes);
      if (bytes) std::memcpy(out.data() + at, entries.data(), bytes);
    };
    lay(h.interfaces, interfaces);
    lay(h.addresses, addresses);
    lay(h.prefixes, prefixes);
    lay(h.services, services);
    lay(h.rules, rules);
    lay(h.nat_rules, nat_rules);
    lay(h.nat_addresses, nat_addresses);
    lay(h.nexthops, nexthops);
    lay(h.routes, routes);
    lay(h.wireguards, wireguards);
    lay(h.wireguard_peers, wireguard_peers);
    h.bytes = static_cast<uint32_t>(out.size());
    std::memcpy(out.data(), &h, sizeof h);
    return out;
  }

  static sl_address cut(sl_address a, unsigned length) {
    for (unsigned bit = length; bit < 128; ++bit) a.bytes[bit / 8] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
    return a;
  }
};

// Interfaces: 0 untrust, 1 trust, 2 dmz, 3 guests (VLAN 30 beside trust); zones 0, 1, 2, 3.
inline snapshot_builder sample() {
  snapshot_builder b;
  b.interface(1, 2, 0);
  b.interface(2, 3, 1, SL_VLAN_NONE, 1);
  b.interface(3, 4, 2);
  b.interface(4, 3, 3, 30);
  b.interfaces[2].mtu_bytes = 1280;
  b.address(0, "203.0.113.4", 120, 0);
  b.address(0, "2001:db8:1::4", 64);
  b.address(1, "10.0.1.4", 120);
  b.address(1, "2001:db8:2::4", 64);
  b.address(2, "10.0.2.4", 120);
  b.address(2, "2001:db8:3::4", 64);
  b.address(3, "10.0.30.4", 120);
  for (const char* own : {"203.0.113.5", "203.0.113.6", "203.0.113.9", "2001:db8:1::66", "2001:db8:1::9"}) b.address(0, own, 128, SL_NAT_SLOT_NONE, SL_LOCAL_ENGINE);
  b.route("0.0.0.0", 96, "203.0.113.1", 0);
  b.route("::", 0, "2001:db8:1::1", 0);
  b.route("192.0.2.128", 121, "::", 0, SL_NEXTHOP_REJECT);
  b.rule(1, SL_ACTION_DENY).services = b.service(6, 23, 23);
  b.rule(2, SL_ACTION_REJECT, 2).services = b.service(6, 25, 25);
  b.rule(3, SL_ACTION_ALLOW, 0b1010, 0b0101);
  b.rule(4, SL_ACTION_ALLOW, 0b0001, 0b0100).sessions_max = 100;
  b.rule(5, SL_ACTION_ALLOW, 0b0111, 0b0010).services = b.service(17, 4000, 4999);
  b.rule(6, SL_ACTION_ALLOW, 0b0100, 0b0001);
  sl_nat_rule& egress = b.nat(11, SL_NAT_SOURCE, 0b0010, 0b0001);
  egress.pool = b.pool("203.0.113.5", 1024, 65535);
  egress.flags = SL_NAT_RULE_IPV4;
  egress.filtering = SL_FILTERING_ADDRESS;
  sl_nat_rule& guests = b.nat(12, SL_NAT_SOURCE, 0b1000, 0b0001);
  guests.pool = b.pool("203.0.113.4", 1024, 1031, 0);
  guests.flags = SL_NAT_RULE_IPV4;
  sl_nat_rule& egress6 = b.nat(13, SL_NAT_SOURCE, 0b0010, 0b0001);
  egress6.pool = b.pool("2001:db8:1::66", 1024, 65535);
  egress6.flags = SL_NAT_RULE_IPV6;
  egress6.filtering = SL_FILTERING_ENDPOINT;
  sl_nat_rule& publish = b.nat(14, SL_NAT_DESTINATION, 0b0011);
  publish.destinations = b.prefix("203.0.113.6", 128);
  publish.services = b.service(6, 8443, 8443);
  publish.to_address = address_of("10.0.2.10");
  publish.to_port = 443;
  sl_nat_rule& mail = b.nat(15, SL_NAT_STATIC, 0b0001);
  mail.destinations = b.prefix("203.0.113.9", 128);
  mail.to_address = address_of("10.0.2.20");
  mail.to_prefix_length = 128;
  sl_nat_rule& mail6 = b.nat(16, SL_NAT_STATIC, 0b0001);
  mail6.destinations = b.prefix("2001:db8:1::9", 128);
  mail6.to_address = address_of("2001:db8:3::20");
  mail6.to_prefix_length = 128;
  return b;
}

}  // namespace sluice::testing
