// SPDX-License-Identifier: Apache-2.0
// icmp_errors.cc: ICMP errors of others, passed on by the session of the packet that they quote. Part of `pipeline`; called
// by look_up. Everything is checked before a byte changes: the type, the quoted packet, its session, its TCP sequence.
#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {

void pipeline::icmp_error_packet(packet& p) {
  counters_.add(SL_COUNTER_SLOW_PATH_PACKETS);
  if (!l4_checksum_valid(p)) { drop(p, SL_DROP_CHECKSUM_L4); return; }
  bool v6 = p.ip_version == 6;
  // Destination unreachable, time exceeded, parameter problem, packet too big; source quench and redirect are not passed.
  bool passed = v6 ? (p.icmp_type >= 1 && p.icmp_type <= 4) : (p.icmp_type == 3 || p.icmp_type == 11 || p.icmp_type == 12);
  auto local = snap_->local.find(p.key.dst);
  bool for_host = local != snap_->local.end() && !(snap_->addresses[local->second].flags & SL_LOCAL_ENGINE);
  embedded_packet e;
  sl_drop_reason reason = passed ? parse_embedded(p, &e) : SL_DROP_ICMP_NO_SESSION;
  if (reason == SL_DROP_NONE && !equal(e.key.src, p.key.dst)) reason = SL_DROP_ICMP_BAD_EMBEDDED;  // who sent a packet is who hears of it
  if (reason == SL_DROP_NONE && v6 && p.icmp_type == 2 && for_host && narrow_path(p, e)) { free_frame(p); return; }
  session_ref r{};
  if (reason == SL_DROP_NONE) {
    // The packet that is quoted left us in direction d; this error travels the other way.
    flow_key k = reversed(e.key);
    if (!shared_.sessions.find(k, shared_.sessions.hash_of(k), &r)) reason = SL_DROP_ICMP_NO_SESSION;
  }
  if (reason != SL_DROP_NONE) {
    if (for_host) to_host(p);
    else drop(p, reason);
    return;
  }
  session& s = *r.s;
  unsigned quoted = 1 - r.direction;
  // A router on the way may be its source, but one there where the quoted packet went.
  if (!comes_rightly(p, s, r.direction)) { drop(p, SL_DROP_ANTI_SPOOFING, cause_of(r)); return; }
  reason = judge_source(*snap_, snap_->slot_interfaces[p.interface_slot], p.key.src);
  if (reason != SL_DROP_NONE) { drop(p, reason, cause_of(r)); return; }
  if (e.has_sequence && !tcp_sequence_in_flight(s, quoted, e.sequence)) { drop(p, SL_DROP_ICMP_BAD_EMBEDDED, cause_of(r)); return; }
  if (s.generation.load(std::memory_order_relaxed) != static_cast<uint32_t>(snap_->generation) && !revalidate(p, r)) return;
  uint8_t ttl = v6 ? p.l3()[7] : p.l3()[8];
  if (ttl <= 1) { drop(p, SL_DROP_TTL_EXPIRED, cause_of(r)); return; }
  uint32_t adjacency_id;
  adjacency* a = egress(p, r, &adjacency_id);
  if (!a) return;
  const interface_state& out = shared_.interfaces[a->interface_slot];
  const uint32_t mtu = egress_mtu(*a, out);
  if (p.l3_length > mtu && !fits(p, r, mtu)) return;
  if (!is_reachable(*a)) { hold(p, adjacency_id, *a, cause_of(r)); return; }
  // RFC 5508 R6: errors neither refresh nor end a session, so nothing is accounted to it.
  rewrite_icmp_error(p, e, s, r.direction);
  if (p.l3_length > mtu) emit_fragments(p, *a, out, mtu);
  else emit(p, *a, out);
}

// RFC 5508 section 4.2, RFC 5382 R9: the outer addresses, the quoted packet and all checksums.
void pipeline::rewrite_icmp_error(packet& p, const embedded_packet& e, const session& s, unsigned direction) {
  unsigned quoted = 1 - direction;
  const flow_key& original = s.key(quoted);       // as its sender sent it
  const flow_key& incoming = s.key(direction);    // what answers to it look like here
  uint8_t* ip = p.l3();
  uint8_t* icmp = p.l4();
  uint8_t* inner = p.data + e.l3_offset;
  uint8_t* inner_l4 = p.data + e.l4_offset;
  bool v4 = p.ip_version == 4;
  unsigned address_at = v4 ? 12 : 8, skip = v4 ? 12 : 0, length = v4 ? 4 : 16;

  // Inner: undo the translation.
  uint16_t delta = checksum_delta_join(checksum_delta(inner + address_at, original.src.bytes + skip, length),
                                       checksum_delta(inner + address_at + length, original.dst.bytes + skip, length));
  std::memcpy(inner + address_at, original.src.bytes + skip, length);
  std::memcpy(inner + address_at + length, original.dst.bytes + skip, length);
  if (v4) checksum_apply(inner + 10, delta);
  auto set_port = [&](uint8_t* at, uint16_t port) {
    uint16_t old = load16_raw(at);
    store16(at, port);
    return checksum_delta16(old, load16_raw(at));
  };
  switch (e.key.protocol) {
    case protocol_tcp: case protocol_udp: {
      delta = checksum_delta_join(delta, set_port(inner_l4, original.src_port));
      delta = checksum_delta_join(delta, set_port(inner_l4 + 2, original.dst_port));
      unsigned field = e.key.protocol == protocol_tcp ? 16 : 6;
      if (e.available < field + 2 || (e.key.protocol == protocol_udp && load16_raw(inner_l4 + 6) == 0)) break;
      checksum_apply(inner_l4 + field, delta);
      if (e.key.protocol == protocol_udp && load16_raw(inner_l4 + 6) == 0) store16_raw(inner_l4 + 6, 0xffff);
      break;
    }
    case protocol_icmp: checksum_apply(inner_l4 + 2, set_port(inner_l4 + 4, original.src_port)); break;
    case protocol_icmpv6: checksum_apply(inner_l4 + 2, checksum_delta_join(delta, set_port(inner_l4 + 4, original.src_port))); break;
    default: break;
  }
  // Outer: to the quoted packet's sender. An error from behind a translated address must not show what is behind it;
  // one from a router on the way keeps its address.
  std::memcpy(ip + address_at + length, original.src.bytes + skip, length);
  if (!equal(incoming.src, original.dst)) std::memcpy(ip + address_at, original.dst.bytes + skip, length);
  unsigned icmp_length = p.l4_length();
  store16_raw(icmp + 2, 0);
  if (v4) {
    ip[8]--;
    store16_raw(ip + 10, 0);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, p.l4_offset - p.l3_offset)));
    store16_raw(icmp + 2, checksum_finish(checksum_add(0, icmp, icmp_length)));
  } else {
    ip[7]--;
    store16_raw(icmp + 2, checksum_finish(checksum_add(checksum_pseudo(ip + 8, 16, protocol_icmpv6, icmp_length), icmp, icmp_length)));
  }
}

}  // namespace sluice
