// SPDX-License-Identifier: Apache-2.0
// offload_test.cc: the steering program against the engine. Both have one flow memory; a session is opened through the
// engine; then the same packet goes through both. What the program forwards must be, byte for byte, what the engine would
// have forwarded; what it does not forward it must not have touched. Needs root, BPF and network namespaces.
#include <bpf/bpf.h>
#include <doctest/doctest.h>
#include <net/if.h>

#include <cstdlib>
#include <random>

#include "engine.h"
#include "network_namespace.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr int xdp_redirect = 4;
// Of engine::counters().
constexpr unsigned offloaded_sessions_word = SL_COUNTER_COUNT + SL_DROP_REASON_COUNT + 9 + SL_SESSION_STATE_COUNT + SL_PORTS_MAX * SL_STEER_KEYS + unsigned{SL_SESSION_STATE_COUNT} * unsigned{SL_SESSION_PROTOCOL_COUNT};
constexpr unsigned untrust = 0, trust = 1, dmz = 2, guests = 3;

std::string steer_object() {
  const char* path = std::getenv("SLUICE_STEER_OBJECT");
  return path ? path : "build/bpf/steer.bpf.o";
}

// The netdevs whose indices sample() names: 2, 3 and 4.
struct ports_there {
  sluice_test::network_namespace there;
  sluice_test::inside in{there};
  ports_there() {
    for (unsigned index : {2, 3, 4}) sluice_test::run_ip("link add name p" + std::to_string(index) + " index " + std::to_string(index) + " type veth peer name q" + std::to_string(index) + " index " + std::to_string(10 + index));
  }
};

struct program_result { bool forwarded; std::vector<uint8_t> frame; };

struct appliance {
  engine e;
  snapshot_builder policy = sample();
  uint64_t now = monotonic_ns();
  uint32_t loopback = 1;

  appliance() {
    engine_options o;
    o.offline = true;
    o.bpf_object = steer_object();
    o.sessions_max = 256;
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    apply();
    const struct { uint16_t interface; const char* address; uint8_t last; } known[] = {
        {untrust, "203.0.113.1", 1}, {untrust, "2001:db8:1::1", 1}, {trust, "10.0.1.10", 2}, {trust, "2001:db8:2::10", 2}, {dmz, "10.0.2.10", 3}, {dmz, "10.0.2.20", 4}, {guests, "10.0.30.10", 5}};
    for (const auto& k : known) {
      const uint8_t mac[6] = {6, 0, 0, 0, 0, k.last};
      e.set_neighbour(k.interface, address_of(k.address), mac);
    }
  }
  void apply() {
    commit();
    // The workers' walk over the sessions, here at once.
    while (e.offline_worker().path().revalidate_some(now)) {}
  }
  // The walk is yet to come.
  void commit() {
    std::string error;
    uint64_t generation, microseconds;
    std::vector<uint8_t> buffer = policy.build();
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    now = monotonic_ns();
  }
  static unsigned port_of(unsigned interface) { return interface == guests ? trust : interface; }

  // The frame as it comes in on an interface: to our link address, with the interface's tag.
  static std::vector<uint8_t> on_wire(unsigned interface, const frame& f) {
    std::vector<uint8_t> out = f.bytes;
    const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(port_of(interface) + 1)}, from[6] = {6, 0, 0, 0, 0, 9};
    std::memcpy(out.data(), to, 6);
    std::memcpy(out.data() + 6, from, 6);
    store16(out.data() + 12, out[14] >> 4 == 4 ? 0x0800 : 0x86dd);
    if (interface == guests) { const uint8_t tag[4] = {0x81, 0, 0, 30}; out.insert(out.begin() + 12, tag, tag + 4); }
    return out;
  }
  injected through_engine(unsigned interface, const std::vector<uint8_t>& bytes) {
    injected out;
    std::string error;
    REQUIRE_MESSAGE(e.inject(static_cast<uint16_t>(interface), bytes.data(), bytes.size(), now, &out, &error), error);
    return out;
  }
  program_result through_program(unsigned interface, const std::vector<uint8_t>& bytes) {
    steering& s = *e.offline_steering();
    // A test run comes in on the loopback device, which stands for the interface's port.
    s.set_port(loopback, static_cast<uint16_t>(port_of(interface)), SL_STEER_PORT_UNTAGGED, static_cast<uint16_t>(port_of(interface)));
    s.set_vlans(loopback, {{30, guests}});
    std::vector<uint8_t> out(bytes.size() + 64);
    xdp_md context{};
    context.data_end = static_cast<uint32_t>(bytes.size());
    context.ingress_ifindex = loopback;
    LIBBPF_OPTS(bpf_test_run_opts, o);
    o.data_in = bytes.data();
    o.data_size_in = static_cast<uint32_t>(bytes.size());
    o.data_out = out.data();
    o.data_size_out = static_cast<uint32_t>(out.size());
    o.ctx_in = &context;
    o.ctx_size_in = sizeof context;
    REQUIRE(bpf_prog_test_run_opts(s.program_fd(), &o) == 0);
    out.resize(o.data_size_out);
    return {o.retval == xdp_redirect, out};
  }
  uint64_t counted(sl_steer_counter which) {
    uint64_t total = 0, row[SL_STEER_KEYS];
    for (unsigned slot = 0; slot < 4; ++slot) { e.offline_steering()->read_counters(slot, row); total += row[SL_STEER_BASE + which]; }
    return total;
  }
  // The packet goes through the program and, if that forwards it, must come out as the engine's. Otherwise untouched.
  bool compare(unsigned interface, const std::vector<uint8_t>& bytes, const char* what) {
    INFO(what);
    program_result program = through_program(interface, bytes);
    injected engine = through_engine(interface, bytes);
    if (!program.forwarded) {
      CHECK(program.frame == bytes);
      return false;
    }
    CHECK(engine.verdict == "forward");
    if (engine.frames.size() == 1) CHECK(program.frame == engine.frames[0].frame);
    else FAIL_CHECK("the engine sent " << engine.frames.size() << " frames");
    return true;
  }
};

std::vector<uint8_t> segment(uint16_t from, uint16_t to, uint32_t sequence, uint32_t acknowledgement, uint8_t flags, size_t payload, uint16_t window = 5000, std::vector<uint8_t> options = {}) {
  std::vector<uint8_t> l4;
  put16(l4, from);
  put16(l4, to);
  put32(l4, sequence);
  put32(l4, acknowledgement);
  l4.push_back(static_cast<uint8_t>((20 + options.size()) / 4 << 4));
  l4.push_back(flags);
  put16(l4, window);
  put16(l4, 0);
  put16(l4, 0);
  l4.insert(l4.end(), options.begin(), options.end());
  for (size_t i = 0; i < payload; ++i) l4.push_back(static_cast<uint8_t>(i));
  return l4;
}
frame tcp(const char* src, const char* dst, std::vector<uint8_t> l4) { return ip_frame(src, dst, protocol_tcp, std::move(l4), 16); }
frame udp(const char* src, uint16_t from, const char* dst, uint16_t to, size_t payload) { return ip_frame(src, dst, protocol_udp, udp_datagram(from, to, payload), 6); }
frame echo(const char* src, const char* dst, uint8_t type, uint16_t identifier) {
  std::vector<uint8_t> l4{type, 0, 0, 0};
  put16(l4, identifier);
  put16(l4, 7);
  for (unsigned i = 0; i < 56; ++i) l4.push_back(static_cast<uint8_t>(i));
  return ip_frame(src, dst, std::strchr(src, ':') ? protocol_icmpv6 : protocol_icmp, std::move(l4), 2);
}

// Where a frame that left by the engine came from, as a peer sees it: address as text and port.
struct endpoint { std::string address; uint16_t port; };
endpoint source_of(const std::vector<uint8_t>& sent) {
  size_t l3 = load16(sent.data() + 12) == 0x8100 ? 18 : 14;
  const uint8_t* ip = sent.data() + l3;
  bool v4 = ip[0] >> 4 == 4;
  char text[INET6_ADDRSTRLEN];
  inet_ntop(v4 ? AF_INET : AF_INET6, ip + (v4 ? 12 : 8), text, sizeof text);
  const uint8_t* l4 = ip + (v4 ? 20 : 40);
  uint8_t protocol = v4 ? ip[9] : ip[6];
  return {text, load16(l4 + (protocol == protocol_icmp || protocol == protocol_icmpv6 ? 4 : 0))};
}

constexpr uint8_t ack = 0x10, push_ack = 0x18, syn = 0x02, syn_ack = 0x12, fin_ack = 0x11, rst = 0x04;

struct family { const char *client, *server; };
const family families[] = {{"10.0.1.10", "198.51.100.7"}, {"2001:db8:2::10", "2001:db8:f::7"}};

}  // namespace

TEST_CASE("offload: TCP through source NAT, both ways, as the engine forwards it") {
  ports_there there;
  for (const family& f : families) {
    appliance a;
    auto out = [&](uint32_t seq, uint32_t acked, uint8_t flags, size_t payload) { return appliance::on_wire(trust, tcp(f.client, f.server, segment(40000, 80, seq, acked, flags, payload))); };
    injected first = a.through_engine(trust, out(1000, 0, syn, 0));
    REQUIRE(first.frames.size() == 1);
    endpoint nat = source_of(first.frames[0].frame);
    auto back = [&](uint32_t seq, uint32_t acked, uint8_t flags, size_t payload) { return appliance::on_wire(untrust, tcp(f.server, nat.address.c_str(), segment(80, nat.port, seq, acked, flags, payload))); };
    CHECK_FALSE(a.compare(untrust, back(5000, 1001, syn_ack, 0), "SYN-ACK is the engine's"));
    CHECK_FALSE(a.compare(trust, out(1001, 5001, ack, 0), "the handshake's last packet is the engine's"));
    CHECK(a.e.counters()[offloaded_sessions_word] == 1);
    CHECK(a.compare(trust, out(1001, 5001, push_ack, 100), "data out"));
    CHECK(a.compare(untrust, back(5001, 1101, push_ack, 1200), "data back"));
    CHECK(a.compare(trust, out(1101, 6201, ack, 0), "acknowledgement"));
    CHECK_FALSE(a.compare(untrust, back(5001 + 900000, 1101, ack, 10), "beyond the window"));
    CHECK_FALSE(a.compare(trust, out(1101, 6201 + 70000, ack, 10), "acknowledges what was never sent"));
    CHECK_FALSE(a.compare(untrust, back(4000, 0, rst, 0), "a blind reset"));
    CHECK(a.compare(untrust, back(6201, 1101, ack, 10), "the session stands"));
    // What only the program saw counts when a reset is judged: it advanced the sequence to 6301.
    REQUIRE(a.through_program(untrust, back(6211, 1101, ack, 90)).forwarded);
    CHECK_FALSE(a.compare(trust, out(1101, 6301, fin_ack, 0), "FIN"));
    CHECK_FALSE(a.compare(untrust, back(6301, 1102, ack, 0), "after a FIN all is the engine's"));
    injected end = a.through_engine(untrust, back(6301, 0, rst, 0));
    CHECK(end.verdict == "forward");  // exactly what was expected next
  }
}

TEST_CASE("offload: UDP and ping, answered, one-way, with and without translation, tagged and untagged") {
  ports_there there;
  for (const family& f : families) {
    appliance a;
    auto query = appliance::on_wire(trust, udp(f.client, 5353, f.server, 53, 30));
    injected first = a.through_engine(trust, query);
    REQUIRE(first.frames.size() == 1);
    endpoint nat = source_of(first.frames[0].frame);
    CHECK_FALSE(a.compare(trust, query, "unanswered"));
    auto answer = appliance::on_wire(untrust, udp(f.server, 53, nat.address.c_str(), nat.port, 200));
    CHECK_FALSE(a.compare(untrust, answer, "the first answer is the engine's"));
    CHECK(a.compare(untrust, answer, "an answer"));
    CHECK(a.compare(trust, query, "a query"));
    auto ping = appliance::on_wire(trust, echo(f.client, f.server, std::strchr(f.client, ':') ? 128 : 8, 77));
    injected pinged = a.through_engine(trust, ping);
    REQUIRE(pinged.frames.size() == 1);
    endpoint identifier = source_of(pinged.frames[0].frame);
    auto pong = appliance::on_wire(untrust, echo(f.server, identifier.address.c_str(), std::strchr(f.client, ':') ? 129 : 0, identifier.port));
    CHECK_FALSE(a.compare(untrust, pong, "first reply"));
    CHECK(a.compare(trust, ping, "echo request"));
    CHECK(a.compare(untrust, pong, "echo reply"));
    auto question = appliance::on_wire(untrust, echo(f.server, identifier.address.c_str(), std::strchr(f.client, ':') ? 128 : 8, identifier.port));
    CHECK_FALSE(a.compare(untrust, question, "a request on the replies' side"));
  }
  appliance a;
  auto one_way = appliance::on_wire(trust, udp("10.0.1.10", 9, "10.0.2.10", 9, 1));
  unsigned by_engine = 0;
  while (by_engine < 20 && !a.compare(trust, one_way, "one way, no NAT")) ++by_engine;
  CHECK(by_engine == SL_OFFLOAD_ONE_WAY_PACKETS);
  auto no_checksum = one_way;
  store16(no_checksum.data() + 14 + 20 + 6, 0);
  CHECK(a.compare(trust, no_checksum, "UDP without a checksum"));
  // From a VLAN to an untagged port, and back.
  auto tagged = appliance::on_wire(guests, udp("10.0.30.10", 1000, "198.51.100.9", 53, 10));
  injected first = a.through_engine(guests, tagged);
  REQUIRE(first.frames.size() == 1);
  endpoint nat = source_of(first.frames[0].frame);
  auto answer = appliance::on_wire(untrust, udp("198.51.100.9", 53, nat.address.c_str(), nat.port, 10));
  a.through_engine(untrust, answer);
  CHECK(a.compare(guests, tagged, "tag taken off"));
  CHECK(a.compare(untrust, answer, "tag put on"));
}

TEST_CASE("offload: a session whose turn after a commit comes late is handed over anew, behind the packets that went to the engine") {
  ports_there there;
  for (const family& f : families) {
    appliance a;
    auto handed_over = [&] { return a.e.offline_worker().path().counters().counter[SL_COUNTER_SESSIONS_OFFLOADED].load(); };
    auto query = appliance::on_wire(trust, udp(f.client, 5353, f.server, 53, 30));
    injected first = a.through_engine(trust, query);
    REQUIRE(first.frames.size() == 1);
    endpoint nat = source_of(first.frames[0].frame);
    a.through_engine(untrust, appliance::on_wire(untrust, udp(f.server, 53, nat.address.c_str(), nat.port, 200)));
    REQUIRE(a.through_program(trust, query).forwarded);
    // Before its turn the program goes by the generation before, for half a second: again, should the machine have stood still.
    bool forwarded = false;
    for (unsigned attempt = 0; attempt < 10 && !forwarded; ++attempt) {
      a.apply();
      ++a.policy.generation;
      a.commit();
      forwarded = a.through_program(trust, query).forwarded;
    }
    CHECK(forwarded);
    CHECK(handed_over() == 1);
    ++a.policy.generation;
    a.commit();
    CHECK_FALSE(a.compare(trust, query, "two commits later it does not"));
    CHECK(handed_over() == 2);
    CHECK(a.compare(trust, query, "handed over"));
  }
}

TEST_CASE("offload: what needs the engine goes there untouched") {
  ports_there there;
  appliance a;
  auto f = udp("10.0.1.10", 5000, "10.0.2.10", 53, 100);
  auto plain = appliance::on_wire(trust, f);
  a.through_engine(trust, plain);
  a.through_engine(dmz, appliance::on_wire(dmz, udp("10.0.2.10", 53, "10.0.1.10", 5000, 10)));
  REQUIRE(a.compare(trust, plain, "offloaded"));
  auto with = [&](auto&& change) { auto b = plain; change(b.data()); store16_raw(b.data() + 24, 0); store16_raw(b.data() + 24, checksum_finish(checksum_add(0, b.data() + 14, 20))); return b; };
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { p[22] = 1; }), "TTL 1"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { p[20] = 0x20; }), "first fragment"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { p[21] = 5; }), "later fragment"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { p[14] = 0x46; }), "options"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { store16(p + 16, 2000); }), "length beyond the frame"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { store16(p + 38, 3); }), "UDP length too small"));
  CHECK_FALSE(a.compare(trust, with([](uint8_t* p) { p[5] ^= 1; }), "another station"));
  CHECK_FALSE(a.compare(untrust, with([](uint8_t* p) { p[5] = 1; }), "another interface"));
  auto wrong = plain;
  wrong[24] ^= 1;
  CHECK_FALSE(a.compare(trust, wrong, "IPv4 checksum"));
  CHECK_FALSE(a.compare(trust, appliance::on_wire(trust, udp("10.0.1.10", 5000, "10.0.2.10", 53, 1300)), "above the egress MTU"));
  auto padded = plain;
  padded.resize(padded.size() + 7, 0xee);
  program_result kept = a.through_program(trust, padded);
  CHECK(kept.forwarded);
  CHECK(a.counted(SL_STEER_OFFLOADED) == 2);

  SUBCASE("a next hop that is gone, and back") {
    a.e.set_neighbour(dmz, address_of("10.0.2.10"), nullptr);
    CHECK_FALSE(a.through_program(trust, plain).forwarded);
    const uint8_t moved[6] = {6, 0, 0, 0, 0, 0x77};
    a.e.set_neighbour(dmz, address_of("10.0.2.10"), moved);
    program_result r = a.through_program(trust, plain);
    CHECK(r.forwarded);
    CHECK(std::memcmp(r.frame.data(), moved, 6) == 0);
  }
  SUBCASE("another next hop from one packet to the next: the program has noted the old one and must not trust it") {
    a.through_engine(trust, appliance::on_wire(trust, udp("10.0.1.10", 5001, "10.0.2.20", 53, 100)));
    auto& sessions = const_cast<session_table&>(a.e.offline_sessions());
    session *moved = nullptr, *other = nullptr;
    for (uint32_t i = 0; i < sessions.high_water(); ++i) {
      session& one = sessions.at(i);
      if (one.key0.src_port == 5000) moved = &one;
      if (one.key0.src_port == 5001) other = &one;
    }
    REQUIRE(moved);
    REQUIRE(other);
    for (unsigned i = 0; i < 10; ++i) REQUIRE(a.through_program(trust, plain).forwarded);
    moved->adjacency[0].store(other->adjacency[0].load());
    const uint8_t hop[6] = {6, 0, 0, 0, 0, 4};
    for (unsigned i = 0; i < 10; ++i) CHECK(std::memcmp(a.through_program(trust, plain).frame.data(), hop, 6) == 0);
    CHECK(a.compare(trust, plain, "by its new next hop"));
  }
  SUBCASE("a commit that still allows it") {
    a.policy.generation = 2;
    a.apply();
    CHECK(a.compare(trust, plain, "still offloaded"));
  }
  SUBCASE("a commit that no longer allows it ends it without a packet") {
    a.policy.generation = 2;
    a.policy.rules.clear();
    a.policy.rule(9, SL_ACTION_DENY);
    a.apply();
    CHECK(a.e.offline_sessions().live() == 0);
    CHECK_FALSE(a.through_program(trust, plain).forwarded);
    CHECK(a.through_engine(trust, plain).reason == SL_DROP_POLICY_DENY);
  }
  SUBCASE("a rule that keeps its sessions in the engine") {
    a.policy.generation = 2;
    for (sl_rule& rule : a.policy.rules) rule.flags |= SL_RULE_NO_OFFLOAD;
    a.apply();
    CHECK_FALSE(a.compare(trust, plain, "never"));
    a.policy.generation = 3;
    for (sl_rule& rule : a.policy.rules) rule.flags = 0;
    a.apply();
    a.through_engine(trust, plain);
    CHECK(a.compare(trust, plain, "again"));
  }
  SUBCASE("killed by an operator") {
    sl_flow_record records[4];
    uint32_t cursor = 0;
    REQUIRE(a.e.sessions(&cursor, records, 4) == 1);
    REQUIRE(a.e.kill_session(records[0].session_id));
    CHECK_FALSE(a.through_program(trust, plain).forwarded);
  }
}

TEST_CASE("offload: damaged packets of offloaded sessions: forwarded alike, or left alone") {
  ports_there there;
  appliance a;
  std::mt19937 random(4711);
  auto request = appliance::on_wire(trust, udp("10.0.1.10", 5000, "10.0.2.10", 53, 30));
  auto request6 = appliance::on_wire(trust, udp("2001:db8:2::10", 5000, "2001:db8:f::7", 53, 30));
  for (const auto& r : {request, request6}) for (unsigned i = 0; i <= SL_OFFLOAD_ONE_WAY_PACKETS; ++i) a.through_engine(trust, r);
  unsigned forwarded = 0;
  for (unsigned round = 0; round < 60; ++round) {
    auto bytes = round % 2 ? request : request6;
    // One to three bits behind the Ethernet header; the header's checksum is set right half of the time.
    for (unsigned flips = 1 + random() % 3; flips; --flips) { size_t at = 14 + random() % (bytes.size() - 14); bytes[at] ^= static_cast<uint8_t>(1u << random() % 8); }
    if (round % 4 == 1) { store16_raw(bytes.data() + 24, 0); store16_raw(bytes.data() + 24, checksum_finish(checksum_add(0, bytes.data() + 14, 20))); }
    if (random() % 8 == 0) bytes.resize(14 + random() % (bytes.size() - 14));
    forwarded += a.compare(trust, bytes, "damaged");
  }
  CHECK(forwarded > 0);
}

}  // namespace sluice
