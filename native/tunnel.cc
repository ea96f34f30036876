// SPDX-License-Identifier: Apache-2.0
// tunnel.cc: packets through WireGuard tunnels. Part of `pipeline`: what is sealed and opened here is native/tunnel/wireguard's, this is the
// way there and back. In the order in which packets meet it:
//   in   1 is_for_tunnel   UDP to an address of ours and the port of a tunnel; before anything else is asked of it
//        2 arrive          a transport message waits for the rest of its batch; a handshake passes the gate, to TypeScript
//        3 open_arrived    the batch is decrypted in place; what was inside goes on in the same batch, as if the tunnel's interface had received it
//   out  4 enter_tunnel    emit() to a tunnel: the packet waits for the end of its batch
//        5 seal_entered    the batch, one peer after the other, is encrypted in place
//        6 way_to          the outer header's addresses and next hop, looked up once a snapshot and endpoint
//        7 send_outer      outer header, and out by a port; or held there, encrypted
//   host 8 from_host       packets of the host's own that its routes lead to tunnels
// A packet out of a tunnel gets an empty Ethernet header in front, in place of the message's, so that captures, fragments and what waits
// need no second way.
// Outer packets are the appliance's own: no rule, no session. DF is clear over IPv4, as the kernel's WireGuard does: what the path cannot
// carry is cut there rather than lost, and an ICMP error about it changes nothing.
#include <algorithm>

#include "packet/checksum.h"
#include "pipeline.h"

namespace sluice {
namespace {

constexpr unsigned udp_bytes = 8;
constexpr unsigned outer_bytes_v4 = ipv4_bytes_min + udp_bytes, outer_bytes_v6 = ipv6_bytes + udp_bytes;
constexpr unsigned before_message_bytes = ethernet_bytes + vlan_bytes + outer_bytes_v6 + wireguard_header_bytes;
static_assert(umem_headroom_bytes + ethernet_bytes >= before_message_bytes, "room for the outer header in front of any received packet");
static_assert(umem_headroom_bytes + ethernet_bytes + vlan_bytes + SL_FRAME_BYTES_MAX + wireguard_padding_bytes + wireguard_tag_bytes <= umem_frame_bytes, "and for padding and tag behind it");
constexpr uint8_t outer_ttl = 64;
constexpr uint8_t handshake_traffic_class = 0x88;  // AF41, as the kernel's WireGuard marks them
constexpr uint32_t ipv6_mtu_min = 1280;            // RFC 8200 section 5: no link may be smaller, nor a tunnel
constexpr size_t from_host_bytes_max = 65535;
constexpr uint16_t ethertype_ipv4 = 0x0800, ethertype_ipv6 = 0x86dd;

// DSCP and ECN of an IP packet.
uint8_t traffic_class_of(const uint8_t* ip) { return ip[0] >> 4 == 4 ? ip[1] : static_cast<uint8_t>(ip[0] << 4 | ip[1] >> 4); }

enum ecn : uint8_t { ecn_not_capable = 0, ecn_capable_1 = 1, ecn_capable_0 = 2, ecn_congested = 3 };

// RFC 6040 section 4.2: what the packet inside says after its outer header was taken off. False: it must be dropped.
bool combine_ecn(uint8_t* ip, uint8_t outer_class) {
  const uint8_t outer = outer_class & 3, inner = traffic_class_of(ip) & 3;
  if (outer == ecn_not_capable || outer == inner || inner == ecn_congested) return true;
  if (inner == ecn_not_capable) return outer != ecn_congested;
  if (outer == ecn_capable_0) return true;  // over ECT(1): stays
  if (ip[0] >> 4 == 4) {
    const uint16_t before = load16_raw(ip);
    ip[1] = static_cast<uint8_t>((ip[1] & ~3) | outer);
    checksum_apply(ip + 10, checksum_delta16(before, load16_raw(ip)));
  } else {
    ip[1] = static_cast<uint8_t>((ip[1] & ~0x30) | outer << 4);
  }
  return true;
}

// In front of a packet out of a tunnel, or into one that a capture copies; see the file's head.
void write_link_header(uint8_t* frame, uint8_t ip_version) {
  std::memset(frame, 0, 12);
  store16(frame + 12, ip_version == 6 ? ethertype_ipv6 : ethertype_ipv4);
}

// Writes UDP and IP headers in front of a message; returns the IP header. Both addresses are of one family.
uint8_t* write_outer(uint8_t* message, uint32_t bytes, uint8_t traffic_class, uint16_t id, const sl_address& source, uint16_t source_port, const sl_address& destination, uint16_t destination_port) {
  uint8_t* udp = message - udp_bytes;
  const uint32_t length = udp_bytes + bytes;
  store16(udp, source_port);
  store16(udp + 2, destination_port);
  store16(udp + 4, static_cast<uint16_t>(length));
  store16_raw(udp + 6, 0);
  if (is_ipv4(source)) {
    uint8_t* ip = udp - ipv4_bytes_min;
    ip[0] = 0x45;
    ip[1] = traffic_class;
    store16(ip + 2, static_cast<uint16_t>(ipv4_bytes_min + length));
    store16(ip + 4, id);
    store16_raw(ip + 6, 0);
    ip[8] = outer_ttl;
    ip[9] = protocol_udp;
    store16_raw(ip + 10, 0);
    std::memcpy(ip + 12, source.bytes + 12, 4);
    std::memcpy(ip + 16, destination.bytes + 12, 4);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, ipv4_bytes_min)));
    return ip;  // UDP over IPv4 may go without a checksum: each byte of the message is authenticated
  }
  uint8_t* ip = udp - ipv6_bytes;
  store32(ip, 0x60000000u | static_cast<uint32_t>(traffic_class) << 20);
  store16(ip + 4, static_cast<uint16_t>(length));
  ip[6] = protocol_udp;
  ip[7] = outer_ttl;
  std::memcpy(ip + 8, source.bytes, 16);
  std::memcpy(ip + 24, destination.bytes, 16);
  const uint16_t sum = checksum_finish(checksum_add(checksum_pseudo(ip + 8, 16, protocol_udp, length), udp, length));
  store16_raw(udp + 6, sum ? sum : 0xffff);
  return ip;
}

}  // namespace

// ---- 1, 2: a message to us ----------------------------------------------------------------------------------------------

// Before the parser: the UDP checksum of such a packet is of no interest, whole or partial. With IP options or extension headers, or in
// fragments, it is the host's.
bool pipeline::is_for_tunnel(const packet& p) const {
  const uint8_t* ip = p.l3();
  const unsigned available = p.length - p.l3_offset;
  sl_address to;
  if (p.ip_version == 4) {
    if (available < outer_bytes_v4 || ip[0] != 0x45 || ip[9] != protocol_udp || (load16(ip + 6) & 0x3fff) || !snap_->is_engine_port(load16(ip + 22))) return false;
    set_ipv4(to, ip + 16);
  } else {
    if (available < outer_bytes_v6 || ip[0] >> 4 != 6 || ip[6] != protocol_udp || !snap_->is_engine_port(load16(ip + 42))) return false;
    std::memcpy(to.bytes, ip + 24, sizeof to.bytes);
  }
  auto local = snap_->local.find(to);
  return local != snap_->local.end() && !(snap_->addresses[local->second].flags & SL_LOCAL_ENGINE);
}

// True: a transport message, which waits in arrived_[place]; otherwise the packet is done with.
bool pipeline::arrive(const packet& p, unsigned place) {
  packet& kept = arrived_[place] = p;
  uint8_t* message = kept.l4() + udp_bytes;
  const uint32_t bytes = load16(kept.l4() + 4) - udp_bytes;  // parse_ip: 8 at least, and there
  if (bytes < wireguard_overhead_bytes || load32_raw(message) != wireguard_transport) { take_handshake(kept, message, bytes); return false; }
  open_item& item = arriving_[place];
  item.message = message;
  item.length = bytes;
  item.from = {};
  item.from.address = p.key.src;
  item.from.local = p.key.dst;
  item.from.port = p.key.src_port;
  return true;
}

void pipeline::take_handshake(packet& p, const uint8_t* message, uint32_t bytes) {
  const wireguard_routes::tunnel& tunnel = *snap_->wireguard->listening(p.key.dst_port);
  uint8_t reply[before_message_bytes + wireguard_cookie_bytes];
  uint8_t* cookie = reply + before_message_bytes;
  sl_wireguard_endpoint from{};
  from.address = p.key.src;
  from.local = p.key.dst;
  from.port = p.key.src_port;
  const handshake_verdict verdict = shared_.wireguard->handshake(worker_, tunnel, message, bytes, from, now_ns_, cookie);
  if (verdict.answer) {
    const uint8_t* ip = write_outer(cookie, wireguard_cookie_bytes, handshake_traffic_class, ++outer_id_, p.key.dst, p.key.dst_port, p.key.src, p.key.src_port);
    answer(p, ip, static_cast<unsigned>(cookie + wireguard_cookie_bytes - ip));
    counters_.add(SL_COUNTER_WIREGUARD_COOKIES);
  }
  if (verdict.reason != SL_DROP_NONE) { drop(p, verdict.reason); return; }
  counters_.add(SL_COUNTER_WIREGUARD_HANDSHAKES);
  free_frame(p);
}

// ---- 3: what was inside ---------------------------------------------------------------------------------------------------

// Opens `count` messages of arrived_; what goes on stands in batch_ from place `kept` on. Returns the next free place.
unsigned pipeline::open_arrived(unsigned count, unsigned kept) {
  if (count == 0) return kept;
  shared_.wireguard->open(worker_, {arriving_, count}, now_ns_);
  for (unsigned i = 0; i < count; ++i) {
    packet& p = arrived_[i];
    const open_item& opened = arriving_[i];
    if (opened.reason != SL_DROP_NONE) { drop(p, opened.reason); continue; }
    counters_.add(SL_COUNTER_WIREGUARD_OPENED);
    if (opened.confirmed) shared_.adjacencies.touch();
    if (opened.packet_bytes == 0) { free_frame(p); continue; }  // a keepalive
    if (!leave_tunnel(p, opened)) continue;
    p.hash = shared_.sessions.hash_of(p.key);
    shared_.sessions.prefetch_bucket(p.hash);
    batch_[kept++] = p;
  }
  return kept;
}

// From the outer packet to the one inside, as the tunnel's interface received it. False: it was dropped.
bool pipeline::leave_tunnel(packet& p, const open_item& opened) {
  const wireguard_routes::tunnel& tunnel = *snap_->wireguard->listening(p.key.dst_port);
  const uint8_t outer_class = traffic_class_of(p.l3());
  // An index is one interface's: a message to another's port is a stranger's.
  if (opened.peer->interface_id != tunnel.interface_id) { drop(p, SL_DROP_WIREGUARD_UNKNOWN_INDEX); return false; }
  p.interface_slot = snap_->interface_slots[tunnel.interface];
  p.data = opened.packet - ethernet_bytes;
  p.length = ethernet_bytes + opened.packet_bytes;
  p.l3_offset = ethernet_bytes;
  p.ip_version = opened.packet[0] >> 4;
  write_link_header(p.data, p.ip_version);
  interface_counters& received = counters_.interface[p.interface_slot];
  bump(received.rx_packets);
  bump(received.rx_bytes, opened.packet_bytes);
  bool completed = false;
  if (p.ip_version != 4 && p.ip_version != 6) { drop(p, SL_DROP_MALFORMED_IPV4); return false; }
  if (sl_drop_reason reason = parse_ip(p, &completed); reason != SL_DROP_NONE) { drop(p, reason); return false; }
  if (tunnel.peer_of(p.key.src) != opened.peer->slot) { drop(p, SL_DROP_WIREGUARD_ALLOWED_IPS); return false; }
  if (!combine_ecn(p.l3(), outer_class)) { drop(p, SL_DROP_TUNNEL_CONGESTION); return false; }
  return true;
}

// ---- 4: into a tunnel ------------------------------------------------------------------------------------------------------

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
  const uint32_t outer = shared_.interfaces[way.interface_slot].mtu_bytes.load(std::memory_order_relaxed);
  return std::min(mtu_bytes, outer > overhead + ipv6_mtu_min ? outer - overhead : ipv6_mtu_min);
}

void pipeline::enter_tunnel(packet& p, uint32_t peer_slot, unsigned interface_slot) {
  interface_counters& sent = counters_.interface[interface_slot];
  bump(sent.tx_packets);
  bump(sent.tx_bytes, p.l3_length);
  entered_.push_back({p.l3(), p.l3_length, peer_slot, static_cast<uint16_t>(interface_slot)});
}

// ---- 5: encrypt ------------------------------------------------------------------------------------------------------------

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

// ---- 6: the way to a peer ----------------------------------------------------------------------------------------------------

// As this worker knows it; looked up anew with another snapshot or endpoint, and when its next hop is gone or its link is down.
pipeline::outer_way& pipeline::way_to(const wireguard_peer& peer) {
  if (peer.slot >= ways_.size()) ways_.resize(peer.slot + 1);
  outer_way& way = ways_[peer.slot];
  uint32_t version;
  const sl_wireguard_endpoint endpoint = peer.endpoint.load(&version);
  if (way.generation == snap_->generation && way.peer_id == peer.id && way.endpoint_version == version && (way.reason == SL_DROP_NONE ? is_usable(way) : way.reason != SL_DROP_LINK_DOWN)) return way;
  way = find_way(endpoint, peer.interface_id, peer.id * 0x9e3779b97f4a7c15ull >> 32);
  way.peer_id = peer.id;
  way.endpoint_version = version;
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

// ---- 7: out ------------------------------------------------------------------------------------------------------------------

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
  const uint32_t mtu = out.mtu_bytes.load(std::memory_order_relaxed);
  if (p.l3_length <= mtu) [[likely]] emit(p, *a, out);
  else if (p.ip_version == 4) emit_fragments(p, *a, out, mtu);
  else lost(SL_DROP_TOO_BIG);
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

// ---- 8: the host's own packets -------------------------------------------------------------------------------------------------

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
