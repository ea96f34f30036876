// SPDX-License-Identifier: Apache-2.0
// tcp.h: TCP state and window tracking. Pure: (session, direction, segment) → what to do; no clock, no I/O.
// The four window conditions are those of G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2001), the
// same that netfilter and ipfilter use; resets follow RFC 5961 section 3 (exact sequence only).
#pragma once
#include <cstdint>

#include "flow/session.h"
#include "packet/packet.h"

namespace sluice {

struct tcp_segment {
  uint32_t sequence, acknowledgement;
  uint32_t payload;        // bytes of data
  uint16_t window;         // as in the header
  uint8_t flags;
  uint8_t scale;           // window scale option, only on SYN
  bool has_scale;
  bool cut;                // more of it follows in fragments, so `payload` is only what is known
};

// Reads the segment of a parsed packet; options only on SYN.
tcp_segment read_tcp_segment(const packet& p);

// Sets a new session's state from the SYN that opens it.
void tcp_open(session& s, const tcp_segment& segment);

enum class tcp_verdict : uint8_t {
  pass,
  drop,
  reopen,  // a SYN on a closed connection: end this session and start another
};
struct tcp_result { tcp_verdict verdict; sl_drop_reason reason; };

// Judges a segment of direction `d` and moves the session's state. Called by the worker that received it.
tcp_result tcp_update(session& s, unsigned d, const tcp_segment& segment);

// Is `sequence`, from a packet of direction d quoted in an ICMP error, one that may be in flight (RFC 5927 section 4.1)?
bool tcp_sequence_in_flight(const session& s, unsigned d, uint32_t sequence);

// Seconds without a packet after which a session in `state` ends.
uint32_t tcp_idle_s(uint8_t state, const sl_settings& settings);

}  // namespace sluice
