// SPDX-License-Identifier: Apache-2.0
// revalidate.cc: a session after a commit. The whole decision is made once more: a session that is still allowed, with the same translation,
// goes on by what the new snapshot says; another ends. Part of `pipeline`: by a packet of it, or by the walk over all of them.
#include "pipeline.h"

namespace sluice {
namespace {

constexpr uint32_t revalidate_budget = 256;    // sessions between two batches: some 0.3 ms with a large policy
constexpr uint64_t revalidation_ns_max = 80'000'000;  // then the program stops trusting what was not reached yet

}  // namespace

pipeline::revalidation pipeline::revalidate_session(uint32_t index, decision* out) {
  session& s = shared_.sessions.at(index);
  counters_.add(SL_COUNTER_REVALIDATIONS);
  const uint8_t flags = s.flags.load(std::memory_order_relaxed);
  uint8_t icmp_type = s.key0.protocol == protocol_icmp ? (s.key0.kind ? 13 : 8) : s.key0.protocol == protocol_icmpv6 ? 128 : 0;
  uint16_t from = snap_->slot_interfaces[s.interface_slot[0]];
  decision& d = *out;
  d = decide(shared_, *snap_, s.key0, icmp_type, 0, from, &s);
  release_inbound(d);
  const flow_key responder = reversed(s.key1);
  bool allowed = d.reason == SL_DROP_NONE && !d.to_host;
  // Still translated to the same places?
  if (allowed) allowed = equal(d.translated.dst, responder.dst) && d.translated.dst_port == (nat_protocol_class(s.key0.protocol) == 2 ? d.translated.dst_port : responder.dst_port);
  if (allowed) {
    if (!d.source_rule) allowed = !(flags & session_source_nat);
    else if (d.source_rule->kind == SL_NAT_STATIC) allowed = equal(d.static_source, responder.src);
    else allowed = (flags & session_source_nat) && !(flags & session_static_source) && pool_holds(*snap_, *d.source_rule, responder.src);
  }
  // An unreachable route is no verdict of policy: the session waits for the route to come back, its packets do not pass.
  if (!allowed && (d.reason == SL_DROP_NO_ROUTE || d.reason == SL_DROP_WIREGUARD_NO_PEER || d.reason == SL_DROP_ENCRYPTION_REQUIRED)) return revalidation::unroutable;
  if (!allowed) {
    end_session(index, SL_END_POLICY_CHANGED);
    return revalidation::ended;
  }
  follow_mapping(index, d);
  const sl_rule& rule = snap_->rules[d.rule];
  if (rule.id != s.rule_id) {
    if (auto it = snap_->counters_by_id.find(s.rule_id); it != snap_->counters_by_id.end()) it->second->sessions.fetch_sub(1, std::memory_order_relaxed);
    snap_->rule_counters[d.rule]->sessions.fetch_add(1, std::memory_order_relaxed);
    s.rule_id = rule.id;
  }
  s.interface_slot[1] = snap_->interface_slots[d.to];
  s.adjacency[0].store(route_to(d.next_hop, s.interface_slot[1], d.peer_slot), std::memory_order_relaxed);
  // Also when there is none: the way of before may be one that does not encrypt.
  s.adjacency[1].store(route_back(s.key0), std::memory_order_relaxed);
  if (rule.log & SL_LOG_END) s.flags.fetch_or(session_log_end, std::memory_order_relaxed);
  else s.flags.fetch_and(static_cast<uint8_t>(~session_log_end), std::memory_order_relaxed);
  uint8_t offload = s.offload.load(std::memory_order_relaxed), wanted = offload_policy(*snap_, s, rule);
  if ((offload == SL_OFFLOAD_NEVER) != (wanted == SL_OFFLOAD_NEVER)) s.offload.store(wanted, std::memory_order_release);
  s.generation.store(static_cast<uint32_t>(snap_->generation), std::memory_order_release);
  return revalidation::allowed;
}

// What the NAT rule says now holds for the mapping of before: its filtering, and when its own rule is gone, this one's.
void pipeline::follow_mapping(uint32_t index, const decision& d) {
  session& s = shared_.sessions.at(index);
  const uint32_t own = mappings_of(s).originator;
  if (own == mapping_none || !d.source_rule || !shared_.mappings.acquire(own)) return;
  const mapping& m = shared_.mappings.at(own);
  // Until we let it go it is this session's, unless that has ended before.
  auto has_ended = [&s] { return s.flags.load(std::memory_order_seq_cst) & session_ended; };
  if (!has_ended()) {
    const uint32_t rule_id = m.nat_rule_id.load(std::memory_order_relaxed);
    if (rule_id == d.source_rule->id || !snap_->filterings.contains(rule_id)) shared_.mappings.hand_over(own, d.source_rule->id, d.source_rule->filtering);
    if (m.filtering.load(std::memory_order_relaxed) == SL_FILTERING_ADDRESS) {
      shared_.mappings.note_peer(own, index, s.key1.src);
      if (has_ended()) shared_.mappings.forget_peer(own, index, s.key1.src);
    }
  }
  shared_.mappings.release(own, now_ns_ / 1'000'000'000);
}

// The same for a packet of the session; false: it is gone.
bool pipeline::revalidate(packet& p, const session_ref& r) {
  decision d;
  const uint32_t rule_id = r.s->rule_id;
  // The program has left its packets to us: those that wait behind this one go first, and then it is handed over again.
  if (r.s->offload.load(std::memory_order_relaxed) == SL_OFFLOAD_ON && !shared_.is_forwarded_by_program(r.s->generation.load(std::memory_order_relaxed), now_ticks_))
    r.s->offload.store(SL_OFFLOAD_NOT_YET, std::memory_order_release);
  switch (revalidate_session(r.index, &d)) {
    case revalidation::allowed: return true;
    case revalidation::unroutable: refuse(p, d); return false;
    case revalidation::ended: drop(p, SL_DROP_POLICY_CHANGED, {rule_id, r.s, r.direction, nullptr}); return false;
  }
  return false;
}

// An ICMP request that came in on the answers' side of a session: would it open one of its own?
bool pipeline::request_allowed(packet& p) {
  decision d = decide(shared_, *snap_, p.key, p.icmp_type, p.icmp_code, snap_->slot_interfaces[p.interface_slot]);
  const bool allowed = d.reason == SL_DROP_NONE && !d.to_host;
  if (d.to_host) drop(p, SL_DROP_ICMP_NO_SESSION);
  else if (!allowed) refuse(p, d);
  release_inbound(d);
  return allowed;
}

bool pipeline::revalidate_some(uint64_t now_ns) {
  const uint32_t wanted = shared_.revalidation.load(std::memory_order_acquire);
  if (revalidating_ != wanted) {
    revalidating_ = wanted;
    revalidate_at_ = 0;
    revalidation_began_ns_ = 0;
  }
  if (revalidate_at_ == session_none) return false;
  now_ns_ = now_ns;
  now_ticks_ = ticks_of_ns(now_ns);
  snap_ = shared_.current.load(std::memory_order_acquire);
  if (!snap_ || static_cast<uint32_t>(snap_->generation) != wanted) return true;  // about to be swapped in
  if (!revalidation_began_ns_) revalidation_began_ns_ = now_ns;
  revalidate_at_ = shared_.sessions.each(worker_, revalidate_at_, revalidate_budget, [&](uint32_t index) {
    decision d;
    if (shared_.sessions.at(index).generation.load(std::memory_order_relaxed) != wanted) revalidate_session(index, &d);
  });
  if (revalidate_at_ == session_none) {
    if (shared_.going_through.fetch_sub(1, std::memory_order_acq_rel) == 1) shared_.close_revalidation(wanted);
    return false;
  }
  if (now_ns - revalidation_began_ns_ > revalidation_ns_max) shared_.close_revalidation(wanted);
  return true;
}

}  // namespace sluice
