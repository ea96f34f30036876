// SPDX-License-Identifier: Apache-2.0
// counters.h: a worker's own counters and record rings. One writer (the worker), any reader; nothing is locked.
#pragma once
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>

#include "abi/dataplane.h"

namespace sluice {

// Only the owning worker adds, so a relaxed load and store are enough and cost no locked instruction.
inline void bump(std::atomic<uint64_t>& c, uint64_t by = 1) { c.store(c.load(std::memory_order_relaxed) + by, std::memory_order_relaxed); }

// Two interfaces a cache line.
struct interface_counters { std::atomic<uint64_t> rx_packets{0}, rx_bytes{0}, tx_packets{0}, tx_bytes{0}; };

struct alignas(64) worker_counters {
  std::atomic<uint64_t> counter[SL_COUNTER_COUNT]{};
  std::atomic<uint64_t> drop[SL_DROP_REASON_COUNT]{};
  std::atomic<uint64_t> latency[SL_LATENCY_BUCKETS]{}, latency_ns{0};
  interface_counters interface[SL_INTERFACES_MAX];  // by interface slot
  void add(sl_counter which, uint64_t by = 1) { bump(counter[which], by); }
  void add_latency(uint64_t ns) {
    const unsigned bucket = ns < 2 ? 0 : static_cast<unsigned>(std::bit_width(ns - 1));
    bump(latency[bucket < SL_LATENCY_BUCKETS ? bucket : SL_LATENCY_BUCKETS - 1]);
    bump(latency_ns, ns);
  }
};

// A bounded ring of records, single producer, single consumer. Full: push says no, and the caller counts it.
template <class Record, uint32_t capacity>
class record_ring {
  static_assert((capacity & (capacity - 1)) == 0);

 public:
  record_ring() : records_(new Record[capacity]) {}
  Record* reserve() {
    uint64_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) == capacity) return nullptr;
    return &records_[head & (capacity - 1)];
  }
  void commit() { head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
  uint32_t drain(Record* into, uint32_t max) {
    uint64_t tail = tail_.load(std::memory_order_relaxed), head = head_.load(std::memory_order_acquire);
    uint32_t n = 0;
    for (; tail != head && n < max; ++n) into[n] = records_[tail++ & (capacity - 1)];
    tail_.store(tail, std::memory_order_release);
    return n;
  }

 private:
  std::unique_ptr<Record[]> records_;
  alignas(64) std::atomic<uint64_t> head_{0};
  alignas(64) std::atomic<uint64_t> tail_{0};
};

inline constexpr uint32_t flow_ring_records = 16384;  // 2.9 MB a worker: 160 ms at 100,000 records a second
inline constexpr uint32_t drop_ring_records = 4096;
using flow_ring = record_ring<sl_flow_record, flow_ring_records>;
using drop_ring = record_ring<sl_drop_record, drop_ring_records>;

}  // namespace sluice
