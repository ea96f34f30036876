// SPDX-License-Identifier: Apache-2.0
// key.h: the key of one direction of a session and its hash. Both families in one form (IPv4 is mapped), 40 bytes.
#pragma once
#include <cstdint>
#include <cstring>

#include "packet/bytes.h"

namespace sluice {

struct alignas(8) flow_key {
  sl_address src, dst;
  uint16_t src_port, dst_port;  // host order; ICMP queries: the identifier in both; other protocols: 0
  uint8_t protocol;
  uint8_t kind;                 // ICMP: 1 for timestamps, so that an echo's identifier does not let them pass, icmp_kind_other; else 0
  uint8_t reserved[2];          // always zero: the key is compared as five words
};
static_assert(sizeof(flow_key) == 40);

inline bool equal(const flow_key& a, const flow_key& b) {
  const auto* x = reinterpret_cast<const uint8_t*>(&a);
  const auto* y = reinterpret_cast<const uint8_t*>(&b);
  uint64_t difference = 0;
  for (unsigned i = 0; i < 40; i += 8) difference |= load64_raw(x + i) ^ load64_raw(y + i);
  return difference == 0;
}

inline flow_key reversed(const flow_key& k) {
  flow_key r = k;
  r.src = k.dst;
  r.dst = k.src;
  r.src_port = k.dst_port;
  r.dst_port = k.src_port;
  return r;
}

// Keyed multiply-mix hash; the seed is random per engine, so nobody outside can aim at one bucket.
inline uint64_t hash_mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}
inline uint64_t hash(const flow_key& k, uint64_t seed) {
  const auto* p = reinterpret_cast<const uint8_t*>(&k);
  uint64_t h = hash_mix(load64_raw(p) ^ seed, load64_raw(p + 8) ^ 0x9e3779b97f4a7c15ull);
  h ^= hash_mix(load64_raw(p + 16) ^ seed ^ 0xa0761d6478bd642full, load64_raw(p + 24) ^ 0xe7037ed1a0b428dbull);
  return hash_mix(h ^ 0x8ebc6af09c88c6e3ull, load64_raw(p + 32) ^ seed ^ 0x589965cc75374cc3ull);
}

}  // namespace sluice
