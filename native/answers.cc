// SPDX-License-Identifier: Apache-2.0
// answers.cc: what the engine says itself and how things end. Part of `pipeline`: refusals, our own ICMP errors and resets
// (rate-limited), packets for the host's stack, fragments whose first one was decided, ends of sessions, records.
#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {

void pipeline::refuse(packet& p, const decision& d) {
  if (d.rule != classifier::no_rule) snap_->rule_counters[d.rule]->hits.fetch_add(1, std::memory_order_relaxed);
  if (d.reason == SL_DROP_POLICY_REJECT) {
    if (p.key.protocol == protocol_tcp && p.has_l4()) {
      uint8_t reset[ipv6_bytes + 20];
      if (unsigned length = build_tcp_reset(p, reset); length && take_error_token()) {
        answer(p, reset, length);
        counters_.add(SL_COUNTER_TCP_RESETS_SENT);
      }
    } else {
      send_error(p, icmp_error::prohibited);
    }
  } else if (d.unreachable) {
    send_error(p, icmp_error::no_route);
  }
  // A rule, or the default, may say that what it stops is only counted.
  bool policy = d.reason == SL_DROP_POLICY_DENY || d.reason == SL_DROP_POLICY_REJECT;
  bool record = !policy || (d.rule != classifier::no_rule ? snap_->rules[d.rule].log != 0 : snap_->settings.default_log != 0);
  drop(p, d.reason, cause_of(d), record);
}

// peer_slot: whose the next hop is, when it lies behind a tunnel.
uint32_t pipeline::route_to(const sl_address& next_hop, unsigned interface_slot, uint32_t peer_slot) {
  bool created;
  uint32_t id = shared_.adjacencies.find_or_create(interface_slot, next_hop, now_ticks_, &created);
  if (peer_slot != wireguard_peer_none) {
    if (created) shared_.adjacencies.set_peer_slot(id, peer_slot);
  } else if (created && shared_.resolve) {
    shared_.adjacencies.get(id)->asked_ticks.store(now_ticks_, std::memory_order_relaxed);
    shared_.resolve(shared_.interfaces[interface_slot].kernel_ifindex.load(std::memory_order_relaxed), next_hop);
  }
  return id;
}

bool pipeline::take_error_token() {
  uint32_t rate = snap_->settings.icmp_errors_per_second;
  if (rate == 0) return false;
  uint64_t per_error_ns = 1'000'000'000ull / rate, burst_ns = 200'000'000 + per_error_ns;
  if (error_tokens_ns_ + burst_ns < now_ns_) error_tokens_ns_ = now_ns_ - burst_ns;
  if (error_tokens_ns_ + per_error_ns > now_ns_) { counters_.add(SL_COUNTER_ICMP_ERRORS_SUPPRESSED); return false; }
  error_tokens_ns_ += per_error_ns;
  return true;
}

void pipeline::send_error(packet& p, icmp_error kind, uint32_t mtu_bytes) {
  if (!icmp_error_allowed(p) || snap_->broadcasts.contains(p.key.dst) || snap_->broadcasts.contains(p.key.src)) return;
  // From the address of the interface that the packet came in on (RFC 1812 section 4.3.2.4).
  uint16_t index = snap_->slot_interfaces[p.interface_slot];
  const sl_address* source = nullptr;
  for (const sl_interface_address& a : snap_->addresses) {
    if (is_ipv4(a.address) != (p.ip_version == 4) || (a.flags & SL_LOCAL_ENGINE)) continue;
    if (!source || a.interface == index) source = &a.address;
    if (a.interface == index) break;
  }
  if (!source || !take_error_token()) return;
  uint8_t error[icmp_error_bytes_max];
  answer(p, error, build_icmp_error(p, kind, mtu_bytes, *source, error));
  counters_.add(SL_COUNTER_ICMP_ERRORS_SENT);
}

// Sends a packet of ours back to where `p` came from: same interface, same link address; or to the tunnel's peer that has the source.
void pipeline::answer(packet& p, const uint8_t* ip_packet, unsigned length) {
  uint64_t address;
  if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); return; }
  packet reply{};
  reply.address = address + umem_headroom_bytes;
  reply.data = area_.at(reply.address);
  reply.l3_offset = ethernet_bytes + vlan_bytes;
  reply.l3_length = static_cast<uint16_t>(length);
  reply.ip_version = p.ip_version;
  std::memcpy(reply.l3(), ip_packet, length);
  adjacency back;
  uint64_t mac = 0;
  const interface_state& out = shared_.interfaces[p.interface_slot];
  if (out.port_slot.load(std::memory_order_relaxed) == port_slot_tunnel) {
    const wireguard_routes::tunnel* tunnel = snap_->wireguard ? snap_->wireguard->of_interface(snap_->slot_interfaces[p.interface_slot]) : nullptr;
    mac = tunnel ? tunnel->peer_of(p.key.src) : wireguard_peer_none;
  } else {
    std::memcpy(&mac, p.data + 6, 6);
  }
  back.mac.store(mac, std::memory_order_relaxed);
  back.interface_slot = p.interface_slot;
  emit(reply, back, out);
}

void pipeline::to_host(packet& p) {
  if (shared_.to_host && shared_.to_host(p.l3(), p.l3_length)) {
    counters_.add(SL_COUNTER_HOST_PACKETS);
    free_frame(p);
  } else {
    drop(p, SL_DROP_HOST_QUEUE_FULL);
  }
}

// The first fragment's fate is known: those that waited for it follow.
void pipeline::decided_first_fragment(packet& first, const fragment_verdict& verdict) {
  if (!(first.flags & packet_fragment_first)) return;
  const packet_fate fate = fate_;  // the first one's; what becomes of the others is not its fate
  for (const held_fragment& held : shared_.fragments.decided(first, verdict)) {
    uint64_t address;
    if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); continue; }
    packet p{};
    p.address = address + umem_headroom_bytes;
    p.data = area_.at(p.address);
    p.length = static_cast<uint32_t>(held.frame.size());
    p.interface_slot = held.interface_slot;
    p.l3_offset = held.l3_offset;
    std::memcpy(p.data, held.frame.data(), held.frame.size());
    p.ip_version = p.l3()[0] >> 4;
    bool completed = false;
    if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { drop(p, reason); continue; }
    follow_first_fragment(p, verdict);
  }
  fate_ = fate;
}

bool pipeline::end_session(uint32_t index, sl_end_reason reason) {
  session& s = shared_.sessions.at(index);
  if (s.flags.fetch_or(session_ended, std::memory_order_acq_rel) & session_ended) return false;
  const uint8_t flags = s.flags.load(std::memory_order_relaxed);
  counters_.add(SL_COUNTER_SESSIONS_ENDED);
  if (flags & session_log_end) record_flow(s, index, SL_EVENT_END, reason);
  if (auto it = snap_->counters_by_id.find(s.rule_id); it != snap_->counters_by_id.end()) it->second->sessions.fetch_sub(1, std::memory_order_relaxed);
  if (flags & session_source_counted) shared_.sources.give_back(s.key0.src);
  shared_.sessions.remove(worker_, index);
  release_mappings(s, index, reason == SL_END_TCP_FIN);
  return true;
}

// tcp_closed_cleanly: nothing when it never was a session.
void pipeline::release_mappings(const session& s, uint32_t index, std::optional<bool> tcp_closed_cleanly) {
  const session_mappings held = mappings_of(s);
  const uint64_t now_s = now_ns_ / 1'000'000'000;
  if (held.originator != mapping_none) {
    shared_.mappings.forget_peer(held.originator, index, s.key1.src);
    shared_.mappings.release(held.originator, now_s, tcp_closed_cleanly);
  }
  if (held.responder != mapping_none) shared_.mappings.release(held.responder, now_s, tcp_closed_cleanly);
}

namespace {

// Nobody has answered it, or its TCP handshake never came to an end.
bool is_unanswered(const session& s) {
  const uint8_t state = s.state.load(std::memory_order_relaxed);
  return state == SL_STATE_NEW || state == SL_STATE_TCP_SYN_SENT || state == SL_STATE_TCP_SYN_RECEIVED;
}

}  // namespace

// The table is nearly full: of some sessions taken at random, the unanswered one that is silent for longest ends for a new one. So a flood that
// nobody answers displaces itself, and never a conversation. A sample without any is followed by another, up to a bound.
void pipeline::evict_session() {
  const uint32_t end = shared_.sessions.high_water();
  uint32_t chosen = session_none, silent = 0;
  for (unsigned round = 0; round < eviction_rounds_max && chosen == session_none; ++round) {
    uint32_t sample[eviction_sample];
    for (uint32_t& index : sample) {
      index = static_cast<uint32_t>((hash_mix(shared_.seed + ++draws_ * 0x9e3779b97f4a7c15ull, 0xe7037ed1a0b428dbull) >> 32) * end >> 32);
      shared_.sessions.prefetch_deadline(index);
      shared_.sessions.prefetch_session(index << 1);
    }
    for (const uint32_t index : sample) {
      // Without a deadline there is none, or whoever makes it is not through with it.
      if (shared_.sessions.deadline(index).load(std::memory_order_acquire) == 0) continue;
      const session& s = shared_.sessions.at(index);
      const auto age = static_cast<int32_t>(now_ticks_ - s.last_seen_ticks.load(std::memory_order_relaxed));
      const uint32_t silence = age > 0 ? static_cast<uint32_t>(age) : 0;
      if (!is_unanswered(s) || (chosen != session_none && silence <= silent)) continue;
      chosen = index;
      silent = silence;
    }
  }
  if (chosen != session_none && end_session(chosen, SL_END_EVICTED)) counters_.add(SL_COUNTER_SESSIONS_EVICTED);
  shared_.sessions.reclaim(worker_);  // what ended a while ago, before the last free one is taken
}

bool pipeline::kill(uint64_t session_id) {
  uint32_t index = static_cast<uint32_t>(session_id);
  if (index >= shared_.sessions.high_water()) return false;
  session& s = shared_.sessions.at(index);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_ || s.incarnation != session_id >> 32 || shared_.sessions.deadline(index).load(std::memory_order_relaxed) == 0) return false;
  return end_session(index, SL_END_KILLED);
}

void pipeline::fill_record(dataplane& shared, const snapshot* snap, const session& s, uint32_t index, uint64_t now_ns, sl_flow_record* out) {
  *out = {};
  const uint64_t offset = static_cast<uint64_t>(shared.wall_offset_ns.load(std::memory_order_relaxed));
  const flow_key responder = reversed(s.key1);
  out->session_id = static_cast<uint64_t>(s.incarnation) << 32 | index;
  out->start_ns = ns_of_ticks(s.start_ticks) + offset;
  uint32_t last = s.last_seen_ticks.load(std::memory_order_relaxed);
  out->last_ns = ns_of_ticks(last) + offset;
  for (unsigned d = 0; d < 2; ++d) {
    out->packets[d] = s.packets[d];
    out->bytes[d] = s.bytes[d];
    out->tcp_flags[d] = s.tcp_flags_seen[d];
  }
  out->src = s.key0.src;
  out->dst = s.key0.dst;
  out->nat_src = responder.src;
  out->nat_dst = responder.dst;
  out->src_port = s.key0.src_port;
  out->dst_port = s.key0.dst_port;
  out->nat_src_port = responder.src_port;
  out->nat_dst_port = responder.dst_port;
  out->rule_id = s.rule_id;
  out->nat_destination_id = shared.mappings.destination_rule_of(s);
  if (const uint32_t own = mappings_of(s).originator; own != mapping_none) out->nat_source_id = shared.mappings.rule_of(own);
  out->from_interface = shared.interfaces[s.interface_slot[0]].id.load(std::memory_order_relaxed);
  out->to_interface = shared.interfaces[s.interface_slot[1]].id.load(std::memory_order_relaxed);
  out->protocol = s.key0.protocol;
  out->state = s.state.load(std::memory_order_relaxed);
  out->event = SL_EVENT_UPDATE;
  if (!snap) return;
  if (const sl_interface* n = snap->interface_of_slot(s.interface_slot[0])) out->from_zone = n->zone;
  if (const sl_interface* n = snap->interface_of_slot(s.interface_slot[1])) out->to_zone = n->zone;
  uint32_t ends = last + ticks_of_s(idle_s(s, snap->settings)), now = ticks_of_ns(now_ns);
  out->expires_s = ends > now ? static_cast<uint32_t>(ns_of_ticks(ends - now) / 1'000'000'000) : 0;
}

void pipeline::record_flow(const session& s, uint32_t index, sl_flow_event event, sl_end_reason reason) {
  sl_flow_record* record = flow_records_.reserve();
  if (!record) { counters_.add(SL_COUNTER_RECORDS_LOST); return; }
  fill_record(shared_, snap_, s, index, now_ns_, record);
  record->event = static_cast<uint8_t>(event);
  record->end_reason = static_cast<uint8_t>(reason);
  flow_records_.commit();
}

}  // namespace sluice
