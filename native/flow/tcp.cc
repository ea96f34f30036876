// SPDX-License-Identifier: Apache-2.0
// tcp.cc: see tcp.h. Order: read → open → judge (reset, SYN, window) → move the state.
#include "flow/tcp.h"

#include "packet/bytes.h"

namespace sluice {
namespace {

// Windows smaller than this are widened when old acknowledgements are judged, as netfilter does (MAXACKWINCONST).
constexpr uint32_t acknowledgement_window_min = SL_TCP_ACK_WINDOW_MIN;

int32_t distance(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b); }

bool bit(const session& s, uint8_t which, unsigned d) { return s.tcp_bits.load(std::memory_order_relaxed) & (which << d); }
void set_bit(session& s, uint8_t which, unsigned d) {
  uint8_t old = s.tcp_bits.load(std::memory_order_relaxed), wanted = static_cast<uint8_t>(which << d);
  if (!(old & wanted)) s.tcp_bits.fetch_or(wanted, std::memory_order_relaxed);
}
void raise(uint32_t& field, uint32_t value) { if (distance(value, field) > 0) field = value; }

unsigned scale_of(const session& s, unsigned d) {
  if (!bit(s, tcp_bit_scale_seen, 0) || !bit(s, tcp_bit_scale_seen, 1)) return 0;  // RFC 7323: both or none
  return d ? s.tcp_scale >> 4 : s.tcp_scale & 15;
}
uint32_t window_max(const session& s, unsigned d) { return 1u << s.tcp_window_log2[d]; }

uint32_t segment_end(const tcp_segment& g) {
  return g.sequence + g.payload + ((g.flags & tcp_syn) ? 1 : 0) + ((g.flags & tcp_fin) ? 1 : 0);
}

void note_scale(session& s, unsigned d, const tcp_segment& g) {
  if (!g.has_scale) return;
  s.tcp_scale = static_cast<uint8_t>(d ? (s.tcp_scale & 0x0f) | g.scale << 4 : (s.tcp_scale & 0xf0) | g.scale);
  set_bit(s, tcp_bit_scale_seen, d);
}

// What a good segment tells about its sender.
void note_segment(session& s, unsigned d, const tcp_segment& g, bool first) {
  uint32_t end = segment_end(g);
  // The rest of a fragmented segment is not seen here; it may reach as far as the peer allows.
  if (unsigned r = 1 - d; g.cut && bit(s, tcp_bit_ack_seen, r) && distance(s.tcp_edge[r], end) > 0)
    end = distance(s.tcp_edge[r], g.sequence + ipv4_bytes_reassembled_max) > 0 ? g.sequence + ipv4_bytes_reassembled_max : s.tcp_edge[r];
  if (first) s.tcp_end[d] = end; else raise(s.tcp_end[d], end);
  uint32_t window = g.window;
  if (!(g.flags & tcp_syn)) window <<= scale_of(s, d);
  uint8_t log2 = window <= 1 ? 0 : static_cast<uint8_t>(32 - __builtin_clz(window - 1));
  if (log2 > 30) log2 = 30;
  if (log2 > s.tcp_window_log2[d]) s.tcp_window_log2[d] = log2;
  if (!(g.flags & tcp_ack)) return;
  uint32_t edge = g.acknowledgement + window;
  if (!bit(s, tcp_bit_ack_seen, d)) {
    s.tcp_acked[d] = g.acknowledgement;
    s.tcp_edge[d] = edge;
    set_bit(s, tcp_bit_ack_seen, d);
    return;
  }
  raise(s.tcp_acked[d], g.acknowledgement);
  raise(s.tcp_edge[d], edge);
}

bool in_window(const session& s, unsigned d, const tcp_segment& g) {
  unsigned r = 1 - d;
  if (bit(s, tcp_bit_ack_seen, r)) {
    if (distance(g.sequence, s.tcp_edge[r]) > 0) return false;
    if (distance(segment_end(g), s.tcp_end[d] - window_max(s, r) - 1) < 0) return false;
  }
  if (g.flags & tcp_ack) {
    if (distance(g.acknowledgement, s.tcp_end[r]) > 0) return false;
    uint32_t back = window_max(s, d) > acknowledgement_window_min ? window_max(s, d) : acknowledgement_window_min;
    if (distance(g.acknowledgement, s.tcp_end[r] - back) < 0) return false;
  }
  return true;
}

constexpr tcp_result pass{tcp_verdict::pass, SL_DROP_NONE};
constexpr tcp_result drop(sl_drop_reason reason) { return {tcp_verdict::drop, reason}; }
void set_state(session& s, sl_session_state state) { s.state.store(state, std::memory_order_relaxed); }

// A SYN of the originator. Until its first acknowledgement, tcp_acked[0] holds the sequence behind the SYN itself: a
// responder may leave the data of a SYN unacknowledged (RFC 7413 section 4.2).
void note_syn(session& s, const tcp_segment& g) {
  s.tcp_end[0] = segment_end(g);
  s.tcp_acked[0] = g.sequence + 1;
}
bool acknowledges_syn(const session& s, const tcp_segment& g) {
  return distance(g.acknowledgement, s.tcp_acked[0]) >= 0 && distance(g.acknowledgement, s.tcp_end[0]) <= 0;
}

// The responder's answers to a SYN, and the originator's repetitions of it.
tcp_result update_syn_sent(session& s, unsigned d, const tcp_segment& g) {
  if (d == 0) {
    if ((g.flags & (tcp_syn | tcp_ack | tcp_rst)) == tcp_syn) {  // again, perhaps with a new initial sequence
      note_syn(s, g);
      note_scale(s, 0, g);
      return pass;
    }
    if (g.flags & tcp_rst) {
      if (g.sequence == s.tcp_end[0]) set_state(s, SL_STATE_CLOSED);
      return pass;  // also answers a challenge ACK of a peer that remembers an older connection
    }
    return drop(SL_DROP_TCP_STATE);
  }
  if (g.flags & tcp_rst) {
    if (!(g.flags & tcp_ack) || !acknowledges_syn(s, g)) return drop(SL_DROP_TCP_RST_SEQUENCE);
    set_state(s, SL_STATE_CLOSED);
    return pass;
  }
  if (!(g.flags & tcp_syn)) return (g.flags & (tcp_ack | tcp_fin)) == tcp_ack && g.payload == 0 ? pass : drop(SL_DROP_TCP_STATE);  // a challenge ACK
  if ((g.flags & tcp_ack) && !acknowledges_syn(s, g)) return drop(SL_DROP_TCP_WINDOW);
  note_scale(s, 1, g);
  note_segment(s, 1, g, true);
  set_state(s, SL_STATE_TCP_SYN_RECEIVED);  // a SYN without ACK: simultaneous open (RFC 5382 REQ-2)
  return pass;
}

// RFC 5961 section 3.2: a reset must carry exactly what the receiver expects next. The sender's own next is as exact.
tcp_result update_reset(session& s, unsigned d, const tcp_segment& g) {
  unsigned r = 1 - d;
  bool exact = g.sequence == s.tcp_end[d] || (bit(s, tcp_bit_ack_seen, r) && g.sequence == s.tcp_acked[r]);
  if (!exact) return drop(SL_DROP_TCP_RST_SEQUENCE);
  set_state(s, SL_STATE_CLOSED);
  return pass;
}

void update_closing(session& s, unsigned d, const tcp_segment& g) {
  unsigned r = 1 - d;
  if (g.flags & tcp_fin) set_bit(s, tcp_bit_fin, d);
  if ((g.flags & tcp_ack) && bit(s, tcp_bit_fin, r) && distance(g.acknowledgement, s.tcp_end[r]) >= 0) set_bit(s, tcp_bit_fin_acked, r);
  bool fin0 = bit(s, tcp_bit_fin, 0), fin1 = bit(s, tcp_bit_fin, 1);
  if (!fin0 && !fin1) return;
  if (!fin0 || !fin1) set_state(s, SL_STATE_TCP_FIN_WAIT);
  else if (bit(s, tcp_bit_fin_acked, 0) && bit(s, tcp_bit_fin_acked, 1)) set_state(s, SL_STATE_TCP_TIME_WAIT);
  else set_state(s, SL_STATE_TCP_CLOSING);
}

}  // namespace

tcp_segment read_tcp_segment(const packet& p) {
  const uint8_t* tcp = p.l4();
  unsigned header = (tcp[12] >> 4) * 4u;
  tcp_segment g{};
  g.sequence = load32(tcp + 4);
  g.acknowledgement = load32(tcp + 8);
  g.payload = p.l4_length() - header;
  g.window = load16(tcp + 14);
  g.flags = p.tcp_flags;
  g.cut = p.flags & packet_more_fragments;
  if (!(g.flags & tcp_syn)) return g;
  for (unsigned i = 20; i + 1 < header;) {
    uint8_t kind = tcp[i];
    if (kind == 0) break;
    if (kind == 1) { ++i; continue; }
    uint8_t length = tcp[i + 1];
    if (length < 2 || i + length > header) break;
    if (kind == 3 && length == 3) {
      g.has_scale = true;
      g.scale = tcp[i + 2] > 14 ? 14 : tcp[i + 2];  // RFC 7323 section 2.3
    }
    i += length;
  }
  return g;
}

void tcp_open(session& s, const tcp_segment& g) {
  note_scale(s, 0, g);
  note_segment(s, 0, g, true);
  note_syn(s, g);
  set_state(s, SL_STATE_TCP_SYN_SENT);
}

tcp_result tcp_update(session& s, unsigned d, const tcp_segment& g) {
  uint8_t state = s.state.load(std::memory_order_relaxed);
  if (state == SL_STATE_TCP_SYN_SENT) return update_syn_sent(s, d, g);

  bool fresh_syn = (g.flags & (tcp_syn | tcp_ack | tcp_rst)) == tcp_syn;
  if (state == SL_STATE_CLOSED || state == SL_STATE_TCP_TIME_WAIT) {
    if (fresh_syn) return {tcp_verdict::reopen, SL_DROP_NONE};
    if (state == SL_STATE_CLOSED) return (g.flags & tcp_rst) ? pass : drop(SL_DROP_TCP_STATE);
  }
  if (g.flags & tcp_rst) return update_reset(s, d, g);
  if (g.flags & tcp_syn) {
    if (state == SL_STATE_TCP_SYN_RECEIVED) {
      if (fresh_syn && segment_end(g) != s.tcp_end[d]) return drop(SL_DROP_TCP_STATE);
      if ((g.flags & tcp_ack) && !in_window(s, d, g)) return drop(SL_DROP_TCP_WINDOW);
      note_scale(s, d, g);
      note_segment(s, d, g, false);
      if (bit(s, tcp_bit_ack_seen, 0) && bit(s, tcp_bit_ack_seen, 1)) set_state(s, SL_STATE_ESTABLISHED);
      return pass;
    }
    // RFC 5961 section 4.2: the endpoint answers with a challenge ACK; nothing changes here.
    return pass;
  }
  if (!in_window(s, d, g)) return drop(SL_DROP_TCP_WINDOW);
  note_segment(s, d, g, false);
  if (state == SL_STATE_TCP_SYN_RECEIVED) {
    if (bit(s, tcp_bit_ack_seen, 0) && bit(s, tcp_bit_ack_seen, 1)) set_state(s, SL_STATE_ESTABLISHED);
  }
  if ((g.flags & tcp_fin) || s.tcp_bits.load(std::memory_order_relaxed) & (tcp_bit_fin | tcp_bit_fin << 1)) update_closing(s, d, g);
  return pass;
}

bool tcp_sequence_in_flight(const session& s, unsigned d, uint32_t sequence) {
  if (distance(sequence, s.tcp_end[d]) > 0) return false;
  unsigned r = 1 - d;
  if (!bit(s, tcp_bit_ack_seen, r)) return distance(sequence, s.tcp_end[d] - 1) >= 0;
  return distance(sequence, s.tcp_acked[r] - 1) >= 0;
}

uint32_t tcp_idle_s(uint8_t state, const sl_settings& settings) {
  switch (state) {
    case SL_STATE_TCP_SYN_SENT: return settings.tcp_syn_s;
    case SL_STATE_ESTABLISHED: return settings.tcp_established_s;
    case SL_STATE_TCP_TIME_WAIT: return settings.tcp_time_wait_s;
    case SL_STATE_CLOSED: return settings.tcp_reset_s;
    default: return settings.tcp_transitory_s;
  }
}

}  // namespace sluice
