// SPDX-License-Identifier: Apache-2.0
//
// lpm_test.cc: longest prefix match against the definition, and the cases that have a name.

#include <doctest/doctest.h>

#include "route/lpm.h"
#include "rule_sets.h"

namespace sluice {
namespace {

using namespace rule_sets;

std::unique_ptr<const lpm> build(const std::vector<sl_prefix>& prefixes) {
  std::string error;
  auto built = lpm::build(prefixes, &error);
  REQUIRE_MESSAGE(built != nullptr, error);
  return built;
}

uint32_t longest(const std::vector<sl_prefix>& prefixes, const sl_address& address) {
  uint32_t best = lpm::no_route;
  for (uint32_t i = 0; i < prefixes.size(); ++i)
    if (covers(prefixes[i], address) && (best == lpm::no_route || prefixes[i].length > prefixes[best].length))
      best = i;
  return best;
}

TEST_CASE("lpm: same answer as the definition") {
  for (const std::size_t count : {0, 1, 2, 5, 20, 100, 1000, 4000}) {
    CAPTURE(count);
    maker make(count + 1);
    rule_set set; // each prefix as a rule's source: keys are then drawn at prefixes' corners
    while (set.prefixes.size() < count) {
      sl_address address = make.key({}).src;
      const bool mapped = covers(prefix(ipv4(0), 96), address);
      const unsigned length = mapped ? 96 + make.below(33) : make.chance(20) ? make.below(129) : 16 * make.below(9);
      set.rules.push_back({1, 1, {static_cast<uint32_t>(set.prefixes.size()), 1}, {}, {}});
      set.prefixes.push_back(prefix(address, length));
      if (mapped && make.chance(30) && set.prefixes.size() < count) { // a more specific one inside
        set.rules.push_back({1, 1, {static_cast<uint32_t>(set.prefixes.size()), 1}, {}, {}});
        set.prefixes.push_back(prefix(address, std::min(128u, length + 1 + make.below(8))));
      }
    }
    const auto built = build(set.prefixes);
    unsigned wrong = 0;
    for (unsigned i = 0; i < 5000; ++i) {
      const sl_address address = make.key(set).src;
      wrong += built->lookup(address) != longest(set.prefixes, address);
    }
    CHECK(wrong == 0);
    for (uint32_t i = 0; i < set.prefixes.size(); ++i) {
      const uint32_t parent = built->parent(i);
      if (parent != lpm::no_route) {
        CHECK(set.prefixes[parent].length <= set.prefixes[i].length);
        CHECK(covers(set.prefixes[parent], set.prefixes[i].address));
      }
    }
  }
}

TEST_CASE("lpm: an IPv6 default route never takes IPv4") {
  const auto ipv6_only = build({prefix(sl_address{}, 0), prefix(sl_address{}, 80)});
  CHECK(ipv6_only->lookup(ipv4(0x08080808)) == lpm::no_route);
  CHECK(ipv6_only->lookup(sl_address{{0x20, 0x01}}) == 0);
  CHECK(ipv6_only->lookup(sl_address{}) == 1);
  const auto both = build({prefix(sl_address{}, 0), prefix(ipv4(0), 96)});
  CHECK(both->lookup(ipv4(0)) == 1);
  CHECK(both->lookup(ipv4(UINT32_MAX)) == 1);
  CHECK(both->lookup(sl_address{{0xff, 0xff, 0xff}}) == 0);
  const auto ipv4_only = build({prefix(ipv4(0), 96)});
  CHECK(ipv4_only->lookup(sl_address{{0x20, 0x01}}) == lpm::no_route);
}

TEST_CASE("lpm: of equal prefixes the first listed wins") {
  const auto built = build({prefix(ipv4(0x0a000000), 104), prefix(ipv4(0x0a000000), 104), prefix(ipv4(0x0a010000), 112)});
  CHECK(built->lookup(ipv4(0x0a000001)) == 0);
  CHECK(built->lookup(ipv4(0x0a010001)) == 2);
  CHECK(built->parent(1) == 0);
  CHECK(built->parent(2) == 0);
  CHECK(built->parent(0) == lpm::no_route);
}

TEST_CASE("lpm: host routes at both ends of the spaces") {
  const sl_address last{{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}};
  const auto built = build({prefix(ipv4(0), 128), prefix(ipv4(UINT32_MAX), 128), prefix(sl_address{}, 128), prefix(last, 128)});
  CHECK(built->lookup(ipv4(0)) == 0);
  CHECK(built->lookup(ipv4(1)) == lpm::no_route);
  CHECK(built->lookup(ipv4(UINT32_MAX - 1)) == lpm::no_route);
  CHECK(built->lookup(ipv4(UINT32_MAX)) == 1);
  CHECK(built->lookup(sl_address{}) == 2);
  CHECK(built->lookup(last) == 3);
}

TEST_CASE("lpm: routes and prefixes are built alike") {
  const std::vector<sl_route> routes{{prefix(ipv4(0), 96), {0, 1}}, {prefix(ipv4(0xc0a80000), 112), {1, 1}}};
  std::string error;
  const auto built = lpm::build(std::span(routes), &error);
  REQUIRE(built != nullptr);
  CHECK(built->lookup(ipv4(0xc0a80101)) == 1);
  CHECK(built->lookup(ipv4(0xc0a90101)) == 0);
}

TEST_CASE("lpm: refuses what is no prefix") {
  sl_prefix host_bits = prefix(ipv4(0x0a000001), 128);
  host_bits.length = 120;
  sl_prefix too_long = prefix(ipv4(0x0a000001), 128);
  too_long.length = 129;
  for (const sl_prefix& bad : {host_bits, too_long}) {
    std::string error;
    const std::vector<sl_prefix> prefixes{prefix(ipv4(0), 96), bad};
    CHECK(lpm::build(prefixes, &error) == nullptr);
    CHECK(error.find("prefix 1 of length " + std::to_string(bad.length)) != std::string::npos);
    CHECK(lpm::build(prefixes, nullptr) == nullptr);
  }
}

} // namespace
} // namespace sluice
