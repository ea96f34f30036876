// SPDX-License-Identifier: Apache-2.0
// packet.h: a packet on its way through a worker, and the parser that fills it. One worker owns a packet from receive
// to transmit; nothing here is shared.
#pragma once
#include <cstdint>

#include "abi/dataplane.h"
#include "flow/key.h"

namespace sluice {

inline constexpr unsigned ethernet_bytes = 14, vlan_bytes = 4;
namespace ethertype { inline constexpr uint16_t ipv4 = 0x0800, ipv6 = 0x86dd, vlan = 0x8100; }
inline constexpr unsigned ipv4_bytes_min = 20, ipv6_bytes = 40, fragment_header_bytes = 8;
inline constexpr unsigned ipv4_bytes_reassembled_max = 65535;

enum ip_protocol : uint8_t { protocol_icmp = 1, protocol_tcp = 6, protocol_udp = 17, protocol_ipv6_fragment = 44, protocol_icmpv6 = 58 };
enum tcp_flag : uint8_t { tcp_fin = 1, tcp_syn = 2, tcp_rst = 4, tcp_psh = 8, tcp_ack = 16, tcp_urg = 32 };

// What the parser found out about a packet.
enum packet_flag : uint8_t {
  packet_fragment = 1,        // part of a fragmented datagram
  packet_fragment_first = 2,  // its first part: the layer-4 header is here
  packet_icmp_error = 4,      // ICMP or ICMPv6 error; `embedded_offset` says where the packet it is about begins
  packet_icmp_query = 8,      // echo or timestamp: the identifier stands in both ports
  packet_more_fragments = 16,
  packet_dont_fragment = 32,  // IPv4 DF, or IPv6
};

struct packet {
  uint8_t* data;              // the Ethernet header
  uint64_t address;           // of the frame in the worker's buffer area
  uint32_t length;            // bytes from `data`
  uint16_t interface_slot;    // logical interface it came in on
  uint16_t l3_offset;
  uint16_t l4_offset;         // behind options and extension headers
  uint16_t l3_length;         // bytes of the IP packet, header included; padding behind it is cut
  uint8_t ip_version;         // 4 or 6
  uint8_t flags;              // packet_flag
  uint8_t tcp_flags;
  uint8_t icmp_type, icmp_code;
  uint8_t checksum_partial;   // the port may deliver packets whose layer-4 checksum is not complete
  uint16_t fragment_offset;   // bytes
  uint16_t fragment_header_offset;  // IPv6: where its fragment header stands
  uint32_t fragment_id;
  flow_key key;
  uint64_t hash;

  uint8_t* l3() const { return data + l3_offset; }
  uint8_t* l4() const { return data + l4_offset; }
  unsigned l4_length() const { return l3_length - (l4_offset - l3_offset); }
  bool has_l4() const { return !(flags & packet_fragment) || (flags & packet_fragment_first); }
};

// Parses the IP packet at l3_offset (the Ethernet header, and a tag, have been taken off) and fills the rest.
// Returns SL_DROP_NONE or the reason why it must be dropped. Reads only inside [data, data + length).
// A partial checksum (see packet.checksum_partial) is completed in place; *completed is then set.
sl_drop_reason parse_ip(packet& p, bool* completed);

// Finds the layer-4 header behind an IPv6 packet's extension headers.
// offset: from the IPv6 header, in: 40, out: of the layer-4 header; limit: bytes available from the IPv6 header.
struct ipv6_chain { uint8_t protocol; uint16_t fragment_header_offset; bool fragment; bool more; uint16_t fragment_offset; uint32_t fragment_id; };
sl_drop_reason walk_ipv6_extensions(const uint8_t* ipv6, unsigned limit, unsigned* offset, ipv6_chain* chain);

// Is the layer-4 checksum right? Only for whole packets (no fragments). UDP over IPv4 may carry none.
bool l4_checksum_valid(const packet& p);

// The packet inside an ICMP error, as far as it is there.
struct embedded_packet {
  flow_key key;               // as it stands in the error: the direction in which it was sent
  uint16_t l3_offset, l4_offset;  // from the frame's start
  uint8_t ip_version;
  bool has_sequence;          // TCP: the first eight bytes are there
  uint32_t sequence;
  uint16_t available;         // bytes from l4_offset
};
sl_drop_reason parse_embedded(const packet& p, embedded_packet* out);

// Of the ICMP and ICMPv6 queries: echo and timestamp requests; the rest are replies.
inline bool is_icmp_request(uint8_t type) { return type == 8 || type == 13 || type == 128; }
// flow_key.kind of an ICMP query; what is neither query nor error has one that no session bears.
inline uint8_t icmp_kind(uint8_t type) { return type == 13 || type == 14; }
inline constexpr uint8_t icmp_kind_other = 2;

bool is_martian_source(const sl_address& a);
bool is_martian_destination(const sl_address& a);

}  // namespace sluice
