// SPDX-License-Identifier: Apache-2.0
// pipeline.cc: the fast path. Functions stand in the order in which a packet meets them:
//   1 process          batch: strip, parse, hash, prefetch; then one packet after the other
//   2 look_up          session? forward : slow path
//   3 take_fragment    fragments ask the reassembly table first
//   4 forward          generation, next hop, TTL, MTU, TCP state; then rewrite, account, emit
//   5 housekeeping     timers
#include "pipeline.h"

#include <utility>

#include "packet/checksum.h"

namespace sluice {
namespace {

constexpr uint16_t ethertype_ipv4 = 0x0800, ethertype_ipv6 = 0x86dd, ethertype_vlan = 0x8100;
constexpr uint32_t revalidate_budget = 256;    // sessions between two batches: some 0.3 ms with a large policy
constexpr uint64_t revalidation_ns_max = 80'000'000;  // then the program stops trusting what was not reached yet

// Frames of a batch that came in on one interface, one after the other: mostly all of it, which then costs one count.
struct received_on_one {
  worker_counters& counters;
  unsigned slot = index_none;
  uint64_t packets = 0, bytes = 0;
  void add(unsigned interface_slot, uint32_t length) {
    if (interface_slot != slot) [[unlikely]] { flush(); slot = interface_slot; }
    ++packets;
    bytes += length;
  }
  void flush() {
    if (slot < interface_slots && packets) {
      bump(counters.interface[slot].rx_packets, packets);
      bump(counters.interface[slot].rx_bytes, bytes);
    }
    packets = bytes = 0;
  }
};

}  // namespace

pipeline::pipeline(dataplane& shared, unsigned worker, umem_area& area, frame_pool& pool)
    : shared_(shared), worker_(worker), area_(area), pool_(pool) {
  output_.reserve(4096);
  held_.reserve(held_packets_max);
}

// ---- 1: a batch -------------------------------------------------------------------------------------------------

// What the rest goes by: the time, the snapshot in force, captures that run.
void pipeline::begin(uint64_t now_ns) {
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  captures_ = shared_.captures.load(std::memory_order_acquire);
  fate_ = {};
}

void pipeline::process(const rx_frame* frames, unsigned count, unsigned port_slot, bool partial_checksums, uint64_t now_ns) {
  begin(now_ns);
  port_slot_ = static_cast<uint8_t>(port_slot);
  if (!snap_) {
    for (unsigned i = 0; i < count; ++i) pool_.put(frames[i].address);
    bump(counters_.drop[SL_DROP_NO_SNAPSHOT], count);
    return;
  }
  // What waits goes first, so that a flow keeps its order; unless this is one of those that waited, which was counted when it came.
  const bool again = waited_since_ns_ != 0;
  if (!held_.empty() && !again) [[unlikely]] {
    release_due();
    port_slot_ = static_cast<uint8_t>(port_slot);
    fate_ = {};
  }
  const port_interfaces& port = snap_->ports[port_slot];
  const bool tunnels = snap_->wireguard != nullptr;
  uint64_t bytes = 0, completed_count = 0;
  unsigned kept = 0, arrived = 0;
  received_on_one tally{counters_};
  for (unsigned i = 0; i < count; ++i) {
    packet& p = batch_[kept];
    bytes += frames[i].length;
    bool completed = false, readable = strip_ethernet(p, frames[i], port, partial_checksums);
    tally.add(p.interface_slot, frames[i].length);
    const bool for_tunnel = tunnels && readable && is_for_tunnel(p);
    if (for_tunnel) p.checksum_partial = false;  // what is inside is authenticated: nobody looks at it
    if (readable)
      if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { drop(p, reason); readable = false; }
    if (!readable) {
      if (captures_) [[unlikely]] capture_done(capture(frames[i].data, frames[i].length, p.interface_slot, SL_CAPTURE_IN, now_ns));
      continue;
    }
    if (for_tunnel) {
      sl_captured* record = captures_ ? capture(frames[i].data, frames[i].length, p.interface_slot, SL_CAPTURE_IN, now_ns) : nullptr;
      fate_ = {};
      if (arrive(p, arrived)) ++arrived;
      if (!captures_) [[likely]] continue;
      kept = open_arrived(std::exchange(arrived, 0), kept);
      capture_done(record);
      continue;
    }
    completed_count += completed;
    p.hash = shared_.sessions.hash_of(p.key);
    shared_.sessions.prefetch_bucket(p.hash);
    ++kept;
  }
  if (!again) [[likely]] {
    tally.flush();
    counters_.add(SL_COUNTER_RX_PACKETS, count);
    counters_.add(SL_COUNTER_RX_BYTES, bytes);
  }
  if (arrived) kept = open_arrived(arrived, kept);
  if (completed_count) counters_.add(SL_COUNTER_CHECKSUMS_COMPLETED, completed_count);
  uint32_t guessed[batch_max];
  for (unsigned i = 0; i < kept; ++i) {
    guessed[i] = shared_.sessions.guess(batch_[i].hash);
    shared_.sessions.prefetch_session(guessed[i]);
  }
  if (captures_) [[unlikely]] {
    for (unsigned i = 0; i < kept; ++i) {
      fate_ = {};
      const size_t sent = output_.size();
      sl_captured* record = capture(batch_[i].data, batch_[i].length, batch_[i].interface_slot, SL_CAPTURE_IN, waited_since_ns_ ? waited_since_ns_ : now_ns);
      look_up(batch_[i], guessed[i]);
      capture_done(record);
      capture_sent(sent);
    }
  } else {
    for (unsigned i = 0; i < kept; ++i) look_up(batch_[i], guessed[i]);
  }
  if (!entered_.empty()) seal_entered();
}

// What a packet became, and what was answered to it: from this place of output() on.
void pipeline::capture_sent(size_t from) {
  fate_ = {};
  for (; from < output_.size(); ++from) {
    const tx_item& item = output_[from];
    const uint8_t* frame = area_.at(item.address);
    if (item.port_slot >= SL_PORTS_MAX) continue;
    uint16_t vlan_id = load16(frame + 12) == ethertype_vlan ? load16(frame + 14) & 0xfff : SL_VLAN_NONE;
    capture_done(capture(frame, item.length, snap_->ports[item.port_slot].find(vlan_id), SL_CAPTURE_OUT, now_ns_));
  }
}

sl_captured* pipeline::capture(const uint8_t* frame, uint32_t length, unsigned interface_slot, uint8_t direction, uint64_t time_ns) {
  const uint32_t id = interface_slot < interface_slots ? shared_.interfaces[interface_slot].id.load(std::memory_order_relaxed) : 0;
  const uint8_t mask = captures_of(*captures_, frame, length, id, direction);
  if (!mask) return nullptr;
  unsigned snap = 0;
  for (unsigned i = 0; i < SL_CAPTURES_MAX; ++i) if (mask >> i & 1 && captures_->filters[i].snap_bytes > snap) snap = captures_->filters[i].snap_bytes;
  sl_captured* record = captured_.reserve(length < snap ? length : snap);
  if (!record) { counters_.add(SL_COUNTER_CAPTURES_LOST); return nullptr; }
  record->time_ns = time_ns + static_cast<uint64_t>(shared_.wall_offset_ns.load(std::memory_order_relaxed));
  record->interface = id;
  record->original_bytes = static_cast<uint16_t>(length);
  record->direction = direction;
  record->captures = mask;
  std::memcpy(record + 1, frame, record->bytes);
  return record;
}

// Some captures want what was dropped, some what was not.
void pipeline::capture_done(sl_captured* record) {
  if (!record || fate_.waits) return;
  record->reason = static_cast<uint8_t>(fate_.dropped);
  const uint8_t unwanted = fate_.dropped != SL_DROP_NONE ? SL_CAPTURE_NOT_DROPPED : SL_CAPTURE_DROPPED;
  for (unsigned i = 0; i < SL_CAPTURES_MAX; ++i) if (captures_->filters[i].flags & unwanted) record->captures &= static_cast<uint8_t>(~(1u << i));
  if (record->captures) captured_.commit(*record);
}

bool pipeline::strip_ethernet(packet& p, const rx_frame& frame, const port_interfaces& port, bool partial_checksums) {
  p.data = frame.data;
  p.address = frame.address;
  p.length = frame.length;
  p.key = flow_key{};
  p.checksum_partial = partial_checksums;
  p.interface_slot = index_none;
  if (frame.length < ethernet_bytes) { drop(p, SL_DROP_TRUNCATED); return false; }
  uint16_t type = load16(frame.data + 12), vlan_id = SL_VLAN_NONE;
  p.l3_offset = ethernet_bytes;
  if (type == ethertype_vlan) {
    if (frame.length < ethernet_bytes + vlan_bytes) { drop(p, SL_DROP_TRUNCATED); return false; }
    vlan_id = load16(frame.data + 14) & 0xfff;
    if (vlan_id == 0) vlan_id = SL_VLAN_NONE;  // a priority tag only (IEEE 802.1Q section 6.9)
    type = load16(frame.data + 16);
    p.l3_offset = ethernet_bytes + vlan_bytes;
  }
  p.interface_slot = port.find(vlan_id);
  if (p.interface_slot == index_none) { drop(p, vlan_id == SL_VLAN_NONE ? SL_DROP_UNKNOWN_PORT : SL_DROP_UNKNOWN_VLAN); return false; }
  if (type == ethertype_ipv4) p.ip_version = 4;
  else if (type == ethertype_ipv6) p.ip_version = 6;
  else { drop(p, SL_DROP_MALFORMED_ETHERNET); return false; }
  // A frame to another station (flooded by a switch) is not ours to route; multicast was steered to the host.
  if (frame.data[0] & 1) { drop(p, SL_DROP_MARTIAN_DESTINATION); return false; }
  uint64_t own = shared_.interfaces[p.interface_slot].mac.load(std::memory_order_relaxed);
  if (own && (load64_raw(frame.data) & 0xffffffffffffull) != own) { drop(p, SL_DROP_OTHER_STATION); return false; }
  return true;
}

// ---- 2: known or not ---------------------------------------------------------------------------------------------

void pipeline::look_up(packet& p, uint32_t guessed) {
  if (p.flags & packet_fragment) [[unlikely]] { take_fragment(p); return; }
  if (p.flags & packet_icmp_error) [[unlikely]] { icmp_error_packet(p); return; }
  session_ref r;
  if (shared_.sessions.find_guessed(p.key, p.hash, guessed, &r)) { forward(p, r); return; }
  first_packet(p);
}

// ---- 3: fragments ------------------------------------------------------------------------------------------------

void pipeline::take_fragment(packet& p) {
  if (waited_since_ns_ == 0) counters_.add(SL_COUNTER_FRAGMENTS);
  auto result = shared_.fragments.add(p, now_ns_);
  if (result.discarded) bump(counters_.drop[result.reason], result.discarded);
  if (result.timed_out) bump(counters_.drop[SL_DROP_FRAGMENT_TIMEOUT], result.timed_out);
  if (result.evicted) bump(counters_.drop[SL_DROP_FRAGMENT_TABLE_FULL], result.evicted);
  switch (result.what) {
    case reassembly_table::outcome::held:
      counters_.add(SL_COUNTER_FRAGMENTS_HELD);
      free_frame(p);
      return;
    case reassembly_table::outcome::drop:
      drop(p, result.reason);
      return;
    case reassembly_table::outcome::use_verdict:
      follow_first_fragment(p, result.verdict);
      return;
    case reassembly_table::outcome::first: {
      session_ref r;
      if (shared_.sessions.find(p.key, p.hash, &r)) {
        // What comes after the first fragment finds its session by this verdict, whatever happens to the first.
        packet copy = p;
        fragment_verdict verdict{fragment_verdict::session, static_cast<uint8_t>(r.direction), r.index, r.s->incarnation, p.key};
        forward(p, r);
        decided_first_fragment(copy, verdict);
        return;
      }
      first_packet(p);
      return;
    }
  }
}

void pipeline::follow_first_fragment(packet& p, const fragment_verdict& verdict) {
  if (verdict.what == fragment_verdict::host) { to_host(p); return; }
  if (verdict.what == fragment_verdict::drop) { drop(p, SL_DROP_FRAGMENT_DENIED); return; }
  session_ref r;
  uint64_t h = shared_.sessions.hash_of(verdict.key);
  if (!shared_.sessions.find(verdict.key, h, &r)) { drop(p, SL_DROP_FRAGMENT_DENIED); return; }
  forward(p, r);
}

// ---- 4: a packet of a session --------------------------------------------------------------------------------------

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
  uint16_t type = p.ip_version == 4 ? ethertype_ipv4 : ethertype_ipv6;
  std::memcpy(frame, &destination, 6);
  std::memcpy(frame + 6, &source, 6);
  if (vlan_id == SL_VLAN_NONE) {
    store16(frame + 12, type);
  } else {
    store16(frame + 12, ethertype_vlan);
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

// ---- next hops that are not resolved yet ---------------------------------------------------------------------------

// Can a packet go to this next hop now: is its link address known, or is there a session with the tunnel's peer?
bool pipeline::is_reachable(const adjacency& a) const {
  if (shared_.interfaces[a.interface_slot].port_slot.load(std::memory_order_relaxed) != port_slot_tunnel) return a.mac.load(std::memory_order_acquire) & adjacency::resolved_bit;
  const wireguard_peer* peer = peer_of(a);
  return peer && peer->sending(now_ns_) && peer->endpoint.known();
}

void pipeline::hold(packet& p, uint32_t adjacency_id, adjacency& a, const drop_cause& cause, bool ready_to_leave) {
  uint64_t mac = a.mac.load(std::memory_order_relaxed);
  const bool tunnel = shared_.interfaces[a.interface_slot].port_slot.load(std::memory_order_relaxed) == port_slot_tunnel;
  wireguard_peer* peer = tunnel ? peer_of(a) : nullptr;
  uint32_t asked = a.asked_ticks.load(std::memory_order_relaxed);
  bool ask = now_ticks_ - asked >= 4;  // about a second: also how often a failed neighbour is tried again
  if (ask) {
    a.asked_ticks.store(now_ticks_, std::memory_order_relaxed);
    if (peer) shared_.wireguard->wanted(worker_, *peer, now_ns_);
    else if (shared_.resolve && !tunnel) shared_.resolve(shared_.interfaces[a.interface_slot].kernel_ifindex.load(std::memory_order_relaxed), a.address);
  }
  if ((mac & adjacency::failed_bit) && !ask) {
    if (!ready_to_leave) send_error(p, icmp_error::host_unreachable);
    drop(p, SL_DROP_NEIGHBOUR_UNRESOLVED, cause);
    return;
  }
  if (held_.size() == held_packets_max || a.waiting.load(std::memory_order_relaxed) >= (tunnel ? held_per_peer_max : held_per_neighbour_max)) {
    drop(p, SL_DROP_NEIGHBOUR_QUEUE_FULL, cause);
    return;
  }
  const uint32_t waiting = a.waiting.fetch_add(1, std::memory_order_relaxed) + 1;
  if (peer) peer->waiting.store(waiting, std::memory_order_relaxed);
  counters_.add(SL_COUNTER_NEIGHBOUR_HELD);
  held_packet h{static_cast<uint64_t>(p.data - area_.base()), p.length, adjacency_id, now_ns_ + held_ns_max, p.interface_slot, port_slot_, p.checksum_partial != 0, held_kind::from_port};
  if (ready_to_leave) {
    h.kind = held_kind::ready;
    h.address = static_cast<uint64_t>(p.l3() - area_.base());
    h.length = p.l3_length;
  } else {
    if (shared_.interfaces[p.interface_slot].port_slot.load(std::memory_order_relaxed) == port_slot_tunnel) h.kind = held_kind::from_tunnel;
    fate_.waits = true;
  }
  held_.push_back(h);
}

// The packet as it was when it was held, and parsed, if it has not left the parser's part yet. False: it is gone.
bool pipeline::read_again(packet& p, const held_packet& h) {
  p = packet{};
  const rx_frame frame{h.address, area_.at(h.address), h.length};
  if (h.kind == held_kind::from_port) {
    if (!strip_ethernet(p, frame, snap_->ports[h.port_slot], h.partial)) return false;
  } else {
    p.data = frame.data;
    p.address = h.address;
    p.length = h.length;
    p.interface_slot = h.interface_slot;
    p.l3_offset = h.kind == held_kind::ready ? 0 : ethernet_bytes;
    p.ip_version = p.l3()[0] >> 4;
  }
  bool completed = false;
  const sl_drop_reason reason = parse_ip(p, &completed);
  if (reason != SL_DROP_NONE) drop(p, reason);
  return reason == SL_DROP_NONE;
}

// Nobody answered in time: the sender is told.
void pipeline::give_up(const held_packet& h, const adjacency* a) {
  const bool tunnel = a && shared_.interfaces[a->interface_slot].port_slot.load(std::memory_order_relaxed) == port_slot_tunnel;
  packet p;
  fate_ = {};
  port_slot_ = h.port_slot;
  const size_t sent = output_.size();
  const bool received = h.kind != held_kind::ready;
  sl_captured* record = captures_ && received ? capture(area_.at(h.address), h.length, h.interface_slot, SL_CAPTURE_IN, h.until_ns - held_ns_max) : nullptr;
  if (read_again(p, h)) {
    if (received) send_error(p, icmp_error::host_unreachable);
    drop(p, tunnel ? SL_DROP_WIREGUARD_NO_SESSION : SL_DROP_NEIGHBOUR_UNRESOLVED);
  }
  capture_done(record);
  if (captures_) capture_sent(sent);
}

void pipeline::go_on(const held_packet& h) {
  const rx_frame frame{h.address, area_.at(h.address), h.length};
  if (h.kind == held_kind::from_port) {
    waited_since_ns_ = h.until_ns - held_ns_max;
    process(&frame, 1, h.port_slot, h.partial, now_ns_);
    waited_since_ns_ = 0;
    return;
  }
  packet p;
  fate_ = {};
  const size_t sent = output_.size();
  if (h.kind == held_kind::ready) {
    adjacency* a = shared_.adjacencies.get(h.adjacency);
    if (!read_again(p, h)) return;
    if (a) emit(p, *a, shared_.interfaces[a->interface_slot]);
    else drop(p, SL_DROP_NEIGHBOUR_UNRESOLVED);
  } else {
    sl_captured* record = captures_ ? capture(frame.data, frame.length, h.interface_slot, SL_CAPTURE_IN, h.until_ns - held_ns_max) : nullptr;
    if (read_again(p, h)) {
      waited_since_ns_ = h.until_ns - held_ns_max;
      p.hash = shared_.sessions.hash_of(p.key);
      look_up(p, shared_.sessions.guess(p.hash));
      waited_since_ns_ = 0;
    }
    capture_done(record);
  }
  if (captures_) capture_sent(sent);
}

// When a next hop changed since the last time, or one waited long enough.
void pipeline::release_due() {
  const uint32_t version = shared_.adjacencies.version();
  if (!held_.empty() && (version != adjacency_version_ || held_.front().until_ns <= now_ns_)) release_held();
  adjacency_version_ = version;
}

// Packets whose next hop answered go through again, from the start: policy may have changed while they waited.
void pipeline::release_held() {
  std::vector<held_packet> keep, again;
  captures_ = shared_.captures.load(std::memory_order_acquire);
  std::vector<held_packet> held;
  held.swap(held_);  // what gives up or goes on may be held anew
  held_.reserve(held_packets_max);
  for (const held_packet& h : held) {
    adjacency* a = shared_.adjacencies.get(h.adjacency);
    const bool reachable = a && is_reachable(*a);
    const bool failed = !a || h.until_ns <= now_ns_ || (a->mac.load(std::memory_order_relaxed) & adjacency::failed_bit);
    if (!reachable && !failed) { keep.push_back(h); continue; }
    if (a) {
      const uint32_t waiting = a->waiting.fetch_sub(1, std::memory_order_relaxed) - 1;
      if (shared_.interfaces[a->interface_slot].port_slot.load(std::memory_order_relaxed) == port_slot_tunnel)
        if (wireguard_peer* peer = peer_of(*a)) peer->waiting.store(waiting, std::memory_order_relaxed);
    }
    if (reachable) again.push_back(h); else give_up(h, a);
  }
  held_.insert(held_.begin(), keep.begin(), keep.end());
  for (const held_packet& h : again) go_on(h);
  if (!entered_.empty()) seal_entered();
}

// ---- 5: timers -----------------------------------------------------------------------------------------------------

uint32_t pipeline::idle_s(const session& s, const sl_settings& settings) {
  uint8_t state = s.state.load(std::memory_order_relaxed);
  switch (s.key0.protocol) {
    case protocol_tcp: return tcp_idle_s(state, settings);
    case protocol_udp: return state == SL_STATE_NEW ? settings.udp_new_s : settings.udp_s;
    case protocol_icmp: case protocol_icmpv6: return settings.icmp_s;
    default: return settings.other_s;
  }
}

bool pipeline::revalidate_some(uint64_t now_ns) {
  const uint32_t wanted = shared_.revalidation.load(std::memory_order_acquire);
  if (revalidating_ != wanted) {
    revalidating_ = wanted;
    revalidate_at_ = 0;
    revalidation_began_ns_ = 0;
  }
  if (revalidate_at_ == session_none) return false;
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_ || static_cast<uint32_t>(snap_->generation) != wanted) return true;  // about to be swapped in
  if (!revalidation_began_ns_) revalidation_began_ns_ = now_ns;
  revalidate_at_ = shared_.sessions.each(worker_, revalidate_at_, revalidate_budget, [&](uint32_t index) {
    decision d;
    if (shared_.sessions.at(index).generation.load(std::memory_order_relaxed) != wanted) revalidate_session(index, &d);
  });
  if (revalidate_at_ == session_none) {
    if (shared_.going_through.fetch_sub(1, std::memory_order_acq_rel) == 1) shared_.close_revalidation(wanted);
    return false;
  }
  if (now_ns - revalidation_began_ns_ > revalidation_ns_max) shared_.close_revalidation(wanted);
  return true;
}

void pipeline::housekeeping(uint64_t now_ns, uint32_t sweep_budget) {
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_) return;
  release_due();
  shared_.sessions.sweep(worker_, now_ticks_, sweep_budget, [this](uint32_t index) {
    session& s = shared_.sessions.at(index);
    uint32_t ends = s.last_seen_ticks.load(std::memory_order_relaxed) + ticks_of_s(idle_s(s, snap_->settings));
    if (ends > now_ticks_) { shared_.sessions.deadline(index).store(ends, std::memory_order_relaxed); return; }
    uint8_t state = s.state.load(std::memory_order_relaxed);
    sl_end_reason reason = state == SL_STATE_CLOSED ? SL_END_TCP_RST : state == SL_STATE_TCP_TIME_WAIT ? SL_END_TCP_FIN : SL_END_IDLE;
    end_session(index, reason);
  });
  shared_.sessions.reclaim(worker_);
  if (worker_ == 0 && now_ns - fragments_checked_ns_ > 1'000'000'000) {
    fragments_checked_ns_ = now_ns;
    if (uint32_t n = shared_.fragments.expire(now_ns)) bump(counters_.drop[SL_DROP_FRAGMENT_TIMEOUT], n);
  }
}

// ---- drops -----------------------------------------------------------------------------------------------------------

void pipeline::drop(packet& p, sl_drop_reason reason, const drop_cause& cause, bool record_it) {
  bump(counters_.drop[reason]);
  fate_.dropped = reason;
  // Counters are exact; records are sampled so that a flood of drops costs little.
  constexpr uint64_t per_record_ns = 1'000'000'000 / drop_records_per_second_max, burst_ns = 100'000'000;
  if (drop_tokens_ns_ + burst_ns < now_ns_) drop_tokens_ns_ = now_ns_ - burst_ns;
  if (record_it && drop_tokens_ns_ + per_record_ns > now_ns_) {
    counters_.add(SL_COUNTER_DROP_RECORDS_SAMPLED);
  } else if (record_it) {
    drop_tokens_ns_ += per_record_ns;
    if (sl_drop_record* record = drop_records_.reserve()) {
      fill_drop(p, cause, record);
      record->reason = static_cast<uint8_t>(reason);
      drop_records_.commit();
    } else {
      counters_.add(SL_COUNTER_RECORDS_LOST);
    }
  }
  free_frame(p);
}

namespace {

// As what a packet of a session leaves. An ICMP error about one has addresses of the session's, and no ports (see rewrite_icmp_error).
flow_key leaves_as(const packet& p, const session& s, unsigned direction) {
  flow_key to = reversed(s.key(1 - direction));
  if (p.flags & packet_icmp_error) {
    if (equal(s.key(direction).src, to.src)) to.src = p.key.src;
    to.src_port = to.dst_port = 0;
  } else if (!p.has_l4()) {
    to.src_port = to.dst_port = 0;
  }
  return to;
}

}  // namespace

void pipeline::fill_drop(const packet& p, const drop_cause& cause, sl_drop_record* out) const {
  auto id_of = [this](unsigned slot) { return slot < interface_slots ? shared_.interfaces[slot].id.load(std::memory_order_relaxed) : 0; };
  *out = {};
  out->time_ns = now_ns_ + static_cast<uint64_t>(shared_.wall_offset_ns.load(std::memory_order_relaxed));
  flow_key to = p.key;
  if (const session* s = cause.of) {
    to = leaves_as(p, *s, cause.direction);
    const uint8_t flags = s->flags.load(std::memory_order_relaxed);
    if (flags & session_destination_nat) out->nat_destination_id = shared_.mappings.destination_rule_of(*s);
    if (const uint32_t own = mappings_of(*s).originator; own != mapping_none && !(flags & session_ended)) out->nat_source_id = shared_.mappings.rule_of(own);
    out->to_interface = id_of(s->interface_slot[1 - cause.direction]);
  } else if (const decision* d = cause.decided) {
    to = d->translated;
    if (d->destination_rule) out->nat_destination_id = d->destination_rule->id;
    else if (d->inbound_mapping != mapping_none && d->reason != SL_DROP_NAT_FILTERED) out->nat_destination_id = shared_.mappings.rule_of(d->inbound_mapping);
    // Of source NAT the address is known when it is static; a port is taken with the session.
    if (d->source_rule && d->source_rule->kind == SL_NAT_STATIC) {
      to.src = d->static_source;
      out->nat_source_id = d->source_rule->id;
    }
    if (d->to != index_none) out->to_interface = snap_->interfaces[d->to].id;
  }
  out->src = p.key.src;
  out->dst = p.key.dst;
  out->nat_src = to.src;
  out->nat_dst = to.dst;
  out->src_port = p.key.src_port;
  out->dst_port = p.key.dst_port;
  out->nat_src_port = to.src_port;
  out->nat_dst_port = to.dst_port;
  out->rule_id = cause.rule_id;
  out->interface = id_of(p.interface_slot);
  out->bytes = static_cast<uint16_t>(p.length);
  out->protocol = p.key.protocol;
  // Read from the packet: the parser may have refused it before it came to its flags.
  if (p.key.protocol == protocol_tcp && p.has_l4() && p.l4_offset + 14u <= p.l3_offset + unsigned{p.l3_length}) {
    out->tcp_flags = p.l4()[13];
    out->tcp_flags_known = 1;
  }
}

}  // namespace sluice
