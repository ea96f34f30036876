// SPDX-License-Identifier: Apache-2.0
//
// classifier.cc: which rule a packet matches: tuple space search with relaxed tuples, pruned by each field alone.
//
// match(): 1 which tables can hold a match, by each field alone, 2 one bucket a table, 3 the runs whose tags are equal,
// 4 verify their entries exactly, the run with the best entry first, until none is left that could beat a match. The memory of each stage is asked for before the first of it is used, so
// that cache misses of one stage are taken together.
// Threads and bounds: see the header; docs/internals/classification.md has the reasons and figures.

#include "policy/classifier.h"

#include <algorithm>
#include <bit>

namespace sluice {

using namespace classifier_parts;

namespace {

constexpr unsigned probes_together = 16;  // tables whose cache misses overlap
constexpr unsigned runs_together = 64;   // runs put in order before their entries are verified

// Sorted (IPv6 first) and disjoint: only the last prefix that starts at or below the address can cover it.
bool in_prefixes(std::span<const flat_prefix> list, uint64_t hi, uint64_t lo, bool ipv4) noexcept {
  const auto after = std::upper_bound(list.begin(), list.end(), ipv4, [hi, lo](bool wanted_ipv4, const flat_prefix& prefix) {
    if (wanted_ipv4 != (prefix.ipv4 != 0))
      return !wanted_ipv4;
    return prefix.hi != hi ? prefix.hi > hi : prefix.lo > lo;
  });
  if (after == list.begin())
    return false;
  const flat_prefix& last = after[-1];
  return (last.ipv4 != 0) == ipv4 && covers(last.hi, last.lo, last.length, hi, lo);
}

bool in_services(std::span<const sl_service> list, uint64_t ports) noexcept {
  const auto src_port = static_cast<uint16_t>(ports >> 48);
  const auto dst_port = static_cast<uint16_t>(ports >> 32);
  const auto protocol = static_cast<uint8_t>(ports >> 16);
  return std::any_of(list.begin(), list.end(), [&](const sl_service& service) {
    return (service.protocol == SL_PROTOCOL_ANY || service.protocol == protocol) && src_port >= service.src_lo &&
           src_port <= service.src_hi && dst_port >= service.dst_lo && dst_port <= service.dst_hi;
  });
}

} // namespace

inline bool classifier::verify(const entry& e, const wide_key& key, bool src_ipv4, bool dst_ipv4) const noexcept {
  const auto src_port = static_cast<uint16_t>(key.ports >> 48);
  const auto dst_port = static_cast<uint16_t>(key.ports >> 32);
  const auto protocol = static_cast<uint8_t>(key.ports >> 16);
  // One branch for all that stands in the entry: each alone would be mispredicted half of the time.
  const mask128& src_mask = prefix_masks[e.src_length];
  const mask128& dst_mask = prefix_masks[e.dst_length];
  const uint64_t differing = ((key.src_hi ^ e.src_hi) & src_mask.hi) | ((key.src_lo ^ e.src_lo) & src_mask.lo) |
                             ((key.dst_hi ^ e.dst_hi) & dst_mask.hi) | ((key.dst_lo ^ e.dst_lo) & dst_mask.lo);
  const bool outside = (dst_port < e.dst_port_lo) | (dst_port > e.dst_port_hi) | (src_port < e.src_port_lo) |
                       (src_port > e.src_port_hi) | ((e.protocol != protocol) & ((e.flags & any_protocol) == 0));
  if ((differing | static_cast<uint64_t>(outside)) != 0)
    return false;
  if (((e.flags & source_ipv6_only) != 0 && src_ipv4) || ((e.flags & destination_ipv6_only) != 0 && dst_ipv4))
    return false;
  const zone_pair& zones = zones_[e.zones];
  if ((zones.from >> ((key.ports >> 8) & 0xff) & zones.to >> (key.ports & 0xff) & 1) == 0)
    return false;
  if ((e.flags & (source_list | destination_list | service_list)) == 0)
    return true;
  const rule_lists& lists = *records_[e.rule].lists;
  return ((e.flags & service_list) == 0 || in_services(lists.services, key.ports)) &&
         ((e.flags & source_list) == 0 || in_prefixes(lists.sources, key.src_hi, key.src_lo, src_ipv4)) &&
         ((e.flags & destination_list) == 0 || in_prefixes(lists.destinations, key.dst_hi, key.dst_lo, dst_ipv4));
}

uint32_t classifier::match(const classify_key& key) const noexcept {
  const mask128 src = halves(key.src), dst = halves(key.dst);
  const unsigned from = key.from_zone % SL_ZONES_MAX, to = key.to_zone % SL_ZONES_MAX;
  const wide_key wide{src.hi, src.lo, dst.hi, dst.lo,
                      port_word(key.src_port, key.dst_port, key.protocol, static_cast<uint8_t>(from), static_cast<uint8_t>(to))};
  const bool src_ipv4 = is_ipv4(src.hi, src.lo), dst_ipv4 = is_ipv4(dst.hi, dst.lo);

  uint64_t candidates = protocol_tables_[key.protocol] & from_tables_[from] & to_tables_[to] &
                        dst_port_tables_[key.dst_port % dst_port_tables_.size()];
  if (sieved_)
    candidates &= sources_.tables(src.hi, src.lo, src_ipv4) & destinations_.tables(dst.hi, dst.lo, dst_ipv4);

  uint64_t best = UINT64_MAX;
  uint32_t best_record = no_rule;
  struct probe { const table* in; const bucket* at; uint32_t place; uint8_t tag; };
  struct run { uint32_t before; const entry* first; };
  std::array<run, runs_together> found;
  unsigned found_count = 0;
  const auto verify_found = [&] {
    // The best first: most often the first that matches ends it.
    while (found_count > 0) {
      unsigned first = 0;
      for (unsigned i = 1; i < found_count; ++i)
        first = found[i].before < found[first].before ? i : first;
      const run next = found[first];
      if (next.before > upper(best))
        break;
      found[first] = found[--found_count];
      for (const entry* e = next.first; e->precedence < best; ++e) {
        if (verify(*e, wide, src_ipv4, dst_ipv4)) {
          best = e->precedence;
          best_record = e->rule;
          break;
        }
        if ((e->flags & run_goes_on) == 0)
          break;
      }
    }
    found_count = 0;
  };
  while (candidates != 0) {
    std::array<probe, probes_together> probes;
    unsigned count = 0;
    for (; candidates != 0 && count < probes_together; candidates &= candidates - 1) {
      const table& probed = tables_[static_cast<unsigned>(std::countr_zero(candidates))];
      if (probed.best >= best)
        continue;
      const uint64_t hashed = hash(wide, probed.mask);
      const uint32_t place = bucket_of(hashed) & probed.bucket_mask;
      const bucket* const at = &probed.buckets[place];
      __builtin_prefetch(at);
      probes[count++] = {&probed, at, place, tag_of(hashed)};
    }
    for (probe& p : std::span(probes).first(count))
      for (;;) {
        for (uint64_t equal = p.at->find(p.tag); equal != 0; equal &= equal - 1) {
          const unsigned i = static_cast<unsigned>(std::countr_zero(equal)) / 8;
          if (p.at->before[i] > upper(best))
            continue;
          if (found_count == runs_together)
            verify_found();
          const run next{p.at->before[i], &entries_[p.at->runs[i]]};
          __builtin_prefetch(next.first);
          __builtin_prefetch(next.first + 1);
          found[found_count++] = next;
        }
        if (p.at->passed == 0)
          break;
        p.place = (p.place + 1) & p.in->bucket_mask;
        p.at = &p.in->buckets[p.place];
      }
    verify_found();
  }
  return best_record == no_rule ? no_rule : place_of_[best_record];
}

std::size_t classifier::table_count() const noexcept {
  return static_cast<std::size_t>(std::count_if(tables_.begin(), tables_.end(), [](const table& t) { return t.entry_count != 0; }));
}

} // namespace sluice
