// SPDX-License-Identifier: Apache-2.0
// shared_endpoint.h: where a peer is, for all workers.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>

#include "abi/dataplane.h"

namespace sluice {

// An address that many read and few write: a sequence lock over words. `local` and `address` change together.
class shared_endpoint {
 public:
  // version: changes whenever the endpoint does, for caches of the way to it.
  sl_wireguard_endpoint load(uint32_t* version = nullptr) const;
  bool known() const { return (words_[0].load(std::memory_order_relaxed) | words_[1].load(std::memory_order_relaxed)) != 0; }
  // Torn reads say "differs": the caller then stores, which settles it.
  bool equals(const sl_wireguard_endpoint& other) const {
    uint64_t wanted[words], differs = 0;
    std::memcpy(wanted, &other, sizeof wanted);
    for (unsigned i = 0; i < words; ++i) differs |= words_[i].load(std::memory_order_relaxed) ^ wanted[i];
    return differs == 0;
  }
  void store(const sl_wireguard_endpoint& endpoint);  // any thread

 private:
  static constexpr unsigned words = sizeof(sl_wireguard_endpoint) / 8;
  static_assert(sizeof(sl_wireguard_endpoint) % 8 == 0);
  std::atomic<uint32_t> version_{0};  // odd: being written
  std::atomic<bool> writing_{false};
  std::atomic<uint64_t> words_[words]{};
};

}  // namespace sluice
