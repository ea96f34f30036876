// SPDX-License-Identifier: Apache-2.0
// tunnel_host.cc: packets of the host's own that its routes lead to WireGuard tunnels. Part of `pipeline`; worker 0 takes them from the host's
// device, while there are tunnels. From there they go the way of all that enters a tunnel (tunnel_out.cc).
#include "pipeline.h"
#include "tunnel/outer.h"

namespace sluice {
namespace {

constexpr size_t from_host_bytes_max = 65535;

}  // namespace

unsigned pipeline::take_from_host(uint64_t now_ns) {
  if (!from_host_) from_host_ = std::make_unique<uint8_t[]>(from_host_bytes_max);
  begin(now_ns);
  if (!snap_ || !snap_->wireguard) return 0;
  if (!held_.empty()) release_due();
  unsigned taken = 0;
  for (; taken < batch_max; ++taken) {
    const size_t bytes = shared_.from_host(from_host_.get(), from_host_bytes_max);
    if (bytes == 0) break;
    route_from_host(from_host_.get(), bytes);
  }
  if (!entered_.empty()) seal_entered();
  return taken;
}

void pipeline::from_host(const uint8_t* packet, size_t bytes, uint64_t now_ns) {
  begin(now_ns);
  if (!snap_ || !snap_->wireguard || bytes > from_host_bytes_max) return;
  if (!held_.empty()) release_due();
  route_from_host(packet, bytes);
  if (!entered_.empty()) seal_entered();
}

// No rule and no session: what the host sends is the appliance's own. It goes to tunnels and nowhere else, and from our own addresses. It
// stands in no packet buffer: it may be as long as IP allows.
void pipeline::route_from_host(const uint8_t* bytes, size_t length) {
  counters_.add(SL_COUNTER_FROM_HOST_PACKETS);
  packet p{};
  p.data = const_cast<uint8_t*>(bytes);
  p.length = static_cast<uint32_t>(length);
  p.ip_version = bytes[0] >> 4;
  p.interface_slot = index_none;
  bool completed = false;
  auto refused = [&](sl_drop_reason reason) { bump(counters_.drop[reason]); };
  if (p.ip_version != 4 && p.ip_version != 6) { refused(SL_DROP_MALFORMED_IPV4); return; }
  if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { refused(reason); return; }
  auto ours = snap_->local.find(p.key.src);
  if (ours == snap_->local.end() || (snap_->addresses[ours->second].flags & SL_LOCAL_ENGINE)) { refused(SL_DROP_MARTIAN_SOURCE); return; }
  const sl_nexthop* hop = route_lookup(shared_, *snap_, p.key.dst, shared_.sessions.hash_of(p.key));
  if (!hop || hop->kind != SL_NEXTHOP_FORWARD || !snap_->is_tunnel(hop->interface)) { refused(SL_DROP_NO_ROUTE); return; }
  const wireguard_peer* peer = shared_.wireguard->peer(snap_->wireguard->of_interface(hop->interface)->peer_of(p.key.dst));
  if (!peer) { refused(SL_DROP_WIREGUARD_NO_PEER); return; }
  const unsigned slot = snap_->interface_slots[hop->interface];
  const uint32_t id = route_to(tunnel_next_hop(peer->id), slot, peer->slot);
  adjacency* a = shared_.adjacencies.get(id);
  if (!a) { refused(SL_DROP_NEIGHBOUR_UNRESOLVED); return; }
  a->used_ticks.store(now_ticks_, std::memory_order_relaxed);
  const interface_state& out = shared_.interfaces[slot];
  const uint32_t mtu = tunnel_mtu(*a, out.mtu_bytes.load(std::memory_order_relaxed));
  if (p.l3_length > mtu && (p.flags & packet_dont_fragment)) {
    refused(SL_DROP_TOO_BIG);
    if (!icmp_error_allowed(p) || !take_error_token() || !shared_.to_host) return;
    // As if the destination had sent it: the host would refuse one from an address of its own.
    uint8_t error[icmp_error_bytes_max];
    if (shared_.to_host(error, build_icmp_error(p, icmp_error::too_big, mtu, p.key.dst, error))) counters_.add(SL_COUNTER_ICMP_ERRORS_SENT);
    return;
  }
  if (!pool_.get(&p.address)) { refused(SL_DROP_UMEM_EXHAUSTED); return; }
  const bool reachable = is_reachable(*a);
  if (p.l3_length > mtu) {
    if (reachable) emit_fragments(p, *a, out, mtu);  // each piece in a buffer of its own
    else drop(p, SL_DROP_WIREGUARD_NO_SESSION);
    return;
  }
  p.data = area_.at(p.address) + umem_headroom_bytes + before_message_bytes;
  std::memcpy(p.data, bytes, p.l3_length);
  p.length = p.l3_length;
  p.address = static_cast<uint64_t>(p.data - area_.base());
  if (reachable) emit(p, *a, out);
  else hold(p, id, *a, {}, true);
}

}  // namespace sluice
