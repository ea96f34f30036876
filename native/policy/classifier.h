// SPDX-License-Identifier: Apache-2.0
//
// classifier.h: the first rule, in configuration order, that a packet's fields match.
//
// Who:    made by the snapshot's compiler, once for the firewall's rules and once for each list of NAT rules: build() from
//         nothing, update() from the snapshot before; asked by the slow path with a session's first packet, by
//         revalidation after a commit, and by `simulate`.
// Thread: build() and update() by one thread; the result is immutable and every worker reads it at the same time,
//         without locks. An updated classifier shares memory with the one it came from; either may be freed first.
// Bounds: entries_max hashed entries and tables_max tables whatever the lists' lengths; more than SL_RULES_MAX rules are
//         refused. match() allocates nothing.
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
#include "policy/classifier_parts.h"

namespace sluice {

/// What firewall rules and NAT rules have in common: the conditions. Spans count in the arrays given beside them.
struct classifier_rule {
  uint64_t from_zones, to_zones; ///< bit a zone; all ones = any
  sl_span sources, destinations; ///< into prefixes; empty = any
  sl_span services;              ///< into services; empty = any
};

struct classifier_input {
  std::span<const classifier_rule> rules;
  std::span<const sl_prefix> prefixes;
  std::span<const sl_service> services;
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
  static constexpr std::size_t entries_max = 1u << 20;   ///< 64 bytes each: 64 MiB, and as much again between rebuilds
  static constexpr std::size_t entries_per_rule_max = 4096;

  /// Null and a text in *error when a span, prefix or service is invalid. Keeps no reference to its arguments.
  static std::unique_ptr<const classifier> build(const classifier_input& rules, std::string* error);
  static std::unique_ptr<const classifier> build(std::span<const classifier_rule> rules,
                                                 std::span<const sl_prefix> prefixes,
                                                 std::span<const sl_service> services, std::string* error) {
    return build({rules, prefixes, services}, error);
  }

  /// As build(now), in time that goes with what differs from `before`, which `previous` must have been made from.
  /// Builds when much differs, or when earlier updates left too much behind.
  static std::unique_ptr<const classifier> update(const classifier& previous, const classifier_input& before,
                                                  const classifier_input& now, std::string* error);

  /// The lowest index that matches, or no_rule.
  uint32_t match(const classify_key& key) const noexcept;

  /// Memory reached from here, for the metrics; what is shared with other snapshots counts in each.
  std::size_t bytes() const noexcept;
  std::size_t entry_count() const noexcept { return entry_count_; }
  std::size_t table_count() const noexcept;
  /// Entries that one hash of one table has at most: what a match may have to compare in a table.
  std::size_t longest_run() const noexcept;
  /// Updates since the last build: 0 says that this one was built.
  unsigned updates() const noexcept { return updates_; }

private:
  friend struct classifier_builder;
  struct arena;
  classifier() = default;
  classifier(const classifier&) = default;

  bool verify(const classifier_parts::entry& e, const classifier_parts::wide_key& key, bool src_ipv4, bool dst_ipv4) const noexcept;

  static constexpr unsigned entry_chunk_bits = 10, record_chunk_bits = 10, zone_chunk_bits = 6;

  std::vector<classifier_parts::table> tables_;
  // Which tables can hold a match at all, by one field each: bit i stands for tables_[i].
  std::array<uint64_t, 256> protocol_tables_{};
  std::array<uint64_t, SL_ZONES_MAX> from_tables_{}, to_tables_{};
  std::array<uint64_t, 1024> dst_port_tables_{}; // by dst_port % 1024
  bool sieved_ = false;                          // else: too few tables for it to pay
  classifier_parts::address_sieve sources_, destinations_;

  classifier_parts::chunked<classifier_parts::entry, entry_chunk_bits>::view entries_;
  classifier_parts::chunked<classifier_parts::rule_record, record_chunk_bits>::view records_;
  classifier_parts::chunked<classifier_parts::zone_pair, zone_chunk_bits>::view zones_;
  std::vector<uint32_t> record_of_; // by place among the rules; of rules that cannot match: no_rule
  std::vector<uint32_t> place_of_;  // by record

  std::size_t entry_count_ = 0, entries_gone_ = 0;
  std::size_t crowded_ = 0; // entries that updates had to place in runs that are too long
  unsigned updates_ = 0;
  std::shared_ptr<arena> arena_; // what the views above look into
};

} // namespace sluice
