// SPDX-License-Identifier: Apache-2.0
// slow_path.cc: a packet without a session. In order:
//   1 first_packet    may it open a session at all? decide() says (decide.cc)
//   2 create_session  limits → source NAT binding → keys → insert
// ICMP errors about sessions stand in icmp_errors.cc; a session after a commit in revalidate.cc.
#include <algorithm>
#include <utility>

#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {
namespace {

constexpr unsigned port_tries_max = 4;  // a mapping of a pool as it was before a commit may have the port

}  // namespace

// ---- 1: may it open a session? ---------------------------------------------------------------------------------------

void pipeline::first_packet(packet& p) {
  counters_.add(SL_COUNTER_SLOW_PATH_PACKETS);
  const fragment_verdict dropped{fragment_verdict::drop, 0, 0, 0, {}};
  if (!(p.flags & packet_fragment) && !l4_checksum_valid(p)) { drop(p, SL_DROP_CHECKSUM_L4); return; }
  uint16_t from = snap_->slot_interfaces[p.interface_slot];
  decision d = decide(shared_, *snap_, p.key, p.icmp_type, p.icmp_code, from);
  if (d.to_host) {
    packet copy = p;
    to_host(p);
    decided_first_fragment(copy, {fragment_verdict::host, 0, 0, 0, {}});
    return;
  }
  sl_drop_reason reason = SL_DROP_NONE;
  bool icmp = p.key.protocol == protocol_icmp || p.key.protocol == protocol_icmpv6;
  if (p.key.protocol == protocol_tcp && (p.tcp_flags & (tcp_syn | tcp_ack | tcp_rst | tcp_fin)) != tcp_syn) reason = SL_DROP_TCP_NOT_SYN;
  // Replies, and ICMP that is neither query nor error (router discovery, redirects), open nothing.
  else if (icmp && (!(p.flags & packet_icmp_query) || p.icmp_type == 0 || p.icmp_type == 129 || p.icmp_type == 14)) reason = SL_DROP_ICMP_NO_SESSION;
  if (reason != SL_DROP_NONE || d.reason != SL_DROP_NONE) {
    packet copy = p;
    // A packet that no session could come of is refused for that, but a forbidden one for being forbidden.
    if (d.reason != SL_DROP_NONE && (reason == SL_DROP_NONE || d.reason != SL_DROP_POLICY_REJECT)) refuse(p, d);
    else drop(p, reason, cause_of(d));
    release_inbound(d);
    decided_first_fragment(copy, dropped);
    return;
  }
  if ((p.ip_version == 4 ? p.l3()[8] : p.l3()[7]) <= 1) {
    send_error(p, icmp_error::ttl_expired);
    packet copy = p;
    drop(p, SL_DROP_TTL_EXPIRED, cause_of(d));
    release_inbound(d);
    decided_first_fragment(copy, dropped);
    return;
  }
  create_session(p, d);
}

// The reference that decide() may have taken.
void pipeline::release_inbound(decision& d) {
  if (d.inbound_mapping != mapping_none) shared_.mappings.release(d.inbound_mapping, now_ns_ / 1'000'000'000);
  d.inbound_mapping = mapping_none;
}

// ---- 2: a new session ------------------------------------------------------------------------------------------------------

bool pipeline::translate_source(const packet& p, const decision& d, session& s, uint32_t index, sl_drop_reason* reason) {
  s.key1 = reversed(d.translated);
  if (!d.source_rule) return true;
  const sl_nat_rule& rule = *d.source_rule;
  s.flags.fetch_or(session_source_nat, std::memory_order_relaxed);
  if (rule.kind == SL_NAT_STATIC) {
    s.key1.dst = d.static_source;
    s.flags.fetch_or(session_static_source, std::memory_order_relaxed);
    return true;
  }
  int protocol_class = nat_protocol_class(p.key.protocol);
  bool v4 = is_ipv4(d.translated.src);
  // Paired pooling (RFC 4787 R2): an inside address keeps to one outside address while that has ports.
  uint32_t choices[256], count = 0;
  for (uint32_t i = 0; i < rule.pool.count && count < 256; ++i)
    if (is_ipv4(snap_->nat_addresses[rule.pool.first + i].address) == v4) choices[count++] = rule.pool.first + i;
  if (count == 0) { *reason = SL_DROP_NAT_PORTS_EXHAUSTED; return false; }
  uint32_t start = static_cast<uint32_t>(hash_mix(load64_raw(d.translated.src.bytes) ^ shared_.seed, load64_raw(d.translated.src.bytes + 8) ^ 0x9e3779b97f4a7c15ull) % count);
  if (protocol_class < 0) {
    // No ports: the address alone. A shared address belongs to the host for such protocols.
    const sl_nat_address& a = snap_->nat_addresses[choices[start]];
    if (a.nat_slot != SL_NAT_SLOT_NONE) { *reason = SL_DROP_NAT_CONFLICT; return false; }
    s.key1.dst = a.address;
    return true;
  }
  uint64_t now_s = now_ns_ / 1'000'000'000;
  uint16_t inside_port = d.translated.src_port;
  bool independent = !(rule.flags & SL_NAT_RULE_ENDPOINT_DEPENDENT);
  if (independent)
    s.mapping = shared_.mappings.acquire_inside(d.translated.src, inside_port, p.key.protocol, [&](const mapping& m) { return pool_holds(*snap_, rule, m.outside); });
  *reason = SL_DROP_NAT_PORTS_EXHAUSTED;
  for (uint32_t i = 0; i < count && s.mapping == mapping_none; ++i) {
    const auto& pool = snap_->pools[choices[(start + i) % count]];
    for (unsigned tries = 0; tries < port_tries_max && s.mapping == mapping_none; ++tries) {
      auto port = pool->allocate(worker_, protocol_class, now_s, inside_port);
      if (!port) break;
      s.mapping = shared_.mappings.create(d.translated.src, inside_port, p.key.protocol, pool, *port, rule.filtering, independent, rule.id);
      if (s.mapping != mapping_none) break;
      pool->rest(protocol_class, *port, now_s);
      *reason = SL_DROP_NAT_CONFLICT;
    }
  }
  if (s.mapping == mapping_none) return false;
  *reason = SL_DROP_NONE;
  const mapping& m = shared_.mappings.at(s.mapping);
  s.key1.dst = m.outside;
  s.key1.dst_port = m.outside_port;
  if (protocol_class == 2) s.key1.src_port = m.outside_port;  // an identifier stands in both
  if (m.filtering == SL_FILTERING_ADDRESS) shared_.mappings.note_peer(s.mapping, index, d.translated.dst);
  return true;
}

namespace {

// RFC 1624 deltas from a packet with key `from` to one with the reverse of `to`.
void set_deltas(session& s, unsigned direction, bool v4) {
  const flow_key& from = s.key(direction);
  const flow_key to = reversed(s.key(1 - direction));
  unsigned skip = v4 ? 12 : 0, length = v4 ? 4 : 16;
  uint16_t addresses = checksum_delta_join(checksum_delta(from.src.bytes + skip, to.src.bytes + skip, length), checksum_delta(from.dst.bytes + skip, to.dst.bytes + skip, length));
  auto port = [](uint16_t a, uint16_t b) { return checksum_delta16(__builtin_bswap16(a), __builtin_bswap16(b)); };
  s.l3_delta[direction] = addresses;
  switch (from.protocol) {
    case protocol_icmp: s.l4_delta[direction] = port(from.src_port, to.src_port); break;
    case protocol_icmpv6: s.l4_delta[direction] = checksum_delta_join(addresses, port(from.src_port, to.src_port)); break;
    default: s.l4_delta[direction] = checksum_delta_join(addresses, checksum_delta_join(port(from.src_port, to.src_port), port(from.dst_port, to.dst_port)));
  }
}

}  // namespace

uint8_t offload_policy(const snapshot& snap, const session& s, const sl_rule& rule) {
  bool readable = nat_protocol_class(s.key0.protocol) >= 0 && s.key0.kind == 0;
  for (uint8_t slot : s.interface_slot) if (const sl_interface* n = snap.interface_of_slot(slot); !n || n->kind != SL_INTERFACE_PORT) readable = false;
  return readable && !(rule.flags & SL_RULE_NO_OFFLOAD) ? SL_OFFLOAD_NOT_YET : SL_OFFLOAD_NEVER;
}

void pipeline::create_session(packet& p, decision& d) {
  const fragment_verdict dropped{fragment_verdict::drop, 0, 0, 0, {}};
  const sl_rule& rule = snap_->rules[d.rule];
  rule_counter& counter = *snap_->rule_counters[d.rule];
  uint32_t index = session_none;
  bool source_counted = false, inserted = false;
  sl_drop_reason reason = SL_DROP_NONE;
  auto result = session_table::insert_result::no_room;

  if (rule.sessions_max && counter.sessions.load(std::memory_order_relaxed) >= rule.sessions_max) reason = SL_DROP_SESSION_LIMIT;
  if (reason == SL_DROP_NONE && snap_->settings.sessions_per_source_max) {
    source_counted = shared_.sources.take(p.key.src, snap_->settings.sessions_per_source_max);
    if (!source_counted) reason = SL_DROP_SESSION_LIMIT;
  }
  if (reason == SL_DROP_NONE) {
    const bool crowded = shared_.sessions.nearly_full();
    if (crowded) [[unlikely]] evict_session();
    index = shared_.sessions.allocate(worker_);
    if (index == session_none) {
      if (!crowded) evict_session();  // other workers have what is free: for the packets after this one
      reason = SL_DROP_SESSION_TABLE_FULL;
    }
  }
  if (reason == SL_DROP_NONE) {
    session& s = shared_.sessions.at(index);
    s.key0 = p.key;
    s.mapping = mapping_none;
    uint8_t flags = 0;
    if (d.destination_rule) { flags |= session_destination_nat; s.nat_destination_id = d.destination_rule->id; }
    if (d.inbound_mapping != mapping_none) { flags |= session_destination_nat; s.nat_destination_id = shared_.mappings.rule_of(d.inbound_mapping); }
    if (source_counted) flags |= session_source_counted;
    if (rule.log & SL_LOG_END) flags |= session_log_end;
    if (snap_->interfaces[d.from].mss_clamp_bytes || snap_->interfaces[d.to].mss_clamp_bytes) flags |= session_mss_clamp;
    s.flags.store(flags, std::memory_order_relaxed);
    s.state.store(SL_STATE_NEW, std::memory_order_relaxed);
    s.generation.store(static_cast<uint32_t>(snap_->generation), std::memory_order_relaxed);
    s.rule_id = rule.id;
    s.start_ticks = now_ticks_;
    s.last_seen_ticks.store(now_ticks_, std::memory_order_relaxed);
    s.interface_slot[0] = static_cast<uint8_t>(p.interface_slot);
    s.interface_slot[1] = snap_->interface_slots[d.to];
    s.offload.store(offload_policy(*snap_, s, rule), std::memory_order_relaxed);
    if (translate_source(p, d, s, index, &reason)) {
      if (s.flags.load(std::memory_order_relaxed) & (session_source_nat | session_destination_nat)) {
        set_deltas(s, 0, p.ip_version == 4);
        set_deltas(s, 1, p.ip_version == 4);
      }
      s.adjacency[0].store(route_to(d.next_hop, s.interface_slot[1], d.peer_slot), std::memory_order_relaxed);
      s.adjacency[1].store(route_back(p.key), std::memory_order_relaxed);
      if (p.key.protocol == protocol_tcp) tcp_open(s, read_tcp_segment(p));
      // An inbound mapping lives as long as the session that uses it; a hairpinned session has one of its own besides.
      if (d.inbound_mapping != mapping_none) {
        (s.mapping == mapping_none ? s.mapping : s.nat_destination_id) = std::exchange(d.inbound_mapping, mapping_none);
        s.flags.fetch_or(session_inbound_mapping, std::memory_order_relaxed);
      }
      result = shared_.sessions.insert(index);
      inserted = result == session_table::insert_result::inserted;
      if (!inserted) reason = result == session_table::insert_result::no_room ? SL_DROP_SESSION_TABLE_FULL : SL_DROP_NAT_CONFLICT;
    }
    if (!inserted) {
      d.translated = reversed(s.key1);  // with the source's translation, if it came to that: for the record
      release_mappings(s, index, {});
      s.mapping = mapping_none;
      shared_.sessions.discard(worker_, index);
    }
  }
  release_inbound(d);
  if (!inserted) {
    if (source_counted) shared_.sources.give_back(p.key.src);
    if (result == session_table::insert_result::key0_taken) {
      // Another worker created the same session a moment ago.
      session_ref r;
      if (shared_.sessions.find(p.key, p.hash, &r)) {
        packet copy = p;
        fragment_verdict verdict{fragment_verdict::session, static_cast<uint8_t>(r.direction), r.index, r.s->incarnation, p.key};
        forward(p, r);
        decided_first_fragment(copy, verdict);
        return;
      }
    }
    packet copy = p;
    if (reason == SL_DROP_NAT_PORTS_EXHAUSTED || reason == SL_DROP_SESSION_TABLE_FULL) send_error(p, icmp_error::prohibited);  // RFC 5508 R8
    drop(p, reason, cause_of(d));
    decided_first_fragment(copy, dropped);
    return;
  }
  session& s = shared_.sessions.at(index);
  shared_.sessions.deadline(index).store(now_ticks_ + ticks_of_s(idle_s(s, snap_->settings)) + 1, std::memory_order_relaxed);
  counters_.add(SL_COUNTER_SESSIONS_CREATED);
  counter.hits.fetch_add(1, std::memory_order_relaxed);
  counter.sessions.fetch_add(1, std::memory_order_relaxed);
  if (rule.log & SL_LOG_START) record_flow(s, index, SL_EVENT_START, SL_END_NONE);
  packet copy = p;
  forward(p, {&s, index, 0});
  decided_first_fragment(copy, {fragment_verdict::session, 0, index, s.incarnation, copy.key});
}

}  // namespace sluice
