// SPDX-License-Identifier: Apache-2.0
//
// port_allocator_test.cc: the port space under injected time, and under threads.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "nat/port_allocator.h"

namespace sluice {
namespace {

constexpr uint32_t now_s = 1'000'000;
constexpr uint32_t reuse_s = port_space::reuse_s_default;
constexpr uint32_t reuse_late_s = reuse_s + reuse_s / port_space::reuse_epochs; // by then a port is back for certain

port_space::secret key(uint8_t seed) {
  port_space::secret made{};
  made[0] = seed;
  return made;
}

std::vector<uint16_t> take_all(port_space& space, unsigned worker, uint32_t at_s) {
  std::vector<uint16_t> taken;
  while (const auto port = space.allocate(worker, at_s))
    taken.push_back(*port);
  return taken;
}

TEST_CASE("ports: each port of the range exactly once, then exhausted") {
  using range = std::pair<uint16_t, uint16_t>;
  for (const auto& [lo, hi] : {range{1024, 65535}, range{0, 65535}, range{40000, 40000}, range{40063, 40064}, range{50001, 50700}})
    for (const unsigned workers : {1u, 3u, 64u}) {
      CAPTURE(lo);
      CAPTURE(workers);
      port_space space(lo, hi, workers, key(1));
      const uint32_t size = hi - lo + 1u - (hi >= 65330 ? 1 : 0);
      CHECK(space.available() == size);
      const auto taken = take_all(space, workers - 1, now_s);
      CHECK(taken.size() == size);
      CHECK(std::set<uint16_t>(taken.begin(), taken.end()).size() == size);
      CHECK(std::count(taken.begin(), taken.end(), 65330) == 0);
      CHECK(std::all_of(taken.begin(), taken.end(), [&](uint16_t port) { return port >= lo && port <= hi; }));
      CHECK(space.in_use() == size);
      CHECK(space.available() == 0);
      for (unsigned worker = 0; worker < workers; ++worker)
        CHECK(!space.allocate(worker, now_s));
    }
}

TEST_CASE("ports: a range that holds 65330 only is empty") {
  port_space space(65330, 65330, 1, key(1));
  CHECK(!space.allocate(0, now_s));
  CHECK(!space.claim(65330, now_s));
  CHECK(!space.adopt(65330, now_s));
  space.unreserve(65330);
  CHECK(!space.allocate(0, now_s));
}

TEST_CASE("rfc6888-r8: a released port rests for 120 s") {
  for (uint32_t offset = 0; offset < reuse_s; offset += 7) { // wherever in an epoch it is released
    port_space space(2000, 2000, 2, key(2));
    REQUIRE(space.allocate(0, now_s + offset) == 2000);
    CHECK(space.release(2000, now_s + offset, false));
    CHECK(space.in_use() == 0);
    CHECK(space.quarantined() == 1);
    for (uint32_t wait_s = 0; wait_s < reuse_s; ++wait_s) {
      REQUIRE(!space.allocate(1, now_s + offset + wait_s));
      REQUIRE(!space.claim(2000, now_s + offset + wait_s));
    }
    CHECK(space.allocate(1, now_s + offset + reuse_late_s) == 2000);
    CHECK(space.quarantined() == 0);
  }
}

TEST_CASE("rfc6888-r8: other reuse times, none included") {
  for (const uint32_t reuse : {0u, 1u, 5u, 12u, 13u, 600u}) {
    CAPTURE(reuse);
    port_space space(2000, 2000, 1, key(2), reuse);
    for (uint32_t round = 0, at_s = now_s; round < 40; ++round) {
      REQUIRE(space.allocate(0, at_s) == 2000);
      space.release(2000, at_s, false);
      for (uint32_t wait_s = 0; wait_s < reuse; ++wait_s)
        REQUIRE(!space.allocate(0, at_s + wait_s));
      at_s += reuse + (reuse + 11) / 12;
    }
  }
}

TEST_CASE("rfc6888-r8a: a cleanly closed TCP port is reused early only when nothing else is free") {
  port_space space(3000, 3009, 1, key(3));
  const auto taken = take_all(space, 0, now_s);
  REQUIRE(taken.size() == 10);
  space.release(3004, now_s, false);
  CHECK(!space.allocate(0, now_s + 1));
  space.release(3007, now_s + 1, true);
  space.release(3001, now_s + 20, true);
  const auto first = space.allocate(0, now_s + 30), second = space.allocate(0, now_s + 30);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(std::set<uint16_t>{*first, *second} == std::set<uint16_t>{3001, 3007});
  CHECK(!space.allocate(0, now_s + 30));

  // Taken early, they are in use: the end of their old quarantine changes nothing.
  CHECK(space.allocate(0, now_s + reuse_late_s) == 3004);
  CHECK(!space.allocate(0, now_s + 2 * reuse_late_s));
  CHECK(space.in_use() == 10);

  // With another port free the clean one rests.
  space.release(3002, now_s + 1000 - reuse_late_s, false);
  space.release(3001, now_s + 1000, true);
  CHECK(space.allocate(0, now_s + 1000) == 3002);
}

TEST_CASE("rfc4787-r4: parity is kept when possible") {
  port_space space(1024, 65535, 4, key(4));
  for (unsigned i = 0; i < 2000; ++i) {
    REQUIRE(*space.allocate(i % 4, now_s, port_parity::even) % 2 == 0);
    REQUIRE(*space.allocate(i % 4, now_s, port_parity::odd) % 2 == 1);
  }
  CHECK(parity_of(5001) == port_parity::odd);
  CHECK(parity_of(5000) == port_parity::even);

  port_space small(5000, 5003, 1, key(4));
  CHECK(*small.allocate(0, now_s, port_parity::odd) % 2 == 1);
  CHECK(*small.allocate(0, now_s, port_parity::odd) % 2 == 1);
  CHECK(*small.allocate(0, now_s, port_parity::odd) % 2 == 0); // none left: better another than none
  CHECK(small.allocate(0, now_s, port_parity::odd));
  CHECK(!small.allocate(0, now_s, port_parity::odd));
}

TEST_CASE("rfc6888-r15 rfc6056: ports are spread evenly, and differ by secret and worker") {
  constexpr unsigned buckets = 63; // 1,024 ports each
  std::vector<unsigned> seen(buckets);
  for (unsigned round = 0; round < 100; ++round) {
    port_space space(1024, 65535, 1, key(static_cast<uint8_t>(round)));
    for (unsigned i = 0; i < 1000; ++i)
      ++seen[(*space.allocate(0, now_s) - 1024) / 1024];
  }
  double chi_square = 0;
  for (const unsigned count : seen)
    chi_square += (count - 100'000.0 / buckets) * (count - 100'000.0 / buckets) / (100'000.0 / buckets);
  CHECK(chi_square < 120); // 62 degrees of freedom: above by chance once in 10^5

  port_space a(1024, 65535, 2, key(1)), same(1024, 65535, 2, key(1)), b(1024, 65535, 2, key(2));
  std::vector<uint16_t> ports[4];
  for (unsigned i = 0; i < 50; ++i) {
    ports[0].push_back(*a.allocate(0, now_s));
    ports[1].push_back(*same.allocate(0, now_s));
    ports[2].push_back(*b.allocate(0, now_s));
    ports[3].push_back(*a.allocate(1, now_s));
  }
  CHECK(ports[0] == ports[1]);
  CHECK(ports[0] != ports[2]);
  CHECK(ports[0] != ports[3]);
  CHECK(!std::is_sorted(ports[0].begin(), ports[0].end()));
}

TEST_CASE("ports: a worker stays in its slice while it has ports") {
  port_space space(1024, 65535, 4, key(5));
  std::set<unsigned> lines[4];
  for (unsigned i = 0; i < 4000; ++i)
    for (unsigned worker = 0; worker < 4; ++worker)
      lines[worker].insert(*space.allocate(worker, now_s) / 512u);
  for (unsigned a = 0; a < 4; ++a)
    for (const unsigned line : lines[a])
      CHECK(line % 4 == (2 + a) % 4); // 1,024 stands on line 2
}

TEST_CASE("ports: claim takes one certain port, once") {
  port_space space(1024, 2047, 1, key(6));
  CHECK(space.claim(1500, now_s));
  CHECK(!space.claim(1500, now_s));
  CHECK(!space.adopt(1500, now_s));
  CHECK(space.is_in_use(1500));
  CHECK(!space.claim(1023, now_s));
  CHECK(!space.claim(2048, now_s));
  const auto taken = take_all(space, 0, now_s);
  CHECK(taken.size() == 1023);
  CHECK(std::count(taken.begin(), taken.end(), 1500) == 0);
}

TEST_CASE("ports: what is not in use cannot be released") {
  port_space space(1024, 2047, 1, key(6));
  CHECK(!space.release(1500, now_s, true));
  CHECK(!space.release(99, now_s, true));
  CHECK(space.claim(1500, now_s));
  CHECK(space.release(1500, now_s, false));
  CHECK(!space.release(1500, now_s + 20, true));
  CHECK(space.quarantined() == 1);
  CHECK(space.available() == 1023);
  CHECK(!space.is_in_use(1500));
}

TEST_CASE("ports: local listeners' ports are left alone until they end") {
  port_space space(4000, 4003, 1, key(7));
  REQUIRE(space.claim(4002, now_s));
  CHECK(space.reserve(4001));
  CHECK(!space.reserve(4002)); // NAT was first: it keeps the port until its session ends
  CHECK(space.reserve(80));    // out of range
  CHECK(!space.claim(4001, now_s));
  CHECK(take_all(space, 0, now_s).size() == 2);
  space.release(4002, now_s, true);
  CHECK(!space.allocate(0, now_s + reuse_late_s));
  space.unreserve(4001);
  CHECK(space.allocate(0, now_s + reuse_late_s) == 4001);
  CHECK(!space.allocate(0, now_s + reuse_late_s));
  CHECK(space.adopt(4002, now_s + reuse_late_s)); // a session that outlived a restart
  space.unreserve(4002);
  CHECK(!space.allocate(0, now_s + reuse_late_s));
}

TEST_CASE("ports: all come back after any idle time, and memory is bounded") {
  port_space space(1024, 65535, 3, key(8));
  uint32_t at_s = 5; // before reuse_s has ever passed
  for (const uint32_t step_s : {0u, 1u, 9u, 10u, 119u, 121u, 150u, 151u, 160u, 1'000u, 100'000u, 130u}) {
    at_s += step_s;
    for (unsigned i = 0; i < 3000; ++i) {
      const auto port = space.allocate(i % 3, at_s);
      REQUIRE(port);
      space.release(*port, at_s + i % 40, i % 3 == 0);
    }
    at_s += 40;
  }
  const auto port = space.allocate(0, at_s + reuse_late_s);
  REQUIRE(port);
  CHECK(space.in_use() == 1);
  CHECK(space.quarantined() == 0);
  CHECK(space.available() == 64510);
  CHECK(space.bytes() < 4 * 65536);
}

// Every thread allocates, claims, releases its own ports and those of others, while time runs. An owner table says
// whether two ever held one port, and when each was released.
TEST_CASE("ports: they rest and come back across 2^32 seconds, and the first second is no other") {
  for (const uint32_t reuse : {1u, 12u, 13u, reuse_s, 3600u}) {
    CAPTURE(reuse);
    for (const uint64_t before : {uint64_t{0}, (uint64_t{1} << 32) - 3 * reuse, (uint64_t{1} << 32) - 1, uint64_t{1} << 32, ~uint64_t{0} / 2}) {
      CAPTURE(before);
      port_space space(50001, 50008, 1, key(3), reuse);
      const uint32_t step = std::max(1u, reuse / 24);
      std::set<uint16_t> taken;
      while (const auto port = space.allocate(0, before)) taken.insert(*port);
      REQUIRE(taken.size() == 8);
      // One is given back each step, over several rounds of the rings; whatever is free is taken again at once.
      std::vector<std::pair<uint16_t, uint64_t>> resting;
      unsigned came_back = 0;
      for (uint64_t now = before; now < before + 6ull * std::max(reuse, 12u); now += step) {
        while (const auto port = space.allocate(0, now)) {
          const auto rested = std::find_if(resting.begin(), resting.end(), [&](const auto& r) { return r.first == *port; });
          REQUIRE(rested != resting.end());
          CHECK(now >= rested->second + reuse);
          resting.erase(rested);
          taken.insert(*port);
          ++came_back;
        }
        for (const auto& [port, since] : resting) REQUIRE(now <= since + reuse + reuse / port_space::reuse_epochs + 1 + step);
        if (taken.empty()) continue;
        const uint16_t port = *taken.begin();
        taken.erase(taken.begin());
        REQUIRE(space.release(port, now, false));
        resting.push_back({port, now});
      }
      CHECK(came_back >= 8);
    }
  }
}

TEST_CASE("ports: never given out twice, with threads on all calls") {
  constexpr unsigned threads = 4, rounds = 60'000;
  constexpr uint16_t lo = 10'000, hi = 10'899; // few ports: all paths run, early reuse and exhaustion too
  port_space space(lo, hi, threads, key(9));
  std::vector<std::atomic<int>> owner(65536);
  std::vector<std::atomic<uint32_t>> rests_until(65536); // of ports not closed cleanly
  std::vector<std::atomic<uint16_t>> shared(256);        // ports that any thread may release
  std::atomic<uint32_t> clock_s{now_s};
  std::atomic<unsigned> doubles{0}, early{0}, allocated{0}, refused{0};

  const auto work = [&](unsigned self) {
    uint64_t state = self * 0x9e3779b97f4a7c15 + 1;
    const auto random = [&](uint32_t bound) {
      state = state * 6364136223846793005 + 1442695040888963407;
      return static_cast<uint32_t>((state >> 33) % bound);
    };
    // A port may have been freed under a later time than the caller's: what counts is the clock after it was taken.
    const auto took = [&](uint16_t port) {
      doubles += owner[port].exchange(1) != 0;
      early += clock_s.load() < rests_until[port].load();
      ++allocated;
    };
    const auto give_back = [&](uint16_t port, bool clean) {
      const uint32_t at_s = clock_s.load();
      rests_until[port] = clean ? 0 : at_s + reuse_s;
      doubles += owner[port].exchange(0) != 1;
      doubles += !space.release(port, at_s, clean);
    };
    for (unsigned i = 0; i < rounds; ++i) {
      const uint32_t at_s = clock_s.load();
      if (random(100) == 0)
        clock_s.fetch_add(random(40) == 0 ? 400 : 3);
      const auto wanted = static_cast<uint16_t>(lo + random(hi - lo + 1));
      std::optional<uint16_t> port;
      switch (random(8)) {
      case 0:
        if (space.claim(wanted, at_s))
          port = wanted;
        break;
      case 1:
        space.reserve(static_cast<uint16_t>(hi - random(20)));
        break;
      case 2:
        space.unreserve(static_cast<uint16_t>(hi - random(20)));
        break;
      default:
        port = space.allocate(self, at_s, static_cast<port_parity>(random(3)));
        refused += !port;
      }
      if (port)
        took(*port);
      // 65330 stands for "none": it is never given out.
      const uint16_t other = shared[random(256)].exchange(port.value_or(65330));
      if (other != 0 && other != 65330)
        give_back(other, random(4) != 0);
    }
  };
  std::vector<std::thread> running;
  for (unsigned self = 0; self < threads; ++self)
    running.emplace_back(work, self);
  for (auto& thread : running)
    thread.join();
  CHECK(doubles == 0);
  CHECK(early == 0);
  CHECK(allocated > rounds);

  // No port is lost: give all back, wait, take all.
  for (uint16_t port = lo; port <= hi; ++port) {
    space.unreserve(port);
    if (owner[port].load() == 1)
      CHECK(space.release(port, clock_s, false));
  }
  CHECK(take_all(space, 0, clock_s + 2 * reuse_late_s).size() == hi - lo + 1u);
}

TEST_CASE("ports: threads that race for the last ports share them") {
  constexpr unsigned threads = 4;
  for (uint8_t round = 0; round < 50; ++round) {
    port_space space(20'000, 20'255, threads, key(round));
    std::vector<std::vector<uint16_t>> taken(threads);
    std::vector<std::thread> running;
    for (unsigned self = 0; self < threads; ++self)
      running.emplace_back([&, self] { taken[self] = take_all(space, self, now_s); });
    for (auto& thread : running)
      thread.join();
    std::set<uint16_t> all;
    std::size_t count = 0;
    for (const auto& ports : taken) {
      all.insert(ports.begin(), ports.end());
      count += ports.size();
    }
    CHECK(count == 256);
    CHECK(all.size() == 256);
  }
}

} // namespace
} // namespace sluice
