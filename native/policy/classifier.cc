// SPDX-License-Identifier: Apache-2.0
//
// classifier.cc: tuple space search with relaxed tuples, pruned by one longest prefix match an address.
//
// match(): 1 which tables can hold a match, by each field alone, 2 one hash probe a table, best table first, 3 verify
// the run of entries exactly, 4 stop when no table left can beat the rule found.
// build(): 1 check, 2 reduce lists, 3 choose what to expand of each rule and make entries, 4 share entries out to
// tables, 5 lay the tables out, 6 fill the masks of stage 1 of match().
// Threads and bounds: see the header; docs/internals/classification.md has the reasons and figures.

#include "policy/classifier.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>
#include <unordered_map>

namespace sluice {
namespace {

constexpr unsigned ipv4_length_base = 96;
constexpr std::size_t prune_tables_min = 4;    // fewer tables are probed sooner than pruned
constexpr unsigned probes_together = 8;        // tables whose cache misses overlap
constexpr uint32_t run_max = 4;                // entries verified a probe, while tables last
constexpr double run_penalty = 0.02;            // worth of a table's entry lost by each one before it in its run
constexpr std::size_t leftover_max = 16;       // so few entries are one more table's whatever their shape
constexpr double service_bit_weight = 0.3;      // of a port's bit against an address's, as to what it tells apart
constexpr std::size_t sample_max = 1024;       // entries that rank the candidates for a table
constexpr std::size_t evaluations_max = 24;    // candidates judged on all entries
constexpr std::size_t evaluated_entries_max = 2'000'000; // all of them together, a table
constexpr std::size_t shadow_run_max = 64;     // runs in which shadowed entries are looked for

enum entry_flag : uint8_t {
  source_list = 1,
  destination_list = 2,
  service_list = 4,
  source_ipv6_only = 8, // the prefix covers ::ffff:0:0/96 by its bits, but is IPv6's
  destination_ipv6_only = 16,
  any_protocol = 32,
};

struct mask128 { uint64_t hi, lo; };

constexpr auto prefix_masks = [] {
  std::array<mask128, 129> masks{};
  for (unsigned length = 1; length <= 128; ++length)
    masks[length] = length <= 64 ? mask128{~uint64_t{0} << (64 - length), 0}
                                 : mask128{~uint64_t{0}, ~uint64_t{0} << (128 - length)};
  return masks;
}();

mask128 halves(const sl_address& address) {
  mask128 value;
  std::memcpy(&value.hi, address.bytes, 8);
  std::memcpy(&value.lo, address.bytes + 8, 8);
  return {__builtin_bswap64(value.hi), __builtin_bswap64(value.lo)};
}

constexpr bool is_ipv4(uint64_t hi, uint64_t lo) { return hi == 0 && lo >> 32 == 0xffff; }

constexpr uint64_t port_word(uint16_t src_port, uint16_t dst_port, uint8_t protocol, uint8_t from, uint8_t to) {
  return uint64_t{src_port} << 48 | uint64_t{dst_port} << 32 | uint64_t{protocol} << 16 | uint64_t{from} << 8 | to;
}

inline uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline bool covers(uint64_t prefix_hi, uint64_t prefix_lo, unsigned length, uint64_t hi, uint64_t lo) {
  const mask128& mask = prefix_masks[length];
  return (((hi ^ prefix_hi) & mask.hi) | ((lo ^ prefix_lo) & mask.lo)) == 0;
}

} // namespace

// ---- match ---------------------------------------------------------------------------------------------------------

uint32_t classifier::hash(const wide_key& key, const wide_key& mask) noexcept {
  const uint64_t src = mix((key.src_hi & mask.src_hi) ^ 0x9e3779b97f4a7c15, (key.src_lo & mask.src_lo) ^ 0xe7037ed1a0b428db);
  const uint64_t dst = mix((key.dst_hi & mask.dst_hi) ^ 0x8ebc6af09c88c6e3, (key.dst_lo & mask.dst_lo) ^ 0x589965cc75374cc3);
  return static_cast<uint32_t>(mix(mix(src ^ 0xa0761d6478bd642f, dst ^ 0x2d358dccaa6c78a5), (key.ports & mask.ports) ^ 0xd6e8feb86659fd93) >> 32);
}

uint32_t classifier::match(const classify_key& key) const noexcept {
  const mask128 src = halves(key.src), dst = halves(key.dst);
  const unsigned from = key.from_zone % SL_ZONES_MAX, to = key.to_zone % SL_ZONES_MAX;
  const wide_key wide{src.hi, src.lo, dst.hi, dst.lo,
                      port_word(key.src_port, key.dst_port, key.protocol, static_cast<uint8_t>(from), static_cast<uint8_t>(to))};
  const bool src_ipv4 = is_ipv4(src.hi, src.lo), dst_ipv4 = is_ipv4(dst.hi, dst.lo);

  uint64_t candidates = protocol_tables_[key.protocol] & from_tables_[from] & to_tables_[to] &
                        dst_port_tables_[key.dst_port % dst_port_tables_.size()];
  if (src_prefixes_ != nullptr && candidates != 0) {
    // no_route + 1 wraps to 0: the entry for addresses that no prefix covers.
    candidates &= src_tables_[src_prefixes_->lookup(key.src) + 1];
    if (candidates != 0)
      candidates &= dst_tables_[dst_prefixes_->lookup(key.dst) + 1];
  }

  // A probe is two dependent cache misses, but the probes of several tables do not depend on each other: their misses
  // are taken together.
  struct probe { uint32_t tag, at; const table* in; };
  uint32_t best = no_rule;
  while (candidates != 0) {
    std::array<probe, probes_together> probes;
    unsigned count = 0;
    for (; candidates != 0 && count < probes_together; candidates &= candidates - 1) {
      const table& probed = tables_[static_cast<unsigned>(std::countr_zero(candidates))];
      if (probed.best >= best) {
        candidates = 0;
        break;
      }
      const uint32_t tag = hash(wide, probed.mask);
      probes[count] = {tag, tag & probed.slot_mask, &probed};
      __builtin_prefetch(&slots_[probed.slot_first + probes[count++].at]);
    }
    std::array<const slot*, probes_together> runs;
    unsigned runs_count = 0;
    for (const probe& p : std::span(probes).first(count)) {
      const slot* const slots = slots_.data() + p.in->slot_first;
      for (uint32_t at = p.at; slots[at].count != 0; at = (at + 1) & p.in->slot_mask) {
        if (slots[at].tag != p.tag)
          continue;
        runs[runs_count++] = &slots[at];
        __builtin_prefetch(&entries_[slots[at].first]);
        break; // a tag has one run in a table
      }
    }
    for (const slot* const run : std::span(runs).first(runs_count))
      for (uint32_t n = run->first; n < run->first + run->count && entries_[n].rule < best; ++n)
        if (verify(entries_[n], wide, src_ipv4, dst_ipv4)) {
          best = entries_[n].rule;
          break;
        }
  }
  return best;
}

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
  const list_spans& lists = lists_[e.lists];
  return ((e.flags & service_list) == 0 || in_services(lists.services, key.ports)) &&
         ((e.flags & source_list) == 0 || in_prefixes(lists.sources, key.src_hi, key.src_lo, src_ipv4)) &&
         ((e.flags & destination_list) == 0 || in_prefixes(lists.destinations, key.dst_hi, key.dst_lo, dst_ipv4));
}

// A list is sorted (IPv6 first) and disjoint: only the last prefix that starts at or below the address can cover it.
bool classifier::in_prefixes(sl_span list, uint64_t hi, uint64_t lo, bool ipv4) const noexcept {
  const flat_prefix* const first = list_prefixes_.data() + list.first;
  const flat_prefix* const after =
      std::upper_bound(first, first + list.count, ipv4, [hi, lo](bool wanted_ipv4, const flat_prefix& prefix) {
        if (wanted_ipv4 != (prefix.ipv4 != 0))
          return !wanted_ipv4;
        return prefix.hi != hi ? prefix.hi > hi : prefix.lo > lo;
      });
  return after != first && (after[-1].ipv4 != 0) == ipv4 &&
         covers(after[-1].hi, after[-1].lo, after[-1].length, hi, lo);
}

bool classifier::in_services(sl_span list, uint64_t ports) const noexcept {
  const auto src_port = static_cast<uint16_t>(ports >> 48);
  const auto dst_port = static_cast<uint16_t>(ports >> 32);
  const auto protocol = static_cast<uint8_t>(ports >> 16);
  for (const sl_service& service : std::span(list_services_).subspan(list.first, list.count))
    if ((service.protocol == protocol || service.protocol == SL_PROTOCOL_ANY) && src_port >= service.src_lo &&
        src_port <= service.src_hi && dst_port >= service.dst_lo && dst_port <= service.dst_hi)
      return true;
  return false;
}

std::size_t classifier::bytes() const noexcept {
  return sizeof(*this) + tables_.capacity() * sizeof(table) + slots_.capacity() * sizeof(slot) +
         entries_.capacity() * sizeof(entry) + zones_.capacity() * sizeof(zone_pair) +
         lists_.capacity() * sizeof(list_spans) + list_prefixes_.capacity() * sizeof(flat_prefix) +
         list_services_.capacity() * sizeof(sl_service) + (src_tables_.capacity() + dst_tables_.capacity()) * 8 +
         (src_prefixes_ != nullptr ? src_prefixes_->bytes() + dst_prefixes_->bytes() : 0);
}

// ---- build ---------------------------------------------------------------------------------------------------------

struct classifier_builder {
  using entry = classifier::entry;
  using flat_prefix = classifier::flat_prefix;
  using wide_key = classifier::wide_key;

  // How many bits of each field an entry fixes, or a table hashes.
  struct shape {
    uint8_t src = 0, dst = 0, src_port = 0, dst_port = 0, protocol = 0, from = 0, to = 0, reserved = 0;
    bool fits(const shape& wanted) const {
      return src >= wanted.src && dst >= wanted.dst && src_port >= wanted.src_port && dst_port >= wanted.dst_port &&
             protocol >= wanted.protocol && from >= wanted.from && to >= wanted.to;
    }
    unsigned bits() const { return src + dst + src_port + dst_port + protocol * 8 + (from + to) * 6; }
    friend shape common(const shape& a, const shape& b) {
      return {std::min(a.src, b.src), std::min(a.dst, b.dst), std::min(a.src_port, b.src_port),
              std::min(a.dst_port, b.dst_port), std::min(a.protocol, b.protocol), std::min(a.from, b.from),
              std::min(a.to, b.to), 0};
    }
    wide_key mask() const {
      const auto port_mask = [](unsigned bits) { return static_cast<uint16_t>(0xffff0000u >> bits); };
      return {prefix_masks[src].hi, prefix_masks[src].lo, prefix_masks[dst].hi, prefix_masks[dst].lo,
              port_word(port_mask(src_port), port_mask(dst_port), protocol ? 0xff : 0, from ? 0xff : 0, to ? 0xff : 0)};
    }
  };

  // A list after reduction, with the one prefix or service that stands for all of it.
  struct prefix_list {
    std::vector<flat_prefix> prefixes;
    flat_prefix common;
    double length_mean = 0; // beyond the family's own bits
    double length_common = 0;
    sl_span placed{0, 0};   // in list_prefixes_, once a rule needs it there
  };
  struct named_services {
    std::vector<sl_service> services;
    sl_service common;
    double bits_mean = 0;
    double bits_common = 0;
    sl_span placed{0, 0};
  };
  static constexpr uint32_t family_any = 2; // flat_prefix::ipv4 of a prefix that covers both families

  struct plan { // what of a rule becomes entries of its own
    uint32_t rule;
    uint32_t sources, destinations, services; // lists
    bool expand_sources = true, expand_destinations = true, expand_services = true;
  };

  std::unique_ptr<classifier> built{new classifier};
  std::vector<prefix_list> prefix_lists;
  std::vector<named_services> service_lists;
  std::unordered_map<uint64_t, uint32_t> prefix_list_of, service_list_of; // by span
  std::vector<entry> entries;
  std::vector<shape> shapes;      // of entries
  std::vector<wide_key> keys;     // of entries
  std::vector<std::pair<shape, std::vector<uint32_t>>> tables;
  std::vector<std::pair<uint32_t, uint32_t>> counts; // scratch: hash, entries with it

  // -- 1 check ----

  static std::string check(std::span<const classifier_rule> rules, std::span<const sl_prefix> prefixes,
                           std::span<const sl_service> services) {
    if (rules.size() > SL_RULES_MAX)
      return std::to_string(rules.size()) + " rules are too many: at most " + std::to_string(SL_RULES_MAX);
    for (std::size_t i = 0; i < prefixes.size(); ++i) {
      const mask128 value = halves(prefixes[i].address);
      if (prefixes[i].length > 128 || (value.hi & ~prefix_masks[prefixes[i].length].hi) != 0 ||
          (value.lo & ~prefix_masks[prefixes[i].length].lo) != 0)
        return "prefix " + std::to_string(i) + " of length " + std::to_string(prefixes[i].length) +
               " is none: the length must be 0 to 128 and the bits beyond it zero";
    }
    for (std::size_t i = 0; i < services.size(); ++i) {
      const sl_service& service = services[i];
      if (service.src_lo > service.src_hi || service.dst_lo > service.dst_hi)
        return "service " + std::to_string(i) + " has a range whose first port is above its last";
      if (service.protocol > 255 && service.protocol != SL_PROTOCOL_ANY)
        return "service " + std::to_string(i) + " has protocol " + std::to_string(service.protocol) +
               ": it must be 0 to 255, or any (" + std::to_string(SL_PROTOCOL_ANY) + ")";
    }
    const auto inside = [](sl_span span, std::size_t size) {
      return span.count == 0 || (span.first <= size && span.count <= size - span.first);
    };
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const char* const part = !inside(rules[i].sources, prefixes.size())        ? "sources"
                               : !inside(rules[i].destinations, prefixes.size()) ? "destinations"
                               : !inside(rules[i].services, services.size())     ? "services"
                                                                                 : nullptr;
      if (part != nullptr)
        return "rule " + std::to_string(i) + ": " + part + " reach beyond the end of their section";
    }
    return {};
  }

  // -- 2 reduce lists ----

  static bool is_within(const flat_prefix& inner, const flat_prefix& outer) {
    return inner.ipv4 == outer.ipv4 && inner.length >= outer.length &&
           covers(outer.hi, outer.lo, outer.length, inner.hi, inner.lo);
  }

  static double selectivity(const flat_prefix& prefix) {
    return prefix.ipv4 == family_any ? 0 : prefix.ipv4 != 0 ? prefix.length - ipv4_length_base : prefix.length / 2.0;
  }

  uint32_t reduce(sl_span span, std::span<const sl_prefix> all) {
    const uint64_t id = span.count == 0 ? 0 : uint64_t{span.first} << 32 | span.count;
    const auto [known, is_new] = prefix_list_of.try_emplace(id, static_cast<uint32_t>(prefix_lists.size()));
    if (!is_new)
      return known->second;
    prefix_list& list = prefix_lists.emplace_back();
    if (span.count == 0) {
      list.common = {0, 0, 0, family_any};
      list.prefixes.push_back(list.common);
      return known->second;
    }
    std::vector<flat_prefix> sorted;
    for (const sl_prefix& prefix : all.subspan(span.first, span.count)) {
      const mask128 value = halves(prefix.address);
      sorted.push_back({value.hi, value.lo, prefix.length,
                        prefix.length >= ipv4_length_base && is_ipv4(value.hi, value.lo) ? 1u : 0u});
    }
    std::sort(sorted.begin(), sorted.end(), [](const flat_prefix& a, const flat_prefix& b) {
      return std::tie(a.ipv4, a.hi, a.lo, a.length) < std::tie(b.ipv4, b.hi, b.lo, b.length);
    });
    for (const flat_prefix& prefix : sorted) {
      if (!list.prefixes.empty() && is_within(prefix, list.prefixes.back()))
        continue;
      list.prefixes.push_back(prefix);
      while (merge_siblings(list.prefixes)) {
      }
    }
    list.common = list.prefixes.front();
    for (const flat_prefix& prefix : list.prefixes) {
      if (prefix.ipv4 != list.common.ipv4)
        list.common = {0, 0, 0, family_any};
      else
        while (!is_within(prefix, list.common)) {
          --list.common.length;
          list.common.hi &= prefix_masks[list.common.length].hi;
          list.common.lo &= prefix_masks[list.common.length].lo;
        }
      if (list.common.ipv4 == family_any)
        break;
    }
    for (const flat_prefix& prefix : list.prefixes)
      list.length_mean += selectivity(prefix) / static_cast<double>(list.prefixes.size());
    list.length_common = selectivity(list.common);
    return known->second;
  }

  // Two halves that stand last become their whole.
  static bool merge_siblings(std::vector<flat_prefix>& prefixes) {
    if (prefixes.size() < 2)
      return false;
    const flat_prefix& last = prefixes.back();
    flat_prefix whole = prefixes[prefixes.size() - 2];
    if (whole.ipv4 != last.ipv4 || whole.length != last.length || whole.length <= (last.ipv4 ? ipv4_length_base : 0))
      return false;
    --whole.length;
    if (!is_within(last, whole) || (whole.hi & ~prefix_masks[whole.length].hi) != 0 ||
        (whole.lo & ~prefix_masks[whole.length].lo) != 0)
      return false;
    prefixes.pop_back();
    prefixes.back() = whole;
    return true;
  }

  static bool is_within(const sl_service& inner, const sl_service& outer) {
    return (outer.protocol == SL_PROTOCOL_ANY || outer.protocol == inner.protocol) && inner.src_lo >= outer.src_lo &&
           inner.src_hi <= outer.src_hi && inner.dst_lo >= outer.dst_lo && inner.dst_hi <= outer.dst_hi;
  }

  // Bits that all ports of a range have in common.
  static uint8_t range_bits(uint16_t lo, uint16_t hi) {
    return static_cast<uint8_t>(16 - std::bit_width(static_cast<uint16_t>(lo ^ hi)));
  }

  // Weighed less than an address's bits: many rules share a few well-known services.
  static double selectivity(const sl_service& service) {
    return ((service.protocol == SL_PROTOCOL_ANY ? 0 : 1) + range_bits(service.src_lo, service.src_hi) +
            range_bits(service.dst_lo, service.dst_hi)) * service_bit_weight;
  }

  uint32_t reduce(sl_span span, std::span<const sl_service> all) {
    const uint64_t id = span.count == 0 ? 0 : uint64_t{span.first} << 32 | span.count;
    const auto [known, is_new] = service_list_of.try_emplace(id, static_cast<uint32_t>(service_lists.size()));
    if (!is_new)
      return known->second;
    named_services& list = service_lists.emplace_back();
    constexpr sl_service any{SL_PROTOCOL_ANY, 0, 0xffff, 0, 0xffff, 0};
    if (span.count == 0) {
      list.services.push_back(any);
    } else {
      std::vector<sl_service> sorted(all.begin() + span.first, all.begin() + span.first + span.count);
      std::sort(sorted.begin(), sorted.end(), [](const sl_service& a, const sl_service& b) {
        return std::tie(a.protocol, a.dst_lo, b.dst_hi, a.src_lo, b.src_hi) <
               std::tie(b.protocol, b.dst_lo, a.dst_hi, b.src_lo, a.src_hi);
      });
      for (const sl_service& service : sorted)
        if (list.services.empty() || !is_within(service, list.services.back()))
          list.services.push_back(service);
    }
    list.common = list.services.front();
    for (const sl_service& service : list.services) {
      if (service.protocol != list.common.protocol)
        list.common.protocol = SL_PROTOCOL_ANY;
      list.common.src_lo = std::min(list.common.src_lo, service.src_lo);
      list.common.src_hi = std::max(list.common.src_hi, service.src_hi);
      list.common.dst_lo = std::min(list.common.dst_lo, service.dst_lo);
      list.common.dst_hi = std::max(list.common.dst_hi, service.dst_hi);
      list.bits_mean += selectivity(service) / static_cast<double>(list.services.size());
    }
    list.bits_common = selectivity(list.common);
    return known->second;
  }

  // -- 3 entries ----

  // Expands the fields that make a rule most selective for their number of entries, within the cap; the rest of its
  // lists are looked up when an entry is verified. Returns the number of entries.
  std::size_t choose(plan& rule, std::size_t cap) const {
    const prefix_list& sources = prefix_lists[rule.sources];
    const prefix_list& destinations = prefix_lists[rule.destinations];
    const named_services& services = service_lists[rule.services];
    double score_best = -1e9;
    std::size_t product_best = 1;
    for (unsigned choice = 0; choice < 8; ++choice) {
      const bool expand_sources = (choice & 1) != 0 || sources.prefixes.size() == 1;
      const bool expand_destinations = (choice & 2) != 0 || destinations.prefixes.size() == 1;
      const bool expand_services = (choice & 4) != 0 || services.services.size() == 1;
      // Each factor is bounded by a section's 32-bit count; doubles do not overflow.
      const double product = (expand_sources ? static_cast<double>(sources.prefixes.size()) : 1.0) *
                             (expand_destinations ? static_cast<double>(destinations.prefixes.size()) : 1.0) *
                             (expand_services ? static_cast<double>(services.services.size()) : 1.0);
      if (product > static_cast<double>(cap))
        continue;
      double score = (expand_sources ? sources.length_mean : sources.length_common) +
                     (expand_destinations ? destinations.length_mean : destinations.length_common) +
                     (expand_services ? services.bits_mean : services.bits_common);
      score += expand_sources + expand_destinations + expand_services; // no list to look up
      score -= std::log2(product) / 2;
      if (score > score_best) {
        score_best = score;
        product_best = static_cast<std::size_t>(product);
        rule.expand_sources = expand_sources;
        rule.expand_destinations = expand_destinations;
        rule.expand_services = expand_services;
      }
    }
    return product_best;
  }

  // The cap that lets all rules in is the same for all; what it leaves goes to the first rules that want more.
  void choose_all(std::vector<plan>& plans) const {
    std::size_t cap = classifier::entries_per_rule_max, total;
    for (;; cap /= 2) {
      total = 0;
      for (plan& rule : plans)
        total += choose(rule, cap);
      if (total <= classifier::entries_max)
        break;
    }
    if (cap == classifier::entries_per_rule_max)
      return;
    for (plan& rule : plans) {
      plan capped = rule;
      const std::size_t more = choose(rule, classifier::entries_per_rule_max) - choose(capped, cap);
      if (total + more <= classifier::entries_max)
        total += more;
      else
        choose(rule, cap);
    }
  }

  sl_span place(prefix_list& list) {
    if (list.placed.count == 0) {
      list.placed = {static_cast<uint32_t>(built->list_prefixes_.size()), static_cast<uint32_t>(list.prefixes.size())};
      built->list_prefixes_.insert(built->list_prefixes_.end(), list.prefixes.begin(), list.prefixes.end());
    }
    return list.placed;
  }

  sl_span place(named_services& list) {
    if (list.placed.count == 0) {
      list.placed = {static_cast<uint32_t>(built->list_services_.size()), static_cast<uint32_t>(list.services.size())};
      built->list_services_.insert(built->list_services_.end(), list.services.begin(), list.services.end());
    }
    return list.placed;
  }

  void make_entries(const plan& rule, uint32_t zones) {
    prefix_list& sources = prefix_lists[rule.sources];
    prefix_list& destinations = prefix_lists[rule.destinations];
    named_services& services = service_lists[rule.services];
    entry e{};
    e.rule = rule.rule;
    e.zones = zones;
    e.flags = static_cast<uint8_t>((rule.expand_sources ? 0 : source_list) |
                                   (rule.expand_destinations ? 0 : destination_list) |
                                   (rule.expand_services ? 0 : service_list));
    if (e.flags != 0) {
      e.lists = static_cast<uint32_t>(built->lists_.size());
      built->lists_.push_back({rule.expand_sources ? sl_span{0, 0} : place(sources),
                               rule.expand_destinations ? sl_span{0, 0} : place(destinations),
                               rule.expand_services ? sl_span{0, 0} : place(services)});
    }
    const auto each = [](bool expand, const auto& list, const auto& common) {
      return expand ? std::span(list) : std::span(&common, 1);
    };
    for (const flat_prefix& source : each(rule.expand_sources, sources.prefixes, sources.common))
      for (const flat_prefix& destination : each(rule.expand_destinations, destinations.prefixes, destinations.common))
        for (const sl_service& service : each(rule.expand_services, services.services, services.common))
          add_entry(e, source, destination, service);
  }

  void add_entry(const entry& of_rule, const flat_prefix& source, const flat_prefix& destination, const sl_service& service) {
    entry e = of_rule;
    e.src_hi = source.hi;
    e.src_lo = source.lo;
    e.src_length = static_cast<uint8_t>(source.length);
    e.dst_hi = destination.hi;
    e.dst_lo = destination.lo;
    e.dst_length = static_cast<uint8_t>(destination.length);
    e.src_port_lo = service.src_lo;
    e.src_port_hi = service.src_hi;
    e.dst_port_lo = service.dst_lo;
    e.dst_port_hi = service.dst_hi;
    e.protocol = static_cast<uint8_t>(service.protocol == SL_PROTOCOL_ANY ? 0 : service.protocol);
    if (service.protocol == SL_PROTOCOL_ANY)
      e.flags |= any_protocol;
    if (source.ipv4 == 0 && source.length < ipv4_length_base)
      e.flags |= source_ipv6_only;
    if (destination.ipv4 == 0 && destination.length < ipv4_length_base)
      e.flags |= destination_ipv6_only;
    const auto& zones = built->zones_[e.zones];
    const bool from_one = std::has_single_bit(zones.from), to_one = std::has_single_bit(zones.to);
    shapes.push_back({e.src_length, e.dst_length, range_bits(e.src_port_lo, e.src_port_hi),
                      range_bits(e.dst_port_lo, e.dst_port_hi), static_cast<uint8_t>((e.flags & any_protocol) == 0),
                      from_one, to_one, 0});
    keys.push_back({e.src_hi, e.src_lo, e.dst_hi, e.dst_lo,
                    port_word(e.src_port_lo, e.dst_port_lo, e.protocol,
                              static_cast<uint8_t>(from_one ? std::countr_zero(zones.from) : 0),
                              static_cast<uint8_t>(to_one ? std::countr_zero(zones.to) : 0))});
    entries.push_back(e);
  }

  // -- 4 tables ----
  //
  // Greedy: the next table is the shape that places most of what is left in runs of at most run_max entries. What is
  // too much for its run waits for a table with more bits. When the tables that are left could not take the rest that
  // way, runs may be longer.

  void share_out() {
    std::vector<uint32_t> left(entries.size());
    for (uint32_t i = 0; i < left.size(); ++i)
      left[i] = i;
    while (!left.empty()) {
      const std::size_t tables_left = classifier::tables_max - tables.size();
      if (left.size() <= leftover_max || tables_left == 1) {
        shape all = shapes[left.front()];
        for (const uint32_t i : left)
          all = common(all, shapes[i]);
        tables.emplace_back(all, std::move(left));
        return;
      }
      std::vector<judged> candidates;
      for (const shape& candidate : rank(left))
        candidates.push_back({candidate, run_lengths(candidate, left)});
      uint32_t limit = run_max;
      shape chosen;
      for (;; limit *= 2) {
        std::size_t placed_most = 0;
        double score_most = -1;
        for (const judged& candidate : candidates) {
          const auto [placed, score] = candidate.evaluate(limit);
          if (score > score_most) {
            score_most = score;
            placed_most = placed;
            chosen = candidate.candidate;
          }
        }
        if (placed_most * tables_left >= left.size() || limit >= left.size())
          break;
      }
      left = take(chosen, left, limit);
    }
  }

  static std::vector<uint8_t> quantiles(std::vector<uint8_t> values, std::initializer_list<double> parts) {
    std::sort(values.begin(), values.end());
    std::vector<uint8_t> result{0};
    for (const double part : parts)
      result.push_back(values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))]);
    std::sort(result.begin(), result.end());
    result.erase(std::unique(result.begin(), result.end()), result.end());
    return result;
  }

  // The shapes worth judging on all entries, found on a sample.
  std::vector<shape> rank(const std::vector<uint32_t>& left) {
    std::vector<uint32_t> sample;
    const double step = std::max(1.0, static_cast<double>(left.size()) / sample_max);
    for (double at = 0; at < static_cast<double>(left.size()); at += step)
      sample.push_back(left[static_cast<std::size_t>(at)]);
    const auto values = [&](uint8_t shape::*field, std::initializer_list<double> parts) {
      std::vector<uint8_t> all;
      for (const uint32_t i : sample)
        all.push_back(shapes[i].*field);
      return quantiles(std::move(all), parts);
    };
    const auto srcs = values(&shape::src, {0, 0.1, 0.25, 0.5, 0.75, 1});
    const auto dsts = values(&shape::dst, {0, 0.1, 0.25, 0.5, 0.75, 1});
    const auto src_ports = values(&shape::src_port, {0.5, 1});
    const auto dst_ports = values(&shape::dst_port, {0.25, 0.5, 1});
    const auto protocols = values(&shape::protocol, {1});
    const auto froms = values(&shape::from, {1});
    const auto tos = values(&shape::to, {1});

    struct ranked { double placed; shape candidate; };
    std::vector<ranked> ranks;
    std::vector<uint32_t> hashes;
    for (const uint8_t src : srcs)
      for (const uint8_t dst : dsts)
        for (const uint8_t src_port : src_ports)
          for (const uint8_t dst_port : dst_ports)
            for (const uint8_t protocol : protocols)
              for (const uint8_t from : froms)
                for (const uint8_t to : tos) {
                  const shape candidate{src, dst, src_port, dst_port, protocol, from, to, 0};
                  ranks.push_back({estimate(candidate, sample, step, hashes), candidate});
                }
    const std::size_t kept = std::min(ranks.size(), std::clamp<std::size_t>(evaluated_entries_max / left.size(), 3, evaluations_max));
    std::partial_sort(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(kept), ranks.end(),
                      [](const ranked& a, const ranked& b) {
                        return a.placed != b.placed ? a.placed > b.placed : a.candidate.bits() > b.candidate.bits();
                      });
    std::vector<shape> best;
    for (std::size_t i = 0; i < kept; ++i)
      best.push_back(ranks[i].candidate);
    return best;
  }

  // Entries of all that the candidate would place, judged by a sample in which each stands for `step` entries. Keys
  // that meet in the sample are long runs; how many do also says how far to trust those that stand alone.
  double estimate(const shape& candidate, const std::vector<uint32_t>& sample, double step, std::vector<uint32_t>& hashes) {
    hashes.clear();
    const wide_key mask = candidate.mask();
    for (const uint32_t i : sample)
      if (shapes[i].fits(candidate))
        hashes.push_back(classifier::hash(keys[i], mask));
    std::sort(hashes.begin(), hashes.end());
    double alone = 0, met = 0, placed = 0;
    for (std::size_t i = 0, next; i < hashes.size(); i = next) {
      for (next = i + 1; next < hashes.size() && hashes[next] == hashes[i]; ++next) {
      }
      const double run = static_cast<double>(next - i);
      if (run == 1) {
        ++alone;
      } else {
        met += run;
        placed += std::min<double>(run_max, run * step);
      }
    }
    const double doubt = step == 1 || met == 0 ? 0 : met / (alone + met);
    return placed + alone * (step * (1 - doubt) + std::min<double>(run_max, step) * doubt);
  }

  // A candidate with the runs it would make: (length, how many).
  struct judged {
    shape candidate;
    std::vector<std::pair<uint32_t, uint32_t>> runs;

    // Entries placed in runs of at most limit, and the same weighed: short runs are worth a little more.
    std::pair<std::size_t, double> evaluate(uint32_t limit) const {
      std::size_t placed = 0;
      double score = 0;
      for (const auto& [length, count] : runs) {
        const std::size_t entries = std::size_t{std::min(length, limit)} * count;
        placed += entries;
        score += static_cast<double>(entries) * (1 - run_penalty * (std::min({length, limit, run_max}) - 1));
      }
      return {placed, score};
    }
  };

  std::vector<std::pair<uint32_t, uint32_t>> run_lengths(const shape& candidate, const std::vector<uint32_t>& left) {
    counts.assign(std::bit_ceil(left.size() * 2), {0, 0});
    const wide_key mask = candidate.mask();
    for (const uint32_t i : left)
      if (shapes[i].fits(candidate))
        ++counts[find(classifier::hash(keys[i], mask))].second;
    std::vector<uint32_t> number(1); // by length
    for (const auto& [hashed, length] : counts) {
      if (length >= number.size())
        number.resize(length + 1);
      ++number[length];
    }
    std::vector<std::pair<uint32_t, uint32_t>> runs;
    for (uint32_t length = 1; length < number.size(); ++length)
      if (number[length] != 0)
        runs.emplace_back(length, number[length]);
    return runs;
  }

  std::size_t find(uint32_t hashed) {
    std::size_t at = hashed & (counts.size() - 1);
    while (counts[at].second != 0 && counts[at].first != hashed)
      at = (at + 1) & (counts.size() - 1);
    counts[at].first = hashed;
    return at;
  }

  // Fills a table; of a run that is too long those with the fewest bits stay, the others have more ways to go.
  std::vector<uint32_t> take(const shape& chosen, std::vector<uint32_t>& left, uint32_t limit) {
    std::stable_sort(left.begin(), left.end(), [this](uint32_t a, uint32_t b) { return shapes[a].bits() < shapes[b].bits(); });
    counts.assign(std::bit_ceil(left.size() * 2), {0, 0});
    const wide_key mask = chosen.mask();
    std::vector<uint32_t> placed, rest;
    for (const uint32_t i : left) {
      if (!shapes[i].fits(chosen)) {
        rest.push_back(i);
        continue;
      }
      uint32_t& run = counts[find(classifier::hash(keys[i], mask))].second;
      if (run < limit) {
        ++run;
        placed.push_back(i);
      } else {
        rest.push_back(i);
      }
    }
    tables.emplace_back(chosen, std::move(placed));
    return rest;
  }

  // -- 5 layout ----

  bool shadows(const entry& first, const entry& later) const {
    if ((first.flags & (source_list | destination_list | service_list)) != 0)
      return false;
    const auto& zones = built->zones_[first.zones];
    const auto& zones_later = built->zones_[later.zones];
    return (zones_later.from & ~zones.from) == 0 && (zones_later.to & ~zones.to) == 0 &&
           first.src_length <= later.src_length && first.dst_length <= later.dst_length &&
           (first.src_length != later.src_length || (first.flags & source_ipv6_only) == (later.flags & source_ipv6_only)) &&
           (first.dst_length != later.dst_length || (first.flags & destination_ipv6_only) == (later.flags & destination_ipv6_only)) &&
           covers_prefix(first.flags & source_ipv6_only, first.src_hi, first.src_lo, first.src_length, later.src_hi, later.src_lo) &&
           covers_prefix(first.flags & destination_ipv6_only, first.dst_hi, first.dst_lo, first.dst_length, later.dst_hi, later.dst_lo) &&
           first.src_port_lo <= later.src_port_lo && first.src_port_hi >= later.src_port_hi &&
           first.dst_port_lo <= later.dst_port_lo && first.dst_port_hi >= later.dst_port_hi &&
           ((first.flags & any_protocol) != 0 || ((later.flags & any_protocol) == 0 && first.protocol == later.protocol));
  }

  static bool covers_prefix(bool ipv6_only, uint64_t hi, uint64_t lo, unsigned length, uint64_t inner_hi, uint64_t inner_lo) {
    return covers(hi, lo, length, inner_hi, inner_lo) && !(ipv6_only && is_ipv4(inner_hi, inner_lo));
  }

  void lay_out() {
    const auto best_of = [this](const std::vector<uint32_t>& members) {
      uint32_t best = classifier::no_rule;
      for (const uint32_t i : members)
        best = std::min(best, entries[i].rule);
      return best;
    };
    std::vector<std::pair<uint32_t, std::size_t>> order;
    for (std::size_t t = 0; t < tables.size(); ++t)
      order.emplace_back(best_of(tables[t].second), t);
    std::sort(order.begin(), order.end());

    built->entries_.reserve(entries.size());
    struct keyed { uint32_t tag, rule, index; };
    std::vector<keyed> members;
    for (const auto& [best, t] : order) {
      const wide_key mask = tables[t].first.mask();
      members.clear();
      for (const uint32_t i : tables[t].second)
        members.push_back({classifier::hash(keys[i], mask), entries[i].rule, i});
      std::sort(members.begin(), members.end(), [](const keyed& a, const keyed& b) {
        return std::tie(a.tag, a.rule, a.index) < std::tie(b.tag, b.rule, b.index);
      });
      std::size_t runs = 0;
      for (std::size_t i = 0; i < members.size(); ++i)
        runs += i == 0 || members[i].tag != members[i - 1].tag;
      const auto slots = static_cast<uint32_t>(std::bit_ceil(runs * 2));
      built->tables_.push_back({mask, best, static_cast<uint32_t>(built->slots_.size()), slots - 1, 0});
      built->slots_.resize(built->slots_.size() + slots);
      for (std::size_t i = 0, next; i < members.size(); i = next) {
        const auto first = static_cast<uint32_t>(built->entries_.size());
        for (next = i; next < members.size() && members[next].tag == members[i].tag; ++next) {
          const entry& e = entries[members[next].index];
          const std::span run(built->entries_.data() + first, built->entries_.size() - first);
          if (run.size() > shadow_run_max ||
              std::none_of(run.begin(), run.end(), [&](const entry& earlier) { return shadows(earlier, e); }))
            built->entries_.push_back(e);
        }
        uint32_t at = members[i].tag & (slots - 1);
        classifier::slot* const table_slots = built->slots_.data() + built->tables_.back().slot_first;
        while (table_slots[at].count != 0)
          at = (at + 1) & (slots - 1);
        table_slots[at] = {members[i].tag, first,
                           static_cast<uint32_t>(built->entries_.size()) - first, members[i].rule};
      }
    }
    built->entries_.shrink_to_fit();
    built->slots_.shrink_to_fit();
  }

  // -- 6 masks ----

  bool fill_masks(std::string* error) {
    std::vector<std::pair<sl_prefix, uint64_t>> sources, destinations;
    uint64_t sources_any = 0, destinations_any = 0, all_ports = 0;
    std::size_t n = 0;
    const bool prune = built->tables_.size() >= prune_tables_min;
    for (std::size_t t = 0; t < built->tables_.size(); ++t) {
      const uint64_t bit = uint64_t{1} << t;
      // Tables follow each other in entries_ as in tables_; a table's end is where its last run ends.
      std::size_t end = n;
      for (uint32_t i = 0; i <= built->tables_[t].slot_mask; ++i) {
        const auto& run = built->slots_[built->tables_[t].slot_first + i];
        end = std::max<std::size_t>(end, run.count == 0 ? 0 : run.first + run.count);
      }
      for (; n < end; ++n) {
        const entry& e = built->entries_[n];
        if ((e.flags & any_protocol) != 0)
          for (uint64_t& mask : built->protocol_tables_)
            mask |= bit;
        else
          built->protocol_tables_[e.protocol] |= bit;
        for (unsigned zone = 0; zone < SL_ZONES_MAX; ++zone) {
          built->from_tables_[zone] |= built->zones_[e.zones].from >> zone & 1 ? bit : 0;
          built->to_tables_[zone] |= built->zones_[e.zones].to >> zone & 1 ? bit : 0;
        }
        const std::size_t ports = built->dst_port_tables_.size();
        if (e.dst_port_hi - e.dst_port_lo + 1u >= ports)
          all_ports |= bit;
        else
          for (std::size_t port = e.dst_port_lo; port <= e.dst_port_hi; ++port)
            built->dst_port_tables_[port % ports] |= bit;
        if (!prune)
          continue;
        if (e.src_length == 0 && (e.flags & source_ipv6_only) == 0)
          sources_any |= bit;
        else
          sources.emplace_back(prefix_of(e.src_hi, e.src_lo, e.src_length), bit);
        if (e.dst_length == 0 && (e.flags & destination_ipv6_only) == 0)
          destinations_any |= bit;
        else
          destinations.emplace_back(prefix_of(e.dst_hi, e.dst_lo, e.dst_length), bit);
      }
    }
    for (uint64_t& mask : built->dst_port_tables_)
      mask |= all_ports;
    return !prune || (fill_prefixes(sources, sources_any, built->src_prefixes_, built->src_tables_, error) &&
                      fill_prefixes(destinations, destinations_any, built->dst_prefixes_, built->dst_tables_, error));
  }

  static sl_prefix prefix_of(uint64_t hi, uint64_t lo, uint8_t length) {
    sl_prefix prefix{};
    const uint64_t words[2] = {__builtin_bswap64(hi), __builtin_bswap64(lo)};
    std::memcpy(prefix.address.bytes, words, sizeof(words));
    prefix.length = length;
    return prefix;
  }

  static bool fill_prefixes(std::vector<std::pair<sl_prefix, uint64_t>>& used, uint64_t any,
                            std::unique_ptr<const lpm>& prefixes, std::vector<uint64_t>& masks, std::string* error) {
    // By length: parents come before their children, so that one pass hands their tables down.
    std::sort(used.begin(), used.end(), [](const auto& a, const auto& b) {
      if (a.first.length != b.first.length)
        return a.first.length < b.first.length;
      return std::memcmp(a.first.address.bytes, b.first.address.bytes, sizeof(sl_address)) < 0;
    });
    std::vector<sl_prefix> unique;
    masks.assign(1, any); // index + 1, so that no_route's is 0
    for (const auto& [prefix, bit] : used) {
      if (unique.empty() || std::memcmp(&unique.back(), &prefix, sizeof(prefix)) != 0) {
        unique.push_back(prefix);
        masks.push_back(any);
      }
      masks.back() |= bit;
    }
    masks.shrink_to_fit();
    prefixes = lpm::build(unique, error);
    if (prefixes == nullptr)
      return false;
    for (uint32_t i = 0; i < unique.size(); ++i)
      masks[i + 1] |= masks[prefixes->parent(i) + 1];
    return true;
  }
};

std::unique_ptr<const classifier> classifier::build(std::span<const classifier_rule> rules,
                                                    std::span<const sl_prefix> prefixes,
                                                    std::span<const sl_service> services, std::string* error) {
  if (std::string text = classifier_builder::check(rules, prefixes, services); !text.empty()) {
    if (error != nullptr)
      *error = std::move(text);
    return nullptr;
  }
  classifier_builder builder;
  std::vector<classifier_builder::plan> plans;
  for (uint32_t i = 0; i < rules.size(); ++i)
    if (rules[i].from_zones != 0 && rules[i].to_zones != 0)
      plans.push_back({i, builder.reduce(rules[i].sources, prefixes), builder.reduce(rules[i].destinations, prefixes),
                       builder.reduce(rules[i].services, services)});

  builder.choose_all(plans);
  std::unordered_map<uint64_t, std::vector<uint32_t>> zone_pairs; // by hash
  for (const auto& plan : plans) {
    const zone_pair zones{rules[plan.rule].from_zones, rules[plan.rule].to_zones};
    auto& same = zone_pairs[mix(zones.from ^ 0x9e3779b97f4a7c15, zones.to ^ 0xe7037ed1a0b428db)];
    const auto known = std::find_if(same.begin(), same.end(), [&](uint32_t i) {
      return builder.built->zones_[i].from == zones.from && builder.built->zones_[i].to == zones.to;
    });
    if (known != same.end()) {
      builder.make_entries(plan, *known);
      continue;
    }
    same.push_back(static_cast<uint32_t>(builder.built->zones_.size()));
    builder.built->zones_.push_back(zones);
    builder.make_entries(plan, same.back());
  }
  builder.share_out();
  builder.lay_out();
  if (!builder.fill_masks(error))
    return nullptr;
  return std::move(builder.built);
}

} // namespace sluice
