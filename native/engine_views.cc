// SPDX-License-Identifier: Apache-2.0
// engine_views.cc: what the engine tells (counters, records, sessions, simulation, hits, neighbours), and its offline mode,
// in which tests, benches and `sluice simulate --config` drive it from memory. Same thread as engine.cc.
#include <cstring>

#include "engine.h"

namespace sluice {

// ---- listings ----------------------------------------------------------------------------------------------------------------

std::vector<uint64_t> engine::counters() {
  std::vector<uint64_t> out;
  auto sum = [&](auto&& of) { uint64_t total = 0; for (auto& w : workers_) total += of(*w); return total; };
  for (unsigned i = 0; i < SL_COUNTER_COUNT; ++i) out.push_back(sum([&](worker& w) { return w.path().counters().counter[i].load(std::memory_order_relaxed); }));
  out[SL_COUNTER_WIREGUARD_EVENTS_LOST] += shared_->wireguard->events_lost();
  for (unsigned i = 0; i < SL_DROP_REASON_COUNT; ++i) out.push_back(sum([&](worker& w) { return w.path().counters().drop[i].load(std::memory_order_relaxed); }));
  const snapshot* snap = shared_->current.load();
  out.push_back(shared_->sessions.live());
  out.push_back(options_.sessions_max);
  out.push_back(sum([&](worker& w) { return static_cast<uint64_t>(options_.offline ? w.pool().count() : w.frames_free()); }));
  out.push_back(sum([](worker& w) { return static_cast<uint64_t>(w.frames_total()); }));
  out.push_back(shared_->mappings.live());
  out.push_back(shared_->fragments.live());
  // Before the first snapshot: what inherited sessions were last allowed by; a snapshot of that number would be taken for the same.
  out.push_back(snap ? snap->generation : shared_->memory->header->generations[0]);
  out.push_back(workers_.size());
  out.push_back(sum([](worker& w) { return static_cast<uint64_t>(w.held()); }));
  if (options_.offline) count_sessions(UINT32_MAX);
  for (unsigned state = 0; state < SL_SESSION_STATE_COUNT; ++state) {
    uint64_t total = 0;
    for (unsigned protocol = 0; protocol < SL_SESSION_PROTOCOL_COUNT; ++protocol) total += census_.published[state * SL_SESSION_PROTOCOL_COUNT + protocol].load(std::memory_order_relaxed);
    out.push_back(total);
  }
  size_t steer_at = out.size();
  out.resize(steer_at + SL_PORTS_MAX * SL_STEER_KEYS);
  if (steering_) for (unsigned slot = 0; slot < SL_PORTS_MAX; ++slot) if (ports_[slot].in_use) steering_->read_counters(slot, &out[steer_at + slot * SL_STEER_KEYS]);
  for (const auto& count : census_.published) out.push_back(count.load(std::memory_order_relaxed));
  for (unsigned i = 0; i < SL_LATENCY_BUCKETS; ++i) out.push_back(sum([&](worker& w) { return w.path().counters().latency[i].load(std::memory_order_relaxed); }));
  out.push_back(sum([](worker& w) { return w.path().counters().latency_ns.load(std::memory_order_relaxed); }));
  return out;
}

void engine::records(uint8_t* into, size_t bytes, uint32_t* flows, uint32_t* drops) {
  *flows = *drops = 0;
  for (auto& w : workers_) {
    uint32_t room = static_cast<uint32_t>(bytes / sizeof(sl_flow_record)), n = w->path().flows().drain(reinterpret_cast<sl_flow_record*>(into), room);
    *flows += n;
    into += n * sizeof(sl_flow_record);
    bytes -= n * sizeof(sl_flow_record);
  }
  for (auto& w : workers_) {
    uint32_t room = static_cast<uint32_t>(bytes / sizeof(sl_drop_record)), n = w->path().drops().drain(reinterpret_cast<sl_drop_record*>(into), room);
    *drops += n;
    into += n * sizeof(sl_drop_record);
    bytes -= n * sizeof(sl_drop_record);
  }
}

bool engine::set_capture(unsigned slot, const sl_capture_filter* filter, std::string* error) {
  if (slot >= SL_CAPTURES_MAX) { *error = "captures are numbered from 0 to " + std::to_string(SL_CAPTURES_MAX - 1); return false; }
  if (filter && (filter->source.length > 128 || filter->destination.length > 128)) { *error = "a prefix has at most 128 bits"; return false; }
  auto next = std::make_shared<capture_set>(captures_ ? *captures_ : capture_set{});
  next->active[slot] = filter != nullptr;
  next->filters[slot] = filter ? *filter : sl_capture_filter{};
  if (filter) for (auto& w : workers_) w->run_on([&] { w->path().captured().allocate(); });
  const bool any = next->any();
  std::lock_guard guard(mutex_);
  std::shared_ptr<const capture_set> old = std::move(captures_);
  captures_ = any ? next : nullptr;
  shared_->captures.store(captures_.get(), std::memory_order_release);
  if (old) retired_.push_back({std::move(old), shared_->epoch.advance()});  // after the store: who passes the epoch has seen it
  __atomic_store_n(&shared_->memory->header->captures, static_cast<uint32_t>(any), __ATOMIC_RELEASE);
  return true;
}

size_t engine::captured(uint8_t* into, size_t bytes) {
  size_t used = 0;
  // Another worker is first each time: a busy one must not keep the others from being heard.
  for (size_t i = 0; i < workers_.size(); ++i) {
    capture_ring& ring = workers_[(captured_first_ + i) % workers_.size()]->path().captured();
    if (ring.ready()) used += ring.drain(into + used, bytes - used);
  }
  ++captured_first_;
  return used;
}

uint32_t engine::sessions(uint32_t* cursor, sl_flow_record* into, uint32_t max) {
  uint64_t now = now_ns();
  uint32_t count = 0, at = *cursor, end = shared_->sessions.high_water();
  const snapshot* snap = current_.get();
  for (; at < end && count < max; ++at) {
    if (!shared_->sessions.deadline(at).load(std::memory_order_relaxed)) continue;
    pipeline::fill_record(*shared_, snap, shared_->sessions.at(at), at, now, &into[count++]);
  }
  *cursor = at < end ? at : 0;
  return count;
}

bool engine::kill_session(uint64_t id) {
  bool done = false;
  workers_[0]->run_on([&] { done = workers_[0]->path().kill(id); });
  return done;
}

bool engine::simulate(const sl_simulate_request& q, sl_simulate_result* r, std::string* error) {
  if (!current_) { *error = "no forwarding state is loaded yet"; return false; }
  const snapshot& s = *current_;
  if (q.interface >= s.interfaces.size()) { *error = "unknown ingress interface"; return false; }
  flow_key k{};
  k.src = q.src;
  k.dst = q.dst;
  k.src_port = q.src_port;
  k.dst_port = q.dst_port;
  k.protocol = q.protocol;
  uint8_t type = 0, code = 0;
  if (q.protocol == protocol_icmp || q.protocol == protocol_icmpv6) {
    type = static_cast<uint8_t>(q.dst_port >> 8);
    code = static_cast<uint8_t>(q.dst_port);
    k.dst_port = k.src_port;
  }
  *r = {};
  if (is_ipv4(k.src) != is_ipv4(k.dst)) { *error = "source and destination are of different address families"; return false; }
  r->from_zone = s.interfaces[q.interface].zone;
  r->to_interface = index_none;
  if (is_martian_source(k.src) || is_martian_destination(k.dst)) {
    r->reason = is_martian_source(k.src) ? SL_DROP_MARTIAN_SOURCE : SL_DROP_MARTIAN_DESTINATION;
    return true;
  }
  decision d = pipeline::decide(*shared_, s, k, type, code, q.interface);
  if (d.inbound_mapping != mapping_none) shared_->mappings.release(d.inbound_mapping, now_ns() / 1'000'000'000);
  r->verdict = d.reason == SL_DROP_NONE ? static_cast<uint8_t>(SL_ACTION_ALLOW) : d.reason == SL_DROP_POLICY_REJECT ? static_cast<uint8_t>(SL_ACTION_REJECT) : static_cast<uint8_t>(SL_ACTION_DENY);
  r->reason = static_cast<uint8_t>(d.reason);
  r->host = d.to_host;
  r->to_interface = d.to;
  if (d.to != index_none) r->to_zone = s.interfaces[d.to].zone;
  if (d.rule != classifier::no_rule) r->rule_id = s.rules[d.rule].id;
  r->nat_src = k.src;
  r->nat_dst = d.translated.dst;
  r->nat_src_port_lo = r->nat_src_port_hi = k.src_port;
  r->nat_dst_port = d.translated.dst_port;
  if (d.to == index_none || !s.is_tunnel(d.to)) r->next_hop = d.next_hop;
  else if (const wireguard_peer* peer = shared_->wireguard->peer(d.peer_slot)) r->next_hop = peer->endpoint.load().address;
  if (d.destination_rule) r->nat_destination_id = d.destination_rule->id;
  if (!d.source_rule) return true;
  r->nat_source_id = d.source_rule->id;
  if (d.source_rule->kind == SL_NAT_STATIC) { r->nat_src = d.static_source; return true; }
  for (uint32_t i = 0; i < d.source_rule->pool.count; ++i) {
    const sl_nat_address& a = s.nat_addresses[d.source_rule->pool.first + i];
    if (is_ipv4(a.address) != is_ipv4(k.src)) continue;
    r->nat_src = a.address;
    r->nat_src_port_lo = a.port_lo;
    r->nat_src_port_hi = a.port_hi;
    break;
  }
  return true;
}

std::vector<sl_rule_hits> engine::rule_hits() {
  std::lock_guard guard(mutex_);
  std::vector<sl_rule_hits> out;
  if (current_) for (const sl_rule& rule : current_->rules) out.push_back({rule.id, 0, current_->counters_by_id.at(rule.id)->hits.load()});
  return out;
}

std::vector<sl_neighbour_record> engine::neighbours() {
  std::vector<sl_neighbour_record> out;
  shared_->adjacencies.each([&](adjacency& a) {
    if (shared_->interfaces[a.interface_slot].port_slot.load() == port_slot_tunnel) return;  // peers: wireguard_peers()
    sl_neighbour_record r{};
    uint64_t mac = a.mac.load();
    r.address = a.address;
    r.interface = shared_->interfaces[a.interface_slot].id.load();
    std::memcpy(r.mac, &mac, 6);
    r.resolved = (mac & adjacency::resolved_bit) != 0;
    r.waiting = a.waiting.load();
    out.push_back(r);
  });
  return out;
}

// A pool stands in the list of each rule that uses it, and here once.
std::vector<sl_nat_pool_record> engine::nat_pools() {
  std::vector<sl_nat_pool_record> out;
  std::set<const nat_pool*> seen;
  if (!current_) return out;
  for (const auto& pool : current_->pools) {
    if (!seen.insert(pool.get()).second) continue;
    sl_nat_pool_record r{};
    r.address = pool->address.address;
    for (int c = 0; c < SL_NAT_PROTOCOLS; ++c) {
      const port_space& space = pool->space(c);
      r.used[c] = space.in_use();
      r.resting[c] = space.quarantined();
      r.free[c] = space.available();
      r.total[c] = space.hi() - space.lo() + 1u - (space.lo() <= SL_NAT_PORT_RESERVED && SL_NAT_PORT_RESERVED <= space.hi());
    }
    out.push_back(r);
  }
  return out;
}

std::vector<sl_ring_record> engine::rings() {
  std::vector<sl_ring_record> out;
  for (auto& w : workers_) w->run_on([&] { w->list_rings(&out); });
  return out;
}

sl_interface_record engine::interface_totals(unsigned slot) const {
  sl_interface_record r{};
  for (const auto& w : workers_) {
    const interface_counters& c = w->path().counters().interface[slot];
    r.rx_packets += c.rx_packets.load(std::memory_order_relaxed);
    r.rx_bytes += c.rx_bytes.load(std::memory_order_relaxed);
    r.tx_packets += c.tx_packets.load(std::memory_order_relaxed);
    r.tx_bytes += c.tx_bytes.load(std::memory_order_relaxed);
  }
  return r;
}

std::vector<sl_interface_record> engine::interfaces() {
  std::vector<sl_interface_record> out;
  for (size_t i = 0; current_ && i < current_->interfaces.size(); ++i) {
    const unsigned slot = current_->interface_slots[i];
    sl_interface_record r = interface_totals(slot);
    const sl_interface_record& base = interface_bases_[slot];
    out.push_back({current_->interfaces[i].id, 0, r.rx_packets - base.rx_packets, r.rx_bytes - base.rx_bytes, r.tx_packets - base.tx_packets, r.tx_bytes - base.tx_bytes});
  }
  return out;
}

// ---- WireGuard -------------------------------------------------------------------------------------------------------------------

// A peer can be reached now, perhaps: workers look at what they hold.
void engine::peer_changed() {
  shared_->adjacencies.touch();
  for (auto& w : workers_) w->wake();
}

uint32_t engine::wireguard_index() { return shared_->wireguard->index(now_ns()); }

bool engine::wireguard_install(sl_wireguard_keypair* keypair, std::string* error) {
  if (!shared_->wireguard->install(keypair, now_ns(), error)) return false;
  peer_changed();
  return true;
}

bool engine::wireguard_forget(uint32_t peer_id) { return shared_->wireguard->forget(peer_id); }

bool engine::wireguard_endpoint(uint32_t peer_id, const sl_wireguard_endpoint& endpoint) {
  if (!shared_->wireguard->set_endpoint(peer_id, endpoint)) return false;
  peer_changed();
  return true;
}

// By worker 0: it has a socket on each port.
bool engine::wireguard_send(uint32_t interface_id, uint32_t peer_id, std::span<const uint8_t> message, const sl_wireguard_endpoint* endpoint) {
  bool sent = false;
  const uint32_t slot = shared_->wireguard->slot_of(peer_id);
  workers_[0]->run_on([&] { sent = workers_[0]->path().send_message(interface_id, slot, message, endpoint, now_ns()); });
  return sent;
}

bool engine::wireguard_gate(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys, std::string* error) { return shared_->wireguard->set_gate(interface_id, keys, error); }
size_t engine::wireguard_events(uint8_t* into, size_t bytes) { return shared_->wireguard->events(into, bytes); }
std::vector<sl_wireguard_peer_record> engine::wireguard_peers() { return shared_->wireguard->records(); }

// ---- offline mode ----------------------------------------------------------------------------------------------------------------

bool engine::inject(uint16_t interface, const uint8_t* bytes, size_t length, uint64_t now_ns, injected* out, std::string* error) {
  if (!options_.offline) { *error = "inject is for offline mode"; return false; }
  if (!current_ || interface >= current_->interfaces.size()) { *error = "unknown interface, or no snapshot applied"; return false; }
  if (length > umem_frame_bytes - umem_headroom_bytes) { *error = "frame is larger than a packet buffer"; return false; }
  worker& w = *workers_[0];
  uint64_t address;
  if (!w.pool().get(&address)) { *error = "no free packet buffer"; return false; }
  address += umem_headroom_bytes;
  if (length) std::memcpy(w.area().at(address), bytes, length);
  uint64_t before[SL_DROP_REASON_COUNT];
  begin_injected(now_ns, before);
  rx_frame frame{address, w.area().at(address), static_cast<uint32_t>(length)};
  unsigned port_slot = shared_->interfaces[current_->interface_slots[interface]].port_slot.load();
  if (port_slot >= SL_PORTS_MAX) { *error = "the interface has no port"; w.pool().put(address); return false; }
  w.path().process(&frame, 1, port_slot, true, now_ns);
  w.path().offload_waiting();
  end_injected(before, out);
  return true;
}

void engine::inject_from_host(const uint8_t* packet, size_t bytes, uint64_t now_ns, injected* out) {
  uint64_t before[SL_DROP_REASON_COUNT];
  begin_injected(now_ns, before);
  workers_[0]->path().from_host(packet, bytes, now_ns);
  end_injected(before, out);
}

void engine::begin_injected(uint64_t now_ns, uint64_t before[SL_DROP_REASON_COUNT]) {
  offline_now_ns_ = now_ns;
  shared_->epoch.quiescent(0);
  for (unsigned i = 0; i < SL_DROP_REASON_COUNT; ++i) before[i] = workers_[0]->path().counters().drop[i].load();
}

void engine::end_injected(const uint64_t before[SL_DROP_REASON_COUNT], injected* out) {
  out->reason = SL_DROP_NONE;
  for (unsigned i = 1; i < SL_DROP_REASON_COUNT; ++i) if (workers_[0]->path().counters().drop[i].load() != before[i]) out->reason = static_cast<sl_drop_reason>(i);
  collect(out);
  out->verdict = out->reason != SL_DROP_NONE ? "drop" : !out->host.empty() ? "host" : !out->frames.empty() ? "forward" : "hold";
}

void engine::advance(uint64_t now_ns, injected* out) {
  offline_now_ns_ = now_ns;
  shared_->epoch.quiescent(0);
  worker& w = *workers_[0];
  // A sweep looks at a bounded part of the table; here the whole of it is due.
  for (uint32_t swept = 0; swept <= shared_->sessions.high_water(); swept += 65536) w.path().housekeeping(now_ns);
  shared_->epoch.quiescent(0);
  w.path().housekeeping(now_ns);
  free_retired(false);
  collect(out);
  out->reason = SL_DROP_NONE;
  out->verdict = "advance";
}

void engine::collect(injected* out) {
  worker& w = *workers_[0];
  for (const tx_item& item : w.path().output()) {
    const uint8_t* data = w.area().at(item.address);
    uint16_t interface = index_none;
    if (item.port_slot < SL_PORTS_MAX) {
      uint16_t vlan_id = item.length >= 18 && load16(data + 12) == 0x8100 ? load16(data + 14) & 0xfff : SL_VLAN_NONE;
      uint16_t slot = current_->ports[item.port_slot].find(vlan_id);
      if (slot != index_none) interface = current_->slot_interfaces[slot];
    }
    out->frames.push_back({interface, std::vector<uint8_t>(data, data + item.length)});
    w.pool().put(item.address);
  }
  w.path().output().clear();
  out->host = std::move(offline_host_);
  offline_host_.clear();
}

void engine::set_neighbour(uint16_t interface, const sl_address& address, const uint8_t* mac) {
  if (!current_ || interface >= current_->interfaces.size()) return;
  bool created;
  unsigned slot = current_->interface_slots[interface];
  shared_->adjacencies.find_or_create(slot, address, ticks_of_ns(offline_now_ns_), &created);
  shared_->adjacencies.update(shared_->interfaces, shared_->interfaces[slot].kernel_ifindex.load(), address, mac, mac != nullptr, mac == nullptr);
}

}  // namespace sluice
