// SPDX-License-Identifier: Apache-2.0
// engine.h: the packet engine as one object: steering, ports, workers, netlink, snapshots. Called from one thread (Node's
// main thread); events come from other threads by the callback. In offline mode there are no netdevs: frames go in by
// inject() and come back from it, time is what the caller says. Errors: bool and a text with cause and remedy.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "dataplane.h"
#include "io/host_device.h"
#include "io/netdev_features.h"
#include "io/netlink.h"
#include "io/steer.h"
#include "worker.h"

namespace sluice {

struct engine_options {
  std::string pin_directory, bpf_object, host_device = "sluice0";
  unsigned workers = 1;
  uint32_t sessions_max = 1u << 18;
  uint32_t frames_per_worker = 16384;
  uint32_t tx_budget = 256;
  bool busy_poll = false;
  bool offline = false;
  bool offload = true;      // established sessions may be forwarded by XDP
};

struct port_options { std::string name; uint32_t ifindex = 0; unsigned slot = 0, queues = 1, workers = 1; bool generic = false, partial_checksums = false; };

// What the engine tells: "links-changed", "addresses-changed", "wireguard" (wireguard_events() has something), or "log" with a level and a text.
struct engine_event { const char* type; const char* level; std::string text; };

struct injected { std::string verdict; sl_drop_reason reason; struct out_frame { uint16_t interface; std::vector<uint8_t> frame; }; std::vector<out_frame> frames; std::vector<std::vector<uint8_t>> host; };

class engine {
 public:
  engine() = default;
  ~engine();
  bool open(const engine_options& options, std::function<void(const engine_event&)> on_event, std::string* error);
  void close();
  bool is_open() const { return shared_ != nullptr; }

  bool add_port(const port_options& port, bool* generic, std::string* error);
  void remove_port(unsigned slot);
  bool apply(const uint8_t* buffer, size_t bytes, uint64_t* generation, uint64_t* microseconds, std::string* error);

  std::vector<uint64_t> counters();  // layout: src/engine/binding.ts
  // Fills flow records, then drop records, into `into`; returns how many of each.
  void records(uint8_t* into, size_t bytes, uint32_t* flows, uint32_t* drops);
  uint32_t sessions(uint32_t* cursor, sl_flow_record* into, uint32_t max);
  bool kill_session(uint64_t id);
  bool simulate(const sl_simulate_request& request, sl_simulate_result* result, std::string* error);
  std::vector<sl_rule_hits> rule_hits();
  // Starts (or replaces) capture `slot`; filter nullptr ends it. Its packets come by captured(): whole sl_captured records, of all captures.
  bool set_capture(unsigned slot, const sl_capture_filter* filter, std::string* error);
  size_t captured(uint8_t* into, size_t bytes);
  std::vector<sl_neighbour_record> neighbours();
  std::vector<sl_nat_pool_record> nat_pools();
  std::vector<sl_ring_record> rings();
  std::vector<sl_interface_record> interfaces();

  // WireGuard: see native/tunnel/wireguard.h and src/engine/binding.ts.
  uint32_t wireguard_index();
  bool wireguard_install(sl_wireguard_keypair* keypair, std::string* error);
  bool wireguard_forget(uint32_t peer_id);
  bool wireguard_endpoint(uint32_t peer_id, const sl_wireguard_endpoint& endpoint);
  bool wireguard_send(uint32_t interface_id, uint32_t peer_id, std::span<const uint8_t> message, const sl_wireguard_endpoint* endpoint);
  bool wireguard_gate(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys, std::string* error);
  size_t wireguard_events(uint8_t* into, size_t bytes);
  std::vector<sl_wireguard_peer_record> wireguard_peers();

  // Offline mode.
  // A packet that the host sends by way of the engine: without link header.
  void inject_from_host(const uint8_t* packet, size_t bytes, uint64_t now_ns, injected* out);
  bool inject(uint16_t interface, const uint8_t* frame, size_t bytes, uint64_t now_ns, injected* out, std::string* error);
  void advance(uint64_t now_ns, injected* out);
  void set_neighbour(uint16_t interface, const sl_address& address, const uint8_t* mac);
  // The one worker, not running: benches and fuzzers feed its pipeline themselves.
  worker& offline_worker(unsigned index = 0) { return *workers_[index]; }
  // Offline with a BPF object: the steering program on the same flow memory, attached to nothing, for tests to run.
  steering* offline_steering() { return steering_.get(); }
  const session_table& offline_sessions() { return shared_->sessions; }

 private:
  struct port { port_options options; bool in_use = false; };
  struct link { bool up = false; uint32_t mtu_bytes = 0; uint64_t mac = 0; std::string name; };
  struct pool_key { sl_address address; uint16_t lo, hi; uint16_t nat_slot; uint32_t reuse_s;
    bool operator<(const pool_key& o) const { int c = std::memcmp(address.bytes, o.address.bytes, 16); return c ? c < 0 : std::tie(lo, hi, nat_slot, reuse_s) < std::tie(o.lo, o.hi, o.nat_slot, o.reuse_s); } };

  bool open_steering(std::string* error);
  bool start_kernel_side(std::string* error);
  void on_link(const link_event& e);
  void refresh_interface(unsigned slot);
  void bind_interfaces(snapshot& s);
  void bind_pools(snapshot& s);
  void bind_counters(snapshot& s);
  bool bind_tunnels(snapshot& s, std::string* error);
  void bind_peers();
  void peer_changed();
  uint64_t now_ns() const { return options_.offline ? offline_now_ns_ : monotonic_ns(); }
  void publish_steering(const snapshot& s);
  void retire(const snapshot* old);
  void free_retired(bool wait);
  void routine_clock();
  void refresh_neighbours(uint32_t now_ticks);
  void refresh_offload();
  void inherit(snapshot& s);
  void settle_nat_ports();
  void reserve_local_ports();
  void warn_of_exhaustion();
  bool count_sessions(uint32_t budget);
  sl_interface_record interface_totals(unsigned slot) const;
  void collect(injected* out);
  void begin_injected(uint64_t now_ns, uint64_t before[SL_DROP_REASON_COUNT]);
  void end_injected(const uint64_t before[SL_DROP_REASON_COUNT], injected* out);
  void emit_event(const char* type, const char* level = "", std::string text = {});

  engine_options options_;
  std::function<void(const engine_event&)> on_event_;
  std::unique_ptr<dataplane> shared_;
  std::vector<std::unique_ptr<worker>> workers_;
  std::unique_ptr<steering> steering_;
  std::unique_ptr<netlink_monitor> netlink_;
  std::unique_ptr<netdev_features> features_;
  bool inheriting_ = false;  // sessions of an engine before us wait for the first snapshot
  std::unique_ptr<host_device> host_device_;
  std::vector<std::atomic<uint64_t>> offline_port_words_;

  std::mutex mutex_;  // guards links_, ports_, current_, published_, reserved_: main, netlink and clock thread
  port ports_[SL_PORTS_MAX];
  std::map<uint32_t, link> links_;
  std::shared_ptr<const snapshot> current_;
  std::map<pool_key, std::weak_ptr<nat_pool>> pools_;
  std::unordered_map<uint32_t, std::shared_ptr<rule_counter>> rule_counters_;
  struct retired { std::shared_ptr<const void> what; uint64_t epoch; };  // snapshots and capture sets that workers may still read
  std::vector<retired> retired_;
  std::shared_ptr<const capture_set> captures_;
  size_t captured_first_ = 0;  // the worker whose copies are taken first
  std::set<std::tuple<uint16_t, int, uint16_t>> published_;           // nat_slot, protocol class, port of destination NAT
  std::map<std::pair<const nat_pool*, int>, std::set<uint16_t>> reserved_; // ports that local sockets use
  std::vector<uint64_t> warned_;                                      // drop counters when last warned
  uint64_t warned_evicted_ = 0;

  // Sessions by state and protocol, and how many are offloaded: counted by the clock thread (offline by counters()), a part
  // of the table at a time; `published` is of the last whole pass.
  struct session_census {
    static constexpr unsigned cells = unsigned{SL_SESSION_STATE_COUNT} * unsigned{SL_SESSION_PROTOCOL_COUNT}, offloaded = cells;
    uint64_t counting[cells + 1] = {};
    uint32_t at = 0;
    std::atomic<uint64_t> published[cells + 1] = {};
  };
  session_census census_;
  // Counters of slots start anew with another interface: what was counted before.
  sl_interface_record interface_bases_[interface_slots] = {};

  std::thread clock_;
  std::mutex clock_mutex_;
  std::condition_variable clock_wake_;
  bool clock_stop_ = false;

  uint64_t offline_now_ns_ = 0;
  std::vector<std::vector<uint8_t>> offline_host_;
};

}  // namespace sluice
