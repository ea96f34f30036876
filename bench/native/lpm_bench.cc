// SPDX-License-Identifier: Apache-2.0
//
// lpm_bench.cc: what does a route lookup cost, and how long does a table take to build?
//
// Prints a line a table: routes, seconds to build, megabytes, nanoseconds a lookup (median of five rounds over 100,000
// random addresses, nine of ten IPv4). One thread.

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "../../test/native/rule_sets.h"
#include "route/lpm.h"

int main() {
  using namespace sluice;
  using namespace sluice::rule_sets;
  using clock_type = std::chrono::steady_clock;
  const auto seconds_since = [](clock_type::time_point start) {
    return std::chrono::duration<double>(clock_type::now() - start).count();
  };
  maker make(42);
  const auto address = [&make] {
    return make.chance(90) ? ipv4(make.below(UINT32_MAX))
                           : sl_address{{0x20, 0x01, static_cast<uint8_t>(make.below(8)), static_cast<uint8_t>(make.below(256)),
                                         static_cast<uint8_t>(make.below(256)), static_cast<uint8_t>(make.below(256))}};
  };
  for (const std::size_t count : {10, 400, 4000, 100'000, 1'000'000}) {
    std::vector<sl_prefix> prefixes{prefix(ipv4(0), 96)};
    while (prefixes.size() < count) {
      const sl_address at = address();
      prefixes.push_back(prefix(at, at.bytes[0] == 0 ? 104 + make.below(21) : 32 + make.below(17)));
    }
    auto start = clock_type::now();
    const auto built = lpm::build(prefixes, nullptr);
    const double build_s = seconds_since(start);
    std::vector<sl_address> addresses(100'000);
    std::generate(addresses.begin(), addresses.end(), address);
    std::array<double, 5> lookup_ns;
    uint64_t sum = 0;
    for (double& round_ns : lookup_ns) {
      start = clock_type::now();
      for (const sl_address& looked_up : addresses)
        sum += built->lookup(looked_up);
      round_ns = seconds_since(start) * 1e9 / static_cast<double>(addresses.size());
    }
    std::sort(lookup_ns.begin(), lookup_ns.end());
    std::printf("%8zu routes  build %7.4f s  %7.2f MB  lookup %6.1f ns (%.1f to %.1f)  checksum %llx\n", count, build_s,
                static_cast<double>(built->bytes()) / 1e6, lookup_ns[2], lookup_ns.front(), lookup_ns.back(),
                static_cast<unsigned long long>(sum));
  }
}
