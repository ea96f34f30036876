// SPDX-License-Identifier: Apache-2.0
// wireguard_events.cc: what the main thread is told: notices about peers, and handshake messages that passed the gate.
#include <cstring>

#include "packet/bytes.h"
#include "tunnel/handshake_gate.h"
#include "tunnel/wireguard.h"
#include "tunnel/wireguard_worker.h"

namespace sluice {

void wireguard_table::tell() {
  if (!told_.exchange(true, std::memory_order_acq_rel) && on_event) on_event();
}

void wireguard_table::notice(unsigned worker, sl_wireguard_event what, const wireguard_peer& peer, const sl_wireguard_endpoint& from, uint64_t now_ns) {
  worker_part& part = *parts_[worker];
  sl_wireguard_event_record* const r = part.notices.reserve();
  if (!r) {
    bump(part.lost);
  } else {
    *r = {sizeof *r, peer.id, peer.interface_id, 0, static_cast<uint8_t>(what), 0, now_ns, from};
    part.notices.commit();
  }
  tell();
}

void wireguard_table::wanted(unsigned worker, wireguard_peer& peer, uint64_t now_ns) {
  uint64_t last = peer.wanted_ns.load(std::memory_order_relaxed);
  if (last && now_ns < last + wireguard_wanted_interval_ns) return;
  if (peer.wanted_ns.compare_exchange_strong(last, now_ns, std::memory_order_relaxed)) notice(worker, SL_WIREGUARD_WANTED, peer, {}, now_ns);
}

size_t wireguard_table::events(uint8_t* into, size_t bytes) {
  told_.store(false, std::memory_order_seq_cst);  // before looking: what comes from here on is told again
  size_t used = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    worker_part& part = *parts_[(events_first_ + i) % parts_.size()];
    sl_wireguard_event_record notice;
    while (bytes - used >= sizeof notice && part.notices.drain(&notice, 1)) {
      std::memcpy(into + used, &notice, sizeof notice);
      used += sizeof notice;
    }
    message_event message;
    while (bytes - used >= sizeof message && part.messages.drain(&message, 1)) {
      std::memcpy(into + used, &message, message.record.record_bytes);
      used += message.record.record_bytes;
    }
  }
  events_first_ = (events_first_ + 1) % parts_.size();
  return used;
}

uint64_t wireguard_table::events_lost() const {
  uint64_t sum = 0;
  for (const auto& part : parts_) sum += part->lost.load(std::memory_order_relaxed);
  return sum;
}

handshake_verdict wireguard_table::handshake(unsigned worker, const wireguard_routes::tunnel& tunnel, const uint8_t* message, uint32_t length,
                                             const sl_wireguard_endpoint& from, uint64_t now_ns, uint8_t reply[wireguard_cookie_bytes]) {
  const uint8_t type = handshake_type(message, length);
  if (!type) return {SL_DROP_WIREGUARD_MALFORMED};
  // An answer names our index: of a handshake under way, or with a cookie, of a response whose session stands already.
  if (type == wireguard_response && !index_is_out(load32_raw(message + 8))) return {SL_DROP_WIREGUARD_UNKNOWN_INDEX};
  if (type == wireguard_cookie && !index_is_out(load32_raw(message + 4)) && !session_of(load32_raw(message + 4))) return {SL_DROP_WIREGUARD_UNKNOWN_INDEX};
  const gate_verdict verdict = gate_->judge(worker, *parts_[worker]->cipher, tunnel.interface_id, message, length, from, now_ns, reply);
  if (verdict.reason != SL_DROP_NONE) return {verdict.reason, verdict.cookie};

  worker_part& part = *parts_[worker];
  message_event* const e = part.messages.reserve();
  if (!e) {
    bump(part.lost);
    tell();
    return {SL_DROP_WIREGUARD_HANDSHAKE_LIMIT};
  }
  const uint32_t padded = (length + 7) / 8 * 8;
  e->record = {static_cast<uint32_t>(sizeof e->record) + padded, 0, tunnel.interface_id, static_cast<uint16_t>(length), SL_WIREGUARD_MESSAGE, verdict.key, now_ns, from};
  std::memcpy(e->message, message, length);
  std::memset(e->message + length, 0, padded - length);
  part.messages.commit();
  tell();
  return {};
}

}  // namespace sluice
