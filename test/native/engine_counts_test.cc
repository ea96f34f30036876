// SPDX-License-Identifier: Apache-2.0
// engine_counts_test.cc: what the engine tells of its load: sessions by state and protocol, ports of NAT pools, packets of
// interfaces, records not made, time of batches. The engine is driven offline, from memory.
#include <doctest/doctest.h>

#include "engine.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

constexpr unsigned untrust = 0, trust = 1, guests = 3;
constexpr uint64_t second_ns = 1'000'000'000;
constexpr unsigned gauges = 9;
constexpr unsigned drops_at = SL_COUNTER_COUNT, states_at = drops_at + SL_DROP_REASON_COUNT + gauges;
constexpr unsigned sessions_at = states_at + SL_SESSION_STATE_COUNT + SL_PORTS_MAX * SL_STEER_KEYS;
constexpr unsigned offloaded_at = sessions_at + unsigned{SL_SESSION_STATE_COUNT} * unsigned{SL_SESSION_PROTOCOL_COUNT}, latency_at = offloaded_at + 1;

struct bench {
  engine e;
  snapshot_builder policy = sample();
  uint64_t now = 1000 * second_ns;

  bench() {
    engine_options o;
    o.offline = true;
    o.sessions_max = 1024;
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    apply();
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    e.set_neighbour(untrust, address_of("203.0.113.1"), mac);
    e.set_neighbour(trust, address_of("10.0.1.10"), mac);
  }
  void apply() {
    std::string error;
    uint64_t generation, microseconds;
    std::vector<uint8_t> buffer = policy.build();
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    ++policy.generation;
  }
  injected send(unsigned interface, frame f) {
    const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)}, from[6] = {6, 0, 0, 0, 0, 9};
    std::memcpy(f.bytes.data(), to, 6);
    std::memcpy(f.bytes.data() + 6, from, 6);
    store16(f.bytes.data() + 12, 0x0800);
    injected out;
    std::string error;
    REQUIRE_MESSAGE(e.inject(static_cast<uint16_t>(interface), f.bytes.data(), f.bytes.size(), now, &out, &error), error);
    return out;
  }
  uint64_t sessions(unsigned state, unsigned protocol) { return e.counters()[sessions_at + state * SL_SESSION_PROTOCOL_COUNT + protocol]; }
  sl_nat_pool_record pool(const char* address) {
    for (const sl_nat_pool_record& r : e.nat_pools()) if (equal(r.address, address_of(address))) return r;
    FAIL("no such pool");
    return {};
  }
  sl_interface_record interface(uint32_t id) {
    for (const sl_interface_record& r : e.interfaces()) if (r.interface == id) return r;
    FAIL("no such interface");
    return {};
  }
};

frame datagram(const char* src, uint16_t from, const char* dst, uint16_t to, size_t payload = 20) { return ip_frame(src, dst, protocol_udp, udp_datagram(from, to, payload), 6); }
frame opening(uint16_t from, uint16_t to) {
  std::vector<uint8_t> l4;
  put16(l4, from);
  put16(l4, to);
  put32(l4, 1000);
  put32(l4, 0);
  l4.insert(l4.end(), {0x50, 0x02, 0x10, 0, 0, 0, 0, 0});
  return ip_frame("10.0.1.10", "198.51.100.7", protocol_tcp, std::move(l4), 16);
}
frame ping(uint16_t identifier) {
  std::vector<uint8_t> l4{8, 0, 0, 0};
  put16(l4, identifier);
  put16(l4, 1);
  return ip_frame("10.0.1.10", "198.51.100.7", protocol_icmp, std::move(l4), 2);
}

}  // namespace

TEST_CASE("counts: sessions by state and protocol") {
  bench b;
  REQUIRE(b.e.counters().size() == latency_at + SL_LATENCY_BUCKETS + 1);
  for (uint16_t port : {40000, 40001, 40002}) REQUIRE(b.send(trust, opening(port, 80)).verdict == "forward");
  injected sent = b.send(trust, datagram("10.0.1.10", 5000, "198.51.100.7", 53));
  REQUIRE(sent.verdict == "forward");
  REQUIRE(b.send(trust, datagram("10.0.1.10", 5001, "198.51.100.7", 53)).verdict == "forward");
  REQUIRE(b.send(trust, ping(7)).verdict == "forward");
  REQUIRE(b.send(trust, ip_frame("10.0.1.10", "10.0.2.10", 47, std::vector<uint8_t>(40), 0)).reason == SL_DROP_NONE);
  CHECK(b.sessions(SL_STATE_TCP_SYN_SENT, SL_SESSION_PROTOCOL_TCP) == 3);
  CHECK(b.sessions(SL_STATE_NEW, SL_SESSION_PROTOCOL_UDP) == 2);
  CHECK(b.sessions(SL_STATE_NEW, SL_SESSION_PROTOCOL_ICMP) == 1);
  CHECK(b.sessions(SL_STATE_NEW, SL_SESSION_PROTOCOL_OTHER) == 1);
  CHECK(b.e.counters()[states_at + SL_STATE_NEW] == 4);
  CHECK(b.e.counters()[states_at + SL_STATE_TCP_SYN_SENT] == 3);

  const uint8_t* ip = sent.frames[0].frame.data() + 14;
  char outside[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, ip + 12, outside, sizeof outside);
  REQUIRE(b.send(untrust, datagram("198.51.100.7", 53, outside, load16(ip + 20))).verdict == "forward");
  CHECK(b.sessions(SL_STATE_NEW, SL_SESSION_PROTOCOL_UDP) == 1);
  CHECK(b.sessions(SL_STATE_ESTABLISHED, SL_SESSION_PROTOCOL_UDP) == 1);
  CHECK(b.e.counters()[offloaded_at] == 0);

  injected out;
  b.now += 8000 * second_ns;
  b.e.advance(b.now, &out);
  const auto counters = b.e.counters();
  for (unsigned i = sessions_at; i <= offloaded_at; ++i) CHECK(counters[i] == 0);
}

TEST_CASE("counts: ports of a NAT pool are used, rest, and are free again") {
  bench b;
  const uint32_t all = 65535 - 1024;  // one of the range is reserved for good
  for (uint16_t port : {5000, 5001, 5002}) REQUIRE(b.send(trust, datagram("10.0.1.10", port, "198.51.100.7", 53)).verdict == "forward");
  REQUIRE(b.send(trust, opening(40000, 80)).verdict == "forward");
  sl_nat_pool_record r = b.pool("203.0.113.5");
  CHECK(r.used[0] == 1);
  CHECK(r.used[1] == 3);
  CHECK(r.used[2] == 0);
  CHECK(r.total[1] == all);
  CHECK(r.free[1] == all - 3);
  injected out;
  b.now += 121 * second_ns;  // udp_new_s is over
  b.e.advance(b.now, &out);
  r = b.pool("203.0.113.5");
  CHECK(r.used[1] == 0);
  CHECK(r.resting[1] == 3);
  CHECK(r.free[1] == all - 3);
  CHECK(b.pool("203.0.113.4").total[0] == 8);
  CHECK(b.e.nat_pools().size() == 3);
}

TEST_CASE("counts: a pool that two rules name stands in the list once") {
  bench b;
  sl_nat_rule& again = b.policy.nat(17, SL_NAT_SOURCE, 0b0100, 0b0001);
  again.pool = b.policy.pool("203.0.113.5", 1024, 65535);
  again.flags = SL_NAT_RULE_IPV4;
  b.apply();
  CHECK(b.e.nat_pools().size() == 3);
}

TEST_CASE("counts: packets and bytes of interfaces, both ways; a slot that another interface takes starts at zero") {
  bench b;
  const frame f = datagram("10.0.1.10", 5000, "198.51.100.7", 53, 100);
  for (int i = 0; i < 5; ++i) REQUIRE(b.send(trust, f).verdict == "forward");
  REQUIRE(b.send(untrust, datagram("198.51.100.7", 53, "203.0.113.5", 9, 50)).verdict == "drop");
  const sl_interface_record in = b.interface(2), out = b.interface(1);
  CHECK(in.rx_packets == 5);
  CHECK(in.rx_bytes == 5 * f.bytes.size());
  CHECK(out.tx_packets == 5);
  CHECK(out.tx_bytes == 5 * f.bytes.size());
  CHECK(out.rx_packets == 1);  // dropped, but received
  CHECK(in.tx_packets == 0);
  CHECK(b.interface(4).rx_packets == 0);

  b.policy.interfaces[trust].id = 77;
  b.apply();
  CHECK(b.interface(77).rx_packets == 0);
  CHECK(b.interface(77).rx_bytes == 0);
  CHECK(b.interface(1).tx_packets == 5);
  REQUIRE(b.send(trust, f).frames.size() <= 1);
  CHECK(b.interface(77).rx_packets == 1);
}

TEST_CASE("counts: of many drops at once each is counted, and has a record or is said to have none") {
  bench b;
  constexpr uint64_t drops = 2000;
  for (uint64_t i = 0; i < drops; ++i) REQUIRE(b.send(untrust, datagram("198.51.100.7", static_cast<uint16_t>(i + 1), "203.0.113.5", 9)).verdict == "drop");
  std::vector<uint8_t> into(1 << 20);
  uint32_t flows, records;
  b.e.records(into.data(), into.size(), &flows, &records);
  const auto counters = b.e.counters();
  uint64_t dropped = 0;
  for (unsigned i = 1; i < SL_DROP_REASON_COUNT; ++i) dropped += counters[drops_at + i];
  CHECK(dropped == drops);
  CHECK(records > 0);
  CHECK(counters[SL_COUNTER_DROP_RECORDS_SAMPLED] > 0);
  CHECK(records + counters[SL_COUNTER_RECORDS_LOST] + counters[SL_COUNTER_DROP_RECORDS_SAMPLED] == drops);
}

TEST_CASE("counts: a round's time is in the bucket of the next power of two") {
  worker_counters c;
  for (uint64_t ns : {0ull, 1ull, 2ull, 3ull, 4ull, 5ull, 1ull << 30, (1ull << 30) + 1, 1ull << 40}) c.add_latency(ns);
  const uint64_t expected[] = {2, 1, 2, 1};
  for (unsigned i = 0; i < 4; ++i) CHECK(c.latency[i] == expected[i]);
  CHECK(c.latency[30] == 1);
  CHECK(c.latency[31] == 2);
  CHECK(c.latency_ns == 15 + (1ull << 30) * 2 + 1 + (1ull << 40));
}

}  // namespace sluice
