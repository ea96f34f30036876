// SPDX-License-Identifier: Apache-2.0
// address_hash.h: addresses as keys of hash tables, by a secret. Whoever sends packets chooses addresses, those of an IPv6 subnet above
// all, and must not be able to choose such that they all stand in one bucket.
#pragma once
#include <bit>

#include "flow/key.h"

namespace sluice {

// Both factors are keyed: one that somebody could make zero would make the other one not count.
inline uint64_t hash(const sl_address& a, uint64_t seed) {
  return hash_mix(load64_raw(a.bytes) ^ seed, load64_raw(a.bytes + 8) ^ std::rotl(seed, 29) ^ 0x9e3779b97f4a7c15ull);
}

// Of this process.
uint64_t address_hash_secret();

struct address_hash { size_t operator()(const sl_address& a) const { return hash(a, address_hash_secret()); } };
struct address_equal { bool operator()(const sl_address& a, const sl_address& b) const { return equal(a, b); } };

}  // namespace sluice
