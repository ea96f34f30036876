// SPDX-License-Identifier: Apache-2.0
// shared_endpoint.cc: see shared_endpoint.h.
#include "tunnel/shared_endpoint.h"

#include <cstddef>
#include <cstring>

namespace sluice {

sl_wireguard_endpoint shared_endpoint::load(uint32_t* version, path_mtu* path) const {
  uint64_t copy[words];
  for (;;) {
    const uint32_t before = version_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < words; ++i) copy[i] = words_[i].load(std::memory_order_relaxed);
    const path_mtu known{path_bytes_.load(std::memory_order_relaxed), path_until_ns_.load(std::memory_order_relaxed)};
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!(before & 1) && version_.load(std::memory_order_relaxed) == before) {
      if (version) *version = before;
      if (path) *path = known;
      sl_wireguard_endpoint endpoint;
      std::memcpy(&endpoint, copy, sizeof endpoint);
      return endpoint;
    }
    __builtin_ia32_pause();
  }
}

uint32_t shared_endpoint::begin_write() {
  while (writing_.exchange(true, std::memory_order_acquire)) __builtin_ia32_pause();
  const uint32_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  return version;
}

void shared_endpoint::end_write(uint32_t version) {
  version_.store(version + 2, std::memory_order_release);
  writing_.store(false, std::memory_order_release);
}

// By who writes, and nobody else does.
bool shared_endpoint::has_address(const sl_address& address) const {
  static_assert(offsetof(sl_wireguard_endpoint, address) == 0 && sizeof address == 16);
  uint64_t wanted[2];
  std::memcpy(wanted, &address, sizeof wanted);
  return words_[0].load(std::memory_order_relaxed) == wanted[0] && words_[1].load(std::memory_order_relaxed) == wanted[1];
}

void shared_endpoint::store(const sl_wireguard_endpoint& endpoint) {
  uint64_t copy[words];
  std::memcpy(copy, &endpoint, sizeof copy);
  const uint32_t version = begin_write();
  if (!has_address(endpoint.address)) path_bytes_.store(0, std::memory_order_relaxed);
  for (unsigned i = 0; i < words; ++i) words_[i].store(copy[i], std::memory_order_relaxed);
  end_write(version);
}

bool shared_endpoint::narrow(const sl_address& address, const path_mtu& path, uint64_t now_ns) {
  const uint32_t version = begin_write();
  const uint32_t known = path_bytes_.load(std::memory_order_relaxed);
  const bool is_new = has_address(address) && (known == 0 || path.bytes < known || now_ns >= path_until_ns_.load(std::memory_order_relaxed));
  if (is_new) {
    path_bytes_.store(path.bytes, std::memory_order_relaxed);
    path_until_ns_.store(path.until_ns, std::memory_order_relaxed);
  }
  end_write(version);
  return is_new;
}

}  // namespace sluice
