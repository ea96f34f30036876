// SPDX-License-Identifier: Apache-2.0
// tunnel_in.cc: packets out of WireGuard tunnels. Part of `pipeline`: what is opened here is native/tunnel/wireguard's, this is the way there and
// back. In the order in which packets meet it:
//   1 is_for_tunnel   UDP to an address of ours and the port of a tunnel; before anything else is asked of it
//   2 arrive          a transport message waits for the rest of its batch; a handshake passes the gate, to TypeScript
//   3 open_arrived    the batch is decrypted in place; what was inside goes on in the same batch, as if the tunnel's interface had received it
// A packet out of a tunnel gets an empty Ethernet header in front, in place of the message's, so that captures, fragments and what waits
// need no second way.
#include "packet/checksum.h"
#include "pipeline.h"
#include "tunnel/outer.h"

namespace sluice {
namespace {

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

}  // namespace sluice
