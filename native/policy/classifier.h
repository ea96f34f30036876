// SPDX-License-Identifier: Apache-2.0
//
// classifier.h: the first rule, in configuration order, that a packet's fields match.
//
// Who:    built by the snapshot's compiler, once for the firewall's rules and once for each list of NAT rules; asked by
//         the slow path with a session's first packet, by revalidation after a commit, and by `simulate`.
// Thread: immutable after build(); every worker reads it at the same time, without locks.
// Bounds: entries_max hashed entries and tables_max tables whatever the lists' lengths; build() refuses more than
//         SL_RULES_MAX rules. match() allocates nothing.
//
// A rule matches when each of its parts does: the zones, any of its sources, any of its destinations, any of its
// services; an empty list is "any". Prefixes are those of dataplane.h with one more rule: a prefix shorter than /96 is
// IPv6's and never covers an IPv4 address (::/0 is any IPv6, 0.0.0.0/0 = length 96 any IPv4). docs/internals/
// classification.md says how it works and what it costs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "abi/dataplane.h"
#include "route/lpm.h"

namespace sluice {

/// What firewall rules and NAT rules have in common: the conditions. Spans count in the arrays given to build().
struct classifier_rule {
  uint64_t from_zones, to_zones; ///< bit a zone; all ones = any
  sl_span sources, destinations; ///< into prefixes; empty = any
  sl_span services;              ///< into services; empty = any
};

/// The fields of a packet that rules see.
struct classify_key {
  sl_address src, dst;
  uint16_t src_port, dst_port; ///< ICMP: dst_port = type << 8 | code, src_port 0; protocols without ports: both 0
  uint8_t protocol;
  uint8_t from_zone, to_zone; ///< below SL_ZONES_MAX
};

class classifier {
public:
  static constexpr uint32_t no_rule = UINT32_MAX;
  static constexpr unsigned tables_max = 64;             ///< sets of tables are one 64-bit mask
  static constexpr std::size_t entries_max = 1u << 20;   ///< 64 bytes each: 64 MiB at the very most
  static constexpr std::size_t entries_per_rule_max = 4096;

  /// Null and a text in *error when a span, prefix or service is invalid. Keeps no reference to its arguments.
  static std::unique_ptr<const classifier> build(std::span<const classifier_rule> rules,
                                                 std::span<const sl_prefix> prefixes,
                                                 std::span<const sl_service> services, std::string* error);

  /// The lowest index that matches, or no_rule.
  uint32_t match(const classify_key& key) const noexcept;

  /// Memory held, for the metrics.
  std::size_t bytes() const noexcept;
  std::size_t entry_count() const noexcept { return entries_.size(); }
  std::size_t table_count() const noexcept { return tables_.size(); }

private:
  friend struct classifier_builder;
  classifier() = default;

  struct wide_key { // a packet's fields as the tables hash them
    uint64_t src_hi, src_lo, dst_hi, dst_lo;
    uint64_t ports; // src_port << 48 | dst_port << 32 | protocol << 16 | from_zone << 8 | to_zone
  };
  struct table { // a tuple: the bits of the key that its entries have in common hash them
    wide_key mask;
    uint32_t best;       // lowest rule in the table
    uint32_t slot_first; // into slots_
    uint32_t slot_mask;  // slots - 1
    uint32_t reserved;
  };
  struct slot { // a run of entries, lowest rule first
    uint32_t tag; // the masked key's hash; keys of one hash share a run
    uint32_t first; // into entries_
    uint32_t count; // 0: empty slot
    uint32_t best;  // lowest rule of the run
  };
  struct alignas(64) entry { // one cache line: what verifies a rule exactly, but for its long lists
    uint64_t src_hi, src_lo, dst_hi, dst_lo;
    uint32_t rule;
    uint32_t zones; // into zones_
    uint32_t lists; // into lists_, when a flag says that a list stands behind the entry
    uint16_t src_port_lo, src_port_hi, dst_port_lo, dst_port_hi;
    uint8_t src_length, dst_length;
    uint8_t protocol;
    uint8_t flags;
  };
  static_assert(sizeof(entry) == 64);
  struct zone_pair { uint64_t from, to; };
  struct list_spans { sl_span sources, destinations, services; }; // into list_prefixes_ and list_services_
  struct flat_prefix { uint64_t hi, lo; uint32_t length; uint32_t ipv4; };

  static uint32_t hash(const wide_key& key, const wide_key& mask) noexcept;
  bool verify(const entry& e, const wide_key& key, bool src_ipv4, bool dst_ipv4) const noexcept;
  bool in_prefixes(sl_span list, uint64_t hi, uint64_t lo, bool ipv4) const noexcept;
  bool in_services(sl_span list, uint64_t ports) const noexcept;

  std::vector<table> tables_; // ordered by best: a hit ends the search at the first table that cannot beat it
  std::vector<slot> slots_;
  std::vector<entry> entries_;
  std::vector<zone_pair> zones_;
  std::vector<list_spans> lists_;
  std::vector<flat_prefix> list_prefixes_; // each list sorted and disjoint
  std::vector<sl_service> list_services_;

  // Which tables can hold a match at all, by one field each: bit i stands for tables_[i].
  std::array<uint64_t, 256> protocol_tables_{};
  std::array<uint64_t, SL_ZONES_MAX> from_tables_{}, to_tables_{};
  std::array<uint64_t, 1024> dst_port_tables_{}; // by dst_port % 1024
  std::unique_ptr<const lpm> src_prefixes_, dst_prefixes_; // null: too few tables for it to pay
  std::vector<uint64_t> src_tables_, dst_tables_;          // a prefix's tables, its parents' included; last: no prefix
};

} // namespace sluice
