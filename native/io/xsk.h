// SPDX-License-Identifier: Apache-2.0
/*
 * xsk: AF_XDP sockets and the packet memory behind them.
 *
 * umem_area   mapped packet memory of one worker: frames of umem_frame_bytes each.
 * frame_pool  the worker's free frames, last in first out: the frame freed last is the one still in the cache.
 * xsk         one socket on one (netdev, queue), with RX, TX, fill and completion ring of its own.
 *
 * Who calls it: `worker` for the hot calls, `engine` (while that worker stands still) for open and close. One thread at
 * a time owns an area, its pool and its sockets; nothing here takes a lock, and no hot call allocates or throws.
 *
 * Each socket registers the worker's whole area itself instead of borrowing the first socket's registration
 * (XDP_SHARED_UMEM). The memory is one all the same, so a frame goes from any socket to any other by its address. But
 * no socket depends on the life of another, and each chooses copy or zero-copy for itself: a borrowed registration
 * forces the lender's mode on the borrower, which fails for a netvsc netdev beside an mlx5 one. The price: the area
 * counts once per socket against RLIMIT_MEMLOCK, so engine must run with it unlimited (or with CAP_IPC_LOCK).
 *
 * A frame is always in exactly one place: the pool, the caller's hands, or one socket (`held`). A socket keeps one bit a
 * frame for that, because the kernel hides some of what it took from the fill ring: close() gives back every last one.
 *
 * Bounds: xsk_ring_entries_default entries a ring, umem_frames_max frames an area, xsk_tx_kicks_max system calls a flush.
 */
#pragma once

#include <linux/if_xdp.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

constexpr uint32_t umem_frame_bytes = 4096;           // a page: the largest chunk that every driver takes
constexpr uint32_t umem_frames_max = 1u << 20;        // 4 GiB a worker
constexpr uint32_t umem_headroom_bytes = 256;         // XDP_PACKET_HEADROOM: what the kernel leaves before a received frame
constexpr uint32_t xsk_ring_entries_default = 2048;
constexpr uint32_t xsk_tx_budget_default = 256;       // descriptors a sendto; the kernel's own default is 32
constexpr uint32_t xsk_send_buffer_bytes = 16 << 20;  // a full TX ring of 4 KiB frames with their skb overhead
constexpr unsigned xsk_tx_kicks_max = 64;             // a flush ends then at the latest; the next one goes on
constexpr unsigned xsk_open_retry_ms = 2000;          // the kernel frees a queue some time after its socket was closed
constexpr unsigned xsk_close_drain_ms = 20;           // transmissions under way get this long to complete

class umem_area {
 public:
  // Null with *error set when frame_count is out of range or memory is short.
  static std::unique_ptr<umem_area> create(uint32_t frame_count, std::string* error);
  ~umem_area();
  umem_area(const umem_area&) = delete;
  umem_area& operator=(const umem_area&) = delete;

  uint8_t* at(uint64_t address) const { return base_ + address; }
  uint8_t* base() const { return base_; }
  uint64_t bytes() const { return uint64_t{frame_count_} * umem_frame_bytes; }
  uint32_t frame_count() const { return frame_count_; }

 private:
  umem_area() = default;
  uint8_t* base_ = nullptr;
  uint32_t frame_count_ = 0;
};

class frame_pool {
 public:
  // Starts with every frame of the area.
  explicit frame_pool(const umem_area& area);

  bool get(uint64_t* address) {
    if (count_ == 0) return false;
    *address = free_[--count_];
    return true;
  }
  // Takes any address inside the frame. More frames than the area has would be a bug of the caller: counted, not stored.
  void put(uint64_t address) {
    if (count_ == free_.size()) [[unlikely]] {
      ++overflows_;
      return;
    }
    free_[count_++] = address & ~uint64_t{umem_frame_bytes - 1};
  }
  uint32_t count() const { return count_; }
  uint64_t overflows() const { return overflows_; }

 private:
  std::vector<uint64_t> free_;
  uint32_t count_ = 0;
  uint64_t overflows_ = 0;
};

struct rx_frame {
  uint64_t address;  // in the area, of the first byte; umem_headroom_bytes before it are free
  uint8_t* data;
  uint32_t length;
};

enum class xsk_mode { automatic, copy, zero_copy };

struct xsk_options {
  uint32_t ifindex = 0;
  uint32_t queue = 0;
  xsk_mode mode = xsk_mode::automatic;
  uint32_t ring_entries = xsk_ring_entries_default;  // of each of the four rings; a power of two
  uint32_t tx_budget = xsk_tx_budget_default;        // clamped to 32..ring_entries
  bool need_wakeup = true;
  uint32_t busy_poll_us = 0;                         // 0: no busy polling
  uint32_t busy_poll_budget = 64;
};

class xsk {
 public:
  // Binds the socket; nothing is loaded or attached, and the caller puts fd() into the steering map. The area must
  // outlive the socket. The fill ring is empty: call refill before frames are steered here. May wait up to
  // xsk_open_retry_ms for a queue whose last socket was closed just now.
  static std::unique_ptr<xsk> open(umem_area& area, const xsk_options& options, std::string* error);
  // Frames still held are lost to the pool: close() first.
  ~xsk();
  xsk(const xsk&) = delete;
  xsk& operator=(const xsk&) = delete;

  // RX ring → out. The frames are the caller's: to transmit, or to put into the pool.
  unsigned receive(rx_frame* out, unsigned max) {
    uint32_t available = rx_.cached_producer - rx_.cached_consumer;
    if (available == 0) {
      rx_.cached_producer = __atomic_load_n(rx_.producer, __ATOMIC_ACQUIRE);
      available = rx_.cached_producer - rx_.cached_consumer;
      if (available == 0) return 0;
    }
    const unsigned n = std::min<uint32_t>(available, max);
    const auto* descriptors = static_cast<const xdp_desc*>(rx_.entries);
    for (unsigned i = 0; i < n; ++i) {
      const xdp_desc& d = descriptors[(rx_.cached_consumer + i) & rx_.mask];
      out[i] = {d.addr, base_ + d.addr, d.len};
      __builtin_prefetch(out[i].data);
      let_go(d.addr);
    }
    rx_.cached_consumer += n;
    __atomic_store_n(rx_.consumer, rx_.cached_consumer, __ATOMIC_RELEASE);
    return n;
  }

  // Queues one frame; sent by the next flush. False, and the frame stays the caller's: the ring is full, the netdev is
  // gone, or the descriptor is one that the kernel would discard without ever completing it.
  bool transmit(uint64_t address, uint32_t length) {
    if (length == 0 || address >= area_bytes_ || (address & (umem_frame_bytes - 1)) + length > umem_frame_bytes ||
        gone_) [[unlikely]]
      return false;
    if (tx_.cached_producer - tx_.cached_consumer == tx_.size) {
      tx_.cached_consumer = __atomic_load_n(tx_.consumer, __ATOMIC_ACQUIRE);
      if (tx_.cached_producer - tx_.cached_consumer == tx_.size) return false;
    }
    static_cast<xdp_desc*>(tx_.entries)[tx_.cached_producer++ & tx_.mask] = {address, length, 0};
    ++outstanding_tx_;
    hold(address);
    return true;
  }

  // Gives queued frames to the kernel, and calls it when it needs that. To be called on each round of the worker, also
  // when nothing was queued: descriptors that an earlier call left in the ring (budget, send buffer, completion ring
  // full, link down) are tried again.
  void flush() {
    if (outstanding_tx_ == 0) return;
    __atomic_store_n(tx_.producer, tx_.cached_producer, __ATOMIC_RELEASE);
    if (!tx_waiting()) return;
    if (need_wakeup_) {
      // The producer must be visible before the flag is read, else kernel and worker can both go to sleep.
      __atomic_thread_fence(__ATOMIC_SEQ_CST);
      if (!(__atomic_load_n(tx_.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP)) return;
    }
    kick();
  }

  // Completion ring → pool. Returns how many.
  unsigned reclaim(frame_pool& pool) {
    if (outstanding_tx_ == 0) return 0;
    const uint32_t producer = __atomic_load_n(completion_.producer, __ATOMIC_ACQUIRE);
    const unsigned n = producer - completion_.cached_consumer;
    if (n == 0) return 0;
    const auto* addresses = static_cast<const uint64_t*>(completion_.entries);
    for (unsigned i = 0; i < n; ++i) {
      const uint64_t address = addresses[(completion_.cached_consumer + i) & completion_.mask];
      let_go(address);
      pool.put(address);
    }
    completion_.cached_consumer = producer;
    __atomic_store_n(completion_.consumer, producer, __ATOMIC_RELEASE);
    outstanding_tx_ -= n;
    return n;
  }

  // Pool → fill ring, until the ring holds `target` frames (at most its size) or the pool is empty.
  void refill(frame_pool& pool, uint32_t target = UINT32_MAX) {
    const uint32_t in_ring = fill_.cached_producer - __atomic_load_n(fill_.consumer, __ATOMIC_ACQUIRE);
    const uint32_t goal = std::min(target, fill_.size);
    if (in_ring < goal) {
      auto* addresses = static_cast<uint64_t*>(fill_.entries);
      uint64_t address;
      for (uint32_t n = goal - in_ring; n > 0 && pool.get(&address); --n) {
        addresses[fill_.cached_producer++ & fill_.mask] = address;
        hold(address);
      }
      __atomic_store_n(fill_.producer, fill_.cached_producer, __ATOMIC_RELEASE);
    }
    if (busy_polling_ ||
        (need_wakeup_ && (__atomic_load_n(fill_.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP))) [[unlikely]]
      poll_driver();
  }

  // Ends the socket and puts every frame that it holds into the pool: fill ring, RX ring, TX and completion ring, and
  // what the kernel keeps between them. Waits for transmissions under way, xsk_close_drain_ms at most. After it the
  // socket receives nothing and transmits nothing. Call it when the steering map no longer names the socket.
  void close(frame_pool& pool);

  int fd() const { return fd_; }
  uint32_t ifindex() const { return ifindex_; }
  uint32_t queue() const { return queue_; }
  bool zero_copy() const { return zero_copy_; }
  bool busy_polling() const { return busy_polling_; }
  uint32_t tx_budget() const { return tx_budget_; }           // 32 where the kernel has no such option
  bool gone() const { return gone_; }                         // closed, or the netdev was removed: close and forget
  uint32_t outstanding_tx() const { return outstanding_tx_; } // transmitted, not yet reclaimed
  bool tx_waiting() const {                                   // flushed, not yet taken by the kernel
    return __atomic_load_n(tx_.consumer, __ATOMIC_ACQUIRE) != tx_.cached_producer;
  }
  // Entries that wait in each ring for the side that takes them. All rings of a socket have as many entries.
  struct ring_levels { uint32_t entries, rx, fill, tx, completion; };
  ring_levels levels() const {
    const auto taken = [](const ring& r) { return __atomic_load_n(r.consumer, __ATOMIC_RELAXED); };
    const auto given = [](const ring& r) { return __atomic_load_n(r.producer, __ATOMIC_RELAXED); };
    return {rx_.size, given(rx_) - rx_.cached_consumer, fill_.cached_producer - taken(fill_), tx_.cached_producer - taken(tx_), given(completion_) - completion_.cached_consumer};
  }
  bool rx_ready() const {                                     // frames wait: do not sleep
    return __atomic_load_n(rx_.producer, __ATOMIC_ACQUIRE) != rx_.cached_consumer;
  }
  uint64_t kicks() const { return kicks_; }                   // sendto calls so far
  uint32_t held() const;                                      // frames that the socket holds; walks the bitmap
  bool statistics(xdp_statistics* out) const;                 // the kernel's own: rings full or empty, bad descriptors

 private:
  // One ring shared with the kernel. Cached indexes spare reads of the other side's cache line.
  struct ring {
    uint32_t* producer = nullptr;
    uint32_t* consumer = nullptr;
    uint32_t* flags = nullptr;
    void* entries = nullptr;
    uint32_t mask = 0, size = 0;
    uint32_t cached_producer = 0, cached_consumer = 0;
    void* map = nullptr;
    size_t map_bytes = 0;
  };

  xsk() = default;
  void hold(uint64_t address) {
    const uint64_t frame = address / umem_frame_bytes;
    held_[frame / 64] |= uint64_t{1} << (frame % 64);
  }
  void let_go(uint64_t address) {
    const uint64_t frame = address / umem_frame_bytes;
    held_[frame / 64] &= ~(uint64_t{1} << (frame % 64));
  }
  bool set_up(umem_area& area, const xsk_options& options, std::string* error);
  bool map_ring(ring* r, const xdp_ring_offset& offset, uint64_t page_offset, uint32_t entries, size_t entry_bytes);
  void kick();
  void poll_driver();
  void release();

  // hot
  uint8_t* base_ = nullptr;
  uint64_t area_bytes_ = 0;
  std::vector<uint64_t> held_;
  uint32_t outstanding_tx_ = 0;
  int fd_ = -1;
  bool need_wakeup_ = false, busy_polling_ = false, gone_ = false;
  ring rx_, tx_, fill_, completion_;
  uint64_t kicks_ = 0;
  // cold
  uint32_t ifindex_ = 0, queue_ = 0, tx_budget_ = 32;
  bool zero_copy_ = false;
  uint32_t ended_ = 0;  // index of the empty rings after close
};

}  // namespace sluice
