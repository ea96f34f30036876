// SPDX-License-Identifier: Apache-2.0
// packet_fuzz.cc: the packet path, from frame to frame, in memory. Input: records of
//   u8 operation | u8 time | u16 length (little-endian) | frame
// operation: bits 0-1 the interface, bits 2-4 the way (see `way`), bit 5 repairs the layer-4 checksum, bit 6 the IPv4
// header's, bit 7 runs the timers first; time: the clock moves by 2^(time & 31) microseconds, bit 5 gives what comes by the tunnel an allowed source. Beside the network of
// sample() there is a WireGuard tunnel with a session. Two ways are no packet's: the bytes as a question (simulate), with an operator who ends
// a session, and as a capture's filter. What must hold: no sanitizer's complaint, what is forwarded is a
// well-formed IP packet, no packet buffer is lost, and when everything has timed out nothing is left.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "packet/checksum.h"
#include "snapshot_builder.h"
#include "tunnel/aead.h"

namespace {

using namespace sluice;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t harness_ns_max = 20ull * 365 * 86400 * second_ns;
constexpr unsigned records_max = 64;  // an input's length is bounded, so that a finding is short
constexpr uint32_t sessions_max = 32;  // an input can fill the table
constexpr uint16_t tunnel_port = 51820;
constexpr uint32_t tunnel_id = 5, peer_id = 6;

// How a record's frame comes. The packet in it begins at byte 14.
enum way : uint8_t { received, from_host, from_peer, from_peer_changed, to_tunnel_port, into_tunnel, asked, watched };

[[noreturn]] void violated(const char* what) {
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

struct harness {
  engine dataplane;
  uint64_t now_ns = 1000 * second_ns;

  uint32_t local_index = 0;
  uint64_t counter = 0;
  std::unique_ptr<aead> cipher;
  uint8_t key[aead_key_bytes] = {7};

  harness() {
    engine_options options;
    options.offline = true;
    options.sessions_max = sessions_max;
    std::string error;
    if (!dataplane.open(options, {}, &error)) violated(error.c_str());
    testing::snapshot_builder b = testing::sample();
    const uint16_t tunnel = b.wireguard(tunnel_id, 4, tunnel_port);
    b.address(tunnel, "10.100.0.1", 120);
    b.address(tunnel, "2001:db8:100::1", 64);
    b.route("10.7.0.0", 112, "::", tunnel);
    b.route("2001:db8:7::", 48, "::", tunnel);
    b.peer(peer_id, {{"10.7.0.0", 112}, {"10.100.0.2", 128}, {"2001:db8:7::", 48}});
    b.rule(7, SL_ACTION_ALLOW, 0b10000, 0b01111);
    b.rule(8, SL_ACTION_ALLOW, 0b01111, 0b10000);
    std::vector<uint8_t> snapshot = b.build();
    uint64_t generation, microseconds;
    if (!dataplane.apply(snapshot.data(), snapshot.size(), &generation, &microseconds, &error)) violated(error.c_str());
  }

  // A session with the tunnel's peer, whose keys are known here, too.
  void connect() {
    if (!cipher) {
      std::string error;
      cipher = aead::open(&error);
      if (!cipher) violated(error.c_str());
      const sl_wireguard_gate_key gate{};
      if (!dataplane.wireguard_gate(tunnel_id, {&gate, 1}, &error)) violated(error.c_str());
    }
    injected timers;
    dataplane.advance(now_ns, &timers);
    sl_wireguard_endpoint endpoint{};
    endpoint.address = testing::address_of("203.0.113.1");
    endpoint.port = 7;
    sl_wireguard_keypair keys{};
    keys.peer_id = peer_id;
    keys.local_index = local_index = dataplane.wireguard_index();
    keys.remote_index = 1;
    keys.initiator = 1;
    keys.created_ns = now_ns;
    std::memcpy(keys.send_key, key, sizeof key);
    std::memcpy(keys.receive_key, key, sizeof key);
    std::string error;
    if (!dataplane.wireguard_endpoint(peer_id, endpoint) || !dataplane.wireguard_install(&keys, &error)) violated(error.c_str());
    counter = 0;
    static std::vector<uint8_t> events(1 << 20);
    while (dataplane.wireguard_events(events.data(), events.size())) {}
  }

  // What the peer would send with this packet inside.
  std::vector<uint8_t> sealed(const uint8_t* packet, size_t bytes) {
    std::vector<uint8_t> message(16 + bytes + aead_tag_bytes);
    store32_raw(message.data(), 4);
    store32_raw(message.data() + 4, local_index);
    store64_raw(message.data() + 8, counter);
    if (bytes) std::memcpy(message.data() + 16, packet, bytes);
    aead_item item{message.data() + 16, static_cast<uint32_t>(bytes)};
    item.key = key;
    item.set_counter(counter++);
    cipher->seal({&item, 1});
    return message;
  }

  void ask(const std::vector<uint8_t>& bytes, uint8_t which) {
    sl_simulate_request question{};
    if (!bytes.empty()) std::memcpy(&question, bytes.data(), std::min(bytes.size(), sizeof question));
    sl_simulate_result answer;
    std::string error;
    if (!dataplane.simulate(question, &answer, &error)) {
      if (error.empty()) violated("refused without a text");
    } else if (answer.reason >= SL_DROP_REASON_COUNT || answer.verdict >= SL_RULE_ACTION_COUNT || (answer.verdict == SL_ACTION_ALLOW) != (answer.reason == SL_DROP_NONE)) {
      violated("an answer that is none");
    }
    sl_flow_record listed[16];
    uint32_t cursor = 0, count = dataplane.sessions(&cursor, listed, 16);
    for (uint32_t i = 0; i < count; ++i)
      if (listed[i].state >= SL_SESSION_STATE_COUNT || listed[i].last_ns < listed[i].start_ns) violated("a session that is none");
    if (count && (which & 1) && !dataplane.kill_session(listed[which % count].session_id)) violated("a listed session does not end");
  }

  void watch(const std::vector<uint8_t>& bytes, unsigned slot) {
    sl_capture_filter filter{};
    filter.protocol = SL_PROTOCOL_ANY;
    filter.snap_bytes = 64;
    filter.directions = SL_CAPTURE_IN | SL_CAPTURE_OUT;
    if (!bytes.empty()) std::memcpy(&filter, bytes.data(), std::min(bytes.size(), sizeof filter));
    std::string error;
    if (!dataplane.set_capture(slot, &filter, &error) && error.empty()) violated("refused without a text");
  }

  // Takes what was copied, and ends all captures.
  void look() {
    static std::vector<uint8_t> into(capture_ring_bytes);
    const size_t bytes = dataplane.captured(into.data(), into.size());
    for (size_t at = 0; at < bytes;) {
      sl_captured record;
      if (bytes - at < sizeof record) violated("half a copy");
      std::memcpy(&record, into.data() + at, sizeof record);
      if (record.record_bytes < sizeof record + record.bytes || record.record_bytes > bytes - at || record.bytes > record.original_bytes || !record.captures || record.reason >= SL_DROP_REASON_COUNT) violated("a copy that is none");
      at += record.record_bytes;
    }
    std::string error;
    for (unsigned slot = 0; slot < SL_CAPTURES_MAX; ++slot) dataplane.set_capture(slot, nullptr, &error);
  }

  void resolve() {
    const struct { uint16_t interface; const char* address; } known[] = {
        {0, "203.0.113.1"}, {0, "2001:db8:1::1"}, {1, "10.0.1.10"}, {1, "2001:db8:2::10"}, {1, "2001:db8:2::66"}, {2, "10.0.2.10"}, {2, "10.0.2.20"}, {2, "2001:db8:3::20"}, {3, "10.0.30.10"}};
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    for (const auto& k : known) dataplane.set_neighbour(k.interface, testing::address_of(k.address), mac);
  }
};

// A frame with a message to the tunnel's port.
std::vector<uint8_t> outer(const std::vector<uint8_t>& message, bool v6) {
  std::vector<uint8_t> f(14 + (v6 ? 40 : 20) + 8);
  const uint8_t own[6] = {2, 0, 0, 0, 0, 1};
  std::memcpy(f.data(), own, sizeof own);
  store16(f.data() + 12, v6 ? 0x86dd : 0x0800);
  uint8_t* ip = f.data() + 14;
  const sl_address src = testing::address_of(v6 ? "2001:db8:1::1" : "203.0.113.1"), dst = testing::address_of(v6 ? "2001:db8:1::4" : "203.0.113.4");
  const uint16_t bytes = static_cast<uint16_t>(8 + message.size());
  if (v6) {
    ip[0] = 0x60;
    store16(ip + 4, bytes);
    ip[6] = protocol_udp;
    ip[7] = 64;
    std::memcpy(ip + 8, src.bytes, 16);
    std::memcpy(ip + 24, dst.bytes, 16);
  } else {
    ip[0] = 0x45;
    store16(ip + 2, static_cast<uint16_t>(20 + bytes));
    ip[8] = 64;
    ip[9] = protocol_udp;
    std::memcpy(ip + 12, src.bytes + 12, 4);
    std::memcpy(ip + 16, dst.bytes + 12, 4);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
  }
  uint8_t* udp = ip + (v6 ? 40 : 20);
  store16(udp, 7);
  store16(udp + 2, tunnel_port);
  store16(udp + 4, bytes);
  store16(udp + 6, v6 ? 1 : 0);
  f.insert(f.end(), message.begin(), message.end());
  return f;
}

// Without this, mutated packets would all end at their checksum.
void repair(uint8_t* frame, size_t length, bool header, bool layer4) {
  size_t l3 = 14;
  if (length >= 18 && frame[12] == 0x81 && frame[13] == 0) l3 = 18;
  if (length < l3 + 20) return;
  uint8_t* ip = frame + l3;
  bool v4 = ip[0] >> 4 == 4;
  size_t header_bytes = v4 ? (ip[0] & 15) * 4u : 40u, total = v4 ? load16(ip + 2) : 40u + load16(ip + 4);
  if (total > length - l3 || total < header_bytes || header_bytes < 20) return;
  if (v4 && header) {
    store16_raw(ip + 10, 0);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, static_cast<unsigned>(header_bytes))));
  }
  if (!layer4) return;
  uint8_t protocol = v4 ? ip[9] : ip[6];
  uint8_t* l4 = ip + header_bytes;
  unsigned bytes = static_cast<unsigned>(total - header_bytes);
  unsigned field = protocol == 6 ? 16 : protocol == 17 ? 6 : protocol == 1 || protocol == 58 ? 2 : 0;
  if (field == 0 || bytes < field + 2) return;
  store16_raw(l4 + field, 0);
  uint64_t sum = protocol == 1 ? 0 : checksum_pseudo(ip + (v4 ? 12 : 8), v4 ? 4 : 16, protocol, bytes);
  uint16_t value = checksum_finish(checksum_add(sum, l4, bytes));
  store16_raw(l4 + field, value ? value : 0xffff);
}

void judge(const injected& result) {
  for (const auto& out : result.frames) {
    if (out.interface >= 4) violated("a frame leaves by no interface");
    const uint8_t* p = out.frame.data();
    size_t length = out.frame.size(), l3 = 14;
    if (length < 34) violated("a frame too short leaves");
    if (load16(p + 12) == 0x8100) l3 = 18;
    uint16_t type = load16(p + l3 - 2);
    const uint8_t* ip = p + l3;
    if (type == 0x0800) {
      unsigned header = (ip[0] & 15) * 4u;
      if (ip[0] >> 4 != 4 || header < 20 || l3 + load16(ip + 2) != length) violated("IPv4 length");
      if (checksum_fold(checksum_add(0, ip, header)) != 0xffff) violated("IPv4 header checksum");
      if (ip[8] == 0) violated("TTL 0 leaves");
    } else if (type == 0x86dd) {
      if (ip[0] >> 4 != 6 || l3 + 40 + load16(ip + 4) != length) violated("IPv6 length");
      if (ip[7] == 0) violated("hop limit 0 leaves");
    } else {
      violated("ethertype");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Inputs take hours of the harness's time each; the engine's ticks last for 36 years (flow/session.h).
  static std::unique_ptr<harness> current;
  if (!current || current->now_ns > harness_ns_max) current = std::make_unique<harness>();
  harness& h = *current;
  h.resolve();
  h.connect();
  std::string error;
  for (unsigned records = 0; size >= 4 && records < records_max; ++records) {
    uint8_t operation = data[0], time = data[1];
    size_t length = data[2] | data[3] << 8;
    data += 4;
    size -= 4;
    if (length > size) length = size;
    if (length > 3000) length = 3000;
    std::vector<uint8_t> frame(data, data + length);
    data += length;
    size -= length;
    h.now_ns += 1000ull << (time & 31);
    if (operation & 0x80) {
      injected timers;
      h.dataplane.advance(h.now_ns, &timers);
      judge(timers);
    }
    repair(frame.data(), frame.size(), operation & 0x40, operation & 0x20);
    const size_t packet_bytes = frame.size() > 14 ? frame.size() - 14 : 0;
    const bool v6 = packet_bytes && frame[14] >> 4 == 6;
    if (const uint8_t how = operation >> 2 & 7; how == from_host) {
      injected result;
      if (packet_bytes) h.dataplane.inject_from_host(frame.data() + 14, packet_bytes, h.now_ns, &result);
      judge(result);
      continue;
    } else if (how == asked) {
      h.ask(frame, time);
      continue;
    } else if (how == watched) {
      h.watch(frame, operation & 3);
      continue;
    } else if (how == from_peer || how == from_peer_changed) {
      if ((time & 0x20) && packet_bytes >= 40) {
        const sl_address there = testing::address_of(v6 ? "2001:db8:7::9" : "10.7.0.9");
        std::memcpy(frame.data() + 14 + (v6 ? 8 : 12), there.bytes + (v6 ? 0 : 12), v6 ? 16 : 4);
        repair(frame.data(), frame.size(), true, true);
      }
      std::vector<uint8_t> message = h.sealed(frame.data() + (packet_bytes ? 14 : 0), packet_bytes);
      if (how == from_peer_changed) message[(time | operation << 8) % message.size()] ^= static_cast<uint8_t>(1 << (time & 7));
      frame = outer(message, v6);
      operation = 0;
    } else if (how == to_tunnel_port) {
      frame = outer(std::vector<uint8_t>(frame.begin() + static_cast<long>(frame.size() - packet_bytes), frame.end()), v6);
      operation = 0;
    } else if (how == into_tunnel && packet_bytes >= 40) {
      const sl_address there = testing::address_of(v6 ? "2001:db8:7::9" : "10.7.0.9");
      std::memcpy(frame.data() + 14 + (v6 ? 24 : 16), there.bytes + (v6 ? 0 : 12), v6 ? 16 : 4);
      repair(frame.data(), frame.size(), true, true);
    }
    if ((operation & 0x60) && frame.size() >= 18) {  // to the interface that takes it: its index is in its link address
      const uint8_t own[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(load16(frame.data() + 12) == 0x8100 ? 4 : (operation & 3) + 1)};
      std::memcpy(frame.data(), own, sizeof own);
    }
    injected result;
    if (!h.dataplane.inject(operation & 3, frame.data(), frame.size(), h.now_ns, &result, &error)) violated(error.c_str());
    judge(result);
  }
  h.look();
  // Everything times out: established TCP last, then what a sweep had put off.
  for (uint64_t seconds : {4ull, 7500ull, 7500ull}) {
    h.now_ns += seconds * second_ns;
    injected timers;
    h.dataplane.advance(h.now_ns, &timers);
    judge(timers);
  }
  std::vector<uint64_t> counters = h.dataplane.counters();
  const uint64_t* gauges = counters.data() + SL_COUNTER_COUNT + SL_DROP_REASON_COUNT;
  if (gauges[0] != 0) violated("sessions are left");
  if (gauges[2] != gauges[3]) violated("packet buffers are lost");
  if (gauges[4] != 0) violated("NAT mappings are left");
  if (gauges[5] != 0) violated("fragmented datagrams are left");
  static std::vector<uint8_t> into(1 << 20);
  uint32_t flows, drops;
  h.dataplane.records(into.data(), into.size(), &flows, &drops);
  return 0;
}
