// SPDX-License-Identifier: Apache-2.0
// capture.h: copies of packets for people who look: up to SL_CAPTURES_MAX captures at a time, each with a filter. The engine's main
// thread starts and stops them (an immutable set, swapped by one pointer and freed after a grace period); each worker copies into a ring of
// its own, which the main thread drains. While one runs, the XDP program leaves all packets to the engine, so that none is missed.
// Bounds: capture_ring_bytes a worker, allocated with the first capture; what does not fit is counted as lost.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "abi/dataplane.h"
#include "packet/packet.h"

namespace sluice {

inline constexpr uint32_t capture_ring_bytes = 4u << 20;  // some 10,000 packets of 400 bytes: 50 ms at 200,000 a second

struct capture_set {
  bool active[SL_CAPTURES_MAX] = {};
  sl_capture_filter filters[SL_CAPTURES_MAX] = {};
  bool any() const { for (bool a : active) if (a) return true; return false; }
};

// Which captures take this packet: a bit each. `frame` and `length` from the Ethernet header on; direction SL_CAPTURE_IN or _OUT.
uint8_t captures_of(const capture_set& set, const uint8_t* frame, unsigned length, uint32_t interface_id, uint8_t direction);

// Records of sl_captured and bytes behind it, padded to 8. Single producer, single consumer.
class capture_ring {
 public:
  // Room for a record of `bytes` captured bytes, or nullptr. The record is the consumer's with commit(); without, it never was.
  sl_captured* reserve(unsigned bytes);
  void commit(const sl_captured& record) { head_.store(head_.load(std::memory_order_relaxed) + skipped_ + record.record_bytes, std::memory_order_release); }
  // Whole records into `into`; returns bytes.
  size_t drain(uint8_t* into, size_t max);
  bool ready() const { return memory_ != nullptr; }
  void allocate() { if (!memory_) memory_ = std::make_unique<uint64_t[]>(capture_ring_bytes / 8); }

 private:
  uint8_t* at(uint64_t place) { return reinterpret_cast<uint8_t*>(memory_.get()) + place % capture_ring_bytes; }
  std::unique_ptr<uint64_t[]> memory_;
  uint32_t skipped_ = 0;  // unused end of the memory before the reserved record
  alignas(64) std::atomic<uint64_t> head_{0};
  alignas(64) std::atomic<uint64_t> tail_{0};
};

}  // namespace sluice
