// SPDX-License-Identifier: Apache-2.0
// pipeline.cc: where packets come in, a batch at a time. Functions stand in the order in which a packet meets them:
//   1 process          batch: strip, parse, hash, prefetch; then one packet after the other
//   2 look_up          session? forward (forward.cc) : first_packet (slow_path.cc)
//   3 take_fragment    fragments ask the reassembly table first
#include "pipeline.h"

#include <utility>

namespace sluice {
namespace {

// Frames of a batch that came in on one interface, one after the other: mostly all of it, which then costs one count.
struct received_on_one {
  worker_counters& counters;
  unsigned slot = index_none;
  uint64_t packets = 0, bytes = 0;
  void add(unsigned interface_slot, uint32_t length) {
    if (interface_slot != slot) [[unlikely]] { flush(); slot = interface_slot; }
    ++packets;
    bytes += length;
  }
  void flush() {
    if (slot < interface_slots && packets) {
      bump(counters.interface[slot].rx_packets, packets);
      bump(counters.interface[slot].rx_bytes, bytes);
    }
    packets = bytes = 0;
  }
};

}  // namespace

pipeline::pipeline(dataplane& shared, unsigned worker, umem_area& area, frame_pool& pool)
    : shared_(shared), worker_(worker), area_(area), pool_(pool) {
  output_.reserve(4096);
  held_.reserve(held_packets_max);
}

// ---- 1: a batch -------------------------------------------------------------------------------------------------

// What the rest goes by: the time, the snapshot in force, captures that run.
void pipeline::begin(uint64_t now_ns) {
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  captures_ = shared_.captures.load(std::memory_order_acquire);
  fate_ = {};
}

void pipeline::process(const rx_frame* frames, unsigned count, unsigned port_slot, bool partial_checksums, uint64_t now_ns) {
  begin(now_ns);
  port_slot_ = static_cast<uint8_t>(port_slot);
  if (!snap_) {
    for (unsigned i = 0; i < count; ++i) pool_.put(frames[i].address);
    bump(counters_.drop[SL_DROP_NO_SNAPSHOT], count);
    return;
  }
  // What waits goes first, so that a flow keeps its order; unless this is one of those that waited, which was counted when it came.
  const bool again = waited_since_ns_ != 0;
  if (!held_.empty() && !again) [[unlikely]] {
    release_due();
    port_slot_ = static_cast<uint8_t>(port_slot);
    fate_ = {};
  }
  const port_interfaces& port = snap_->ports[port_slot];
  const bool tunnels = snap_->wireguard != nullptr;
  uint64_t bytes = 0, completed_count = 0;
  unsigned kept = 0, arrived = 0;
  received_on_one tally{counters_};
  for (unsigned i = 0; i < count; ++i) {
    packet& p = batch_[kept];
    bytes += frames[i].length;
    bool completed = false, readable = strip_ethernet(p, frames[i], port, partial_checksums);
    tally.add(p.interface_slot, frames[i].length);
    const bool for_tunnel = tunnels && readable && is_for_tunnel(p);
    if (for_tunnel) p.checksum_partial = false;  // what is inside is authenticated: nobody looks at it
    if (readable)
      if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { drop(p, reason); readable = false; }
    if (!readable) {
      if (captures_) [[unlikely]] capture_done(capture(frames[i].data, frames[i].length, p.interface_slot, SL_CAPTURE_IN, now_ns));
      continue;
    }
    if (for_tunnel) {
      sl_captured* record = captures_ ? capture(frames[i].data, frames[i].length, p.interface_slot, SL_CAPTURE_IN, now_ns) : nullptr;
      fate_ = {};
      if (arrive(p, arrived)) ++arrived;
      if (!captures_) [[likely]] continue;
      kept = open_arrived(std::exchange(arrived, 0), kept);
      capture_done(record);
      continue;
    }
    completed_count += completed;
    p.hash = shared_.sessions.hash_of(p.key);
    shared_.sessions.prefetch_bucket(p.hash);
    ++kept;
  }
  if (!again) [[likely]] {
    tally.flush();
    counters_.add(SL_COUNTER_RX_PACKETS, count);
    counters_.add(SL_COUNTER_RX_BYTES, bytes);
  }
  if (arrived) kept = open_arrived(arrived, kept);
  if (completed_count) counters_.add(SL_COUNTER_CHECKSUMS_COMPLETED, completed_count);
  uint32_t guessed[batch_max];
  for (unsigned i = 0; i < kept; ++i) {
    guessed[i] = shared_.sessions.guess(batch_[i].hash);
    shared_.sessions.prefetch_session(guessed[i]);
  }
  if (captures_) [[unlikely]] {
    for (unsigned i = 0; i < kept; ++i) {
      fate_ = {};
      const size_t sent = output_.size();
      sl_captured* record = capture(batch_[i].data, batch_[i].length, batch_[i].interface_slot, SL_CAPTURE_IN, waited_since_ns_ ? waited_since_ns_ : now_ns);
      look_up(batch_[i], guessed[i]);
      capture_done(record);
      capture_sent(sent);
    }
  } else {
    for (unsigned i = 0; i < kept; ++i) look_up(batch_[i], guessed[i]);
  }
  if (!entered_.empty()) seal_entered();
}

bool pipeline::strip_ethernet(packet& p, const rx_frame& frame, const port_interfaces& port, bool partial_checksums) {
  p.data = frame.data;
  p.address = frame.address;
  p.length = frame.length;
  p.key = flow_key{};
  p.checksum_partial = partial_checksums;
  p.interface_slot = index_none;
  if (frame.length < ethernet_bytes) { drop(p, SL_DROP_TRUNCATED); return false; }
  uint16_t type = load16(frame.data + 12), vlan_id = SL_VLAN_NONE;
  p.l3_offset = ethernet_bytes;
  if (type == ethertype::vlan) {
    if (frame.length < ethernet_bytes + vlan_bytes) { drop(p, SL_DROP_TRUNCATED); return false; }
    vlan_id = load16(frame.data + 14) & 0xfff;
    if (vlan_id == 0) vlan_id = SL_VLAN_NONE;  // a priority tag only (IEEE 802.1Q section 6.9)
    type = load16(frame.data + 16);
    p.l3_offset = ethernet_bytes + vlan_bytes;
  }
  p.interface_slot = port.find(vlan_id);
  if (p.interface_slot == index_none) { drop(p, vlan_id == SL_VLAN_NONE ? SL_DROP_UNKNOWN_PORT : SL_DROP_UNKNOWN_VLAN); return false; }
  if (type == ethertype::ipv4) p.ip_version = 4;
  else if (type == ethertype::ipv6) p.ip_version = 6;
  else { drop(p, SL_DROP_MALFORMED_ETHERNET); return false; }
  // A frame to another station (flooded by a switch) is not ours to route; multicast was steered to the host.
  if (frame.data[0] & 1) { drop(p, SL_DROP_MARTIAN_DESTINATION); return false; }
  uint64_t own = shared_.interfaces[p.interface_slot].mac.load(std::memory_order_relaxed);
  if (own && (load64_raw(frame.data) & 0xffffffffffffull) != own) { drop(p, SL_DROP_OTHER_STATION); return false; }
  return true;
}

// ---- 2: known or not ---------------------------------------------------------------------------------------------

void pipeline::look_up(packet& p, uint32_t guessed) {
  if (p.flags & packet_fragment) [[unlikely]] { take_fragment(p); return; }
  if (p.flags & packet_icmp_error) [[unlikely]] { icmp_error_packet(p); return; }
  session_ref r;
  if (shared_.sessions.find_guessed(p.key, p.hash, guessed, &r)) { forward(p, r); return; }
  first_packet(p);
}

// ---- 3: fragments ------------------------------------------------------------------------------------------------

void pipeline::take_fragment(packet& p) {
  if (waited_since_ns_ == 0) counters_.add(SL_COUNTER_FRAGMENTS);
  auto result = shared_.fragments.add(p, now_ns_);
  if (result.discarded) bump(counters_.drop[result.reason], result.discarded);
  if (result.timed_out) bump(counters_.drop[SL_DROP_FRAGMENT_TIMEOUT], result.timed_out);
  if (result.evicted) bump(counters_.drop[SL_DROP_FRAGMENT_TABLE_FULL], result.evicted);
  switch (result.what) {
    case reassembly_table::outcome::held:
      counters_.add(SL_COUNTER_FRAGMENTS_HELD);
      free_frame(p);
      return;
    case reassembly_table::outcome::drop:
      drop(p, result.reason);
      return;
    case reassembly_table::outcome::use_verdict:
      follow_first_fragment(p, result.verdict);
      return;
    case reassembly_table::outcome::first: {
      session_ref r;
      if (shared_.sessions.find(p.key, p.hash, &r)) {
        // What comes after the first fragment finds its session by this verdict, whatever happens to the first.
        packet copy = p;
        fragment_verdict verdict{fragment_verdict::session, static_cast<uint8_t>(r.direction), r.index, r.s->incarnation, p.key};
        forward(p, r);
        decided_first_fragment(copy, verdict);
        return;
      }
      first_packet(p);
      return;
    }
  }
}

void pipeline::follow_first_fragment(packet& p, const fragment_verdict& verdict) {
  if (verdict.what == fragment_verdict::host) { to_host(p); return; }
  if (verdict.what == fragment_verdict::drop) { drop(p, SL_DROP_FRAGMENT_DENIED); return; }
  session_ref r;
  uint64_t h = shared_.sessions.hash_of(verdict.key);
  if (!shared_.sessions.find(verdict.key, h, &r)) { drop(p, SL_DROP_FRAGMENT_DENIED); return; }
  forward(p, r);
}

}  // namespace sluice
