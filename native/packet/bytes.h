// SPDX-License-Identifier: Apache-2.0
// bytes.h: loads and stores of network byte order and small address helpers. Pure, used everywhere, no bounds checks:
// the callers have checked that the bytes are there.
#pragma once
#include <cstdint>
#include <cstring>

#include "abi/dataplane.h"

namespace sluice {

inline uint16_t load16(const uint8_t* p) { uint16_t v; std::memcpy(&v, p, 2); return __builtin_bswap16(v); }
inline uint32_t load32(const uint8_t* p) { uint32_t v; std::memcpy(&v, p, 4); return __builtin_bswap32(v); }
inline uint16_t load16_raw(const uint8_t* p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
inline uint32_t load32_raw(const uint8_t* p) { uint32_t v; std::memcpy(&v, p, 4); return v; }
inline uint64_t load64_raw(const void* p) { uint64_t v; std::memcpy(&v, p, 8); return v; }
inline void store16(uint8_t* p, uint16_t v) { v = __builtin_bswap16(v); std::memcpy(p, &v, 2); }
inline void store32(uint8_t* p, uint32_t v) { v = __builtin_bswap32(v); std::memcpy(p, &v, 4); }
inline void store16_raw(uint8_t* p, uint16_t v) { std::memcpy(p, &v, 2); }
inline void store32_raw(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }
inline void store64_raw(void* p, uint64_t v) { std::memcpy(p, &v, 8); }

// The second half of ::ffff:a.b.c.d's first twelve bytes, as loaded on a little-endian machine.
inline constexpr uint32_t mapped_marker = 0xffff0000u;

inline bool is_ipv4(const sl_address& a) {
  return load64_raw(a.bytes) == 0 && load32_raw(a.bytes + 8) == mapped_marker;
}
inline bool is_unspecified(const sl_address& a) { return (load64_raw(a.bytes) | load64_raw(a.bytes + 8)) == 0; }
inline bool equal(const sl_address& a, const sl_address& b) {
  return ((load64_raw(a.bytes) ^ load64_raw(b.bytes)) | (load64_raw(a.bytes + 8) ^ load64_raw(b.bytes + 8))) == 0;
}
inline void set_ipv4(sl_address& a, const uint8_t* four) {
  store64_raw(a.bytes, 0);
  store32_raw(a.bytes + 8, mapped_marker);
  std::memcpy(a.bytes + 12, four, 4);
}

// Does `address` lie in the prefix? length counts in the 128-bit space. An IPv6 prefix shorter than 96 bits never
// holds an IPv4 (mapped) address: families do not mix.
inline bool in_prefix(const sl_address& address, const sl_address& prefix, unsigned length) {
  if (length < 96 && is_ipv4(address)) return false;
  unsigned whole = length / 8, rest = length % 8;
  if (std::memcmp(address.bytes, prefix.bytes, whole) != 0) return false;
  if (rest == 0) return true;
  uint8_t mask = static_cast<uint8_t>(0xff00u >> rest);
  return ((address.bytes[whole] ^ prefix.bytes[whole]) & mask) == 0;
}

}  // namespace sluice
