// SPDX-License-Identifier: Apache-2.0
// snapshot.cc: validation and compilation of the flat buffer. Order: sections → indices and spans → classifiers → routes.
#include "policy/snapshot.h"

#include <cstring>
#include <optional>
#include <unordered_set>

namespace sluice {
namespace {

struct reader {
  const uint8_t* buffer;
  size_t bytes;
  std::string* error;

  template <class Entry>
  bool section(const sl_section& s, const char* name, size_t limit, std::vector<Entry>* out) const {
    if (s.count > limit) return fail(name, "has " + std::to_string(s.count) + " entries, at most " + std::to_string(limit) + " are possible");
    if (s.offset % 8 || s.offset > bytes || static_cast<uint64_t>(s.count) * sizeof(Entry) > bytes - s.offset) return fail(name, "reaches outside the buffer");
    out->resize(s.count);
    if (s.count) std::memcpy(static_cast<void*>(out->data()), buffer + s.offset, s.count * sizeof(Entry));
    return true;
  }
  bool fail(const char* name, const std::string& why) const {
    *error = std::string("snapshot section '") + name + "' " + why;
    return false;
  }
};

bool span_ok(const sl_span& s, size_t count) { return s.first <= count && s.count <= count - s.first; }

constexpr uint32_t seconds_max = 365 * 86400;  // of a timer; the engine's ticks last for 36 years, and sums of a few must fit

// What NAT translates to is of the family that it translates.
bool same_family(const sl_prefix& outside, const sl_address& inside) { return (outside.length >= 96 && is_ipv4(outside.address)) == is_ipv4(inside); }

bool validate(const snapshot& s, const reader& r) {
  const sl_settings& t = s.settings;
  for (uint32_t seconds : {t.tcp_syn_s, t.tcp_established_s, t.tcp_transitory_s, t.tcp_time_wait_s, t.tcp_reset_s, t.udp_s, t.udp_new_s, t.icmp_s, t.other_s, t.fragment_s, t.nat_port_reuse_s})
    if (seconds > seconds_max) return r.fail("settings", "has a timer of more than a year");
  for (size_t i = 0; i < s.interfaces.size(); ++i) {
    const sl_interface& n = s.interfaces[i];
    if (n.id == 0) return r.fail("interfaces", "has an entry without an id");
    if (n.kind >= SL_INTERFACE_KIND_COUNT) return r.fail("interfaces", "names an unknown kind");
    if (n.kind != SL_INTERFACE_PORT && (n.ifindex || n.kernel_ifindex || n.vlan_id != SL_VLAN_NONE)) return r.fail("interfaces", "has a tunnel with a netdev or a VLAN");
    if (n.zone >= SL_ZONES_MAX || n.anti_spoofing >= SL_ANTI_SPOOFING_COUNT) return r.fail("interfaces", "names an unknown zone or anti-spoofing mode");
    if (n.vlan_id != SL_VLAN_NONE && (n.vlan_id == 0 || n.vlan_id > 4094)) return r.fail("interfaces", "has a VLAN id outside 1..4094");
    if (n.mtu_bytes && (n.mtu_bytes < 576 || n.mtu_bytes > SL_FRAME_BYTES_MAX)) return r.fail("interfaces", "has an MTU outside 576.." + std::to_string(SL_FRAME_BYTES_MAX));
    for (size_t j = 0; j < i; ++j) if (s.interfaces[j].id == n.id) return r.fail("interfaces", "has two entries with one id");
  }
  for (const auto& a : s.addresses)
    if (a.interface >= s.interfaces.size() || a.prefix_length > 128 || (a.nat_slot != SL_NAT_SLOT_NONE && a.nat_slot >= SL_NAT_SLOTS_MAX)) return r.fail("addresses", "names an interface, prefix length or NAT slot that does not exist");
  for (const auto& p : s.prefixes) if (p.length > 128) return r.fail("prefixes", "has a length over 128");
  for (const auto& v : s.services) if (v.src_lo > v.src_hi || v.dst_lo > v.dst_hi) return r.fail("services", "has a port range upside down");
  for (const auto& rule : s.rules) {
    if (rule.action >= SL_RULE_ACTION_COUNT || rule.id == 0) return r.fail("rules", "has an unknown action or no id");
    if (!span_ok(rule.sources, s.prefixes.size()) || !span_ok(rule.destinations, s.prefixes.size()) || !span_ok(rule.services, s.services.size())) return r.fail("rules", "has a span outside its section");
  }
  for (const auto& n : s.nat_rules) {
    if (n.kind >= SL_NAT_KIND_COUNT || n.filtering >= SL_NAT_FILTERING_COUNT || n.id == 0) return r.fail("nat_rules", "has an unknown kind or filtering, or no id");
    if (!span_ok(n.sources, s.prefixes.size()) || !span_ok(n.destinations, s.prefixes.size()) || !span_ok(n.services, s.services.size()) || !span_ok(n.pool, s.nat_addresses.size())) return r.fail("nat_rules", "has a span outside its section");
    if (n.kind == SL_NAT_SOURCE && n.pool.count == 0) return r.fail("nat_rules", "has a source rule without a pool");
    if (n.kind == SL_NAT_STATIC && (n.destinations.count != 1 || n.to_prefix_length > 128 || s.prefixes[n.destinations.first].length != n.to_prefix_length)) return r.fail("nat_rules", "has a static rule without one outside prefix of the inside's length");
    if (n.kind == SL_NAT_DESTINATION && n.destinations.count == 0) return r.fail("nat_rules", "has a destination rule without outside addresses");
    if (n.kind == SL_NAT_DESTINATION || n.kind == SL_NAT_STATIC)
      for (uint32_t i = 0; i < n.destinations.count; ++i)
        if (!same_family(s.prefixes[n.destinations.first + i], n.to_address)) return r.fail("nat_rules", "translates one address family to the other");
    if (n.interface != index_none && n.interface >= s.interfaces.size()) return r.fail("nat_rules", "names an interface that does not exist");
  }
  for (const auto& a : s.nat_addresses)
    if (a.port_lo == 0 || a.port_lo > a.port_hi || (a.nat_slot != SL_NAT_SLOT_NONE && a.nat_slot >= SL_NAT_SLOTS_MAX)) return r.fail("nat_addresses", "has a port range upside down or an unknown NAT slot");
  for (const auto& h : s.nexthops)
    if (h.kind >= SL_NEXTHOP_KIND_COUNT || (h.kind == SL_NEXTHOP_FORWARD && h.interface >= s.interfaces.size())) return r.fail("nexthops", "names an interface that does not exist");
  for (const auto& t : s.routes)
    if (t.to.length > 128 || t.nexthops.count == 0 || !span_ok(t.nexthops, s.nexthops.size())) return r.fail("routes", "has a route without next hops or with a length over 128");
  std::vector<bool> listens(65536), carried(s.interfaces.size()), owned(s.wireguard_peers.size());
  for (const auto& w : s.wireguards) {
    if (w.interface >= s.interfaces.size() || s.interfaces[w.interface].kind != SL_INTERFACE_WIREGUARD || carried[w.interface]) return r.fail("wireguards", "names an interface that is not WireGuard's, or one twice");
    if (w.listen_port == 0 || listens[w.listen_port]) return r.fail("wireguards", "has two interfaces on one port, or one without a port");
    if (!span_ok(w.peers, s.wireguard_peers.size())) return r.fail("wireguards", "has a span outside its section");
    carried[w.interface] = listens[w.listen_port] = true;
    for (uint32_t i = 0; i < w.peers.count; ++i) {
      if (owned[w.peers.first + i]) return r.fail("wireguards", "has a peer of two interfaces");
      owned[w.peers.first + i] = true;
    }
  }
  for (size_t i = 0; i < s.interfaces.size(); ++i)
    if (s.interfaces[i].kind == SL_INTERFACE_WIREGUARD && !carried[i]) return r.fail("interfaces", "has a WireGuard interface without its entry in wireguards");
  std::unordered_set<uint32_t> peers;
  for (size_t i = 0; i < s.wireguard_peers.size(); ++i) {
    const sl_wireguard_peer& p = s.wireguard_peers[i];
    if (p.id == 0 || !owned[i] || !peers.insert(p.id).second) return r.fail("wireguard_peers", "has an entry without an id, of no interface, or one twice");
    if (!span_ok(p.allowed_ips, s.prefixes.size())) return r.fail("wireguard_peers", "has a span outside its section");
  }
  if (s.settings.default_action >= SL_RULE_ACTION_COUNT || s.settings.default_action == SL_ACTION_ALLOW) return r.fail("settings", "default action must be deny or reject");
  return true;
}

classifier_rule selector(const sl_nat_rule& n) { return {n.from_zones, n.to_zones, n.sources, n.destinations, n.services}; }

// What the classifiers of a snapshot are made from; made again from the snapshot before when it is updated.
struct nat_inputs {
  std::vector<classifier_rule> source, destination, static_in, static_out;
  std::vector<uint32_t> source_rules, destination_rules, static_rules;
  std::vector<sl_prefix> insides;  // of 1:1 rules: the prefixes of static_out

  // 1:1 rules in both directions: inside → outside matches the source, outside → inside the destination.
  explicit nat_inputs(const snapshot& s) {
    for (uint32_t i = 0; i < s.nat_rules.size(); ++i) {
      const sl_nat_rule& n = s.nat_rules[i];
      if (n.kind == SL_NAT_SOURCE || n.kind == SL_NAT_EXEMPT) { source.push_back(selector(n)); source_rules.push_back(i); }
      if (n.kind == SL_NAT_DESTINATION) {
        classifier_rule c = selector(n);
        c.to_zones = ~0ull;
        destination.push_back(c);
        destination_rules.push_back(i);
      }
      if (n.kind == SL_NAT_STATIC) {
        static_in.push_back({~0ull, ~0ull, {}, n.destinations, {}});
        sl_prefix inside{};
        inside.address = n.to_address;
        inside.length = n.to_prefix_length;
        insides.push_back(inside);
        static_out.push_back({n.to_zones ? n.to_zones : ~0ull, ~0ull, {static_cast<uint32_t>(insides.size() - 1), 1}, {}, {}});
        static_out.back().from_zones = ~0ull;
        static_out.back().to_zones = n.from_zones ? n.from_zones : ~0ull;  // towards the zones that see the outside address
        static_in.back().from_zones = n.from_zones ? n.from_zones : ~0ull;
        static_rules.push_back(i);
      }
    }
  }
  classifier_input input(std::vector<classifier_rule> nat_inputs::*list, const snapshot& s) const {
    return {this->*list, list == &nat_inputs::static_out ? insides : s.prefixes, s.services};
  }
};

std::vector<classifier_rule> rule_inputs(const snapshot& s) {
  std::vector<classifier_rule> rules;
  rules.reserve(s.rules.size());
  for (const sl_rule& rule : s.rules) rules.push_back({rule.from_zones, rule.to_zones, rule.sources, rule.destinations, rule.services});
  return rules;
}

// Classifiers that share with `previous` what did not change.
bool compile_classifiers(snapshot& s, const snapshot* previous, std::string* error) {
  auto make = [&](std::unique_ptr<const classifier> snapshot::*which, const classifier_input& now, const auto& before) {
    s.*which = previous ? classifier::update(*(previous->*which), before(), now, error) : classifier::build(now, error);
    return s.*which != nullptr;
  };
  std::vector<classifier_rule> rules = rule_inputs(s), rules_before;
  if (previous) rules_before = rule_inputs(*previous);
  if (!make(&snapshot::rule_classifier, {rules, s.prefixes, s.services}, [&] { return classifier_input{rules_before, previous->prefixes, previous->services}; })) return false;
  nat_inputs now(s);
  std::optional<nat_inputs> old;
  if (previous) old.emplace(*previous);
  auto make_nat = [&](std::unique_ptr<const classifier> snapshot::*which, std::vector<classifier_rule> nat_inputs::*list) {
    return make(which, now.input(list, s), [&] { return old->input(list, *previous); });
  };
  if (!make_nat(&snapshot::source_classifier, &nat_inputs::source) || !make_nat(&snapshot::destination_classifier, &nat_inputs::destination) ||
      !make_nat(&snapshot::static_in_classifier, &nat_inputs::static_in) || !make_nat(&snapshot::static_out_classifier, &nat_inputs::static_out)) return false;
  s.source_rules = std::move(now.source_rules);
  s.destination_rules = std::move(now.destination_rules);
  s.static_rules = std::move(now.static_rules);
  for (const uint32_t i : s.source_rules) if (s.nat_rules[i].kind == SL_NAT_SOURCE) s.filterings.emplace(s.nat_rules[i].id, s.nat_rules[i].filtering);
  return true;
}

void note_local(snapshot& s) {
  for (uint16_t i = 0; i < s.addresses.size(); ++i) {
    const sl_interface_address& a = s.addresses[i];
    s.local.emplace(a.address, i);
    // RFC 1812 section 5.3.5.2: directed broadcasts are not forwarded. /31 and /32 have none (RFC 3021).
    if (!is_ipv4(a.address) || a.prefix_length < 96 || a.prefix_length > 126) continue;
    uint32_t host_mask = static_cast<uint32_t>((1ull << (128 - a.prefix_length)) - 1), value = load32(a.address.bytes + 12);
    sl_address b = a.address;
    store32(b.bytes + 12, value | host_mask);
    s.broadcasts.emplace(b, true);
    store32(b.bytes + 12, value & ~host_mask);
    s.broadcasts.emplace(b, true);
  }
}

void note_tunnels(snapshot& s) {
  if (!s.wireguards.empty()) s.engine_ports.resize(SL_ENGINE_PORTS_WORDS);
  for (const sl_wireguard& w : s.wireguards) s.engine_ports[w.listen_port / 64] |= 1ull << (w.listen_port & 63);
}

}  // namespace

std::unique_ptr<snapshot> compile_snapshot(const uint8_t* buffer, size_t bytes, std::string* error, const snapshot* previous) {
  sl_snapshot_header header;
  if (bytes < sizeof header) { *error = "snapshot is shorter than its header"; return nullptr; }
  std::memcpy(&header, buffer, sizeof header);
  if (header.magic != SL_SNAPSHOT_MAGIC || header.abi_version != SL_ABI_VERSION) {
    *error = "snapshot is of another ABI version (" + std::to_string(header.abi_version) + ", engine has " + std::to_string(SL_ABI_VERSION) + "): control and engine must be of one release";
    return nullptr;
  }
  if (header.bytes != bytes) { *error = "snapshot is cut short or too long"; return nullptr; }
  auto s = std::make_unique<snapshot>();
  s->generation = header.generation;
  s->settings = header.settings;
  reader r{buffer, bytes, error};
  constexpr size_t many = 1u << 22;
  bool read = r.section(header.interfaces, "interfaces", SL_INTERFACES_MAX, &s->interfaces) &&
              r.section(header.addresses, "addresses", SL_LOCAL_ADDRESSES_MAX, &s->addresses) &&
              r.section(header.prefixes, "prefixes", many, &s->prefixes) && r.section(header.services, "services", many, &s->services) &&
              r.section(header.rules, "rules", SL_RULES_MAX, &s->rules) && r.section(header.nat_rules, "nat_rules", SL_RULES_MAX, &s->nat_rules) &&
              r.section(header.nat_addresses, "nat_addresses", 4096, &s->nat_addresses) &&
              r.section(header.nexthops, "nexthops", many, &s->nexthops) && r.section(header.routes, "routes", many, &s->routes) &&
              r.section(header.wireguards, "wireguards", SL_WIREGUARDS_MAX, &s->wireguards) &&
              r.section(header.wireguard_peers, "wireguard_peers", SL_WIREGUARD_PEERS_MAX, &s->wireguard_peers);
  if (!read || !validate(*s, r)) return nullptr;
  if (!compile_classifiers(*s, previous, error)) return nullptr;
  s->route_table = lpm::build(s->routes, error);
  if (!s->route_table) return nullptr;
  note_local(*s);
  note_tunnels(*s);
  return s;
}

}  // namespace sluice
