// SPDX-License-Identifier: Apache-2.0
//
// classifier_build.cc: how a classifier comes to be: from nothing, or from the one before it and what differs.
//
// build(): 1 check, 2 reduce lists, 3 choose what to expand of each rule, 4 make records and entries, 5 share the entries
// out to tables, 6 fill buckets, sieves and masks.
// update(): 1 check, 2 find what differs, 3 take the entries of rules that went out of their buckets, 4 give new rules a
// precedence between their neighbours', make their entries and find each a table. Buckets are copied a page at a time;
// entries are appended to the arena that all snapshots since the last build share, and are never changed. What goes stays
// in the arena until nobody reads any of it, so that a build follows when a third of it is gone.
// Threads and bounds: see the header.

#include <algorithm>
#include <bit>
#include <deque>
#include <unordered_map>
#include <utility>

#include "policy/classifier.h"
#include "policy/classifier_lists.h"
#include "policy/classifier_tables.h"

namespace sluice {

using namespace classifier_parts;

namespace {

constexpr std::size_t build_tables_max = 56;   // the others are for updates
constexpr std::size_t sieved_tables_min = 6;   // fewer tables are probed sooner than pruned
constexpr unsigned bucket_fill = 4;            // runs a bucket at most when a table is laid out: few pass on
constexpr unsigned bucket_fill_max = 6;        // and when it is laid out anew, twice as large
constexpr std::size_t run_length_max = 512;    // of more entries the rest are one more run of the same hash
constexpr std::size_t level_share = 50;        // one in so many prefixes makes a length worth a level of the sieve
constexpr uint64_t precedence_step = UINT64_MAX / (SL_RULES_MAX + 2); // 2^46 places between two rules
constexpr uint64_t precedence_near = uint64_t{1} << 36; // new rules stand so near the one before, to leave room behind
constexpr std::size_t lookahead_max = 512;     // rules searched for where two lists agree again
constexpr std::size_t comparisons_max = 8'000'000; // of rules, by all searches of an update: more means a build
constexpr std::size_t changes_share = 4;       // more than one in so many rules changed: a build is sooner done
constexpr std::size_t gone_share = 3;          // one in so many entries gone since the build: room for a new one
constexpr std::size_t gone_min = 4096;
constexpr std::size_t crowded_share = 32;      // one in so many entries in too long a run: lookups grow slow
constexpr std::size_t crowded_min = 64;

std::string check(const classifier_input& in) {
  const auto& [rules, prefixes, services] = in;
  if (rules.size() > SL_RULES_MAX)
    return std::to_string(rules.size()) + " rules are too many: at most " + std::to_string(SL_RULES_MAX);
  if (rules.empty())
    return {}; // lists that nobody uses
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

template <class Item>
std::span<const Item> part(std::span<const Item> all, sl_span span) {
  return span.count == 0 ? std::span<const Item>() : all.subspan(span.first, span.count);
}

template <class Item>
bool equal_items(std::span<const Item> a, sl_span in_a, std::span<const Item> b, sl_span in_b) {
  return in_a.count == in_b.count &&
         (in_a.count == 0 || std::memcmp(&a[in_a.first], &b[in_b.first], in_a.count * sizeof(Item)) == 0);
}

bool equal_rules(const classifier_input& a, std::size_t i, const classifier_input& b, std::size_t j) {
  const classifier_rule &x = a.rules[i], &y = b.rules[j];
  return x.from_zones == y.from_zones && x.to_zones == y.to_zones &&
         equal_items(a.prefixes, x.sources, b.prefixes, y.sources) &&
         equal_items(a.prefixes, x.destinations, b.prefixes, y.destinations) &&
         equal_items(a.services, x.services, b.services, y.services);
}

bool matches_nothing(const classifier_rule& rule) { return rule.from_zones == 0 || rule.to_zones == 0; }

} // namespace

/// What the classifiers since one build share. Appended to by the thread that updates; freed with the last of them.
struct classifier::arena {
  chunked<entry, entry_chunk_bits> entries;
  chunked<rule_record, record_chunk_bits> records;
  chunked<zone_pair, zone_chunk_bits> zones;
  std::unordered_map<uint64_t, std::vector<uint32_t>> zones_by_hash;
  std::deque<std::vector<flat_prefix>> prefix_lists;
  std::deque<std::vector<sl_service>> service_lists;
  std::unordered_map<uint64_t, std::vector<std::span<const flat_prefix>>> prefix_lists_by_hash;
  std::unordered_map<uint64_t, std::vector<std::span<const sl_service>>> service_lists_by_hash;
  std::deque<rule_lists> lists;
  std::size_t list_bytes = 0;

  uint32_t zones_of(const classifier_rule& rule) {
    auto& same = zones_by_hash[mix(rule.from_zones ^ 0x9e3779b97f4a7c15, rule.to_zones ^ 0xe7037ed1a0b428db)];
    for (const uint32_t i : same)
      if (zones[i].from == rule.from_zones && zones[i].to == rule.to_zones)
        return i;
    same.push_back(static_cast<uint32_t>(zones.push_back({rule.from_zones, rule.to_zones})));
    return same.back();
  }

  // Equal lists are kept once, also those of rules that come with later updates.
  template <class Item>
  std::span<const Item> keep(const std::vector<Item>& items, std::deque<std::vector<Item>>& all,
                             std::unordered_map<uint64_t, std::vector<std::span<const Item>>>& by_hash) {
    uint64_t hashed = items.size();
    for (const Item& item : items) {
      uint64_t words[(sizeof(Item) + 7) / 8] = {};
      std::memcpy(words, &item, sizeof(Item));
      for (const uint64_t word : words)
        hashed = mix(hashed ^ 0xa0761d6478bd642f, word ^ 0x2d358dccaa6c78a5);
    }
    auto& same = by_hash[hashed];
    for (const auto& known : same)
      if (known.size() == items.size() && std::memcmp(known.data(), items.data(), items.size() * sizeof(Item)) == 0)
        return known;
    list_bytes += items.size() * sizeof(Item);
    same.push_back(all.emplace_back(items));
    return same.back();
  }
  void place(prefix_list& list) { if (list.placed.empty()) list.placed = keep(list.items, prefix_lists, prefix_lists_by_hash); }
  void place(service_list_reduced& list) { if (list.placed.empty()) list.placed = keep(list.items, service_lists, service_lists_by_hash); }
};

struct classifier_builder {
  classifier& made;
  classifier::arena& arena;
  const classifier_input& in;
  // Lists by span: rules that write the same list share one.
  std::deque<prefix_list> prefix_lists;
  std::deque<service_list_reduced> service_lists;
  std::unordered_map<uint64_t, prefix_list*> prefix_list_of;
  std::unordered_map<uint64_t, service_list_reduced*> service_list_of;

  struct plan {
    uint32_t rule;
    prefix_list* sources;
    prefix_list* destinations;
    service_list_reduced* services;
    expansion expand;
    expansion choose(std::size_t cap) const { return classifier_parts::choose(*sources, *destinations, *services, cap); }
  };

  // ---- lists and entries ---------------------------------------------------------------------------------------------

  template <class List, class Item>
  static List* reduced(std::unordered_map<uint64_t, List*>& known, std::deque<List>& lists, std::span<const Item> all, sl_span span) {
    List*& list = known[span.count == 0 ? 0 : uint64_t{span.first} << 32 | span.count];
    if (list == nullptr)
      list = &lists.emplace_back(reduce(part(all, span)));
    return list;
  }

  plan plan_of(uint32_t i) {
    const classifier_rule& rule = in.rules[i];
    return {i, reduced(prefix_list_of, prefix_lists, in.prefixes, rule.sources),
            reduced(prefix_list_of, prefix_lists, in.prefixes, rule.destinations),
            reduced(service_list_of, service_lists, in.services, rule.services), {}};
  }

  // The cap that lets all rules in is the same for all; what it leaves goes to the first rules that want more.
  static void choose_all(std::vector<plan>& plans) {
    std::size_t cap = classifier::entries_per_rule_max, total;
    for (;; cap /= 2) {
      total = 0;
      for (plan& rule : plans)
        total += (rule.expand = rule.choose(cap)).entries;
      if (total <= classifier::entries_max)
        break;
    }
    if (cap == classifier::entries_per_rule_max)
      return;
    for (plan& rule : plans) {
      const expansion wanted = rule.choose(classifier::entries_per_rule_max);
      if (wanted.entries > rule.expand.entries && total + wanted.entries - rule.expand.entries <= classifier::entries_max) {
        total += wanted.entries - rule.expand.entries;
        rule.expand = wanted;
      }
    }
  }

  uint32_t make_record(const plan& rule, uint64_t precedence) {
    rule_record record{precedence, nullptr, static_cast<uint32_t>(rule.expand.entries), rule.expand.sources, rule.expand.destinations, rule.expand.services};
    if (!rule.expand.sources || !rule.expand.destinations || !rule.expand.services) {
      if (!rule.expand.sources) arena.place(*rule.sources);
      if (!rule.expand.destinations) arena.place(*rule.destinations);
      if (!rule.expand.services) arena.place(*rule.services);
      record.lists = &arena.lists.emplace_back(rule_lists{rule.sources->placed, rule.destinations->placed, rule.services->placed});
    }
    return static_cast<uint32_t>(arena.records.push_back(record));
  }

  /// Visits the rule's entries, always in the same order.
  template <class Visit>
  bool each_entry(const plan& rule, uint32_t number, Visit&& visit) {
    entry e{};
    e.precedence = arena.records[number].precedence;
    e.rule = number;
    e.zones = arena.zones_of(in.rules[rule.rule]);
    e.flags = static_cast<uint8_t>((rule.expand.sources ? 0 : source_list) | (rule.expand.destinations ? 0 : destination_list) |
                                   (rule.expand.services ? 0 : service_list));
    const auto each = [](bool expand, const auto& list) { return expand ? std::span(list.items) : std::span(&list.common, 1); };
    for (const flat_prefix& source : each(rule.expand.sources, std::as_const(*rule.sources)))
      for (const flat_prefix& destination : each(rule.expand.destinations, std::as_const(*rule.destinations)))
        for (const sl_service& service : each(rule.expand.services, std::as_const(*rule.services)))
          if (!visit(entry_of(e, source, destination, service)))
            return false;
    return true;
  }

  static entry entry_of(const entry& of_rule, const flat_prefix& source, const flat_prefix& destination, const sl_service& service) {
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
    return e;
  }

  // ---- tables --------------------------------------------------------------------------------------------------------

  static uint32_t buckets_for(std::size_t runs) {
    return static_cast<uint32_t>(std::bit_ceil(std::max<std::size_t>(1, (runs + bucket_fill - 1) / bucket_fill)));
  }

  uint64_t hash_in(const table& t, const entry& e) const { return hash(hashed(e, arena.zones[e.zones]).key, t.mask); }

  struct position { uint32_t bucket; unsigned place; };
  static constexpr position nowhere{UINT32_MAX, 0};

  std::span<entry> run_at(uint32_t first) const {
    std::size_t length = 1;
    for (const entry* e = &arena.entries[first]; (e->flags & run_goes_on) != 0; ++e)
      ++length;
    return {&arena.entries[first], length};
  }

  /// The first run of this hash that `wanted` takes.
  template <class Wanted>
  position find_run(const table& t, uint64_t hashed, Wanted&& wanted) const {
    for (uint32_t at = bucket_of(hashed) & t.bucket_mask;; at = (at + 1) & t.bucket_mask) {
      const bucket& b = t.buckets[at];
      for (uint64_t equal = b.find(tag_of(hashed)); equal != 0; equal &= equal - 1) {
        const unsigned place = static_cast<unsigned>(std::countr_zero(equal)) / 8;
        const std::span<entry> run = run_at(b.runs[place]);
        if (hash_in(t, run.front()) == hashed && wanted(run)) // else another hash of the same tag
          return {at, place};
      }
      if (b.passed == 0)
        return nowhere;
    }
  }

  /// Ordered by precedence, at most run_length_max; copied into the arena.
  uint32_t make_run(std::span<const entry> entries) {
    const auto first = static_cast<uint32_t>(arena.entries.reserve(entries.size()));
    for (std::size_t i = 0; i < entries.size(); ++i) {
      entry& e = arena.entries[first + i] = entries[i];
      e.flags = static_cast<uint8_t>((e.flags & ~run_goes_on) | (i + 1 < entries.size() ? run_goes_on : 0));
    }
    return first;
  }

  void put(table& into, uint64_t hashed, uint32_t run) const {
    for (uint32_t at = bucket_of(hashed) & into.bucket_mask;; at = (at + 1) & into.bucket_mask) {
      if (const uint64_t free = into.buckets[at].find(0); free != 0) {
        set(into.buckets.write(at), static_cast<unsigned>(std::countr_zero(free)) / 8, tag_of(hashed), run);
        return;
      }
      if (into.buckets[at].passed == 0)
        into.buckets.write(at).passed = 0xff;
    }
  }

  void set(bucket& b, unsigned place, uint8_t tag, uint32_t run) const {
    b.tags[place] = tag;
    b.runs[place] = run;
    b.before[place] = upper(arena.entries[run].precedence);
  }

  void lay_out(const std::vector<entry>& entries, const std::vector<hashed_entry>& as_hashed, std::vector<table_plan> plans) {
    // A match asks the tables in this order, and ends where none can beat what it found. Entries are numbered by precedence.
    const auto best = [](const table_plan& plan) { return *std::min_element(plan.members.begin(), plan.members.end()); };
    std::sort(plans.begin(), plans.end(), [&](const table_plan& a, const table_plan& b) { return best(a) < best(b); });
    std::vector<std::pair<uint64_t, uint32_t>> members; // hash, entry
    std::vector<entry> run;
    for (const table_plan& plan : plans) {
      const wide_key mask = plan.hashes.mask();
      members.clear();
      for (const uint32_t i : plan.members)
        members.emplace_back(hash(as_hashed[i].key, mask), i);
      std::sort(members.begin(), members.end());
      std::size_t runs = 0;
      for (std::size_t i = 0; i < members.size(); ++i)
        runs += i == 0 || members[i].first != members[i - 1].first;
      const uint32_t buckets = buckets_for(runs);
      const uint64_t bit = uint64_t{1} << made.tables_.size();
      table& t = made.tables_.emplace_back(table{mask, entries[best(plan)].precedence, buckets - 1, static_cast<uint32_t>(plan.members.size()),
                                                 static_cast<uint32_t>(runs), decltype(table::buckets)(buckets)});
      for (std::size_t i = 0, next; i < members.size(); i = next) {
        run.clear();
        for (next = i; next < members.size() && members[next].first == members[i].first && run.size() < run_length_max; ++next) {
          run.push_back(entries[members[next].second]);
          add_to_masks(run.back(), bit);
        }
        put(t, members[i].first, make_run(run));
      }
    }
  }

  void grow(table& t) const {
    const uint32_t buckets = buckets_for(std::size_t{t.run_count} * 2);
    table larger{t.mask, t.best, buckets - 1, t.entry_count, t.run_count, decltype(table::buckets)(buckets)};
    for (uint32_t at = 0; at <= t.bucket_mask; ++at)
      for (unsigned place = 0; place < bucket::places; ++place)
        if (const bucket& b = t.buckets[at]; b.tags[place] != 0)
          put(larger, hash_in(t, arena.entries[b.runs[place]]), b.runs[place]);
    t = std::move(larger);
  }

  static bool same_entry(const entry& a, const entry& b) {
    return a.rule == b.rule && a.src_hi == b.src_hi && a.src_lo == b.src_lo && a.dst_hi == b.dst_hi && a.dst_lo == b.dst_lo &&
           a.src_length == b.src_length && a.dst_length == b.dst_length && a.src_port_lo == b.src_port_lo && a.src_port_hi == b.src_port_hi &&
           a.dst_port_lo == b.dst_port_lo && a.dst_port_hi == b.dst_port_hi && a.protocol == b.protocol &&
           ((a.flags ^ b.flags) & ~run_goes_on) == 0;
  }

  /// From the table that it stands in, whichever that is.
  void take_out(const entry& e) {
    const hashed_entry as_hashed = hashed(e, arena.zones[e.zones]);
    for (table& t : made.tables_) {
      if (!as_hashed.fixes.fits(shape::of(t.mask)) || t.best > e.precedence)
        continue;
      const uint64_t hashed = hash(as_hashed.key, t.mask);
      std::vector<entry> left;
      const position at = find_run(t, hashed, [&](std::span<const entry> run) {
        if (std::none_of(run.begin(), run.end(), [&](const entry& other) { return same_entry(other, e); }))
          return false;
        std::copy_if(run.begin(), run.end(), std::back_inserter(left), [&](const entry& other) { return !same_entry(other, e); });
        return true;
      });
      if (at.bucket == nowhere.bucket)
        continue;
      bucket& b = t.buckets.write(at.bucket);
      made.entries_gone_ += left.size() + 1;
      --t.entry_count;
      if (!left.empty()) {
        set(b, at.place, tag_of(hashed), make_run(left));
      } else {
        b.tags[at.place] = 0;
        --t.run_count;
      }
      return;
    }
  }

  /// Entries that stand in the run of this hash.
  std::size_t run_length(const table& t, uint64_t hashed) const {
    std::size_t length = 0;
    find_run(t, hashed, [&](std::span<const entry> run) {
      length += run.size();
      return false;
    });
    return length;
  }

  void put_in(table& t, uint64_t hashed, const entry& e) {
    ++t.entry_count;
    t.best = std::min(t.best, e.precedence);
    std::vector<entry> run;
    const position at = find_run(t, hashed, [&](std::span<const entry> other) {
      if (other.size() >= run_length_max)
        return false;
      run.assign(other.begin(), other.end());
      return true;
    });
    made.entries_gone_ += run.size();
    run.insert(std::upper_bound(run.begin(), run.end(), e, [](const entry& a, const entry& b) { return a.precedence < b.precedence; }), e);
    const uint32_t first = make_run(run);
    if (at.bucket != nowhere.bucket) {
      set(t.buckets.write(at.bucket), at.place, tag_of(hashed), first);
      return;
    }
    if (++t.run_count > (std::size_t{t.bucket_mask} + 1) * bucket_fill_max)
      grow(t);
    put(t, hashed, first);
  }

  // ---- masks ---------------------------------------------------------------------------------------------------------

  static void lay_out_sieve(const std::vector<entry>& entries, address_sieve& sieve, uint64_t entry::*hi, uint64_t entry::*lo, uint8_t entry::*length, uint8_t ipv6_only) {
    for (const bool ipv4 : {false, true}) {
      std::array<std::size_t, 129> lengths{};
      std::size_t total = 0;
      const auto belongs = [&](const entry& e) {
        return e.*length != 0 && ipv4 == (e.*length >= ipv4_length_base && is_ipv4(e.*hi, e.*lo) && (e.flags & ipv6_only) == 0);
      };
      for (const entry& e : entries)
        if (belongs(e)) {
          ++lengths[e.*length];
          ++total;
        }
      std::vector<uint32_t> levels;
      for (uint32_t at = ipv4 ? ipv4_length_base + 1 : 1; at <= 128; ++at)
        if (lengths[at] * level_share > total)
          levels.push_back(at);
      std::stable_sort(levels.begin(), levels.end(), [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
      levels.resize(std::min<std::size_t>(levels.size(), address_sieve::levels_max));
      std::sort(levels.rbegin(), levels.rend());
      for (const uint32_t at : levels) {
        std::vector<uint64_t> distinct;
        const uint32_t longer = at == levels.front() ? 129 : *(std::find(levels.begin(), levels.end(), at) - 1);
        for (const entry& e : entries)
          if (belongs(e) && e.*length >= at && e.*length < longer)
            distinct.push_back(mix((e.*hi & prefix_masks[at].hi) ^ 0x9e3779b97f4a7c15, (e.*lo & prefix_masks[at].lo) ^ 0x8ebc6af09c88c6e3));
        std::sort(distinct.begin(), distinct.end());
        distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
        const std::size_t places = std::bit_ceil(std::max<std::size_t>(64, distinct.size() * 2));
        sieve.families[ipv4].levels.push_back({at, static_cast<uint32_t>(places - 1), decltype(address_sieve::level::tables)(places)});
      }
    }
  }

  void add_to_masks(const entry& e, uint64_t bit) {
    if ((e.flags & any_protocol) != 0)
      for (uint64_t& mask : made.protocol_tables_)
        mask |= bit;
    else
      made.protocol_tables_[e.protocol] |= bit;
    const zone_pair& zones = arena.zones[e.zones];
    for (uint64_t left = zones.from; left != 0; left &= left - 1)
      made.from_tables_[static_cast<unsigned>(std::countr_zero(left))] |= bit;
    for (uint64_t left = zones.to; left != 0; left &= left - 1)
      made.to_tables_[static_cast<unsigned>(std::countr_zero(left))] |= bit;
    const std::size_t ports = made.dst_port_tables_.size();
    const std::size_t width = std::min<std::size_t>(e.dst_port_hi - e.dst_port_lo + 1u, ports);
    for (std::size_t i = 0; i < width; ++i)
      made.dst_port_tables_[(e.dst_port_lo + i) % ports] |= bit;
    if (!made.sieved_)
      return;
    const auto family_ipv4 = [](uint64_t hi, uint64_t lo, uint8_t length) { return length >= ipv4_length_base && is_ipv4(hi, lo); };
    made.sources_.add(e.src_hi, e.src_lo, e.src_length, e.src_length == 0 && (e.flags & source_ipv6_only) == 0,
                      family_ipv4(e.src_hi, e.src_lo, e.src_length), bit);
    made.destinations_.add(e.dst_hi, e.dst_lo, e.dst_length, e.dst_length == 0 && (e.flags & destination_ipv6_only) == 0,
                           family_ipv4(e.dst_hi, e.dst_lo, e.dst_length), bit);
  }

  // ---- build ---------------------------------------------------------------------------------------------------------

  void build() {
    std::vector<plan> plans;
    plans.reserve(in.rules.size());
    for (uint32_t i = 0; i < in.rules.size(); ++i)
      if (!matches_nothing(in.rules[i]))
        plans.push_back(plan_of(i));
    choose_all(plans);
    made.record_of_.assign(in.rules.size(), classifier::no_rule);
    std::vector<entry> entries;
    std::vector<hashed_entry> as_hashed;
    for (const plan& rule : plans) {
      made.record_of_[rule.rule] = make_record(rule, (rule.rule + uint64_t{1}) * precedence_step);
      each_entry(rule, made.record_of_[rule.rule], [&](const entry& e) {
        entries.push_back(e);
        as_hashed.push_back(hashed(e, arena.zones[e.zones]));
        return true;
      });
    }
    std::vector<table_plan> tables = share_out(as_hashed, build_tables_max);
    made.sieved_ = tables.size() >= sieved_tables_min;
    if (made.sieved_) {
      lay_out_sieve(entries, made.sources_, &entry::src_hi, &entry::src_lo, &entry::src_length, source_ipv6_only);
      lay_out_sieve(entries, made.destinations_, &entry::dst_hi, &entry::dst_lo, &entry::dst_length, destination_ipv6_only);
    }
    lay_out(entries, as_hashed, std::move(tables));
    made.entry_count_ = entries.size();
    finish();
  }

  void finish() {
    made.place_of_.assign(arena.records.size(), classifier::no_rule);
    for (uint32_t i = 0; i < made.record_of_.size(); ++i)
      if (made.record_of_[i] != classifier::no_rule)
        made.place_of_[made.record_of_[i]] = i;
    made.entries_.follow(arena.entries);
    made.records_.follow(arena.records);
    made.zones_.follow(arena.zones);
    for (table& t : made.tables_)
      t.buckets.publish();
    made.sources_.publish();
    made.destinations_.publish();
  }

  // ---- update --------------------------------------------------------------------------------------------------------

  /// Places [old_first, old_after) among the rules before became [new_first, new_after).
  struct change { uint32_t old_first, old_after, new_first, new_after; };

  /// Where the lists differ, in order. False when that took too many comparisons.
  static bool differences(const classifier_input& before, const classifier_input& now, std::vector<change>& changes) {
    const auto old_count = static_cast<uint32_t>(before.rules.size()), new_count = static_cast<uint32_t>(now.rules.size());
    std::size_t comparisons = 0;
    uint32_t i = 0, j = 0;
    const auto agree = [&](uint32_t at_old, uint32_t at_new) {
      ++comparisons;
      return at_old == old_count ? at_new == new_count : at_new < new_count && equal_rules(before, at_old, now, at_new);
    };
    while (i < old_count || j < new_count) {
      if (i < old_count && j < new_count && equal_rules(before, i, now, j)) {
        ++i, ++j;
        continue;
      }
      // The nearest place where they agree again, rules edited before rules added or taken away.
      change found{i, old_count, j, new_count};
      for (uint32_t ahead = 1; ahead <= lookahead_max; ++ahead) {
        const uint32_t old_at = std::min(i + ahead, old_count), new_at = std::min(j + ahead, new_count);
        if (agree(old_at, new_at)) { found = {i, old_at, j, new_at}; break; }
        if (agree(old_at, j)) { found = {i, old_at, j, j}; break; }
        if (agree(i, new_at)) { found = {i, i, j, new_at}; break; }
      }
      if (comparisons > comparisons_max)
        return false;
      changes.push_back(found);
      i = found.old_after;
      j = found.new_after;
    }
    return true;
  }

  /// False: a build must take its place.
  bool update(const classifier_input& before) {
    std::vector<change> changes;
    if (!differences(before, in, changes))
      return false;
    std::size_t changed = 0;
    for (const change& c : changes)
      changed += c.old_after - c.old_first + c.new_after - c.new_first;
    if (changed * changes_share > in.rules.size() + 16)
      return false;
    if (changes.empty())
      return true;
    // Rules that stay keep their records at their new places.
    const std::vector<uint32_t> old_records = std::move(made.record_of_);
    made.record_of_.assign(in.rules.size(), classifier::no_rule);
    uint32_t old_at = 0, new_at = 0;
    const auto keep_until = [&](uint32_t old_end) {
      std::copy(old_records.begin() + old_at, old_records.begin() + old_end, made.record_of_.begin() + new_at);
    };
    classifier_builder old{made, arena, before, {}, {}, {}, {}};
    for (const change& c : changes) {
      keep_until(c.old_first);
      for (uint32_t i = c.old_first; i < c.old_after; ++i)
        if (old_records[i] != classifier::no_rule)
          old.remove(i, old_records[i]);
      old_at = c.old_after;
      new_at = c.new_after;
    }
    keep_until(static_cast<uint32_t>(old_records.size()));
    for (const change& c : changes)
      if (!insert(c.new_first, c.new_after))
        return false;
    ++made.updates_;
    return made.entries_gone_ <= gone_min + made.entry_count_ / gone_share &&
           made.crowded_ <= crowded_min + made.entry_count_ / crowded_share;
  }

  void remove(uint32_t i, uint32_t number) {
    plan rule = plan_of(i);
    const rule_record& record = arena.records[number];
    rule.expand = {record.sources_expanded, record.destinations_expanded, record.services_expanded, record.entry_count};
    each_entry(rule, number, [this](const entry& e) { take_out(e); return true; });
    made.entry_count_ -= record.entry_count;
  }

  /// The precedence of the nearest rule with a record from here on, in that direction.
  uint64_t precedence_before(uint32_t place) const {
    while (place-- > 0)
      if (made.record_of_[place] != classifier::no_rule)
        return arena.records[made.record_of_[place]].precedence;
    return 0;
  }
  uint64_t precedence_from(uint32_t place) const {
    for (; place < made.record_of_.size(); ++place)
      if (made.record_of_[place] != classifier::no_rule)
        return arena.records[made.record_of_[place]].precedence;
    return UINT64_MAX;
  }

  bool insert(uint32_t first, uint32_t after) {
    if (first == after)
      return true;
    uint64_t precedence = precedence_before(first);
    const uint64_t room = precedence_from(after) - precedence;
    const uint64_t step = std::min(room / (after - first + 1), precedence_near);
    if (step == 0)
      return false;
    for (uint32_t i = first; i < after; ++i) {
      if (matches_nothing(in.rules[i]))
        continue;
      plan rule = plan_of(i);
      rule.expand = rule.choose(classifier::entries_per_rule_max);
      if (made.entry_count_ + rule.expand.entries > classifier::entries_max)
        return false;
      made.record_of_[i] = make_record(rule, precedence += step);
      if (!each_entry(rule, made.record_of_[i], [this](const entry& e) { return add(e); }))
        return false;
      made.entry_count_ += rule.expand.entries;
    }
    return true;
  }

  /// The table with the most bits that has room in the entry's run; else a new table; else the shortest run.
  bool add(const entry& e) {
    const hashed_entry as_hashed = hashed(e, arena.zones[e.zones]);
    std::size_t chosen = made.tables_.size();
    unsigned bits_most = 0;
    std::size_t shortest = made.tables_.size();
    std::size_t length_least = SIZE_MAX;
    for (std::size_t t = 0; t < made.tables_.size(); ++t) {
      const shape hashes = shape::of(made.tables_[t].mask);
      if (!as_hashed.fixes.fits(hashes) || (chosen < made.tables_.size() && hashes.bits() <= bits_most))
        continue;
      const std::size_t length = run_length(made.tables_[t], hash(as_hashed.key, made.tables_[t].mask));
      if (length < run_max) {
        chosen = t;
        bits_most = hashes.bits();
      } else if (length < length_least) {
        shortest = t;
        length_least = length;
      }
    }
    if (chosen == made.tables_.size() && made.tables_.size() < classifier::tables_max && length_least >= 2 * run_max) {
      made.tables_.push_back({as_hashed.fixes.mask(), UINT64_MAX, 0, 0, 0, decltype(table::buckets)(1)});
    } else if (chosen == made.tables_.size()) {
      chosen = shortest;
      ++made.crowded_;
      if (chosen == made.tables_.size())
        return false; // no table takes it
    }
    table& t = made.tables_[chosen];
    put_in(t, hash(as_hashed.key, t.mask), e);
    add_to_masks(e, uint64_t{1} << chosen);
    return true;
  }
};

std::unique_ptr<const classifier> classifier::build(const classifier_input& rules, std::string* error) {
  if (std::string text = check(rules); !text.empty()) {
    if (error != nullptr)
      *error = std::move(text);
    return nullptr;
  }
  std::unique_ptr<classifier> made(new classifier);
  made->arena_ = std::make_shared<arena>();
  classifier_builder{*made, *made->arena_, rules, {}, {}, {}, {}}.build();
  return made;
}

std::unique_ptr<const classifier> classifier::update(const classifier& previous, const classifier_input& before,
                                                     const classifier_input& now, std::string* error) {
  if (std::string text = check(now); !text.empty()) {
    if (error != nullptr)
      *error = std::move(text);
    return nullptr;
  }
  std::unique_ptr<classifier> made(new classifier(previous));
  classifier_builder builder{*made, *made->arena_, now, {}, {}, {}, {}};
  if (!builder.update(before))
    return build(now, error);
  builder.finish();
  return made;
}

std::size_t classifier::longest_run() const noexcept {
  std::size_t longest = 0;
  for (const table& t : tables_)
    for (uint32_t at = 0; at <= t.bucket_mask; ++at)
      for (unsigned place = 0; place < bucket::places; ++place)
        if (const bucket& b = t.buckets[at]; b.tags[place] != 0) {
          std::size_t length = 1;
          for (uint32_t e = b.runs[place]; (entries_[e].flags & run_goes_on) != 0; ++e)
            ++length;
          longest = std::max(longest, length);
        }
  return longest;
}

std::size_t classifier::bytes() const noexcept {
  std::size_t sum = sizeof(*this) + sources_.bytes() + destinations_.bytes() + (record_of_.capacity() + place_of_.capacity()) * 4 +
                    entries_.bytes() + records_.bytes() + zones_.bytes() + tables_.capacity() * sizeof(table);
  for (const table& t : tables_)
    sum += t.buckets.bytes();
  return sum + arena_->entries.bytes() + arena_->records.bytes() + arena_->zones.bytes() + arena_->list_bytes +
         arena_->lists.size() * sizeof(rule_lists);
}

} // namespace sluice
