// SPDX-License-Identifier: Apache-2.0
// capture_test.cc: the ring that copies of packets go through, and which captures take which frame. What becomes of a packet in the
// pipeline, and that it is told, is in test/cases/capture.test.ts.
#include "capture.h"

#include <random>
#include <thread>

#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

// ---- the ring -----------------------------------------------------------------------------------------------------

// One copy whose bytes follow from its number; false: no room.
bool put(capture_ring& ring, uint64_t number, unsigned bytes) {
  sl_captured* record = ring.reserve(bytes);
  if (!record) return false;
  record->time_ns = number;
  record->captures = 1;
  std::memset(record + 1, static_cast<int>(number % 251), bytes);
  ring.commit(*record);
  return true;
}

struct taken { uint64_t number; unsigned bytes; bool whole; };

std::vector<taken> read(const uint8_t* from, size_t used) {
  std::vector<taken> out;
  for (size_t at = 0; at < used;) {
    sl_captured record;
    REQUIRE(at + sizeof record <= used);
    std::memcpy(&record, from + at, sizeof record);
    REQUIRE(record.record_bytes % 8 == 0);
    REQUIRE(record.record_bytes >= sizeof record + record.bytes);
    REQUIRE(at + record.record_bytes <= used);
    bool whole = record.captures == 1;
    for (unsigned i = 0; i < record.bytes; ++i) whole = whole && from[at + sizeof record + i] == record.time_ns % 251;
    out.push_back({record.time_ns, record.bytes, whole});
    at += record.record_bytes;
  }
  return out;
}

TEST_CASE("capture ring: without memory nothing is kept; what is not committed never was") {
  capture_ring ring;
  CHECK(!ring.ready());
  CHECK(ring.reserve(100) == nullptr);
  ring.allocate();
  std::vector<uint8_t> into(4096);
  CHECK(ring.drain(into.data(), into.size()) == 0);
  REQUIRE(ring.reserve(100) != nullptr);
  CHECK(ring.drain(into.data(), into.size()) == 0);
  REQUIRE(put(ring, 7, 60));
  auto all = read(into.data(), ring.drain(into.data(), into.size()));
  REQUIRE(all.size() == 1);
  CHECK(all[0].number == 7);
  CHECK(all[0].whole);
}

TEST_CASE("capture ring: full is full, and has room again for what was taken") {
  capture_ring ring;
  ring.allocate();
  uint64_t n = 0;
  while (put(ring, n, 1000)) ++n;
  CHECK(n == capture_ring_bytes / 1024);
  CHECK(!put(ring, n, 1000));
  std::vector<uint8_t> into(10 * 1024 + 1000);  // ten and no eleventh
  auto some = read(into.data(), ring.drain(into.data(), into.size()));
  CHECK(some.size() == 10);
  for (unsigned i = 0; i < 10; ++i) CHECK(put(ring, n++, 1000));
  CHECK(!put(ring, n, 1000));
  CHECK(ring.drain(into.data(), 1023) == 0);  // less than one
}

TEST_CASE("capture ring: records of any size over the end, gaps larger and smaller than a header") {
  std::mt19937 random(3);
  capture_ring ring;
  ring.allocate();
  std::vector<uint8_t> into(1u << 20);
  uint64_t written = 0, expected = 0;
  size_t bytes = 0;
  unsigned wrong = 0;
  while (bytes < 20ull * capture_ring_bytes) {
    const unsigned burst = random() % 200;
    for (unsigned i = 0; i < burst; ++i) {
      const unsigned size = random() % 4 == 0 ? random() % 4096 : random() % 90;
      if (random() % 7 == 0) { ring.reserve(size); continue; }  // filtered after all
      if (!put(ring, written, size)) break;
      ++written;
      bytes += size + sizeof(sl_captured);
    }
    for (const taken& one : read(into.data(), ring.drain(into.data(), into.size()))) wrong += one.number != expected++ || !one.whole;
  }
  for (;;) {
    auto rest = read(into.data(), ring.drain(into.data(), into.size()));
    if (rest.empty()) break;
    for (const taken& one : rest) wrong += one.number != expected++ || !one.whole;
  }
  CHECK(wrong == 0);
  CHECK(expected == written);
}

TEST_CASE("capture ring: one thread writes, another reads") {
  constexpr uint64_t count = 400'000;
  capture_ring ring;
  ring.allocate();
  uint64_t lost = 0;
  std::thread writer([&] {
    std::mt19937 random(5);
    for (uint64_t n = 0; n < count; ++n) lost += !put(ring, n, random() % 300);
    while (!put(ring, count, 0)) std::this_thread::yield();
  });
  std::vector<uint8_t> into(1u << 16);
  uint64_t seen = 0, last = 0;
  unsigned wrong = 0;
  for (bool ended = false; !ended;) {
    const size_t used = ring.drain(into.data(), into.size());
    for (const taken& one : read(into.data(), used)) {
      if (one.number == count) { ended = true; break; }
      wrong += !one.whole || (seen && one.number <= last);
      last = one.number;
      ++seen;
    }
  }
  writer.join();
  CHECK(wrong == 0);
  CHECK(seen + lost == count);
}

// ---- which captures take a frame -------------------------------------------------------------------------------------

sl_capture_filter any() {
  sl_capture_filter f{};
  f.protocol = SL_PROTOCOL_ANY;
  f.snap_bytes = 256;
  f.directions = SL_CAPTURE_IN | SL_CAPTURE_OUT;
  return f;
}
sl_prefix prefix(const char* text, uint8_t length) { return {address_of(text), length, {}}; }

bool taken_by(const sl_capture_filter& f, const std::vector<uint8_t>& bytes, uint8_t direction = SL_CAPTURE_IN, uint32_t interface_id = 9) {
  capture_set set;
  set.active[2] = true;
  set.filters[2] = f;
  const std::vector<uint8_t> exact(bytes);  // of its own size: reading beyond it is seen by the sanitizer
  const uint8_t mask = captures_of(set, exact.data(), static_cast<unsigned>(exact.size()), interface_id, direction);
  CHECK((mask & ~4u) == 0);
  return mask != 0;
}

// ip_frame() leaves the Ethernet header to its caller.
std::vector<uint8_t> on_wire(frame f, int vlan = -1) {
  const bool v4 = f.bytes[14] >> 4 == 4;
  store16(f.bytes.data() + 12, v4 ? 0x0800 : 0x86dd);
  if (vlan >= 0) {
    const uint8_t tag[4] = {0x81, 0x00, static_cast<uint8_t>(vlan >> 8), static_cast<uint8_t>(vlan)};
    f.bytes.insert(f.bytes.begin() + 12, tag, tag + 4);
  }
  return f.bytes;
}
std::vector<uint8_t> udp(const char* src, uint16_t src_port, const char* dst, uint16_t dst_port, int vlan = -1) {
  return on_wire(ip_frame(src, dst, protocol_udp, udp_datagram(src_port, dst_port, 20), 6), vlan);
}

TEST_CASE("capture filter: interface, direction, and only those that run") {
  const auto f = udp("10.0.1.10", 4000, "198.51.100.10", 53);
  CHECK(taken_by(any(), f));
  sl_capture_filter one = any();
  one.interface = 9;
  CHECK(taken_by(one, f));
  CHECK(!taken_by(one, f, SL_CAPTURE_IN, 8));
  one.directions = SL_CAPTURE_OUT;
  CHECK(!taken_by(one, f, SL_CAPTURE_IN));
  CHECK(taken_by(one, f, SL_CAPTURE_OUT));
  capture_set none;
  CHECK(!none.any());
  CHECK(captures_of(none, f.data(), static_cast<unsigned>(f.size()), 9, SL_CAPTURE_IN) == 0);
  capture_set two;
  two.active[0] = two.active[3] = true;
  two.filters[0] = any();
  two.filters[3] = any();
  CHECK(captures_of(two, f.data(), static_cast<unsigned>(f.size()), 9, SL_CAPTURE_IN) == 9);
}

TEST_CASE("capture filter: addresses of both families, tagged or not, one way or both") {
  struct family { const char *client, *other, *net, *server; uint8_t net_length, host_length; };
  for (const family& a : {family{"10.0.1.10", "10.0.2.10", "10.0.1.0", "198.51.100.10", 120, 128}, family{"2001:db8:2::10", "2001:db8:3::10", "2001:db8:2::", "2001:db8:f::10", 64, 128}}) {
    for (int vlan : {-1, 0, 100}) {
      const auto out = udp(a.client, 4000, a.server, 53, vlan), back = udp(a.server, 53, a.client, 4000, vlan), other = udp(a.other, 4000, a.server, 53, vlan);
      sl_capture_filter f = any();
      f.source = prefix(a.net, a.net_length);
      CHECK(taken_by(f, out));
      CHECK(!taken_by(f, back));
      CHECK(!taken_by(f, other));
      f.flags = SL_CAPTURE_BOTH_WAYS;
      CHECK(taken_by(f, back));
      CHECK(!taken_by(f, other));
      f.destination = prefix(a.server, a.host_length);
      CHECK(taken_by(f, out));
      CHECK(taken_by(f, back));
      f.destination = prefix(a.other, a.host_length);
      CHECK(!taken_by(f, out));
      CHECK(!taken_by(f, back));
    }
  }
  sl_capture_filter v6 = any();
  v6.source = prefix("2001:db8::", 32);
  CHECK(!taken_by(v6, udp("10.0.1.10", 1, "10.0.1.11", 2)));
  sl_capture_filter v4 = any();
  v4.source = prefix("0.0.0.0", 96);  // all of IPv4
  CHECK(taken_by(v4, udp("10.0.1.10", 1, "10.0.1.11", 2)));
  CHECK(!taken_by(v4, udp("2001:db8::1", 1, "2001:db8::2", 2)));
}

TEST_CASE("capture filter: protocol and port, of either side, behind options and extension headers") {
  sl_capture_filter f = any();
  f.protocol = protocol_udp;
  f.port = 53;
  f.flags = SL_CAPTURE_PORT;
  CHECK(taken_by(f, udp("10.0.1.10", 4000, "198.51.100.10", 53)));
  CHECK(taken_by(f, udp("198.51.100.10", 53, "10.0.1.10", 4000)));
  CHECK(!taken_by(f, udp("10.0.1.10", 4000, "198.51.100.10", 54)));
  f.protocol = protocol_tcp;
  CHECK(!taken_by(f, udp("10.0.1.10", 4000, "198.51.100.10", 53)));

  f.protocol = protocol_udp;
  auto options = udp("10.0.1.10", 4000, "198.51.100.10", 53);
  options[14] = 0x46;
  options.insert(options.begin() + 34, {1, 1, 1, 0});
  CHECK(taken_by(f, options));

  auto datagram = udp_datagram(4000, 53, 20);
  std::vector<uint8_t> hop{protocol_udp, 0, 1, 4, 0, 0, 0, 0};
  hop.insert(hop.end(), datagram.begin(), datagram.end());
  CHECK(taken_by(f, on_wire(ip_frame("2001:db8::1", "2001:db8::2", 0, hop, 0))));

  // Port 0 is a port: only the flag says whether one is asked for.
  f.port = 0;
  CHECK(!taken_by(f, udp("10.0.1.10", 4000, "198.51.100.10", 53)));
  CHECK(taken_by(f, udp("10.0.1.10", 0, "198.51.100.10", 53)));
}

TEST_CASE("capture filter: of fragments the first has ports; the others their protocol and addresses") {
  auto datagram = udp_datagram(4000, 53, 200);
  sl_capture_filter protocol = any(), port = any();
  protocol.protocol = port.protocol = protocol_udp;
  protocol.source = prefix("10.0.1.10", 128);
  port.port = 53;
  port.flags = SL_CAPTURE_PORT;
  const auto first = on_wire(ip_frame("10.0.1.10", "198.51.100.10", protocol_udp, {datagram.begin(), datagram.begin() + 96}, 0, 7, 0x2000));
  // What stands where ports would is payload, made to look like them.
  std::vector<uint8_t> payload(64, 0);
  payload[3] = 53;
  const auto later = on_wire(ip_frame("10.0.1.10", "198.51.100.10", protocol_udp, payload, 0, 7, 12));
  CHECK(taken_by(protocol, first));
  CHECK(taken_by(port, first));
  CHECK(taken_by(protocol, later));
  CHECK(!taken_by(port, later));

  protocol.source = prefix("2001:db8::1", 128);
  std::vector<uint8_t> first6{protocol_udp, 0, 0, 1, 0, 0, 0, 7}, later6{protocol_udp, 0, 0, 96, 0, 0, 0, 7};
  first6.insert(first6.end(), datagram.begin(), datagram.begin() + 96);
  later6.insert(later6.end(), payload.begin(), payload.end());
  const auto a = on_wire(ip_frame("2001:db8::1", "2001:db8::2", protocol_ipv6_fragment, first6, 0)), b = on_wire(ip_frame("2001:db8::1", "2001:db8::2", protocol_ipv6_fragment, later6, 0));
  CHECK(taken_by(protocol, a));
  CHECK(taken_by(port, a));
  CHECK(taken_by(protocol, b));
  CHECK(!taken_by(port, b));
}

TEST_CASE("capture filter: cut and random frames are read only as far as they go") {
  sl_capture_filter port = any(), address = any();
  port.port = 53;
  port.flags = SL_CAPTURE_PORT;
  address.source = prefix("10.0.1.0", 120);
  const auto whole = udp("10.0.1.10", 4000, "198.51.100.10", 53, 100);
  for (size_t length = 0; length <= whole.size(); ++length) {
    const std::vector<uint8_t> cut(whole.begin(), whole.begin() + static_cast<long>(length));
    CHECK(taken_by(any(), cut));
    CHECK(taken_by(address, cut) == (length >= 18 + 20));
    CHECK(taken_by(port, cut) == (length >= 18 + 20 + 4));
  }
  auto lying = udp("10.0.1.10", 4000, "198.51.100.10", 53);
  lying[14] = 0x40;  // a header of no bytes would have ports in the addresses
  CHECK(!taken_by(port, lying));
  lying[14] = 0x4f;
  lying.resize(40);
  CHECK(!taken_by(port, lying));
  std::mt19937 random(8);
  for (unsigned round = 0; round < 20'000; ++round) {
    std::vector<uint8_t> noise(random() % 120);
    for (auto& byte : noise) byte = static_cast<uint8_t>(random());
    if (noise.size() > 14) { noise[12] = random() & 1 ? 0x86 : 0x08; noise[13] = noise[12] == 0x86 ? 0xdd : 0; noise[14] = static_cast<uint8_t>((noise[12] == 0x86 ? 0x60 : 0x40) | (noise[14] & 15)); }
    taken_by(port, noise);
  }
}

}  // namespace
}  // namespace sluice
