// SPDX-License-Identifier: Apache-2.0
// adjacency.cc: see adjacency.h. Everything here is slow path or netlink thread.
#include "route/adjacency.h"

#include <cstring>

namespace sluice {

void adjacency_table::open(adjacency* entries) {
  entries_ = entries;
  by_key_.clear();
  next_ = 0;
  for (uint32_t i = 0; i < adjacencies_max; ++i) {
    adjacency& a = entries[i];
    const bool possible = a.interface_slot < interface_slots;
    if (!possible) a.interface_slot = 0;  // a session may name it, in use or not
    if (!a.in_use.load(std::memory_order_acquire)) continue;
    a.waiting.store(0, std::memory_order_relaxed);  // what it held is gone
    if (!possible || !by_key_.emplace(key{a.address, a.interface_slot}, i).second) {
      a.incarnation.fetch_add(1, std::memory_order_release);
      a.in_use.store(0, std::memory_order_release);
      continue;
    }
    next_ = i + 1;
  }
  for (uint32_t i = 0; i < next_; ++i) if (!entries[i].in_use.load(std::memory_order_relaxed)) free_.push_back(i);
}

uint32_t adjacency_table::find_or_create(unsigned interface_slot, const sl_address& address, uint32_t now_ticks, bool* created) {
  std::lock_guard guard(mutex_);
  *created = false;
  key k{address, interface_slot};
  if (auto it = by_key_.find(k); it != by_key_.end()) {
    adjacency& a = entries_[it->second];
    return it->second | static_cast<uint32_t>(a.incarnation.load(std::memory_order_relaxed)) << 16;
  }
  uint32_t index;
  if (!free_.empty()) { index = free_.back(); free_.pop_back(); }
  else index = next_ < adjacencies_max ? next_++ : recycle(now_ticks);
  if (index == adjacency_none) return adjacency_none;
  adjacency& a = entries_[index];
  a.mac.store(0, std::memory_order_relaxed);
  a.interface_slot = static_cast<uint16_t>(interface_slot);
  a.address = address;
  a.used_ticks.store(now_ticks, std::memory_order_relaxed);
  a.asked_ticks.store(0, std::memory_order_relaxed);
  a.waiting.store(0, std::memory_order_relaxed);
  by_key_.emplace(k, index);
  a.in_use.store(1, std::memory_order_release);
  *created = true;
  // 0xffff with index 0xffff would read as adjacency_none.
  if (a.incarnation.load(std::memory_order_relaxed) >= 0xfffe) a.incarnation.store(0, std::memory_order_relaxed);
  return index | static_cast<uint32_t>(a.incarnation.load(std::memory_order_relaxed)) << 16;
}

// Takes a next hop that nobody has used for a minute; unresolved ones (a scan of a connected subnet) go when nothing can wait for them any
// more. Goes round, and looks at so many only: a scan that keeps the table full must not cost a pass over it a packet.
uint32_t adjacency_table::recycle(uint32_t now_ticks) {
  constexpr uint32_t idle_ticks = 224, unresolved_ticks = 12;
  for (uint32_t looked = 0; looked < recycle_looks_max; ++looked) {
    const uint32_t index = recycle_at_;
    recycle_at_ = (recycle_at_ + 1) % adjacencies_max;
    adjacency& a = entries_[index];
    uint32_t age = now_ticks - a.used_ticks.load(std::memory_order_relaxed);
    bool resolved = a.mac.load(std::memory_order_relaxed) & adjacency::resolved_bit;
    if (!a.in_use.load(std::memory_order_relaxed) || age < (resolved ? idle_ticks : unresolved_ticks) || a.waiting.load(std::memory_order_relaxed)) continue;
    by_key_.erase(key{a.address, a.interface_slot});
    // In this order: an engine that dies in between leaves no free entry that sessions still name.
    a.incarnation.fetch_add(1, std::memory_order_release);
    a.in_use.store(0, std::memory_order_release);
    return index;
  }
  return adjacency_none;
}

bool adjacency_table::update(const interface_state* interfaces, uint32_t kernel_ifindex, const sl_address& address, const uint8_t* mac, bool usable, bool failed) {
  uint64_t value = 0;
  if (usable) {
    std::memcpy(&value, mac, 6);
    value |= adjacency::resolved_bit;
  } else if (failed) {
    value = adjacency::failed_bit;
  }
  bool changed = false;
  std::lock_guard guard(mutex_);
  for (unsigned slot = 0; slot < interface_slots; ++slot) {
    if (interfaces[slot].id.load(std::memory_order_relaxed) == 0 || interfaces[slot].kernel_ifindex.load(std::memory_order_relaxed) != kernel_ifindex) continue;
    auto it = by_key_.find(key{address, slot});
    if (it == by_key_.end()) continue;
    adjacency& a = entries_[it->second];
    if (a.mac.exchange(value, std::memory_order_acq_rel) != value) changed = true;
  }
  if (changed) version_.fetch_add(1, std::memory_order_acq_rel);
  return changed;
}

void adjacency_table::forget_interface(unsigned interface_slot) {
  std::lock_guard guard(mutex_);
  for (auto it = by_key_.begin(); it != by_key_.end();) {
    if (it->first.interface_slot != interface_slot) { ++it; continue; }
    adjacency& a = entries_[it->second];
    a.mac.store(adjacency::failed_bit, std::memory_order_relaxed);
    ++it;
  }
  version_.fetch_add(1, std::memory_order_acq_rel);
}

}  // namespace sluice
