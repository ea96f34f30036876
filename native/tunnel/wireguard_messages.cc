// SPDX-License-Identifier: Apache-2.0
// wireguard_messages.cc: transport messages sealed and opened in place, a run of one session's at a time.
#include <algorithm>
#include <cstring>

#include "packet/bytes.h"
#include "tunnel/handshake_gate.h"
#include "tunnel/wireguard.h"
#include "tunnel/wireguard_worker.h"

namespace sluice {

namespace {

// A time that several workers write: the latest wins, as near as matters.
void note_time(std::atomic<uint64_t>& at, uint64_t now_ns) {
  if (at.load(std::memory_order_relaxed) < now_ns) at.store(now_ns, std::memory_order_relaxed);
}

// What a run of messages of one peer adds to its counters: one locked instruction a counter and run, not a message.
struct run_totals { uint64_t packets = 0, bytes = 0; bool data = false; };

void add_sent(wireguard_peer& p, const run_totals& run, uint64_t now_ns) {
  if (!run.packets) return;
  p.tx_packets.fetch_add(run.packets, std::memory_order_relaxed);
  p.tx_bytes.fetch_add(run.bytes, std::memory_order_relaxed);
  note_time(p.last_sent_ns, now_ns);
  if (run.data) note_time(p.last_data_sent_ns, now_ns);
}

void add_received(wireguard_peer& p, const run_totals& run, uint64_t now_ns) {
  if (!run.packets) return;
  p.rx_packets.fetch_add(run.packets, std::memory_order_relaxed);
  p.rx_bytes.fetch_add(run.bytes, std::memory_order_relaxed);
  note_time(p.last_received_ns, now_ns);
  if (run.data) note_time(p.last_data_received_ns, now_ns);
}

}  // namespace

void wireguard_table::seal(unsigned worker, std::span<seal_item> items, uint64_t now_ns) {
  for (size_t at = 0; at < items.size();) {
    wireguard_session& s = *items[at].session;
    size_t end = at + 1;
    while (end < items.size() && end - at < wireguard_batch_max && items[end].session == &s) ++end;
    seal_run(*parts_[worker]->cipher, s, items.subspan(at, end - at), now_ns);
    at = end;
  }
}

// Messages of one session: their counters are taken at once, in the order in which they will be sent.
void wireguard_table::seal_run(aead& cipher, wireguard_session& s, std::span<seal_item> items, uint64_t now_ns) {
  // Looked at before it is added to, so that no number of tries brings it round: see the static_assert at wireguard_batch_max.
  const bool room = s.usable(now_ns);
  uint64_t counter = room ? s.send_counter.fetch_add(items.size(), std::memory_order_relaxed) : wireguard_reject_after_messages;
  aead_item work[wireguard_batch_max];
  unsigned count = 0;
  run_totals run;
  for (seal_item& item : items) {
    item.message = item.packet - wireguard_header_bytes;
    item.message_bytes = 0;
    if (counter >= wireguard_reject_after_messages) continue;
    const uint32_t padded = wireguard_padded(item.length, item.mtu_bytes);
    std::memset(item.packet + item.length, 0, padded - item.length);
    store32_raw(item.message, wireguard_transport);
    store32_raw(item.message + 4, s.remote_index);
    store64_raw(item.message + 8, counter);
    item.message_bytes = wireguard_overhead_bytes + padded;
    run.packets += 1;
    run.bytes += item.message_bytes;
    run.data |= item.length != 0;
    aead_item& w = work[count++];
    w.text = item.packet;
    w.bytes = padded;
    w.key = s.send_key;
    w.set_counter(counter++);
  }
  cipher.seal(std::span(work, count));
  add_sent(*s.peer, run, now_ns);
}

void wireguard_table::open(unsigned worker, std::span<open_item> items, uint64_t now_ns) {
  for (size_t at = 0; at < items.size(); at += wireguard_batch_max) open_batch(worker, items.subspan(at, std::min<size_t>(wireguard_batch_max, items.size() - at)), now_ns);
}

void wireguard_table::open_batch(unsigned worker, std::span<open_item> items, uint64_t now_ns) {
  // 1. What can be told without a key.
  aead_item work[wireguard_batch_max];
  wireguard_session* sessions[wireguard_batch_max];
  unsigned count = 0;
  for (open_item& item : items) {
    item.packet = nullptr;
    item.packet_bytes = 0;
    item.peer = nullptr;
    item.confirmed = false;
    item.reason = SL_DROP_NONE;
    if (item.length < wireguard_overhead_bytes || load32_raw(item.message) != wireguard_transport) {
      item.reason = SL_DROP_WIREGUARD_MALFORMED;
      continue;
    }
    wireguard_session* const s = session_of(load32_raw(item.message + 4));
    const uint64_t counter = load64_raw(item.message + 8);
    if (!s || s->expired(now_ns)) {
      item.reason = SL_DROP_WIREGUARD_UNKNOWN_INDEX;
      continue;
    }
    if (counter >= wireguard_reject_after_messages || !s->received.may_accept(counter)) {
      item.reason = SL_DROP_WIREGUARD_REPLAY;
      continue;
    }
    sessions[count] = s;
    aead_item& w = work[count++];
    w.text = item.message + wireguard_header_bytes;
    w.bytes = item.length - wireguard_overhead_bytes;
    w.key = s->receive_key;
    w.set_counter(counter);
  }
  // 2. Decrypt.
  parts_[worker]->cipher->open(std::span(work, count));
  // 3. Only what authenticated changes anything.
  run_totals run;
  wireguard_peer* run_peer = nullptr;
  unsigned next = 0;
  for (open_item& item : items) {
    if (item.reason != SL_DROP_NONE) continue;
    wireguard_session& s = *sessions[next];
    const aead_item& w = work[next++];
    if (!w.ok) {
      item.reason = SL_DROP_WIREGUARD_AUTHENTICATION;
      continue;
    }
    if (!s.received.accept(load64_raw(item.message + 8))) {
      item.reason = SL_DROP_WIREGUARD_REPLAY;
      continue;
    }
    wireguard_peer& p = *s.peer;
    if (&p != run_peer) {
      if (run_peer) add_received(*run_peer, run, now_ns);
      run = {};
      run_peer = &p;
    }
    run.packets += 1;
    run.bytes += item.length;
    run.data |= w.bytes != 0;
    item.peer = &p;
    item.packet = w.text;
    item.packet_bytes = w.bytes;
    if (p.next.load(std::memory_order_relaxed) == &s && confirm(s)) {
      item.confirmed = true;
      notice(worker, SL_WIREGUARD_CONFIRMED, p, item.from, now_ns);
    }
    if (!p.endpoint.equals(item.from)) {
      p.endpoint.store(item.from);
      gate_->note_peer(item.from.address);
      notice(worker, SL_WIREGUARD_ROAMED, p, item.from, now_ns);
    }
  }
  if (run_peer) add_received(*run_peer, run, now_ns);
}

// The receiver's index is random, and the counter one that we used lately: who is not on the way knows neither.
wireguard_peer* wireguard_table::sent_to(const sl_address& address, uint16_t port, const uint8_t* message) const {
  if (load32_raw(message) != wireguard_transport) return nullptr;
  const uint32_t index = load32_raw(message + 4);
  const uint64_t counter = load64_raw(message + 8);
  const uint32_t slots = next_slot_.load(std::memory_order_relaxed);
  for (uint32_t slot = 0; slot < slots; ++slot) {
    wireguard_peer* const p = peer(slot);
    if (!p) continue;
    const sl_wireguard_endpoint there = p->endpoint.load();
    if (there.port != port || !equal(there.address, address)) continue;
    for (const auto* place : {&p->current, &p->previous, &p->next, &p->older}) {
      const wireguard_session* const s = place->load(std::memory_order_acquire);
      if (!s || s->remote_index != index) continue;
      const uint64_t sent = s->send_counter.load(std::memory_order_relaxed);
      if (counter < sent && sent - counter <= wireguard_quoted_messages) return p;
    }
  }
  return nullptr;
}

}  // namespace sluice
