// SPDX-License-Identifier: Apache-2.0
// waiting.cc: packets whose next hop is not resolved yet, or whose tunnel has no session. Part of `pipeline`: hold() keeps one, release_due()
// looks when a next hop changed or time is over; then it goes on, or is given up. Bounds: held_packets_max a worker, held_per_… a next hop.
#include "pipeline.h"

namespace sluice {

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

}  // namespace sluice
