// SPDX-License-Identifier: Apache-2.0
// idle_test.cc: a million sessions, and when the idle ones end: not before their time, within two seconds after it, and with a bounded
// number looked at and ended at once. Virtual time, in steps of a worker's housekeeping.
#include <doctest/doctest.h>
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint32_t sessions = 1'000'000;
constexpr uint64_t ms = 1'000'000, second = 1000 * ms;
constexpr uint64_t step_ns = 10 * ms;          // a busy worker's housekeeping interval
constexpr uint32_t budget = static_cast<uint32_t>(step_ns * sweep_budget_max / sweep_ns);
constexpr uint64_t late_ns_max = 2 * second;
constexpr uint64_t early_ns_max = 300 * ms;    // a tick: what the time of the last packet is rounded by
constexpr uint32_t idle_s = 30;

uint64_t cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<uint64_t>(t.tv_sec) * second + static_cast<uint64_t>(t.tv_nsec);
}

class idle_bench {
 public:
  engine e;
  uint64_t now = 1000 * second;
  uint64_t cost_ns = 0, cost_ns_max = 0;  // CPU time of housekeeping: told, not judged

  idle_bench() {
    engine_options o;
    o.offline = true;
    o.sessions_max = 1u << 20;
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    snapshot_builder b;
    b.settings.udp_new_s = idle_s;
    b.interface(1, 2, 0);
    b.interface(2, 3, 1);
    b.address(0, "203.0.113.4", 120);
    b.address(1, "10.0.0.1", 104);
    b.route("0.0.0.0", 96, "203.0.113.1", 0);
    b.rule(1, SL_ACTION_ALLOW).log = 0;
    std::vector<uint8_t> buffer = b.build();
    uint64_t generation, microseconds;
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    e.set_neighbour(0, address_of("203.0.113.1"), mac);
    while (path().revalidate_some(now)) {}
    template_ = ip_frame("10.1.1.1", "198.51.100.1", protocol_udp, udp_datagram(1024, 53, 10), 0).bytes;
    const uint8_t to[6] = {2, 0, 0, 0, 0, 2};
    std::memcpy(template_.data(), to, 6);
    store16(template_.data() + 12, 0x0800);
  }
  pipeline& path() { return e.offline_worker().path(); }
  uint32_t live() { return e.offline_sessions().live(); }

  // A packet of each of these flows, at `now`.
  void send(uint32_t from, uint32_t to) {
    worker& w = e.offline_worker();
    rx_frame frames[batch_max];
    for (uint32_t at = from; at < to;) {
      unsigned n = 0;
      for (; n < batch_max && at < to; ++n, ++at) {
        uint64_t address = 0;
        REQUIRE(w.pool().get(&address));
        address += umem_headroom_bytes;
        uint8_t* f = w.area().at(address);
        std::memcpy(f, template_.data(), template_.size());
        // A source address a 256th, a port each; the header checksum is kept right by the identification.
        const uint16_t host = static_cast<uint16_t>(at >> 8), port = static_cast<uint16_t>(2000 + (at & 255));
        store16(f + 14 + 14, host ? host : 0xffff);
        store16(f + 34, port);
        store16_raw(f + 24, 0);
        store16_raw(f + 24, checksum_finish(checksum_add(0, f + 14, 20)));
        store16(f + 40, 0);
        frames[n] = {address, f, static_cast<uint32_t>(template_.size())};
      }
      path().process(frames, n, 1, false, now);
      for (const tx_item& item : path().output()) w.pool().put(item.address);
      path().output().clear();
    }
  }
  // One step of time; how many sessions ended in it.
  uint32_t step() {
    now += step_ns;
    const uint32_t before = live();
    const uint64_t began = cpu_ns();
    path().housekeeping(now, budget);
    const uint64_t took = cpu_ns() - began;
    cost_ns_max = std::max(cost_ns_max, took);
    cost_ns += took;
    return before - live();
  }

 private:
  std::vector<uint8_t> template_;
};

TEST_CASE("a million idle sessions end on time, one after the other") {
  idle_bench bench;
  // 1,000 come each step; then one in ten gets another packet, 20 s after its first.
  constexpr uint32_t each = 1000, later_steps = 2000, again = 10;
  std::vector<uint64_t> ends;  // when each session's time is over
  ends.reserve(sessions);
  for (uint32_t at = 0; at < sessions; at += each) {
    bench.send(at, at + each);
    ends.insert(ends.end(), each, bench.now + idle_s * second);
    CHECK(bench.step() == 0);
  }
  REQUIRE(bench.live() == sessions);
  for (uint32_t k = sessions / each; k < later_steps; ++k) CHECK(bench.step() == 0);
  for (uint32_t at = 0; at < sessions; at += each) {
    bench.send(at, at + each / again);
    for (uint32_t i = at; i < at + each / again; ++i) ends[i] = bench.now + idle_s * second;
    CHECK(bench.step() <= budget);
  }
  std::sort(ends.begin(), ends.end());
  auto due = [&](uint64_t at) { return static_cast<uint32_t>(std::upper_bound(ends.begin(), ends.end(), at) - ends.begin()); };
  uint32_t steps = 0, most = 0;
  uint64_t late = 0;
  while (bench.live() && ++steps < 10'000) {
    most = std::max(most, bench.step());
    const uint32_t gone = sessions - bench.live();
    REQUIRE_MESSAGE(gone <= due(bench.now + early_ns_max), "ended early at " << (bench.now - ends.front()) / ms << " ms after the first one's time");
    REQUIRE_MESSAGE(gone >= due(bench.now - late_ns_max), "late at " << (bench.now - ends.front()) / ms << " ms after the first one's time");
    if (gone < sessions) late = std::max(late, bench.now > ends[gone] ? bench.now - ends[gone] : 0);
  }
  CHECK(bench.live() == 0);
  CHECK(most <= budget);
  MESSAGE("the latest ended " << late / ms << " ms after its time; " << most << " ended at once at most; " << bench.cost_ns / ms << " ms of CPU in all, " << bench.cost_ns_max / 1000 << " us in one step at most");
}

TEST_CASE("a million sessions whose time is over at the same moment: ended within two seconds, in bounded portions") {
  idle_bench bench;
  bench.send(0, sessions);
  REQUIRE(bench.live() == sessions);
  const uint64_t over = bench.now + idle_s * second;
  uint32_t most = 0;
  while (bench.now + early_ns_max < over) CHECK(bench.step() == 0);
  while (bench.live()) {
    most = std::max(most, bench.step());
    REQUIRE_MESSAGE(bench.now <= over + late_ns_max, bench.live() << " are left");
  }
  CHECK(most <= budget);
  MESSAGE(most << " ended at once at most; " << bench.cost_ns / ms << " ms of CPU in all, " << bench.cost_ns_max / 1000 << " us in one step at most");
}

}  // namespace
}  // namespace sluice
