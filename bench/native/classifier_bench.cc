// SPDX-License-Identifier: Apache-2.0
//
// classifier_bench.cc: what does a match cost, and does it grow with the number of rules?
//
// Prints a line a rule set: shape, rules, seconds to build, entries, tables, megabytes, and nanoseconds a match: median
// of five rounds over 100,000 keys in random order, half of them drawn at rules' corners. Arguments: the numbers of
// rules (10 1000 10000 100000). One thread.

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "../../test/native/rule_sets.h"

namespace {

using namespace sluice;
using clock_type = std::chrono::steady_clock;

constexpr unsigned keys_count = 100'000;
constexpr unsigned rounds = 5;

double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

void measure(rule_sets::shape kind, std::size_t rules) {
  rule_sets::maker make(42);
  const auto set = make.make(kind, rules);
  std::vector<classify_key> keys;
  for (unsigned i = 0; i < keys_count; ++i)
    keys.push_back(make.key(set));

  const auto start = clock_type::now();
  std::string error;
  const auto built = classifier::build(set.rules, set.prefixes, set.services, &error);
  const double build_s = seconds_since(start);
  if (built == nullptr) {
    std::fprintf(stderr, "%s\n", error.c_str());
    std::exit(1);
  }

  std::vector<double> match_ns;
  std::size_t matched = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    const auto round_start = clock_type::now();
    for (const auto& key : keys)
      matched += built->match(key) != classifier::no_rule;
    match_ns.push_back(seconds_since(round_start) * 1e9 / keys_count);
  }
  std::sort(match_ns.begin(), match_ns.end());
  std::printf("%-7s %7zu rules  build %6.3f s  %8zu entries  %3zu tables  %7.2f MB  match %6.1f ns (%.1f to %.1f)  %2.0f %% match\n",
              rule_sets::name_of(kind).c_str(), rules, build_s, built->entry_count(), built->table_count(),
              static_cast<double>(built->bytes()) / 1e6, match_ns[rounds / 2], match_ns.front(), match_ns.back(),
              100.0 * static_cast<double>(matched) / keys_count / rounds);
}

} // namespace

int main(int count, char** arguments) {
  std::vector<std::size_t> sizes;
  for (int i = 1; i < count; ++i)
    sizes.push_back(std::strtoull(arguments[i], nullptr, 10));
  if (sizes.empty())
    sizes = {10, 1000, 10'000, 100'000};
  for (const auto kind : {rule_sets::shape::acl, rule_sets::shape::fw, rule_sets::shape::ipc, rule_sets::shape::random})
    for (const std::size_t rules : sizes)
      measure(kind, rules);
}
