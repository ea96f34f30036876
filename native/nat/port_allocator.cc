// SPDX-License-Identifier: Apache-2.0
//
// port_allocator.cc: one bitmap with an atomic per change, and a ring of bitmaps as the quarantine's clock.
//
// Stages: 1 drain what the quarantine no longer holds, 2 look for a free port with the parity, 3 without it,
// 4 reuse early. Called by workers on first packets only. Bounds: see the header.

#include "nat/port_allocator.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

namespace sluice {
namespace {

using word_ref = std::atomic_ref<uint64_t>;

constexpr unsigned bitmaps_plain = 5;
constexpr std::size_t cache_line = 64;
constexpr uint64_t even_ports = 0x5555555555555555;

// The second half of a session's life at one port must not begin before its first half ended: release stores in the
// order clean, epoch; what takes the epoch's bit sees all of it.
uint64_t load(uint64_t* word) { return word_ref(*word).load(std::memory_order_acquire); }

uint64_t wanted_bits(port_parity parity) {
  return parity == port_parity::even ? even_ports : parity == port_parity::odd ? ~even_ports : ~uint64_t{0};
}

unsigned nth_set_bit(uint64_t bits, unsigned n) {
  while (n-- > 0)
    bits &= bits - 1;
  return static_cast<unsigned>(std::countr_zero(bits));
}

} // namespace

// ---- random choice -------------------------------------------------------------------------------------------------

// RFC 8439 section 2.3, the block function; words 12 and 13 count, 14 and 15 are the worker.
uint32_t port_space::worker_state::next() noexcept {
  if (used == block.size()) {
    auto x = input;
    const auto quarter = [&x](unsigned a, unsigned b, unsigned c, unsigned d) {
      x[a] += x[b]; x[d] = std::rotl(x[d] ^ x[a], 16);
      x[c] += x[d]; x[b] = std::rotl(x[b] ^ x[c], 12);
      x[a] += x[b]; x[d] = std::rotl(x[d] ^ x[a], 8);
      x[c] += x[d]; x[b] = std::rotl(x[b] ^ x[c], 7);
    };
    for (unsigned round = 0; round < 10; ++round) {
      quarter(0, 4, 8, 12); quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15);
      quarter(0, 5, 10, 15); quarter(1, 6, 11, 12); quarter(2, 7, 8, 13); quarter(3, 4, 9, 14);
    }
    for (unsigned i = 0; i < x.size(); ++i)
      block[i] = x[i] + input[i];
    input[13] += ++input[12] == 0;
    used = 0;
  }
  return block[used++];
}

// Multiply-shift; its bias is below bound / 2^32, at most 2^-16 here.
uint32_t port_space::worker_state::below(uint32_t bound) noexcept {
  return static_cast<uint32_t>((uint64_t{next()} * bound) >> 32);
}

// ---- construction --------------------------------------------------------------------------------------------------

port_space::port_space(uint16_t lo, uint16_t hi, unsigned workers, const secret& key, uint32_t reuse_s)
    : lo_(lo), hi_(hi), workers_(std::max(workers, 1u)), reuse_s_(reuse_s),
      epoch_s_(std::max(1u, (reuse_s + reuse_epochs - 1) / reuse_epochs)) {
  assert(lo <= hi);
  word_base_ = lo / 64u / words_per_line * words_per_line;
  words_ = (hi / 64u / words_per_line + 1) * words_per_line - word_base_;

  // calloc and not new: the kernel's zero pages stay untouched until an epoch is used.
  memory_ = std::calloc(1, std::size_t{words_} * 8 * (bitmaps_plain + rings) + cache_line);
  if (memory_ == nullptr)
    throw std::bad_alloc();
  auto* base = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(memory_) + cache_line - 1) & ~(cache_line - 1));
  busy_ = base;
  quarantined_ = base + words_;
  clean_ = base + std::size_t{words_} * 2;
  reserved_ = base + std::size_t{words_} * 3;
  excluded_ = base + std::size_t{words_} * 4;
  epochs_ = base + std::size_t{words_} * bitmaps_plain;

  std::memset(excluded_, 0xff, std::size_t{words_} * 8);
  for (uint32_t port = lo; port <= hi; ++port)
    if (port != SL_NAT_PORT_RESERVED)
      excluded_[port / 64 - word_base_] &= ~(uint64_t{1} << (port % 64));

  workers_state_ = std::make_unique<worker_state[]>(workers_);
  for (unsigned worker = 0; worker < workers_; ++worker) {
    auto& input = workers_state_[worker].input;
    input = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; // "expand 32-byte k"
    std::memcpy(&input[4], key.data(), key.size());
    input[14] = worker;
    workers_state_[worker].used = static_cast<uint32_t>(input.size());
  }
}

port_space::~port_space() { std::free(memory_); }

// ---- allocation ----------------------------------------------------------------------------------------------------

std::optional<uint16_t> port_space::allocate(unsigned worker, uint64_t now_s, port_parity parity) noexcept {
  assert(worker < workers_);
  drain(now_s);

  // A flood against an exhausted space must not cost a search a packet.
  const uint64_t freed = freed_.load(std::memory_order_acquire);
  const uint64_t changes = freed + closed_.load(std::memory_order_acquire);
  if (exhausted_at_.load(std::memory_order_relaxed) == changes)
    return std::nullopt;

  auto& random = workers_state_[worker];
  auto port = search(worker, parity, freed);
  if (!port && parity != port_parity::any)
    port = search(worker, port_parity::any, freed);
  if (!port)
    port = reuse_early(parity, random);
  if (!port && parity != port_parity::any)
    port = reuse_early(port_parity::any, random);
  if (!port)
    exhausted_at_.store(changes, std::memory_order_relaxed);
  return port;
}

uint64_t port_space::free_bits(unsigned word) const noexcept {
  return ~(load(busy_ + word) | load(reserved_ + word) | excluded_[word]);
}

// The one place where a free port becomes a used one. Sequentially consistent with reserve(): either it sees the port
// in use, or we see the reservation.
bool port_space::take(unsigned word, uint64_t bit, bool reserved_too) noexcept {
  if ((word_ref(busy_[word]).fetch_or(bit) & bit) != 0)
    return false;
  if (!reserved_too && (word_ref(reserved_[word]).load() & bit) != 0) {
    word_ref(busy_[word]).fetch_and(~bit);
    return false;
  }
  return true;
}

std::optional<uint16_t> port_space::take_from(unsigned word, uint64_t wanted, worker_state& random) noexcept {
  while (const uint64_t candidates = free_bits(word) & wanted) {
    const unsigned bit = nth_set_bit(candidates, random.below(static_cast<uint32_t>(std::popcount(candidates))));
    if (take(word, uint64_t{1} << bit, false))
      return static_cast<uint16_t>((word + word_base_) * 64 + bit);
  }
  return std::nullopt;
}

// A worker's slice is each workers_-th cache line of the bitmap, so that slices interleave over the whole range and two
// workers meet on a line only when one of their slices is full. Then a worker draws from the whole space.
std::optional<uint16_t> port_space::search(unsigned worker, port_parity parity, uint64_t freed) noexcept {
  auto& state = workers_state_[worker];
  const uint64_t wanted = wanted_bits(parity);
  const auto look = [&](unsigned count, uint64_t& empty_at, auto&& word_at) -> std::optional<uint16_t> {
    if (count == 0 || empty_at == freed)
      return std::nullopt;
    for (unsigned probe = 0; probe < probes_max; ++probe)
      if (auto port = take_from(word_at(state.below(count)), wanted, state))
        return port;
    for (unsigned i = 0, start = state.below(count); i < count; ++i)
      if (auto port = take_from(word_at((start + i) % count), wanted, state))
        return port;
    empty_at = freed;
    return std::nullopt;
  };
  const unsigned lines = words_ / words_per_line;
  const unsigned own_words = worker < lines ? ((lines - worker - 1) / workers_ + 1) * words_per_line : 0;
  const auto nth_parity = static_cast<std::size_t>(parity);
  auto port = look(own_words, state.slice_empty_at[nth_parity], [&](unsigned i) {
    return (i / words_per_line * workers_ + worker) * words_per_line + i % words_per_line;
  });
  if (!port)
    port = look(words_, state.space_empty_at[nth_parity], [](unsigned i) { return i; });
  return port;
}

// RFC 6888 REQ-8 (a): a port whose TCP session was seen to close may be used again before reuse_s is over.
std::optional<uint16_t> port_space::reuse_early(port_parity parity, worker_state& random) noexcept {
  const uint64_t wanted = wanted_bits(parity);
  for (unsigned i = 0, start = random.below(words_); i < words_; ++i) {
    const unsigned word = (start + i) % words_;
    uint64_t candidates = load(clean_ + word) & ~load(reserved_ + word) & wanted;
    while (candidates != 0) {
      const unsigned n = nth_set_bit(candidates, random.below(static_cast<uint32_t>(std::popcount(candidates))));
      const uint64_t bit = uint64_t{1} << n;
      candidates &= ~bit;
      for (uint64_t ring = 0; ring < rings; ++ring) {
        uint64_t* const held = epoch_bits(ring) + word;
        if ((load(held) & bit) == 0 || (word_ref(*held).fetch_and(~bit) & bit) == 0)
          continue;
        // The port is ours. It may have lived a whole life since we looked at clean_, and a listener may have come.
        const bool is_clean = (load(clean_ + word) & bit) != 0;
        if (is_clean) {
          word_ref(quarantined_[word]).fetch_and(~bit);
          if ((word_ref(reserved_[word]).load() & bit) == 0) {
            word_ref(clean_[word]).fetch_and(~bit);
            return static_cast<uint16_t>((word + word_base_) * 64 + n);
          }
          word_ref(quarantined_[word]).fetch_or(bit);
        }
        word_ref(*held).fetch_or(bit); // a drain that was just here leaves it for one round of the rings more
        break;
      }
    }
  }
  return std::nullopt;
}

bool port_space::claim(uint16_t port, uint64_t now_s) noexcept {
  if (!contains(port))
    return false;
  drain(now_s);
  const auto [word, bit] = place_of(port);
  return (free_bits(word) & bit) != 0 && take(word, bit, false);
}

bool port_space::adopt(uint16_t port, uint64_t now_s) noexcept {
  if (!contains(port))
    return false;
  drain(now_s);
  const auto [word, bit] = place_of(port);
  return take(word, bit, true);
}

// ---- release and quarantine ----------------------------------------------------------------------------------------

bool port_space::release(uint16_t port, uint64_t now_s, bool tcp_closed_cleanly) noexcept {
  if (!contains(port))
    return false;
  drain(now_s);
  const auto [word, bit] = place_of(port);
  if ((load(busy_ + word) & bit) == 0 || (word_ref(quarantined_[word]).fetch_or(bit) & bit) != 0)
    return false;
  if (reuse_s_ == 0) {
    word_ref(quarantined_[word]).fetch_and(~bit);
    word_ref(busy_[word]).fetch_and(~bit);
    freed_.fetch_add(1, std::memory_order_release);
    return true;
  }

  // The epoch's ring must be empty of the epoch before it. It is, but for the microseconds in which another thread
  // drains a space that nobody touched for two epochs: the one case in which anybody waits.
  uint64_t drained = drained_.load(std::memory_order_acquire);
  const uint64_t epoch = std::max(now_s / epoch_s_, drained);
  while (epoch >= drained + rings) {
    std::this_thread::yield();
    drain(now_s);
    drained = drained_.load(std::memory_order_acquire);
  }
  if (tcp_closed_cleanly)
    word_ref(clean_[word]).fetch_or(bit);
  word_ref(epoch_bits(epoch)[word]).fetch_or(bit);
  if (tcp_closed_cleanly)
    closed_.fetch_add(1, std::memory_order_release);
  return true;
}

// Frees the ports of each epoch whose last second is reuse_s ago. One thread at a time does it, the others go on: what
// they then do not see yet stays in quarantine a moment longer.
void port_space::drain(uint64_t now_s) noexcept {
  if (now_s + 1 <= reuse_s_)
    return;
  const uint64_t end = (now_s + 1 - reuse_s_) / epoch_s_;
  if (drained_.load(std::memory_order_acquire) >= end || draining_.exchange(true, std::memory_order_acquire))
    return;
  uint64_t epoch = drained_.load(std::memory_order_relaxed);
  if (epoch < end) {
    bool freed = false;
    if (end - epoch > rings)
      epoch = end - rings; // each ring once
    for (; epoch < end; ++epoch) {
      uint64_t* const bits = epoch_bits(epoch);
      for (unsigned word = 0; word < words_; ++word) {
        if (load(bits + word) == 0) // keeps untouched pages untouched
          continue;
        const uint64_t over = word_ref(bits[word]).exchange(0);
        word_ref(clean_[word]).fetch_and(~over);
        word_ref(quarantined_[word]).fetch_and(~over);
        word_ref(busy_[word]).fetch_and(~over);
        freed = true;
      }
    }
    drained_.store(end, std::memory_order_release);
    if (freed)
      freed_.fetch_add(1, std::memory_order_release);
  }
  draining_.store(false, std::memory_order_release);
}

// ---- local listeners -----------------------------------------------------------------------------------------------

bool port_space::reserve(uint16_t port) noexcept {
  if (!contains(port))
    return true;
  const auto [word, bit] = place_of(port);
  word_ref(reserved_[word]).fetch_or(bit);
  return (word_ref(busy_[word]).load() & ~word_ref(quarantined_[word]).load() & bit) == 0;
}

void port_space::unreserve(uint16_t port) noexcept {
  if (!contains(port))
    return;
  const auto [word, bit] = place_of(port);
  word_ref(reserved_[word]).fetch_and(~bit);
  freed_.fetch_add(1, std::memory_order_release);
}

// ---- counts --------------------------------------------------------------------------------------------------------

uint32_t port_space::in_use() const noexcept {
  uint32_t count = 0;
  for (unsigned word = 0; word < words_; ++word)
    count += static_cast<uint32_t>(std::popcount(load(busy_ + word) & ~load(quarantined_ + word)));
  return count;
}

uint32_t port_space::quarantined() const noexcept {
  uint32_t count = 0;
  for (unsigned word = 0; word < words_; ++word)
    count += static_cast<uint32_t>(std::popcount(load(quarantined_ + word)));
  return count;
}

uint32_t port_space::available() const noexcept {
  uint32_t count = 0;
  for (unsigned word = 0; word < words_; ++word)
    count += static_cast<uint32_t>(std::popcount(free_bits(word)));
  return count;
}

bool port_space::is_in_use(uint16_t port) const noexcept {
  if (!contains(port))
    return false;
  const auto [word, bit] = place_of(port);
  return (load(busy_ + word) & ~load(quarantined_ + word) & bit) != 0;
}

std::size_t port_space::bytes() const noexcept {
  return sizeof(*this) + std::size_t{words_} * 8 * (bitmaps_plain + rings) + cache_line + workers_ * sizeof(worker_state);
}

} // namespace sluice
