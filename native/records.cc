// SPDX-License-Identifier: Apache-2.0
// records.cc: what is told of packets and sessions. Part of `pipeline`: drops, counted and with a record; records of sessions; copies for
// captures. Nobody is waited for: what finds no room in its ring is counted as lost.
#include "pipeline.h"

namespace sluice {

// ---- drops -----------------------------------------------------------------------------------------------------------

void pipeline::drop(packet& p, sl_drop_reason reason, const drop_cause& cause, bool record_it) {
  bump(counters_.drop[reason]);
  fate_.dropped = reason;
  // Counters are exact; records are sampled so that a flood of drops costs little.
  constexpr uint64_t per_record_ns = 1'000'000'000 / drop_records_per_second_max, burst_ns = 100'000'000;
  if (drop_tokens_ns_ + burst_ns < now_ns_) drop_tokens_ns_ = now_ns_ - burst_ns;
  if (record_it && drop_tokens_ns_ + per_record_ns > now_ns_) {
    counters_.add(SL_COUNTER_DROP_RECORDS_SAMPLED);
  } else if (record_it) {
    drop_tokens_ns_ += per_record_ns;
    if (sl_drop_record* record = drop_records_.reserve()) {
      fill_drop(p, cause, record);
      record->reason = static_cast<uint8_t>(reason);
      drop_records_.commit();
    } else {
      counters_.add(SL_COUNTER_RECORDS_LOST);
    }
  }
  free_frame(p);
}

namespace {

// As what a packet of a session leaves. An ICMP error about one has addresses of the session's, and no ports (see rewrite_icmp_error).
flow_key leaves_as(const packet& p, const session& s, unsigned direction) {
  flow_key to = reversed(s.key(1 - direction));
  if (p.flags & packet_icmp_error) {
    if (equal(s.key(direction).src, to.src)) to.src = p.key.src;
    to.src_port = to.dst_port = 0;
  } else if (!p.has_l4()) {
    to.src_port = to.dst_port = 0;
  }
  return to;
}

}  // namespace

void pipeline::fill_drop(const packet& p, const drop_cause& cause, sl_drop_record* out) const {
  auto id_of = [this](unsigned slot) { return slot < interface_slots ? shared_.interfaces[slot].id.load(std::memory_order_relaxed) : 0; };
  *out = {};
  out->time_ns = now_ns_ + static_cast<uint64_t>(shared_.wall_offset_ns.load(std::memory_order_relaxed));
  flow_key to = p.key;
  if (const session* s = cause.of) {
    to = leaves_as(p, *s, cause.direction);
    const uint8_t flags = s->flags.load(std::memory_order_relaxed);
    if (flags & session_destination_nat) out->nat_destination_id = shared_.mappings.destination_rule_of(*s);
    if (const uint32_t own = mappings_of(*s).originator; own != mapping_none && !(flags & session_ended)) out->nat_source_id = shared_.mappings.rule_of(own);
    out->to_interface = id_of(s->interface_slot[1 - cause.direction]);
  } else if (const decision* d = cause.decided) {
    to = d->translated;
    if (d->destination_rule) out->nat_destination_id = d->destination_rule->id;
    else if (d->inbound_mapping != mapping_none && d->reason != SL_DROP_NAT_FILTERED) out->nat_destination_id = shared_.mappings.rule_of(d->inbound_mapping);
    // Of source NAT the address is known when it is static; a port is taken with the session.
    if (d->source_rule && d->source_rule->kind == SL_NAT_STATIC) {
      to.src = d->static_source;
      out->nat_source_id = d->source_rule->id;
    }
    if (d->to != index_none) out->to_interface = snap_->interfaces[d->to].id;
  }
  out->src = p.key.src;
  out->dst = p.key.dst;
  out->nat_src = to.src;
  out->nat_dst = to.dst;
  out->src_port = p.key.src_port;
  out->dst_port = p.key.dst_port;
  out->nat_src_port = to.src_port;
  out->nat_dst_port = to.dst_port;
  out->rule_id = cause.rule_id;
  out->interface = id_of(p.interface_slot);
  out->bytes = static_cast<uint16_t>(p.length);
  out->protocol = p.key.protocol;
  // Read from the packet: the parser may have refused it before it came to its flags.
  if (p.key.protocol == protocol_tcp && p.has_l4() && p.l4_offset + 14u <= p.l3_offset + unsigned{p.l3_length}) {
    out->tcp_flags = p.l4()[13];
    out->tcp_flags_known = 1;
  }
}

// ---- sessions --------------------------------------------------------------------------------------------------------

void pipeline::fill_record(dataplane& shared, const snapshot* snap, const session& s, uint32_t index, uint64_t now_ns, sl_flow_record* out) {
  *out = {};
  const uint64_t offset = static_cast<uint64_t>(shared.wall_offset_ns.load(std::memory_order_relaxed));
  const flow_key responder = reversed(s.key1);
  out->session_id = static_cast<uint64_t>(s.incarnation) << 32 | index;
  out->start_ns = ns_of_ticks(s.start_ticks) + offset;
  uint32_t last = s.last_seen_ticks.load(std::memory_order_relaxed);
  out->last_ns = ns_of_ticks(last) + offset;
  for (unsigned d = 0; d < 2; ++d) {
    out->packets[d] = s.packets[d];
    out->bytes[d] = s.bytes[d];
    out->tcp_flags[d] = s.tcp_flags_seen[d];
  }
  out->src = s.key0.src;
  out->dst = s.key0.dst;
  out->nat_src = responder.src;
  out->nat_dst = responder.dst;
  out->src_port = s.key0.src_port;
  out->dst_port = s.key0.dst_port;
  out->nat_src_port = responder.src_port;
  out->nat_dst_port = responder.dst_port;
  out->rule_id = s.rule_id;
  out->nat_destination_id = shared.mappings.destination_rule_of(s);
  if (const uint32_t own = mappings_of(s).originator; own != mapping_none) out->nat_source_id = shared.mappings.rule_of(own);
  out->from_interface = shared.interfaces[s.interface_slot[0]].id.load(std::memory_order_relaxed);
  out->to_interface = shared.interfaces[s.interface_slot[1]].id.load(std::memory_order_relaxed);
  out->protocol = s.key0.protocol;
  out->state = s.state.load(std::memory_order_relaxed);
  out->event = SL_EVENT_UPDATE;
  if (!snap) return;
  if (const sl_interface* n = snap->interface_of_slot(s.interface_slot[0])) out->from_zone = n->zone;
  if (const sl_interface* n = snap->interface_of_slot(s.interface_slot[1])) out->to_zone = n->zone;
  uint32_t ends = last + ticks_of_s(idle_s(s, snap->settings)), now = ticks_of_ns(now_ns);
  out->expires_s = ends > now ? static_cast<uint32_t>(ns_of_ticks(ends - now) / 1'000'000'000) : 0;
}

void pipeline::record_flow(const session& s, uint32_t index, sl_flow_event event, sl_end_reason reason) {
  sl_flow_record* record = flow_records_.reserve();
  if (!record) { counters_.add(SL_COUNTER_RECORDS_LOST); return; }
  fill_record(shared_, snap_, s, index, now_ns_, record);
  record->event = static_cast<uint8_t>(event);
  record->end_reason = static_cast<uint8_t>(reason);
  flow_records_.commit();
}

// ---- captures --------------------------------------------------------------------------------------------------------

// What a packet became, and what was answered to it: from this place of output() on.
void pipeline::capture_sent(size_t from) {
  fate_ = {};
  for (; from < output_.size(); ++from) {
    const tx_item& item = output_[from];
    const uint8_t* frame = area_.at(item.address);
    if (item.port_slot >= SL_PORTS_MAX) continue;
    uint16_t vlan_id = load16(frame + 12) == ethertype::vlan ? load16(frame + 14) & 0xfff : SL_VLAN_NONE;
    capture_done(capture(frame, item.length, snap_->ports[item.port_slot].find(vlan_id), SL_CAPTURE_OUT, now_ns_));
  }
}

sl_captured* pipeline::capture(const uint8_t* frame, uint32_t length, unsigned interface_slot, uint8_t direction, uint64_t time_ns) {
  const uint32_t id = interface_slot < interface_slots ? shared_.interfaces[interface_slot].id.load(std::memory_order_relaxed) : 0;
  const uint8_t mask = captures_of(*captures_, frame, length, id, direction);
  if (!mask) return nullptr;
  unsigned snap = 0;
  for (unsigned i = 0; i < SL_CAPTURES_MAX; ++i) if (mask >> i & 1 && captures_->filters[i].snap_bytes > snap) snap = captures_->filters[i].snap_bytes;
  sl_captured* record = captured_.reserve(length < snap ? length : snap);
  if (!record) { counters_.add(SL_COUNTER_CAPTURES_LOST); return nullptr; }
  record->time_ns = time_ns + static_cast<uint64_t>(shared_.wall_offset_ns.load(std::memory_order_relaxed));
  record->interface = id;
  record->original_bytes = static_cast<uint16_t>(length);
  record->direction = direction;
  record->captures = mask;
  std::memcpy(record + 1, frame, record->bytes);
  return record;
}

// Some captures want what was dropped, some what was not.
void pipeline::capture_done(sl_captured* record) {
  if (!record || fate_.waits) return;
  record->reason = static_cast<uint8_t>(fate_.dropped);
  const uint8_t unwanted = fate_.dropped != SL_DROP_NONE ? SL_CAPTURE_NOT_DROPPED : SL_CAPTURE_DROPPED;
  for (unsigned i = 0; i < SL_CAPTURES_MAX; ++i) if (captures_->filters[i].flags & unwanted) record->captures &= static_cast<uint8_t>(~(1u << i));
  if (record->captures) captured_.commit(*record);
}

}  // namespace sluice
