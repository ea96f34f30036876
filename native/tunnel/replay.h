// SPDX-License-Identifier: Apache-2.0
// replay.h: which message counters of a session were received: RFC 6479's ring of blocks, with a window of 8,192.
//
// Any worker, at the same time. Before a message is decrypted, may_accept() turns obvious replays away without a lock and without effect;
// after it authenticated, accept() decides, under the session's lock: of two workers with the same counter exactly one gets true.
// Bounds: replay_window_bits / 8 + one block of 8 bytes; accept() clears at most all blocks.
#pragma once
#include <atomic>
#include <cstdint>

namespace sluice {

inline constexpr uint64_t replay_window = 8192;  // the highest counter received and the 8,191 below it are accepted, once

class replay_filter {
 public:
  // Counters are below 2^64 - 1: the caller has refused those past REJECT_AFTER_MESSAGES.
  // False: accept() would surely say no. Unsynchronised, so true promises nothing.
  bool may_accept(uint64_t counter) const {
    const uint64_t end = end_.load(std::memory_order_acquire);
    if (counter >= end) return true;
    if (end - counter > replay_window) return false;
    return !(blocks_[place(counter)].load(std::memory_order_relaxed) & bit(counter));
  }

  // The message with this counter is authentic: is it the first one? Marks it.
  bool accept(uint64_t counter) {
    lock();
    const bool first = accept_locked(counter);
    locked_.store(false, std::memory_order_release);
    return first;
  }

 private:
  static constexpr uint64_t block_bits = 64;
  static constexpr uint64_t blocks = replay_window / block_bits + 1;  // one more: the block that is being filled does not count (RFC 6479 section 2)
  static_assert(replay_window % block_bits == 0);

  static uint64_t place(uint64_t counter) { return counter / block_bits % blocks; }
  static uint64_t bit(uint64_t counter) { return 1ull << counter % block_bits; }

  void lock() {
    while (locked_.exchange(true, std::memory_order_acquire))
      while (locked_.load(std::memory_order_relaxed)) __builtin_ia32_pause();
  }

  bool accept_locked(uint64_t counter) {
    const uint64_t end = end_.load(std::memory_order_relaxed);
    if (counter >= end) {
      // Blocks between the last one and the new one hold counters of a window ago.
      const uint64_t newest = end ? (end - 1) / block_bits : 0, wanted = counter / block_bits;
      const uint64_t skipped = wanted - newest < blocks ? wanted - newest : blocks;
      for (uint64_t i = 0; i < skipped; ++i) blocks_[(wanted - i) % blocks].store(0, std::memory_order_relaxed);
      blocks_[place(counter)].fetch_or(bit(counter), std::memory_order_relaxed);
      end_.store(counter + 1, std::memory_order_release);
      return true;
    }
    if (end - counter > replay_window) return false;
    const uint64_t before = blocks_[place(counter)].load(std::memory_order_relaxed);
    blocks_[place(counter)].store(before | bit(counter), std::memory_order_relaxed);
    return !(before & bit(counter));
  }

  std::atomic<uint64_t> end_{0};  // the highest counter received, and one; 0: none was
  std::atomic<bool> locked_{false};
  std::atomic<uint64_t> blocks_[blocks]{};
};

}  // namespace sluice
