// SPDX-License-Identifier: Apache-2.0
// eviction_test.cc: a session table that a flood of unanswered packets has filled, and one that conversations have filled. The engine is
// driven offline, from memory; both families, through source NAT.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "engine.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

constexpr unsigned untrust = 0, trust = 1;
constexpr uint32_t capacity = 1024;
constexpr uint64_t ms = 1'000'000, second_ns = 1000 * ms;

struct ends { const char* inside; const char* server; const char* outside; };
const ends families[] = {{"10.0.1.10", "198.51.100.7", "203.0.113.5"}, {"2001:db8:2::10", "2001:db8:f::7", "2001:db8:1::66"}};

struct bench {
  engine e;
  const ends& on;
  uint64_t now = 1000 * second_ns;

  explicit bench(const ends& family) : on(family) {
    engine_options o;
    o.offline = true;
    o.sessions_max = capacity;
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    snapshot_builder policy = sample();
    if (!is_ipv4(address_of(family.inside))) policy.nat_rules.erase(policy.nat_rules.begin(), policy.nat_rules.begin() + 2);  // IPv4's would be the first match
    std::vector<uint8_t> buffer = policy.build();
    uint64_t generation, microseconds;
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    for (const char* gateway : {"203.0.113.1", "2001:db8:1::1"}) e.set_neighbour(untrust, address_of(gateway), mac);
    for (const char* host : {"10.0.1.10", "2001:db8:2::10"}) e.set_neighbour(trust, address_of(host), mac);
  }
  injected send(unsigned interface, frame f) {
    const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)}, from[6] = {6, 0, 0, 0, 0, 9};
    std::memcpy(f.bytes.data(), to, 6);
    std::memcpy(f.bytes.data() + 6, from, 6);
    store16(f.bytes.data() + 12, f.bytes[14] >> 4 == 4 ? 0x0800 : 0x86dd);
    injected out;
    std::string error;
    now += ms;
    REQUIRE_MESSAGE(e.inject(static_cast<uint16_t>(interface), f.bytes.data(), f.bytes.size(), now, &out, &error), error);
    return out;
  }
  injected ask(uint16_t port, uint16_t to = 53) { return send(trust, ip_frame(on.inside, on.server, protocol_udp, udp_datagram(port, to, 20), 6)); }
  // What answers the packet that left.
  injected answer(const injected& asked, uint16_t from = 53) {
    REQUIRE(asked.frames.size() == 1);
    const uint8_t* ip = asked.frames[0].frame.data() + 14;
    return send(untrust, ip_frame(on.server, on.outside, protocol_udp, udp_datagram(from, load16(ip + (ip[0] >> 4 == 4 ? 20 : 40)), 20), 6));
  }
  void converse(uint16_t port) { REQUIRE(answer(ask(port)).verdict == "forward"); }
  static std::vector<uint8_t> segment(uint16_t from, uint16_t to, uint32_t sequence, uint32_t acknowledgement, uint8_t flags) {
    std::vector<uint8_t> l4;
    put16(l4, from);
    put16(l4, to);
    put32(l4, sequence);
    put32(l4, acknowledgement);
    l4.insert(l4.end(), {0x50, flags, 0x10, 0, 0, 0, 0, 0});
    return l4;
  }
  // A SYN; with its SYN-ACK when `answered`.
  void half_open(uint16_t port, bool answered) {
    const injected out = send(trust, ip_frame(on.inside, on.server, protocol_tcp, segment(port, 80, 1000, 0, tcp_syn), 16));
    REQUIRE(out.frames.size() == 1);
    if (!answered) return;
    const uint8_t* ip = out.frames[0].frame.data() + 14;
    const uint16_t outside = load16(ip + (ip[0] >> 4 == 4 ? 20 : 40));
    REQUIRE(send(untrust, ip_frame(on.server, on.outside, protocol_tcp, segment(80, outside, 5000, 1001, tcp_syn | tcp_ack), 16)).verdict == "forward");
  }
  uint64_t counter(unsigned which) { return e.counters()[which]; }
  uint64_t dropped(sl_drop_reason reason) { return e.counters()[unsigned{SL_COUNTER_COUNT} + unsigned{reason}]; }
  uint64_t evicted() { return counter(SL_COUNTER_SESSIONS_EVICTED); }
  uint32_t live() { return e.offline_sessions().live(); }
  uint64_t mappings() { return e.counters()[unsigned{SL_COUNTER_COUNT} + unsigned{SL_DROP_REASON_COUNT} + 4]; }
  std::vector<sl_flow_record> ended() {
    std::vector<uint8_t> into(8 << 20);
    uint32_t flows, drops;
    e.records(into.data(), into.size(), &flows, &drops);
    std::vector<sl_flow_record> out(flows);
    if (flows) std::memcpy(out.data(), into.data(), flows * sizeof out[0]);
    std::erase_if(out, [](const sl_flow_record& r) { return r.event != SL_EVENT_END; });
    return out;
  }
  std::set<uint16_t> ports_of_sessions() {
    std::set<uint16_t> out;
    std::vector<sl_flow_record> listed(capacity);
    uint32_t cursor = 0, count = e.sessions(&cursor, listed.data(), capacity);
    for (uint32_t i = 0; i < count; ++i) out.insert(listed[i].src_port);
    return out;
  }
};

constexpr uint16_t conversations = 100, first_conversation = 2000, first_of_flood = 10000;

}  // namespace

TEST_CASE("eviction: a flood that nobody answers displaces itself, and neither conversations nor those who come new") {
  for (const ends& family : families) {
    INFO(std::string(family.inside));
    bench b(family);
    for (uint16_t i = 0; i < conversations; ++i) b.converse(static_cast<uint16_t>(first_conversation + i));
    const uint32_t flood = 4 * capacity;
    for (uint32_t i = 0; i < flood; ++i) REQUIRE(b.ask(static_cast<uint16_t>(first_of_flood + i)).verdict == "forward");
    CHECK(b.dropped(SL_DROP_SESSION_TABLE_FULL) == 0);
    CHECK(b.live() < capacity);
    CHECK(b.evicted() == conversations + flood - b.live());
    CHECK(b.counter(SL_COUNTER_SESSIONS_ENDED) == b.evicted());
    CHECK(b.mappings() == b.live());  // the others' ports are given back

    // Who comes now gets in, and has an answer before the flood reaches it.
    const injected asked = b.ask(5000);
    for (unsigned i = 0; i < 50; ++i) REQUIRE(b.ask(static_cast<uint16_t>(60000 + i)).verdict == "forward");
    CHECK(b.answer(asked).verdict == "forward");
    const std::set<uint16_t> ports = b.ports_of_sessions();
    for (uint16_t i = 0; i < conversations; ++i) REQUIRE(ports.contains(static_cast<uint16_t>(first_conversation + i)));
    CHECK(ports.contains(5000));

    for (const sl_flow_record& r : b.ended()) {
      REQUIRE(r.end_reason == SL_END_EVICTED);
      REQUIRE(r.src_port >= first_of_flood);
      REQUIRE(r.packets[1] == 0);
    }
    injected out;
    b.now += 8000 * second_ns;
    b.e.advance(b.now, &out);
    CHECK(b.live() == 0);
    CHECK(b.mappings() == 0);
  }
}

TEST_CASE("eviction: the oldest of a sample goes, so that what is seldom answered but goes on stays") {
  bench b(families[0]);
  // One way only, and often; offloaded after eight packets without an answer.
  for (unsigned packets = 0; packets < SL_OFFLOAD_ONE_WAY_PACKETS + 2; ++packets) b.ask(4000, 514);
  for (uint32_t i = 0; i < 4 * capacity; ++i) {
    REQUIRE(b.ask(static_cast<uint16_t>(first_of_flood + i)).verdict == "forward");
    if (i % 100 == 0) b.ask(4000, 514);
    b.now += 10 * ms;
  }
  CHECK(b.evicted() > 2 * capacity);
  CHECK(b.ports_of_sessions().contains(4000));
}

TEST_CASE("eviction: half-open TCP connections make room, answered with a SYN-ACK or not") {
  for (const ends& family : families) {
    INFO(std::string(family.inside));
    bench b(family);
    b.converse(first_conversation);
    for (uint32_t i = 0; i < 2 * capacity; ++i) b.half_open(static_cast<uint16_t>(first_of_flood + i), i % 2);
    CHECK(b.dropped(SL_DROP_SESSION_TABLE_FULL) == 0);
    CHECK(b.evicted() == 2 * capacity + 1 - b.live());
    CHECK(b.ports_of_sessions().contains(first_conversation));
  }
}

TEST_CASE("eviction: of conversations none ends; what finds no room is dropped and counted") {
  for (const ends& family : families) {
    INFO(std::string(family.inside));
    bench b(family);
    for (uint32_t i = 0; i < capacity; ++i) b.converse(static_cast<uint16_t>(first_conversation + i));
    CHECK(b.evicted() == 0);
    CHECK(b.live() == capacity);
    for (uint16_t i = 0; i < 10; ++i) {
      const injected out = b.ask(static_cast<uint16_t>(first_of_flood + i));
      CHECK(out.reason == SL_DROP_SESSION_TABLE_FULL);
    }
    CHECK(b.dropped(SL_DROP_SESSION_TABLE_FULL) == 10);
    CHECK(b.evicted() == 0);
    CHECK(b.live() == capacity);
    for (uint32_t i = 0; i < capacity; ++i) REQUIRE(b.ask(static_cast<uint16_t>(first_conversation + i)).verdict == "forward");
  }
}

TEST_CASE("eviction: a table with room ends nothing") {
  bench b(families[0]);
  for (uint32_t i = 0; i < capacity * 7 / 8; ++i) REQUIRE(b.ask(static_cast<uint16_t>(first_of_flood + i)).verdict == "forward");
  CHECK(b.evicted() == 0);
  CHECK(b.live() == capacity * 7 / 8);
}

}  // namespace sluice
