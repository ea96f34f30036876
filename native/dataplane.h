// SPDX-License-Identifier: Apache-2.0
// dataplane.h: what all workers share. Built by `engine` before the first worker starts, destroyed after the last one.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "flow/table.h"
#include "nat/mapping.h"
#include "packet/reassembly.h"
#include "policy/snapshot.h"
#include "route/adjacency.h"

namespace sluice {

// Sessions a source address has, kept only while limits.sessionsPerSource is set. Slow path.
class source_limits {
 public:
  // Counts one more session, unless the source has `max` already.
  bool take(const sl_address& source, uint32_t max) {
    shard& s = shard_of(source);
    std::lock_guard guard(s.mutex);
    uint32_t& count = s.counts[source];
    if (count >= max) return false;
    ++count;
    return true;
  }
  void give_back(const sl_address& source) {
    shard& s = shard_of(source);
    std::lock_guard guard(s.mutex);
    auto it = s.counts.find(source);
    if (it != s.counts.end() && --it->second == 0) s.counts.erase(it);
  }

 private:
  struct shard { std::mutex mutex; std::unordered_map<sl_address, uint32_t, address_hash, address_equal> counts; };
  shard& shard_of(const sl_address& a) { return shards_[address_hash{}(a) >> 58]; }
  shard shards_[64];
};

struct dataplane {
  explicit dataplane(uint64_t seed_) : seed(seed_), fragments(seed_ ^ 0x5851f42d4c957f2dull) {}
  const uint64_t seed;
  unsigned workers = 1;
  epochs epoch;
  std::atomic<const snapshot*> current{nullptr};
  session_table sessions;
  mapping_table mappings;
  adjacency_table adjacencies;
  interface_state interfaces[interface_slots];
  reassembly_table fragments;
  source_limits sources;
  std::atomic<uint64_t>* nat_port_words = nullptr;
  // Inside, time is monotonic; records carry wall time: monotonic + this.
  std::atomic<int64_t> wall_offset_ns{0};
  // Set before workers start. Thread-safe, non-blocking.
  std::function<bool(uint32_t kernel_ifindex, const sl_address&)> resolve;
  std::function<bool(const uint8_t* packet, unsigned bytes)> to_host;
};

}  // namespace sluice
