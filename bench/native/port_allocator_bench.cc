// SPDX-License-Identifier: Apache-2.0
//
// port_allocator_bench.cc: what does a port cost, by how full the space is?
//
// Prints a line a fill level: nanoseconds an allocation with parity, while the level is held by releasing the oldest
// port each time (reuse time 0, so that no quarantine is in the way); then an allocation from an exhausted space, and
// one that reuses a closed port early. One thread, in turn each of four workers.

#include <chrono>
#include <cstdio>
#include <deque>
#include <vector>

#include "nat/port_allocator.h"

namespace {

using namespace sluice;
using clock_type = std::chrono::steady_clock;

constexpr unsigned rounds = 500'000;
constexpr uint32_t now_s = 1'000'000;

template <typename step> void measure(const char* what, double level_percent, unsigned repeats, step&& run) {
  const auto start = clock_type::now();
  for (unsigned i = 0; i < repeats; ++i)
    run(i);
  const double ns = std::chrono::duration<double, std::nano>(clock_type::now() - start).count() / repeats;
  std::printf("%-32s %6.2f %% full  %7.1f ns\n", what, level_percent, ns);
}

} // namespace

int main() {
  constexpr unsigned ports = 64511;
  for (const unsigned left : {ports, 32000u, 6451u, 645u, 64u, 4u}) {
    port_space space(1024, 65535, 4, {}, 0);
    std::deque<uint16_t> held;
    while (held.size() < ports - left)
      held.push_back(*space.allocate(static_cast<unsigned>(held.size() % 4), now_s));
    measure("allocate and release", 100.0 * (ports - left) / ports, rounds, [&](unsigned i) {
      held.push_back(*space.allocate(i % 4, now_s, static_cast<port_parity>(1 + i / 4 % 2)));
      space.release(held.front(), now_s, false);
      held.pop_front();
    });
  }
  port_space space(1024, 65535, 4, {});
  std::vector<uint16_t> held;
  while (const auto port = space.allocate(0, now_s))
    held.push_back(*port);
  measure("exhausted", 100, rounds, [&](unsigned) { space.allocate(0, now_s); });
  unsigned missing = 0;
  measure("release cleanly, reuse early", 100, rounds / 10, [&](unsigned i) {
    space.release(held[i % held.size()], now_s, true);
    missing += !space.allocate(0, now_s);
  });
  std::printf("%zu bytes, %.2f a port%s\n", space.bytes(), static_cast<double>(space.bytes()) / ports, missing ? "  MISSING PORTS" : "");
}
