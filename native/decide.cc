// SPDX-License-Identifier: Apache-2.0
// decide.cc: what policy says about a first packet, and once more about its session after a commit; simulate() asks the same. No side effects,
// but a reference to a mapping that the caller gives back. In order:
//   anti-spoofing → destination NAT → local? → route → rules → source NAT
#include "pipeline.h"

namespace sluice {
namespace {

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

}  // namespace

bool pool_holds(const snapshot& snap, const sl_nat_rule& rule, const sl_address& address) {
  for (uint32_t i = 0; i < rule.pool.count; ++i)
    if (equal(snap.nat_addresses[rule.pool.first + i].address, address)) return true;
  return false;
}

sl_drop_reason judge_source(const snapshot& snap, uint16_t from, const sl_address& source) {
  if (from == index_none) return SL_DROP_UNKNOWN_PORT;
  // RFC 1812 sections 4.2.2.11 and 5.3.7: a directed broadcast is nobody's address. Answers to it would reach everybody.
  if (snap.local.contains(source) || snap.broadcasts.contains(source)) return SL_DROP_MARTIAN_SOURCE;
  return source_plausible(snap, from, source) ? SL_DROP_NONE : SL_DROP_ANTI_SPOOFING;
}

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

// The next hop of the answers to a key's packets; adjacency_none: there is no way now.
uint32_t pipeline::route_back(const flow_key& key) {
  const sl_nexthop* back = route_lookup(shared_, *snap_, key.src, ecmp_hash(key));
  sl_address next_hop;
  uint32_t peer_slot;
  if (!back || back->kind != SL_NEXTHOP_FORWARD || !resolve_next_hop(shared_, *snap_, *back, key.src, &next_hop, &peer_slot)) return adjacency_none;
  return route_to(next_hop, snap_->interface_slots[back->interface], peer_slot);
}

}  // namespace sluice
