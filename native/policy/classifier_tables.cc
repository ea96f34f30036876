// SPDX-License-Identifier: Apache-2.0
//
// classifier_tables.cc: the choice of tables, greedily: the next one is the shape that places most of what is left in
// runs of at most run_max entries. What is too much for its run waits for a table with more bits. When the tables that
// are left could not take the rest that way, runs may be longer.

#include "policy/classifier_tables.h"

#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <numeric>
#include <utility>

#include "policy/classifier_lists.h"

namespace sluice::classifier_parts {
namespace {

constexpr double run_penalty = 0.02;           // worth of a table's entry lost by each one before it in its run
constexpr std::size_t leftover_max = 16;       // so few entries are one more table's whatever their shape
constexpr std::size_t sample_max = 1024;       // entries that rank the candidates for a table
constexpr std::size_t evaluations_max = 24;    // candidates judged on all entries
constexpr std::size_t evaluated_entries_max = 2'000'000; // all of them together, a table
constexpr std::size_t counted_max = 1u << 15;  // entries of a candidate whose runs are counted; of more, a part by hash

class sharing {
public:
  sharing(const std::vector<hashed_entry>& entries, std::size_t tables_max) : order_(entries.size()), tables_max_(tables_max) {
    // Of a run that is too long those with the fewest bits stay, the others have more ways to go. The copy is what is gone
    // through for each table: in order, it costs no cache miss an entry.
    std::array<uint32_t, bits_max + 2> first{};
    for (const hashed_entry& e : entries)
      ++first[e.fixes.bits() + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    shapes_.resize(entries.size());
    keys_.resize(entries.size());
    for (uint32_t i = 0; i < entries.size(); ++i) {
      const uint32_t at = first[entries[i].fixes.bits()]++;
      order_[at] = i;
      shapes_[at] = entries[i].fixes;
      keys_[at] = entries[i].key;
    }
  }

  std::vector<table_plan> run() {
    std::vector<uint32_t> left(shapes_.size());
    std::iota(left.begin(), left.end(), 0);
    while (!left.empty()) {
      const std::size_t tables_left = tables_max_ - tables_.size();
      if (left.size() <= leftover_max || tables_left == 1) {
        shape all = shapes_[left.front()];
        for (const uint32_t i : left)
          all = common(all, shapes_[i]);
        take(all, left, UINT32_MAX);
        break;
      }
      std::vector<judged> candidates;
      for (const shape& candidate : rank(left))
        candidates.push_back({candidate, run_lengths(candidate, left)});
      uint32_t limit = run_max;
      shape chosen;
      for (;; limit *= 2) {
        double placed_most = 0;
        double score_most = -1;
        for (const judged& candidate : candidates) {
          const auto [placed, score] = candidate.evaluate(limit);
          if (score > score_most) {
            score_most = score;
            placed_most = placed;
            chosen = candidate.candidate;
          }
        }
        if (placed_most * static_cast<double>(tables_left) >= static_cast<double>(left.size()) || limit >= left.size())
          break;
      }
      left = take(chosen, left, limit);
    }
    for (table_plan& plan : tables_)
      for (uint32_t& member : plan.members)
        member = order_[member];
    return std::move(tables_);
  }

private:
  // A candidate with the runs it would make: (length, how many).
  struct judged {
    shape candidate;
    std::vector<std::pair<uint32_t, double>> runs;

    // Entries placed in runs of at most limit, and the same weighed: short runs are worth a little more.
    std::pair<double, double> evaluate(uint32_t limit) const {
      double placed = 0, score = 0;
      for (const auto& [length, count] : runs) {
        const double entries = std::min(length, limit) * count;
        placed += entries;
        score += entries * (1 - run_penalty * (std::min({length, limit, run_max}) - 1));
      }
      return {placed, score};
    }
  };

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
        all.push_back(shapes_[i].*field);
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
    for (const uint8_t src : srcs)
      for (const uint8_t dst : dsts)
        for (const uint8_t src_port : src_ports)
          for (const uint8_t dst_port : dst_ports)
            for (const uint8_t protocol : protocols)
              for (const uint8_t from : froms)
                for (const uint8_t to : tos) {
                  const shape candidate{src, dst, src_port, dst_port, protocol, from, to, 0};
                  ranks.push_back({estimate(candidate, sample, step), candidate});
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
  double estimate(const shape& candidate, const std::vector<uint32_t>& sample, double step) {
    const wide_key mask = candidate.mask();
    touched_.clear();
    for (const uint32_t i : sample)
      if (shapes_[i].fits(candidate)) {
        const std::size_t at = find(sample_counts_, bucket_of(hash(keys_[i], mask)));
        if (sample_counts_[at].second++ == 0)
          touched_.push_back(static_cast<uint32_t>(at));
      }
    double alone = 0, met = 0, placed = 0;
    for (const uint32_t at : touched_) {
      const double run = std::exchange(sample_counts_[at].second, 0);
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

  std::vector<std::pair<uint32_t, double>> run_lengths(const shape& candidate, const std::vector<uint32_t>& left) {
    // A part of the hashes has the same distribution of runs as all of them, and its counters stay in the cache.
    const uint32_t parts = static_cast<uint32_t>(std::bit_ceil(std::max<std::size_t>(1, left.size() / counted_max)));
    counts_.assign(std::bit_ceil(left.size() / parts * 4 + 64), {0, 0});
    const wide_key mask = candidate.mask();
    std::size_t used = 0;
    for (const uint32_t i : left)
      if (shapes_[i].fits(candidate)) {
        const uint64_t hashed = hash(keys_[i], mask);
        if ((hashed >> 57 & (parts - 1)) != 0)
          continue;
        auto& run = counts_[find(counts_, bucket_of(hashed))];
        used += run.second++ == 0;
        if (used * 4 > counts_.size() * 3) // the part is larger than expected: it is not a fair one then either
          break;
      }
    std::vector<uint32_t> number(1); // by length
    for (const auto& [hashed, length] : counts_) {
      if (length >= number.size())
        number.resize(length + 1);
      ++number[length];
    }
    std::vector<std::pair<uint32_t, double>> runs;
    for (uint32_t length = 1; length < number.size(); ++length)
      if (number[length] != 0)
        runs.emplace_back(length, static_cast<double>(number[length]) * parts);
    return runs;
  }

  using counters = std::vector<std::pair<uint32_t, uint32_t>>; // hash, entries with it

  static std::size_t find(counters& counts, uint32_t hashed) {
    std::size_t at = hashed & (counts.size() - 1);
    while (counts[at].second != 0 && counts[at].first != hashed)
      at = (at + 1) & (counts.size() - 1);
    counts[at].first = hashed;
    return at;
  }

  std::vector<uint32_t> take(const shape& chosen, std::vector<uint32_t>& left, uint32_t limit) {
    counts_.assign(std::bit_ceil(left.size() * 2), {0, 0});
    const wide_key mask = chosen.mask();
    std::vector<uint32_t> placed, rest;
    for (const uint32_t i : left) {
      if (!shapes_[i].fits(chosen)) {
        rest.push_back(i);
        continue;
      }
      uint32_t& run = counts_[find(counts_, bucket_of(hash(keys_[i], mask)))].second;
      if (run < limit) {
        ++run;
        placed.push_back(i);
      } else {
        rest.push_back(i);
      }
    }
    // A second table of one shape would only split the runs of the first.
    const auto same = std::find_if(tables_.begin(), tables_.end(), [&](const table_plan& plan) { return plan.hashes.mask() == mask; });
    if (same == tables_.end())
      tables_.push_back({chosen, std::move(placed)});
    else
      same->members.insert(same->members.end(), placed.begin(), placed.end());
    return rest;
  }

  static constexpr unsigned bits_max = 2 * 128 + 2 * 16 + 8 + 2 * 6; // of shape::bits()

  std::vector<shape> shapes_; // of the entries, by bits
  std::vector<wide_key> keys_;
  std::vector<uint32_t> order_; // their numbers at the caller's
  const std::size_t tables_max_;
  std::vector<table_plan> tables_;
  counters counts_;                                       // scratch
  counters sample_counts_{std::bit_ceil(2 * sample_max + 2)}; // scratch, all zero between two estimates
  std::vector<uint32_t> touched_;                         // scratch
};

} // namespace

wide_key shape::mask() const {
  const auto port_mask = [](unsigned bits) { return static_cast<uint16_t>(0xffff0000u >> bits); };
  return {prefix_masks[src].hi, prefix_masks[src].lo, prefix_masks[dst].hi, prefix_masks[dst].lo,
          port_word(port_mask(src_port), port_mask(dst_port), protocol ? 0xff : 0, from ? 0xff : 0, to ? 0xff : 0)};
}

shape shape::of(const wide_key& mask) {
  const auto ones = [](uint64_t value) { return static_cast<uint8_t>(std::popcount(value)); };
  return {static_cast<uint8_t>(ones(mask.src_hi) + ones(mask.src_lo)), static_cast<uint8_t>(ones(mask.dst_hi) + ones(mask.dst_lo)),
          ones(mask.ports >> 48), ones(mask.ports >> 32 & 0xffff), static_cast<uint8_t>((mask.ports >> 16 & 0xff) != 0),
          static_cast<uint8_t>((mask.ports >> 8 & 0xff) != 0), static_cast<uint8_t>((mask.ports & 0xff) != 0), 0};
}

hashed_entry hashed(const entry& e, const zone_pair& zones) {
  const bool from_one = std::has_single_bit(zones.from), to_one = std::has_single_bit(zones.to);
  return {{e.src_hi, e.src_lo, e.dst_hi, e.dst_lo,
           port_word(e.src_port_lo, e.dst_port_lo, e.protocol, static_cast<uint8_t>(from_one ? std::countr_zero(zones.from) : 0),
                     static_cast<uint8_t>(to_one ? std::countr_zero(zones.to) : 0))},
          {e.src_length, e.dst_length, range_bits(e.src_port_lo, e.src_port_hi), range_bits(e.dst_port_lo, e.dst_port_hi),
           static_cast<uint8_t>((e.flags & any_protocol) == 0), from_one, to_one, 0}};
}

std::vector<table_plan> share_out(const std::vector<hashed_entry>& entries, std::size_t tables_max) {
  return sharing(entries, tables_max).run();
}

} // namespace sluice::classifier_parts
