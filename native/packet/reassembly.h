// SPDX-License-Identifier: Apache-2.0
// reassembly.h: virtual reassembly. Fragments are not joined; the verdict of a datagram's first fragment holds for all of
// them. Fragments that come before the first are copied and held. One table for all workers, behind one mutex: fragments
// are rare, and a flood of them is bounded by the table's size and by the bytes held.
// Rules: an overlap discards the datagram (RFC 5722, RFC 8200 section 4.5): every further fragment of it is dropped.
// Bounds: limits.fragments datagrams, ranges_max ranges a datagram, held_bytes_max bytes in all, fragment timer. When there is no room the
// oldest datagram goes: honest ones are whole within milliseconds, so what stays long is what will never be. Nothing opens by that: a
// fragment passes only by the verdict of a first one that is known.
#pragma once
#include <cstdint>
#include <list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"
#include "flow/address_hash.h"
#include "packet/packet.h"

namespace sluice {

inline constexpr unsigned fragment_ranges_max = 128;     // a 64 KiB datagram over an MTU of 576 has 119
inline constexpr unsigned fragment_held_max = 128;       // held fragments a datagram
inline constexpr size_t fragment_held_bytes_max = 8u << 20;

// What the first fragment's way through the engine decided for the rest.
struct fragment_verdict {
  enum kind : uint8_t { unknown, session, host, drop } what = unknown;
  uint8_t direction = 0;
  uint32_t session_index = 0;
  uint32_t incarnation = 0;
  flow_key key;              // the session's key in that direction: with it the session is found again
};

struct held_fragment { std::vector<uint8_t> frame; uint16_t interface_slot; uint16_t l3_offset; };

class reassembly_table {
 public:
  explicit reassembly_table(uint64_t seed) : table_(16, key_hash{seed}) {}
  void configure(uint32_t datagrams_max, uint32_t timeout_s);

  enum class outcome : uint8_t { use_verdict, held, drop, first };
  struct result {
    outcome what;
    sl_drop_reason reason;
    fragment_verdict verdict;
    // Held fragments that are gone: of this datagram, for the same reason; of it as it was before its timeout; of others, for room.
    uint32_t discarded = 0, timed_out = 0, evicted = 0;
  };
  // Tells what to do with a fragment: `first` means decide and then call decided(); `held` means a copy was taken.
  result add(const packet& p, uint64_t now_ns);
  // The first fragment was decided. Returns the held fragments, to be sent on by the same verdict without add().
  std::vector<held_fragment> decided(const packet& first, const fragment_verdict& verdict);
  // Drops what is too old; dropped(n) learns how many held fragments went with it.
  uint32_t expire(uint64_t now_ns);
  uint32_t live() const;
  size_t held_bytes() const;

 private:
  struct datagram_key { sl_address src, dst; uint32_t id; uint16_t interface_slot; uint8_t protocol, ip_version; };
  struct key_hash { uint64_t seed; size_t operator()(const datagram_key& k) const; };
  struct key_equal { bool operator()(const datagram_key& a, const datagram_key& b) const; };
  struct range { uint16_t begin; uint32_t end; };
  struct datagram {
    uint64_t deadline_ns = 0;
    std::list<datagram_key>::iterator place;  // in ages_
    fragment_verdict verdict;
    std::vector<range> ranges;
    std::vector<held_fragment> held;
    uint32_t total = 0;       // 0: last fragment not seen
    uint32_t seen = 0;        // bytes in ranges
    bool complete() const { return total != 0 && seen == total; }
    bool first_seen = false;  // the first fragment is with a worker, its verdict not yet known
    bool discarded = false;
  };
  using table = std::unordered_map<datagram_key, datagram, key_hash, key_equal>;
  static datagram_key key_of(const packet& p);
  bool note_range(datagram& d, const packet& p, sl_drop_reason* reason);
  result add_to(table::iterator it, const packet& p);
  uint32_t forget_held(datagram& d);
  uint32_t forget(table::iterator it);  // how many held fragments went with it

  mutable std::mutex mutex_;
  table table_;
  std::list<datagram_key> ages_;  // oldest first
  uint32_t datagrams_max_ = 4096;
  uint64_t timeout_ns_ = 60'000'000'000ull;
  size_t held_bytes_ = 0;
};

}  // namespace sluice
