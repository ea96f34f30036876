// SPDX-License-Identifier: Apache-2.0
// wait_policy_test.cc: a worker's time between packets, played: what it spends on looking, how often it sleeps. Virtual time.
#include <doctest/doctest.h>

#include <vector>

#include "wait_policy.h"

namespace sluice {
namespace {

constexpr uint64_t us = 1'000, ms = 1'000'000, second = 1'000'000'000;

// Work comes after each of these waits in turn, as often as given; the work itself takes `work_ns`.
struct played { uint64_t waits = 0, slept = 0, looked_ns = 0, total_ns = 0; };

struct player {
  wait_policy policy;
  uint64_t now = 1000 * second;

  played play(const std::vector<uint64_t>& waits, unsigned times, uint64_t work_ns = 3 * us) {
    played sum;
    const uint64_t start = now;
    for (unsigned i = 0; i < times; ++i) {
      for (const uint64_t wait : waits) {
        const uint64_t look = policy.look_ns(now);
        if (wait > look) {
          policy.in_vain(look);
          ++sum.slept;
        }
        sum.looked_ns += std::min(look, wait);
        ++sum.waits;
        now += wait;
        policy.came_after(wait);
        now += work_ns;
      }
    }
    sum.total_ns = now - start;
    return sum;
  }
};

TEST_CASE("wait policy: a conversation is followed without sleeping") {
  player p;
  const played talk = p.play({25 * us, 40 * us, 20 * us, 60 * us}, 1000);
  CHECK(talk.slept == 0);
}

TEST_CASE("wait policy: between bursts it sleeps at once, within them it does not") {
  player p;
  const std::vector<uint64_t> bursts{2 * us, us, 3 * us, 2 * us, 450 * us};
  p.play(bursts, 100);  // learnt by then
  const played stream = p.play(bursts, 2000);
  CHECK(stream.slept <= 2100);                                 // once a burst
  CHECK(stream.looked_ns < stream.total_ns / 20);              // of that, 1 % allowance
}

TEST_CASE("wait policy: what is seldom is waited for as long as may be, at a hundredth of the time") {
  player p;
  const std::vector<uint64_t> connection{40 * us, 30 * us, 80 * us, 20 * ms};
  const played quiet = p.play(connection, 500);
  CHECK(quiet.slept == 500);
  // A stream of lone packets: what looking costs stays bounded, also for ones that come just too late.
  const played late = p.play({150 * us}, 20'000);
  CHECK(late.slept == 20'000);
  CHECK(late.looked_ns < late.total_ns / 50);
}

TEST_CASE("wait policy: what changes is learnt within a hundred packets, both ways") {
  player p;
  p.play({450 * us}, 2000);
  CHECK(p.play({30 * us}, 160).slept < 130);
  CHECK(p.play({30 * us}, 100).slept == 0);
  p.play({450 * us}, 160);
  const played after = p.play({450 * us}, 1000);
  CHECK(after.looked_ns < after.total_ns / 50);
}

TEST_CASE("wait policy: a clock that stands still and waits of any length do no harm") {
  wait_policy policy;
  for (uint64_t wait = 1; wait != 0; wait <<= 1) {
    policy.came_after(wait);
    policy.in_vain(policy.look_ns(0));
    CHECK(policy.look_ns(0) <= wait_policy::look_ns_max);
  }
}

}  // namespace
}  // namespace sluice
