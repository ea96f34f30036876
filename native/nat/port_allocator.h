// SPDX-License-Identifier: Apache-2.0
//
// port_allocator.h: the ports of one NAT address and one protocol class (TCP, UDP, or ICMP identifiers).
//
// Who:    the slow path allocates when it creates a mapping, whoever ends the last session of a mapping releases;
//         restarts adopt(), the netlink side reserves the ports of local listeners.
// Thread: every call from any thread at any time, without locks; only allocate()'s `worker` must be the caller's own,
//         because each worker has a state of its own. No port is ever given out twice, whatever the interleaving.
// Time:   now_s is monotonic, of 64 bits so that it never wraps; workers' clocks may differ by a batch, not by minutes.
// Bounds: about 2.5 bytes a port, fixed at construction. allocate() is a few random probes, then a pass over the bitmap
//         (at most 1,024 words; with parity and early reuse up to five); a pass that found nothing is not repeated
//         before something was freed, and an exhausted space says so at once.
//
// RFC 6888 REQ-15 and RFC 6056: choice by ChaCha20 under a secret key. RFC 6888 REQ-8: reuse_s before a port is used
// again, but (a) a TCP port whose session was seen to close cleanly is given out early when no other port is left.
// RFC 4787 REQ-4: parity is kept when possible. SL_NAT_PORT_RESERVED is never given out.
// docs/internals/nat-ports.md has the reasons.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "abi/dataplane.h"

namespace sluice {

enum class port_parity : uint8_t { any, even, odd };

/// The parity to ask for so that the source's own is kept.
constexpr port_parity parity_of(uint16_t source_port) {
  return (source_port & 1) != 0 ? port_parity::odd : port_parity::even;
}

class port_space {
public:
  using secret = std::array<uint8_t, 32>; ///< from getrandom, another one for each space
  static constexpr uint32_t reuse_s_default = 120; // RFC 6888 REQ-8
  static constexpr unsigned reuse_epochs = 12;     // quarantine ends reuse_s to reuse_s + reuse_s / 12 after release

  /// Ports lo..hi, both included.
  port_space(uint16_t lo, uint16_t hi, unsigned workers, const secret& key, uint32_t reuse_s = reuse_s_default);
  ~port_space();
  port_space(const port_space&) = delete;
  port_space& operator=(const port_space&) = delete;

  /// A random free port, from the worker's own slice while it has one; nothing: exhausted.
  std::optional<uint16_t> allocate(unsigned worker, uint64_t now_s, port_parity parity = port_parity::any) noexcept;

  /// Takes one certain port. False: out of range, in use, in quarantine, reserved, or SL_NAT_PORT_RESERVED.
  bool claim(uint16_t port, uint64_t now_s) noexcept;

  /// Takes one certain port back for a session that outlived a restart: as claim(), but a local listener's reservation
  /// does not stop it (an established session wins over the host).
  bool adopt(uint16_t port, uint64_t now_s) noexcept;

  /// Gives back a port that allocate(), claim() or adopt() gave. A port that is not in use is left alone: false.
  bool release(uint16_t port, uint64_t now_s, bool tcp_closed_cleanly) noexcept;

  /// A local listener uses the port: never allocated again until unreserve(). One in use stays until it is released;
  /// the result says whether it was not in use. Ports out of range are no matter: true.
  bool reserve(uint16_t port) noexcept;
  void unreserve(uint16_t port) noexcept;

  /// Counts, exact when nobody else works on the space; each is one pass over the bitmap.
  uint32_t in_use() const noexcept;
  uint32_t quarantined() const noexcept;
  uint32_t available() const noexcept; ///< may be allocated now, early reuse not counted
  bool is_in_use(uint16_t port) const noexcept;
  bool contains(uint16_t port) const noexcept { return port >= lo_ && port <= hi_ && port != SL_NAT_PORT_RESERVED; }
  uint16_t lo() const noexcept { return lo_; }
  uint16_t hi() const noexcept { return hi_; }
  std::size_t bytes() const noexcept;

private:
  static constexpr unsigned words_per_line = 8; // slices are cache lines of the bitmap: 512 ports
  static constexpr unsigned probes_max = 8;     // random words looked at before the pass over the bitmap
  static constexpr uint64_t epochs_live_max = reuse_epochs + 2; // epochs that can hold quarantined ports at one time
  static constexpr uint64_t rings = epochs_live_max + 1;

  struct alignas(64) worker_state { // touched by its worker only
    std::array<uint32_t, 16> input; // of ChaCha20: the key stream is the worker's own
    std::array<uint32_t, 16> block;
    uint32_t used; // words of block already given
    // freed_ as it was when a pass found nothing, by parity: no other pass until something was freed.
    std::array<uint64_t, 3> slice_empty_at, space_empty_at;
    uint32_t next() noexcept;
    uint32_t below(uint32_t bound) noexcept;
  };
  struct place { unsigned word; uint64_t bit; };

  place place_of(uint16_t port) const noexcept { return {port / 64u - word_base_, uint64_t{1} << (port % 64)}; }
  uint64_t free_bits(unsigned word) const noexcept;
  bool take(unsigned word, uint64_t bit, bool reserved_too) noexcept;
  std::optional<uint16_t> take_from(unsigned word, uint64_t wanted, worker_state& random) noexcept;
  std::optional<uint16_t> search(unsigned worker, port_parity parity, uint64_t freed) noexcept;
  std::optional<uint16_t> reuse_early(port_parity parity, worker_state& random) noexcept;
  void drain(uint64_t now_s) noexcept;
  uint64_t* epoch_bits(uint64_t epoch) const noexcept { return epochs_ + std::size_t{epoch % rings} * words_; }

  const uint16_t lo_, hi_;
  const unsigned workers_;
  const uint32_t reuse_s_;
  const uint32_t epoch_s_;
  unsigned word_base_, words_; // words_ is a multiple of words_per_line

  // Bitmaps, used through std::atomic_ref: bit port % 64 of word port / 64 - word_base_. A port changes hands only by
  // the atomic that wins its bit: free → busy (allocate), busy → quarantine (release), quarantine → free (drain) or
  // → busy (early reuse; it and drain compete for the bit in epochs_).
  void* memory_;
  uint64_t* busy_;        // in use or in quarantine
  uint64_t* quarantined_; // released, reuse_s not over
  uint64_t* clean_;       // in quarantine after a clean TCP close
  uint64_t* reserved_;    // local listeners
  uint64_t* excluded_;    // out of range, SL_NAT_PORT_RESERVED; constant
  uint64_t* epochs_;      // rings × words_: the epoch that a quarantined port was released in

  std::unique_ptr<worker_state[]> workers_state_;
  alignas(64) std::atomic<uint64_t> freed_{1};   // grows whenever a port may have become available
  std::atomic<uint64_t> closed_{0};              // grows whenever one may have become fit for early reuse
  std::atomic<uint64_t> exhausted_at_{0};        // freed_ + closed_ as it was when a whole search found nothing
  alignas(64) std::atomic<uint64_t> drained_{0}; // epochs below this one hold no ports
  std::atomic<bool> draining_{false};
};

} // namespace sluice
