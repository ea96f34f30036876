// SPDX-License-Identifier: Apache-2.0
//
// classifier_bench.cc: what does a match cost, does it grow with the number of rules, and what does a commit cost?
//
// Prints a line a rule set: shape, rules, milliseconds to build and to update after one edit (median and worst of 15),
// entries, tables, megabytes, and nanoseconds a match (median, least and most of five rounds over 100,000 keys in random
// order, most of them at rules' corners) at first and after the edits, with the ratio to the first size of the shape.
// Times are the thread's CPU time: what others on the machine do shows in the caches only.
// Arguments: the numbers of rules (10 1000 10000 100000), and names of shapes (acl fw ipc random). `callgrind` as the
// first argument builds and matches each key once, for valgrind --tool=callgrind --toggle-collect='*match*'.

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "../../test/native/rule_sets.h"

namespace {

using namespace sluice;

constexpr unsigned keys_count = 100'000;
constexpr unsigned rounds = 5;
constexpr unsigned edits_count = 15;

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

classifier_input input(const rule_sets::rule_set& set) { return {set.rules, set.prefixes, set.services}; }

struct spread { double least, median, most; };

template <class Value>
spread of(std::vector<Value> values) {
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2], values.back()};
}

spread match_ns(const classifier& built, const std::vector<classify_key>& keys, std::size_t& matched) {
  std::vector<double> ns;
  for (unsigned round = 0; round < rounds; ++round) {
    matched = 0;
    const double start = cpu_seconds();
    for (const auto& key : keys)
      matched += built.match(key) != classifier::no_rule;
    ns.push_back((cpu_seconds() - start) * 1e9 / static_cast<double>(keys.size()));
  }
  return of(ns);
}

double measure(rule_sets::shape kind, std::size_t rules, double first_ns, bool counting) {
  rule_sets::maker make(42);
  auto set = make.make(kind, rules);
  std::vector<classify_key> keys;
  for (unsigned i = 0; i < (counting ? keys_count / 10 : keys_count); ++i)
    keys.push_back(make.key(set));

  std::string error;
  double start = cpu_seconds();
  auto built = classifier::build(input(set), &error);
  const double build_ms = (cpu_seconds() - start) * 1e3;
  if (built == nullptr) {
    std::fprintf(stderr, "%s\n", error.c_str());
    std::exit(1);
  }
  std::size_t matched = 0;
  if (counting) {
    for (const auto& key : keys)
      matched += built->match(key) != classifier::no_rule;
    std::printf("%s, %zu rules: %zu matches, %zu found a rule\n", rule_sets::name_of(kind).c_str(), rules, keys.size(), matched);
    return 0;
  }
  const spread ns = match_ns(*built, keys, matched);
  std::printf("%-6s %7zu rules  build %7.1f ms  %8zu entries %3zu tables %6.1f MB  match %6.0f ns (%.0f to %.0f) x %4.1f  %3.0f %% match",
              rule_sets::name_of(kind).c_str(), rules, build_ms, built->entry_count(), built->table_count(),
              static_cast<double>(built->bytes()) / 1e6, ns.median, ns.least, ns.most, first_ns == 0 ? 1 : ns.median / first_ns,
              100.0 * static_cast<double>(matched) / keys_count);
  std::fflush(stdout);

  if (kind == rule_sets::shape::random) // its lists share spans: laying them out apart would measure something else
    return std::printf("\n"), ns.median;
  std::vector<double> update_ms;
  auto laid_out = rule_sets::maker::laid_out_anew(set);
  for (unsigned i = 0; i < edits_count; ++i) {
    make.edit(kind, set);
    auto now = rule_sets::maker::laid_out_anew(set);
    start = cpu_seconds();
    auto next = classifier::update(*built, input(laid_out), input(now), &error);
    update_ms.push_back((cpu_seconds() - start) * 1e3);
    built = std::move(next);
    laid_out = std::move(now);
  }
  const spread update = of(update_ms), after = match_ns(*built, keys, matched);
  std::printf("  update %5.2f ms (to %.2f)  then %5.0f ns\n", update.median, update.most, after.median);
  return ns.median;
}

} // namespace

int main(int count, char** arguments) {
  std::vector<std::size_t> sizes;
  std::vector<rule_sets::shape> shapes;
  bool counting = false;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    bool is_shape = false;
    for (const auto kind : {rule_sets::shape::acl, rule_sets::shape::fw, rule_sets::shape::ipc, rule_sets::shape::random})
      if (argument == rule_sets::name_of(kind)) {
        shapes.push_back(kind);
        is_shape = true;
      }
    counting |= argument == "callgrind";
    if (!is_shape && argument != "callgrind")
      sizes.push_back(std::strtoull(arguments[i], nullptr, 10));
  }
  if (sizes.empty())
    sizes = {10, 1000, 10'000, 100'000};
  if (shapes.empty())
    shapes = {rule_sets::shape::acl, rule_sets::shape::fw, rule_sets::shape::ipc, rule_sets::shape::random};
  for (const auto kind : shapes) {
    double first_ns = 0;
    for (const std::size_t rules : sizes) {
      const double ns = measure(kind, rules, first_ns, counting);
      first_ns = first_ns == 0 ? ns : first_ns;
    }
  }
}
