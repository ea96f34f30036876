// SPDX-License-Identifier: Apache-2.0
// packets.h: frames for native tests, built byte by byte, and a packet struct around them.
#pragma once
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "../fuzz/snapshot_builder.h"
#include "packet/checksum.h"
#include "packet/packet.h"

namespace sluice::testing {

struct frame {
  std::vector<uint8_t> bytes;
  packet p{};
  // Parses; the reason is parse_ip()'s.
  sl_drop_reason parse() {
    p = packet{};
    p.data = bytes.data();
    p.length = static_cast<uint32_t>(bytes.size());
    p.l3_offset = ethernet_bytes;
    p.ip_version = bytes[14] >> 4;
    bool completed = false;
    return parse_ip(p, &completed);
  }
};

inline void put16(std::vector<uint8_t>& to, unsigned value) { to.push_back(static_cast<uint8_t>(value >> 8)); to.push_back(static_cast<uint8_t>(value)); }
inline void put32(std::vector<uint8_t>& to, uint32_t value) { put16(to, value >> 16); put16(to, value & 0xffff); }

// An IPv4 or IPv6 packet around a layer-4 payload, whose checksum field (at `field`, 0: none) is filled in.
inline frame ip_frame(const char* src, const char* dst, uint8_t protocol, std::vector<uint8_t> l4, unsigned field, uint16_t id = 1, uint16_t fragment = 0) {
  sl_address a = address_of(src), b = address_of(dst);
  bool v4 = is_ipv4(a);
  unsigned skip = v4 ? 12 : 0;
  frame f;
  f.bytes.assign(14, 0);
  std::vector<uint8_t> ip;
  if (v4) {
    ip = {0x45, 0};
    put16(ip, 20 + static_cast<unsigned>(l4.size()));
    put16(ip, id);
    put16(ip, fragment);
    ip.insert(ip.end(), {64, protocol, 0, 0});
  } else {
    ip = {0x60, 0, 0, 0};
    put16(ip, static_cast<unsigned>(l4.size()));
    ip.insert(ip.end(), {protocol, 64});
  }
  ip.insert(ip.end(), a.bytes + skip, a.bytes + 16);
  ip.insert(ip.end(), b.bytes + skip, b.bytes + 16);
  if (v4) store16_raw(ip.data() + 10, checksum_finish(checksum_add(0, ip.data(), 20)));
  if (field) {
    uint64_t pseudo = protocol == protocol_icmp ? 0 : checksum_pseudo(ip.data() + (v4 ? 12 : 8), v4 ? 4 : 16, protocol, static_cast<uint32_t>(l4.size()));
    const uint16_t sum = checksum_finish(checksum_add(pseudo, l4.data(), static_cast<unsigned>(l4.size())));
    store16_raw(l4.data() + field, sum == 0 && protocol == protocol_udp ? 0xffff : sum);
  }
  f.bytes.insert(f.bytes.end(), ip.begin(), ip.end());
  f.bytes.insert(f.bytes.end(), l4.begin(), l4.end());
  return f;
}

inline std::vector<uint8_t> udp_datagram(uint16_t src_port, uint16_t dst_port, size_t payload) {
  std::vector<uint8_t> l4;
  put16(l4, src_port);
  put16(l4, dst_port);
  put16(l4, static_cast<unsigned>(8 + payload));
  put16(l4, 0);
  for (size_t i = 0; i < payload; ++i) l4.push_back(static_cast<uint8_t>(i * 7));
  return l4;
}

inline flow_key key_of(const char* src, uint16_t src_port, const char* dst, uint16_t dst_port, uint8_t protocol = protocol_udp) {
  flow_key k{};
  k.src = address_of(src);
  k.dst = address_of(dst);
  k.src_port = src_port;
  k.dst_port = dst_port;
  k.protocol = protocol;
  return k;
}

}  // namespace sluice::testing
