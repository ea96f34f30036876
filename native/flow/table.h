// SPDX-License-Identifier: Apache-2.0
// table.h: the one session table, shared by all workers.
//
// Index: buckets of one cache line, ten slots of (16-bit tag, 32-bit reference); two candidate buckets a key. Lookups
// take no lock: they compare tags, then the whole key in the session, whose memory outlives every reader by a grace
// period (epochs). Insertion takes the bucket's own lock; removal too.
// Expiry: one 32-bit deadline a session in an array of its own. A sweep reads 4 bytes a session; only when a deadline
// has passed it looks at the session, and moves the deadline if packets came meanwhile. Shortening writes it directly.
// Sessions and index stand in flow memory (flow/memory.h), which the XDP program reads too and which outlives the engine.
// Bounds: capacity is fixed at open(); memory: 192 (session) + 4 (deadline) + 32..64 (index) bytes a session.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "abi/flow_hash.h"
#include "flow/memory.h"
#include "flow/session.h"

namespace sluice {

inline constexpr unsigned workers_max = 64;
inline constexpr uint32_t session_none = UINT32_MAX;

// Grace periods: memory that a lookup may still read is reused only when every worker has passed a quiescent point.
class epochs {
 public:
  void set_workers(unsigned count) { workers_ = count; for (unsigned w = 0; w < count; ++w) seen_[w].value.store(offline, std::memory_order_relaxed); }
  uint64_t current() const { return global_.load(std::memory_order_acquire); }
  uint64_t advance() { return global_.fetch_add(1, std::memory_order_acq_rel) + 1; }
  // A worker says: I hold no reference from before now. Called once a batch.
  void quiescent(unsigned worker) { seen_[worker].value.store(global_.load(std::memory_order_acquire), std::memory_order_seq_cst); }
  // A worker that sleeps holds nothing.
  void sleep(unsigned worker) { seen_[worker].value.store(offline, std::memory_order_release); }
  // Has every worker passed `epoch`?
  bool passed(uint64_t epoch) const {
    for (unsigned w = 0; w < workers_; ++w) if (seen_[w].value.load(std::memory_order_acquire) < epoch) return false;
    return true;
  }

 private:
  static constexpr uint64_t offline = UINT64_MAX;
  struct alignas(64) slot { std::atomic<uint64_t> value{offline}; };
  std::atomic<uint64_t> global_{1};
  unsigned workers_ = 1;
  slot seen_[workers_max];
};

struct session_ref { session* s; uint32_t index; unsigned direction; };

class session_table {
 public:
  session_table() = default;
  session_table(const session_table&) = delete;
  // memory: outlives the table. Workers share free sessions evenly and steal from a common stack. Sessions that the memory
  // holds already stay: what their last engine had half done is mended first (inherited()).
  void open(flow_memory& memory, unsigned workers, epochs* epochs);
  // Sessions that open() found in the memory.
  uint32_t inherited() const { return inherited_; }

  uint64_t hash_of(const flow_key& k) const { return sl_flow_hash(reinterpret_cast<const uint64_t*>(&k), hash_keys_); }
  void prefetch_bucket(uint64_t h) const { __builtin_prefetch(&buckets_[first_bucket(h)]); }
  // The reference that the tag promises, without looking at the key: to fetch its lines early. session_none if nothing.
  uint32_t guess(uint64_t h) const;
  void prefetch_session(uint32_t reference) const;
  void prefetch_deadline(uint32_t index) const { __builtin_prefetch(&deadlines_[index]); }
  // Finds the session of a key. Any worker, between two quiescent points.
  bool find(const flow_key& k, uint64_t h, session_ref* out) const;
  // The same, but the reference that guess() gave is tried first.
  bool find_guessed(const flow_key& k, uint64_t h, uint32_t guessed, session_ref* out) const;

  // A zeroed session, not yet findable; session_none when the table is full.
  uint32_t allocate(unsigned worker);
  // Gives back a session whose insert() failed or never happened.
  void discard(unsigned worker, uint32_t index);
  enum class insert_result { inserted, key0_taken, key1_taken, no_room };
  // Makes both keys findable, or none.
  insert_result insert(uint32_t index);
  // Takes both keys out and frees the memory after a grace period. The caller has won session_ended.
  void remove(unsigned worker, uint32_t index);

  session& at(uint32_t index) { return sessions_[index]; }
  const session& at(uint32_t index) const { return sessions_[index]; }
  std::atomic<uint32_t>& deadline(uint32_t index) { return reinterpret_cast<std::atomic<uint32_t>&>(deadlines_[index]); }

  // Visits up to `budget` sessions of this worker's share whose deadline is not later than `now`; remembers where it
  // stopped. visit(index) decides. Returns true when the share has been swept once.
  template <class Visit> bool sweep(unsigned worker, uint32_t now, uint32_t budget, Visit&& visit);
  // Visits up to `budget` live sessions of this worker's share from place `at` on; returns where to go on, or session_none.
  template <class Visit> uint32_t each(unsigned worker, uint32_t at, uint32_t budget, Visit&& visit);
  // Frees what has passed its grace period. Once a batch or so.
  void reclaim(unsigned worker);

  uint32_t capacity() const { return capacity_; }
  uint32_t high_water() const { return high_water_.load(std::memory_order_relaxed); }
  uint32_t live() const;
  // Time to end sessions for new ones: 1/64 is left; of a small table as much as two batches of each worker, up to an eighth, since what
  // ended is free only after a grace period.
  bool nearly_full() const { return live() >= capacity_ - reserve_; }
  size_t bytes() const;

 private:
  static constexpr unsigned slots = SL_FLOW_BUCKET_SLOTS;
  static constexpr unsigned crowded = 8;  // used slots from which on the second bucket is considered
  using bucket = sl_flow_bucket;
  static constexpr unsigned share_shift = 12;  // sessions are dealt to workers in runs of 4,096
  static constexpr unsigned steal_batch = 256;
  static constexpr unsigned reserve_a_worker = 128;

  struct limbo_entry { uint32_t index; uint64_t epoch; };
  struct alignas(64) worker_share {
    std::vector<uint32_t> free;
    std::vector<limbo_entry> limbo;   // ring: [limbo_head, size)
    size_t limbo_head = 0;
    uint32_t sweep_at = 0;
    std::atomic<uint64_t> allocated{0}, freed{0};
  };

  static uint16_t tag_of(uint64_t h) { return sl_flow_tag(h); }
  uint32_t first_bucket(uint64_t h) const { return sl_flow_first_bucket(h, bucket_mask_); }
  uint32_t second_bucket(uint64_t h) const { return sl_flow_second_bucket(h, bucket_mask_); }
  void inherit();
  bool find_in(const bucket& b, uint16_t tag, const flow_key& k, session_ref* out) const;
  bool insert_key(uint32_t reference, const flow_key& k, bool* taken);
  void remove_key(uint32_t reference, const flow_key& k);
  static void lock(bucket& b);
  static void unlock(bucket& b) { __atomic_store_n(&b.lock, static_cast<uint16_t>(0), __ATOMIC_RELEASE); }

  session* sessions_ = nullptr;
  std::unique_ptr<uint32_t[]> deadlines_;
  bucket* buckets_ = nullptr;
  const uint64_t* hash_keys_ = nullptr;
  uint32_t bucket_mask_ = 0, inherited_ = 0;
  uint32_t capacity_ = 0, reserve_ = 0;
  unsigned workers_ = 1;
  epochs* epochs_ = nullptr;
  std::atomic<uint32_t> high_water_{0};
  worker_share shares_[workers_max];
  std::mutex common_mutex_;
  std::vector<uint32_t> common_free_;
  uint32_t common_next_ = 0;  // sessions from here on were never used
};

inline uint32_t session_table::guess(uint64_t h) const {
  const bucket& b = buckets_[first_bucket(h)];
  uint16_t tag = tag_of(h);
  unsigned mask = 0;
  for (unsigned i = 0; i < slots; ++i) mask |= static_cast<unsigned>(b.tag[i] == tag) << i;
  if (!mask) return session_none;
  return __atomic_load_n(&b.reference[__builtin_ctz(mask)], __ATOMIC_RELAXED);
}

inline void session_table::prefetch_session(uint32_t reference) const {
  if (reference == session_none) return;
  const auto* s = reinterpret_cast<const char*>(&sessions_[reference >> 1]);
  __builtin_prefetch(s);
  __builtin_prefetch(s + 64);
  __builtin_prefetch(s + 128, 1);
}

inline bool session_table::find_guessed(const flow_key& k, uint64_t h, uint32_t guessed, session_ref* out) const {
  if (guessed != session_none) {
    session& s = sessions_[guessed >> 1];
    if (equal(s.key(guessed & 1), k) && !(s.flags.load(std::memory_order_relaxed) & session_ended)) {
      *out = {&s, guessed >> 1, guessed & 1};
      return true;
    }
  }
  return find(k, h, out);
}

template <class Visit>
bool session_table::sweep(unsigned worker, uint32_t now, uint32_t budget, Visit&& visit) {
  worker_share& mine = shares_[worker];
  uint32_t end = high_water();
  uint32_t at = mine.sweep_at;
  for (uint32_t looked = 0; looked < budget;) {
    if (at >= end) { mine.sweep_at = 0; return true; }
    uint32_t run_end = ((at >> share_shift) + 1) << share_shift;
    if ((at >> share_shift) % workers_ != worker) { at = run_end; continue; }
    run_end = std::min({run_end, end, at + (budget - looked)});
    for (; at < run_end; ++at, ++looked) {
      uint32_t when = __atomic_load_n(&deadlines_[at], __ATOMIC_RELAXED);
      if (when != 0 && when <= now) visit(at);
    }
  }
  mine.sweep_at = at;
  return false;
}

template <class Visit>
uint32_t session_table::each(unsigned worker, uint32_t at, uint32_t budget, Visit&& visit) {
  for (uint32_t end = high_water(), visited = 0; at < end && visited < budget;) {
    if ((at >> share_shift) % workers_ != worker) { at = ((at >> share_shift) + 1) << share_shift; continue; }
    if (sessions_[at].live.load(std::memory_order_acquire)) { visit(at); ++visited; }
    ++at;
  }
  return at < high_water() ? at : session_none;
}

}  // namespace sluice
