// SPDX-License-Identifier: Apache-2.0
// icmp.h: builds ICMP and ICMPv6 errors and TCP resets about a packet. Pure: bytes in, bytes out.
// Sizes: RFC 1812 section 4.3.2.3 (an IPv4 error is at most 576 bytes), RFC 4443 section 2.4 c (at most 1,280).
#pragma once
#include <cstdint>

#include "packet/packet.h"

namespace sluice {

enum class icmp_error : uint8_t { ttl_expired, no_route, host_unreachable, prohibited, too_big, port_unreachable };

inline constexpr unsigned icmp_error_bytes_max = 1280;

// May an error be sent about this packet at all (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e)?
bool icmp_error_allowed(const packet& about);

// Writes an IP packet (no Ethernet header) of at most icmp_error_bytes_max to `out`; returns its length.
// source: the address of ours it is sent from; mtu_bytes: only for too_big.
unsigned build_icmp_error(const packet& about, icmp_error kind, uint32_t mtu_bytes, const sl_address& source, uint8_t* out);

// The RST that answers a TCP segment of a rejected connection (RFC 9293 section 3.5.2), as if the destination had sent
// it. Returns its length, 0 when none may be sent (the segment was a RST itself).
unsigned build_tcp_reset(const packet& about, uint8_t* out);

}  // namespace sluice
