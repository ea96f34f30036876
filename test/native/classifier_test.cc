// SPDX-License-Identifier: Apache-2.0
//
// classifier_test.cc: the classifier against the definition (rule_sets.h), and the cases that have a name.

#include <doctest/doctest.h>

#include "rule_sets.h"

namespace sluice {
namespace {

using namespace rule_sets;

constexpr uint64_t all_zones = ~uint64_t{0};

std::unique_ptr<const classifier> build(const rule_set& set) {
  std::string error;
  auto built = classifier::build(set.rules, set.prefixes, set.services, &error);
  REQUIRE_MESSAGE(built != nullptr, error);
  return built;
}

void compare(const rule_set& set, maker& make, unsigned keys) {
  const auto built = build(set);
  CHECK(built->table_count() <= classifier::tables_max);
  unsigned wrong = 0, matched = 0;
  for (unsigned i = 0; i < keys; ++i) {
    const classify_key key = make.key(set);
    const uint32_t wanted = first_match(set, key);
    wrong += built->match(key) != wanted;
    matched += wanted != classifier::no_rule;
  }
  CHECK(wrong == 0);
  if (set.rules.size() >= 10)
    CHECK(matched > 0);
}

classify_key key_to(const sl_address& src, const sl_address& dst, uint8_t protocol, uint16_t dst_port) {
  return {src, dst, 40000, dst_port, protocol, 0, 0};
}

TEST_CASE("classifier: same answer as the definition") {
  uint64_t seed = 1;
  for (const shape kind : {shape::acl, shape::fw, shape::ipc, shape::random})
    for (const std::size_t rules : {0, 1, 2, 10, 10, 10, 30, 100, 100, 300, 1000, 3000, 10000}) {
      CAPTURE(name_of(kind));
      CAPTURE(rules);
      CAPTURE(seed);
      maker make(seed++);
      const rule_set set = make.make(kind, rules);
      compare(set, make, rules <= 300 ? 4000 : rules <= 1000 ? 1500 : 300);
    }
}

TEST_CASE("classifier: 100,000 rules") {
  for (const shape kind : {shape::acl, shape::fw}) {
    CAPTURE(name_of(kind));
    maker make(77);
    const rule_set set = make.make(kind, 100'000);
    compare(set, make, 100);
  }
}

TEST_CASE("classifier: no rules match nothing, and an empty list means any") {
  CHECK(build({})->match(key_to(ipv4(1), ipv4(2), 6, 80)) == classifier::no_rule);
  const auto any = build({{{all_zones, all_zones, {}, {}, {}}}, {}, {}});
  CHECK(any->match(key_to(ipv4(1), ipv4(2), 6, 80)) == 0);
  CHECK(any->match(key_to(sl_address{}, sl_address{{0x20, 1}}, 47, 0)) == 0);
}

TEST_CASE("classifier: ::/0 is IPv6 only, 0.0.0.0/0 IPv4 only") {
  const sl_address v6{{0x20, 0x01, 0x0d, 0xb8}};
  for (const std::vector<uint8_t>& lengths : {std::vector<uint8_t>{0}, {0, 128}, {64, 0, 80}}) {
    rule_set set;
    for (const uint8_t length : lengths)
      set.prefixes.push_back(prefix(sl_address{}, length));
    set.rules.push_back({all_zones, all_zones, {0, static_cast<uint32_t>(lengths.size())}, {}, {}});
    const auto built = build(set);
    CHECK(built->match(key_to(v6, v6, 6, 80)) == 0);
    CHECK(built->match(key_to(ipv4(0x0a000001), v6, 6, 80)) == classifier::no_rule);
  }
  const auto any_ipv4 = build({{{all_zones, all_zones, {}, {0, 1}, {}}}, {prefix(ipv4(0), 96)}, {}});
  CHECK(any_ipv4->match(key_to(v6, ipv4(7), 6, 80)) == 0);
  CHECK(any_ipv4->match(key_to(ipv4(7), v6, 6, 80)) == classifier::no_rule);
}

TEST_CASE("classifier: a list may hold an IPv6 prefix that spans IPv4's by its bits") {
  const rule_set set{{{all_zones, all_zones, {0, 3}, {0, 3}, {}}},
                     {prefix(sl_address{}, 0), prefix(ipv4(0x0a000000), 104), prefix(ipv4(0xc0a80000), 112)},
                     {}};
  const auto built = build(set);
  CHECK(built->match(key_to(sl_address{{0x20, 1}}, ipv4(0x0a010203), 6, 1)) == 0);
  CHECK(built->match(key_to(ipv4(0xc0a80001), sl_address{}, 6, 1)) == 0);
  CHECK(built->match(key_to(ipv4(0xc0a90001), sl_address{}, 6, 1)) == classifier::no_rule);
}

TEST_CASE("classifier: 1,000 x 1,000 prefixes x 50 services do not explode") {
  maker make(5);
  rule_set set;
  for (uint32_t i = 0; i < 1000; ++i)
    set.prefixes.push_back(prefix(ipv4(0x0a000000 + i * 512), 120));
  for (uint32_t i = 0; i < 1000; ++i)
    set.prefixes.push_back(prefix(ipv4(0xac100000 + i * 512), 121));
  for (uint16_t i = 0; i < 50; ++i)
    set.services.push_back({6, 0, 0xffff, static_cast<uint16_t>(1000 + i * 7), static_cast<uint16_t>(1002 + i * 7), 0});
  for (unsigned i = 0; i < 20; ++i)
    set.rules.push_back({all_zones, all_zones, {0, 1000 - i}, {1000 + i, 1000 - i}, {i, 50 - i}});
  const auto built = build(set);
  CHECK(built->entry_count() <= 20 * classifier::entries_per_rule_max);
  CHECK(built->bytes() < 16u << 20);
  compare(set, make, 4000);
}

TEST_CASE("classifier: total expansion is bounded however many long lists there are") {
  maker make(6);
  rule_set set;
  for (uint32_t i = 0; i < 5000; ++i)
    set.prefixes.push_back(prefix(ipv4(make.below(UINT32_MAX)), 128));
  for (uint32_t i = 0; i < 1500; ++i)
    set.rules.push_back({all_zones, all_zones, {i, 1000}, {}, {}});
  const auto built = build(set);
  CHECK(built->entry_count() <= classifier::entries_max);
  compare(set, make, 10);
}

// Whatever single field tells rules apart, no packet may be compared with more than a few of them.
TEST_CASE("classifier: rules that differ in one field only do not degrade to a list") {
  using differ = void (*)(rule_set&, uint32_t);
  const std::vector<std::pair<const char*, differ>> fields{
      {"destination port", [](rule_set& set, uint32_t i) {
         set.services.push_back({6, 0, 0xffff, static_cast<uint16_t>(i), static_cast<uint16_t>(i), 0});
         set.rules.push_back({all_zones, all_zones, {}, {}, {i, 1}});
       }},
      {"source port", [](rule_set& set, uint32_t i) {
         set.services.push_back({17, static_cast<uint16_t>(i), static_cast<uint16_t>(i), 0, 0xffff, 0});
         set.rules.push_back({all_zones, all_zones, {}, {}, {i, 1}});
       }},
      {"source", [](rule_set& set, uint32_t i) {
         set.prefixes.push_back(prefix(ipv4(i << 8), 120));
         set.rules.push_back({all_zones, all_zones, {i, 1}, {}, {}});
       }},
      {"destination", [](rule_set& set, uint32_t i) {
         set.prefixes.push_back(prefix(ipv4(i), 128));
         set.rules.push_back({all_zones, all_zones, {}, {i, 1}, {}});
       }},
  };
  for (const auto& [name, add] : fields) {
    CAPTURE(name);
    rule_set set;
    for (uint32_t i = 0; i < 60'000; ++i)
      add(set, i);
    maker make(8);
    compare(set, make, 50);
    CHECK(build(set)->longest_run() <= 8);
  }
}

TEST_CASE("classifier: zones") {
  rule_set set;
  for (unsigned from = 0; from < SL_ZONES_MAX; ++from)
    for (unsigned to = 0; to < SL_ZONES_MAX; ++to)
      set.rules.push_back({uint64_t{1} << from, uint64_t{1} << to, {}, {}, {}});
  const auto built = build(set);
  unsigned wrong = 0;
  for (uint8_t from = 0; from < SL_ZONES_MAX; ++from)
    for (uint8_t to = 0; to < SL_ZONES_MAX; ++to)
      wrong += built->match({ipv4(1), ipv4(2), 1, 2, 6, from, to}) != from * uint32_t{SL_ZONES_MAX} + to;
  CHECK(wrong == 0);
}

TEST_CASE("classifier: ICMP type and code stand in the destination port") {
  const rule_set set{{{all_zones, all_zones, {}, {}, {0, 1}}}, {}, {{1, 0, 0xffff, 8 << 8, 8 << 8 | 255, 0}}};
  const auto built = build(set);
  CHECK(built->match({ipv4(1), ipv4(2), 0, 8 << 8, 1, 0, 0}) == 0);
  CHECK(built->match({ipv4(1), ipv4(2), 0, 0, 1, 0, 0}) == classifier::no_rule);
  CHECK(built->match({ipv4(1), ipv4(2), 0, 8 << 8, 58, 0, 0}) == classifier::no_rule);
}

TEST_CASE("classifier: refuses what it cannot mean, and says what") {
  const rule_set good{{{all_zones, all_zones, {0, 1}, {0, 1}, {0, 1}}}, {prefix(ipv4(0x0a000000), 104)}, {{6, 0, 9, 0, 9, 0}}};
  struct refused { const char* text; void (*spoil)(rule_set&); };
  const std::vector<refused> cases{
      {"rule 0: sources", [](rule_set& set) { set.rules[0].sources = {1, 1}; }},
      {"rule 0: destinations", [](rule_set& set) { set.rules[0].destinations = {0, UINT32_MAX}; }},
      {"rule 0: services", [](rule_set& set) { set.rules[0].services = {UINT32_MAX, 2}; }},
      {"prefix 0 of length 129", [](rule_set& set) { set.prefixes[0].length = 129; }},
      {"prefix 0 of length 100", [](rule_set& set) { set.prefixes[0].length = 100; }},
      {"first port is above", [](rule_set& set) { set.services[0].dst_lo = 10; }},
      {"protocol 256", [](rule_set& set) { set.services[0].protocol = 256; }},
      {"131073 rules", [](rule_set& set) { set.rules.resize(SL_RULES_MAX + 1, set.rules[0]); }},
  };
  CHECK(build(good) != nullptr);
  for (const auto& [text, spoil] : cases) {
    rule_set set = good;
    spoil(set);
    std::string error;
    CHECK(classifier::build(set.rules, set.prefixes, set.services, &error) == nullptr);
    CHECK_MESSAGE(error.find(text) != std::string::npos, error);
    CHECK(classifier::build(set.rules, set.prefixes, set.services, nullptr) == nullptr);
  }
}

} // namespace
} // namespace sluice
