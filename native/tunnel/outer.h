// SPDX-License-Identifier: Apache-2.0
// outer.h: the headers around a tunnel's messages, and the room that they need in a packet buffer. Pure: bytes in, bytes out. Who: tunnel_in.cc,
// tunnel_out.cc, tunnel_host.cc.
// Outer packets are the appliance's own: no rule, no session. DF is clear over IPv4, as the kernel's WireGuard does: what the path cannot
// carry is cut there rather than lost, and an ICMP error about it changes nothing. Over IPv6 one may (pipeline::narrow_path).
#pragma once
#include <cstdint>
#include <cstring>

#include "io/xsk.h"
#include "packet/bytes.h"
#include "packet/checksum.h"
#include "packet/packet.h"
#include "tunnel/wireguard.h"

namespace sluice {

inline constexpr unsigned udp_bytes = 8;
inline constexpr unsigned outer_bytes_v4 = ipv4_bytes_min + udp_bytes, outer_bytes_v6 = ipv6_bytes + udp_bytes;
inline constexpr unsigned before_message_bytes = ethernet_bytes + vlan_bytes + outer_bytes_v6 + wireguard_header_bytes;
static_assert(umem_headroom_bytes + ethernet_bytes >= before_message_bytes, "room for the outer header in front of any received packet");
static_assert(umem_headroom_bytes + ethernet_bytes + vlan_bytes + SL_FRAME_BYTES_MAX + wireguard_padding_bytes + wireguard_tag_bytes <= umem_frame_bytes, "and for padding and tag behind it");
inline constexpr uint8_t outer_ttl = 64;
inline constexpr uint8_t handshake_traffic_class = 0x88;  // AF41, as the kernel's WireGuard marks them

// DSCP and ECN of an IP packet.
inline uint8_t traffic_class_of(const uint8_t* ip) { return ip[0] >> 4 == 4 ? ip[1] : static_cast<uint8_t>(ip[0] << 4 | ip[1] >> 4); }

// In front of a packet out of a tunnel, or into one that a capture copies; see the file's head.
inline void write_link_header(uint8_t* frame, uint8_t ip_version) {
  std::memset(frame, 0, 12);
  store16(frame + 12, ip_version == 6 ? 0x86dd : 0x0800);
}

// Writes UDP and IP headers in front of a message; returns the IP header. Both addresses are of one family.
inline uint8_t* write_outer(uint8_t* message, uint32_t bytes, uint8_t traffic_class, uint16_t id, const sl_address& source, uint16_t source_port, const sl_address& destination, uint16_t destination_port) {
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

}  // namespace sluice
