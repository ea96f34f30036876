// SPDX-License-Identifier: Apache-2.0
//
// classifier_tables.h: which tuples to hash, and which entry stands in which of them.
//
// Who:    classifier_build.cc. A build chooses tables for all entries; an update finds one for each entry in those chosen.
// Thread: one; pure.
// Bounds: as many tables as the caller has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "policy/classifier_parts.h"

namespace sluice::classifier_parts {

inline constexpr uint32_t run_max = 4; // entries of one hash in a table, while tables last

/// How many bits of each field an entry fixes, or a table hashes. An entry may stand in any table that it fits.
struct shape {
  uint8_t src = 0, dst = 0, src_port = 0, dst_port = 0, protocol = 0, from = 0, to = 0, reserved = 0;
  bool fits(const shape& wanted) const {
    return (src >= wanted.src) & (dst >= wanted.dst) & (src_port >= wanted.src_port) & (dst_port >= wanted.dst_port) &
           (protocol >= wanted.protocol) & (from >= wanted.from) & (to >= wanted.to);
  }
  unsigned bits() const { return src + dst + src_port + dst_port + protocol * 8 + (from + to) * 6; }
  wide_key mask() const;
  static shape of(const wide_key& mask);
  friend shape common(const shape& a, const shape& b) {
    return {std::min(a.src, b.src), std::min(a.dst, b.dst), std::min(a.src_port, b.src_port),
            std::min(a.dst_port, b.dst_port), std::min(a.protocol, b.protocol), std::min(a.from, b.from),
            std::min(a.to, b.to), 0};
  }
};

/// An entry as the tables see it.
struct hashed_entry { wide_key key; shape fixes; };

hashed_entry hashed(const entry& e, const zone_pair& zones);

struct table_plan { shape hashes; std::vector<uint32_t> members; };

/// Shares the entries out to at most `tables_max` tables: each entry in one.
std::vector<table_plan> share_out(const std::vector<hashed_entry>& entries, std::size_t tables_max);

} // namespace sluice::classifier_parts
