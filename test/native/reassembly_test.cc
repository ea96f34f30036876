// SPDX-License-Identifier: Apache-2.0
// reassembly_test.cc: virtual reassembly as a table of its own - bounds, timeouts, and its answer to any order and overlap.
#include <time.h>

#include <algorithm>
#include <random>

#include "packet/reassembly.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;
using outcome = reassembly_table::outcome;

constexpr uint64_t second_ns = 1'000'000'000;

uint64_t thread_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<uint64_t>(t.tv_sec) * second_ns + static_cast<uint64_t>(t.tv_nsec);
}

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
  CHECK(r.what == outcome::held);
  CHECK(r.evicted == 1);
  CHECK(t.live() == 16);
  CHECK(t.expire(60 * second_ns) == 0);
  CHECK(t.expire(62 * second_ns) == 16);
  CHECK(t.live() == 0);
  CHECK(t.held_bytes() == 0);
  CHECK(t.add(fragment(99, 800, 800, true).p, 62 * second_ns).what == outcome::held);
}

TEST_CASE("reassembly: held bytes are bounded") {
  reassembly_table t(1);
  t.configure(1u << 20, 60);
  unsigned held = 0, evicted = 0;
  for (unsigned id = 0; id < 12'000; ++id) {
    auto r = t.add(fragment(static_cast<uint16_t>(id), 800, 800, true).p, second_ns);
    held += r.what == outcome::held;
    evicted += r.evicted;
    REQUIRE(t.held_bytes() <= fragment_held_bytes_max);
  }
  CHECK(held == 12'000);
  CHECK(evicted > 0);
  CHECK(t.expire(62 * second_ns) == held - evicted);
}

TEST_CASE("reassembly: a flood that never completes takes nothing from others, and opens nothing") {
  reassembly_table t(1);
  t.configure(16, 60);
  auto flood = [&](unsigned datagrams) { for (unsigned n = 0; n < datagrams; ++n) t.add(fragment(static_cast<uint16_t>(1000 + n), 800, 800, true).p, second_ns); };
  flood(100);
  frame first = fragment(9, 0, 800, true);
  REQUIRE(t.add(first.p, second_ns).what == outcome::first);
  t.decided(first.p, {fragment_verdict::session, 0, 5, 1, first.p.key});
  flood(10);
  CHECK(t.add(fragment(9, 800, 800, true).p, second_ns).what == outcome::use_verdict);
  flood(16);  // the datagram is forgotten: what comes of it waits for another first fragment
  CHECK(t.add(fragment(9, 1600, 800, true).p, second_ns).what == outcome::held);
  frame denied = fragment(10, 0, 800, true);
  REQUIRE(t.add(denied.p, second_ns).what == outcome::first);
  t.decided(denied.p, {fragment_verdict::drop, 0, 0, 0, {}});
  flood(16);
  CHECK(t.add(fragment(10, 800, 800, true).p, second_ns).what == outcome::held);
}

TEST_CASE("reassembly: what is held of a datagram and goes with it is told") {
  reassembly_table t(1);
  t.configure(16, 60);
  for (unsigned n : {1u, 2u, 3u}) REQUIRE(t.add(fragment(9, n * 800, 800, true).p, second_ns).what == outcome::held);
  auto overlap = t.add(fragment(9, 808, 800, true).p, second_ns);
  CHECK(overlap.reason == SL_DROP_FRAGMENT_OVERLAP);
  CHECK(overlap.discarded == 3);
  REQUIRE(t.add(fragment(10, 800, 800, true).p, second_ns).what == outcome::held);
  auto late = t.add(fragment(10, 1600, 800, true).p, 62 * second_ns);
  CHECK(late.what == outcome::held);
  CHECK(late.timed_out == 1);
}

// Whoever knows how keys are hashed, and not by which secret, sends datagrams that would all stand in one bucket.
TEST_CASE("reassembly: nobody can choose addresses that collide") {
  reassembly_table t(0x1234567);
  t.configure(1u << 16, 60);
  frame f = ip_frame("2001:db8::1", "2001:db8:f::1", 44, {17, 0, 0, 8 | 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 0);
  auto cost_ns = [&](const char* low_half) {
    sl_address low = address_of(low_half);
    std::memcpy(&f.bytes[14 + 16], low.bytes + 8, 8);
    const uint64_t began = thread_ns();
    for (unsigned n = 0; n < 8000; ++n) {
      store16(&f.bytes[14 + 12], static_cast<uint16_t>(n));
      if (f.parse() != SL_DROP_NONE || t.add(f.p, second_ns).what != outcome::held) FAIL("not taken");
    }
    const uint64_t cost = thread_ns() - began;
    t.expire(100 * second_ns);
    return cost;
  };
  const uint64_t usual = cost_ns("::1:2:3:4");
  CHECK(cost_ns("::9e37:79b9:7f4a:7c15") < 5 * usual);  // as bytes of the hash's constants stand in an address
  CHECK(cost_ns("::157c:4a7f:b979:379e") < 5 * usual);
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
