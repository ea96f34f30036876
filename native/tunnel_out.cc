// SPDX-License-Identifier: Apache-2.0
// tunnel_out.cc: packets into WireGuard tunnels. Part of `pipeline`: what is sealed here is native/tunnel/wireguard's, this is the way there and
// from there. In the order in which packets meet it:
//   1 enter_tunnel    emit() to a tunnel: the packet waits for the end of its batch
//   2 seal_entered    the batch, one peer after the other, is encrypted in place
//   3 way_to          the outer header's addresses and next hop, looked up once a snapshot and endpoint
//   4 send_outer      outer header, and out by a port; or held there, encrypted
//   5 narrow_path     what a router on the way says about its MTU, over IPv6
#include <algorithm>

#include "pipeline.h"
#include "tunnel/outer.h"

namespace sluice {
namespace {

constexpr uint32_t ipv6_mtu_min = 1280;  // RFC 8200 section 5: no link may be smaller, nor a tunnel
constexpr uint64_t path_ns = 600'000'000'000;  // RFC 8201 section 4: after ten minutes, larger packets are tried again
// Each such error that passes cheap checks is looked for among all peers: so many a second and worker, at once a burst.
constexpr uint64_t path_error_ns = 100'000'000, path_errors_burst_ns = 1'000'000'000;

}  // namespace

// ---- 1: into a tunnel ------------------------------------------------------------------------------------------------------

// The peer that a next hop through a tunnel stands for; nullptr: it is gone.
wireguard_peer* pipeline::peer_of(const adjacency& a) const {
  wireguard_peer* peer = shared_.wireguard->peer(static_cast<uint32_t>(a.mac.load(std::memory_order_relaxed)));
  return peer && peer->id == tunnel_peer_id(a.address) ? peer : nullptr;
}

// What fits into a packet to the peer: the tunnel's MTU, or less where the way to the peer is narrower.
uint32_t pipeline::tunnel_mtu(const adjacency& a, uint32_t mtu_bytes) {
  const uint32_t slot = static_cast<uint32_t>(a.mac.load(std::memory_order_relaxed));
  const outer_way* way = slot < ways_.size() ? &ways_[slot] : nullptr;
  if (!way || way->generation != snap_->generation) {
    const wireguard_peer* peer = peer_of(a);
    if (!peer) return mtu_bytes;
    way = &way_to(*peer);
  }
  return inner_mtu(*way, mtu_bytes);
}

uint32_t pipeline::inner_mtu(const outer_way& way, uint32_t mtu_bytes) const {
  if (way.reason != SL_DROP_NONE) return mtu_bytes;
  const uint32_t overhead = (is_ipv4(way.destination) ? outer_bytes_v4 : outer_bytes_v6) + wireguard_overhead_bytes;
  const uint32_t outer = outer_mtu(way);
  return std::min(mtu_bytes, outer > overhead + ipv6_mtu_min ? outer - overhead : ipv6_mtu_min);
}

uint32_t pipeline::outer_mtu(const outer_way& way) const {
  const uint32_t link = shared_.interfaces[way.interface_slot].mtu_bytes.load(std::memory_order_relaxed);
  return way.path.bytes && now_ns_ < way.path.until_ns ? std::min(link, way.path.bytes) : link;
}

void pipeline::enter_tunnel(packet& p, uint32_t peer_slot, unsigned interface_slot) {
  interface_counters& sent = counters_.interface[interface_slot];
  bump(sent.tx_packets);
  bump(sent.tx_bytes, p.l3_length);
  entered_.push_back({p.l3(), p.l3_length, peer_slot, static_cast<uint16_t>(interface_slot)});
}

// ---- 2: encrypt ------------------------------------------------------------------------------------------------------------

// One peer's packets after another's: its keys stay in the cache. Packets of one peer keep their order.
void pipeline::seal_entered() {
  for (size_t i = 1; i < entered_.size(); ++i)  // mostly sorted already: a batch is mostly for one peer
    for (size_t at = i; at > 0 && entered_[at - 1].peer_slot > entered_[at].peer_slot; --at) std::swap(entered_[at - 1], entered_[at]);
  for (size_t at = 0; at < entered_.size(); at += batch_max) seal_some(std::span(entered_).subspan(at, std::min<size_t>(batch_max, entered_.size() - at)));
  entered_.clear();
}

void pipeline::seal_some(std::span<const entered_packet> entered) {
  seal_item items[batch_max];
  uint32_t slots[batch_max];
  uint8_t classes[batch_max];
  unsigned count = 0;
  const wireguard_peer* peer = nullptr;
  wireguard_session* session = nullptr;
  uint32_t slot = wireguard_peer_none;
  sl_drop_reason reason = SL_DROP_WIREGUARD_NO_SESSION;
  const size_t sent = output_.size();
  for (const entered_packet& e : entered) {
    if (e.peer_slot != slot) {
      slot = e.peer_slot;
      peer = shared_.wireguard->peer(slot);
      session = peer ? peer->sending(now_ns_) : nullptr;
      reason = session ? way_to(*peer).reason : SL_DROP_WIREGUARD_NO_SESSION;
    }
    if (reason != SL_DROP_NONE) { drop_entered(e, reason); continue; }
    if (captures_ && e.bytes) [[unlikely]] {
      uint8_t* link = e.packet - ethernet_bytes;
      write_link_header(link, e.packet[0] >> 4);
      fate_ = {};
      capture_done(capture(link, ethernet_bytes + e.bytes, e.interface_slot, SL_CAPTURE_OUT, now_ns_));
    }
    slots[count] = slot;
    classes[count] = e.bytes ? traffic_class_of(e.packet) : uint8_t{0};
    items[count++] = {e.packet, e.bytes, inner_mtu(ways_[slot], shared_.interfaces[e.interface_slot].mtu_bytes.load(std::memory_order_relaxed)), session, nullptr, 0};
  }
  shared_.wireguard->seal(worker_, {items, count}, now_ns_);
  counters_.add(SL_COUNTER_WIREGUARD_SEALED, count);
  for (unsigned i = 0; i < count; ++i) {
    if (items[i].message_bytes == 0) [[unlikely]] drop_entered({items[i].packet, items[i].length, slots[i], index_none}, SL_DROP_WIREGUARD_NO_SESSION);
    else send_outer(items[i].message, items[i].message_bytes, classes[i], ways_[slots[i]]);
  }
  if (captures_) [[unlikely]] capture_sent(sent);
}

void pipeline::drop_entered(const entered_packet& e, sl_drop_reason reason) {
  packet p{};
  p.data = e.packet;
  p.address = static_cast<uint64_t>(e.packet - area_.base());
  p.length = e.bytes;
  p.interface_slot = index_none;  // where it came in is forgotten
  p.ip_version = e.bytes ? e.packet[0] >> 4 : 0;
  bool completed = false;
  if (e.bytes) parse_ip(p, &completed);  // whose it was, for the record
  drop(p, reason);
}

// ---- 3: the way to a peer ----------------------------------------------------------------------------------------------------

// As this worker knows it; looked up anew with another snapshot or endpoint, and when its next hop is gone or its link is down.
pipeline::outer_way& pipeline::way_to(const wireguard_peer& peer) {
  if (peer.slot >= ways_.size()) ways_.resize(peer.slot + 1);
  outer_way& way = ways_[peer.slot];
  uint32_t version;
  path_mtu path;
  const sl_wireguard_endpoint endpoint = peer.endpoint.load(&version, &path);
  if (way.generation == snap_->generation && way.peer_id == peer.id && way.endpoint_version == version && (way.reason == SL_DROP_NONE ? is_usable(way) : way.reason != SL_DROP_LINK_DOWN)) return way;
  way = find_way(endpoint, peer.interface_id, peer.id * 0x9e3779b97f4a7c15ull >> 32);
  way.peer_id = peer.id;
  way.endpoint_version = version;
  way.path = path;
  return way;
}

bool pipeline::is_usable(const outer_way& way) {
  if (!shared_.adjacencies.get(way.adjacency)) return false;
  const interface_state& out = shared_.interfaces[way.interface_slot];
  return out.up.load(std::memory_order_relaxed) && out.port_slot.load(std::memory_order_relaxed) < SL_PORTS_MAX;
}

pipeline::outer_way pipeline::find_way(const sl_wireguard_endpoint& endpoint, uint32_t interface_id, uint64_t flow_hash) {
  outer_way way;
  way.generation = snap_->generation;
  way.destination = endpoint.address;
  way.destination_port = endpoint.port;
  for (const wireguard_routes::tunnel& t : snap_->wireguard->tunnels()) if (t.interface_id == interface_id) way.source_port = t.listen_port;
  if (endpoint.port == 0 || is_unspecified(endpoint.address) || way.source_port == 0) { way.reason = SL_DROP_WIREGUARD_NO_SESSION; return way; }
  // By a port only: through a tunnel, its own packets would come round again.
  const sl_nexthop* hop = route_lookup(shared_, *snap_, endpoint.address, flow_hash);
  if (!hop || hop->kind != SL_NEXTHOP_FORWARD || snap_->is_tunnel(hop->interface)) { way.reason = SL_DROP_NO_ROUTE; return way; }
  // From the address that the peer knows us by, while we have it; else from the egress interface's, or any of ours.
  auto ours = snap_->local.find(endpoint.local);
  const bool v4 = is_ipv4(endpoint.address);
  if (ours != snap_->local.end() && !(snap_->addresses[ours->second].flags & SL_LOCAL_ENGINE) && is_ipv4(endpoint.local) == v4) {
    way.source = endpoint.local;
  } else {
    for (const sl_interface_address& a : snap_->addresses) {
      if (is_ipv4(a.address) != v4 || (a.flags & SL_LOCAL_ENGINE)) continue;
      if (is_unspecified(way.source) || a.interface == hop->interface) way.source = a.address;
      if (a.interface == hop->interface) break;
    }
  }
  if (is_unspecified(way.source)) { way.reason = SL_DROP_NO_ROUTE; return way; }
  way.interface_slot = snap_->interface_slots[hop->interface];
  way.adjacency = route_to(is_unspecified(hop->via) ? endpoint.address : hop->via, way.interface_slot);
  if (way.adjacency == adjacency_none) way.reason = SL_DROP_NEIGHBOUR_UNRESOLVED;
  else if (!is_usable(way)) way.reason = SL_DROP_LINK_DOWN;
  return way;
}

// ---- 4: out ------------------------------------------------------------------------------------------------------------------

void pipeline::send_outer(uint8_t* message, uint32_t bytes, uint8_t traffic_class, const outer_way& way) {
  packet p{};
  p.data = write_outer(message, bytes, traffic_class, ++outer_id_, way.source, way.source_port, way.destination, way.destination_port);
  p.address = static_cast<uint64_t>(p.data - area_.base());
  p.length = static_cast<uint32_t>(message + bytes - p.data);
  p.l3_length = static_cast<uint16_t>(p.length);
  p.ip_version = is_ipv4(way.source) ? 4 : 6;
  p.l4_offset = p.ip_version == 4 ? ipv4_bytes_min : ipv6_bytes;
  p.interface_slot = index_none;
  auto lost = [&](sl_drop_reason reason) {
    p.key.src = way.source;
    p.key.dst = way.destination;
    p.key.src_port = way.source_port;
    p.key.dst_port = way.destination_port;
    p.key.protocol = protocol_udp;
    drop(p, reason);
  };
  adjacency* a = shared_.adjacencies.get(way.adjacency);
  if (!a) { lost(SL_DROP_NEIGHBOUR_UNRESOLVED); return; }
  if (a->used_ticks.load(std::memory_order_relaxed) != now_ticks_) a->used_ticks.store(now_ticks_, std::memory_order_relaxed);
  const interface_state& out = shared_.interfaces[a->interface_slot];
  if (!(a->mac.load(std::memory_order_relaxed) & adjacency::resolved_bit)) [[unlikely]] {
    p.key.src = way.source;
    p.key.dst = way.destination;
    hold(p, way.adjacency, *a, {}, true);
    return;
  }
  const uint32_t mtu = outer_mtu(way);
  if (p.l3_length <= mtu) [[likely]] emit(p, *a, out);
  else if (p.ip_version == 4) emit_fragments(p, *a, out, mtu);
  else emit_outer_fragments(p, *a, out, mtu);
}

// RFC 8200 section 4.5: a tunnel must carry 1,280 bytes, also where that makes more of them than the path does. Nothing stands between the IPv6
// header and the message's UDP.
void pipeline::emit_outer_fragments(packet& p, adjacency& a, const interface_state& out, unsigned mtu_bytes) {
  const unsigned payload = p.l3_length - ipv6_bytes, step = (mtu_bytes - ipv6_bytes - fragment_header_bytes) & ~7u;
  // RFC 7739: not to be guessed from the one before.
  const auto id = static_cast<uint32_t>(hash_mix(shared_.seed ^ ++outer_fragmented_, worker_ + 0x9e3779b97f4a7c15ull));
  for (unsigned at = 0; at < payload; at += step) {
    const unsigned part = std::min(step, payload - at);
    uint64_t address;
    if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); break; }
    packet piece = p;
    piece.address = address + umem_headroom_bytes;
    piece.data = area_.at(piece.address);
    piece.l3_offset = ethernet_bytes + vlan_bytes;
    uint8_t* const to = piece.l3();
    std::memcpy(to, p.l3(), ipv6_bytes);
    to[6] = protocol_ipv6_fragment;
    store16(to + 4, static_cast<uint16_t>(fragment_header_bytes + part));
    uint8_t* const header = to + ipv6_bytes;
    header[0] = protocol_udp;
    header[1] = 0;
    store16(header + 2, static_cast<uint16_t>(at | (at + part < payload ? 1u : 0u)));  // a multiple of eight, and "more"
    store32(header + 4, id);
    std::memcpy(header + fragment_header_bytes, p.l3() + ipv6_bytes + at, part);
    piece.l3_length = static_cast<uint16_t>(ipv6_bytes + fragment_header_bytes + part);
    piece.flags |= packet_fragment;
    emit(piece, a, out);
  }
  free_frame(p);
}

bool pipeline::send_message(uint32_t interface_id, uint32_t peer_slot, std::span<const uint8_t> message, const sl_wireguard_endpoint* endpoint, uint64_t now_ns) {
  begin(now_ns);
  wireguard_peer* peer = shared_.wireguard->peer(peer_slot);
  if (!snap_ || !snap_->wireguard || message.size() > wireguard_handshake_bytes_max || (!peer && !endpoint)) return false;
  const bool keepalive = message.empty();
  if (keepalive && (!peer || !peer->sending(now_ns))) return false;
  outer_way way = endpoint && !keepalive ? find_way(*endpoint, interface_id, 0) : way_to(*peer);
  uint64_t address;
  if (way.reason != SL_DROP_NONE) return false;
  if (!pool_.get(&address)) { bump(counters_.drop[SL_DROP_UMEM_EXHAUSTED]); return false; }
  uint8_t* at = area_.at(address) + umem_headroom_bytes + before_message_bytes;
  if (keepalive) {
    entered_.push_back({at, 0, peer->slot, 0});
    seal_entered();
    return true;
  }
  std::memcpy(at, message.data(), message.size());
  const size_t sent = output_.size();
  send_outer(at, static_cast<uint32_t>(message.size()), handshake_traffic_class, way);
  if (captures_) capture_sent(sent);
  if (peer) peer->count_sent(static_cast<uint32_t>(message.size()));
  return true;
}

// ---- 5: what the way carries -------------------------------------------------------------------------------------------------

// An ICMPv6 Packet Too Big. True: it quotes a message that we sent, and is done with. IPv4 has none that matters: DF is clear.
// RFC 8201 section 4: never below 1,280, and only less than what the quoted packet had.
bool pipeline::narrow_path(const packet& p, const embedded_packet& quoted) {
  if (quoted.ip_version != 6 || quoted.key.protocol != protocol_udp || !snap_->wireguard || !snap_->is_engine_port(quoted.key.src_port)) return false;
  if (quoted.available < udp_bytes + wireguard_header_bytes) return false;
  const uint32_t bytes = load32(p.l4() + 4), sent = ipv6_bytes + load16(p.data + quoted.l3_offset + 4);
  if (bytes < ipv6_mtu_min || bytes >= sent) return false;
  if (path_tokens_ns_ + path_errors_burst_ns < now_ns_) path_tokens_ns_ = now_ns_ - path_errors_burst_ns;
  if (path_tokens_ns_ + path_error_ns > now_ns_) return false;
  path_tokens_ns_ += path_error_ns;
  wireguard_peer* peer = shared_.wireguard->sent_to(quoted.key.dst, quoted.key.dst_port, p.data + quoted.l4_offset + udp_bytes);
  if (!peer) return false;
  peer->endpoint.narrow(quoted.key.dst, {bytes, now_ns_ + path_ns}, now_ns_);
  return true;
}

}  // namespace sluice
