// SPDX-License-Identifier: Apache-2.0
// damage_test.cc: an engine that inherits damaged memory. What stands in pinned maps was written by an engine before, and by whoever else has
// the rights: it is taken over or given up, and whatever it says, the next engine works on. Needs root and BPF.
#include <algorithm>
#include <random>

#include "abi/flow_shared.h"
#include "engine.h"
#include "network_namespace.h"
#include "packets.h"
#include "pin_directory.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint32_t sessions_max = 256;
constexpr unsigned rounds = 24, untrust = 0, trust = 1, dmz = 2;

struct appliance {
  engine e;
  uint64_t now = monotonic_ns();

  explicit appliance(const std::string& pins) {
    engine_options o;
    o.offline = true;
    const char* object = std::getenv("SLUICE_STEER_OBJECT");
    o.bpf_object = object ? object : "build/bpf/steer.bpf.o";
    o.pin_directory = pins;
    o.sessions_max = sessions_max;
    std::string error;
    REQUIRE_MESSAGE(e.open(o, {}, &error), error);
    const std::vector<uint8_t> snapshot = sample().build();
    uint64_t generation, microseconds;
    REQUIRE_MESSAGE(e.apply(snapshot.data(), snapshot.size(), &generation, &microseconds, &error), error);
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    const struct { uint16_t interface; const char* address; } known[] = {
        {untrust, "203.0.113.1"}, {untrust, "2001:db8:1::1"}, {trust, "10.0.1.10"}, {trust, "2001:db8:2::10"}, {dmz, "10.0.2.10"}, {dmz, "10.0.2.20"}};
    for (const auto& k : known) e.set_neighbour(k.interface, address_of(k.address), mac);
  }
  injected send(uint16_t interface, frame f) {
    const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)};
    std::memcpy(f.bytes.data(), to, sizeof to);
    store16(f.bytes.data() + 12, f.bytes[14] >> 4 == 4 ? 0x0800 : 0x86dd);
    injected out;
    std::string error;
    REQUIRE_MESSAGE(e.inject(interface, f.bytes.data(), f.bytes.size(), now, &out, &error), error);
    return out;
  }
  // Of each kind of session one, and answers; what becomes of them is not judged here.
  void traffic(uint16_t port) {
    auto tcp = [&](uint8_t flags, uint32_t sequence, uint32_t acknowledgement, bool back) {
      std::vector<uint8_t> l4;
      put16(l4, back ? 443 : port), put16(l4, back ? port : 443), put32(l4, sequence), put32(l4, acknowledgement);
      l4.insert(l4.end(), {0x50, flags, 0x20, 0, 0, 0, 0, 0});
      return l4;
    };
    send(trust, ip_frame("10.0.1.10", "198.51.100.10", protocol_udp, udp_datagram(port, 53, 20), 6));
    send(trust, ip_frame("2001:db8:2::10", "2001:db8:f::10", protocol_udp, udp_datagram(port, 53, 20), 6));
    send(untrust, ip_frame("198.51.100.10", "203.0.113.9", protocol_udp, udp_datagram(port, 53, 20), 6));
    send(trust, ip_frame("10.0.1.10", "10.0.2.10", protocol_tcp, tcp(tcp_syn, 1, 0, false), 16));
    send(dmz, ip_frame("10.0.2.10", "10.0.1.10", protocol_tcp, tcp(tcp_syn | tcp_ack, 9, 2, true), 16));
    send(trust, ip_frame("10.0.1.10", "10.0.2.10", protocol_tcp, tcp(tcp_ack, 2, 10, false), 16));
    send(dmz, ip_frame("10.0.2.10", "10.0.1.10", protocol_tcp, tcp(tcp_ack, 10, 2, true), 16));
    send(trust, ip_frame("10.0.1.10", "198.51.100.10", protocol_icmp, {8, 0, 0, 0, static_cast<uint8_t>(port >> 8), static_cast<uint8_t>(port), 0, 1}, 2));
  }
  uint64_t live() { return e.counters()[SL_COUNTER_COUNT + unsigned{SL_DROP_REASON_COUNT}]; }
};

TEST_CASE("inherit: damaged memory is taken over or given up, and the engine works on") {
  sluice_test::pin_directory pins;
  sluice_test::network_namespace there;
  sluice_test::inside in{there};
  for (unsigned index : {2, 3, 4}) sluice_test::run_ip("link add name p" + std::to_string(index) + " index " + std::to_string(index) + " type veth peer name q" + std::to_string(index) + " index " + std::to_string(10 + index));
  std::mt19937 random(7);
  unsigned inherited = 0;
  const flow_sizes sizes = flow_sizes::of(sessions_max);
  const struct { const char* map; size_t bytes, at, used; } parts[] = {
      {"sessions", size_t{sizes.sessions} * sizeof(session), 0, 12 * sizeof(session)},
      {"flow_buckets", size_t{sizes.buckets} * sizeof(sl_flow_bucket), 0, size_t{sizes.buckets} * sizeof(sl_flow_bucket)},
      {"nat_mappings", size_t{sizes.sessions} * sizeof(mapping), 0, 8 * sizeof(mapping)},
      {"flow_header", sizeof(flow_shared), offsetof(flow_shared, adjacencies), 16 * sizeof(adjacency)},
      {"flow_header", sizeof(flow_shared), offsetof(flow_shared, interfaces), 8 * sizeof(interface_state)},
      {"flow_header", sizeof(flow_shared), offsetof(flow_shared, header), sizeof(sl_flow_header)}};
  for (unsigned round = 0; round < rounds; ++round) {
    CAPTURE(round);
    appliance next(pins.path);
    const auto port = [&](unsigned base) { return static_cast<uint16_t>(base + round); };
    inherited += next.live() > 0;
    next.traffic(port(4000 - 1));  // what the one before had; some of it is still known
    next.traffic(port(5000));
    std::vector<sl_flow_record> records(sessions_max);
    uint32_t cursor = 0;
    const uint32_t listed = next.e.sessions(&cursor, records.data(), sessions_max);
    CHECK(listed <= sessions_max);
    if (listed) next.e.kill_session(records[random() % listed].session_id);
    (void)next.e.neighbours(), (void)next.e.nat_pools(), (void)next.e.rule_hits();
    // New connections work: what is wrong is at most the old ones.
    CHECK(next.send(trust, ip_frame("10.0.1.10", "198.51.100.10", protocol_udp, udp_datagram(port(6000), 53, 20), 6)).verdict == "forward");
    injected timers;
    for (uint64_t seconds : {10ull, 8000ull, 8000ull}) next.e.advance(next.now += seconds * second_ns, &timers);
    CHECK(next.live() == 0);

    next.traffic(port(4000));
    REQUIRE(next.live() > 0);
    const unsigned which = random() % (round % 6 ? 5 : 6);  // a damaged header mostly says that nothing is to be inherited
    std::string error;
    auto* memory = static_cast<uint8_t*>(next.e.offline_steering()->map_memory(parts[which].map, parts[which].bytes, &error));
    REQUIRE_MESSAGE(memory, error);
    for (unsigned n = 1 + random() % 200; n > 0; --n) memory[parts[which].at + random() % parts[which].used] = random() % 4 ? static_cast<uint8_t>(random()) : random() % 2 ? 0xff : 0;
  }
  CHECK(inherited > rounds / 3);
}

}  // namespace
}  // namespace sluice
