// SPDX-License-Identifier: Apache-2.0
// slow_path.cc: everything a packet without a session, or a session after a commit, needs. In order:
//   1 first_packet    may it open a session at all?
//   2 decide          anti-spoofing → destination NAT → local? → route → rules → source NAT; no side effects
//   3 create_session  limits → source NAT binding → keys → insert
//   4 revalidate      the same decision for a session that an older snapshot allowed
// ICMP errors about sessions stand in icmp_errors.cc; answers, the host's stack, ends and records in answers.cc.
#include <algorithm>
#include <utility>

#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {
namespace {

constexpr unsigned port_tries_max = 4;  // a mapping of a pool as it was before a commit may have the port

// The bits of `host` behind the prefix, the bits of `network` before it: 1:1 NAT of a prefix.
sl_address join_prefix(const sl_address& network, const sl_address& host, unsigned length) {
  sl_address out = host;
  unsigned whole = length / 8, rest = length % 8;
  std::memcpy(out.bytes, network.bytes, whole);
  if (rest) {
    uint8_t mask = static_cast<uint8_t>(0xff00u >> rest);
    out.bytes[whole] = static_cast<uint8_t>((network.bytes[whole] & mask) | (host.bytes[whole] & ~mask));
  }
  return out;
}

classify_key classifier_key(const flow_key& k, uint8_t icmp_type, uint8_t icmp_code, unsigned from_zone, unsigned to_zone) {
  classify_key c{};
  c.src = k.src;
  c.dst = k.dst;
  c.protocol = k.protocol;
  c.from_zone = static_cast<uint8_t>(from_zone);
  c.to_zone = static_cast<uint8_t>(to_zone);
  if (k.protocol == protocol_icmp || k.protocol == protocol_icmpv6) {
    c.dst_port = static_cast<uint16_t>(icmp_type << 8 | icmp_code);
  } else {
    c.src_port = k.src_port;
    c.dst_port = k.dst_port;
  }
  return c;
}

// The next hop of a flow: among equal-cost ones by the flow's hash, those whose link is down left out.
const sl_nexthop* pick_nexthop(const dataplane& shared, const snapshot& snap, const sl_route& route, uint64_t flow_hash) {
  const sl_nexthop* alive[64];
  unsigned count = 0;
  for (uint32_t i = 0; i < route.nexthops.count && count < 64; ++i) {
    const sl_nexthop& h = snap.nexthops[route.nexthops.first + i];
    if (h.kind != SL_NEXTHOP_FORWARD || shared.interfaces[snap.interface_slots[h.interface]].up.load(std::memory_order_relaxed)) alive[count++] = &h;
  }
  if (count == 0) return &snap.nexthops[route.nexthops.first];
  return alive[flow_hash % count];
}

}  // namespace

const sl_nexthop* route_lookup(const dataplane& shared, const snapshot& snap, const sl_address& to, uint64_t flow_hash) {
  uint32_t index = snap.route_table->lookup(to);
  return index == lpm::no_route ? nullptr : pick_nexthop(shared, snap, snap.routes[index], flow_hash);
}

namespace {

uint64_t ecmp_hash(const flow_key& k) { return hash(k, 0x5bd1e995a5a5a5a5ull) >> 11; }

// Whom a next hop of kind FORWARD sends to, for this destination: a neighbour's address, or a tunnel's peer. False: no peer has it.
bool resolve_next_hop(const dataplane& shared, const snapshot& snap, const sl_nexthop& hop, const sl_address& destination, sl_address* out, uint32_t* peer_slot) {
  *peer_slot = wireguard_peer_none;
  if (!snap.is_tunnel(hop.interface)) [[likely]] {
    *out = is_unspecified(hop.via) ? destination : hop.via;
    return true;
  }
  *peer_slot = snap.wireguard->of_interface(hop.interface)->peer_of(destination);
  const wireguard_peer* peer = shared.wireguard->peer(*peer_slot);
  if (peer) *out = tunnel_next_hop(peer->id);
  return peer;
}

bool source_plausible(const snapshot& snap, uint16_t index, const sl_address& source) {
  const sl_interface& in = snap.interfaces[index];
  if (in.anti_spoofing == SL_ANTI_SPOOFING_OFF) return true;
  uint32_t route = snap.route_table->lookup(source);
  if (route == lpm::no_route) return false;
  const sl_route& r = snap.routes[route];
  for (uint32_t i = 0; i < r.nexthops.count; ++i) {
    const sl_nexthop& h = snap.nexthops[r.nexthops.first + i];
    if (h.kind != SL_NEXTHOP_FORWARD) continue;
    if (in.anti_spoofing == SL_ANTI_SPOOFING_LOOSE || h.interface == index) return true;
  }
  return false;
}

// Destination NAT: 1:1 first, then rules, then bindings that source NAT made (RFC 4787 R8, R9).
void translate_destination(dataplane& shared, const snapshot& snap, const flow_key& key, const classify_key& c, const session* again, decision* d, sl_drop_reason* reason) {
  if (uint32_t i = snap.static_in_classifier->match(c); i != classifier::no_rule) {
    const sl_nat_rule& n = snap.nat_rules[snap.static_rules[i]];
    d->destination_rule = &n;
    d->translated.dst = join_prefix(n.to_address, key.dst, n.to_prefix_length);
    return;
  }
  if (uint32_t i = snap.destination_classifier->match(c); i != classifier::no_rule) {
    const sl_nat_rule& n = snap.nat_rules[snap.destination_rules[i]];
    d->destination_rule = &n;
    d->translated.dst = n.to_address;
    if (n.to_port && (key.protocol == protocol_tcp || key.protocol == protocol_udp)) {
      // A range of ports maps to the range that begins at to_port, port by port.
      uint16_t base = key.dst_port;
      for (uint32_t v = 0; v < n.services.count; ++v) {
        const sl_service& service = snap.services[n.services.first + v];
        if (service.protocol == key.protocol && service.dst_lo <= key.dst_port && key.dst_port <= service.dst_hi) { base = service.dst_lo; break; }
      }
      d->translated.dst_port = static_cast<uint16_t>(n.to_port + (key.dst_port - base));
    }
    return;
  }
  if (nat_protocol_class(key.protocol) < 0) return;
  uint32_t m = shared.mappings.acquire_outside(key.dst, key.dst_port, key.protocol);
  if (m == mapping_none) return;
  d->inbound_mapping = m;
  const mapping& binding = shared.mappings.at(m);
  const uint8_t filtering = binding.filtering.load(std::memory_order_relaxed);
  bool admitted = filtering == SL_FILTERING_ENDPOINT || (filtering == SL_FILTERING_ADDRESS && shared.mappings.knows_peer(m, key.src));
  // What the inside has answered is something that it has sent to this address and port.
  if (again && again->packets[1] && mappings_of(*again).responder == m) admitted = true;
  if (!admitted) { *reason = SL_DROP_NAT_FILTERED; return; }
  d->translated.dst = binding.inside;
  d->translated.dst_port = binding.inside_port;
  if (nat_protocol_class(key.protocol) == 2) d->translated.src_port = binding.inside_port;
}

// The source rule that applies towards a zone and interface.
void choose_source(const snapshot& snap, const classify_key& c, uint16_t to_interface, decision* d) {
  if (uint32_t i = snap.static_out_classifier->match(c); i != classifier::no_rule) {
    const sl_nat_rule& n = snap.nat_rules[snap.static_rules[i]];
    d->source_rule = &n;
    d->static_source = join_prefix(snap.prefixes[n.destinations.first].address, c.src, n.to_prefix_length);
    return;
  }
  uint16_t family = is_ipv4(c.src) ? SL_NAT_RULE_IPV4 : SL_NAT_RULE_IPV6;
  uint32_t first = snap.source_classifier->match(c);
  if (first == classifier::no_rule) return;
  // One rule stands once for each egress interface (its address is the pool): find the one of this interface.
  uint32_t id = snap.nat_rules[snap.source_rules[first]].id;
  for (uint32_t i = first; i < snap.source_rules.size(); ++i) {
    const sl_nat_rule& n = snap.nat_rules[snap.source_rules[i]];
    if (n.id != id) return;
    if (n.interface != index_none && n.interface != to_interface) continue;
    if (n.kind == SL_NAT_EXEMPT || ((n.flags & (SL_NAT_RULE_IPV4 | SL_NAT_RULE_IPV6)) && !(n.flags & family))) return;
    d->source_rule = &n;
    return;
  }
}

bool pool_holds(const snapshot& snap, const sl_nat_rule& rule, const sl_address& address) {
  for (uint32_t i = 0; i < rule.pool.count; ++i)
    if (equal(snap.nat_addresses[rule.pool.first + i].address, address)) return true;
  return false;
}

}  // namespace

sl_drop_reason judge_source(const snapshot& snap, uint16_t from, const sl_address& source) {
  if (from == index_none) return SL_DROP_UNKNOWN_PORT;
  // RFC 1812 sections 4.2.2.11 and 5.3.7: a directed broadcast is nobody's address. Answers to it would reach everybody.
  if (snap.local.contains(source) || snap.broadcasts.contains(source)) return SL_DROP_MARTIAN_SOURCE;
  return source_plausible(snap, from, source) ? SL_DROP_NONE : SL_DROP_ANTI_SPOOFING;
}

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

// ---- 2: the decision ---------------------------------------------------------------------------------------------------

decision pipeline::decide(dataplane& shared, const snapshot& snap, const flow_key& key, uint8_t icmp_type, uint8_t icmp_code, uint16_t from, const session* again) {
  decision d;
  d.translated = key;
  d.from = from;
  d.reason = judge_source(snap, from, key.src);
  if (d.reason != SL_DROP_NONE) return d;
  const sl_interface& in = snap.interfaces[from];
  if (snap.broadcasts.contains(key.dst)) { d.reason = SL_DROP_MARTIAN_DESTINATION; return d; }

  sl_drop_reason filtered = SL_DROP_NONE;
  translate_destination(shared, snap, key, classifier_key(key, icmp_type, icmp_code, in.zone, 0), again, &d, &filtered);
  bool destination_translated = d.destination_rule || (d.inbound_mapping != mapping_none && filtered == SL_DROP_NONE);
  if (!destination_translated) {
    if (auto it = snap.local.find(key.dst); it != snap.local.end()) {
      // An address that is the engine's alone has nobody behind it; one that it shares falls to the host.
      if (snap.addresses[it->second].flags & SL_LOCAL_ENGINE) d.reason = filtered != SL_DROP_NONE ? filtered : SL_DROP_NO_ROUTE;
      else if (filtered != SL_DROP_NONE) d.reason = filtered;
      else d.to_host = true;
      return d;
    }
    if (filtered != SL_DROP_NONE) { d.reason = filtered; return d; }
  } else if (snap.broadcasts.contains(d.translated.dst) || snap.local.contains(d.translated.dst)) {
    d.reason = SL_DROP_MARTIAN_DESTINATION;  // 1:1 NAT of a prefix has outside addresses for these, too
    return d;
  }

  uint64_t flow_hash = ecmp_hash(d.translated);
  const sl_nexthop* hop = route_lookup(shared, snap, d.translated.dst, flow_hash);
  if (!hop) { d.reason = SL_DROP_NO_ROUTE; d.unreachable = true; return d; }
  if (hop->kind == SL_NEXTHOP_UNENCRYPTED) { d.reason = SL_DROP_ENCRYPTION_REQUIRED; d.unreachable = true; return d; }
  if (hop->kind != SL_NEXTHOP_FORWARD) { d.reason = SL_DROP_BLACKHOLE_ROUTE; d.unreachable = hop->kind == SL_NEXTHOP_REJECT; return d; }
  d.to = hop->interface;
  if (!resolve_next_hop(shared, snap, *hop, d.translated.dst, &d.next_hop, &d.peer_slot)) { d.reason = SL_DROP_WIREGUARD_NO_PEER; d.unreachable = true; return d; }
  const sl_interface& out = snap.interfaces[d.to];

  classify_key c = classifier_key(d.translated, icmp_type, icmp_code, in.zone, out.zone);
  d.rule = snap.rule_classifier->match(c);
  d.action = d.rule == classifier::no_rule ? static_cast<uint8_t>(snap.settings.default_action) : snap.rules[d.rule].action;
  if (d.action != SL_ACTION_ALLOW) { d.reason = d.action == SL_ACTION_REJECT ? SL_DROP_POLICY_REJECT : SL_DROP_POLICY_DENY; return d; }

  choose_source(snap, c, d.to, &d);
  if (!d.source_rule && destination_translated && in.zone == out.zone) {
    // Hairpin (RFC 4787 R9): the inside talks to itself by outside addresses; it must come from its outside address too.
    if (const sl_nexthop* outside = route_lookup(shared, snap, key.dst, flow_hash); outside && outside->kind == SL_NEXTHOP_FORWARD) {
      c.to_zone = static_cast<uint8_t>(snap.interfaces[outside->interface].zone);
      // Rules speak of what lies outside; a hairpinned packet's destination is inside, so its outside form is matched.
      c.dst = key.dst;
      choose_source(snap, c, outside->interface, &d);
    }
  }
  return d;
}

// ---- 3: a new session ------------------------------------------------------------------------------------------------------

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

namespace {

// Which sessions the XDP program could forward, if policy lets it: what bpf/offload.h reads.
uint8_t offload_policy(const snapshot& snap, const session& s, const sl_rule& rule) {
  bool readable = nat_protocol_class(s.key0.protocol) >= 0 && s.key0.kind == 0;
  for (uint8_t slot : s.interface_slot) if (const sl_interface* n = snap.interface_of_slot(slot); !n || n->kind != SL_INTERFACE_PORT) readable = false;
  return readable && !(rule.flags & SL_RULE_NO_OFFLOAD) ? SL_OFFLOAD_NOT_YET : SL_OFFLOAD_NEVER;
}

}  // namespace

// The next hop of the answers to a key's packets; adjacency_none: there is no way now.
uint32_t pipeline::route_back(const flow_key& key) {
  const sl_nexthop* back = route_lookup(shared_, *snap_, key.src, ecmp_hash(key));
  sl_address next_hop;
  uint32_t peer_slot;
  if (!back || back->kind != SL_NEXTHOP_FORWARD || !resolve_next_hop(shared_, *snap_, *back, key.src, &next_hop, &peer_slot)) return adjacency_none;
  return route_to(next_hop, snap_->interface_slots[back->interface], peer_slot);
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

// ---- 4: a session after a commit ---------------------------------------------------------------------------------------------

pipeline::revalidation pipeline::revalidate_session(uint32_t index, decision* out) {
  session& s = shared_.sessions.at(index);
  counters_.add(SL_COUNTER_REVALIDATIONS);
  const uint8_t flags = s.flags.load(std::memory_order_relaxed);
  uint8_t icmp_type = s.key0.protocol == protocol_icmp ? (s.key0.kind ? 13 : 8) : s.key0.protocol == protocol_icmpv6 ? 128 : 0;
  uint16_t from = snap_->slot_interfaces[s.interface_slot[0]];
  decision& d = *out;
  d = decide(shared_, *snap_, s.key0, icmp_type, 0, from, &s);
  release_inbound(d);
  const flow_key responder = reversed(s.key1);
  bool allowed = d.reason == SL_DROP_NONE && !d.to_host;
  // Still translated to the same places?
  if (allowed) allowed = equal(d.translated.dst, responder.dst) && d.translated.dst_port == (nat_protocol_class(s.key0.protocol) == 2 ? d.translated.dst_port : responder.dst_port);
  if (allowed) {
    if (!d.source_rule) allowed = !(flags & session_source_nat);
    else if (d.source_rule->kind == SL_NAT_STATIC) allowed = equal(d.static_source, responder.src);
    else allowed = (flags & session_source_nat) && !(flags & session_static_source) && pool_holds(*snap_, *d.source_rule, responder.src);
  }
  // An unreachable route is no verdict of policy: the session waits for the route to come back, its packets do not pass.
  if (!allowed && (d.reason == SL_DROP_NO_ROUTE || d.reason == SL_DROP_WIREGUARD_NO_PEER || d.reason == SL_DROP_ENCRYPTION_REQUIRED)) return revalidation::unroutable;
  if (!allowed) {
    end_session(index, SL_END_POLICY_CHANGED);
    return revalidation::ended;
  }
  follow_mapping(index, d);
  const sl_rule& rule = snap_->rules[d.rule];
  if (rule.id != s.rule_id) {
    if (auto it = snap_->counters_by_id.find(s.rule_id); it != snap_->counters_by_id.end()) it->second->sessions.fetch_sub(1, std::memory_order_relaxed);
    snap_->rule_counters[d.rule]->sessions.fetch_add(1, std::memory_order_relaxed);
    s.rule_id = rule.id;
  }
  s.interface_slot[1] = snap_->interface_slots[d.to];
  s.adjacency[0].store(route_to(d.next_hop, s.interface_slot[1], d.peer_slot), std::memory_order_relaxed);
  // Also when there is none: the way of before may be one that does not encrypt.
  s.adjacency[1].store(route_back(s.key0), std::memory_order_relaxed);
  if (rule.log & SL_LOG_END) s.flags.fetch_or(session_log_end, std::memory_order_relaxed);
  else s.flags.fetch_and(static_cast<uint8_t>(~session_log_end), std::memory_order_relaxed);
  uint8_t offload = s.offload.load(std::memory_order_relaxed), wanted = offload_policy(*snap_, s, rule);
  if ((offload == SL_OFFLOAD_NEVER) != (wanted == SL_OFFLOAD_NEVER)) s.offload.store(wanted, std::memory_order_release);
  s.generation.store(static_cast<uint32_t>(snap_->generation), std::memory_order_release);
  return revalidation::allowed;
}

// What the NAT rule says now holds for the mapping of before: its filtering, and when its own rule is gone, this one's.
void pipeline::follow_mapping(uint32_t index, const decision& d) {
  session& s = shared_.sessions.at(index);
  const uint32_t own = mappings_of(s).originator;
  if (own == mapping_none || !d.source_rule || !shared_.mappings.acquire(own)) return;
  const mapping& m = shared_.mappings.at(own);
  // Until we let it go it is this session's, unless that has ended before.
  auto has_ended = [&s] { return s.flags.load(std::memory_order_seq_cst) & session_ended; };
  if (!has_ended()) {
    const uint32_t rule_id = m.nat_rule_id.load(std::memory_order_relaxed);
    if (rule_id == d.source_rule->id || !snap_->filterings.contains(rule_id)) shared_.mappings.hand_over(own, d.source_rule->id, d.source_rule->filtering);
    if (m.filtering.load(std::memory_order_relaxed) == SL_FILTERING_ADDRESS) {
      shared_.mappings.note_peer(own, index, s.key1.src);
      if (has_ended()) shared_.mappings.forget_peer(own, index, s.key1.src);
    }
  }
  shared_.mappings.release(own, now_ns_ / 1'000'000'000);
}

// The same for a packet of the session; false: it is gone.
bool pipeline::revalidate(packet& p, const session_ref& r) {
  decision d;
  const uint32_t rule_id = r.s->rule_id;
  // The program has left its packets to us: those that wait behind this one go first, and then it is handed over again.
  if (r.s->offload.load(std::memory_order_relaxed) == SL_OFFLOAD_ON && !shared_.is_forwarded_by_program(r.s->generation.load(std::memory_order_relaxed), now_ticks_))
    r.s->offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_release);
  switch (revalidate_session(r.index, &d)) {
    case revalidation::allowed: return true;
    case revalidation::unroutable: refuse(p, d); return false;
    case revalidation::ended: drop(p, SL_DROP_POLICY_CHANGED, {rule_id, r.s, r.direction, nullptr}); return false;
  }
  return false;
}


// An ICMP request that came in on the answers' side of a session: would it open one of its own?
bool pipeline::request_allowed(packet& p) {
  decision d = decide(shared_, *snap_, p.key, p.icmp_type, p.icmp_code, snap_->slot_interfaces[p.interface_slot]);
  const bool allowed = d.reason == SL_DROP_NONE && !d.to_host;
  if (d.to_host) drop(p, SL_DROP_ICMP_NO_SESSION);
  else if (!allowed) refuse(p, d);
  release_inbound(d);
  return allowed;
}

}  // namespace sluice
