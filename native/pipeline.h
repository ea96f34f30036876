// SPDX-License-Identifier: Apache-2.0
// pipeline.h: the way of a packet through one worker, from frame to frame. No sockets and no clock in here: frames, the
// time, and a buffer area come in; frames to send come out in `output()`. The worker does the I/O around it, and the
// tests and the fuzzer drive it from memory.
//
// Order: strip Ethernet → parse → fragments → look up (pipeline.cc) → revalidate, limits, TCP, rewrite, emit (forward.cc); what has no way yet
// waits (waiting.cc). A packet without a session leaves by one door: slow_path.cc, which asks decide.cc (route → zones → rules → NAT); ICMP errors
// by icmp_errors.cc; what goes through tunnels by tunnel_in.cc and tunnel_out.cc. What the engine sends itself stands in answers.cc, timers and ends in
// housekeeping.cc, sessions after a commit in revalidate.cc, what is told of all that in records.cc.
// One thread owns a pipeline. Bounds: batch_max packets a call, held_packets_max packets wait for next hops.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "counters.h"
#include "dataplane.h"
#include "flow/tcp.h"
#include "io/xsk.h"
#include "packet/icmp.h"
#include "packet/packet.h"

namespace sluice {

inline constexpr unsigned batch_max = 64;
inline constexpr unsigned held_packets_max = 256;      // waiting for next hops, a worker
inline constexpr unsigned held_per_neighbour_max = 16; // kernel: unres_qlen_bytes holds about 100; a first burst fits
inline constexpr unsigned held_per_peer_max = 128;     // for a session: all flows through a tunnel wait at one place. The kernel's MAX_STAGED_PACKETS
static_assert(held_per_peer_max <= held_packets_max / 2);
inline constexpr uint64_t held_ns_max = 3'000'000'000; // the kernel gives up after three solicitations, one a second
inline constexpr uint32_t drop_records_per_second_max = 5000;
// Deadlines of sessions looked at, and sessions ended at most, in 100 ms: 256 KiB of memory; a million are gone through in 1.6 s.
inline constexpr uint32_t sweep_budget_max = 65536;
inline constexpr uint64_t sweep_ns = 100'000'000;
// A nearly full table: among so many sessions one is looked for that may end for a new one, and so often.
inline constexpr unsigned eviction_sample = 16;
inline constexpr unsigned eviction_rounds_max = 4;

// The next hop for an address: among equal-cost ones by the hash. nullptr: no route.
const sl_nexthop* route_lookup(const dataplane& shared, const snapshot& snap, const sl_address& to, uint64_t flow_hash);
// May a packet with this source come in on the interface (an index, or index_none)? Ours and directed broadcasts may nowhere.
sl_drop_reason judge_source(const snapshot& snap, uint16_t from, const sl_address& source);

// Is the address in the rule's pool?
bool pool_holds(const snapshot& snap, const sl_nat_rule& rule, const sl_address& address);
// Which sessions the XDP program could forward, if policy lets it: what bpf/offload.h reads. SL_OFFLOAD_NOT_YET or _NEVER.
uint8_t offload_policy(const snapshot& snap, const session& s, const sl_rule& rule);

struct tx_item { uint64_t address; uint32_t length; uint8_t port_slot; };

// What is decided about a first packet. Also the answer of `simulate`.
struct decision {
  sl_drop_reason reason = SL_DROP_NONE;
  uint8_t action = SL_ACTION_DENY;
  bool to_host = false;
  bool unreachable = false;             // answer with ICMP unreachable
  uint16_t from = index_none, to = index_none;  // interface indices
  uint32_t rule = classifier::no_rule;  // index
  flow_key translated;                  // after destination NAT
  const sl_nat_rule* destination_rule = nullptr;  // destination or static
  const sl_nat_rule* source_rule = nullptr;       // source or static; exempt: null
  sl_address static_source{};           // when source_rule is static
  uint32_t inbound_mapping = mapping_none;        // a reference is held
  sl_address next_hop{};                // through a tunnel: see tunnel_next_hop()
  uint32_t peer_slot = wireguard_peer_none;       // through a tunnel: whose
};

// Why a packet was dropped, beside the reason: the rule, and what says as what it would have left, if it came that far. Looked at only
// when the drop gets a record.
struct drop_cause {
  uint32_t rule_id = 0;
  const session* of = nullptr;          // its session
  unsigned direction = 0;
  const decision* decided = nullptr;    // or what was decided about it as a first packet
};

class pipeline {
 public:
  pipeline(dataplane& shared, unsigned worker, umem_area& area, frame_pool& pool);

  // Takes `count` frames that came in on a port; each ends in output(), in the pool, or held.
  void process(const rx_frame* frames, unsigned count, unsigned port_slot, bool partial_checksums, uint64_t now_ns);
  // Frames to send, in order. The caller sends them (or puts them back) and clears the list.
  std::vector<tx_item>& output() { return output_; }
  // Timers: sessions, fragments, held packets. Call at least every 100 ms, with the part of the sweep that the time since the last call
  // is of sweep_ns, or whenever a next hop changed; bounded work.
  void housekeeping(uint64_t now_ns, uint32_t sweep_budget = sweep_budget_max);
  bool holds_packets() const { return !held_.empty(); }
  // Sessions that process() found ready for the XDP program, and the moment from which it forwards them: best when none of their packets
  // waits to be processed or sent. Between batches, on the worker's thread.
  bool has_sessions_to_offload() const { return !to_offload_.empty(); }
  void offload_waiting();
  // A part of the walk over the sessions that follows a commit; true when there is more to do. Bounded work.
  bool revalidate_some(uint64_t now_ns);
  // Ends a session on an operator's word. Between batches.
  bool kill(uint64_t session_id);
  // A message to a WireGuard peer: a handshake's, or a keepalive when empty. To `endpoint`; nullptr: to where the peer is. False: there is
  // no way, or no session for a keepalive. Between batches.
  bool send_message(uint32_t interface_id, uint32_t peer_slot, std::span<const uint8_t> message, const sl_wireguard_endpoint* endpoint, uint64_t now_ns);
  // Packets that the host sends by way of us, to tunnels. Up to a batch; returns how many. Worker 0.
  unsigned take_from_host(uint64_t now_ns);
  // One of them.
  void from_host(const uint8_t* packet, size_t bytes, uint64_t now_ns);

  worker_counters& counters() { return counters_; }
  flow_ring& flows() { return flow_records_; }
  drop_ring& drops() { return drop_records_; }
  capture_ring& captured() { return captured_; }

  // The decision about a packet, without any effect (but a reference to an inbound mapping, which the caller releases). again: the session
  // that it is about, after a commit.
  static decision decide(dataplane& shared, const snapshot& snap, const flow_key& key, uint8_t icmp_type, uint8_t icmp_code, uint16_t from_interface, const session* again = nullptr);
  static void fill_record(dataplane& shared, const snapshot* snap, const session& s, uint32_t index, uint64_t now_ns, sl_flow_record* out);
  static uint32_t idle_s(const session& s, const sl_settings& settings);

 private:
  // A packet waits as it was received from a port, as it came out of a tunnel (both go through again, from the start), or ready to leave:
  // then `address` is that of its IP header.
  enum class held_kind : uint8_t { from_port, from_tunnel, ready };
  struct held_packet { uint64_t address; uint32_t length; uint32_t adjacency; uint64_t until_ns; uint16_t interface_slot; uint8_t port_slot; bool partial; held_kind kind; };

  // A packet on its way into a tunnel; 0 bytes: a keepalive.
  struct entered_packet { uint8_t* packet; uint32_t bytes, peer_slot; uint16_t interface_slot; };
  // How messages of ours reach a peer: the worker's own copy of what endpoint and routes say.
  struct outer_way {
    uint64_t generation = 0;             // of the snapshot; 0: not known
    uint32_t peer_id = 0, endpoint_version = 0;
    uint32_t adjacency = adjacency_none;
    sl_drop_reason reason = SL_DROP_NONE;  // why there is none
    sl_address source{}, destination{};
    uint16_t source_port = 0, destination_port = 0;
    uint16_t interface_slot = 0;         // of the next hop
    path_mtu path;                       // of routers beyond it
  };

  // pipeline.cc, in the order in which a packet meets them
  void begin(uint64_t now_ns);
  bool strip_ethernet(packet& p, const rx_frame& frame, const port_interfaces& port, bool partial_checksums);
  void look_up(packet& p, uint32_t guessed);
  void take_fragment(packet& p);
  void follow_first_fragment(packet& p, const fragment_verdict& verdict);
  // forward.cc
  void forward(packet& p, const session_ref& r);
  bool comes_rightly(const packet& p, const session& s, unsigned direction) const;
  adjacency* egress(packet& p, const session_ref& r, uint32_t* id);
  uint32_t egress_mtu(const adjacency& a, const interface_state& out);
  bool fits(packet& p, const session_ref& r, unsigned mtu_bytes);
  void rewrite(packet& p, const session& s, unsigned direction);
  void clamp_mss(packet& p, const session& s, const interface_state& out);
  void account(packet& p, session& s, unsigned direction);
  void consider_offload(const session& s, uint32_t index);
  void emit(packet& p, adjacency& a, const interface_state& out);
  void emit_fragments(packet& p, adjacency& a, const interface_state& out, unsigned mtu_bytes);
  // waiting.cc
  void hold(packet& p, uint32_t adjacency_id, adjacency& a, const drop_cause& cause, bool ready_to_leave = false);
  bool is_reachable(const adjacency& a) const;
  void release_due();
  void release_held();
  void give_up(const held_packet& h, const adjacency* a);
  void go_on(const held_packet& h);
  bool read_again(packet& p, const held_packet& h);

  // slow_path.cc
  void first_packet(packet& p);
  void release_inbound(decision& d);
  void create_session(packet& p, decision& d);
  bool translate_source(const packet& p, const decision& d, session& s, uint32_t index, sl_drop_reason* reason);
  // decide.cc
  uint32_t route_back(const flow_key& key);
  // revalidate.cc
  enum class revalidation { allowed, unroutable, ended };
  revalidation revalidate_session(uint32_t index, decision* d);
  void follow_mapping(uint32_t index, const decision& d);
  bool revalidate(packet& p, const session_ref& r);
  bool request_allowed(packet& p);
  // icmp_errors.cc
  void icmp_error_packet(packet& p);
  void rewrite_icmp_error(packet& p, const embedded_packet& e, const session& s, unsigned direction);
  // answers.cc
  void refuse(packet& p, const decision& d);
  void to_host(packet& p);
  uint32_t route_to(const sl_address& next_hop, unsigned interface_slot, uint32_t peer_slot = wireguard_peer_none);
  void send_error(packet& p, icmp_error kind, uint32_t mtu_bytes = 0);
  void answer(packet& p, const uint8_t* ip_packet, unsigned length);
  void decided_first_fragment(packet& p, const fragment_verdict& verdict);
  bool take_error_token();
  // housekeeping.cc
  bool end_session(uint32_t index, sl_end_reason reason);
  void release_mappings(const session& s, uint32_t index, std::optional<bool> tcp_closed_cleanly);
  void evict_session();
  // records.cc
  void drop(packet& p, sl_drop_reason reason, const drop_cause& cause = {}, bool record = true);
  void fill_drop(const packet& p, const drop_cause& cause, sl_drop_record* out) const;
  static drop_cause cause_of(const session_ref& r) { return {r.s->rule_id, r.s, r.direction, nullptr}; }
  drop_cause cause_of(const decision& d) const { return {d.rule != classifier::no_rule ? snap_->rules[d.rule].id : 0, nullptr, 0, &d}; }
  void free_frame(packet& p) { pool_.put(p.address); }
  void record_flow(const session& s, uint32_t index, sl_flow_event event, sl_end_reason reason);
  // Copies for captures: a received packet is copied before it is touched and kept when its fate is known. One that waits for its
  // next hop is copied when it goes on or is dropped, with the time at which it came.
  struct packet_fate { sl_drop_reason dropped = SL_DROP_NONE; bool waits = false; };
  sl_captured* capture(const uint8_t* frame, uint32_t length, unsigned interface_slot, uint8_t direction, uint64_t time_ns);
  void capture_done(sl_captured* record);
  void capture_sent(size_t from);

  // tunnel_in.cc and tunnel_out.cc, in the order in which a packet meets them; tunnel_host.cc
  bool is_for_tunnel(const packet& p) const;
  bool arrive(const packet& p, unsigned place);
  void take_handshake(packet& p, const uint8_t* message, uint32_t bytes);
  unsigned open_arrived(unsigned count, unsigned kept);
  bool leave_tunnel(packet& p, const open_item& opened);
  wireguard_peer* peer_of(const adjacency& a) const;
  uint32_t tunnel_mtu(const adjacency& a, uint32_t mtu_bytes);
  uint32_t inner_mtu(const outer_way& way, uint32_t mtu_bytes) const;
  void enter_tunnel(packet& p, uint32_t peer_slot, unsigned interface_slot);
  void seal_entered();
  void seal_some(std::span<const entered_packet> entered);
  void drop_entered(const entered_packet& e, sl_drop_reason reason);
  outer_way& way_to(const wireguard_peer& peer);
  outer_way find_way(const sl_wireguard_endpoint& endpoint, uint32_t interface_id, uint64_t flow_hash);
  bool is_usable(const outer_way& way);
  uint32_t outer_mtu(const outer_way& way) const;
  void send_outer(uint8_t* message, uint32_t bytes, uint8_t traffic_class, const outer_way& way);
  void emit_outer_fragments(packet& p, adjacency& a, const interface_state& out, unsigned mtu_bytes);
  bool narrow_path(const packet& p, const embedded_packet& quoted);
  void route_from_host(const uint8_t* bytes, size_t length);

  dataplane& shared_;
  const unsigned worker_;
  umem_area& area_;
  frame_pool& pool_;
  const snapshot* snap_ = nullptr;  // of this batch
  uint64_t now_ns_ = 0;
  uint32_t now_ticks_ = 0;
  uint8_t port_slot_ = 0;
  std::vector<tx_item> output_;
  std::vector<held_packet> held_;
  uint32_t adjacency_version_ = 0;
  struct offload_candidate { uint32_t index, incarnation; };
  std::vector<offload_candidate> to_offload_;
  uint32_t revalidating_ = 0, revalidate_at_ = session_none;  // generation of the walk, and how far it got
  uint64_t revalidation_began_ns_ = 0;
  uint64_t draws_ = 0;                                // of random numbers
  uint64_t error_tokens_ns_ = 0, drop_tokens_ns_ = 0, path_tokens_ns_ = 0, fragments_checked_ns_ = 0;
  worker_counters counters_;
  flow_ring flow_records_;
  drop_ring drop_records_;
  capture_ring captured_;
  const capture_set* captures_ = nullptr;  // of this batch
  packet_fate fate_;                       // of the packet that was looked at last
  uint64_t waited_since_ns_ = 0;           // when the packet came that goes through again now; 0: just now
  std::vector<entered_packet> entered_;    // of this batch, for tunnels
  std::vector<outer_way> ways_;            // by peer slot
  std::unique_ptr<uint8_t[]> from_host_;   // a packet of the host's
  uint16_t outer_id_ = 0;                  // of IPv4: the last one used
  uint32_t outer_fragmented_ = 0;          // IPv6 packets that were cut
  packet arrived_[batch_max];              // messages of this batch that came by tunnels, and
  open_item arriving_[batch_max];          // what is asked of the transport for them
  packet batch_[batch_max];
};

}  // namespace sluice
