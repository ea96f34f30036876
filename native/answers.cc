// SPDX-License-Identifier: Apache-2.0
// answers.cc: what the engine says itself. Part of `pipeline`: refusals, our own ICMP errors and resets (rate-limited), packets for the
// host's stack, fragments whose first one was decided.
#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {

void pipeline::refuse(packet& p, const decision& d) {
  if (d.rule != classifier::no_rule) snap_->rule_counters[d.rule]->hits.fetch_add(1, std::memory_order_relaxed);
  if (d.reason == SL_DROP_POLICY_REJECT) {
    if (p.key.protocol == protocol_tcp && p.has_l4()) {
      uint8_t reset[ipv6_bytes + 20];
      if (unsigned length = build_tcp_reset(p, reset); length && take_error_token()) {
        answer(p, reset, length);
        counters_.add(SL_COUNTER_TCP_RESETS_SENT);
      }
    } else {
      send_error(p, icmp_error::prohibited);
    }
  } else if (d.unreachable) {
    send_error(p, icmp_error::no_route);
  }
  // A rule, or the default, may say that what it stops is only counted.
  bool policy = d.reason == SL_DROP_POLICY_DENY || d.reason == SL_DROP_POLICY_REJECT;
  bool record = !policy || (d.rule != classifier::no_rule ? snap_->rules[d.rule].log != 0 : snap_->settings.default_log != 0);
  drop(p, d.reason, cause_of(d), record);
}

// peer_slot: whose the next hop is, when it lies behind a tunnel.
uint32_t pipeline::route_to(const sl_address& next_hop, unsigned interface_slot, uint32_t peer_slot) {
  bool created;
  uint32_t id = shared_.adjacencies.find_or_create(interface_slot, next_hop, now_ticks_, &created);
  if (peer_slot != wireguard_peer_none) {
    if (created) shared_.adjacencies.set_peer_slot(id, peer_slot);
  } else if (created && shared_.resolve) {
    shared_.adjacencies.get(id)->asked_ticks.store(now_ticks_, std::memory_order_relaxed);
    shared_.resolve(shared_.interfaces[interface_slot].kernel_ifindex.load(std::memory_order_relaxed), next_hop);
  }
  return id;
}

bool pipeline::take_error_token() {
  uint32_t rate = snap_->settings.icmp_errors_per_second;
  if (rate == 0) return false;
  uint64_t per_error_ns = 1'000'000'000ull / rate, burst_ns = 200'000'000 + per_error_ns;
  if (error_tokens_ns_ + burst_ns < now_ns_) error_tokens_ns_ = now_ns_ - burst_ns;
  if (error_tokens_ns_ + per_error_ns > now_ns_) { counters_.add(SL_COUNTER_ICMP_ERRORS_SUPPRESSED); return false; }
  error_tokens_ns_ += per_error_ns;
  return true;
}

void pipeline::send_error(packet& p, icmp_error kind, uint32_t mtu_bytes) {
  if (!icmp_error_allowed(p) || snap_->broadcasts.contains(p.key.dst) || snap_->broadcasts.contains(p.key.src)) return;
  // From the address of the interface that the packet came in on (RFC 1812 section 4.3.2.4).
  uint16_t index = snap_->slot_interfaces[p.interface_slot];
  const sl_address* source = nullptr;
  for (const sl_interface_address& a : snap_->addresses) {
    if (is_ipv4(a.address) != (p.ip_version == 4) || (a.flags & SL_LOCAL_ENGINE)) continue;
    if (!source || a.interface == index) source = &a.address;
    if (a.interface == index) break;
  }
  if (!source || !take_error_token()) return;
  uint8_t error[icmp_error_bytes_max];
  answer(p, error, build_icmp_error(p, kind, mtu_bytes, *source, error));
  counters_.add(SL_COUNTER_ICMP_ERRORS_SENT);
}

// Sends a packet of ours back to where `p` came from: same interface, same link address; or to the tunnel's peer that has the source.
void pipeline::answer(packet& p, const uint8_t* ip_packet, unsigned length) {
  uint64_t address;
  if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); return; }
  packet reply{};
  reply.address = address + umem_headroom_bytes;
  reply.data = area_.at(reply.address);
  reply.l3_offset = ethernet_bytes + vlan_bytes;
  reply.l3_length = static_cast<uint16_t>(length);
  reply.ip_version = p.ip_version;
  std::memcpy(reply.l3(), ip_packet, length);
  adjacency back;
  uint64_t mac = 0;
  const interface_state& out = shared_.interfaces[p.interface_slot];
  if (out.port_slot.load(std::memory_order_relaxed) == port_slot_tunnel) {
    const wireguard_routes::tunnel* tunnel = snap_->wireguard ? snap_->wireguard->of_interface(snap_->slot_interfaces[p.interface_slot]) : nullptr;
    mac = tunnel ? tunnel->peer_of(p.key.src) : wireguard_peer_none;
  } else {
    std::memcpy(&mac, p.data + 6, 6);
  }
  back.mac.store(mac, std::memory_order_relaxed);
  back.interface_slot = p.interface_slot;
  emit(reply, back, out);
}

void pipeline::to_host(packet& p) {
  if (shared_.to_host && shared_.to_host(p.l3(), p.l3_length)) {
    counters_.add(SL_COUNTER_HOST_PACKETS);
    free_frame(p);
  } else {
    drop(p, SL_DROP_HOST_QUEUE_FULL);
  }
}

// The first fragment's fate is known: those that waited for it follow.
void pipeline::decided_first_fragment(packet& first, const fragment_verdict& verdict) {
  if (!(first.flags & packet_fragment_first)) return;
  const packet_fate fate = fate_;  // the first one's; what becomes of the others is not its fate
  for (const held_fragment& held : shared_.fragments.decided(first, verdict)) {
    uint64_t address;
    if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); continue; }
    packet p{};
    p.address = address + umem_headroom_bytes;
    p.data = area_.at(p.address);
    p.length = static_cast<uint32_t>(held.frame.size());
    p.interface_slot = held.interface_slot;
    p.l3_offset = held.l3_offset;
    std::memcpy(p.data, held.frame.data(), held.frame.size());
    p.ip_version = p.l3()[0] >> 4;
    bool completed = false;
    if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { drop(p, reason); continue; }
    follow_first_fragment(p, verdict);
  }
  fate_ = fate;
}

}  // namespace sluice
