// SPDX-License-Identifier: Apache-2.0
// nat_commit_test.cc: a commit that changes a NAT pool under live sessions, and another engine that takes these over. The engine is driven
// offline, from memory; the second test needs root and BPF.
#include <doctest/doctest.h>

#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "engine.h"
#include "packets.h"
#include "pin_directory.h"

namespace sluice {
namespace {

using namespace testing;

constexpr unsigned untrust = 0, trust = 1;
constexpr uint16_t port_lo = 1024, port_hi = 1031;

struct bench {
  engine e;
  snapshot_builder policy = sample();
  uint64_t now = monotonic_ns();

  // pins: where sessions outlive the engine; empty: nowhere.
  explicit bench(const std::string& pins = {}) {
    engine_options o;
    o.offline = true;
    o.sessions_max = 1024;
    if (!pins.empty()) {
      const char* object = std::getenv("SLUICE_STEER_OBJECT");
      o.bpf_object = object ? object : "build/bpf/steer.bpf.o";
      o.pin_directory = pins;
    }
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    policy.nat_addresses[policy.nat_rules[0].pool.first] = {address_of("203.0.113.4"), port_lo, port_hi, 0, 0};
    policy.nat_rules.erase(policy.nat_rules.begin() + 1);
    policy.nat_rules[0].filtering = SL_FILTERING_ENDPOINT;
    apply();
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    e.set_neighbour(untrust, address_of("203.0.113.1"), mac);
    for (const char* host : {"10.0.1.10", "10.0.1.11"}) e.set_neighbour(trust, address_of(host), mac);
  }
  void apply() {
    std::string error;
    uint64_t generation, microseconds;
    std::vector<uint8_t> buffer = policy.build();
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    ++policy.generation;
  }
  injected send(unsigned interface, const char* src, uint16_t from, const char* dst, uint16_t to) {
    frame f = ip_frame(src, dst, protocol_udp, udp_datagram(from, to, 20), 6);
    const uint8_t own[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)}, other[6] = {6, 0, 0, 0, 0, 9};
    std::memcpy(f.bytes.data(), own, 6);
    std::memcpy(f.bytes.data() + 6, other, 6);
    store16(f.bytes.data() + 12, 0x0800);
    injected out;
    std::string error;
    now += 1'000'000;
    REQUIRE_MESSAGE(e.inject(static_cast<uint16_t>(interface), f.bytes.data(), f.bytes.size(), now, &out, &error), error);
    return out;
  }
  // The outside port of a flow from this inside port; 0: dropped.
  uint16_t open(uint16_t from, const char* inside = "10.0.1.10", const char* to = "198.51.100.7", uint16_t port = 53) {
    const injected out = send(trust, inside, from, to, port);
    return out.verdict == "forward" ? load16(out.frames[0].frame.data() + 34) : 0;
  }
  uint64_t gauge(unsigned which) { return e.counters()[unsigned{SL_COUNTER_COUNT} + unsigned{SL_DROP_REASON_COUNT} + which]; }
  uint64_t sessions() { return gauge(0); }
  uint64_t mappings() { return gauge(4); }
  bool answer(uint16_t to) { return send(untrust, "198.51.100.7", 53, "203.0.113.4", to).verdict == "forward"; }
};

}  // namespace

TEST_CASE("nat: a commit that makes a pool anew gives no port out that a session of before has") {
  bench b;
  std::set<uint16_t> outside;
  for (uint16_t i = 0; i < 4; ++i) outside.insert(b.open(static_cast<uint16_t>(5000 + i)));
  REQUIRE(outside.size() == 4);
  REQUIRE_FALSE(outside.contains(0));
  const std::set<uint16_t> before = outside;
  b.policy.settings.nat_port_reuse_s /= 2;
  b.apply();
  for (uint16_t i = 0; i < 4; ++i) {
    uint16_t port = 0;
    // The new pool finds out about the four by trying; the most that it tries for one packet is bounded.
    for (unsigned packets = 0; packets < 2 && !port; ++packets) port = b.open(static_cast<uint16_t>(6000 + i));
    CHECK(port >= port_lo);
    CHECK(port <= port_hi);
    CHECK(outside.insert(port).second);
  }
  for (const uint16_t port : before) CHECK(b.answer(port));
  for (uint16_t i = 0; i < 4; ++i) CHECK(before.contains(b.open(static_cast<uint16_t>(5000 + i))));
}

TEST_CASE("nat: a hairpinned session has both its mappings in the next engine, too") {
  sluice_test::pin_directory pins;
  uint16_t responder, originator;
  {
    bench before(pins.path);
    responder = before.open(4500, "10.0.1.11");
    REQUIRE(responder);
    originator = before.open(4000, "10.0.1.10", "203.0.113.4", responder);
    REQUIRE(originator);
    CHECK(before.mappings() == 2);
  }
  bench next(pins.path);
  REQUIRE(next.sessions() == 2);
  REQUIRE(next.mappings() == 2);
  injected timers;
  next.e.advance(next.now += 100'000'000'000, &timers);
  CHECK(next.send(trust, "10.0.1.11", 4500, "203.0.113.4", originator).verdict == "forward");
  next.e.advance(next.now += 100'000'000'000, &timers);
  CHECK(next.sessions() == 1);
  CHECK(next.mappings() == 2);
  CHECK(next.open(4500, "10.0.1.11") == responder);
  for (uint64_t seconds : {400ull, 400ull}) next.e.advance(next.now += seconds * 1'000'000'000, &timers);
  CHECK(next.sessions() == 0);
  CHECK(next.mappings() == 0);
}

}  // namespace sluice
