// SPDX-License-Identifier: Apache-2.0
// snapshot_test.cc: the snapshot's validation - the sample is taken; each fault is refused with a text that names it.
#include <functional>

#include "packets.h"
#include "policy/snapshot.h"

namespace sluice {
namespace {

using namespace testing;

std::string refusal(const std::vector<uint8_t>& buffer) {
  std::string error;
  return compile_snapshot(buffer.data(), buffer.size(), &error) ? "" : error;
}

TEST_CASE("snapshot: the sample is taken, and says what it holds") {
  std::string error;
  std::vector<uint8_t> buffer = sample().build();
  auto s = compile_snapshot(buffer.data(), buffer.size(), &error);
  REQUIRE_MESSAGE(s != nullptr, error);
  CHECK(s->interfaces.size() == 4);
  CHECK(s->local.size() == 12);
  CHECK(s->broadcasts.size() == 8);
  CHECK(s->source_rules.size() == 3);
  CHECK(s->destination_rules.size() == 1);
  CHECK(s->static_rules.size() == 2);
  CHECK(s->route_table->lookup(address_of("198.51.100.10")) != lpm::no_route);
}

TEST_CASE("snapshot: the broadcasts of subnets of every length") {
  const uint32_t own = 0xcb007105;  // 203.0.113.5
  auto address = [](uint32_t ipv4) {
    sl_address a = address_of("0.0.0.0");
    store32(a.bytes + 12, ipv4);
    return a;
  };
  for (uint8_t length = 96; length <= 128; ++length) {  // /0 on the wire is 96 here: a shift by 32 bits once
    CAPTURE(length);
    snapshot_builder b = sample();
    b.addresses = {b.addresses[0]};
    b.addresses[0].address = address(own);
    b.addresses[0].prefix_length = length;
    std::string error;
    std::vector<uint8_t> buffer = b.build();
    auto s = compile_snapshot(buffer.data(), buffer.size(), &error);
    REQUIRE_MESSAGE(s != nullptr, error);
    uint32_t hosts = static_cast<uint32_t>((1ull << (128 - length)) - 1);
    CHECK(s->broadcasts.size() == (length > 126 ? 0 : 2));
    CHECK(s->broadcasts.count(address(own | hosts)) == (length <= 126));
    CHECK(s->broadcasts.count(address(own & ~hosts)) == (length <= 126));
  }
}

TEST_CASE("snapshot: made from the one before, it answers as one made from nothing") {
  snapshot_builder b = sample();
  std::string error;
  auto make = [&](const snapshot* previous) {
    std::vector<uint8_t> buffer = b.build();
    auto made = compile_snapshot(buffer.data(), buffer.size(), &error, previous);
    REQUIRE_MESSAGE(made != nullptr, error);
    return made;
  };
  auto same = [](const snapshot& s, const snapshot& fresh) {
    CHECK(s.source_rules == fresh.source_rules);
    CHECK(s.destination_rules == fresh.destination_rules);
    CHECK(s.static_rules == fresh.static_rules);
    unsigned different = 0, found = 0;
    const char* const addresses[] = {"10.0.1.10", "10.0.2.10", "10.0.2.20", "203.0.113.4", "203.0.113.6", "203.0.113.10", "198.51.100.10", "2001:db8:2::10", "2001:db8:1::10"};
    for (const char* src : addresses)
      for (const char* dst : addresses)
        for (uint16_t port : {22, 53, 80, 443, 8443})
          for (uint8_t zones = 0; zones < 16; ++zones) {
            classify_key k{address_of(src), address_of(dst), 40000, port, 6, static_cast<uint8_t>(zones / 4), static_cast<uint8_t>(zones % 4)};
            for (auto which : {&snapshot::rule_classifier, &snapshot::source_classifier, &snapshot::destination_classifier, &snapshot::static_in_classifier, &snapshot::static_out_classifier}) {
              different += (s.*which)->match(k) != (fresh.*which)->match(k);
              found += (fresh.*which)->match(k) != classifier::no_rule;
            }
          }
    CHECK(different == 0);
    CHECK(found > 0);
  };
  for (uint32_t i = 0; i < 40; ++i) {  // enough rules that one more is an update
    sl_span service = b.service(6, static_cast<uint16_t>(2000 + i), static_cast<uint16_t>(2000 + i));
    b.rule(1000 + i, SL_ACTION_ALLOW).services = service;
  }
  auto current = make(nullptr);
  auto step = [&] {
    auto next = make(current.get());
    same(*next, *make(nullptr));
    current = std::move(next);  // the one before is gone
    same(*current, *make(nullptr));
  };
  sl_span web = b.service(6, 80, 80), host = b.prefix("10.0.2.10", 128);
  sl_rule added = b.rules[0];
  added.id = 77;
  added.services = web;
  added.destinations = host;
  b.rules.insert(b.rules.begin(), added);
  step();
  CHECK(current->rule_classifier->updates() == 1);
  std::swap(b.rules[0], b.rules[3]);
  step();
  b.rules.erase(b.rules.begin() + 1);
  step();
  b.nat_rules.erase(b.nat_rules.begin());
  step();
  b.nat_rules.clear();
  step();
  b.nat_rules = sample().nat_rules;
  step();
}

TEST_CASE("snapshot: each fault is refused by name") {
  const struct { const char* what; const char* text; std::function<void(snapshot_builder&)> spoil; } faults[] = {
      {"an interface without an id", "interfaces", [](auto& b) { b.interfaces[0].id = 0; }},
      {"two interfaces of one id", "interfaces", [](auto& b) { b.interfaces[1].id = b.interfaces[0].id; }},
      {"a zone too many", "interfaces", [](auto& b) { b.interfaces[0].zone = SL_ZONES_MAX; }},
      {"an anti-spoofing mode that is none", "interfaces", [](auto& b) { b.interfaces[0].anti_spoofing = 9; }},
      {"VLAN 0", "interfaces", [](auto& b) { b.interfaces[0].vlan_id = 0; }},
      {"VLAN 4095", "interfaces", [](auto& b) { b.interfaces[0].vlan_id = 4095; }},
      {"an MTU below 576", "interfaces", [](auto& b) { b.interfaces[0].mtu_bytes = 500; }},
      {"an MTU past the frame", "interfaces", [](auto& b) { b.interfaces[0].mtu_bytes = 9000; }},
      {"an address of no interface", "addresses", [](auto& b) { b.addresses[0].interface = 99; }},
      {"an address of length 129", "addresses", [](auto& b) { b.addresses[0].prefix_length = 129; }},
      {"an address in NAT slot 64", "addresses", [](auto& b) { b.addresses[0].nat_slot = SL_NAT_SLOTS_MAX; }},
      {"a prefix of length 129", "prefixes", [](auto& b) { b.prefixes[0].length = 129; }},
      {"a service upside down", "services", [](auto& b) { b.services[0].dst_lo = 100; b.services[0].dst_hi = 99; }},
      {"a rule's unknown action", "rules", [](auto& b) { b.rules[0].action = 9; }},
      {"a rule without an id", "rules", [](auto& b) { b.rules[0].id = 0; }},
      {"a rule's span past its section", "rules", [](auto& b) { b.rules[0].services = {0, 1000}; }},
      {"a rule's span that wraps", "rules", [](auto& b) { b.rules[0].services = {0xffffffff, 2}; }},
      {"a NAT rule's unknown kind", "nat_rules", [](auto& b) { b.nat_rules[0].kind = 9; }},
      {"a NAT rule's unknown filtering", "nat_rules", [](auto& b) { b.nat_rules[0].filtering = 9; }},
      {"a source rule without a pool", "nat_rules", [](auto& b) { b.nat_rules[0].pool = {0, 0}; }},
      {"a NAT rule's pool past its section", "nat_rules", [](auto& b) { b.nat_rules[0].pool = {0, 99}; }},
      {"a NAT rule of no interface", "nat_rules", [](auto& b) { b.nat_rules[0].interface = 77; }},
      {"a static rule without its prefix", "nat_rules", [](auto& b) { b.nat_rules[4].destinations = {0, 0}; }},
      {"a static rule of two lengths", "nat_rules", [](auto& b) { b.nat_rules[4].to_prefix_length = 120; }},
      {"a pool from port 0", "nat_addresses", [](auto& b) { b.nat_addresses[0].port_lo = 0; }},
      {"a pool upside down", "nat_addresses", [](auto& b) { b.nat_addresses[0].port_hi = 10; }},
      {"a pool in NAT slot 64", "nat_addresses", [](auto& b) { b.nat_addresses[0].nat_slot = SL_NAT_SLOTS_MAX; }},
      {"a next hop of no interface", "nexthops", [](auto& b) { b.nexthops[0].interface = 99; }},
      {"a next hop's unknown kind", "nexthops", [](auto& b) { b.nexthops[0].kind = 9; }},
      {"a route without next hops", "routes", [](auto& b) { b.routes[0].nexthops = {0, 0}; }},
      {"a route of length 129", "routes", [](auto& b) { b.routes[0].to.length = 129; }},
      {"a default that allows", "default action", [](auto& b) { b.settings.default_action = SL_ACTION_ALLOW; }},
  };
  for (const auto& fault : faults) {
    CAPTURE(fault.what);
    snapshot_builder b = sample();
    fault.spoil(b);
    std::string error = refusal(b.build());
    CHECK(error.find(fault.text) != std::string::npos);
  }
}

TEST_CASE("snapshot: damage to the buffer itself") {
  const std::vector<uint8_t> good = sample().build();
  auto spoiled = [&](auto&& change) {
    std::vector<uint8_t> buffer = good;
    sl_snapshot_header h;
    std::memcpy(&h, buffer.data(), sizeof h);
    change(h);
    std::memcpy(buffer.data(), &h, sizeof h);
    return refusal(buffer);
  };
  CHECK(refusal({}).find("shorter") != std::string::npos);
  CHECK(refusal({good.begin(), good.begin() + 40}).find("shorter") != std::string::npos);
  CHECK(refusal({good.begin(), good.end() - 8}).find("cut short") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.magic ^= 1; }).find("ABI") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.abi_version = 99; }).find("99") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.routes.offset = 0xfffffff8; }).find("routes") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.routes.offset += 1; }).find("routes") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.rules.count = 0x40000000; }).find("rules") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.prefixes.count = 1000; }).find("prefixes") != std::string::npos);
  CHECK(spoiled([](auto& h) { h.interfaces.count = SL_INTERFACES_MAX + 1; }).find("at most") != std::string::npos);
}

}  // namespace
}  // namespace sluice
