// SPDX-License-Identifier: Apache-2.0
// tcp_test.cc: the TCP state machine from segment to verdict, and as a property: whatever two honest stacks send, in
// whatever order and with whatever loss, passes.
#include <cstddef>
#include <deque>
#include <random>

#include "flow/tcp.h"
#include "packets.h"

namespace sluice {
namespace {

tcp_segment segment(uint8_t flags, uint32_t sequence, uint32_t acknowledgement = 0, uint32_t payload = 0, uint16_t window = 65535) {
  tcp_segment g{};
  g.flags = flags;
  g.sequence = sequence;
  g.acknowledgement = acknowledgement;
  g.payload = payload;
  g.window = window;
  return g;
}

bool passes(session& s, unsigned d, const tcp_segment& g) { return tcp_update(s, d, g).verdict == tcp_verdict::pass; }

void establish(session& s, uint32_t a, uint32_t b) {
  tcp_open(s, segment(tcp_syn, a));
  REQUIRE(passes(s, 1, segment(tcp_syn | tcp_ack, b, a + 1)));
  REQUIRE(passes(s, 0, segment(tcp_ack, a + 1, b + 1)));
  REQUIRE(s.state == SL_STATE_ESTABLISHED);
}

TEST_CASE("tcp: opening, at each corner of the sequence space") {
  for (uint32_t a : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu}) {
    for (uint32_t b : {0u, 0x7fffffffu, 0xffffffffu}) {
      session s{};
      establish(s, a, b);
      CHECK(passes(s, 0, segment(tcp_ack, a + 1, b + 1, 1000)));
      CHECK(passes(s, 1, segment(tcp_ack, b + 1, a + 1001)));
    }
  }
}

TEST_CASE("tcp: a reset ends only with the exact sequence (RFC 5961 section 3.2)") {
  for (int32_t off : {-70000, -1, 1, 2, 1000, 70000}) {
    session s{};
    establish(s, 1000, 5000);
    tcp_result r = tcp_update(s, 1, segment(tcp_rst, static_cast<uint32_t>(5001 + off)));
    CHECK(r.verdict == tcp_verdict::drop);
    CHECK(r.reason == SL_DROP_TCP_RST_SEQUENCE);
    CHECK(s.state == SL_STATE_ESTABLISHED);
  }
  session s{};
  establish(s, 1000, 5000);
  CHECK(passes(s, 1, segment(tcp_rst, 5001)));
  CHECK(s.state == SL_STATE_CLOSED);
}

TEST_CASE("tcp: a blind sender's chance is a window, not the sequence space") {
  session s{};
  establish(s, 1000, 5000);
  std::mt19937 random(5);
  unsigned passed = 0;
  for (unsigned i = 0; i < 100'000; ++i) passed += passes(s, 1, segment(tcp_ack, static_cast<uint32_t>(random()), static_cast<uint32_t>(random()), 10));
  CHECK(passed <= 3);  // (2 windows / 2^32)^2 of 100,000: none to be expected
}

TEST_CASE("tcp: sequences that an ICMP error may quote (RFC 5927)") {
  session s{};
  establish(s, 1000, 5000);
  REQUIRE(passes(s, 0, segment(tcp_ack, 1001, 5001, 500)));
  CHECK(tcp_sequence_in_flight(s, 0, 1001));
  CHECK(tcp_sequence_in_flight(s, 0, 1501));
  CHECK_FALSE(tcp_sequence_in_flight(s, 0, 1502));
  CHECK_FALSE(tcp_sequence_in_flight(s, 0, 900));
  REQUIRE(passes(s, 1, segment(tcp_ack, 5001, 1501)));
  CHECK_FALSE(tcp_sequence_in_flight(s, 0, 1001));
}

// Two stacks that send data, lose segments, retransmit and close; the network between reorders.
TEST_CASE("tcp: honest stacks are never dropped") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    session s{};
    uint32_t start[2] = {static_cast<uint32_t>(random()), static_cast<uint32_t>(random())};
    establish(s, start[0], start[1]);
    struct stack { uint32_t next, unacknowledged, expected; uint16_t window; bool finished; };
    stack side[2] = {{start[0] + 1, start[0] + 1, start[1] + 1, 65535, false}, {start[1] + 1, start[1] + 1, start[0] + 1, 65535, false}};
    struct flying { unsigned from; tcp_segment g; };
    std::deque<flying> network;
    unsigned dropped = 0;
    for (unsigned step = 0; step < 2000; ++step) {
      unsigned d = random() & 1;
      stack& me = side[d];
      stack& peer = side[1 - d];
      uint32_t in_flight = me.next - me.unacknowledged;
      if (random() % 2 == 0 && !me.finished && in_flight < 60000) {
        uint32_t payload = random() % 1460;
        bool fin = step > 1500 && random() % 50 == 0;
        network.push_back({d, segment(static_cast<uint8_t>(tcp_ack | (fin ? tcp_fin : 0)), me.next, me.expected, payload, me.window)});
        me.next += payload + fin;
        me.finished = fin;
      } else if (random() % 8 == 0 && in_flight) {
        uint32_t payload = in_flight < 1460 ? in_flight : 1460;
        if (me.finished && payload == in_flight) --payload;
        network.push_back({d, segment(tcp_ack, me.unacknowledged, me.expected, payload, me.window)});
      } else {
        network.push_back({d, segment(tcp_ack, me.next, me.expected, 0, me.window)});
      }
      // Deliver one of the first few: reordering. One in ten is lost before us, one in ten behind us.
      if (network.size() < 4) continue;
      size_t pick = random() % 4;
      flying f = network[pick];
      network.erase(network.begin() + static_cast<std::ptrdiff_t>(pick));
      if (random() % 10 == 0) continue;
      bool ok = passes(s, f.from, f.g);
      dropped += !ok;
      if (!ok || random() % 10 == 0) continue;
      stack& receiver = side[1 - f.from];
      uint32_t end = f.g.sequence + f.g.payload + ((f.g.flags & tcp_fin) ? 1 : 0);
      if (static_cast<int32_t>(f.g.sequence - receiver.expected) <= 0 && static_cast<int32_t>(end - receiver.expected) > 0) receiver.expected = end;
      if (static_cast<int32_t>(f.g.acknowledgement - receiver.unacknowledged) > 0) receiver.unacknowledged = f.g.acknowledgement;
      (void)peer;
    }
    CHECK(dropped == 0);
  }
}

}  // namespace
}  // namespace sluice
