// SPDX-License-Identifier: Apache-2.0
// checksum.h: the Internet checksum (RFC 1071), full and incremental (RFC 1624). Sums are kept in host order of the raw
// 16-bit words: the ones' complement sum does not care about byte order as long as loads and stores agree.
#pragma once
#include <cstdint>

#include "packet/bytes.h"

namespace sluice {

// Adds `length` bytes to a running sum. An odd last byte counts as the high half of a word, so only the last part of a
// message may have an odd length.
inline uint64_t checksum_add(uint64_t sum, const uint8_t* p, unsigned length) {
  // Whole payloads: eight words of 32 bits at a time, in a form that compilers make vector instructions of.
  if (length >= 128) {
    uint64_t lanes[8] = {};
    for (; length >= 32; p += 32, length -= 32)
      for (unsigned i = 0; i < 8; ++i) lanes[i] += load32_raw(p + 4 * i);
    for (uint64_t lane : lanes) sum += lane;
  }
  while (length >= 8) {
    uint64_t v = load64_raw(p);
    sum += static_cast<uint32_t>(v);
    sum += v >> 32;
    p += 8;
    length -= 8;
  }
  if (length >= 4) { sum += load32_raw(p); p += 4; length -= 4; }
  if (length >= 2) { sum += load16_raw(p); p += 2; length -= 2; }
  if (length) sum += *p;
  return sum;
}

inline uint16_t checksum_fold(uint64_t sum) {
  sum = (sum & 0xffffffffu) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

inline uint16_t checksum_finish(uint64_t sum) { return static_cast<uint16_t>(~checksum_fold(sum)); }

// The pseudo-header's sum (RFC 793, RFC 8200 section 8.1). Addresses as they stand in the packet: 4 or 16 bytes each.
inline uint64_t checksum_pseudo(const uint8_t* addresses, unsigned address_bytes, uint8_t protocol, uint32_t l4_length) {
  uint64_t sum = checksum_add(0, addresses, 2 * address_bytes);
  sum += __builtin_bswap16(protocol);
  sum += __builtin_bswap16(static_cast<uint16_t>(l4_length));
  sum += __builtin_bswap16(static_cast<uint16_t>(l4_length >> 16));
  return sum;
}

// What to add to a complemented checksum when `from` bytes become `to` bytes: RFC 1624, HC' = ~(~HC + ~m + m').
inline uint16_t checksum_delta(const uint8_t* from, const uint8_t* to, unsigned length) {
  return checksum_fold(static_cast<uint64_t>(static_cast<uint16_t>(~checksum_fold(checksum_add(0, from, length)))) +
                       checksum_fold(checksum_add(0, to, length)));
}
inline uint16_t checksum_delta16(uint16_t from_raw, uint16_t to_raw) {
  return checksum_fold(static_cast<uint64_t>(static_cast<uint16_t>(~from_raw)) + to_raw);
}
inline uint16_t checksum_delta_join(uint16_t a, uint16_t b) { return checksum_fold(static_cast<uint64_t>(a) + b); }

// Applies a delta to the checksum field at `p`.
inline void checksum_apply(uint8_t* p, uint16_t delta) {
  uint16_t sum = static_cast<uint16_t>(~load16_raw(p));
  store16_raw(p, static_cast<uint16_t>(~checksum_fold(static_cast<uint64_t>(sum) + delta)));
}

}  // namespace sluice
