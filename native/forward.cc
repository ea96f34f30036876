// SPDX-License-Identifier: Apache-2.0
// forward.cc: a packet of a session, the fast path's second half. Part of `pipeline`, in the order in which a packet meets it:
//   1 forward          generation, ingress, TTL, next hop, MTU, TCP state
//   2 rewrite          addresses, ports, TTL and checksums; account; is it ready for the XDP program?
//   3 emit             Ethernet header, and out; to a tunnel by tunnel_out.cc; what waits for its next hop by waiting.cc
#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {

void pipeline::forward(packet& p, const session_ref& r) {
  session& s = *r.s;
  const unsigned d = r.direction;
  if (s.generation.load(std::memory_order_relaxed) != static_cast<uint32_t>(snap_->generation)) [[unlikely]] {
    if (!revalidate(p, r)) return;
  }
  if (!comes_rightly(p, s, d)) [[unlikely]] { drop(p, SL_DROP_ANTI_SPOOFING, cause_of(r)); return; }
  uint8_t ttl = p.ip_version == 4 ? p.l3()[8] : p.l3()[7];
  if (ttl <= 1) [[unlikely]] {
    send_error(p, icmp_error::ttl_expired);
    drop(p, SL_DROP_TTL_EXPIRED, cause_of(r));
    return;
  }
  uint32_t adjacency_id;
  adjacency* a = egress(p, r, &adjacency_id);
  if (!a) return;
  const interface_state& out = shared_.interfaces[a->interface_slot];
  const bool tunnel = out.port_slot.load(std::memory_order_relaxed) == port_slot_tunnel;
  const uint32_t mtu = egress_mtu(*a, out);
  if (p.l3_length > mtu && !fits(p, r, mtu)) [[unlikely]] return;
  if (tunnel ? !is_reachable(*a) : !(a->mac.load(std::memory_order_relaxed) & adjacency::resolved_bit)) [[unlikely]] { hold(p, adjacency_id, *a, cause_of(r)); return; }

  uint8_t state = s.state.load(std::memory_order_relaxed);
  if (p.key.protocol == protocol_tcp && p.has_l4()) {
    tcp_segment g = read_tcp_segment(p);
    tcp_result result = tcp_update(s, d, g);
    if (result.verdict != tcp_verdict::pass) [[unlikely]] {
      if (result.verdict == tcp_verdict::drop) { drop(p, result.reason, cause_of(r)); return; }
      end_session(r.index, SL_END_REPLACED);
      first_packet(p);
      return;
    }
    uint8_t after = s.state.load(std::memory_order_relaxed);
    s.tcp_flags_seen[d] |= g.flags;
    // A longer idle time is found by the sweep; a shorter one must be written down.
    if (after != state && after > SL_STATE_ESTABLISHED)
      shared_.sessions.deadline(r.index).store(now_ticks_ + ticks_of_s(tcp_idle_s(after, snap_->settings)), std::memory_order_relaxed);
    if (g.flags & tcp_syn) clamp_mss(p, s, out);
  } else if ((p.flags & packet_icmp_query) && d == 1 && is_icmp_request(p.icmp_type)) [[unlikely]] {
    // Its identifier makes it look like an answer, but it asks: policy decides as if it stood alone.
    if (!request_allowed(p)) return;
  } else if (state == SL_STATE_NEW && d == 1) {
    s.state.store(SL_STATE_ESTABLISHED, std::memory_order_relaxed);
  }
  rewrite(p, s, d);
  account(p, s, d);
  if (s.offload.load(std::memory_order_relaxed) == SL_OFFLOAD_NOT_YET) consider_offload(s, r.index);
  counters_.add(SL_COUNTER_FAST_PATH_HITS);
  if (p.l3_length > mtu) [[unlikely]] emit_fragments(p, *a, out, mtu);
  else emit(p, *a, out);
}

// Another way in is fine within one zone (ECMP, asymmetric subnets); across zones it is spoofing.
bool pipeline::comes_rightly(const packet& p, const session& s, unsigned d) const {
  if (p.interface_slot == s.interface_slot[d]) [[likely]] return true;
  const sl_interface* expected = snap_->interface_of_slot(s.interface_slot[d]);
  const sl_interface* actual = snap_->interface_of_slot(p.interface_slot);
  return expected && actual && expected->zone == actual->zone;
}

uint32_t pipeline::egress_mtu(const adjacency& a, const interface_state& out) {
  const uint32_t mtu = out.mtu_bytes.load(std::memory_order_relaxed);
  return out.port_slot.load(std::memory_order_relaxed) == port_slot_tunnel ? tunnel_mtu(a, mtu) : mtu;
}

// The next hop of a session's direction; routed anew when it was recycled. nullptr: the packet is gone.
adjacency* pipeline::egress(packet& p, const session_ref& r, uint32_t* id) {
  *id = r.s->adjacency[r.direction].load(std::memory_order_relaxed);
  adjacency* a = shared_.adjacencies.get(*id);
  if (!a) [[unlikely]] {
    r.s->generation.store(static_cast<uint32_t>(snap_->generation) - 1, std::memory_order_relaxed);
    if (!revalidate(p, r)) return nullptr;
    *id = r.s->adjacency[r.direction].load(std::memory_order_relaxed);
    a = shared_.adjacencies.get(*id);
    if (!a) { drop(p, SL_DROP_NEIGHBOUR_UNRESOLVED, cause_of(r)); return nullptr; }
  }
  const interface_state& out = shared_.interfaces[a->interface_slot];
  if (!out.up.load(std::memory_order_relaxed) || out.port_slot.load(std::memory_order_relaxed) == port_slot_none) [[unlikely]] {
    // Another equal-cost next hop may be alive.
    if (revalidate(p, r)) {
      *id = r.s->adjacency[r.direction].load(std::memory_order_relaxed);
      adjacency* other = shared_.adjacencies.get(*id);
      if (other && shared_.interfaces[other->interface_slot].up.load(std::memory_order_relaxed)) return other;
      send_error(p, icmp_error::host_unreachable);
      drop(p, SL_DROP_LINK_DOWN, cause_of(r));
    }
    return nullptr;
  }
  if (a->used_ticks.load(std::memory_order_relaxed) != now_ticks_) a->used_ticks.store(now_ticks_, std::memory_order_relaxed);
  return a;
}

// Larger than the egress MTU: may it be fragmented here? If not, the sender is told and the packet dropped.
bool pipeline::fits(packet& p, const session_ref& r, unsigned mtu_bytes) {
  if (!(p.flags & packet_dont_fragment)) return true;
  send_error(p, icmp_error::too_big, mtu_bytes);
  drop(p, SL_DROP_TOO_BIG, cause_of(r));
  return false;
}

// What leaves is the other direction's key turned around: addresses, ports, TTL, and checksums by RFC 1624.
void pipeline::rewrite(packet& p, const session& s, unsigned d) {
  uint8_t* ip = p.l3();
  const flow_key& to = s.key(1 - d);  // its source is our new destination
  const bool translated = s.flags.load(std::memory_order_relaxed) & (session_source_nat | session_destination_nat);
  if (p.ip_version == 4) {
    // TTL and the IPv4 checksum in one step: the TTL is the high byte of its word.
    uint16_t delta = checksum_delta16(load16_raw(ip + 8), static_cast<uint16_t>(load16_raw(ip + 8) - 1));
    ip[8]--;
    if (translated) {
      std::memcpy(ip + 12, to.dst.bytes + 12, 4);
      std::memcpy(ip + 16, to.src.bytes + 12, 4);
      delta = checksum_delta_join(delta, s.l3_delta[d]);
    }
    checksum_apply(ip + 10, delta);
  } else {
    ip[7]--;
    if (translated) {
      std::memcpy(ip + 8, to.dst.bytes, 16);
      std::memcpy(ip + 24, to.src.bytes, 16);
    }
  }
  if (!translated || !p.has_l4()) return;
  uint8_t* l4 = p.l4();
  switch (p.key.protocol) {
    case protocol_tcp:
      store16(l4, to.dst_port);
      store16(l4 + 2, to.src_port);
      checksum_apply(l4 + 16, s.l4_delta[d]);
      break;
    case protocol_udp:
      store16(l4, to.dst_port);
      store16(l4 + 2, to.src_port);
      if (load16_raw(l4 + 6) == 0) break;  // IPv4 without a checksum
      checksum_apply(l4 + 6, s.l4_delta[d]);
      if (load16_raw(l4 + 6) == 0) store16_raw(l4 + 6, 0xffff);
      break;
    case protocol_icmp:
    case protocol_icmpv6:
      store16(l4 + 4, to.dst_port);
      checksum_apply(l4 + 2, s.l4_delta[d]);
      break;
    default:
      break;
  }
}

void pipeline::clamp_mss(packet& p, const session& s, const interface_state& out) {
  if (!(s.flags.load(std::memory_order_relaxed) & session_mss_clamp)) return;
  unsigned headers = (p.ip_version == 4 ? 20 : 40) + 20, limit = UINT16_MAX;
  for (unsigned direction = 0; direction < 2; ++direction) {
    const sl_interface* n = snap_->interface_of_slot(s.interface_slot[direction]);
    if (!n || n->mss_clamp_bytes == 0) continue;
    uint32_t mtu = shared_.interfaces[s.interface_slot[direction]].mtu_bytes.load(std::memory_order_relaxed);
    if (uint32_t other = out.mtu_bytes.load(std::memory_order_relaxed); other < mtu) mtu = other;
    unsigned wanted = n->mss_clamp_bytes == 1 ? mtu - headers : n->mss_clamp_bytes;
    if (wanted < limit) limit = wanted;
  }
  uint8_t* tcp = p.l4();
  unsigned header = (tcp[12] >> 4) * 4u;
  for (unsigned i = 20; i + 3 < header;) {
    if (tcp[i] == 0) return;
    if (tcp[i] == 1) { ++i; continue; }
    if (tcp[i + 1] < 2) return;
    if (tcp[i] == 2 && tcp[i + 1] == 4) {
      uint16_t old = load16(tcp + i + 2);
      if (old <= limit) return;
      uint8_t before[2] = {tcp[i + 2], tcp[i + 3]};
      store16(tcp + i + 2, static_cast<uint16_t>(limit));
      // An option at an odd offset sums with its bytes swapped.
      uint16_t delta = checksum_delta(before, tcp + i + 2, 2);
      if (i & 1) delta = __builtin_bswap16(delta);
      checksum_apply(tcp + 16, delta);
      return;
    }
    i += tcp[i + 1];
  }
}

void pipeline::account(packet& p, session& s, unsigned d) {
  s.packets[d] += 1;
  s.bytes[d] += p.l3_length;
  if (s.last_seen_ticks.load(std::memory_order_relaxed) != now_ticks_) s.last_seen_ticks.store(now_ticks_, std::memory_order_relaxed);
}

// May the XDP program forward its packets (bpf/offload.h), but those that need us?
void pipeline::consider_offload(const session& s, uint32_t index) {
  if (!shared_.offload) return;
  bool established = s.state.load(std::memory_order_relaxed) == SL_STATE_ESTABLISHED;
  // A TCP handshake is over when the third packet was here; others when they were answered, or go on without an answer.
  if (!established && (s.key0.protocol == protocol_tcp || s.packets[0] < SL_OFFLOAD_ONE_WAY_PACKETS)) return;
  if (to_offload_.empty() || to_offload_.back().index != index) to_offload_.push_back({index, s.incarnation});
}

// From here on it does. A packet of theirs that still waits before us is overtaken by those that the program forwards.
void pipeline::offload_waiting() {
  for (const auto [index, incarnation] : to_offload_) {
    session& s = shared_.sessions.at(index);
    if (s.incarnation != incarnation || s.offload.load(std::memory_order_relaxed) != SL_OFFLOAD_NOT_YET) continue;
    s.offload.store(SL_OFFLOAD_ON, std::memory_order_seq_cst);
    // Another worker may be ending it: it says so first, and takes the offload off then.
    if (s.flags.load(std::memory_order_seq_cst) & session_ended) { s.offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_release); continue; }
    counters_.add(SL_COUNTER_SESSIONS_OFFLOADED);
  }
  to_offload_.clear();
}

void pipeline::emit(packet& p, adjacency& a, const interface_state& out) {
  const uint8_t port_slot = out.port_slot.load(std::memory_order_relaxed);
  if (port_slot == port_slot_tunnel) [[unlikely]] { enter_tunnel(p, static_cast<uint32_t>(a.mac.load(std::memory_order_relaxed)), a.interface_slot); return; }
  uint16_t vlan_id = out.vlan_id.load(std::memory_order_relaxed);
  unsigned l2 = vlan_id == SL_VLAN_NONE ? ethernet_bytes : ethernet_bytes + vlan_bytes;
  uint8_t* frame = p.l3() - l2;
  uint64_t destination = a.mac.load(std::memory_order_relaxed), source = out.mac.load(std::memory_order_relaxed);
  uint16_t type = p.ip_version == 4 ? ethertype::ipv4 : ethertype::ipv6;
  std::memcpy(frame, &destination, 6);
  std::memcpy(frame + 6, &source, 6);
  if (vlan_id == SL_VLAN_NONE) {
    store16(frame + 12, type);
  } else {
    store16(frame + 12, ethertype::vlan);
    store16(frame + 14, vlan_id);
    store16(frame + 16, type);
  }
  uint64_t address = static_cast<uint64_t>(frame - area_.base());
  output_.push_back({address, l2 + p.l3_length, port_slot});
  interface_counters& sent = counters_.interface[a.interface_slot];
  bump(sent.tx_packets);
  bump(sent.tx_bytes, l2 + p.l3_length);
}

// RFC 791 section 3.2: IPv4 without DF is cut to the egress MTU. The packet is already rewritten.
void pipeline::emit_fragments(packet& p, adjacency& a, const interface_state& out, unsigned mtu_bytes) {
  const uint8_t* ip = p.l3();
  unsigned header = p.l4_offset - p.l3_offset, payload = p.l3_length - header;
  unsigned step = (mtu_bytes - header) & ~7u;
  uint16_t field = load16(ip + 6);
  unsigned base = (field & 0x1fff) * 8u;
  bool more = field & 0x2000;
  for (unsigned at = 0; at < payload; at += step) {
    unsigned part = payload - at < step ? payload - at : step;
    uint64_t address;
    if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); break; }
    packet piece = p;
    piece.address = address + umem_headroom_bytes;
    piece.data = area_.at(piece.address);
    piece.l3_offset = ethernet_bytes + vlan_bytes;
    uint8_t* to = piece.l3();
    std::memcpy(to, ip, header);
    std::memcpy(to + header, ip + header + at, part);
    piece.l3_length = static_cast<uint16_t>(header + part);
    piece.l4_offset = static_cast<uint16_t>(piece.l3_offset + header);
    piece.flags |= packet_fragment;
    if (at > 0) piece.flags &= static_cast<uint8_t>(~packet_fragment_first);
    else if (p.has_l4()) piece.flags |= packet_fragment_first;
    bool last = at + part == payload;
    store16(to + 2, piece.l3_length);
    store16(to + 6, static_cast<uint16_t>(((base + at) / 8) | (!last || more ? 0x2000 : 0)));
    store16_raw(to + 10, 0);
    store16_raw(to + 10, checksum_finish(checksum_add(0, to, header)));
    emit(piece, a, out);
  }
  free_frame(p);
}

}  // namespace sluice
