// SPDX-License-Identifier: Apache-2.0
// housekeeping.cc: what is done for sessions beside their packets. Part of `pipeline`: timers, room in a table that is
// nearly full, and how a session ends, whoever ends it. The walk over all sessions after a commit stands in revalidate.cc.
#include "pipeline.h"

namespace sluice {

// ---- timers ---------------------------------------------------------------------------------------------------------

uint32_t pipeline::idle_s(const session& s, const sl_settings& settings) {
  uint8_t state = s.state.load(std::memory_order_relaxed);
  switch (s.key0.protocol) {
    case protocol_tcp: return tcp_idle_s(state, settings);
    case protocol_udp: return state == SL_STATE_NEW ? settings.udp_new_s : settings.udp_s;
    case protocol_icmp: case protocol_icmpv6: return settings.icmp_s;
    default: return settings.other_s;
  }
}

void pipeline::housekeeping(uint64_t now_ns, uint32_t sweep_budget) {
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_) return;
  release_due();
  shared_.sessions.sweep(worker_, now_ticks_, sweep_budget, [this](uint32_t index) {
    session& s = shared_.sessions.at(index);
    uint32_t ends = s.last_seen_ticks.load(std::memory_order_relaxed) + ticks_of_s(idle_s(s, snap_->settings));
    if (ends > now_ticks_) { shared_.sessions.deadline(index).store(ends, std::memory_order_relaxed); return; }
    uint8_t state = s.state.load(std::memory_order_relaxed);
    sl_end_reason reason = state == SL_STATE_CLOSED ? SL_END_TCP_RST : state == SL_STATE_TCP_TIME_WAIT ? SL_END_TCP_FIN : SL_END_IDLE;
    end_session(index, reason);
  });
  shared_.sessions.reclaim(worker_);
  if (worker_ == 0 && now_ns - fragments_checked_ns_ > 1'000'000'000) {
    fragments_checked_ns_ = now_ns;
    if (uint32_t n = shared_.fragments.expire(now_ns)) bump(counters_.drop[SL_DROP_FRAGMENT_TIMEOUT], n);
  }
}

// ---- ends -----------------------------------------------------------------------------------------------------------

bool pipeline::end_session(uint32_t index, sl_end_reason reason) {
  session& s = shared_.sessions.at(index);
  if (s.flags.fetch_or(session_ended, std::memory_order_acq_rel) & session_ended) return false;
  const uint8_t flags = s.flags.load(std::memory_order_relaxed);
  counters_.add(SL_COUNTER_SESSIONS_ENDED);
  if (flags & session_log_end) record_flow(s, index, SL_EVENT_END, reason);
  if (auto it = snap_->counters_by_id.find(s.rule_id); it != snap_->counters_by_id.end()) it->second->sessions.fetch_sub(1, std::memory_order_relaxed);
  if (flags & session_source_counted) shared_.sources.give_back(s.key0.src);
  shared_.sessions.remove(worker_, index);
  release_mappings(s, index, reason == SL_END_TCP_FIN);
  return true;
}

// tcp_closed_cleanly: nothing when it never was a session.
void pipeline::release_mappings(const session& s, uint32_t index, std::optional<bool> tcp_closed_cleanly) {
  const session_mappings held = mappings_of(s);
  const uint64_t now_s = now_ns_ / 1'000'000'000;
  if (held.originator != mapping_none) {
    shared_.mappings.forget_peer(held.originator, index, s.key1.src);
    shared_.mappings.release(held.originator, now_s, tcp_closed_cleanly);
  }
  if (held.responder != mapping_none) shared_.mappings.release(held.responder, now_s, tcp_closed_cleanly);
}

namespace {

// Nobody has answered it, or its TCP handshake never came to an end.
bool is_unanswered(const session& s) {
  const uint8_t state = s.state.load(std::memory_order_relaxed);
  return state == SL_STATE_NEW || state == SL_STATE_TCP_SYN_SENT || state == SL_STATE_TCP_SYN_RECEIVED;
}

}  // namespace

// The table is nearly full: of some sessions taken at random, the unanswered one that is silent for longest ends for a new one. So a flood that
// nobody answers displaces itself, and never a conversation. A sample without any is followed by another, up to a bound.
void pipeline::evict_session() {
  const uint32_t end = shared_.sessions.high_water();
  uint32_t chosen = session_none, silent = 0;
  for (unsigned round = 0; round < eviction_rounds_max && chosen == session_none; ++round) {
    uint32_t sample[eviction_sample];
    for (uint32_t& index : sample) {
      index = static_cast<uint32_t>((hash_mix(shared_.seed + ++draws_ * 0x9e3779b97f4a7c15ull, 0xe7037ed1a0b428dbull) >> 32) * end >> 32);
      shared_.sessions.prefetch_deadline(index);
      shared_.sessions.prefetch_session(index << 1);
    }
    for (const uint32_t index : sample) {
      // Without a deadline there is none, or whoever makes it is not through with it.
      if (shared_.sessions.deadline(index).load(std::memory_order_acquire) == 0) continue;
      const session& s = shared_.sessions.at(index);
      const auto age = static_cast<int32_t>(now_ticks_ - s.last_seen_ticks.load(std::memory_order_relaxed));
      const uint32_t silence = age > 0 ? static_cast<uint32_t>(age) : 0;
      if (!is_unanswered(s) || (chosen != session_none && silence <= silent)) continue;
      chosen = index;
      silent = silence;
    }
  }
  if (chosen != session_none && end_session(chosen, SL_END_EVICTED)) counters_.add(SL_COUNTER_SESSIONS_EVICTED);
  shared_.sessions.reclaim(worker_);  // what ended a while ago, before the last free one is taken
}

bool pipeline::kill(uint64_t session_id) {
  uint32_t index = static_cast<uint32_t>(session_id);
  if (index >= shared_.sessions.high_water()) return false;
  session& s = shared_.sessions.at(index);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_ || s.incarnation != session_id >> 32 || shared_.sessions.deadline(index).load(std::memory_order_relaxed) == 0) return false;
  return end_session(index, SL_END_KILLED);
}

}  // namespace sluice
