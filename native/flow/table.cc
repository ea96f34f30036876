// SPDX-License-Identifier: Apache-2.0
// table.cc: allocation, insertion and removal of sessions; see table.h for the design.
#include "flow/table.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace sluice {
void session_table::open(flow_memory& memory, unsigned workers, epochs* epochs) {
  capacity_ = memory.header->capacity;
  workers_ = workers;
  reserve_ = std::max({1u, capacity_ / 64, std::min(capacity_ / 8, reserve_a_worker * workers)});
  epochs_ = epochs;
  hash_keys_ = memory.header->hash_keys;
  bucket_mask_ = memory.header->bucket_mask;
  sessions_ = memory.sessions;
  buckets_ = memory.buckets;
  deadlines_ = std::make_unique<uint32_t[]>(capacity_);
  for (unsigned w = 0; w < workers; ++w) shares_[w].free.reserve(2 * steal_batch);
  if (memory.inherited) inherit();
}

// The engine before us may have died at any instruction. A session counts when `live` is set, which is the last step of an
// insertion and taken off before the first of a removal; the index is made to hold exactly these. The XDP program reads on
// meanwhile: what stays right is not touched.
void session_table::inherit() {
  uint32_t end = 0;
  for (uint32_t i = 0; i < capacity_; ++i) {
    session& s = sessions_[i];
    if (s.incarnation) end = i + 1;
    // Shifts by them are made without looking (flow/tcp.cc).
    for (uint8_t& log2 : s.tcp_window_log2) if (log2 > 30) log2 = 30;
    if (s.live.load(std::memory_order_relaxed) && (s.flags.load(std::memory_order_relaxed) & session_ended)) s.live.store(0, std::memory_order_relaxed);
    if (!s.live.load(std::memory_order_relaxed)) s.offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_relaxed);
  }
  for (uint64_t i = 0; i <= bucket_mask_; ++i) {
    bucket& b = buckets_[i];
    unlock(b);
    for (unsigned slot = 0; slot < slots; ++slot) {
      if (!b.tag[slot]) continue;
      uint32_t reference = b.reference[slot];
      bool right = reference >> 1 < end && sessions_[reference >> 1].live.load(std::memory_order_relaxed);
      if (right) {
        uint64_t h = hash_of(sessions_[reference >> 1].key(reference & 1));
        right = tag_of(h) == b.tag[slot] && (first_bucket(h) == i || second_bucket(h) == i);
      }
      if (!right) __atomic_store_n(&b.tag[slot], static_cast<uint16_t>(0), __ATOMIC_RELEASE);
    }
  }
  for (uint32_t i = 0; i < end; ++i) {
    session& s = sessions_[i];
    if (s.live.load(std::memory_order_relaxed)) {
      bool both = true;
      for (uint32_t direction = 0; direction < 2 && both; ++direction) {
        session_ref r;
        bool taken;
        if (!find(s.key(direction), hash_of(s.key(direction)), &r)) both = insert_key(i << 1 | direction, s.key(direction), &taken);
        else both = r.index == i;
      }
      if (both) {
        deadlines_[i] = 1;  // due: the first sweep finds out when it really ends
        ++inherited_;
        shares_[0].allocated.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      s.offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_relaxed);
      s.live.store(0, std::memory_order_relaxed);
      remove_key(i << 1, s.key0);
      remove_key(i << 1 | 1, s.key1);
    }
    common_free_.push_back(i);
  }
  common_next_ = end;
  high_water_.store(end, std::memory_order_relaxed);
}

bool session_table::find_in(const bucket& b, uint16_t tag, const flow_key& k, session_ref* out) const {
  unsigned mask = 0;
  for (unsigned i = 0; i < slots; ++i) mask |= static_cast<unsigned>(b.tag[i] == tag) << i;
  while (mask) {
    uint32_t reference = __atomic_load_n(&b.reference[__builtin_ctz(mask)], __ATOMIC_ACQUIRE);
    mask &= mask - 1;
    session& s = sessions_[reference >> 1];
    if (equal(s.key(reference & 1), k) && !(s.flags.load(std::memory_order_relaxed) & session_ended)) {
      *out = {&s, reference >> 1, reference & 1};
      return true;
    }
  }
  return false;
}

bool session_table::find(const flow_key& k, uint64_t h, session_ref* out) const {
  uint16_t tag = tag_of(h);
  const bucket& first = buckets_[first_bucket(h)];
  if (find_in(first, tag, k, out)) return true;
  if (!__atomic_load_n(&first.overflow, __ATOMIC_ACQUIRE)) return false;
  return find_in(buckets_[second_bucket(h)], tag, k, out);
}

uint32_t session_table::allocate(unsigned worker) {
  worker_share& mine = shares_[worker];
  if (mine.free.empty()) {
    reclaim(worker);
    if (mine.free.empty()) {
      std::lock_guard guard(common_mutex_);
      while (mine.free.size() < steal_batch && !common_free_.empty()) {
        mine.free.push_back(common_free_.back());
        common_free_.pop_back();
      }
      // Fresh sessions are handed out in ascending order, so that sweeps stop at the high-water mark.
      uint32_t fresh = std::min<uint32_t>(steal_batch, capacity_ - common_next_);
      if (mine.free.empty() && fresh) {
        for (uint32_t i = fresh; i > 0; --i) mine.free.push_back(common_next_ + i - 1);
        common_next_ += fresh;
        high_water_.store(common_next_, std::memory_order_relaxed);
      }
    }
    if (mine.free.empty()) return session_none;
  }
  uint32_t index = mine.free.back();
  mine.free.pop_back();
  mine.allocated.fetch_add(1, std::memory_order_relaxed);
  session& s = sessions_[index];
  // The program may still be reading the session that was here: it must see another incarnation before anything else new.
  uint32_t incarnation = s.incarnation + 1;
  std::atomic_ref(s.incarnation).store(incarnation ? incarnation : 1, std::memory_order_seq_cst);
  const size_t after = offsetof(session, incarnation) + sizeof s.incarnation;
  std::memset(static_cast<void*>(&s), 0, offsetof(session, incarnation));
  std::memset(reinterpret_cast<char*>(&s) + after, 0, sizeof s - after);
  return index;
}

void session_table::discard(unsigned worker, uint32_t index) {
  // One of its keys may have been findable for a moment: it takes the same way as a removed session.
  shares_[worker].limbo.push_back({index, epochs_->current() + 1});
  shares_[worker].freed.fetch_add(1, std::memory_order_relaxed);
}

void session_table::lock(bucket& b) {
  while (__atomic_exchange_n(&b.lock, static_cast<uint16_t>(1), __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}

bool session_table::insert_key(uint32_t reference, const flow_key& k, bool* taken) {
  uint64_t h = hash_of(k);
  uint16_t tag = tag_of(h);
  bucket& first = buckets_[first_bucket(h)];
  bucket& second = buckets_[second_bucket(h)];
  bucket* low = &first < &second ? &first : &second;
  bucket* high = &first < &second ? &second : &first;
  lock(*low);
  lock(*high);
  session_ref other;
  *taken = find_in(first, tag, k, &other) || (first.overflow && find_in(second, tag, k, &other));
  bool done = false;
  if (!*taken) {
    // The first bucket, until it is nearly full; then the emptier one, so that both filling up stays out of reach.
    unsigned used_first = 0, used_second = 0;
    for (unsigned i = 0; i < slots; ++i) { used_first += first.tag[i] != 0; used_second += second.tag[i] != 0; }
    bucket* b = used_first < crowded || used_first <= used_second ? &first : &second;
    for (unsigned i = 0; i < slots && !done; ++i) {
      if (b->tag[i] != 0) continue;
      if (b == &second) __atomic_store_n(&first.overflow, 1, __ATOMIC_RELEASE);
      __atomic_store_n(&b->reference[i], reference, __ATOMIC_RELEASE);
      __atomic_store_n(&b->tag[i], tag, __ATOMIC_RELEASE);
      done = true;
    }
  }
  unlock(*high);
  unlock(*low);
  return done;
}

void session_table::remove_key(uint32_t reference, const flow_key& k) {
  uint64_t h = hash_of(k);
  for (bucket* b : {&buckets_[first_bucket(h)], &buckets_[second_bucket(h)]}) {
    lock(*b);
    bool found = false;
    for (unsigned i = 0; i < slots; ++i) {
      if (b->tag[i] == 0 || b->reference[i] != reference) continue;
      __atomic_store_n(&b->tag[i], 0, __ATOMIC_RELEASE);
      found = true;
      break;
    }
    unlock(*b);
    if (found) return;
  }
}

session_table::insert_result session_table::insert(uint32_t index) {
  session& s = sessions_[index];
  bool taken;
  if (!insert_key(index << 1, s.key0, &taken)) return taken ? insert_result::key0_taken : insert_result::no_room;
  if (!insert_key(index << 1 | 1, s.key1, &taken)) {
    remove_key(index << 1, s.key0);
    return taken ? insert_result::key1_taken : insert_result::no_room;
  }
  s.live.store(1, std::memory_order_release);
  return insert_result::inserted;
}

void session_table::remove(unsigned worker, uint32_t index) {
  session& s = sessions_[index];
  s.offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_release);
  s.live.store(0, std::memory_order_release);
  remove_key(index << 1, s.key0);
  remove_key(index << 1 | 1, s.key1);
  deadline(index).store(0, std::memory_order_relaxed);
  worker_share& mine = shares_[worker];
  mine.limbo.push_back({index, epochs_->current() + 1});
  mine.freed.fetch_add(1, std::memory_order_relaxed);
}

void session_table::reclaim(unsigned worker) {
  worker_share& mine = shares_[worker];
  if (mine.limbo_head == mine.limbo.size()) return;
  // The youngest epoch asked for is current + 1: move on, so that workers can pass it.
  if (mine.limbo.back().epoch > epochs_->current()) epochs_->advance();
  while (mine.limbo_head < mine.limbo.size() && epochs_->passed(mine.limbo[mine.limbo_head].epoch)) {
    mine.free.push_back(mine.limbo[mine.limbo_head++].index);
  }
  if (mine.limbo_head == mine.limbo.size()) {
    mine.limbo.clear();
    mine.limbo_head = 0;
  } else if (mine.limbo_head > 65536) {
    mine.limbo.erase(mine.limbo.begin(), mine.limbo.begin() + static_cast<ptrdiff_t>(mine.limbo_head));
    mine.limbo_head = 0;
  }
  if (workers_ > 1 && mine.free.size() > 4 * steal_batch) {
    std::lock_guard guard(common_mutex_);
    while (mine.free.size() > 2 * steal_batch) {
      common_free_.push_back(mine.free.back());
      mine.free.pop_back();
    }
  }
}

uint32_t session_table::live() const {
  uint64_t allocated = 0, freed = 0;
  for (unsigned w = 0; w < workers_; ++w) {
    freed += shares_[w].freed.load(std::memory_order_relaxed);
    allocated += shares_[w].allocated.load(std::memory_order_relaxed);
  }
  return static_cast<uint32_t>(allocated > freed ? allocated - freed : 0);
}

size_t session_table::bytes() const {
  return static_cast<size_t>(capacity_) * (sizeof(session) + sizeof(uint32_t)) + (static_cast<size_t>(bucket_mask_) + 1) * sizeof(bucket);
}

}  // namespace sluice
