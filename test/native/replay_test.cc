// SPDX-License-Identifier: Apache-2.0
// replay_test.cc: the replay window against its definition: a set of all counters seen, and the highest one.
#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tunnel/replay.h"

namespace sluice {
namespace {

// The definition. Slow, and nothing else than what it should be.
class naive_filter {
 public:
  bool accept(uint64_t counter) {
    if (seen_.empty() || counter > *seen_.rbegin()) return seen_.insert(counter).second;
    if (*seen_.rbegin() - counter >= replay_window) return false;
    return seen_.insert(counter).second;
  }

 private:
  std::set<uint64_t> seen_;
};

// Gives a counter to both; neither may differ, and may_accept() may not say no to what accept() takes.
struct pair {
  std::unique_ptr<replay_filter> filter = std::make_unique<replay_filter>();
  naive_filter naive;
  unsigned wrong = 0, accepted = 0;
  void offer(uint64_t counter) {
    const bool may = filter->may_accept(counter), now = filter->accept(counter), should = naive.accept(counter);
    wrong += now != should || may != should;  // one thread: may_accept() is exact
    accepted += now;
  }
};

TEST_CASE("replay: named cases") {
  replay_filter f;
  CHECK(f.accept(0));
  CHECK_FALSE(f.accept(0));
  CHECK(f.accept(1));
  CHECK_FALSE(f.accept(1));
  CHECK(f.accept(9));
  CHECK(f.accept(8));
  CHECK(f.accept(7));
  CHECK_FALSE(f.accept(7));
  CHECK(f.accept(replay_window));
  CHECK(f.accept(replay_window - 1));
  CHECK_FALSE(f.accept(replay_window - 1));
  CHECK(f.accept(2));
  CHECK_FALSE(f.accept(2));
  CHECK(f.accept(replay_window + 16));
  CHECK_FALSE(f.accept(3));                    // never seen, but behind the window
  CHECK_FALSE(f.accept(replay_window + 16));
  CHECK_FALSE(f.accept(16));
  CHECK(f.accept(17));                         // the oldest place of the window
  CHECK_FALSE(f.accept(17));
}

TEST_CASE("replay: far jumps forget, and nothing of before comes back") {
  pair p;
  for (const uint64_t jump : {uint64_t{63}, uint64_t{64}, uint64_t{65}, replay_window - 1, replay_window, replay_window + 1, replay_window + 63, replay_window + 64,
                              replay_window + 65, 2 * replay_window, 10 * replay_window + 7, uint64_t{1} << 40, UINT64_MAX - (1u << 13) - 2}) {
    const uint64_t from = jump > (uint64_t{1} << 41) ? 0 : jump;
    p.offer(jump);
    for (uint64_t i = 0; i < replay_window + 200; ++i) p.offer(jump > i ? jump - i : from);
    p.offer(jump);
  }
  CHECK(p.wrong == 0);
  CHECK(p.accepted > 4 * replay_window);
}

TEST_CASE("replay: same answers as the definition, in random orders") {
  for (unsigned seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    pair p;
    uint64_t base = seed < 6 ? 0 : random() >> 20;
    // Each seed: reordered by up to `spread`, some lost, some twice, jumps now and then.
    const uint64_t spread = seed % 3 == 0 ? 40 : seed % 3 == 1 ? 3000 : 2 * replay_window;
    for (unsigned i = 0; i < 60'000; ++i) {
      base += random() % 3;
      if (random() % 5000 == 0) base += random() % (3 * replay_window);
      const uint64_t back = random() % spread;
      p.offer(base > back ? base - back : base);
    }
    CHECK(p.wrong == 0);
    CHECK(p.accepted > 10'000);
    CHECK(p.accepted < 60'000);
  }
}

TEST_CASE("replay: of several threads exactly one gets each counter") {
  constexpr unsigned threads = 4;
  constexpr uint64_t counters = 500'000;
  const auto filter = std::make_unique<replay_filter>();
  std::vector<std::atomic<uint8_t>> taken(counters);
  std::atomic<uint64_t> front{0}, refused{0};
  std::vector<std::thread> running;
  for (unsigned t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (;;) {
        const uint64_t at = front.fetch_add(1, std::memory_order_relaxed);
        if (at >= threads * counters) return;
        // All threads offer every counter about once, at the same moment; now and then an older one.
        const uint64_t counter = at / threads, back = random() % 8 ? 0 : random() % 64;
        const uint64_t offered = counter > back ? counter - back : counter;
        const bool may = filter->may_accept(offered);
        if (filter->accept(offered)) {
          taken[offered].fetch_add(1, std::memory_order_relaxed);
          refused += !may;
        }
      }
    });
  for (std::thread& t : running) t.join();
  unsigned twice = 0;
  uint64_t once = 0;
  for (const auto& count : taken) {
    twice += count.load() > 1;
    once += count.load() == 1;
  }
  CHECK(twice == 0);
  CHECK(refused.load() == 0);  // may_accept() never says no to what accept() takes
  CHECK(once > counters / 2);
}

}  // namespace
}  // namespace sluice
