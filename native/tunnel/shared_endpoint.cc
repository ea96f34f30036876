// SPDX-License-Identifier: Apache-2.0
// shared_endpoint.cc: see shared_endpoint.h.
#include "tunnel/shared_endpoint.h"

#include <cstring>

namespace sluice {

sl_wireguard_endpoint shared_endpoint::load(uint32_t* version) const {
  uint64_t copy[words];
  for (;;) {
    const uint32_t before = version_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < words; ++i) copy[i] = words_[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!(before & 1) && version_.load(std::memory_order_relaxed) == before) {
      if (version) *version = before;
      sl_wireguard_endpoint endpoint;
      std::memcpy(&endpoint, copy, sizeof endpoint);
      return endpoint;
    }
    __builtin_ia32_pause();
  }
}

void shared_endpoint::store(const sl_wireguard_endpoint& endpoint) {
  uint64_t copy[words];
  std::memcpy(copy, &endpoint, sizeof copy);
  while (writing_.exchange(true, std::memory_order_acquire)) __builtin_ia32_pause();
  const uint32_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  for (unsigned i = 0; i < words; ++i) words_[i].store(copy[i], std::memory_order_relaxed);
  version_.store(version + 2, std::memory_order_release);
  writing_.store(false, std::memory_order_release);
}

}  // namespace sluice
