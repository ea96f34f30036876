// SPDX-License-Identifier: Apache-2.0
// packet_fuzz.cc: the packet path, from frame to frame, in memory. Input: records of
//   u8 operation | u8 time | u16 length (little-endian) | frame
// operation: bits 0-1 the interface, bit 5 repairs the layer-4 checksum, bit 6 the IPv4 header's, bit 7 runs the timers
// first; time: the clock moves by 2^(time & 31) microseconds. What must hold: no sanitizer's complaint, what is forwarded
// is a well-formed IP packet, no packet buffer is lost, and when everything has timed out nothing is left.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "packet/checksum.h"
#include "snapshot_builder.h"

namespace {

using namespace sluice;

constexpr uint64_t second_ns = 1'000'000'000;
constexpr uint64_t harness_ns_max = 20ull * 365 * 86400 * second_ns;
constexpr unsigned records_max = 64;  // an input's length is bounded, so that a finding is short
constexpr uint32_t sessions_max = 4096;

[[noreturn]] void violated(const char* what) {
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

struct harness {
  engine dataplane;
  uint64_t now_ns = 1000 * second_ns;

  harness() {
    engine_options options;
    options.offline = true;
    options.sessions_max = sessions_max;
    std::string error;
    if (!dataplane.open(options, {}, &error)) violated(error.c_str());
    std::vector<uint8_t> snapshot = testing::sample().build();
    uint64_t generation, microseconds;
    if (!dataplane.apply(snapshot.data(), snapshot.size(), &generation, &microseconds, &error)) violated(error.c_str());
  }

  void resolve() {
    const struct { uint16_t interface; const char* address; } known[] = {
        {0, "203.0.113.1"}, {0, "2001:db8:1::1"}, {1, "10.0.1.10"}, {1, "2001:db8:2::10"}, {1, "2001:db8:2::66"}, {2, "10.0.2.10"}, {2, "10.0.2.20"}, {2, "2001:db8:3::20"}, {3, "10.0.30.10"}};
    const uint8_t mac[6] = {6, 0, 0, 0, 0, 1};
    for (const auto& k : known) dataplane.set_neighbour(k.interface, testing::address_of(k.address), mac);
  }
};

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
    if ((operation & 0x60) && frame.size() >= 18) {  // to the interface that takes it: its index is in its link address
      const uint8_t own[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(load16(frame.data() + 12) == 0x8100 ? 4 : (operation & 3) + 1)};
      std::memcpy(frame.data(), own, sizeof own);
    }
    injected result;
    if (!h.dataplane.inject(operation & 3, frame.data(), frame.size(), h.now_ns, &result, &error)) violated(error.c_str());
    judge(result);
  }
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
