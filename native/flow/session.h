// SPDX-License-Identifier: Apache-2.0
// session.h: the state of one conversation, three cache lines. Allocated by session_table; the keys and what follows
// from them never change between insert and removal, so that workers and the XDP program (bpf/offload.h, which knows it
// as sl_session) read them without a lock. Fields that change:
//   state, flags, generation, adjacency, offload: relaxed atomics, any worker; rare
//   line 2 ("hot"): index 0 is written by packets of the originator, index 1 by those of the responder. The two may be
//   on different workers or processors; each element has in practice one writer, so plain relaxed stores are enough.
#pragma once
#include <atomic>
#include <cstdint>

#include "flow/key.h"
#include "nat/mapping_entry.h"

namespace sluice {

enum session_flag : uint8_t {
  session_ended = 1,            // somebody removes it; it counts for nobody any more
  session_source_nat = 2,
  session_destination_nat = 4,
  session_inbound_mapping = 8,  // it was found from outside by the responder's mapping (RFC 4787 R8): mappings_of()
  session_log_end = 16,
  session_mss_clamp = 32,
  session_static_source = 64,   // source translated 1:1
  session_source_counted = 128, // among its source's sessions (limits.sessionsPerSource)
};

// Bits of session.tcp_bits: per direction d, shift by d.
enum tcp_bit : uint8_t { tcp_bit_fin = SL_TCP_FIN_SEEN, tcp_bit_fin_acked = SL_TCP_FIN_ACKED, tcp_bit_ack_seen = SL_TCP_ACK_SEEN, tcp_bit_scale_seen = SL_TCP_SCALE_SEEN };

struct alignas(64) session {
  // line 0: what a packet of the originator reads
  flow_key key0;
  uint16_t l3_delta[2], l4_delta[2];   // RFC 1624 deltas of the IPv4 header and of layer 4, a direction
  std::atomic<uint32_t> adjacency[2];  // next hop of direction 0 and 1, see route/adjacency.h
  std::atomic<uint32_t> generation;    // of the snapshot that last allowed it
  std::atomic<uint8_t> state;          // SL_STATE_*
  std::atomic<uint8_t> flags;          // session_flag
  std::atomic<uint8_t> tcp_bits;       // tcp_bit
  uint8_t tcp_scale;                   // window scale shifts: low nibble originator, high nibble responder
  // line 1: what a packet of the responder reads besides
  flow_key key1;
  uint32_t rule_id;
  uint32_t start_ticks;
  uint32_t mapping;                    // index into the mapping table, mapping_none without
  uint32_t nat_destination_id;         // rule; of a session with two mappings the responder's mapping
  uint32_t incarnation;                // with the index: the session's id
  uint8_t interface_slot[2];           // where direction 0 and 1 come in
  uint8_t tcp_flags_seen[2];
  // line 2: written by each packet
  std::atomic<uint32_t> last_seen_ticks;
  uint32_t tcp_end[2];                 // highest sequence + length sent
  uint32_t tcp_edge[2];                // highest acknowledgement + window advertised: what the peer may send up to
  uint32_t tcp_acked[2];               // highest acknowledgement sent
  uint8_t tcp_window_log2[2];          // largest window advertised, rounded up to a power of two
  std::atomic<uint8_t> offload;        // SL_OFFLOAD_*; read once more by the program before it touches a packet
  std::atomic<uint8_t> live;           // 1 between insert and removal: what an engine that inherits the memory keeps
  uint64_t packets[2], bytes[2];

  const flow_key& key(unsigned direction) const { return direction ? key1 : key0; }
};
static_assert(sizeof(session) == 192, "three cache lines: the session budget is 320 bytes with index, timer and mapping");
static_assert(offsetof(session, key1) == 64 && offsetof(session, last_seen_ticks) == 128);

// The NAT mappings that a session keeps alive: the originator's, from source NAT, and the responder's, by which it was found from outside.
// A hairpinned session (RFC 4787 R9) has both.
struct session_mappings { uint32_t originator, responder; };
inline session_mappings mappings_of(const session& s) {
  const uint8_t flags = s.flags.load(std::memory_order_relaxed);
  if (!(flags & session_inbound_mapping)) return {s.mapping, mapping_none};
  if ((flags & (session_source_nat | session_static_source)) == session_source_nat) return {s.mapping, s.nat_destination_id};
  return {mapping_none, s.mapping};
}

// The XDP program sees the same bytes as sl_session.
#define SL_SAME_PLACE(field) static_assert(offsetof(session, field) == offsetof(sl_session, field) && sizeof(session::field) == sizeof(sl_session::field), #field)
static_assert(sizeof(sl_session) == sizeof(session) && sizeof(sl_flow_key) == sizeof(flow_key));
static_assert(offsetof(sl_flow_key, src_port) == offsetof(flow_key, src_port) && offsetof(sl_flow_key, protocol) == offsetof(flow_key, protocol));
SL_SAME_PLACE(key0); SL_SAME_PLACE(key1); SL_SAME_PLACE(l3_delta); SL_SAME_PLACE(l4_delta); SL_SAME_PLACE(adjacency); SL_SAME_PLACE(generation);
SL_SAME_PLACE(state); SL_SAME_PLACE(flags); SL_SAME_PLACE(tcp_bits); SL_SAME_PLACE(tcp_scale); SL_SAME_PLACE(incarnation); SL_SAME_PLACE(interface_slot);
SL_SAME_PLACE(tcp_flags_seen); SL_SAME_PLACE(last_seen_ticks); SL_SAME_PLACE(tcp_end); SL_SAME_PLACE(tcp_edge); SL_SAME_PLACE(tcp_acked);
SL_SAME_PLACE(tcp_window_log2); SL_SAME_PLACE(offload); SL_SAME_PLACE(live); SL_SAME_PLACE(packets); SL_SAME_PLACE(bytes);
#undef SL_SAME_PLACE

// Time inside the engine: ticks of 2^28 ns (0.268 s), enough for idle timers, 36 years until they wrap.
inline constexpr unsigned tick_shift = SL_TICK_SHIFT;
inline uint32_t ticks_of_ns(uint64_t ns) { return static_cast<uint32_t>(ns >> tick_shift); }
inline uint32_t ticks_of_s(uint32_t seconds) { return static_cast<uint32_t>((static_cast<uint64_t>(seconds) * 1'000'000'000u + (1u << tick_shift) - 1) >> tick_shift); }
inline uint64_t ns_of_ticks(uint64_t ticks) { return ticks << tick_shift; }

}  // namespace sluice
