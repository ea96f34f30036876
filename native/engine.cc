// SPDX-License-Identifier: Apache-2.0
// engine.cc: see engine.h. Order: open and close → ports → apply → clock and netlink. Listings and offline mode stand in
// engine_views.cc.
#include "engine.h"

#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

namespace sluice {
namespace {

constexpr uint32_t offline_frames = 1024;
constexpr uint32_t neighbour_refresh_ticks = 112;  // next hops used in the last 30 s are kept fresh
constexpr unsigned warn_interval_s = 10;
constexpr uint32_t tunnel_mtu_bytes = 1420;  // 1,500 without IPv6, UDP and WireGuard's 32 bytes
constexpr uint32_t census_budget = 1u << 20;  // sessions that the clock thread looks at a second: some 30 ms
constexpr uint32_t census_portions = 32;      // it takes them so often a second: nobody on the same processor waits longer than 1 ms for it

int64_t wall_offset_now() {
  timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  return static_cast<int64_t>(wall.tv_sec) * 1'000'000'000ll + wall.tv_nsec - static_cast<int64_t>(monotonic_ns());
}

const char* const drop_names[] = {
#define SL_X_TEXT(name, text, help) text,
    SL_DROP_REASONS(SL_X_TEXT)
#undef SL_X_TEXT
};

}  // namespace

// ---- open, close ---------------------------------------------------------------------------------------------------

engine::~engine() { close(); }

bool engine::open(const engine_options& options, std::function<void(const engine_event&)> on_event, std::string* error) {
  if (shared_) { *error = "the engine is open already"; return false; }
  if (options.workers < 1 || options.workers > workers_max) { *error = "engine.workers must be between 1 and " + std::to_string(workers_max); return false; }
  options_ = options;
  on_event_ = std::move(on_event);
  std::unique_ptr<flow_memory> memory;
  if (options_.offline && options_.bpf_object.empty()) memory = flow_memory::anonymous(options_.sessions_max, error);
  else if (open_steering(error)) memory = flow_memory::of_maps(options_.sessions_max, [this](const char* name, size_t bytes, std::string* e) { return steering_->map_memory(name, bytes, e); }, error);
  bool ok = memory != nullptr;
  if (ok) {
    shared_ = std::make_unique<dataplane>(std::move(memory), options_.workers);
    shared_->offload = options_.offload && steering_;
    shared_->wall_offset_ns = options_.offline ? 0 : wall_offset_now();
    shared_->wireguard = wireguard_table::open(options_.workers, &shared_->epoch, error);
    ok = shared_->wireguard != nullptr;
    if (ok) shared_->wireguard->on_event = [this] { emit_event("wireguard"); };
    inheriting_ = shared_->memory->inherited;
    shared_->memory->header->captures = 0;  // one that an engine before us ran ended with it
  }
  for (unsigned i = 0; ok && i < options_.workers; ++i) {
    auto w = worker::create(*shared_, i, options_.offline ? offline_frames : options_.frames_per_worker, error);
    if (w) workers_.push_back(std::move(w)); else ok = false;
  }
  if (ok && options_.offline) {
    offline_port_words_ = std::vector<std::atomic<uint64_t>>(SL_NAT_PORT_WORDS);
    shared_->nat_port_words = offline_port_words_.data();
    shared_->to_host = [this](const uint8_t* p, unsigned n) { offline_host_.emplace_back(p, p + n); return true; };
  } else if (ok) {
    ok = start_kernel_side(error);
  }
  if (!ok) close();
  return ok;
}

bool engine::open_steering(std::string* error) {
  rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  steering_ = steering::open(options_.bpf_object, options_.pin_directory, options_.sessions_max, error);
  if (!steering_) return false;
  if (!steering_->given_up().empty()) emit_event("log", "warn", "sessions of the engine before are given up: " + steering_->given_up());
  return true;
}

bool engine::start_kernel_side(std::string* error) {
  features_ = netdev_features::open();
  if (!features_ && shared_->offload) emit_event("log", "warn", "this kernel does not say which devices take redirected frames (Linux 6.3 does): no session is offloaded");
  shared_->nat_port_words = reinterpret_cast<std::atomic<uint64_t>*>(steering_->nat_port_words());
  std::string warning;
  host_device_ = host_device::open(options_.host_device, error, &warning);
  if (!host_device_) return false;
  if (!warning.empty()) emit_event("log", "warn", warning);
  shared_->to_host = [this](const uint8_t* p, unsigned n) { return host_device_->write(p, n); };
  shared_->from_host = [this](uint8_t* p, size_t n) { return host_device_->read(p, n); };
  shared_->from_host_fd = host_device_->fd();
  netlink_callbacks callbacks;
  callbacks.on_link = [this](const link_event& e) { on_link(e); };
  callbacks.on_neighbour = [this](const neighbour_event& e) {
    shared_->adjacencies.update(shared_->interfaces, e.ifindex, e.address, e.mac, e.usable && !e.removed, e.failed);
  };
  callbacks.on_address = [this](const address_event& e) {
    std::lock_guard guard(mutex_);
    for (unsigned i = 0; i < interface_slots; ++i)
      if (shared_->interfaces[i].id.load() && shared_->interfaces[i].kernel_ifindex.load() == e.ifindex) { emit_event("addresses-changed"); return; }
  };
  callbacks.on_warning = [this](const std::string& text) { emit_event("log", "warn", text); };
  netlink_ = netlink_monitor::start(callbacks, {}, error);
  if (!netlink_) return false;
  shared_->resolve = [this](uint32_t ifindex, const sl_address& address) { return netlink_->resolve(ifindex, address); };
  for (auto& w : workers_) w->start();
  clock_stop_ = false;
  clock_ = std::thread([this] { routine_clock(); });
  pthread_setname_np(clock_.native_handle(), "sl-clock");
  return true;
}

void engine::close() {
  if (clock_.joinable()) {
    { std::lock_guard guard(clock_mutex_); clock_stop_ = true; }
    clock_wake_.notify_all();
    clock_.join();
  }
  for (auto& w : workers_) w->stop();
  netlink_.reset();
  for (unsigned slot = 0; slot < SL_PORTS_MAX; ++slot) {
    if (!ports_[slot].in_use || !steering_) continue;
    for (auto& w : workers_) w->remove_sockets(slot);
    ports_[slot] = {};
  }
  workers_.clear();
  if (shared_) { shared_->current = nullptr; shared_->captures = nullptr; shared_->memory->header->captures = 0; }
  retired_.clear();
  captures_.reset();
  current_.reset();
  census_.at = 0;
  std::fill(std::begin(census_.counting), std::end(census_.counting), 0);
  std::fill(std::begin(interface_bases_), std::end(interface_bases_), sl_interface_record{});
  pools_.clear();
  reserved_.clear();
  published_.clear();
  rule_counters_.clear();
  links_.clear();
  host_device_.reset();
  features_.reset();
  shared_.reset();
  steering_.reset();     // pins stay: the program forwards what is offloaded and drops what it would send to us
}

void engine::emit_event(const char* type, const char* level, std::string text) {
  if (on_event_) on_event_({type, level, std::move(text)});
}

// ---- ports -----------------------------------------------------------------------------------------------------------

bool engine::add_port(const port_options& p, bool* generic, std::string* error) {
  if (p.slot >= SL_PORTS_MAX || p.queues < 1 || p.queues > SL_QUEUES_MAX) { *error = "port slot or queue count out of range"; return false; }
  if (ports_[p.slot].in_use) remove_port(p.slot);
  if (!steering_->add_port(p.ifindex, static_cast<uint16_t>(p.slot), error)) return false;
  std::string warning;
  xdp_mode mode = p.generic ? xdp_mode::generic : xdp_mode::native;
  if (!steering_->attach(p.ifindex, p.name, p.slot, &mode, &warning, error)) return false;
  if (!warning.empty()) emit_event("log", "warn", warning);
  *generic = mode == xdp_mode::generic;
  for (unsigned queue = 0; queue < p.queues; ++queue) {
    worker& w = *workers_[queue % std::clamp<size_t>(p.workers, 1, workers_.size())];
    xsk_options o;
    o.ifindex = p.ifindex;
    o.queue = queue;
    o.mode = xsk_mode::automatic;
    o.tx_budget = options_.tx_budget ? options_.tx_budget : 32;
    o.busy_poll_us = options_.busy_poll ? 20 : 0;
    bool added = false;
    w.run_on([&] {
      auto socket = xsk::open(w.area(), o, error);
      if (!socket) return;
      int fd = socket->fd();
      w.add_socket(p.slot, p.partial_checksums, std::move(socket));
      added = steering_->set_xsk(p.slot, queue, fd, error);
    });
    if (!added) {
      ports_[p.slot].in_use = true;
      remove_port(p.slot);
      *error = "port " + p.name + ", queue " + std::to_string(queue) + ": " + *error;
      return false;
    }
  }
  { std::lock_guard guard(mutex_); ports_[p.slot] = {p, true}; }
  return true;
}

void engine::remove_port(unsigned slot) {
  if (slot >= SL_PORTS_MAX || !ports_[slot].in_use) return;
  for (unsigned queue = 0; queue < SL_QUEUES_MAX; ++queue) steering_->clear_xsk(slot, queue);
  for (auto& w : workers_) w->run_on([&] { w->remove_sockets(slot); });
  steering_->detach(slot);
  std::lock_guard guard(mutex_);
  for (unsigned i = 0; i < interface_slots; ++i) if (shared_->interfaces[i].port_slot.load() == slot) shared_->interfaces[i].port_slot = port_slot_none;
  ports_[slot] = {};
}

// ---- apply -----------------------------------------------------------------------------------------------------------

bool engine::apply(const uint8_t* buffer, size_t bytes, uint64_t* generation, uint64_t* microseconds, std::string* error) {
  uint64_t began = monotonic_ns();
  std::shared_ptr<snapshot> next = compile_snapshot(buffer, bytes, error, current_.get());
  if (!next || !bind_tunnels(*next, error)) return false;
  {
    std::lock_guard guard(mutex_);
    bind_interfaces(*next);
    if (next->wireguard) bind_peers();
    bind_pools(*next);
    bind_counters(*next);
    shared_->fragments.configure(next->settings.fragments_max, next->settings.fragment_s);
    if (current_ && current_->settings.sessions_per_source_max == 0 && next->settings.sessions_per_source_max) emit_event("log", "info", "limits.sessionsPerSource counts sessions from now on");
    const bool first_of_inherited = inheriting_;
    if (first_of_inherited) {
      inherit(*next);
      // Before a worker sees the snapshot: one that allocates a port sets its bit, which settling must not take away.
      publish_steering(*next);
      settle_nat_ports();
      inheriting_ = false;
    }
    // Before the new rules: who came in by the old filtering is then judged by the new one.
    if (current_ && current_->filterings != next->filterings) shared_->mappings.refilter([&](uint32_t rule_id) { return next->filtering_of(rule_id); });
    std::shared_ptr<const snapshot> old = std::move(current_);
    current_ = next;
    // The program goes on with sessions of the generation before until the workers have gone through them, or this
    // much time has passed; those that are no longer allowed end meanwhile.
    sl_flow_header& header = *shared_->memory->header;
    header.committed_ticks = ticks_of_ns(monotonic_ns());
    __atomic_store_n(&header.generations[1], header.generations[0], __ATOMIC_RELEASE);
    __atomic_store_n(&header.generations[0], static_cast<uint32_t>(next->generation), __ATOMIC_RELEASE);
    shared_->begin_revalidation(static_cast<uint32_t>(next->generation));
    shared_->current.store(next.get(), std::memory_order_release);
    if (old) retired_.push_back({std::move(old), shared_->epoch.advance()});
    if (!first_of_inherited) publish_steering(*next);
  }
  for (auto& w : workers_) w->wake();
  refresh_offload();
  free_retired(false);
  *generation = next->generation;
  *microseconds = (monotonic_ns() - began) / 1000;
  return true;
}

void engine::bind_interfaces(snapshot& s) {
  s.slot_interfaces.assign(interface_slots, index_none);
  s.interface_slots.resize(s.interfaces.size());
  s.ports.assign(SL_PORTS_MAX, {});
  bool keep[interface_slots] = {};
  auto place = [&](size_t index, unsigned slot) {
    s.interface_slots[index] = static_cast<uint8_t>(slot);
    s.slot_interfaces[slot] = static_cast<uint16_t>(index);
    keep[slot] = true;
  };
  std::vector<size_t> fresh;
  for (size_t i = 0; i < s.interfaces.size(); ++i) {
    unsigned slot = 0;
    while (slot < interface_slots && shared_->interfaces[slot].id.load() != s.interfaces[i].id) ++slot;
    if (slot < interface_slots) place(i, slot); else fresh.push_back(i);
  }
  for (unsigned slot = 0; slot < interface_slots; ++slot) {
    if (keep[slot] || !shared_->interfaces[slot].id.load()) continue;
    shared_->interfaces[slot].id = 0;
    shared_->interfaces[slot].port_slot = port_slot_none;
    shared_->interfaces[slot].up = false;
    shared_->adjacencies.forget_interface(slot);
  }
  unsigned slot = 0;
  for (size_t i : fresh) {
    while (keep[slot]) ++slot;  // there are as many slots as interfaces can be
    place(i, slot);
    interface_bases_[slot] = interface_totals(slot);
  }
  for (size_t i = 0; i < s.interfaces.size(); ++i) {
    const sl_interface& n = s.interfaces[i];
    unsigned at = s.interface_slots[i];
    interface_state& state = shared_->interfaces[at];
    state.ifindex = n.ifindex;
    state.kernel_ifindex = n.kernel_ifindex;
    state.vlan_id = n.vlan_id;
    state.mtu_limit_bytes = n.mtu_bytes;
    state.id = n.id;
    uint8_t port_slot = n.kind == SL_INTERFACE_PORT ? port_slot_none : port_slot_tunnel;
    for (unsigned p = 0; p < SL_PORTS_MAX && n.kind == SL_INTERFACE_PORT; ++p) {
      bool mine = options_.offline ? (p == i % SL_PORTS_MAX && n.vlan_id == SL_VLAN_NONE) || (ports_[p].in_use && ports_[p].options.ifindex == n.ifindex)
                                   : ports_[p].in_use && ports_[p].options.ifindex == n.ifindex;
      if (!mine) continue;
      port_slot = static_cast<uint8_t>(p);
      if (options_.offline) ports_[p] = {{"memory", n.ifindex, p, 1, 1, false, false}, true};
      break;
    }
    state.port_slot = port_slot;
    if (port_slot < SL_PORTS_MAX) {
      if (n.vlan_id == SL_VLAN_NONE) s.ports[port_slot].untagged = static_cast<uint16_t>(at);
      else s.ports[port_slot].tagged.push_back({n.vlan_id, static_cast<uint16_t>(at)});
    }
    refresh_interface(at);
  }
}

// Live link state of a slot; under mutex_.
void engine::refresh_interface(unsigned slot) {
  interface_state& state = shared_->interfaces[slot];
  uint32_t limit = state.mtu_limit_bytes.load();
  if (state.port_slot.load() == port_slot_tunnel) {
    state.up = true;
    state.mtu_bytes = limit ? limit : tunnel_mtu_bytes;
    state.mac = 0;
    state.offload = 0;
    return;
  }
  if (options_.offline) {
    state.up = true;
    state.mtu_bytes = limit ? limit : 1500;
    const uint8_t mac[8] = {2, 0, 0, 0, 0, static_cast<uint8_t>(state.port_slot.load() + 1), 0, 0};  // a port's VLANs share its address
    state.mac = load64_raw(mac);
    state.offload = 1;
    return;
  }
  auto it = links_.find(state.ifindex.load());
  if (it == links_.end()) {
    if (!inheriting_) state.up = false;  // netlink has yet to tell; sessions go on meanwhile as they did
    return;
  }
  state.mtu_bytes = limit && limit < it->second.mtu_bytes ? limit : it->second.mtu_bytes;
  state.mac = it->second.mac;
  state.up = it->second.up;
}

void engine::bind_pools(snapshot& s) {
  for (const sl_nat_address& a : s.nat_addresses) {
    pool_key k{a.address, a.port_lo, a.port_hi, a.nat_slot, s.settings.nat_port_reuse_s};
    std::shared_ptr<nat_pool> pool = pools_[k].lock();
    if (!pool) {
      pool = std::make_shared<nat_pool>(a, options_.workers, k.reuse_s, shared_->nat_port_words);
      pools_[k] = pool;
    }
    s.pools.push_back(std::move(pool));
  }
  std::erase_if(pools_, [](const auto& entry) { return entry.second.expired(); });
}

void engine::bind_counters(snapshot& s) {
  for (const sl_rule& rule : s.rules) {
    auto& counter = rule_counters_[rule.id];
    if (!counter) counter = std::make_shared<rule_counter>();
    s.rule_counters.push_back(counter);
    s.counters_by_id.emplace(rule.id, counter);
  }
  // Counters of rules that are gone stay while sessions that they allowed do: when these end, or become another rule's, they are found
  // here. Otherwise a rule that comes back would have sessions that nobody has.
  std::erase_if(rule_counters_, [&](const auto& entry) { return !s.counters_by_id.contains(entry.first) && entry.second->sessions.load() <= 0; });
  s.counters_by_id.insert(rule_counters_.begin(), rule_counters_.end());
}

// Peers and their allowed IPs, before anything else of the snapshot counts: peers that it does not name end here.
bool engine::bind_tunnels(snapshot& s, std::string* error) {
  auto routes = shared_->wireguard->apply(s, error);
  if (!routes) return false;
  if (!routes->empty()) s.wireguard = std::move(routes);
  return true;
}

// Next hops through tunnels name peers by their ids: where each stands in this engine, this time.
void engine::bind_peers() {
  shared_->adjacencies.each([&](adjacency& a) {
    if (shared_->interfaces[a.interface_slot].port_slot.load() == port_slot_tunnel) a.mac.store(shared_->wireguard->slot_of(tunnel_peer_id(a.address)), std::memory_order_release);
  });
  shared_->adjacencies.touch();
}

void engine::publish_steering(const snapshot& s) {
  // Ports that destination NAT publishes on addresses shared with the host, and those of tunnels: none for source NAT.
  std::set<std::tuple<uint16_t, int, uint16_t>> wanted;
  for (const sl_wireguard& w : s.wireguards)
    for (const sl_interface_address& a : s.addresses)
      if (a.nat_slot != SL_NAT_SLOT_NONE) wanted.emplace(a.nat_slot, nat_protocol_class(protocol_udp), w.listen_port);
  for (uint32_t index : s.destination_rules) {
    const sl_nat_rule& n = s.nat_rules[index];
    for (const sl_interface_address& a : s.addresses) {
      if (a.nat_slot == SL_NAT_SLOT_NONE) continue;
      bool covered = false;
      for (uint32_t i = 0; i < n.destinations.count && !covered; ++i) {
        const sl_prefix& p = s.prefixes[n.destinations.first + i];
        covered = in_prefix(a.address, p.address, p.length);
      }
      if (!covered) continue;
      auto publish = [&](int protocol_class, uint32_t lo, uint32_t hi) { for (uint32_t port = lo; port <= hi; ++port) wanted.emplace(a.nat_slot, protocol_class, static_cast<uint16_t>(port)); };
      for (uint32_t i = 0; i < n.services.count; ++i) {
        const sl_service& v = s.services[n.services.first + i];
        bool any = v.protocol == SL_PROTOCOL_ANY;
        for (uint8_t protocol : {protocol_tcp, protocol_udp}) if (any || v.protocol == protocol) publish(nat_protocol_class(protocol), v.dst_lo, v.dst_hi);
      }
      if (n.services.count == 0) { publish(0, 1, 65535); publish(1, 1, 65535); }
    }
  }
  auto each_pool = [&](uint16_t nat_slot, auto&& visit) { for (const auto& pool : s.pools) if (pool->address.nat_slot == nat_slot) visit(*pool); };
  auto word = [&](const std::tuple<uint16_t, int, uint16_t>& t) -> std::atomic<uint64_t>& {
    return shared_->nat_port_words[(std::get<0>(t) * SL_NAT_PROTOCOLS + static_cast<unsigned>(std::get<1>(t))) * 1024u + std::get<2>(t) / 64u];
  };
  for (const auto& t : published_) {
    if (wanted.contains(t)) continue;
    word(t).fetch_and(~(1ull << (std::get<2>(t) & 63)));
    each_pool(std::get<0>(t), [&](nat_pool& pool) { pool.space(std::get<1>(t)).unreserve(std::get<2>(t)); });
  }
  for (const auto& t : wanted) {
    word(t).fetch_or(1ull << (std::get<2>(t) & 63));
    each_pool(std::get<0>(t), [&](nat_pool& pool) { pool.space(std::get<1>(t)).reserve(std::get<2>(t)); });
  }
  published_ = std::move(wanted);
  shared_->has_tunnels = s.wireguard != nullptr;
  if (!steering_) return;
  uint64_t* const engine_ports = steering_->engine_port_words();
  for (unsigned i = 0; i < SL_ENGINE_PORTS_WORDS; ++i) __atomic_store_n(&engine_ports[i], s.engine_ports.empty() ? 0 : s.engine_ports[i], __ATOMIC_RELEASE);
  for (unsigned slot = 0; slot < SL_PORTS_MAX; ++slot) {
    if (!ports_[slot].in_use) continue;
    bool untagged = s.ports[slot].untagged != index_none;
    unsigned flags = (untagged ? SL_STEER_PORT_UNTAGGED : 0) | (ports_[slot].options.partial_checksums ? SL_STEER_PORT_PARTIAL : 0);
    steering_->set_port(ports_[slot].options.ifindex, static_cast<uint16_t>(slot), static_cast<uint16_t>(flags), untagged ? s.ports[slot].untagged : 0);
    steering_->set_vlans(ports_[slot].options.ifindex, s.ports[slot].tagged);
  }
  std::vector<std::pair<sl_address, sl_local_address>> local;
  for (const sl_interface_address& a : s.addresses) local.push_back({a.address, {a.nat_slot, a.flags}});
  std::string error;
  if (!steering_->set_local_addresses(local, &error)) emit_event("log", "error", error);
}

// ---- what an engine before us left ----------------------------------------------------------------------------------------

// Sessions stand in flow memory; what hangs on them is made anew before the first packet is taken: NAT mappings with their
// ports, counts a rule and a source. A session whose NAT address is gone ends. Under mutex_, before any worker sees `s`.
void engine::inherit(snapshot& s) {
  session_table& table = shared_->sessions;
  const uint64_t now_s = monotonic_ns() / 1'000'000'000;
  const uint32_t now_ticks = ticks_of_ns(monotonic_ns());
  uint32_t ended = 0;
  shared_->mappings.inherit(s.pools);
  for (uint32_t i = 0; i < table.high_water(); ++i) {
    session& one = table.at(i);
    if (!one.live.load()) continue;
    // One that was seen in the future would never end.
    if (one.last_seen_ticks.load() > now_ticks) one.last_seen_ticks = now_ticks;
    if (one.start_ticks > now_ticks) one.start_ticks = now_ticks;
    const uint8_t flags = one.flags.load();
    const session_mappings held = mappings_of(one);
    bool whole = held.originator == mapping_none || shared_->mappings.inherit_reference(held.originator);
    if (whole && held.responder != mapping_none && !shared_->mappings.inherit_reference(held.responder)) {
      whole = false;
      if (held.originator != mapping_none) shared_->mappings.disinherit_reference(held.originator);
    }
    if (!whole) {
      one.flags.fetch_or(session_ended);
      table.remove(0, i);
      ++ended;
      continue;
    }
    if (held.originator != mapping_none && s.filtering_of(shared_->mappings.rule_of(held.originator)) == SL_FILTERING_ADDRESS) shared_->mappings.note_peer(held.originator, i, one.key1.src);
    if (auto it = s.counters_by_id.find(one.rule_id); it != s.counters_by_id.end()) it->second->sessions.fetch_add(1);
    if (flags & session_source_counted) shared_->sources.take(one.key0.src, UINT32_MAX);
  }
  shared_->mappings.inherited(now_s);
  shared_->mappings.refilter([&s](uint32_t rule_id) { return s.filtering_of(rule_id); });
  emit_event("log", "info", std::to_string(table.inherited() - ended) + " sessions of the engine before go on" + (ended ? ", " + std::to_string(ended) + " ended because their NAT address is gone" : std::string()));
}

// Bits of NAT ports that nobody has any more; those that somebody has were never away.
void engine::settle_nat_ports() {
  if (!shared_->nat_port_words) return;
  std::vector<uint64_t> wanted(SL_NAT_PORT_WORDS);
  auto set = [&](uint16_t nat_slot, int protocol_class, uint16_t port) { wanted[(nat_slot * SL_NAT_PROTOCOLS + static_cast<unsigned>(protocol_class)) * 1024u + port / 64u] |= 1ull << (port & 63); };
  shared_->mappings.each_steered(set);
  for (const auto& [nat_slot, protocol_class, port] : published_) set(nat_slot, protocol_class, port);
  for (size_t i = 0; i < wanted.size(); ++i)
    if (shared_->nat_port_words[i].load() != wanted[i]) shared_->nat_port_words[i].store(wanted[i]);
}

void engine::free_retired(bool wait) {
  std::lock_guard guard(mutex_);
  std::erase_if(retired_, [&](const retired& r) { return wait || shared_->epoch.passed(r.epoch); });
}

// ---- clock and netlink ---------------------------------------------------------------------------------------------------

void engine::on_link(const link_event& e) {
  bool ours = false;
  {
    std::lock_guard guard(mutex_);
    link& l = links_[e.ifindex];
    uint64_t mac = 0;
    std::memcpy(&mac, e.mac, 6);
    l = {e.up && !e.removed, e.mtu_bytes, mac, e.name};
    for (unsigned slot = 0; slot < interface_slots; ++slot) {
      if (!shared_->interfaces[slot].id.load() || shared_->interfaces[slot].ifindex.load() != e.ifindex) continue;
      refresh_interface(slot);
      ours = true;
    }
    if (e.removed) links_.erase(e.ifindex);
  }
  (void)ours;
  emit_event("links-changed");
}

void engine::routine_clock() {
  using clock = std::chrono::steady_clock;
  constexpr std::chrono::nanoseconds second = std::chrono::seconds(1);
  warned_.assign(SL_DROP_REASON_COUNT, 0);
  warned_evicted_ = 0;
  auto is_over = [&](clock::time_point until) {
    std::unique_lock lock(clock_mutex_);
    return clock_wake_.wait_until(lock, until, [&] { return clock_stop_; });
  };
  for (unsigned seconds = 0;; ++seconds) {
    const clock::time_point began = clock::now();
    for (uint32_t portion = 1; !count_sessions(census_budget / census_portions) && portion < census_portions; ++portion)
      if (is_over(began + portion * second / census_portions)) return;
    if (is_over(began + second)) return;
    shared_->wall_offset_ns = wall_offset_now();
    free_retired(false);
    refresh_offload();
    refresh_neighbours(ticks_of_ns(monotonic_ns()));
    if (seconds % 2 == 0) reserve_local_ports();
    if (seconds % warn_interval_s == 0) warn_of_exhaustion();
  }
}

// Goes on with the count of sessions; a session that changes meanwhile is counted as it was or as it is. True: all were counted, and are told.
bool engine::count_sessions(uint32_t budget) {
  session_census& c = census_;
  session_table& table = shared_->sessions;
  const uint32_t end = table.high_water();
  for (; c.at < end && budget; ++c.at, --budget) {
    if (!table.deadline(c.at).load(std::memory_order_relaxed)) continue;
    const session& s = table.at(c.at);
    sl_session_protocol protocol = SL_SESSION_PROTOCOL_OTHER;
    switch (s.key0.protocol) {
      case protocol_tcp: protocol = SL_SESSION_PROTOCOL_TCP; break;
      case protocol_udp: protocol = SL_SESSION_PROTOCOL_UDP; break;
      case protocol_icmp: case protocol_icmpv6: protocol = SL_SESSION_PROTOCOL_ICMP; break;
      default: break;
    }
    ++c.counting[s.state.load(std::memory_order_relaxed) % SL_SESSION_STATE_COUNT * SL_SESSION_PROTOCOL_COUNT + protocol];
    c.counting[c.offloaded] += s.offload.load(std::memory_order_relaxed) == SL_OFFLOAD_ON;
  }
  if (c.at < end) return false;
  c.at = 0;
  for (unsigned i = 0; i <= c.cells; ++i) c.published[i].store(std::exchange(c.counting[i], 0), std::memory_order_relaxed);
  return true;
}

// Which interfaces may be egress of offloaded sessions. A netdev that stops taking frames (a veth whose peer lost NAPI)
// loses what is sent to it until we ask again.
void engine::refresh_offload() {
  std::lock_guard guard(mutex_);
  for (unsigned slot = 0; features_ && slot < SL_PORTS_MAX; ++slot) {
    if (!ports_[slot].in_use) continue;
    std::optional<bool> takes = features_->takes_redirects(ports_[slot].options.ifindex);
    if (!takes) continue;  // nobody knows now: as it was
    for (unsigned i = 0; i < interface_slots; ++i)
      if (shared_->interfaces[i].port_slot.load() == slot) shared_->interfaces[i].offload = *takes;
  }
}

void engine::refresh_neighbours(uint32_t now_ticks) {
  shared_->adjacencies.each([&](adjacency& a) {
    if (now_ticks - a.used_ticks.load(std::memory_order_relaxed) > neighbour_refresh_ticks) return;
    // The kernel never sees our traffic; asked now and then, it probes a stale neighbour before its address is wrong.
    uint32_t ifindex = shared_->interfaces[a.interface_slot].kernel_ifindex.load();
    if (ifindex && shared_->interfaces[a.interface_slot].up.load()) netlink_->resolve(ifindex, a.address);
  });
}

// Ports of shared addresses that local sockets use now are not given out by source NAT.
void engine::reserve_local_ports() {
  std::set<uint16_t> used[2];
  const char* files[2][2] = {{"/proc/self/net/tcp", "/proc/self/net/tcp6"}, {"/proc/self/net/udp", "/proc/self/net/udp6"}};
  for (int c = 0; c < 2; ++c) {
    for (const char* path : files[c]) {
      FILE* f = std::fopen(path, "re");
      if (!f) continue;
      char line[512];
      while (std::fgets(line, sizeof line, f)) {
        char address[40];
        unsigned port, state;
        if (std::sscanf(line, " %*u: %39[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x", address, &port, &state) == 3 && port && (c == 1 || state == 0x0a)) used[c].insert(static_cast<uint16_t>(port));
      }
      std::fclose(f);
    }
  }
  std::lock_guard guard(mutex_);
  if (!current_) return;
  decltype(reserved_) next;
  for (const auto& pool : current_->pools) {
    if (pool->address.nat_slot == SL_NAT_SLOT_NONE) continue;
    for (int c = 0; c < 2; ++c) {
      auto& before = reserved_[{pool.get(), c}];
      for (uint16_t port : before) if (!used[c].contains(port) && !published_.contains({pool->address.nat_slot, c, port})) pool->space(c).unreserve(port);
      for (uint16_t port : used[c]) if (!before.contains(port)) pool->space(c).reserve(port);
      next[{pool.get(), c}] = used[c];
    }
  }
  reserved_ = std::move(next);
}

void engine::warn_of_exhaustion() {
  static constexpr sl_drop_reason watched[] = {SL_DROP_SESSION_TABLE_FULL, SL_DROP_NAT_PORTS_EXHAUSTED, SL_DROP_UMEM_EXHAUSTED, SL_DROP_RX_RING_FULL, SL_DROP_NEIGHBOUR_QUEUE_FULL,
                                               SL_DROP_NEIGHBOUR_UNRESOLVED, SL_DROP_FRAGMENT_TABLE_FULL, SL_DROP_TX_RING_FULL, SL_DROP_HOST_QUEUE_FULL};
  const std::string lately = " in the last " + std::to_string(warn_interval_s) + " s: ";
  for (sl_drop_reason reason : watched) {
    uint64_t total = 0;
    for (auto& w : workers_) total += w->path().counters().drop[reason].load(std::memory_order_relaxed);
    if (total != warned_[reason]) {
      emit_event("log", "warn", std::to_string(total - warned_[reason]) + " packets dropped" + lately + drop_names[reason]);
      warned_[reason] = total;
    }
  }
  uint64_t evicted = 0;
  for (auto& w : workers_) evicted += w->path().counters().counter[SL_COUNTER_SESSIONS_EVICTED].load(std::memory_order_relaxed);
  if (evicted != warned_evicted_) emit_event("log", "warn", std::to_string(evicted - warned_evicted_) + " unanswered sessions ended early" + lately + "the session table is nearly full");
  warned_evicted_ = evicted;
}

}  // namespace sluice
