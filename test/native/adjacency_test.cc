// SPDX-License-Identifier: Apache-2.0
// adjacency_test.cc: next hops as whoever scans a connected subnet fills them: cost stays what it is, and room comes back.
#include <time.h>

#include <memory>
#include <random>

#include "packets.h"
#include "route/adjacency.h"

namespace sluice {
namespace {

using namespace testing;

uint64_t thread_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

struct world {
  std::unique_ptr<adjacency[]> entries = std::make_unique<adjacency[]>(adjacencies_max);
  adjacency_table table;
  world() { table.open(entries.get()); }
  uint32_t next_hop(uint64_t low, uint32_t now_ticks) {
    sl_address a = address_of("2001:db8:2::");
    store64_raw(a.bytes + 8, low);
    bool created;
    return table.find_or_create(1, a, now_ticks, &created);
  }
  uint64_t cost_ns(uint64_t step, unsigned count) {
    const uint64_t began = thread_ns();
    for (uint64_t n = 1; n <= count; ++n) next_hop(n * step, 1000);
    return thread_ns() - began;
  }
};

// The multiplier's inverse: what a hash that only multiplies makes small numbers of, and these stand in few buckets.
uint64_t inverse(uint64_t odd) {
  uint64_t x = odd;
  for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
  return x;
}

TEST_CASE("adjacency: nobody can choose addresses that collide") {
  constexpr unsigned count = 20'000;
  std::mt19937_64 random(1);
  const uint64_t usual = world().cost_ns(random() | 1, count);
  // Multiples of each number of buckets that the table may have: all would stand in one.
  std::unordered_map<uint32_t, int> sizes;
  std::vector<size_t> buckets;
  for (uint32_t n = 0; n < count; ++n) {
    sizes.emplace(n, 0);
    if (buckets.empty() || buckets.back() != sizes.bucket_count()) buckets.push_back(sizes.bucket_count());
  }
  CHECK(world().cost_ns(inverse(0x9e3779b97f4a7c15ull) * buckets.back(), count) < 5 * usual);
}

TEST_CASE("adjacency: a table that a scan keeps full costs no pass over it a packet; what nothing waits for makes room") {
  world w;
  const uint64_t filling = w.cost_ns(3, adjacencies_max);
  const uint64_t began = thread_ns();
  for (unsigned n = 0; n < 1000; ++n) CHECK(w.next_hop(1 + n * 3 + 1, 1001) == adjacency_none);
  CHECK((thread_ns() - began) < filling);
  uint32_t fresh = adjacency_none;
  for (unsigned n = 0; n < 1000; ++n) {
    const uint32_t id = w.next_hop(1 + n * 3 + 1, 1012);
    REQUIRE(id != adjacency_none);
    if (n == 0) fresh = id;
  }
  CHECK(w.table.get(fresh) != nullptr);
  CHECK(w.next_hop(2, 1013) == fresh);
}

}  // namespace
}  // namespace sluice
