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

TEST_CASE("mapping: peers are counted, not only remembered; a session counts once") {
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  sl_address peer = address_of("198.51.100.10");
  t.note_peer(1, 0, peer);
  t.note_peer(1, 2, peer);
  t.note_peer(1, 2, peer);
  t.forget_peer(1, 2, peer);
  CHECK(t.knows_peer(1, peer));
  CHECK_FALSE(t.knows_peer(2, peer));
  t.forget_peer(1, 2, peer);
  t.forget_peer(1, 3, peer);
  CHECK(t.knows_peer(1, peer));
  t.forget_peer(1, 0, peer);
  CHECK_FALSE(t.knows_peer(1, peer));
}

TEST_CASE("mapping: whoever only looked at it says nothing of how its sessions ended") {
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of(1024, 1024);
  auto port = pool->allocate(0, 0, 100, 4000);
  REQUIRE(port);
  uint32_t m = t.create(address_of("10.0.1.10"), 4000, protocol_tcp, pool, *port, SL_FILTERING_ENDPOINT, true, 1);
  REQUIRE(t.acquire(m));
  t.release(m, 100, true);  // its session, closed in order
  t.release(m, 100);
  CHECK(pool->allocate(0, 0, 100, 4000));  // RFC 6888 R8 (a): early, since no other is left
  CHECK_FALSE(t.acquire(m));
}

TEST_CASE("mapping: a pool gives back what another pool's mapping has, and packets to that port go to the engine as before") {
  std::vector<std::atomic<uint64_t>> words(SL_NAT_PORT_WORDS);
  const sl_nat_address address{address_of("203.0.113.4"), 1024, 1024, 0, 0};
  auto before = std::make_shared<nat_pool>(address, 1, 120, words.data()), now = std::make_shared<nat_pool>(address, 1, 60, words.data());
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  const uint32_t m = make(t, before, 4000);
  REQUIRE(m != mapping_none);
  auto port = now->allocate(0, 1, 100, 4002);
  REQUIRE(port);
  REQUIRE(t.create(address_of("10.0.1.11"), 4002, protocol_udp, now, *port, SL_FILTERING_ENDPOINT, true, 1) == mapping_none);
  now->rest(1, *port, 100);
  CHECK(words[1 * 1024 + 1024 / 64].load() == 1);
  CHECK_FALSE(now->allocate(0, 1, 100, 4002));
  t.release(m, 100, false);
  CHECK(words[1 * 1024 + 1024 / 64].load() == 0);
}

TEST_CASE("mapping: a commit's filtering reaches what is mapped, by the rule that mapped it") {
  mapping_table t;
  std::vector<mapping> entries(4);
  t.open(entries.data(), static_cast<uint32_t>(entries.size()), 7);
  auto pool = pool_of();
  uint32_t a = make(t, pool, 4000), b = make(t, pool, 4002);
  t.hand_over(b, 2, SL_FILTERING_ENDPOINT);
  t.refilter([](uint32_t rule) { return static_cast<uint8_t>(rule == 2 ? SL_FILTERING_ADDRESS : SL_FILTERING_ENDPOINT); });
  CHECK(t.at(a).filtering == SL_FILTERING_ENDPOINT);
  CHECK(t.at(b).filtering == SL_FILTERING_ADDRESS);
  CHECK(t.rule_of(b) == 2);
  CHECK(t.rule_of(mapping_none) == 0);
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
