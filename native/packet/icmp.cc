// SPDX-License-Identifier: Apache-2.0
// icmp.cc: see icmp.h.
#include "packet/icmp.h"

#include "packet/checksum.h"

namespace sluice {
namespace {

constexpr unsigned ipv4_error_bytes_max = 576;
constexpr uint8_t own_ttl = 64;

struct kind_numbers { uint8_t type4, code4, type6, code6; };
constexpr kind_numbers numbers_of(icmp_error kind) {
  switch (kind) {
    case icmp_error::ttl_expired: return {11, 0, 3, 0};
    case icmp_error::no_route: return {3, 0, 1, 0};
    case icmp_error::host_unreachable: return {3, 1, 1, 3};
    case icmp_error::prohibited: return {3, 13, 1, 1};
    case icmp_error::too_big: return {3, 4, 2, 0};
    case icmp_error::port_unreachable: return {3, 3, 1, 4};
  }
  return {3, 0, 1, 0};
}

void write_ipv4(uint8_t* ip, unsigned total, uint8_t tos, uint8_t protocol, const uint8_t* src, const uint8_t* dst) {
  std::memset(ip, 0, ipv4_bytes_min);
  ip[0] = 0x45;
  ip[1] = tos;
  store16(ip + 2, static_cast<uint16_t>(total));
  ip[8] = own_ttl;
  ip[9] = protocol;
  std::memcpy(ip + 12, src, 4);
  std::memcpy(ip + 16, dst, 4);
  store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, ipv4_bytes_min)));
}

void write_ipv6(uint8_t* ip, unsigned payload, uint8_t protocol, const uint8_t* src, const uint8_t* dst) {
  std::memset(ip, 0, 8);
  ip[0] = 0x60;
  store16(ip + 4, static_cast<uint16_t>(payload));
  ip[6] = protocol;
  ip[7] = own_ttl;
  std::memcpy(ip + 8, src, 16);
  std::memcpy(ip + 24, dst, 16);
}

}  // namespace

bool icmp_error_allowed(const packet& about) {
  if (about.flags & packet_icmp_error) return false;
  if ((about.flags & packet_fragment) && !(about.flags & packet_fragment_first)) return false;
  return !is_martian_source(about.key.src) && !is_martian_destination(about.key.dst);
}

unsigned build_icmp_error(const packet& about, icmp_error kind, uint32_t mtu_bytes, const sl_address& source, uint8_t* out) {
  kind_numbers n = numbers_of(kind);
  const uint8_t* original = about.l3();
  if (about.ip_version == 4) {
    unsigned quoted = about.l3_length < ipv4_error_bytes_max - 28 ? about.l3_length : ipv4_error_bytes_max - 28;
    unsigned total = 28 + quoted;
    uint8_t* icmp = out + ipv4_bytes_min;
    std::memset(icmp, 0, 8);
    icmp[0] = n.type4;
    icmp[1] = n.code4;
    if (kind == icmp_error::too_big) store16(icmp + 6, static_cast<uint16_t>(mtu_bytes));  // RFC 1191 section 4
    std::memcpy(icmp + 8, original, quoted);
    store16_raw(icmp + 2, checksum_finish(checksum_add(0, icmp, 8 + quoted)));
    write_ipv4(out, total, 0xc0, protocol_icmp, source.bytes + 12, original + 12);  // precedence 6: RFC 1812 section 4.3.2.5
    return total;
  }
  unsigned quoted = about.l3_length < icmp_error_bytes_max - 48 ? about.l3_length : icmp_error_bytes_max - 48;
  uint8_t* icmp = out + ipv6_bytes;
  std::memset(icmp, 0, 8);
  icmp[0] = n.type6;
  icmp[1] = n.code6;
  if (kind == icmp_error::too_big) store32(icmp + 4, mtu_bytes);
  std::memcpy(icmp + 8, original, quoted);
  write_ipv6(out, 8 + quoted, protocol_icmpv6, source.bytes, original + 8);
  store16_raw(icmp + 2, checksum_finish(checksum_add(checksum_pseudo(out + 8, 16, protocol_icmpv6, 8 + quoted), icmp, 8 + quoted)));
  return ipv6_bytes + 8 + quoted;
}

unsigned build_tcp_reset(const packet& about, uint8_t* out) {
  if (about.tcp_flags & tcp_rst) return 0;
  const uint8_t* segment = about.l4();
  unsigned header = (segment[12] >> 4) * 4u;
  uint32_t length = about.l4_length() - header + ((about.tcp_flags & tcp_syn) ? 1 : 0) + ((about.tcp_flags & tcp_fin) ? 1 : 0);
  bool v4 = about.ip_version == 4;
  unsigned ip_bytes = v4 ? ipv4_bytes_min : ipv6_bytes, address_bytes = v4 ? 4 : 16;
  const uint8_t* addresses = about.l3() + (v4 ? 12 : 8);
  uint8_t* tcp = out + ip_bytes;
  std::memset(tcp, 0, 20);
  store16(tcp, about.key.dst_port);
  store16(tcp + 2, about.key.src_port);
  tcp[12] = 5 << 4;
  if (about.tcp_flags & tcp_ack) {
    std::memcpy(tcp + 4, segment + 8, 4);
    tcp[13] = tcp_rst;
  } else {
    store32(tcp + 8, load32(segment + 4) + length);
    tcp[13] = tcp_rst | tcp_ack;
  }
  if (v4) write_ipv4(out, ip_bytes + 20, 0, protocol_tcp, addresses + 4, addresses);
  else write_ipv6(out, 20, protocol_tcp, addresses + 16, addresses);
  uint64_t pseudo = checksum_pseudo(out + (v4 ? 12 : 8), address_bytes, protocol_tcp, 20);
  store16_raw(tcp + 16, checksum_finish(checksum_add(pseudo, tcp, 20)));
  return ip_bytes + 20;
}

}  // namespace sluice
