// SPDX-License-Identifier: Apache-2.0
// wait_policy.h: how long a worker that has run out of work looks for more before it sleeps. One a worker; its thread alone.
//
// Looking costs CPU time, sleeping and waking up cost some of it and the time of whoever waits for the packet. Which is less depends on when the next
// packet comes, and that is much like it was before: a handshake's next packet is near, the next burst of a steady stream mostly is not.
// So the times that work was waited for are counted, by octaves and with the recent ones weighing most, and of all times to look the cheapest is taken:
// what looking so long would have cost, and sleeping after it where it was in vain.
// What is seldom costs little: an allowance, a hundredth of the time that passes, is there for looking as long as may be, so that the
// first connections after a quiet time are as quick as the ones that follow.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

namespace sluice {

class wait_policy {
 public:
  static constexpr uint64_t look_ns_max = 100'000;
  // What sleeping costs, in time of looking: some microseconds of CPU, and ten times as many for who waits.
  static constexpr uint64_t sleep_cost_ns = 100'000;
  static constexpr uint64_t allowance_divisor = 100;
  static constexpr uint64_t allowance_ns_max = 10 * look_ns_max;

  // How long to look from the moment on at which work ran out.
  uint64_t look_ns(uint64_t now_ns) {
    allowance_ns_ = std::min(allowance_ns_max, allowance_ns_ + (now_ns - allowed_ns_) / allowance_divisor);
    allowed_ns_ = now_ns;
    return allowance_ns_ >= look_ns_max ? look_ns_max : chosen_ns_;
  }

  // It looked for so long, in vain.
  void in_vain(uint64_t looked_ns) {
    if (looked_ns > chosen_ns_) allowance_ns_ -= std::min(allowance_ns_, looked_ns - chosen_ns_);
  }

  // Work came, so long after it had run out.
  void came_after(uint64_t waited_ns) {
    unsigned i = 0;
    while (i < bounds_ns.size() && waited_ns > bounds_ns[i]) ++i;
    if (++counts_[i], ++counted_ < remembered) return;
    choose();
    counted_ = 0;
    for (uint32_t& n : counts_) counted_ += n /= 2;
  }

 private:
  static constexpr std::array<uint64_t, 8> bounds_ns{1'000, 2'000, 4'000, 8'000, 16'000, 32'000, 64'000, look_ns_max};
  static constexpr uint32_t remembered = 64;  // then the older half counts half

  void choose() {
    uint64_t found_ns = 0, later = 0, cost_best;
    for (const uint32_t n : counts_) later += n;
    cost_best = later * sleep_cost_ns;
    chosen_ns_ = 0;
    for (unsigned i = 0; i < bounds_ns.size(); ++i) {
      found_ns += counts_[i] * bounds_ns[i];
      later -= counts_[i];
      const uint64_t cost = found_ns + later * (bounds_ns[i] + sleep_cost_ns);
      if (cost >= cost_best) continue;
      cost_best = cost;
      chosen_ns_ = bounds_ns[i];
    }
  }

  std::array<uint32_t, bounds_ns.size() + 1> counts_{};
  uint32_t counted_ = 0;
  uint64_t chosen_ns_ = look_ns_max, allowance_ns_ = allowance_ns_max, allowed_ns_ = 0;
};

}  // namespace sluice
