// SPDX-License-Identifier: Apache-2.0
// table_test.cc: the session table - insertion, search and removal, a full table, grace periods, and two workers at once.
#include <atomic>
#include <thread>

#include "flow/table.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

struct fixture {
  epochs epoch;
  std::unique_ptr<flow_memory> memory;
  session_table table;
  fixture(uint32_t capacity, unsigned workers) {
    std::string error;
    epoch.set_workers(workers);
    memory = flow_memory::anonymous(capacity, &error);
    REQUIRE_MESSAGE(memory, error);
    table.open(*memory, workers, &epoch);
  }
};

flow_key numbered(uint32_t n, unsigned worker = 0) {
  flow_key k{};
  uint8_t four[4] = {10, static_cast<uint8_t>(worker), static_cast<uint8_t>(n >> 24), static_cast<uint8_t>(n >> 16)};
  set_ipv4(k.src, four);
  k.dst = address_of("198.51.100.10");
  k.src_port = static_cast<uint16_t>(n);
  k.dst_port = 53;
  k.protocol = 17;
  return k;
}

uint32_t add(session_table& t, const flow_key& k, unsigned worker = 0) {
  uint32_t index = t.allocate(worker);
  if (index == session_none) return index;
  t.at(index).key0 = k;
  t.at(index).key1 = reversed(k);
  if (t.insert(index) == session_table::insert_result::inserted) {
    t.deadline(index) = 1;
    return index;
  }
  t.discard(worker, index);
  return session_none;
}

bool found(session_table& t, const flow_key& k, uint32_t* index = nullptr, unsigned* direction = nullptr) {
  session_ref r;
  if (!t.find(k, t.hash_of(k), &r)) return false;
  if (index) *index = r.index;
  if (direction) *direction = r.direction;
  return true;
}

TEST_CASE("table: both directions are found, and neither after removal") {
  fixture f(1000, 1);
  flow_key k = numbered(1);
  uint32_t index = add(f.table, k), seen;
  unsigned direction;
  REQUIRE(index != session_none);
  REQUIRE(found(f.table, k, &seen, &direction));
  CHECK(seen == index);
  CHECK(direction == 0);
  REQUIRE(found(f.table, reversed(k), &seen, &direction));
  CHECK(seen == index);
  CHECK(direction == 1);
  CHECK_FALSE(found(f.table, numbered(2)));
  CHECK(f.table.live() == 1);
  f.table.remove(0, index);
  CHECK_FALSE(found(f.table, k));
  CHECK_FALSE(found(f.table, reversed(k)));
  CHECK(f.table.live() == 0);
}

TEST_CASE("table: a key is taken once, from either side") {
  fixture f(1000, 1);
  REQUIRE(add(f.table, numbered(1)) != session_none);
  uint32_t index = f.table.allocate(0);
  f.table.at(index).key0 = numbered(1);
  f.table.at(index).key1 = reversed(numbered(2));
  CHECK(f.table.insert(index) == session_table::insert_result::key0_taken);
  f.table.at(index).key0 = numbered(3);
  f.table.at(index).key1 = reversed(numbered(1));
  CHECK(f.table.insert(index) == session_table::insert_result::key1_taken);
  CHECK_FALSE(found(f.table, numbered(3)));  // none or both
}

TEST_CASE("table: full, then room again") {
  constexpr uint32_t capacity = 5000;
  fixture f(capacity, 1);
  std::vector<uint32_t> indices;
  for (uint32_t n = 0; n < capacity; ++n) {
    indices.push_back(add(f.table, numbered(n)));
    REQUIRE(indices.back() != session_none);
  }
  CHECK(f.table.allocate(0) == session_none);
  for (uint32_t n = 0; n < capacity; ++n) CHECK(found(f.table, numbered(n)));
  f.table.remove(0, indices[7]);
  // The memory is given out again only behind a grace period.
  f.epoch.quiescent(0);
  f.table.reclaim(0);
  f.epoch.quiescent(0);
  CHECK(add(f.table, numbered(capacity)) == indices[7]);
  CHECK(f.table.live() == capacity);
}

TEST_CASE("table: memory waits for a worker that has not passed its quiescent point") {
  fixture f(1, 2);
  f.epoch.quiescent(0);
  f.epoch.quiescent(1);
  uint32_t index = add(f.table, numbered(1));
  f.table.remove(0, index);
  for (unsigned i = 0; i < 3; ++i) { f.table.reclaim(0); f.epoch.quiescent(0); }
  CHECK(f.table.allocate(0) == session_none);  // worker 1 may still read it
  f.epoch.quiescent(1);
  CHECK(f.table.allocate(0) == index);
}

TEST_CASE("table: a sweep sees each session that is due, once") {
  fixture f(20'000, 2);
  for (uint32_t n = 0; n < 10'000; ++n) {
    uint32_t index = add(f.table, numbered(n));
    f.table.deadline(index) = n % 2 ? 100 : 200;
  }
  std::vector<unsigned> visits(20'000);
  for (unsigned worker = 0; worker < 2; ++worker) while (!f.table.sweep(worker, 150, 1000, [&](uint32_t index) { ++visits[index]; })) {}
  for (uint32_t i = 0; i < 20'000; ++i) CHECK(visits[i] == (f.table.deadline(i) == 100 ? 1u : 0u));
}

TEST_CASE("table: two workers insert, find and remove; no session is lost") {
  constexpr uint32_t rounds = 60'000, alive_max = 2000;
  fixture f(3 * 4096, 2);
  std::atomic<uint32_t> lost{0}, ghosts{0};
  auto work = [&](unsigned worker) {
    std::vector<std::pair<uint32_t, uint32_t>> mine;  // number, index
    for (uint32_t n = 0; n < rounds; ++n) {
      f.epoch.quiescent(worker);
      // Memory comes back when both workers have moved on: while one is not scheduled, the other waits.
      uint32_t index;
      while ((index = add(f.table, numbered(n, worker), worker)) == session_none) {
        std::this_thread::yield();
        f.epoch.quiescent(worker);
        f.table.reclaim(worker);
      }
      mine.push_back({n, index});
      uint32_t seen;
      const auto& old = mine[n * 7919u % mine.size()];
      if (!found(f.table, numbered(old.first, worker), &seen) || seen != old.second) ++lost;
      (void)found(f.table, numbered(n * 31u, 1 - worker));  // a reader of the other's sessions
      if (mine.size() > alive_max) {
        auto gone = mine[n % mine.size()];
        mine[n % mine.size()] = mine.back();
        mine.pop_back();
        f.table.remove(worker, gone.second);
        if (found(f.table, numbered(gone.first, worker))) ++ghosts;
        f.table.reclaim(worker);
      }
    }
    for (const auto& [n, index] : mine) if (!found(f.table, numbered(n, worker))) ++lost;
    for (const auto& [n, index] : mine) f.table.remove(worker, index);
    f.epoch.sleep(worker);
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  CHECK(lost == 0);
  CHECK(ghosts == 0);
  CHECK(f.table.live() == 0);
}

TEST_CASE("table: of two workers that insert the same key, one wins") {
  fixture f(20'000, 2);
  std::atomic<uint32_t> won{0};
  std::atomic<bool> go{false};
  auto work = [&](unsigned worker) {
    while (!go) {}
    for (uint32_t n = 0; n < 8000; ++n) won += add(f.table, numbered(n), worker) != session_none;
  };
  std::thread a(work, 0), b(work, 1);
  go = true;
  a.join();
  b.join();
  CHECK(won == 8000);
}

}  // namespace
}  // namespace sluice
