// SPDX-License-Identifier: Apache-2.0
//
// classifier_update_test.cc: a classifier that was updated answers as the definition does (rule_sets.h), as one built
// anew does, and shares memory with the one before without touching it.
//
// SLUICE_CLASSIFIER_UPDATES: updates a shape and size instead of those named here (more, when there is time).

#include <doctest/doctest.h>

#include <cstdlib>

#include "rule_sets.h"

namespace sluice {
namespace {

using namespace rule_sets;

constexpr uint64_t all_zones = ~uint64_t{0};

classifier_input input(const rule_set& set) { return {set.rules, set.prefixes, set.services}; }

std::unique_ptr<const classifier> build(const rule_set& set) {
  std::string error;
  auto built = classifier::build(input(set), &error);
  REQUIRE_MESSAGE(built != nullptr, error);
  return built;
}

std::unique_ptr<const classifier> update(const classifier& previous, const rule_set& before, const rule_set& now) {
  std::string error;
  auto updated = classifier::update(previous, input(before), input(now), &error);
  REQUIRE_MESSAGE(updated != nullptr, error);
  return updated;
}

unsigned differing(const classifier& built, const rule_set& set, maker& make, unsigned keys) {
  unsigned wrong = 0;
  for (unsigned i = 0; i < keys; ++i) {
    const classify_key key = make.key(set);
    wrong += built.match(key) != first_match(set, key);
  }
  return wrong;
}

unsigned updates_wanted(unsigned usual) {
  const char* const text = std::getenv("SLUICE_CLASSIFIER_UPDATES");
  return text == nullptr ? usual : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// Each round: some edits, an update, a few keys against the definition. At times the lists are laid out anew, at times
// the classifier before is kept, to see that it still answers as it did.
void update_often(shape kind, std::size_t rules, unsigned rounds, unsigned keys, unsigned& updated_in_place) {
  CAPTURE(name_of(kind));
  CAPTURE(rules);
  maker make(rules * 31 + static_cast<unsigned>(kind));
  rule_set set = make.make(kind, rules);
  auto current = build(set);
  rule_set kept_set;
  std::unique_ptr<const classifier> kept;
  for (unsigned round = 0; round < rounds; ++round) {
    CAPTURE(round);
    rule_set now = set;
    for (unsigned edits = make.chance(80) ? 1 : make.below(8); edits > 0; --edits)
      make.edit(kind, now);
    auto next = update(*current, set, make.chance(10) ? maker::laid_out_anew(now) : now);
    updated_in_place += next->updates() != 0;
    REQUIRE(differing(*next, now, make, keys) == 0);
    if (make.chance(10)) {
      if (kept != nullptr)
        REQUIRE(differing(*kept, kept_set, make, keys) == 0);
      kept = std::move(current);
      kept_set = set;
    }
    current = std::move(next);
    set = std::move(now);
  }
  const auto fresh = build(set);
  CHECK(current->entry_count() == fresh->entry_count());
  CHECK(differing(*current, set, make, keys * 20) == 0);
}

TEST_CASE("classifier: thousands of updates, the definition's answer after each") {
  unsigned in_place = 0, wanted = 0;
  for (const shape kind : {shape::acl, shape::fw, shape::ipc, shape::random})
    for (const auto& [rules, rounds, keys] : std::initializer_list<std::array<unsigned, 3>>{{0, 60, 10}, {20, 500, 20}, {1000, 600, 6}, {10'000, 25, 6}}) {
      update_often(kind, rules, updates_wanted(rounds), keys, in_place);
      wanted += updates_wanted(rounds);
    }
  CHECK(in_place > wanted * 3 / 4);
}

TEST_CASE("classifier: updates of 100,000 rules") {
  for (const shape kind : {shape::acl, shape::fw, shape::ipc}) {
    CAPTURE(name_of(kind));
    maker make(99);
    rule_set set = make.make(kind, 100'000);
    auto current = build(set);
    for (unsigned round = 0; round < 6; ++round) {
      rule_set now = set;
      make.edit(kind, now);
      current = update(*current, set, now);
      set = std::move(now);
    }
    CHECK(current->updates() >= 4); // an edit may have changed nothing
    CHECK(differing(*current, set, make, 40) == 0);
  }
}

TEST_CASE("classifier: nothing changed, all changed, all gone") {
  maker make(3);
  const rule_set set = make.make(shape::ipc, 2000), other = make.make(shape::fw, 2000);
  const auto built = build(set);
  const auto same = update(*built, set, maker::laid_out_anew(set));
  CHECK(same->updates() == 0);
  CHECK(differing(*same, set, make, 500) == 0);
  const auto changed = update(*built, set, other);
  CHECK(differing(*changed, other, make, 500) == 0);
  const auto gone = update(*changed, other, {});
  CHECK(gone->entry_count() == 0);
  CHECK(gone->match(make.key(other)) == classifier::no_rule);
  CHECK(differing(*update(*gone, {}, set), set, make, 500) == 0);
}

TEST_CASE("classifier: a rule always added at the same place") {
  // Each halves the room between two rules; when there is none left a build makes new room.
  for (const bool behind : {false, true}) {
    maker make(4);
    rule_set set = make.make(shape::acl, 100);
    auto current = build(set);
    unsigned builds = 0;
    for (unsigned round = 0; round < 300; ++round) {
      rule_set now = set;
      const auto service = static_cast<uint16_t>(round);
      now.services.push_back({6, 0, 0xffff, service, service, 0});
      now.rules.insert(now.rules.begin() + 50 + (behind ? round : 0), {all_zones, all_zones, {}, {}, {static_cast<uint32_t>(now.services.size() - 1), 1}});
      current = update(*current, set, now);
      builds += current->updates() == 0;
      set = std::move(now);
      REQUIRE(differing(*current, set, make, 10) == 0);
    }
    CHECK(builds < 20);
  }
}

TEST_CASE("classifier: rules of one hash come and go") {
  // Zone sets are not hashed: all these rules stand in one run, longer than a run may be.
  rule_set set;
  for (uint32_t i = 0; i < 1500; ++i)
    set.rules.push_back({(uint64_t{3} << 20) | i, (uint64_t{3} << 20) | i << 1, {}, {}, {}});
  maker make(5);
  auto current = build(set);
  for (unsigned round = 0; round < 100; ++round) {
    rule_set now = set;
    now.rules.erase(now.rules.begin() + make.below(static_cast<uint32_t>(now.rules.size())));
    if (make.chance(50))
      now.rules.insert(now.rules.begin() + make.below(100), set.rules[make.below(1000)]);
    current = update(*current, set, now);
    set = std::move(now);
    for (uint8_t from = 0; from < 24; ++from)
      for (uint8_t to = 0; to < 24; to = static_cast<uint8_t>(to + 5)) {
        const classify_key key{ipv4(1), ipv4(2), 1, 2, 6, from, to};
        REQUIRE(current->match(key) == first_match(set, key));
      }
  }
}

TEST_CASE("classifier: an update that is refused leaves the one before") {
  maker make(6);
  const rule_set set = make.make(shape::ipc, 300);
  const auto built = build(set);
  rule_set bad = set;
  bad.prefixes[5].length = 129;
  std::string error;
  CHECK(classifier::update(*built, input(set), input(bad), &error) == nullptr);
  CHECK_MESSAGE(error.find("prefix 5 of length 129") != std::string::npos, error);
  CHECK(differing(*built, set, make, 500) == 0);
}

TEST_CASE("classifier: updates do not grow memory without end") {
  maker make(7);
  rule_set set = make.make(shape::fw, 2000);
  auto current = build(set);
  const std::size_t first = current->bytes();
  unsigned builds = 0;
  for (unsigned round = 0; round < updates_wanted(3000); ++round) {
    rule_set now = set;
    const uint32_t at = make.below(2000);
    now.rules[at] = set.rules[make.below(2000)]; // no new lists
    current = update(*current, set, now);
    builds += current->updates() == 0;
    set = std::move(now);
    REQUIRE(current->bytes() < first * 4);
  }
  CHECK(differing(*current, set, make, 200) == 0);
  if (updates_wanted(3000) >= 3000)
    CHECK(builds > 0);
}

} // namespace
} // namespace sluice
