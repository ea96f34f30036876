// SPDX-License-Identifier: Apache-2.0
// reassembly_test.cc: virtual reassembly as a table of its own - bounds, timeouts, and its answer to any order and overlap.
#include <algorithm>
#include <random>

#include "packet/reassembly.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;
using outcome = reassembly_table::outcome;

constexpr uint64_t second_ns = 1'000'000'000;

frame fragment(uint16_t id, unsigned offset, unsigned length, bool more) {
  std::vector<uint8_t> datagram = udp_datagram(4000, 53, 4000);
  std::vector<uint8_t> part(datagram.begin() + offset, datagram.begin() + offset + length);
  frame f = ip_frame("10.0.1.10", "198.51.100.10", protocol_udp, part, 0, id, static_cast<uint16_t>(offset / 8 | (more ? 0x2000 : 0)));
  REQUIRE(f.parse() == SL_DROP_NONE);
  return f;
}

TEST_CASE("reassembly: each order of four fragments gives four fragments on") {
  std::vector<unsigned> order{0, 1, 2, 3};
  do {
    reassembly_table t(1);
    unsigned sent = 0, held = 0;
    for (unsigned n : order) {
      frame f = fragment(9, n * 800, 800, n != 3);
      auto r = t.add(f.p, second_ns);
      if (r.what == outcome::first) sent += 1 + static_cast<unsigned>(t.decided(f.p, {fragment_verdict::session, 0, 5, 1, f.p.key}).size());
      else if (r.what == outcome::use_verdict) ++sent;
      else if (r.what == outcome::held) ++held;
      else FAIL("dropped");
    }
    CHECK(sent == 4);
    CHECK(held == static_cast<unsigned>(std::find(order.begin(), order.end(), 0u) - order.begin()));
    CHECK(t.live() == 0);
    CHECK(t.held_bytes() == 0);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("reassembly: random fragments against the definition of overlap") {
  std::mt19937 random(6);
  for (unsigned round = 0; round < 2000; ++round) {
    reassembly_table t(1);
    std::vector<std::pair<unsigned, unsigned>> ranges;
    bool discarded = false;
    for (unsigned i = 0; i < 6; ++i) {
      unsigned begin = 8 * (1 + random() % 40), end = begin + 8 * (1 + random() % 10);
      bool duplicate = std::find(ranges.begin(), ranges.end(), std::pair{begin, end}) != ranges.end();
      bool overlap = std::any_of(ranges.begin(), ranges.end(), [&](auto& r) { return begin < r.second && r.first < end; });
      frame f = fragment(9, begin, end - begin, true);
      auto r = t.add(f.p, second_ns);
      discarded = discarded || (overlap && !duplicate);
      CHECK(r.what == (discarded ? outcome::drop : outcome::held));
      if (discarded) {
        CHECK(r.reason == SL_DROP_FRAGMENT_OVERLAP);
        CHECK(t.held_bytes() == 0);
      }
      ranges.push_back({begin, end});
    }
  }
}

TEST_CASE("reassembly: the table is bounded and empties itself") {
  reassembly_table t(1);
  t.configure(16, 60);
  for (uint16_t id = 0; id < 16; ++id) CHECK(t.add(fragment(id, 800, 800, true).p, second_ns).what == outcome::held);
  auto r = t.add(fragment(99, 800, 800, true).p, second_ns);
  CHECK(r.what == outcome::drop);
  CHECK(r.reason == SL_DROP_FRAGMENT_TABLE_FULL);
  CHECK(t.expire(60 * second_ns) == 0);
  CHECK(t.expire(62 * second_ns) == 16);
  CHECK(t.live() == 0);
  CHECK(t.held_bytes() == 0);
  CHECK(t.add(fragment(99, 800, 800, true).p, 62 * second_ns).what == outcome::held);
}

TEST_CASE("reassembly: held bytes are bounded") {
  reassembly_table t(1);
  t.configure(1u << 20, 60);
  size_t refused = 0;
  for (unsigned id = 0; id < 12'000; ++id) refused += t.add(fragment(static_cast<uint16_t>(id), 800, 800, true).p, second_ns).what == outcome::drop;
  CHECK(refused > 0);
  CHECK(t.held_bytes() <= fragment_held_bytes_max);
}

TEST_CASE("reassembly: what follows a denied first fragment is denied") {
  reassembly_table t(1);
  frame first = fragment(9, 0, 800, true);
  CHECK(t.add(first.p, second_ns).what == outcome::first);
  CHECK(t.decided(first.p, {fragment_verdict::drop, 0, 0, 0, {}}).empty());
  auto r = t.add(fragment(9, 800, 800, false).p, second_ns);
  CHECK(r.what == outcome::drop);
  CHECK(r.reason == SL_DROP_FRAGMENT_DENIED);
  CHECK(t.live() == 0);
}

}  // namespace
}  // namespace sluice
