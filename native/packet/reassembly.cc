// SPDX-License-Identifier: Apache-2.0
// reassembly.cc: see reassembly.h.
#include "packet/reassembly.h"

#include <algorithm>

namespace sluice {

size_t reassembly_table::key_hash::operator()(const datagram_key& k) const {
  const uint64_t addresses = hash_mix(hash(k.src, seed), hash(k.dst, ~seed) | 1);
  return hash_mix(addresses ^ k.id, (static_cast<uint64_t>(k.protocol) << 32 | k.ip_version << 16 | k.interface_slot) ^ seed);
}

bool reassembly_table::key_equal::operator()(const datagram_key& a, const datagram_key& b) const {
  return equal(a.src, b.src) && equal(a.dst, b.dst) && a.id == b.id && a.interface_slot == b.interface_slot && a.protocol == b.protocol && a.ip_version == b.ip_version;
}

reassembly_table::datagram_key reassembly_table::key_of(const packet& p) {
  datagram_key k{};
  k.src = p.key.src;
  k.dst = p.key.dst;
  k.id = p.fragment_id;
  k.interface_slot = p.interface_slot;
  // IPv6 datagrams are told apart by addresses and identification alone (RFC 8200 section 4.5).
  k.protocol = p.ip_version == 4 ? p.key.protocol : 0;
  k.ip_version = p.ip_version;
  return k;
}

void reassembly_table::configure(uint32_t datagrams_max, uint32_t timeout_s) {
  std::lock_guard guard(mutex_);
  datagrams_max_ = datagrams_max;
  timeout_ns_ = timeout_s * 1'000'000'000ull;
}

uint32_t reassembly_table::forget_held(datagram& d) {
  const auto count = static_cast<uint32_t>(d.held.size());
  for (const auto& h : d.held) held_bytes_ -= h.frame.size();
  d.held.clear();
  d.held.shrink_to_fit();
  return count;
}

uint32_t reassembly_table::forget(table::iterator it) {
  const uint32_t count = forget_held(it->second);
  ages_.erase(it->second.place);
  table_.erase(it);
  return count;
}

bool reassembly_table::note_range(datagram& d, const packet& p, sl_drop_reason* reason) {
  unsigned payload = p.ip_version == 4 ? p.l4_length() : p.l3_length - (p.fragment_header_offset - p.l3_offset) - fragment_header_bytes;
  range r{p.fragment_offset, static_cast<uint32_t>(p.fragment_offset) + payload};
  *reason = SL_DROP_FRAGMENT_OVERLAP;
  for (const range& other : d.ranges) {
    if (r.begin == other.begin && r.end == other.end) return true;  // an exact duplicate may be dropped or passed (RFC 8200)
    if (r.begin < other.end && other.begin < r.end) return false;
  }
  bool last = !(p.flags & packet_more_fragments);
  if (d.total && (r.end > d.total || (last && r.end != d.total))) return false;
  if (last) {
    for (const range& other : d.ranges) if (other.end > r.end) return false;
    d.total = r.end;
  }
  if (d.ranges.size() == fragment_ranges_max) { *reason = SL_DROP_FRAGMENT_TABLE_FULL; return false; }
  d.ranges.push_back(r);
  d.seen += payload;
  return true;
}

reassembly_table::result reassembly_table::add(const packet& p, uint64_t now_ns) {
  std::lock_guard guard(mutex_);
  datagram_key k = key_of(p);
  auto it = table_.find(k);
  uint32_t evicted = 0, timed_out = 0;
  if (it != table_.end() && it->second.deadline_ns <= now_ns) {
    timed_out = forget(it);
    it = table_.end();
  }
  if (it == table_.end()) {
    if (datagrams_max_ == 0) return {outcome::drop, SL_DROP_FRAGMENT_TABLE_FULL, {}};
    while (table_.size() >= datagrams_max_) evicted += forget(table_.find(ages_.front()));
    it = table_.emplace(k, datagram{}).first;
    it->second.deadline_ns = now_ns + timeout_ns_;
    it->second.place = ages_.insert(ages_.end(), k);
  }
  result r = add_to(it, p);
  r.evicted += evicted;
  r.timed_out = timed_out;
  return r;
}

reassembly_table::result reassembly_table::add_to(table::iterator it, const packet& p) {
  datagram& d = it->second;
  if (d.discarded) return {outcome::drop, SL_DROP_FRAGMENT_OVERLAP, {}};
  sl_drop_reason reason;
  if (!note_range(d, p, &reason)) {
    d.discarded = true;
    return {outcome::drop, reason, {}, forget_held(d)};
  }
  if (d.verdict.what == fragment_verdict::drop) {
    if (d.complete()) forget(it);
    return {outcome::drop, SL_DROP_FRAGMENT_DENIED, {}};
  }
  if (p.flags & packet_fragment_first) {
    d.first_seen = true;
    return {outcome::first, SL_DROP_NONE, {}};
  }
  if (d.verdict.what != fragment_verdict::unknown) {
    result r{outcome::use_verdict, SL_DROP_NONE, d.verdict};
    if (d.complete()) forget(it);
    return r;
  }
  result r{outcome::held, SL_DROP_NONE, {}};
  while (held_bytes_ + p.length > fragment_held_bytes_max && d.place != ages_.begin()) r.evicted += forget(table_.find(ages_.front()));
  if (d.held.size() == fragment_held_max || held_bytes_ + p.length > fragment_held_bytes_max) { r.what = outcome::drop; r.reason = SL_DROP_FRAGMENT_TABLE_FULL; return r; }
  d.held.push_back({std::vector<uint8_t>(p.data, p.data + p.length), p.interface_slot, p.l3_offset});
  held_bytes_ += p.length;
  return r;
}

std::vector<held_fragment> reassembly_table::decided(const packet& first, const fragment_verdict& verdict) {
  std::lock_guard guard(mutex_);
  auto it = table_.find(key_of(first));
  if (it == table_.end()) return {};
  it->second.verdict = verdict;
  std::vector<held_fragment> held = std::move(it->second.held);
  it->second.held.clear();
  for (const auto& h : held) held_bytes_ -= h.frame.size();
  // A datagram that was dropped stays, so that what comes of it later is dropped too.
  if (it->second.complete() && verdict.what != fragment_verdict::drop) forget(it);
  return held;
}

uint32_t reassembly_table::expire(uint64_t now_ns) {
  std::lock_guard guard(mutex_);
  uint32_t held = 0;
  for (auto it = table_.begin(); it != table_.end();) {
    if (it->second.deadline_ns > now_ns) { ++it; continue; }
    held += forget(it++);
  }
  return held;
}

uint32_t reassembly_table::live() const { std::lock_guard guard(mutex_); return static_cast<uint32_t>(table_.size()); }
size_t reassembly_table::held_bytes() const { std::lock_guard guard(mutex_); return held_bytes_; }

}  // namespace sluice
