// SPDX-License-Identifier: Apache-2.0
// snapshot_builder.h: builds the flat snapshot buffer in C++, for native tests, fuzzers and benches. The product's own
// builder is src/config/snapshot-writer.ts.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "packet/bytes.h"

namespace sluice::testing {

inline sl_address ipv4(unsigned a, unsigned b, unsigned c, unsigned d) {
  uint8_t bytes[4] = {static_cast<uint8_t>(a), static_cast<uint8_t>(b), static_cast<uint8_t>(c), static_cast<uint8_t>(d)};
  sl_address out;
  set_ipv4(out, bytes);
  return out;
}

struct snapshot_builder {
  sl_settings settings{30, 7440, 240, 120, 10, 300, 30, 60, 600, 30, 120, 1000, 0, 4096, SL_ACTION_DENY, 0};
  std::vector<sl_interface> interfaces;
  std::vector<sl_interface_address> addresses;
  std::vector<sl_prefix> prefixes;
  std::vector<sl_service> services;
  std::vector<sl_rule> rules;
  std::vector<sl_nat_rule> nat_rules;
  std::vector<sl_nat_address> nat_addresses;
  std::vector<sl_nexthop> nexthops;
  std::vector<sl_route> routes;
  uint64_t generation = 1;

  sl_span prefix(const sl_address& address, uint8_t length) {
    prefixes.push_back({address, length, {}});
    return {static_cast<uint32_t>(prefixes.size() - 1), 1};
  }
  uint16_t interface(uint32_t id, uint16_t zone, const sl_address& address, uint8_t length, uint16_t vlan_id = SL_VLAN_NONE) {
    uint16_t index = static_cast<uint16_t>(interfaces.size());
    interfaces.push_back({id, 100u + index, 100u + index, vlan_id, zone, SL_ANTI_SPOOFING_STRICT, 0, 0});
    addresses.push_back({address, index, length, 0, SL_NAT_SLOT_NONE, 0});
    route(address, length, {}, index);
    return index;
  }
  void route(sl_address to, uint8_t length, const sl_address& via, uint16_t interface_index) {
    for (unsigned bit = length; bit < 128; ++bit) to.bytes[bit / 8] = static_cast<uint8_t>(to.bytes[bit / 8] & ~(0x80u >> (bit % 8)));
    nexthops.push_back({via, interface_index, SL_NEXTHOP_FORWARD, 0, 0});
    routes.push_back({{to, length, {}}, {static_cast<uint32_t>(nexthops.size() - 1), 1}});
  }
  sl_rule& rule(uint32_t id, uint8_t action) {
    sl_rule r{};
    r.from_zones = r.to_zones = ~0ull;
    r.id = id;
    r.action = action;
    rules.push_back(r);
    return rules.back();
  }
  sl_nat_rule& source_nat(uint32_t id, const std::vector<sl_address>& pool, uint8_t filtering = SL_FILTERING_ADDRESS_PORT) {
    sl_nat_rule n{};
    n.from_zones = n.to_zones = ~0ull;
    n.id = id;
    n.kind = SL_NAT_SOURCE;
    n.filtering = filtering;
    n.interface = 0xffff;
    n.pool = {static_cast<uint32_t>(nat_addresses.size()), static_cast<uint32_t>(pool.size())};
    for (const sl_address& a : pool) nat_addresses.push_back({a, 1024, 65535, SL_NAT_SLOT_NONE, 0});
    nat_rules.push_back(n);
    return nat_rules.back();
  }

  std::vector<uint8_t> build() const {
    std::vector<uint8_t> out(sizeof(sl_snapshot_header));
    sl_snapshot_header h{};
    h.magic = SL_SNAPSHOT_MAGIC;
    h.abi_version = SL_ABI_VERSION;
    h.generation = generation;
    h.settings = settings;
    auto section = [&](const auto& entries) {
      out.resize((out.size() + 7) & ~size_t{7});
      sl_section s{static_cast<uint32_t>(out.size()), static_cast<uint32_t>(entries.size())};
      size_t bytes = entries.size() * sizeof(entries[0]);
      out.resize(out.size() + bytes);
      if (bytes) std::memcpy(out.data() + s.offset, entries.data(), bytes);
      return s;
    };
    h.interfaces = section(interfaces);
    h.addresses = section(addresses);
    h.prefixes = section(prefixes);
    h.services = section(services);
    h.rules = section(rules);
    h.nat_rules = section(nat_rules);
    h.nat_addresses = section(nat_addresses);
    h.nexthops = section(nexthops);
    h.routes = section(routes);
    h.bytes = static_cast<uint32_t>(out.size());
    std::memcpy(out.data(), &h, sizeof h);
    return out;
  }
};

}  // namespace sluice::testing
