// SPDX-License-Identifier: Apache-2.0
// mapping_test.cc: NAT bindings - sharing, references, ports given back, peers, and two threads at once.
#include <thread>

#include "nat/mapping.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

std::shared_ptr<nat_pool> pool_of(uint16_t lo = 1024, uint16_t hi = 65535) {
  return std::make_shared<nat_pool>(sl_nat_address{address_of("203.0.113.5"), lo, hi, SL_NAT_SLOT_NONE, 0}, 2, 120, nullptr);
}
const auto any = [](const mapping&) { return true; };

uint32_t make(mapping_table& t, const std::shared_ptr<nat_pool>& pool, uint16_t inside_port, bool independent = true) {
  auto port = pool->allocate(0, 1, 100, inside_port);
  REQUIRE(port);
  return t.create(address_of("10.0.1.10"), inside_port, protocol_udp, pool, *port, SL_FILTERING_ENDPOINT, independent, 1);
}

TEST_CASE("mapping: found from inside and outside, gone with its last reference") {
  mapping_table t;
  std::vector<mapping> entries(100);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of();
  uint32_t m = make(t, pool, 4000);
  REQUIRE(m != mapping_none);
  uint16_t port = t.at(m).outside_port;
  CHECK(t.acquire_inside(address_of("10.0.1.10"), 4000, protocol_udp, any) == m);
  CHECK(t.acquire_outside(address_of("203.0.113.5"), port, protocol_udp) == m);
  CHECK(t.acquire_outside(address_of("203.0.113.5"), port, protocol_tcp) == mapping_none);
  CHECK(t.acquire_inside(address_of("10.0.1.11"), 4000, protocol_udp, any) == mapping_none);
  CHECK(t.acquire_inside(address_of("10.0.1.10"), 4000, protocol_udp, [](const mapping&) { return false; }) == mapping_none);
  t.release(m, 100, false);
  t.release(m, 100, false);
  CHECK(pool->space(1).is_in_use(port));
  t.release(m, 100, false);
  CHECK(t.live() == 0);
  CHECK_FALSE(pool->space(1).is_in_use(port));
  CHECK(pool->space(1).quarantined() == 1);
  CHECK(t.acquire_outside(address_of("203.0.113.5"), port, protocol_udp) == mapping_none);
}

TEST_CASE("mapping: an endpoint-dependent one is not shared") {
  mapping_table t;
  std::vector<mapping> entries(100);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of();
  make(t, pool, 4000, false);
  CHECK(t.acquire_inside(address_of("10.0.1.10"), 4000, protocol_udp, any) == mapping_none);
}

TEST_CASE("mapping: the table's end is said, not passed") {
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of();
  for (uint16_t i = 0; i < 4; ++i) CHECK(make(t, pool, static_cast<uint16_t>(4000 + i)) != mapping_none);
  CHECK(make(t, pool, 5000) == mapping_none);
  t.release(2, 100, false);
  CHECK(make(t, pool, 5001) == 2);
}

TEST_CASE("mapping: peers are counted, not only remembered") {
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  sl_address peer = address_of("198.51.100.10");
  t.note_peer(1, peer, 1);
  t.note_peer(1, peer, 1);
  t.note_peer(1, peer, -1);
  CHECK(t.knows_peer(1, peer));
  CHECK_FALSE(t.knows_peer(2, peer));
  t.note_peer(1, peer, -1);
  CHECK_FALSE(t.knows_peer(1, peer));
}

TEST_CASE("mapping: two threads share, create and release; every port comes back") {
  mapping_table t;
  std::vector<mapping> entries(10'000);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of();
  auto work = [&](unsigned worker) {
    for (unsigned n = 0; n < 40'000; ++n) {
      uint16_t inside_port = static_cast<uint16_t>(4000 + n % 50);
      uint32_t m = t.acquire_inside(address_of("10.0.1.10"), inside_port, protocol_udp, any);
      if (m == mapping_none) {
        auto port = pool->allocate(worker, 1, n / 10, inside_port);
        if (!port) continue;
        m = t.create(address_of("10.0.1.10"), inside_port, protocol_udp, pool, *port, SL_FILTERING_ENDPOINT, true, 1);
        REQUIRE(m != mapping_none);
      }
      uint32_t again = t.acquire_outside(t.at(m).outside, t.at(m).outside_port, protocol_udp);
      CHECK(again == m);
      if (again != mapping_none) t.release(again, n / 10, false);
      t.release(m, n / 10, false);
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  CHECK(t.live() == 0);
  CHECK(pool->space(1).in_use() == 0);
}

}  // namespace
}  // namespace sluice
