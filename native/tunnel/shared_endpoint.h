// SPDX-License-Identifier: Apache-2.0
// shared_endpoint.h: where a peer is, and what the way there carries, for all workers.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>

#include "abi/dataplane.h"

namespace sluice {

// What a router on the way to an address said that it carries (RFC 8201), and until when that is believed. 0 bytes: nothing was said.
struct path_mtu { uint32_t bytes = 0; uint64_t until_ns = 0; };

// An address that many read and few write: a sequence lock over words. `local` and `address` change together.
class shared_endpoint {
 public:
  // version: changes whenever the endpoint does, for caches of the way to it.
  sl_wireguard_endpoint load(uint32_t* version = nullptr, path_mtu* path = nullptr) const;
  bool known() const { return (words_[0].load(std::memory_order_relaxed) | words_[1].load(std::memory_order_relaxed)) != 0; }
  // Torn reads say "differs": the caller then stores, which settles it.
  bool equals(const sl_wireguard_endpoint& other) const {
    uint64_t wanted[words], differs = 0;
    std::memcpy(wanted, &other, sizeof wanted);
    for (unsigned i = 0; i < words; ++i) differs |= words_[i].load(std::memory_order_relaxed) ^ wanted[i];
    return differs == 0;
  }
  void store(const sl_wireguard_endpoint& endpoint);  // any thread. Another address forgets what the way carried
  // The way to `address` is narrower than was known. False: the peer is elsewhere by now, or that much was known.
  bool narrow(const sl_address& address, const path_mtu& path, uint64_t now_ns);

 private:
  uint32_t begin_write();
  void end_write(uint32_t version);
  bool has_address(const sl_address& address) const;
  static constexpr unsigned words = sizeof(sl_wireguard_endpoint) / 8;
  static_assert(sizeof(sl_wireguard_endpoint) % 8 == 0);
  std::atomic<uint32_t> version_{0};  // odd: being written
  std::atomic<bool> writing_{false};
  std::atomic<uint64_t> words_[words]{};
  std::atomic<uint64_t> path_until_ns_{0};
  std::atomic<uint32_t> path_bytes_{0};
};

}  // namespace sluice
