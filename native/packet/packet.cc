// SPDX-License-Identifier: Apache-2.0
// packet.cc: the parser. Order of reading: IP header → extension headers → fragment → layer 4. Every length is checked
// before a byte is read; a reason is returned instead of a guess.
#include "packet/packet.h"

#include "packet/checksum.h"

namespace sluice {
namespace {

constexpr uint8_t ipv6_hop_by_hop = 0, ipv6_routing = 43, ipv6_authentication = 51, ipv6_no_next = 59,
                  ipv6_destination = 60, ipv6_mobility = 135;

// Flag combinations that no stack sends: no flag at all, SYN with FIN or RST, FIN without ACK, RST with FIN, all lit.
bool tcp_flags_sane(uint8_t flags) {
  uint8_t core = flags & (tcp_fin | tcp_syn | tcp_rst | tcp_ack);
  switch (core) {
    case tcp_syn: case tcp_syn | tcp_ack: case tcp_ack: case tcp_rst: case tcp_rst | tcp_ack: case tcp_fin | tcp_ack:
      return true;
    default:
      return false;
  }
}

sl_drop_reason parse_tcp(packet& p, unsigned available) {
  if (available < 20) return SL_DROP_MALFORMED_L4;
  const uint8_t* tcp = p.l4();
  unsigned header = (tcp[12] >> 4) * 4u;
  if (header < 20 || header > available) return SL_DROP_MALFORMED_L4;
  p.key.src_port = load16(tcp);  // of a scan's packets, too: the record of the drop names them
  p.key.dst_port = load16(tcp + 2);
  p.tcp_flags = tcp[13] & 0x3f;
  if (!tcp_flags_sane(p.tcp_flags)) return SL_DROP_TCP_BAD_FLAGS;
  if (p.key.src_port == 0 || p.key.dst_port == 0) return SL_DROP_MALFORMED_L4;
  return SL_DROP_NONE;
}

sl_drop_reason parse_udp(packet& p, unsigned available) {
  if (available < 8) return SL_DROP_MALFORMED_L4;
  const uint8_t* udp = p.l4();
  unsigned length = load16(udp + 4);
  // The first fragment names the length of the whole datagram; a whole packet must hold what it names.
  if (length < 8 || (!(p.flags & packet_fragment) && length > available)) return SL_DROP_MALFORMED_L4;
  if (p.ip_version == 6 && load16_raw(udp + 6) == 0) return SL_DROP_CHECKSUM_L4;  // RFC 8200 section 8.1
  p.key.src_port = load16(udp);
  p.key.dst_port = load16(udp + 2);
  if (p.key.dst_port == 0) return SL_DROP_MALFORMED_L4;
  return SL_DROP_NONE;
}

sl_drop_reason parse_icmp(packet& p, unsigned available) {
  if (available < 8) return SL_DROP_MALFORMED_L4;
  const uint8_t* icmp = p.l4();
  p.icmp_type = icmp[0];
  p.icmp_code = icmp[1];
  bool v6 = p.key.protocol == protocol_icmpv6;
  bool query = v6 ? (p.icmp_type == 128 || p.icmp_type == 129)
                  : (p.icmp_type == 0 || p.icmp_type == 8 || p.icmp_type == 13 || p.icmp_type == 14);
  bool error = v6 ? p.icmp_type < 128 : (p.icmp_type == 3 || p.icmp_type == 4 || p.icmp_type == 5 || p.icmp_type == 11 || p.icmp_type == 12);
  if (query) {
    p.flags |= packet_icmp_query;
    p.key.src_port = p.key.dst_port = load16(icmp + 4);
    p.key.kind = v6 ? 0 : icmp_kind(p.icmp_type);
  } else if (error) {
    // An error's fragments would hide what it is about; nobody sends them (RFC 1812 section 4.3.2.3 bounds its size).
    if (p.flags & packet_fragment) return SL_DROP_FRAGMENT_MALFORMED;
    p.flags |= packet_icmp_error;
  } else {
    p.key.kind = icmp_kind_other;  // without it, it would look like an echo with identifier 0
  }
  return SL_DROP_NONE;
}

// A packet born on this machine carries the pseudo-header's sum only (CHECKSUM_PARTIAL); finish it, or leave a right one.
void complete_checksum(packet& p, bool* completed) {
  unsigned length = p.l4_length();
  unsigned field;
  if (p.key.protocol == protocol_tcp) field = 16;
  else if (p.key.protocol == protocol_udp) field = 6, length = load16(p.l4() + 4);
  else if (p.key.protocol == protocol_icmpv6) field = 2;
  else return;
  unsigned address_bytes = p.ip_version == 4 ? 4 : 16;
  const uint8_t* addresses = p.ip_version == 4 ? p.l3() + 12 : p.l3() + 8;
  uint64_t pseudo = checksum_pseudo(addresses, address_bytes, p.key.protocol, length);
  uint8_t* at = p.l4() + field;
  if (load16_raw(at) != checksum_fold(pseudo)) return;
  if (checksum_fold(checksum_add(pseudo, p.l4(), length)) == 0xffff) return;  // right as it is, by chance
  store16_raw(at, 0);
  uint16_t sum = checksum_finish(checksum_add(pseudo, p.l4(), length));
  if (sum == 0 && p.key.protocol == protocol_udp) sum = 0xffff;
  store16_raw(at, sum);
  *completed = true;
}

sl_drop_reason parse_l4(packet& p, bool* completed) {
  if (!p.has_l4()) return SL_DROP_NONE;
  unsigned available = p.l4_length();
  sl_drop_reason reason = SL_DROP_NONE;
  if (p.key.protocol == protocol_tcp) reason = parse_tcp(p, available);
  else if (p.key.protocol == protocol_udp) reason = parse_udp(p, available);
  else if (p.key.protocol == protocol_icmp && p.ip_version == 4) reason = parse_icmp(p, available);
  else if (p.key.protocol == protocol_icmpv6 && p.ip_version == 6) reason = parse_icmp(p, available);
  else if (p.key.protocol == protocol_icmp || p.key.protocol == protocol_icmpv6) return SL_DROP_MALFORMED_L4;  // of the other family
  // RFC 7112: the whole header chain stands in the first fragment.
  if (reason != SL_DROP_NONE) return (p.flags & packet_fragment) && reason == SL_DROP_MALFORMED_L4 ? SL_DROP_FRAGMENT_MALFORMED : reason;
  if (p.checksum_partial && !(p.flags & packet_fragment)) complete_checksum(p, completed);
  return SL_DROP_NONE;
}

sl_drop_reason check_fragment(packet& p, unsigned payload) {
  if (payload == 0) return SL_DROP_FRAGMENT_MALFORMED;
  if ((p.flags & packet_more_fragments) && (payload & 7)) return SL_DROP_FRAGMENT_MALFORMED;
  if (p.fragment_offset + payload > ipv4_bytes_reassembled_max) return SL_DROP_FRAGMENT_MALFORMED;
  return SL_DROP_NONE;
}

sl_drop_reason parse_ipv4(packet& p) {
  unsigned available = p.length - p.l3_offset;
  if (available < ipv4_bytes_min) return SL_DROP_TRUNCATED;
  const uint8_t* ip = p.l3();
  unsigned header = (ip[0] & 15) * 4u;
  if ((ip[0] >> 4) != 4 || header < ipv4_bytes_min) return SL_DROP_MALFORMED_IPV4;
  unsigned total = load16(ip + 2);
  if (total < header) return SL_DROP_MALFORMED_IPV4;
  if (total > available) return SL_DROP_TRUNCATED;
  if (checksum_fold(checksum_add(0, ip, header)) != 0xffff) return SL_DROP_CHECKSUM_IPV4;
  if (header > ipv4_bytes_min) {
    // Source routes are refused (RFC 7126 sections 4.3, 4.4); a malformed option list is refused whole.
    for (unsigned i = ipv4_bytes_min; i < header;) {
      uint8_t type = ip[i];
      if (type == 0) break;
      if (type == 1) { ++i; continue; }
      if (i + 1 >= header || ip[i + 1] < 2 || i + ip[i + 1] > header) return SL_DROP_MALFORMED_IPV4;
      if (type == 131 || type == 137) return SL_DROP_MALFORMED_IPV4;
      i += ip[i + 1];
    }
  }
  p.l3_length = static_cast<uint16_t>(total);
  p.l4_offset = static_cast<uint16_t>(p.l3_offset + header);
  p.key.protocol = ip[9];
  set_ipv4(p.key.src, ip + 12);
  set_ipv4(p.key.dst, ip + 16);
  uint16_t fragment = load16(ip + 6);
  if (fragment & 0x8000) return SL_DROP_MALFORMED_IPV4;  // reserved bit
  if (fragment & 0x4000) p.flags |= packet_dont_fragment;
  if (fragment & 0x3fff) {
    p.fragment_offset = static_cast<uint16_t>((fragment & 0x1fff) * 8);
    p.fragment_id = load16(ip + 4);
    p.flags |= packet_fragment;
    if (fragment & 0x2000) p.flags |= packet_more_fragments;
    if (p.fragment_offset == 0) p.flags |= packet_fragment_first;
    return check_fragment(p, total - header);
  }
  return SL_DROP_NONE;
}

sl_drop_reason parse_ipv6(packet& p) {
  unsigned available = p.length - p.l3_offset;
  if (available < ipv6_bytes) return SL_DROP_TRUNCATED;
  const uint8_t* ip = p.l3();
  if ((ip[0] >> 4) != 6) return SL_DROP_MALFORMED_IPV6;
  unsigned total = ipv6_bytes + load16(ip + 4);
  if (total > available) return SL_DROP_TRUNCATED;
  std::memcpy(p.key.src.bytes, ip + 8, 16);
  std::memcpy(p.key.dst.bytes, ip + 24, 16);
  // A mapped address on the wire would pass for IPv4 inside: refused (RFC 4942 section 2.2).
  if (is_ipv4(p.key.src) || is_ipv4(p.key.dst)) return is_ipv4(p.key.src) ? SL_DROP_MARTIAN_SOURCE : SL_DROP_MARTIAN_DESTINATION;
  p.l3_length = static_cast<uint16_t>(total);
  p.flags |= packet_dont_fragment;
  unsigned offset = ipv6_bytes;
  ipv6_chain chain{};
  sl_drop_reason reason = walk_ipv6_extensions(ip, total, &offset, &chain);
  if (reason != SL_DROP_NONE) return reason;
  p.l4_offset = static_cast<uint16_t>(p.l3_offset + offset);
  p.key.protocol = chain.protocol;
  // RFC 6946: an atomic fragment (offset 0, no more) is a whole packet with a header in between.
  if (chain.fragment && (chain.fragment_offset != 0 || chain.more)) {
    p.flags |= packet_fragment;
    if (chain.more) p.flags |= packet_more_fragments;
    if (chain.fragment_offset == 0) p.flags |= packet_fragment_first;
    p.fragment_offset = chain.fragment_offset;
    p.fragment_id = chain.fragment_id;
    p.fragment_header_offset = static_cast<uint16_t>(p.l3_offset + chain.fragment_header_offset);
    return check_fragment(p, total - chain.fragment_header_offset - fragment_header_bytes);
  }
  return SL_DROP_NONE;
}

}  // namespace

sl_drop_reason walk_ipv6_extensions(const uint8_t* ip, unsigned limit, unsigned* offset, ipv6_chain* chain) {
  uint8_t next = ip[6];
  unsigned at = *offset;
  for (unsigned count = 0; count <= SL_IPV6_EXTENSIONS_MAX; ++count) {
    bool extension = next == ipv6_hop_by_hop || next == ipv6_routing || next == ipv6_destination || next == ipv6_mobility ||
                     next == protocol_ipv6_fragment || next == ipv6_authentication;
    if (!extension) {
      chain->protocol = next;
      *offset = at;
      return next == ipv6_no_next && !chain->fragment ? SL_DROP_MALFORMED_IPV6 : SL_DROP_NONE;
    }
    if (next == ipv6_hop_by_hop && at != ipv6_bytes) return SL_DROP_MALFORMED_IPV6;  // only first (RFC 8200 section 4.1)
    if (at + 8 > limit) return chain->fragment ? SL_DROP_FRAGMENT_MALFORMED : SL_DROP_TRUNCATED;
    const uint8_t* header = ip + at;
    if (next == protocol_ipv6_fragment) {
      if (chain->fragment) return SL_DROP_MALFORMED_IPV6;  // a fragment of a fragment
      chain->fragment = true;
      chain->fragment_header_offset = static_cast<uint16_t>(at);
      uint16_t field = load16(header + 2);
      chain->fragment_offset = field & 0xfff8;
      chain->more = field & 1;
      chain->fragment_id = load32(header + 4);
      next = header[0];
      at += fragment_header_bytes;
      if (chain->fragment_offset != 0) {  // what follows is payload of another header chain
        chain->protocol = next;
        *offset = at;
        return SL_DROP_NONE;
      }
      continue;
    }
    if (next == ipv6_routing) {
      if (header[2] == 0) return SL_DROP_MALFORMED_IPV6;  // type 0 is deprecated (RFC 5095)
      // Segments are left (RFC 8200 section 4.4): the packet ends elsewhere, and nobody asked the rules about that place.
      if (header[3] != 0) return SL_DROP_ROUTING_HEADER;
    }
    unsigned bytes = next == ipv6_authentication ? (header[1] + 2u) * 4 : (header[1] + 1u) * 8;
    if (at + bytes > limit) return chain->fragment ? SL_DROP_FRAGMENT_MALFORMED : SL_DROP_TRUNCATED;
    next = header[0];
    at += bytes;
  }
  return SL_DROP_MALFORMED_IPV6;
}

sl_drop_reason parse_ip(packet& p, bool* completed) {
  p.flags = 0;
  p.tcp_flags = 0;
  p.fragment_offset = 0;
  p.key = flow_key{};
  sl_drop_reason reason = p.ip_version == 4 ? parse_ipv4(p) : parse_ipv6(p);
  if (reason != SL_DROP_NONE) return reason;
  if (is_martian_source(p.key.src)) return SL_DROP_MARTIAN_SOURCE;
  if (is_martian_destination(p.key.dst)) return SL_DROP_MARTIAN_DESTINATION;
  return parse_l4(p, completed);
}

bool l4_checksum_valid(const packet& p) {
  unsigned length = p.l4_length();
  unsigned address_bytes = p.ip_version == 4 ? 4 : 16;
  const uint8_t* addresses = p.ip_version == 4 ? p.l3() + 12 : p.l3() + 8;
  switch (p.key.protocol) {
    case protocol_icmp:
      return checksum_fold(checksum_add(0, p.l4(), length)) == 0xffff;
    case protocol_udp:
      if (load16_raw(p.l4() + 6) == 0) return p.ip_version == 4;
      length = load16(p.l4() + 4);
      [[fallthrough]];
    case protocol_tcp:
    case protocol_icmpv6:
      return checksum_fold(checksum_add(checksum_pseudo(addresses, address_bytes, p.key.protocol, length), p.l4(), length)) == 0xffff;
    default:
      return true;
  }
}

sl_drop_reason parse_embedded(const packet& p, embedded_packet* out) {
  *out = embedded_packet{};
  unsigned at = p.l4_offset + 8u;
  unsigned end = p.l3_offset + p.l3_length;
  const uint8_t* ip = p.data + at;
  out->l3_offset = static_cast<uint16_t>(at);
  out->ip_version = p.ip_version;
  unsigned l4;
  if (p.ip_version == 4) {
    if (at + ipv4_bytes_min > end) return SL_DROP_ICMP_BAD_EMBEDDED;
    unsigned header = (ip[0] & 15) * 4u;
    if ((ip[0] >> 4) != 4 || header < ipv4_bytes_min || at + header + 8 > end) return SL_DROP_ICMP_BAD_EMBEDDED;
    if (load16(ip + 6) & 0x1fff) return SL_DROP_ICMP_BAD_EMBEDDED;  // RFC 1812: no errors about later fragments
    out->key.protocol = ip[9];
    set_ipv4(out->key.src, ip + 12);
    set_ipv4(out->key.dst, ip + 16);
    l4 = at + header;
  } else {
    if (at + ipv6_bytes > end || (ip[0] >> 4) != 6) return SL_DROP_ICMP_BAD_EMBEDDED;
    std::memcpy(out->key.src.bytes, ip + 8, 16);
    std::memcpy(out->key.dst.bytes, ip + 24, 16);
    unsigned offset = ipv6_bytes;
    ipv6_chain chain{};
    if (walk_ipv6_extensions(ip, end - at, &offset, &chain) != SL_DROP_NONE || chain.fragment_offset != 0) return SL_DROP_ICMP_BAD_EMBEDDED;
    out->key.protocol = chain.protocol;
    l4 = at + offset;
    if (l4 + 8 > end) return SL_DROP_ICMP_BAD_EMBEDDED;
  }
  out->l4_offset = static_cast<uint16_t>(l4);
  out->available = static_cast<uint16_t>(end - l4);
  const uint8_t* header = p.data + l4;
  switch (out->key.protocol) {
    case protocol_tcp:
      out->has_sequence = true;
      out->sequence = load32(header + 4);
      [[fallthrough]];
    case protocol_udp:
      out->key.src_port = load16(header);
      out->key.dst_port = load16(header + 2);
      return SL_DROP_NONE;
    case protocol_icmp:
      // RFC 1812 section 4.3.2.7: never an error about an error.
      if (p.ip_version != 4 || (header[0] != 8 && header[0] != 0 && header[0] != 13 && header[0] != 14)) return SL_DROP_ICMP_BAD_EMBEDDED;
      out->key.kind = icmp_kind(header[0]);
      out->key.src_port = out->key.dst_port = load16(header + 4);
      return SL_DROP_NONE;
    case protocol_icmpv6:
      if (p.ip_version != 6 || (header[0] != 128 && header[0] != 129)) return SL_DROP_ICMP_BAD_EMBEDDED;
      out->key.src_port = out->key.dst_port = load16(header + 4);
      return SL_DROP_NONE;
    default:
      return SL_DROP_NONE;
  }
}

bool is_martian_source(const sl_address& a) {
  if (is_ipv4(a)) {
    const uint8_t* b = a.bytes + 12;
    return b[0] == 0 || b[0] == 127 || b[0] >= 224 || (b[0] == 169 && b[1] == 254);  // this network, loopback, multicast, reserved, link-local
  }
  if (a.bytes[0] == 0xff) return true;
  if (a.bytes[0] == 0xfe && (a.bytes[1] & 0xc0) == 0x80) return true;  // link-local is never forwarded
  if (load64_raw(a.bytes) == 0) return load32_raw(a.bytes + 8) == 0;   // ::, ::1 and IPv4-compatible
  return false;
}

bool is_martian_destination(const sl_address& a) {
  return is_martian_source(a);  // what may not send may not be forwarded to: the same ranges
}

}  // namespace sluice
