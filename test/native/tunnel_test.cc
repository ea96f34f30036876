// SPDX-License-Identifier: Apache-2.0
// tunnel_test.cc: packets through WireGuard tunnels, from LAN to LAN: two engines offline, their outside interfaces joined by the test, which
// sees, keeps, changes and delivers what is on the wire. Keys are installed by hand, as TypeScript's handshakes would.
#include <doctest/doctest.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

#include "engine.h"
#include "network_namespace.h"
#include "packets.h"
#include "pin_directory.h"
#include "tunnel/aead.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint16_t lan = 0, wan = 1, tunnel = 2;          // interface indices
constexpr uint64_t wan_zone = 1, lan_zone = 2, tunnel_zone = 4;  // masks
constexpr uint16_t port_a = 51820, port_b = 51821;
constexpr uint32_t tunnel_id = 30, peer_id = 900, other_id = 901;
constexpr unsigned sealed_bytes = 32;

uint16_t zone_of(uint64_t mask) { return static_cast<uint16_t>(__builtin_ctzll(mask)); }

// One appliance. `self` is 1 or 2: its LAN is 10.self.0.0/24 and 2001:db8:self::/64, its outside 192.0.2.self and 2001:db8:ff::self.
struct appliance {
  engine e;
  snapshot_builder policy;
  uint64_t now = 1000 * second_ns;
  int self, other;
  uint32_t local_index = 0;
  uint8_t send_key = 0;  // 32 times this byte

  // pins: a bpffs; the flow memory is then that of the steering program's maps, and what an appliance before it left there.
  appliance(int self_, bool outer_v6 = false, const std::string& pins = {}, unsigned workers = 1) : self(self_), other(3 - self_) {
    engine_options o;
    o.offline = true;
    o.workers = workers;
    o.sessions_max = 1024;
    if (!pins.empty()) {
      const char* object = std::getenv("SLUICE_STEER_OBJECT");
      o.bpf_object = object ? object : "build/bpf/steer.bpf.o";
      o.pin_directory = pins;
    }
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    policy.settings.default_action = SL_ACTION_REJECT;
    policy.interface(10, 2, zone_of(lan_zone));
    policy.interface(20, 3, zone_of(wan_zone));
    policy.wireguard(tunnel_id, zone_of(tunnel_zone), self == 1 ? port_a : port_b);
    policy.address(lan, v4("10.%.0.1", self), 120);
    policy.address(lan, v4("2001:db8:%::1", self), 64);
    policy.address(wan, v4("192.0.2.%", self), 120);
    policy.address(wan, v4("2001:db8:ff::%", self), 64);
    policy.address(tunnel, v4("10.100.0.%", self), 120);
    policy.address(tunnel, v4("2001:db8:100::%", self), 64);
    policy.route(v4("10.%.0.0", other), 112, "::", tunnel);
    policy.route(v4("2001:db8:%::", other), 48, "::", tunnel);
    policy.peer(peer_id, {{v4("10.%.0.0", other), 112}, {v4("10.100.0.%", other), 128}, {v4("2001:db8:%::", other), 48}, {v4("2001:db8:100::%", other), 128}});
    policy.rule(1, SL_ACTION_ALLOW, lan_zone, tunnel_zone);
    policy.rule(2, SL_ACTION_ALLOW, tunnel_zone, lan_zone);
    apply();
    for (const char* host : {"10.%.0.10", "2001:db8:%::10"}) neighbour(lan, v4(host, self));
    for (const char* host : {"192.0.2.%", "2001:db8:ff::%"}) neighbour(wan, v4(host, other));
    endpoint(outer_v6 ? v4("2001:db8:ff::%", other) : v4("192.0.2.%", other));
  }
  // The text with its % replaced; lives until the eighth call from here.
  static const char* v4(const char* pattern, int number) {
    static std::string texts[8];
    static unsigned next;
    std::string& text = texts[next++ % 8] = pattern;
    if (size_t at = text.find('%'); at != std::string::npos) text.replace(at, 1, std::to_string(number));
    return text.c_str();
  }
  void apply() {
    std::string error;
    uint64_t generation, microseconds;
    std::vector<uint8_t> buffer = policy.build();
    REQUIRE_MESSAGE(e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error), error);
    ++policy.generation;
  }
  void neighbour(uint16_t interface, const char* address) {
    // The other appliance's outside interface has the link address of ours.
    const uint8_t outside[6] = {2, 0, 0, 0, 0, wan + 1}, host[6] = {6, 0, 0, 0, 0, 9};
    e.set_neighbour(interface, address_of(address), interface == wan ? outside : host);
  }
  void endpoint(const char* address, uint32_t peer = peer_id) {
    sl_wireguard_endpoint where{};
    where.address = address_of(address);
    where.port = self == 1 ? port_b : port_a;
    REQUIRE(e.wireguard_endpoint(peer, where));
  }
  injected receive(uint16_t interface, std::vector<uint8_t> bytes) {
    const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)}, from[6] = {6, 0, 0, 0, 0, 9};
    std::memcpy(bytes.data(), to, 6);
    std::memcpy(bytes.data() + 6, from, 6);
    store16(bytes.data() + 12, bytes[14] >> 4 == 4 ? 0x0800 : 0x86dd);
    injected out;
    std::string error;
    REQUIRE_MESSAGE(e.inject(interface, bytes.data(), bytes.size(), now, &out, &error), error);
    return out;
  }
  injected receive(uint16_t interface, const frame& f) { return receive(interface, f.bytes); }
  injected wait(uint64_t ns) {
    injected out;
    now += ns;
    e.advance(now, &out);
    return out;
  }
  uint64_t counter(unsigned which) { return e.counters()[which]; }
  uint64_t dropped(sl_drop_reason reason) { return e.counters()[SL_COUNTER_COUNT + unsigned{reason}]; }
  std::vector<sl_wireguard_event_record> events() {
    std::vector<uint8_t> into(1 << 16);
    std::vector<sl_wireguard_event_record> out;
    while (size_t bytes = e.wireguard_events(into.data(), into.size()))
      for (size_t at = 0; at < bytes; at += out.back().record_bytes) { out.emplace_back(); std::memcpy(&out.back(), into.data() + at, sizeof out.back()); }
    return out;
  }
  unsigned count(sl_wireguard_event what) {
    unsigned n = 0;
    for (const auto& event : events()) n += event.event == what;
    return n;
  }
  sl_wireguard_peer_record record(uint32_t id = peer_id) {
    for (const sl_wireguard_peer_record& r : e.wireguard_peers()) if (r.id == id) return r;
    FAIL("no such peer");
    return {};
  }
  void all_buffers_are_back() {
    const uint64_t* gauges = nullptr;
    const std::vector<uint64_t> counters = e.counters();
    gauges = counters.data() + SL_COUNTER_COUNT + unsigned{SL_DROP_REASON_COUNT};
    CHECK(gauges[2] == gauges[3]);
  }
};

// A session between two appliances, `from` having initiated it.
void connect(appliance& from, appliance& to, uint32_t peer_at_from = peer_id, uint32_t peer_at_to = peer_id) {
  static uint8_t fresh = 0;
  CHECK(from.wait(0).frames.empty());  // installed at the time that the test says
  CHECK(to.wait(0).frames.empty());
  from.local_index = from.e.wireguard_index();
  to.local_index = to.e.wireguard_index();
  REQUIRE(from.local_index != 0);
  sl_wireguard_keypair left{}, right{};
  left.peer_id = peer_at_from;
  right.peer_id = peer_at_to;
  left.local_index = right.remote_index = from.local_index;
  left.remote_index = right.local_index = to.local_index;
  left.initiator = 1;
  left.created_ns = from.now;
  right.created_ns = to.now;
  from.send_key = ++fresh;
  to.send_key = ++fresh;
  std::memset(left.send_key, from.send_key, 32);
  std::memset(right.receive_key, from.send_key, 32);
  std::memset(left.receive_key, to.send_key, 32);
  std::memset(right.send_key, to.send_key, 32);
  std::string error;
  REQUIRE_MESSAGE(from.e.wireguard_install(&left, &error), error);
  REQUIRE_MESSAGE(to.e.wireguard_install(&right, &error), error);
}

// Both with a session that both send with.
struct pair {
  appliance a, b;
  explicit pair(bool outer_v6 = false) : a(1, outer_v6), b(2, outer_v6) {
    connect(a, b);
    REQUIRE(a.e.wireguard_send(tunnel_id, peer_id, {}, nullptr));
    for (const auto& f : a.wait(1).frames) b.receive(wan, f.frame);
    REQUIRE(b.record().current_created_ns != 0);
    a.events();
    b.events();
  }
};

frame datagram(const char* src, const char* dst, size_t payload = 64, uint16_t from = 4000, uint16_t to = 5000) { return ip_frame(src, dst, protocol_udp, udp_datagram(from, to, payload), 6); }
frame from_a(size_t payload = 64) { return datagram("10.1.0.10", "10.2.0.10", payload); }
frame from_b(size_t payload = 64) { return datagram("10.2.0.10", "10.1.0.10", payload, 5000, 4000); }

const uint8_t* ip_of(const std::vector<uint8_t>& frame) { return frame.data() + 14; }
unsigned ip_bytes(const std::vector<uint8_t>& frame) { return static_cast<unsigned>(frame.size()) - 14; }
unsigned outer_bytes(const std::vector<uint8_t>& wire) { return (ip_of(wire)[0] >> 4 == 4 ? 20u : 40u) + 8; }
uint8_t traffic_class(const uint8_t* ip) { return ip[0] >> 4 == 4 ? ip[1] : static_cast<uint8_t>(ip[0] << 4 | ip[1] >> 4); }
void set_traffic_class(std::vector<uint8_t>& frame, uint8_t value) {
  uint8_t* ip = frame.data() + 14;
  if (ip[0] >> 4 == 4) {
    ip[1] = value;
    store16_raw(ip + 10, 0);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
  } else {
    store32(ip, 0x60000000u | static_cast<uint32_t>(value) << 20);
  }
}

// The one frame that leaves.
std::vector<uint8_t> only(const injected& out, uint16_t interface) {
  REQUIRE_MESSAGE(out.frames.size() == 1, "verdict " << out.verdict << ", reason " << out.reason);
  REQUIRE(out.frames[0].interface == interface);
  return out.frames[0].frame;
}

// What arrives is what was sent, but for the hops on the way.
void same_packet(const frame& sent, const std::vector<uint8_t>& arrived, unsigned hops = 2) {
  frame got;
  got.bytes = arrived;
  REQUIRE(got.parse() == SL_DROP_NONE);
  CHECK(l4_checksum_valid(got.p));
  REQUIRE(arrived.size() == sent.bytes.size());
  std::vector<uint8_t> want = sent.bytes;
  uint8_t* ip = want.data() + 14;
  if (ip[0] >> 4 == 4) {
    ip[8] = static_cast<uint8_t>(ip[8] - hops);
    store16_raw(ip + 10, 0);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
  } else {
    ip[7] = static_cast<uint8_t>(ip[7] - hops);
  }
  CHECK(std::memcmp(want.data() + 14, arrived.data() + 14, arrived.size() - 14) == 0);
}

}  // namespace

TEST_CASE("tunnel: LAN to LAN and back, both families inside and outside") {
  for (bool outer_v6 : {false, true}) {
    CAPTURE(outer_v6);
    pair p(outer_v6);
    const struct { frame out, back; } ways[] = {{from_a(), from_b()},
        {datagram("2001:db8:1::10", "2001:db8:2::10"), datagram("2001:db8:2::10", "2001:db8:1::10", 64, 5000, 4000)}};
    for (const auto& way : ways) {
      const auto wire = only(p.a.receive(lan, way.out), wan);
      const uint8_t* ip = ip_of(wire);
      REQUIRE(load16(wire.data() + 12) == (outer_v6 ? 0x86dd : 0x0800));
      frame outer;
      outer.bytes = wire;
      REQUIRE(outer.parse() == SL_DROP_NONE);
      CHECK(outer.p.key.protocol == protocol_udp);
      CHECK(outer.p.key.src_port == port_a);
      CHECK(outer.p.key.dst_port == port_b);
      CHECK(equal(outer.p.key.src, address_of(outer_v6 ? "2001:db8:ff::1" : "192.0.2.1")));
      CHECK(equal(outer.p.key.dst, address_of(outer_v6 ? "2001:db8:ff::2" : "192.0.2.2")));
      CHECK(ip[outer_v6 ? 7 : 8] == 64);
      CHECK(l4_checksum_valid(outer.p));
      if (!outer_v6) CHECK(ip[6] < 0x40);
      const unsigned inner = ip_bytes(way.out.bytes);
      CHECK(ip_bytes(wire) == outer_bytes(wire) + sealed_bytes + (inner + 15) / 16 * 16);
      // Nothing of the packet can be read on the wire.
      const std::vector<uint8_t> payload(way.out.bytes.end() - 32, way.out.bytes.end());
      CHECK(std::search(wire.begin(), wire.end(), payload.begin(), payload.end()) == wire.end());
      same_packet(way.out, only(p.b.receive(wan, wire), lan));
      same_packet(way.back, only(p.a.receive(wan, only(p.b.receive(lan, way.back), wan)), lan));
    }
    CHECK(p.a.record().tx_packets == 3);  // with the keepalive
    CHECK(p.b.record().rx_packets == 3);
    CHECK(p.a.record().rx_packets == 2);
    CHECK(p.a.counter(SL_COUNTER_WIREGUARD_SEALED) == 3);
    CHECK(p.b.counter(SL_COUNTER_WIREGUARD_OPENED) == 3);
    CHECK(p.a.e.interfaces()[tunnel].tx_packets == 2);
    CHECK(p.a.e.interfaces()[tunnel].rx_packets == 2);
    CHECK(p.b.e.interfaces()[tunnel].rx_packets == 2);
    CHECK(p.a.e.interfaces()[wan].tx_packets == 3);
    p.a.wait(8000 * second_ns);
    p.b.wait(8000 * second_ns);
    p.a.all_buffers_are_back();
    p.b.all_buffers_are_back();
  }
}

TEST_CASE("tunnel: sessions with a tunnel on either side are never offloaded, and others still are") {
  pair p;
  for (int i = 0; i < 20; ++i) only(p.a.receive(lan, from_a()), wan);
  const session_table& sessions = p.a.e.offline_sessions();
  REQUIRE(sessions.high_water() > 0);
  CHECK(sessions.at(0).offload.load() == SL_OFFLOAD_NEVER);
}

TEST_CASE("tunnel: source NAT to the tunnel's address, and its answers") {
  pair p;
  sl_nat_rule& nat = p.a.policy.nat(11, SL_NAT_SOURCE, lan_zone, tunnel_zone);
  nat.pool = p.a.policy.pool("10.100.0.1", 20000, 20009, 0);
  nat.flags = SL_NAT_RULE_IPV4;
  for (auto& address : p.a.policy.addresses) if (address.interface == tunnel && is_ipv4(address.address)) address.nat_slot = 0;
  p.a.apply();
  const auto arrived = only(p.b.receive(wan, only(p.a.receive(lan, from_a()), wan)), lan);
  CHECK(load32(ip_of(arrived) + 12) == 0x0a640001);
  const uint16_t outside = load16(ip_of(arrived) + 20);
  CHECK(outside >= 20000);
  CHECK(outside <= 20009);
  const auto back = only(p.a.receive(wan, only(p.b.receive(lan, datagram("10.2.0.10", "10.100.0.1", 64, 5000, outside)), wan)), lan);
  same_packet(from_b(), back);
  // The tunnel's own port is not NAT's to give out.
  for (const sl_nat_pool_record& pool : p.a.e.nat_pools()) CHECK(pool.used[1] == 1);
}

TEST_CASE("tunnel: rules go by the tunnel's zone") {
  pair p;
  p.b.policy.rules.clear();
  p.b.policy.rule(1, SL_ACTION_ALLOW, lan_zone, tunnel_zone);
  p.b.policy.rule(2, SL_ACTION_ALLOW, tunnel_zone, lan_zone).services = p.b.policy.service(protocol_udp, 5000, 5000);
  p.b.policy.rule(3, SL_ACTION_ALLOW, wan_zone, lan_zone);
  p.b.apply();
  CHECK(p.b.receive(wan, only(p.a.receive(lan, from_a()), wan)).verdict == "forward");
  const frame forbidden = datagram("10.1.0.10", "10.2.0.10", 64, 4000, 5001);
  const injected refused = p.b.receive(wan, only(p.a.receive(lan, forbidden), wan));
  CHECK(refused.reason == SL_DROP_POLICY_REJECT);
  // The refusal comes back through the tunnel, to who asked.
  const auto told = only(p.a.receive(wan, only(refused, wan)), lan);
  CHECK(ip_of(told)[9] == protocol_icmp);
  CHECK(ip_of(told)[20] == 3);
  CHECK(ip_of(told)[21] == 13);
  CHECK(load32(ip_of(told) + 12) == 0x0a640002);  // from the tunnel's address there
  CHECK(load32(ip_of(told) + 16) == 0x0a01000a);
}

TEST_CASE("tunnel: a source that is not among the peer's allowed IPs, and one that is, but is routed elsewhere") {
  pair p;
  // B lets out what A does not expect of it.
  p.b.policy.address(lan, "10.9.0.1", 120);
  p.b.apply();
  p.b.receive(lan, datagram("10.9.0.10", "10.1.0.10"));
  CHECK(p.a.receive(wan, only(p.b.receive(lan, datagram("10.9.0.10", "10.1.0.10")), wan)).reason == SL_DROP_WIREGUARD_ALLOWED_IPS);
  p.a.policy.wireguards.clear();
  p.a.policy.wireguard_peers.clear();
  p.a.policy.wireguards.push_back({tunnel, port_a, {0, 0}});
  p.a.policy.peer(peer_id, {{"10.2.0.0", 112}, {"10.9.0.0", 112}, {"10.100.0.2", 128}});
  p.a.apply();
  CHECK(p.a.receive(wan, only(p.b.receive(lan, datagram("10.9.0.10", "10.1.0.10")), wan)).reason == SL_DROP_ANTI_SPOOFING);
  p.a.policy.route("10.9.0.0", 112, "::", tunnel);
  p.a.apply();
  CHECK(p.a.receive(wan, only(p.b.receive(lan, datagram("10.9.0.10", "10.1.0.10")), wan)).verdict == "forward");
  // The longest prefix decides whose it is: a part of it belongs to another peer now.
  p.a.policy.peer(other_id, {{"10.9.0.0", 120}});
  p.a.apply();
  CHECK(p.a.receive(wan, only(p.b.receive(lan, datagram("10.9.0.10", "10.1.0.10")), wan)).reason == SL_DROP_WIREGUARD_ALLOWED_IPS);
}

TEST_CASE("tunnel: packets of every size; padded to 16, never beyond the tunnel's MTU") {
  for (bool outer_v6 : {false, true}) {
    pair p(outer_v6);
    for (size_t payload = 0; payload <= 1420 - 28; payload += payload < 100 || payload > 1300 ? 1 : 13) {
      CAPTURE(payload);
      const frame f = from_a(payload);
      const auto wire = only(p.a.receive(lan, f), wan);
      const unsigned inner = ip_bytes(f.bytes), padded = std::min((inner + 15) / 16 * 16, 1420u);
      REQUIRE(ip_bytes(wire) == outer_bytes(wire) + sealed_bytes + padded);
      REQUIRE(ip_bytes(wire) <= 1500);
      same_packet(f, only(p.b.receive(wan, wire), lan));
    }
  }
}

TEST_CASE("tunnel: larger than its MTU") {
  pair p;
  SUBCASE("with DF: the sender is told the tunnel's MTU") {
    frame f = from_a(1420 - 28 + 1);
    store16(f.bytes.data() + 14 + 6, 0x4000);
    set_traffic_class(f.bytes, 0);
    const injected out = p.a.receive(lan, f);
    CHECK(out.reason == SL_DROP_TOO_BIG);
    const auto told = only(out, lan);
    CHECK(ip_of(told)[20] == 3);
    CHECK(ip_of(told)[21] == 4);
    CHECK(load16(ip_of(told) + 26) == 1420);
  }
  SUBCASE("IPv6: the sender is told") {
    const injected out = p.a.receive(lan, datagram("2001:db8:1::10", "2001:db8:2::10", 1420 - 48 + 1));
    CHECK(out.reason == SL_DROP_TOO_BIG);
    CHECK(load32(ip_of(only(out, lan)) + 44) == 1420);
  }
  SUBCASE("without DF: cut inside the tunnel, each piece whole outside") {
    const frame f = from_a(3000);
    const injected out = p.a.receive(lan, f);
    REQUIRE(out.frames.size() == 3);
    size_t bytes = 0;
    for (const auto& wire : out.frames) {
      CHECK(ip_bytes(wire.frame) <= 1500);
      CHECK(load16(ip_of(wire.frame) + 6) == 0);
      bytes += ip_bytes(only(p.b.receive(wan, wire.frame), lan)) - 20;
    }
    CHECK(bytes == 3008);
  }
  SUBCASE("a way that is narrower than the tunnel narrows it") {
    p.a.policy.interfaces[wan].mtu_bytes = 1400;
    p.a.apply();
    frame fits = from_a(1340 - 28), large = from_a(1340 - 28 + 1);
    CHECK(ip_bytes(only(p.a.receive(lan, fits), wan)) <= 1400);
    store16(large.bytes.data() + 14 + 6, 0x4000);
    set_traffic_class(large.bytes, 0);
    CHECK(load16(ip_of(only(p.a.receive(lan, large), lan)) + 26) == 1340);
  }
  SUBCASE("what does not even carry IPv6's least MTU is cut outside") {
    p.a.policy.interfaces[wan].mtu_bytes = 1000;
    p.a.apply();
    CHECK(p.a.receive(lan, from_a(1280 - 28)).frames.size() == 2);
  }
}

namespace {

// What a router says to `about`'s sender: `bytes` fit.
frame too_big(const std::vector<uint8_t>& about, uint32_t bytes, const char* to = "2001:db8:ff::1") {
  std::vector<uint8_t> icmp{2, 0, 0, 0, 0, 0, 0, 0};
  store32(icmp.data() + 4, bytes);
  const size_t quoted = std::min<size_t>(about.size() - 14, 1280 - 48);
  icmp.insert(icmp.end(), about.begin() + 14, about.begin() + 14 + static_cast<ptrdiff_t>(quoted));
  return ip_frame("2001:db8:ee::1", to, protocol_icmpv6, icmp, 2);
}

// As large as the tunnel says that it carries, over IPv6.
frame full_size(size_t bytes = 1420) { return datagram("2001:db8:1::10", "2001:db8:2::10", bytes - 48); }

}  // namespace

TEST_CASE("tunnel: a router outside carries less than the link, over IPv6 (RFC 8201)") {
  pair p(true);
  p.a.policy.route("::", 0, "2001:db8:ff::2", wan);
  p.a.apply();
  const auto wire = only(p.a.receive(lan, full_size()), wan);
  REQUIRE(ip_bytes(wire) == 1500);
  // The size that senders inside are told; 0: none, it went.
  auto told = [&] {
    const injected out = p.a.receive(lan, full_size());
    return out.frames[0].interface == lan ? load32(ip_of(only(out, lan)) + 44) : 0;
  };
  SUBCASE("senders inside are told what is left, and that fits outside; ten minutes later it is tried again") {
    CHECK(p.a.receive(wan, too_big(wire, 1400)).frames.empty());
    p.a.receive(lan, full_size(1300));  // the way is looked at when something goes
    CHECK(told() == 1400 - 80);
    CHECK(ip_bytes(only(p.a.receive(lan, full_size(1400 - 80)), wan)) == 1400);
    SUBCASE("a narrower one counts, a wider one does not") {
      const auto narrower = only(p.a.receive(lan, full_size(1320)), wan);
      p.a.receive(wan, too_big(narrower, 1380));
      p.a.receive(wan, too_big(wire, 1450));
      p.a.receive(lan, full_size(1290));
      CHECK(told() == 1380 - 80);
    }
    SUBCASE("where the peer is elsewhere, the way is another") {
      p.a.endpoint("2001:db8:ff::3");
      p.a.neighbour(wan, "2001:db8:ff::3");
      p.a.receive(lan, full_size(1290));
      CHECK(told() == 0);
    }
    p.a.wait(599 * second_ns);
    connect(p.a, p.b);
    p.a.receive(lan, full_size(1290));
    CHECK((told() == 0) == (p.a.record().endpoint.address.bytes[15] == 3));
    p.a.wait(2 * second_ns);
    CHECK(told() == 0);
  }
  SUBCASE("1,280 inside is carried all the same: cut outside, and put together again it is the message") {
    p.a.receive(wan, too_big(wire, 1280));
    p.a.receive(lan, full_size(1000));
    CHECK(told() == 1280);
    const frame f = full_size(1280);
    const injected out = p.a.receive(lan, f);
    REQUIRE(out.frames.size() == 2);
    std::vector<uint8_t> whole(out.frames[0].frame.begin(), out.frames[0].frame.begin() + 54);
    for (const auto& piece : out.frames) {
      const uint8_t* ip = ip_of(piece.frame);
      CHECK(ip_bytes(piece.frame) <= 1280);
      CHECK(ip[6] == protocol_ipv6_fragment);
      CHECK(load16(ip + 4) + 40 == ip_bytes(piece.frame));
      CHECK((load16(ip + 42) & 0xfff8) == whole.size() - 54);
      CHECK((load16(ip + 42) & 1) == (&piece == &out.frames[0]));
      CHECK(load32(ip + 44) == load32(ip_of(out.frames[0].frame) + 44));
      whole.insert(whole.end(), piece.frame.begin() + 62, piece.frame.end());
    }
    whole[14 + 6] = protocol_udp;
    store16(whole.data() + 14 + 4, static_cast<uint16_t>(whole.size() - 54));
    same_packet(f, only(p.b.receive(wan, whole), lan));
    p.a.wait(8000 * second_ns);
    p.a.all_buffers_are_back();
  }
  SUBCASE("nobody who did not see the message is believed") {
    auto changed = [&](size_t at, uint8_t by) { auto other = wire; other[at] ^= by; return other; };
    const size_t message = 14 + 40 + 8;
    CHECK(p.a.receive(wan, too_big(changed(message + 4, 1), 1400)).host.size() == 1);   // the receiver's index
    CHECK(p.a.receive(wan, too_big(changed(message + 10, 1), 1400)).host.size() == 1);  // a counter to come
    CHECK(p.a.receive(wan, too_big(changed(message, 3), 1400)).host.size() == 1);       // a handshake's type
    CHECK(p.a.receive(wan, too_big(changed(14 + 39, 1), 1400)).host.size() == 1);       // another destination
    CHECK(p.a.receive(wan, too_big(changed(14 + 43, 1), 1400)).host.size() == 1);       // another port there
    CHECK(p.a.receive(wan, too_big({wire.begin(), wire.begin() + static_cast<ptrdiff_t>(message) + 15}, 1400)).host.size() == 1);
    CHECK(p.a.receive(wan, too_big(wire, 1279)).host.size() == 1);
    CHECK(p.a.receive(wan, too_big(wire, 1500)).host.size() == 1);
    p.a.receive(lan, full_size(1290));
    CHECK(told() == 0);
  }
  SUBCASE("errors are looked at ten times a second, and the burst of one") {
    auto wrong = wire;
    wrong[14 + 40 + 8 + 4] ^= 1;
    for (int i = 0; i < 20; ++i) p.a.receive(wan, too_big(wrong, 1400));
    p.a.receive(wan, too_big(wire, 1400));
    p.a.receive(lan, full_size(1290));
    CHECK(told() == 0);
    p.a.wait(second_ns / 5);
    p.a.receive(wan, too_big(wire, 1400));
    p.a.receive(lan, full_size(1290));
    CHECK(told() == 1320);
  }
}

TEST_CASE("tunnel: ICMP errors of others go through it with the session that they are about") {
  pair p;
  const auto there = only(p.b.receive(wan, only(p.a.receive(lan, from_a()), wan)), lan);
  std::vector<uint8_t> error{3, 3, 0, 0, 0, 0, 0, 0};
  error.insert(error.end(), ip_of(there), ip_of(there) + 28);
  const auto told = only(p.a.receive(wan, only(p.b.receive(lan, ip_frame("10.2.0.10", "10.1.0.10", protocol_icmp, error, 2)), wan)), lan);
  CHECK(ip_of(told)[20] == 3);
  CHECK(ip_of(told)[21] == 3);
  CHECK(load32(ip_of(told) + 12) == 0x0a02000a);
}

TEST_CASE("tunnel: TTL that ends here is told through it") {
  pair p;
  frame last = from_a();
  last.bytes[14 + 8] = 2;
  set_traffic_class(last.bytes, 0);
  const auto told = only(p.a.receive(wan, only(p.b.receive(wan, only(p.a.receive(lan, last), wan)), wan)), lan);
  CHECK(ip_of(told)[20] == 11);
  CHECK(load32(ip_of(told) + 12) == 0x0a640002);
}

TEST_CASE("tunnel: MSS clamp by the tunnel's MTU") {
  pair p;
  p.a.policy.interfaces[tunnel].mss_clamp_bytes = 1;
  p.a.apply();
  std::vector<uint8_t> l4;
  put16(l4, 4000);
  put16(l4, 80);
  put32(l4, 1000);
  put32(l4, 0);
  l4.insert(l4.end(), {0x60, 0x02, 0x10, 0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4});
  const auto arrived = only(p.b.receive(wan, only(p.a.receive(lan, ip_frame("10.1.0.10", "10.2.0.10", protocol_tcp, l4, 16)), wan)), lan);
  CHECK(load16(ip_of(arrived) + 20 + 22) == 1380);
}

TEST_CASE("tunnel: replayed, reordered, duplicated, tampered messages") {
  pair p;
  std::vector<std::vector<uint8_t>> wires;
  for (int i = 0; i < 20; ++i) wires.push_back(only(p.a.receive(lan, from_a(static_cast<size_t>(i))), wan));
  for (int i = 19; i >= 0; --i) same_packet(from_a(static_cast<size_t>(i)), only(p.b.receive(wan, wires[static_cast<size_t>(i)]), lan));
  for (const auto& wire : wires) CHECK(p.b.receive(wan, wire).reason == SL_DROP_WIREGUARD_REPLAY);
  CHECK(p.b.dropped(SL_DROP_WIREGUARD_REPLAY) == 20);

  const auto fresh = only(p.a.receive(lan, from_a(100)), wan);
  const sl_wireguard_endpoint before = p.b.record().endpoint;
  std::set<sl_drop_reason> reasons;
  for (size_t at = 14 + 28; at < fresh.size(); ++at) {
    for (uint8_t bit : {0x01, 0x80}) {
      auto changed = fresh;
      changed[at] ^= bit;
      const injected out = p.b.receive(wan, changed);
      CHECK(out.verdict == "drop");
      reasons.insert(out.reason);
    }
  }
  CHECK(reasons.contains(SL_DROP_WIREGUARD_MALFORMED));
  CHECK(reasons.contains(SL_DROP_WIREGUARD_UNKNOWN_INDEX));
  CHECK(reasons.contains(SL_DROP_WIREGUARD_AUTHENTICATION));
  for (unsigned length : {0u, 1u, 3u, 15u, 16u, 31u, 32u, 47u}) {  // cut, with lengths that agree
    auto cut = fresh;
    cut.resize(14 + 28 + length);
    store16(cut.data() + 14 + 2, static_cast<uint16_t>(28 + length));
    store16(cut.data() + 14 + 24, static_cast<uint16_t>(8 + length));
    set_traffic_class(cut, 0);
    CHECK(p.b.receive(wan, cut).verdict == "drop");
  }
  // Nobody roams by what does not authenticate, and the message itself is still good.
  auto forged = fresh;
  store32(forged.data() + 14 + 12, 0xc0000263);
  forged.back() ^= 1;
  set_traffic_class(forged, 0);
  p.b.receive(wan, forged);
  CHECK(equal(p.b.record().endpoint.address, before.address));
  same_packet(from_a(100), only(p.b.receive(wan, fresh), lan));
  CHECK(p.b.count(SL_WIREGUARD_ROAMED) == 0);
}

// A message from `from` with any bytes inside: what an authentic peer that is broken, or turned bad, may send.
frame message_of(const appliance& from, const appliance& to, std::vector<uint8_t> inside, uint64_t counter) {
  std::string error;
  const auto cipher = aead::open(&error);
  REQUIRE_MESSAGE(cipher, error);
  std::vector<uint8_t> key(32, from.send_key);
  const uint32_t bytes = static_cast<uint32_t>(inside.size());
  inside.resize(bytes + aead_tag_bytes);
  aead_item item{inside.data(), bytes, 0, nullptr, key.data()};
  item.set_counter(counter);
  cipher->seal({&item, 1});
  std::vector<uint8_t> l4;
  put16(l4, from.self == 1 ? port_a : port_b);
  put16(l4, to.self == 1 ? port_a : port_b);
  put16(l4, static_cast<unsigned>(8 + wireguard_header_bytes + inside.size()));
  put16(l4, 0);
  const size_t header = l4.size();
  l4.resize(header + wireguard_header_bytes);
  store32_raw(l4.data() + header, wireguard_transport);
  store32_raw(l4.data() + header + 4, to.local_index);
  store64_raw(l4.data() + header + 8, counter);
  l4.insert(l4.end(), inside.begin(), inside.end());
  return ip_frame(from.self == 1 ? "192.0.2.1" : "192.0.2.2", to.self == 1 ? "192.0.2.1" : "192.0.2.2", protocol_udp, l4, 6);
}

TEST_CASE("tunnel: what is inside an authentic message is not trusted for that") {
  pair p;
  uint64_t counter = 100;
  const auto inside = [](const frame& f) { return std::vector<uint8_t>(f.bytes.begin() + 14, f.bytes.end()); };
  const auto arrives = [&](const std::vector<uint8_t>& bytes) { return p.b.receive(wan, message_of(p.a, p.b, bytes, ++counter)); };
  const auto summed = [](std::vector<uint8_t> ip) {
    store16_raw(ip.data() + 10, 0);
    store16_raw(ip.data() + 10, checksum_finish(checksum_add(0, ip.data(), 20)));
    return ip;
  };
  const frame plain = from_a(37), plain_v6 = datagram("2001:db8:1::10", "2001:db8:2::10", 37);  // 65 and 85 bytes
  // In order, of a length that is not padded, and with more padding than anybody asks for: what leaves has the packet's own length.
  for (const frame& f : {plain, plain_v6}) {
    for (const size_t padding : {0u, 1u, 15u, 700u}) {
      CAPTURE(padding);
      std::vector<uint8_t> bytes = inside(f);
      bytes.resize(bytes.size() + padding, 0xee);
      const auto arrived = only(arrives(bytes), lan);
      CHECK(arrived.size() == f.bytes.size());
      same_packet(f, arrived, 1);
    }
  }
  const uint64_t before = p.b.counter(SL_COUNTER_FAST_PATH_HITS);
  std::vector<std::vector<uint8_t>> bad;
  for (unsigned version = 0; version < 16; ++version) {
    if (version == 4 || version == 6) continue;
    std::vector<uint8_t> other = inside(plain);
    other[0] = static_cast<uint8_t>(version << 4 | 5);
    bad.push_back(summed(other));
  }
  for (const frame& f : {plain, plain_v6}) {
    for (size_t length = 1; length < f.bytes.size() - 14; length += 3) bad.emplace_back(f.bytes.begin() + 14, f.bytes.begin() + 14 + static_cast<long>(length));  // longer than what is there
    std::vector<uint8_t> longest = inside(f);
    store16(longest.data() + (&f == &plain ? 2 : 4), 0xffff);
    bad.push_back(&f == &plain ? summed(longest) : longest);
  }
  std::vector<uint8_t> shorter = inside(plain);
  store16(shorter.data() + 2, 19);  // than its own header
  bad.push_back(summed(shorter));
  shorter = inside(plain);
  shorter[0] = 0x44;
  bad.push_back(summed(shorter));
  shorter = inside(plain);
  shorter[10] ^= 1;
  bad.push_back(shorter);
  for (const auto& bytes : bad) {
    CAPTURE(bytes.size());
    CAPTURE(int(bytes[0]));
    const injected out = arrives(bytes);
    CHECK(out.verdict == "drop");
    CHECK(out.frames.empty());
  }
  CHECK(p.b.counter(SL_COUNTER_FAST_PATH_HITS) == before);
  CHECK(p.b.dropped(SL_DROP_WIREGUARD_AUTHENTICATION) == 0);
  CHECK(arrives({}).frames.empty());  // a keepalive
  // The tunnel goes on, and from where it was.
  same_packet(from_a(), only(arrives(inside(from_a())), lan), 1);
  p.b.wait(8000 * second_ns);
  p.b.all_buffers_are_back();
}

TEST_CASE("tunnel: without a session packets wait for one, and go when it comes") {
  appliance a(1), b(2);
  for (int i = 0; i < 3; ++i) CHECK(a.receive(lan, from_a(static_cast<size_t>(i))).verdict == "hold");
  CHECK(a.count(SL_WIREGUARD_WANTED) == 1);
  CHECK(a.record().waiting == 3);
  CHECK(a.wait(500'000'000).frames.empty());
  b.now = a.now;
  connect(a, b);
  const injected out = a.wait(1);
  REQUIRE(out.frames.size() == 3);
  for (size_t i = 0; i < 3; ++i) same_packet(from_a(i), only(b.receive(wan, out.frames[i].frame), lan));
  CHECK(a.record().waiting == 0);
  CHECK(b.count(SL_WIREGUARD_CONFIRMED) == 1);
}

TEST_CASE("tunnel: who answered a handshake sends when the first message has come") {
  appliance a(1), b(2);
  connect(a, b);
  CHECK(b.receive(lan, from_b()).verdict == "hold");
  CHECK(b.record().has_next == 1);
  REQUIRE(a.e.wireguard_send(tunnel_id, peer_id, {}, nullptr));
  const auto keepalive = only(a.wait(1), wan);
  CHECK(ip_bytes(keepalive) == 28 + sealed_bytes);
  CHECK(b.receive(wan, keepalive).frames.empty());
  CHECK(b.count(SL_WIREGUARD_CONFIRMED) == 1);
  same_packet(from_b(), only(a.receive(wan, only(b.wait(1), wan)), lan));
  CHECK(a.record().last_data_received_ns != 0);
  CHECK(b.record().last_data_received_ns == 0);  // a keepalive is no data
}

TEST_CASE("tunnel: no session within three seconds: the packet is dropped and its sender told") {
  appliance a(1);
  CHECK(a.receive(lan, from_a()).verdict == "hold");
  CHECK(a.wait(2 * second_ns).frames.empty());
  const auto told = only(a.wait(2 * second_ns), lan);
  CHECK(a.dropped(SL_DROP_WIREGUARD_NO_SESSION) == 1);
  CHECK(ip_of(told)[20] == 3);
  CHECK(ip_of(told)[21] == 1);
  CHECK(a.record().waiting == 0);
  // Asked for again, at most once a second.
  a.events();
  for (int i = 0; i < 10; ++i) { a.receive(lan, from_a()); a.now += 300'000'000; }
  const unsigned asked = a.count(SL_WIREGUARD_WANTED);
  CHECK(asked >= 2);
  CHECK(asked <= 3);
  a.wait(8000 * second_ns);
  a.all_buffers_are_back();
}

TEST_CASE("tunnel: a session that is 180 s old is none") {
  pair p;
  p.a.now += 179 * second_ns;
  p.b.now += 179 * second_ns;
  const auto last = only(p.a.receive(lan, from_a()), wan);
  p.a.now += 2 * second_ns;
  p.b.now += 2 * second_ns;
  CHECK(p.a.receive(lan, from_a()).verdict == "hold");
  CHECK(p.a.count(SL_WIREGUARD_WANTED) == 1);
  CHECK(p.b.receive(wan, last).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  connect(p.b, p.a);  // answered, then confirmed
  CHECK(p.a.wait(1).frames.empty());
  REQUIRE(p.b.e.wireguard_send(tunnel_id, peer_id, {}, nullptr));
  p.a.receive(wan, only(p.b.wait(1), wan));
  same_packet(from_a(), only(p.b.receive(wan, only(p.a.wait(1), wan)), lan));
}

TEST_CASE("tunnel: a new session takes over without a packet lost; messages of the one before still count") {
  pair p;
  const auto old = only(p.a.receive(lan, from_a(1)), wan);
  connect(p.a, p.b);
  const auto young = only(p.a.receive(lan, from_a(2)), wan);
  CHECK(load32_raw(young.data() + 14 + 28 + 4) != load32_raw(old.data() + 14 + 28 + 4));
  same_packet(from_a(2), only(p.b.receive(wan, young), lan));
  same_packet(from_a(1), only(p.b.receive(wan, old), lan));
}

TEST_CASE("tunnel: nobody has the destination; a route that wants encryption and has none") {
  pair p;
  p.a.policy.route("10.3.0.0", 112, "::", tunnel);
  p.a.policy.route("10.4.0.0", 112, "::", 0, SL_NEXTHOP_UNENCRYPTED);
  p.a.apply();
  const injected nobody = p.a.receive(lan, datagram("10.1.0.10", "10.3.0.10"));
  CHECK(nobody.reason == SL_DROP_WIREGUARD_NO_PEER);
  CHECK(ip_of(only(nobody, lan))[20] == 3);
  const injected unencrypted = p.a.receive(lan, datagram("10.1.0.10", "10.4.0.10"));
  CHECK(unencrypted.reason == SL_DROP_ENCRYPTION_REQUIRED);
  CHECK(ip_of(only(unencrypted, lan))[20] == 3);
}

TEST_CASE("tunnel: answers do not leave in clear when a commit wants them encrypted, whatever is known of sources") {
  for (const bool has_tunnel : {false, true}) {
    pair p;
    snapshot_builder& policy = p.a.policy;
    policy.interfaces[wan].anti_spoofing = SL_ANTI_SPOOFING_OFF;
    policy.rule(4, SL_ACTION_ALLOW, wan_zone, lan_zone);
    policy.route("198.51.100.0", 120, "192.0.2.2", wan);
    p.a.apply();
    const frame ask = datagram("198.51.100.7", "10.1.0.10", 64, 4000, 5000), answer = datagram("10.1.0.10", "198.51.100.7", 64, 5000, 4000);
    only(p.a.receive(wan, ask), lan);
    only(p.a.receive(lan, answer), wan);
    policy.routes.pop_back();
    if (has_tunnel) policy.route("198.51.100.0", 120, "::", tunnel);  // and no peer has it
    else policy.route("198.51.100.0", 120, "::", 0, SL_NEXTHOP_UNENCRYPTED);
    p.a.apply();
    for (int i = 0; i < 2; ++i) CHECK(p.a.receive(lan, answer).frames.empty());
    only(p.a.receive(wan, ask), lan);
    CHECK(p.a.receive(lan, answer).frames.empty());
    policy.routes.pop_back();
    policy.route("198.51.100.0", 120, "192.0.2.2", wan);
    p.a.apply();
    only(p.a.receive(lan, answer), wan);
  }
}

TEST_CASE("tunnel: a peer that is gone, and back") {
  pair p;
  only(p.a.receive(lan, from_a()), wan);
  const auto peers = p.a.policy.wireguard_peers;
  const auto wireguards = p.a.policy.wireguards;
  p.a.policy.wireguard_peers.clear();
  p.a.policy.wireguards[0].peers = {0, 0};
  p.a.apply();
  CHECK(p.a.receive(lan, from_a()).reason == SL_DROP_WIREGUARD_NO_PEER);
  CHECK(p.a.e.wireguard_peers().empty());
  p.a.policy.wireguard_peers = peers;
  p.a.policy.wireguards = wireguards;
  p.a.apply();
  p.a.endpoint("192.0.2.2");
  CHECK(p.a.receive(lan, from_a()).verdict == "hold");
  connect(p.a, p.b);
  same_packet(from_a(), only(p.b.receive(wan, only(p.a.wait(1), wan)), lan));
  // And all of WireGuard.
  p.a.policy.interfaces.pop_back();
  p.a.policy.wireguards.clear();
  p.a.policy.wireguard_peers.clear();
  std::erase_if(p.a.policy.addresses, [](const auto& a) { return a.interface == tunnel; });
  std::erase_if(p.a.policy.routes, [&](const auto& r) { return p.a.policy.nexthops[r.nexthops.first].interface == tunnel; });
  for (auto& hop : p.a.policy.nexthops) if (hop.interface == tunnel) hop.interface = 0;
  p.a.apply();
  CHECK(p.a.receive(lan, from_a()).reason == SL_DROP_NO_ROUTE);
  const injected left_over = p.a.receive(wan, only(p.b.receive(lan, from_b()), wan));
  CHECK(left_over.verdict == "host");  // UDP to an address of the host, as any
}

TEST_CASE("tunnel: the next engine goes on with its sessions, and waits for keys") {
  sluice_test::pin_directory pins;
  sluice_test::network_namespace there;
  sluice_test::inside in{there};
  sluice_test::run_ip("link add name p2 index 2 type veth peer name p3 index 3");
  appliance b(2);
  auto live = [](appliance& one) { return one.e.counters()[SL_COUNTER_COUNT + unsigned{SL_DROP_REASON_COUNT}]; };
  auto published = [](appliance& one, uint16_t port) { return one.e.offline_steering()->engine_port_words()[port / 64] >> (port & 63) & 1; };
  {
    appliance a(1, false, pins.path);
    CHECK(published(a, port_a) == 1);
    CHECK(published(a, port_b) == 0);
    connect(a, b);
    same_packet(from_a(), only(b.receive(wan, only(a.receive(lan, from_a()), wan)), lan));
    REQUIRE(live(a) == 1);
    // Another port, and back: one is taken away with the other.
    a.policy.wireguards[0].listen_port = port_b;
    a.apply();
    CHECK(published(a, port_a) == 0);
    CHECK(published(a, port_b) == 1);
    a.policy.wireguards[0].listen_port = port_a;
    a.apply();
  }
  appliance next(1, false, pins.path);
  CHECK(live(next) == 1);
  CHECK(next.record().current_created_ns == 0);
  // The answer's key is unknown here; what goes there waits.
  CHECK(next.receive(wan, only(b.receive(lan, from_b()), wan)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(next.receive(lan, from_a()).verdict == "hold");
  CHECK(next.count(SL_WIREGUARD_WANTED) == 1);
  connect(next, b);
  same_packet(from_a(), only(b.receive(wan, only(next.wait(1), wan)), lan));
  same_packet(from_b(), only(next.receive(wan, only(b.receive(lan, from_b()), wan)), lan));
  CHECK(live(next) == 1);
  CHECK(next.counter(SL_COUNTER_SESSIONS_CREATED) == 0);
}

TEST_CASE("tunnel: roaming, on what authenticates") {
  pair p;
  auto moved = only(p.b.receive(lan, from_b()), wan);
  store32(moved.data() + 14 + 12, 0xc0000263);  // 192.0.2.99
  store16(moved.data() + 14 + 20, 7777);
  set_traffic_class(moved, traffic_class(ip_of(moved)));
  p.a.neighbour(wan, "192.0.2.99");
  same_packet(from_b(), only(p.a.receive(wan, moved), lan));
  CHECK(p.a.count(SL_WIREGUARD_ROAMED) == 1);
  const auto answer = only(p.a.receive(lan, from_a()), wan);
  CHECK(load32(ip_of(answer) + 16) == 0xc0000263);
  CHECK(load16(ip_of(answer) + 22) == 7777);
  // To the other family, and our address with it.
  frame from6 = ip_frame("2001:db8:ff::77", "2001:db8:ff::1", protocol_udp, udp_datagram(7778, port_a, 0), 0);
  const auto next = only(p.b.receive(lan, from_b(9)), wan);
  from6.bytes.insert(from6.bytes.end(), next.begin() + 14 + 28, next.end());
  store16(from6.bytes.data() + 14 + 4, static_cast<uint16_t>(from6.bytes.size() - 54));
  store16(from6.bytes.data() + 14 + 44, static_cast<uint16_t>(from6.bytes.size() - 54));
  store16(from6.bytes.data() + 14 + 46, 0x1234);  // wrong, and of no interest
  p.a.neighbour(wan, "2001:db8:ff::77");
  same_packet(from_b(9), only(p.a.receive(wan, from6), lan));
  const auto answer6 = only(p.a.receive(lan, from_a()), wan);
  CHECK(load16(answer6.data() + 12) == 0x86dd);
  CHECK(ip_of(answer6)[8 + 15] == 1);
  CHECK(ip_of(answer6)[24 + 15] == 0x77);
}

TEST_CASE("tunnel: traffic class out, and congestion back in (RFC 6040 sections 4.1 and 4.2)") {
  constexpr uint8_t not_ect = 0, ect1 = 1, ect0 = 2, ce = 3, lost = 9;
  // [inner][outer]
  const uint8_t after[4][4] = {{not_ect, not_ect, not_ect, lost}, {ect1, ect1, ect1, ce}, {ect0, ect1, ect0, ce}, {ce, ce, ce, ce}};
  pair p;
  for (const frame& plain : {from_a(), datagram("2001:db8:1::10", "2001:db8:2::10")}) {
    for (uint8_t inner = 0; inner < 4; ++inner) {
      for (uint8_t outer = 0; outer < 4; ++outer) {
        CAPTURE(int(inner));
        CAPTURE(int(outer));
        frame f = plain;
        set_traffic_class(f.bytes, static_cast<uint8_t>(0x2e << 2 | inner));
        auto wire = only(p.a.receive(lan, f), wan);
        CHECK(traffic_class(ip_of(wire)) == (0x2e << 2 | inner));
        set_traffic_class(wire, static_cast<uint8_t>(0x0a << 2 | outer));
        const injected out = p.b.receive(wan, wire);
        if (after[inner][outer] == lost) { CHECK(out.reason == SL_DROP_TUNNEL_CONGESTION); continue; }
        CHECK(traffic_class(ip_of(only(out, lan))) == (0x2e << 2 | after[inner][outer]));
        set_traffic_class(f.bytes, static_cast<uint8_t>(0x2e << 2 | after[inner][outer]));
        same_packet(f, only(out, lan));
      }
    }
  }
}

TEST_CASE("tunnel: to the appliance itself, and from it") {
  pair p;
  std::vector<uint8_t> echo{8, 0, 0, 0, 0, 7, 0, 1};
  const frame ping = ip_frame("10.1.0.10", "10.100.0.2", protocol_icmp, echo, 2);
  const injected in = p.b.receive(wan, only(p.a.receive(lan, ping), wan));
  REQUIRE(in.host.size() == 1);
  CHECK(in.host[0].size() == 28);
  CHECK(in.host[0][8] == 63);
  CHECK(p.b.counter(SL_COUNTER_HOST_PACKETS) == 1);
  echo[0] = 0;
  const frame pong = ip_frame("10.100.0.2", "10.1.0.10", protocol_icmp, echo, 2);
  injected out;
  auto send = [&](appliance& from, const frame& f) {
    out = {};
    from.e.inject_from_host(f.bytes.data() + 14, f.bytes.size() - 14, from.now, &out);
  };
  send(p.b, pong);
  same_packet(pong, only(p.a.receive(wan, only(out, wan)), lan), 1);
  CHECK(p.b.counter(SL_COUNTER_FROM_HOST_PACKETS) == 1);

  auto refused = [&](const frame& f) {
    send(p.b, f);
    CHECK(out.frames.empty());
    return out.reason;
  };
  CHECK(refused(datagram("10.2.0.10", "10.1.0.10")) == SL_DROP_MARTIAN_SOURCE);     // not ours
  CHECK(refused(datagram("10.100.0.2", "10.2.0.10")) == SL_DROP_NO_ROUTE);          // not through a tunnel
  CHECK(refused(datagram("10.100.0.2", "10.100.0.9")) == SL_DROP_WIREGUARD_NO_PEER);
  CHECK(refused(datagram("10.100.0.2", "224.0.0.5")) == SL_DROP_MARTIAN_DESTINATION);
  frame large = datagram("10.100.0.2", "10.1.0.10", 2000);
  send(p.b, large);
  CHECK(out.frames.size() == 2);
  store16(large.bytes.data() + 14 + 6, 0x4000);
  set_traffic_class(large.bytes, 0);
  CHECK(refused(large) == SL_DROP_TOO_BIG);
  REQUIRE(out.host.size() == 1);
  CHECK(out.host[0][20] == 3);
  CHECK(load16(out.host[0].data() + 26) == 1420);
  // Longer than any packet buffer.
  const frame huge = datagram("10.100.0.2", "10.1.0.10", 60000);
  send(p.b, huge);
  CHECK(out.frames.size() == (60008 + 1399) / 1400);
  // Before there is a session it waits, as any.
  appliance lonely(1);
  const frame first = datagram("10.100.0.1", "10.2.0.10");
  send(lonely, first);
  CHECK(out.verdict == "hold");
  CHECK(lonely.count(SL_WIREGUARD_WANTED) == 1);
  appliance friendly(2);
  connect(lonely, friendly);
  same_packet(first, only(friendly.receive(wan, only(lonely.wait(1), wan)), lan), 1);
  p.b.wait(8000 * second_ns);
  p.b.all_buffers_are_back();
}

TEST_CASE("tunnel: packets out of it wait for a neighbour of the LAN; encrypted ones for a neighbour outside") {
  pair p;
  const frame unknown = datagram("10.1.0.10", "10.2.0.99");
  CHECK(p.b.receive(wan, only(p.a.receive(lan, unknown), wan)).verdict == "hold");
  p.b.neighbour(lan, "10.2.0.99");
  same_packet(unknown, only(p.b.wait(1), lan));
  CHECK(p.b.receive(wan, only(p.a.receive(lan, datagram("10.1.0.10", "10.2.0.98")), wan)).verdict == "hold");
  const auto told = only(p.a.receive(wan, only(p.b.wait(4 * second_ns), wan)), lan);  // through the tunnel
  CHECK(ip_of(told)[20] == 3);
  CHECK(ip_of(told)[21] == 1);

  p.a.endpoint("192.0.2.55");
  CHECK(p.a.receive(lan, from_a()).verdict == "hold");
  p.a.neighbour(wan, "192.0.2.55");
  CHECK(load32(ip_of(only(p.a.wait(1), wan)) + 16) == 0xc0000237);
  p.a.endpoint("192.0.2.56");
  CHECK(p.a.receive(lan, from_a()).verdict == "hold");
  CHECK(p.a.wait(4 * second_ns).frames.empty());
  CHECK(p.a.dropped(SL_DROP_NEIGHBOUR_UNRESOLVED) == 1);
  p.a.wait(8000 * second_ns);
  p.a.all_buffers_are_back();
}

TEST_CASE("tunnel: no way to the endpoint") {
  pair p;
  p.a.endpoint("198.51.100.1");
  CHECK(p.a.receive(lan, from_a()).reason == SL_DROP_NO_ROUTE);
  p.a.endpoint("10.2.0.77");  // through the tunnel itself: would come round again
  CHECK(p.a.receive(lan, from_a()).reason == SL_DROP_NO_ROUTE);
  CHECK_FALSE(p.a.e.wireguard_send(tunnel_id, peer_id, {}, nullptr));
  p.a.policy.route("198.51.100.0", 120, "192.0.2.2", wan);
  p.a.apply();
  p.a.endpoint("198.51.100.1");
  CHECK(load32(ip_of(only(p.a.receive(lan, from_a()), wan)) + 16) == 0xc6336401);
}

TEST_CASE("tunnel: from one peer to another, over the appliance between them") {
  pair p;
  p.a.policy.rules.clear();
  p.a.policy.rule(1, SL_ACTION_ALLOW);
  p.a.policy.peer(other_id, {{"10.5.0.0", 112}});
  p.a.policy.route("10.5.0.0", 112, "::", tunnel);
  p.a.apply();
  p.b.policy.route("10.5.0.0", 112, "::", tunnel);
  p.b.policy.prefixes.push_back({snapshot_builder::cut(address_of("10.5.0.0"), 112), 112, {}});
  p.b.policy.wireguards.clear();
  p.b.policy.wireguard_peers.clear();
  p.b.policy.wireguards.push_back({tunnel, port_b, {0, 0}});
  p.b.policy.peer(peer_id, {{"10.1.0.0", 112}, {"10.5.0.0", 112}});
  p.b.apply();
  appliance c(2);
  c.policy.address(lan, "10.5.0.1", 120);
  c.policy.wireguards[0].peers = {0, 1};
  c.policy.wireguard_peers.clear();
  c.policy.wireguards[0].peers = {0, 0};
  c.policy.peer(peer_id, {{"10.2.0.0", 112}});
  c.policy.routes.erase(c.policy.routes.begin());  // not its LAN here
  c.policy.addresses.erase(c.policy.addresses.begin());
  c.policy.route("10.2.0.0", 112, "::", tunnel);
  c.apply();
  c.neighbour(lan, "10.5.0.10");
  p.a.endpoint("192.0.2.2", other_id);
  connect(p.a, c, other_id, peer_id);
  const frame f = datagram("10.2.0.10", "10.5.0.10", 1300);
  const auto in = only(p.b.receive(lan, f), wan);
  const auto out = only(p.a.receive(wan, in), wan);
  CHECK(std::memcmp(in.data() + 14 + 28 + 16, out.data() + 14 + 28 + 16, 1000) != 0);
  same_packet(f, only(c.receive(wan, out), lan), 3);
}

TEST_CASE("tunnel: a batch for several peers: each one's packets in their order") {
  appliance a(1), b(2), c(2);
  a.policy.peer(other_id, {{"10.5.0.0", 112}});
  a.policy.route("10.5.0.0", 112, "::", tunnel);
  a.apply();
  a.endpoint("192.0.2.2", other_id);
  connect(a, b);
  connect(a, c, other_id, peer_id);
  worker& w = a.e.offline_worker();
  std::vector<rx_frame> frames;
  for (unsigned i = 0; i < 60; ++i) {
    frame f = datagram("10.1.0.10", i % 3 ? "10.2.0.10" : "10.5.0.10", i);
    const uint8_t to[6] = {2, 0, 0, 0, 0, lan + 1};
    std::memcpy(f.bytes.data(), to, 6);
    store16(f.bytes.data() + 12, 0x0800);
    uint64_t address;
    REQUIRE(w.pool().get(&address));
    address += umem_headroom_bytes;
    std::memcpy(w.area().at(address), f.bytes.data(), f.bytes.size());
    frames.push_back({address, w.area().at(address), static_cast<uint32_t>(f.bytes.size())});
  }
  w.path().process(frames.data(), 60, lan, true, a.now);
  REQUIRE(w.path().output().size() == 60);
  uint64_t next_b = 0, next_c = 0;
  unsigned of_b = 0;
  for (const tx_item& item : w.path().output()) {
    const uint8_t* message = w.area().at(item.address) + 14 + 28;
    const bool for_b = load32_raw(message + 4) == b.local_index;
    CHECK(load64_raw(message + 8) == (for_b ? next_b : next_c)++);
    of_b += for_b;
    injected out;
    std::string error;
    std::vector<uint8_t> wire(w.area().at(item.address), w.area().at(item.address) + item.length);
    if (for_b) CHECK(b.receive(wan, wire).verdict == "forward");
    w.pool().put(item.address);
  }
  w.path().output().clear();
  CHECK(of_b == 40);
  a.wait(8000 * second_ns);
  a.all_buffers_are_back();
}

TEST_CASE("tunnel: two workers seal and open for one peer at the same time: each flow in its order, each packet once") {
  constexpr unsigned workers = 2, flows_each = 4, rounds = 150, batch = 16, total = workers * rounds * batch;
  static_assert(total < replay_window);
  using bytes = std::vector<uint8_t>;
  appliance a(1, false, {}, workers), b(2, false, {}, workers);
  connect(a, b);
  // What a worker makes of frames, in its order.
  const auto work = [](appliance& at, unsigned index, uint16_t port, const std::vector<bytes>& received, auto sent) {
    worker& w = at.e.offline_worker(index);
    std::vector<rx_frame> frames;
    for (const bytes& f : received) {
      uint64_t address = 0;
      if (!w.pool().get(&address)) std::abort();
      address += umem_headroom_bytes;
      std::memcpy(w.area().at(address), f.data(), f.size());
      frames.push_back({address, w.area().at(address), static_cast<uint32_t>(f.size())});
    }
    w.path().process(frames.data(), static_cast<unsigned>(frames.size()), port, false, at.now);
    for (const tx_item& item : w.path().output()) {
      sent(bytes(w.area().at(item.address), w.area().at(item.address) + item.length));
      w.pool().put(item.address);
    }
    w.path().output().clear();
  };
  const auto at_once = [](auto body) {
    std::vector<std::thread> threads;
    for (unsigned index = 0; index < workers; ++index) threads.emplace_back(body, index);
    for (std::thread& t : threads) t.join();
  };
  std::mutex mutex;
  std::vector<bytes> wire;
  at_once([&](unsigned index) {
    uint64_t sequence[flows_each] = {};
    for (unsigned round = 0; round < rounds; ++round) {
      std::vector<bytes> received;
      for (unsigned i = 0; i < batch; ++i) {
        const unsigned flow = i % flows_each;
        frame f = datagram("10.1.0.10", "10.2.0.10", 64, static_cast<uint16_t>(4000 + index * flows_each + flow));
        const uint8_t to[6] = {2, 0, 0, 0, 0, lan + 1};
        std::memcpy(f.bytes.data(), to, 6);
        store16(f.bytes.data() + 12, 0x0800);
        store16_raw(f.bytes.data() + 14 + 20 + 6, 0);
        store64_raw(f.bytes.data() + 14 + 28, sequence[flow]++);
        received.push_back(f.bytes);
      }
      work(a, index, lan, received, [&](bytes f) { std::lock_guard guard(mutex); wire.push_back(std::move(f)); });
    }
  });
  REQUIRE(wire.size() == total);
  const auto flow_of = [](const bytes& f) { return load16(f.data() + 14 + 20) - 4000u; };
  const auto sequence_of = [](const bytes& f) { return load64_raw(f.data() + 14 + 28); };

  SUBCASE("by one queue, as messages between two endpoints come: in order") {
    uint64_t next[workers * flows_each] = {};
    unsigned wrong = 0;
    for (const bytes& message : wire)
      work(b, 0, wan, {message}, [&](const bytes& f) { wrong += sequence_of(f) != next[flow_of(f)]++; });
    CHECK(wrong == 0);
    for (const uint64_t n : next) CHECK(n == total / (workers * flows_each));
  }
  SUBCASE("by two queues, each message by both: once") {
    std::vector<std::pair<unsigned, uint64_t>> arrived;
    at_once([&](unsigned index) {
      for (size_t at = 0; at < wire.size(); at += batch)
        work(b, index, wan, {wire.begin() + static_cast<long>(at), wire.begin() + static_cast<long>(at + batch)}, [&](const bytes& f) {
          std::lock_guard guard(mutex);
          arrived.emplace_back(flow_of(f), sequence_of(f));
        });
    });
    CHECK(arrived.size() == total);
    std::sort(arrived.begin(), arrived.end());
    CHECK(std::unique(arrived.begin(), arrived.end()) == arrived.end());
    CHECK(b.dropped(SL_DROP_WIREGUARD_REPLAY) == total);
  }
}

TEST_CASE("tunnel: a batch of everything at once") {
  pair p;
  std::vector<std::vector<uint8_t>> wires;
  for (unsigned i = 0; i < 40; ++i) wires.push_back(only(p.a.receive(lan, from_a(i)), wan));
  wires[7].back() ^= 1;
  wires[11] = wires[10];
  worker& w = p.b.e.offline_worker();
  std::vector<rx_frame> frames;
  for (unsigned i = 0; i < 60; ++i) {
    std::vector<uint8_t> bytes = i < 40 ? wires[i] : datagram("192.0.2.1", "10.2.0.10", i).bytes;
    const uint8_t to[6] = {2, 0, 0, 0, 0, wan + 1};
    std::memcpy(bytes.data(), to, 6);
    store16(bytes.data() + 12, 0x0800);
    uint64_t address;
    REQUIRE(w.pool().get(&address));
    address += umem_headroom_bytes;
    std::memcpy(w.area().at(address), bytes.data(), bytes.size());
    frames.push_back({address, w.area().at(address), static_cast<uint32_t>(bytes.size())});
  }
  std::swap(frames[5], frames[50]);
  w.path().process(frames.data(), 60, wan, true, p.b.now);
  CHECK(p.b.dropped(SL_DROP_WIREGUARD_AUTHENTICATION) == 1);
  CHECK(p.b.dropped(SL_DROP_WIREGUARD_REPLAY) == 1);
  CHECK(p.b.counter(SL_COUNTER_WIREGUARD_OPENED) == 1 + 38);
  CHECK(p.b.dropped(SL_DROP_POLICY_REJECT) == 20);
  unsigned forwarded = 0;
  for (const tx_item& item : w.path().output()) { forwarded += item.port_slot == lan; w.pool().put(item.address); }
  w.path().output().clear();
  CHECK(forwarded == 38);
  p.b.wait(8000 * second_ns);
  p.b.all_buffers_are_back();
}

TEST_CASE("tunnel: UDP to the tunnel's port that is not for us is traffic as any other") {
  pair p;
  p.a.policy.rule(3, SL_ACTION_ALLOW, wan_zone | lan_zone, wan_zone | lan_zone);
  p.a.apply();
  CHECK(p.a.receive(lan, datagram("10.1.0.10", "192.0.2.2", 64, 4000, port_a)).verdict == "forward");
  CHECK(p.a.receive(wan, datagram("192.0.2.2", "192.0.2.1", 64, 4000, port_a + 1)).verdict == "host");
  CHECK(p.a.receive(wan, datagram("192.0.2.2", "192.0.2.1", 64, 4000, port_a)).reason == SL_DROP_WIREGUARD_MALFORMED);
  frame fragment = ip_frame("192.0.2.2", "192.0.2.1", protocol_udp, udp_datagram(4000, port_a, 64), 6, 7, 0x2000);
  CHECK(p.a.receive(wan, fragment).verdict == "host");
}

namespace {

// Keyed BLAKE2s of 16 bytes.
std::vector<uint8_t> mac(const uint8_t key[32], const uint8_t* data, size_t bytes) {
  std::vector<uint8_t> out(16);
  EVP_MAC* algorithm = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(algorithm);
  size_t size = 16;
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_construct_end()};
  REQUIRE(EVP_MAC_init(context, key, 32, parameters) == 1);
  REQUIRE(EVP_MAC_update(context, data, bytes) == 1);
  REQUIRE(EVP_MAC_final(context, out.data(), &size, out.size()) == 1);
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(algorithm);
  return out;
}

frame initiation(const char* src, uint16_t from, const sl_wireguard_gate_key& key, uint8_t salt = 0) {
  std::vector<uint8_t> message(148, salt);
  store32_raw(message.data(), 1);
  const auto mac1 = mac(key.mac1_key, message.data(), 116);
  std::copy(mac1.begin(), mac1.end(), message.begin() + 116);
  std::vector<uint8_t> l4;
  put16(l4, from);
  put16(l4, port_a);
  put16(l4, 8 + 148);
  put16(l4, 0);
  l4.insert(l4.end(), message.begin(), message.end());
  return ip_frame(src, is_ipv4(address_of(src)) ? "192.0.2.1" : "2001:db8:ff::1", protocol_udp, l4, 6);
}

}  // namespace

TEST_CASE("tunnel: handshakes pass the gate, or not, and answers go where they are told to") {
  appliance a(1);
  sl_wireguard_gate_key key{};
  std::memset(key.mac1_key, 0x11, 32);
  std::memset(key.cookie_key, 0x22, 32);
  CHECK(a.receive(wan, initiation("192.0.2.2", 4444, key)).verdict == "drop");  // it answers to nobody
  std::string error;
  REQUIRE(a.e.wireguard_gate(tunnel_id, {&key, 1}, &error));
  for (const char* from : {"192.0.2.2", "2001:db8:ff::2"}) {
    a.events();
    injected out = a.receive(wan, initiation(from, 4444, key));
    CHECK(out.reason == SL_DROP_NONE);
    CHECK(out.frames.empty());
    CHECK(out.host.empty());
    std::vector<uint8_t> into(4096);
    REQUIRE(a.e.wireguard_events(into.data(), into.size()) > sizeof(sl_wireguard_event_record));
    sl_wireguard_event_record event;
    std::memcpy(&event, into.data(), sizeof event);
    CHECK(event.event == SL_WIREGUARD_MESSAGE);
    CHECK(event.message_bytes == 148);
    CHECK(event.interface == tunnel_id);
    CHECK(equal(event.from.address, address_of(from)));
    CHECK(event.from.port == 4444);
    CHECK(equal(event.from.local, address_of(is_ipv4(event.from.address) ? "192.0.2.1" : "2001:db8:ff::1")));
    // The answer, from the address it was sent to.
    const std::vector<uint8_t> response(92, 0xab);
    REQUIRE(a.e.wireguard_send(tunnel_id, peer_id, response, &event.from));
    const auto wire = only(a.wait(1), wan);
    frame answer;
    answer.bytes = wire;
    REQUIRE(answer.parse() == SL_DROP_NONE);
    CHECK(equal(answer.p.key.dst, event.from.address));
    CHECK(equal(answer.p.key.src, event.from.local));
    CHECK(answer.p.key.dst_port == 4444);
    CHECK(answer.p.key.src_port == port_a);
    CHECK(l4_checksum_valid(answer.p));
    CHECK(traffic_class(ip_of(wire)) == 0x88);
    CHECK(std::equal(response.begin(), response.end(), wire.end() - 92));
  }
  CHECK(a.counter(SL_COUNTER_WIREGUARD_HANDSHAKES) == 2);
  frame wrong = initiation("192.0.2.2", 4444, key);
  wrong.bytes[14 + 28 + 50] ^= 1;
  CHECK(a.receive(wan, wrong).reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
  // To where the peer is, without an endpoint.
  REQUIRE(a.e.wireguard_send(tunnel_id, peer_id, std::vector<uint8_t>(148, 1), nullptr));
  CHECK(load32(ip_of(only(a.wait(1), wan)) + 16) == 0xc0000202);
  CHECK(a.record().tx_packets == 3);
  sl_wireguard_endpoint nowhere{};
  nowhere.address = address_of("203.0.113.1");
  nowhere.port = 1;
  CHECK_FALSE(a.e.wireguard_send(tunnel_id, peer_id, std::vector<uint8_t>(148, 1), &nowhere));
  CHECK_FALSE(a.e.wireguard_send(tunnel_id, peer_id, {}, nullptr));  // no session for a keepalive
}

TEST_CASE("tunnel: under load a source gets a cookie reply, to where it is") {
  appliance a(1);
  sl_wireguard_gate_key key{};
  std::memset(key.mac1_key, 0x11, 32);
  std::string error;
  REQUIRE(a.e.wireguard_gate(tunnel_id, {&key, 1}, &error));
  unsigned cookies = 0;
  for (unsigned i = 0; i < 4000 && !cookies; ++i) {
    std::string from = "198.51." + std::to_string(100 + i / 250) + "." + std::to_string(1 + i % 250);
    const injected out = a.receive(wan, initiation(from.c_str(), 4444, key, static_cast<uint8_t>(i)));
    for (const auto& f : out.frames) {
      ++cookies;
      CHECK(f.interface == wan);
      frame reply;
      reply.bytes = f.frame;
      REQUIRE(reply.parse() == SL_DROP_NONE);
      CHECK(equal(reply.p.key.dst, address_of(from.c_str())));
      CHECK(reply.p.key.dst_port == 4444);
      CHECK(reply.p.key.src_port == port_a);
      CHECK(ip_bytes(f.frame) == 28 + 64);
      CHECK(load32_raw(f.frame.data() + 14 + 28) == 3);
      CHECK(f.frame[6 - 6] == 6);  // to the link address that it came from
    }
  }
  CHECK(cookies > 0);
  CHECK(a.counter(SL_COUNTER_WIREGUARD_COOKIES) == cookies);
}

TEST_CASE("tunnel: captures see the outer packet on its port and the inner one on the tunnel") {
  pair p;
  sl_capture_filter everything{};
  everything.protocol = SL_PROTOCOL_ANY;
  everything.snap_bytes = 2000;
  everything.directions = SL_CAPTURE_IN | SL_CAPTURE_OUT;
  std::string error;
  for (appliance* one : {&p.a, &p.b}) REQUIRE(one->e.set_capture(0, &everything, &error));
  const auto wire = only(p.a.receive(lan, from_a()), wan);
  same_packet(from_a(), only(p.b.receive(wan, wire), lan));
  auto seen = [](appliance& one) {
    std::vector<uint8_t> into(1 << 16);
    std::vector<std::pair<uint32_t, int>> out;
    const size_t bytes = one.e.captured(into.data(), into.size());
    for (size_t at = 0; at < bytes;) {
      sl_captured record;
      std::memcpy(&record, into.data() + at, sizeof record);
      out.push_back({record.interface, record.direction});
      at += record.record_bytes;
    }
    return out;
  };
  const std::vector<std::pair<uint32_t, int>> at_a = seen(p.a), at_b = seen(p.b);
  CHECK(std::set<std::pair<uint32_t, int>>(at_a.begin(), at_a.end()) == std::set<std::pair<uint32_t, int>>{{10, SL_CAPTURE_IN}, {tunnel_id, SL_CAPTURE_OUT}, {20, SL_CAPTURE_OUT}});
  CHECK(at_a.size() == 3);
  CHECK(at_b == std::vector<std::pair<uint32_t, int>>{{20, SL_CAPTURE_IN}, {tunnel_id, SL_CAPTURE_IN}, {10, SL_CAPTURE_OUT}});
}

TEST_CASE("tunnel: simulate says where a packet would go") {
  pair p;
  sl_simulate_request q{};
  q.src = address_of("10.1.0.10");
  q.dst = address_of("10.2.0.10");
  q.src_port = 4000;
  q.dst_port = 5000;
  q.protocol = protocol_udp;
  q.interface = lan;
  sl_simulate_result r;
  std::string error;
  REQUIRE(p.a.e.simulate(q, &r, &error));
  CHECK(r.verdict == SL_ACTION_ALLOW);
  CHECK(r.to_interface == tunnel);
  CHECK(equal(r.next_hop, address_of("192.0.2.2")));
  q.dst = address_of("10.100.0.77");
  REQUIRE(p.a.e.simulate(q, &r, &error));
  CHECK(r.reason == SL_DROP_WIREGUARD_NO_PEER);
}

}  // namespace sluice
