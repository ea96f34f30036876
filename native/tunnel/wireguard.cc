// SPDX-License-Identifier: Apache-2.0
// wireguard.cc: the table of peers and sessions, and messages in and out. Order: endpoint, binding a snapshot, sessions' lives, events, messages.
#include "tunnel/wireguard.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

#include "packet/bytes.h"
#include "policy/snapshot.h"
#include "tunnel/aead.h"
#include "tunnel/handshake_gate.h"

namespace sluice {

wireguard_session::~wireguard_session() {
  OPENSSL_cleanse(send_key, sizeof send_key);
  OPENSSL_cleanse(receive_key, sizeof receive_key);
}

// ---- endpoint ----------------------------------------------------------------------------------------------------------------------------

sl_wireguard_endpoint shared_endpoint::load(uint32_t* version) const {
  uint64_t copy[words];
  for (;;) {
    const uint32_t before = version_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < words; ++i) copy[i] = words_[i].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!(before & 1) && version_.load(std::memory_order_relaxed) == before) {
      if (version) *version = before;
      sl_wireguard_endpoint endpoint;
      std::memcpy(&endpoint, copy, sizeof endpoint);
      return endpoint;
    }
    __builtin_ia32_pause();
  }
}

// Torn reads say "differs": the caller then stores, which settles it.
bool shared_endpoint::equals(const sl_wireguard_endpoint& other) const {
  uint64_t wanted[words], differs = 0;
  std::memcpy(wanted, &other, sizeof wanted);
  for (unsigned i = 0; i < words; ++i) differs |= words_[i].load(std::memory_order_relaxed) ^ wanted[i];
  return differs == 0;
}

void shared_endpoint::store(const sl_wireguard_endpoint& endpoint) {
  uint64_t copy[words];
  std::memcpy(copy, &endpoint, sizeof copy);
  while (writing_.exchange(true, std::memory_order_acquire)) __builtin_ia32_pause();
  const uint32_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  for (unsigned i = 0; i < words; ++i) words_[i].store(copy[i], std::memory_order_relaxed);
  version_.store(version + 2, std::memory_order_release);
  writing_.store(false, std::memory_order_release);
}

// ---- the table ---------------------------------------------------------------------------------------------------------------------------

struct wireguard_table::worker_part {
  std::unique_ptr<aead> cipher;
  message_ring messages;
  notice_ring notices;
  std::atomic<uint64_t> lost{0};
};

wireguard_table::wireguard_table(unsigned workers, epochs* epochs)
    : workers_(workers), epochs_(epochs), peers_(new std::atomic<wireguard_peer*>[slots_max]()), places_(new index_place[index_places]),
      gate_(std::make_unique<handshake_gate>(workers + 1)) {}

std::unique_ptr<wireguard_table> wireguard_table::open(unsigned workers, epochs* epochs, std::string* error) {
  std::unique_ptr<wireguard_table> table(new wireguard_table(workers, epochs));
  if (!table->gate_->open(error)) return nullptr;
  for (unsigned w = 0; w <= workers; ++w) {
    auto part = std::make_unique<worker_part>();
    part->cipher = aead::open(error);
    if (!part->cipher) return nullptr;
    table->parts_.push_back(std::move(part));
  }
  return table;
}

wireguard_table::~wireguard_table() {
  for (const auto& [id, slot] : slots_) {
    wireguard_peer* const p = peers_[slot].load(std::memory_order_relaxed);
    end_sessions(*p);
    retire(p);
  }
  for (const retired& r : retired_) free_retired(r);
}

// ---- snapshots ---------------------------------------------------------------------------------------------------------------------------

std::unique_ptr<const wireguard_routes> wireguard_table::apply(const snapshot& snap, std::string* error) {
  reclaim();
  // Slots that the apply() before took away: the snapshot that named them was replaced since, and is out of use when the workers passed now.
  for (limbo& l : limbo_slots_) if (!l.epoch) l.epoch = epochs_->advance();
  std::erase_if(limbo_slots_, [&](const limbo& l) {
    if (!epochs_->passed(l.epoch)) return false;
    free_slots_.push_back(l.slot);
    return true;
  });

  auto routes = std::make_unique<wireguard_routes>();
  std::unordered_map<uint32_t, uint32_t> named;  // peer id → interface id
  for (const sl_wireguard& w : snap.wireguards) {
    wireguard_routes::tunnel tunnel;
    tunnel.interface_id = snap.interfaces[w.interface].id;
    tunnel.interface = w.interface;
    tunnel.listen_port = w.listen_port;
    std::vector<sl_prefix> prefixes;
    for (const sl_wireguard_peer& p : std::span(snap.wireguard_peers).subspan(w.peers.first, w.peers.count)) {
      const uint32_t slot = place_peer(p.id, tunnel.interface_id);
      if (slot == wireguard_peer_none) {
        *error = "WireGuard: too many peers were replaced at once; apply again in a second";
        return nullptr;
      }
      named.emplace(p.id, tunnel.interface_id);
      for (const sl_prefix& prefix : std::span(snap.prefixes).subspan(p.allowed_ips.first, p.allowed_ips.count)) {
        prefixes.push_back(prefix);
        tunnel.slots.push_back(slot);
      }
    }
    tunnel.allowed = lpm::build(prefixes, error);
    if (!tunnel.allowed) {
      *error = "WireGuard: allowed IPs: " + *error;
      return nullptr;
    }
    const auto place = static_cast<uint16_t>(routes->tunnels_.size());
    routes->by_port_[tunnel.listen_port] = place;
    routes->by_interface_[tunnel.interface] = place;
    routes->tunnels_.push_back(std::move(tunnel));
  }
  std::erase_if(slots_, [&](const auto& known) {
    if (named.contains(known.first)) return false;
    remove_peer(known.second);
    return true;
  });
  return routes;
}

// The slot of a peer, a new one if it has none; wireguard_peer_none when none is free.
uint32_t wireguard_table::place_peer(uint32_t id, uint32_t interface_id) {
  const auto known = slots_.find(id);
  if (known != slots_.end()) {
    if (peers_[known->second].load(std::memory_order_relaxed)->interface_id == interface_id) return known->second;
    remove_peer(known->second);  // another interface has other keys: nothing of it stays
    slots_.erase(known);
  }
  uint32_t slot;
  if (!free_slots_.empty()) {
    slot = free_slots_.back();
    free_slots_.pop_back();
  } else if (next_slot_ < slots_max) {
    slot = next_slot_++;
  } else {
    return wireguard_peer_none;
  }
  auto* const p = new wireguard_peer;
  p->id = id;
  p->interface_id = interface_id;
  p->slot = slot;
  peers_[slot].store(p, std::memory_order_release);
  slots_.emplace(id, slot);
  return slot;
}

void wireguard_table::remove_peer(uint32_t slot) {
  wireguard_peer* const p = peers_[slot].exchange(nullptr, std::memory_order_acq_rel);
  end_sessions(*p);
  retire(p);
  limbo_slots_.push_back({slot, 0});
}

wireguard_peer* wireguard_table::peer_of(uint32_t peer_id) const {
  const auto at = slots_.find(peer_id);
  return at == slots_.end() ? nullptr : peers_[at->second].load(std::memory_order_relaxed);
}

uint32_t wireguard_table::slot_of(uint32_t peer_id) const {
  const auto at = slots_.find(peer_id);
  return at == slots_.end() ? wireguard_peer_none : at->second;
}

bool wireguard_table::set_endpoint(uint32_t peer_id, const sl_wireguard_endpoint& endpoint) {
  wireguard_peer* const p = peer_of(peer_id);
  if (p) {
    p->endpoint.store(endpoint);
    gate_->note_peer(endpoint.address);
  }
  return p != nullptr;
}

bool wireguard_table::set_gate(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys, std::string* error) {
  if (keys.size() > gate_keys_max) {
    *error = "WireGuard: an interface answers to at most " + std::to_string(gate_keys_max) + " static keys, not " + std::to_string(keys.size());
    return false;
  }
  gate_->set_keys(interface_id, keys);
  return true;
}

std::vector<sl_wireguard_peer_record> wireguard_table::records() {
  reclaim();
  std::vector<sl_wireguard_peer_record> out;
  out.reserve(slots_.size());
  for (const auto& [id, slot] : slots_) {
    const wireguard_peer& p = *peers_[slot].load(std::memory_order_relaxed);
    sl_wireguard_peer_record r{};
    r.id = id;
    r.interface = p.interface_id;
    r.endpoint = p.endpoint.load();
    r.last_sent_ns = p.last_sent_ns.load(std::memory_order_relaxed);
    r.last_received_ns = p.last_received_ns.load(std::memory_order_relaxed);
    r.last_data_sent_ns = p.last_data_sent_ns.load(std::memory_order_relaxed);
    r.last_data_received_ns = p.last_data_received_ns.load(std::memory_order_relaxed);
    if (const wireguard_session* s = p.current.load(std::memory_order_acquire)) {
      r.current_created_ns = s->created_ns;
      r.current_sent = s->send_counter.load(std::memory_order_relaxed);
      r.current_initiator = s->initiator;
    }
    r.has_next = p.next.load(std::memory_order_relaxed) != nullptr;
    r.tx_packets = p.tx_packets.load(std::memory_order_relaxed);
    r.tx_bytes = p.tx_bytes.load(std::memory_order_relaxed);
    r.rx_packets = p.rx_packets.load(std::memory_order_relaxed);
    r.rx_bytes = p.rx_bytes.load(std::memory_order_relaxed);
    r.waiting = p.waiting.load(std::memory_order_relaxed);
    out.push_back(r);
  }
  return out;
}

// ---- sessions ----------------------------------------------------------------------------------------------------------------------------

uint32_t wireguard_table::index(uint64_t now_ns) {
  reclaim();
  while (!issued_.empty() && issued_.front().until_ns <= now_ns) {
    index_place& p = places_[issued_.front().index & (index_places - 1)];
    uint32_t unused = issued_.front().index;  // installed ones have left `out`, and come back when their session is freed
    if (p.out.compare_exchange_strong(unused, 0, std::memory_order_relaxed)) free_places_.push_back(issued_.front().index & (index_places - 1));
    issued_.pop_front();
  }
  uint32_t place;
  if (next_place_ < index_places) {
    place = next_place_++;
  } else if (!free_places_.empty()) {
    place = free_places_.front();  // the one that rested longest
    free_places_.pop_front();
  } else {
    return 0;
  }
  index_place& p = places_[place];
  uint32_t index;
  do {
    uint32_t random;
    if (RAND_bytes(reinterpret_cast<uint8_t*>(&random), sizeof random) != 1) {
      free_places_.push_back(place);
      return 0;
    }
    index = random << index_bits | place;
  } while (index == 0 || index == p.last);
  p.last = index;
  p.out.store(index, std::memory_order_relaxed);
  issued_.push_back({index, now_ns + wireguard_reject_after_ns});
  return index;
}

bool wireguard_table::index_is_out(uint32_t index) const {
  return index != 0 && places_[index & (index_places - 1)].out.load(std::memory_order_relaxed) == index;
}

wireguard_session* wireguard_table::session_of(uint32_t index) const {
  wireguard_session* const s = places_[index & (index_places - 1)].session.load(std::memory_order_acquire);
  return s && s->local_index == index ? s : nullptr;
}

bool wireguard_table::install(sl_wireguard_keypair* keypair, uint64_t now_ns, std::string* error) {
  reclaim();
  wireguard_peer* const p = peer_of(keypair->peer_id);
  bool taken = false;
  if (!p)
    *error = "WireGuard: a session for a peer that the forwarding state does not name";
  else if (!index_is_out(keypair->local_index))
    *error = "WireGuard: a session for an index that is not out: take one from wireguardIndex() for each handshake";
  else if (keypair->created_ns > now_ns + installed_ahead_ns || now_ns >= keypair->created_ns + wireguard_reject_after_ns)
    *error = "WireGuard: a session whose time is not now: created_ns is CLOCK_MONOTONIC";
  else
    taken = true;
  if (taken) {
    auto* const s = new wireguard_session;
    s->peer = p;
    s->local_index = keypair->local_index;
    s->remote_index = keypair->remote_index;
    s->created_ns = keypair->created_ns;
    s->initiator = keypair->initiator != 0;
    std::memcpy(s->send_key, keypair->send_key, sizeof s->send_key);
    std::memcpy(s->receive_key, keypair->receive_key, sizeof s->receive_key);
    index_place& place = places_[s->local_index & (index_places - 1)];
    std::lock_guard guard(p->mutex);
    if (s->initiator) {
      // The peer has it already. A session that the peer initiated meanwhile is one that it may send with, too.
      wireguard_session* const next = p->next.exchange(nullptr, std::memory_order_acq_rel);
      wireguard_session* const before = p->current.exchange(s, std::memory_order_acq_rel);
      if (next) {
        displace(*p, p->previous.exchange(next, std::memory_order_acq_rel));
        displace(*p, before);
      } else {
        displace(*p, p->previous.exchange(before, std::memory_order_acq_rel));
      }
    } else {
      displace(*p, p->next.exchange(s, std::memory_order_acq_rel));
    }
    place.out.store(0, std::memory_order_relaxed);
    place.session.store(s, std::memory_order_release);  // last: whoever finds it finds it in its place at the peer
  }
  OPENSSL_cleanse(keypair, sizeof *keypair);
  return taken;
}

// The first message of a session that we answered: the peer has it, so we send with it from here on.
bool wireguard_table::confirm(wireguard_session& s) {
  wireguard_peer& p = *s.peer;
  std::lock_guard guard(p.mutex);
  if (p.next.load(std::memory_order_relaxed) != &s) return false;
  wireguard_session* const before = p.current.exchange(&s, std::memory_order_acq_rel);
  p.next.store(nullptr, std::memory_order_relaxed);
  displace(p, p.previous.exchange(before, std::memory_order_acq_rel));
  return true;
}

// A session loses its place, but what the peer has sent with it may still be on its way. Under the peer's mutex.
void wireguard_table::displace(wireguard_peer& peer, wireguard_session* s) {
  if (!s) return;
  if (wireguard_session* const gone = peer.older.exchange(s, std::memory_order_acq_rel)) retire(gone);
}

void wireguard_table::end_sessions(wireguard_peer& peer) {
  std::lock_guard guard(peer.mutex);
  for (auto* place : {&peer.current, &peer.previous, &peer.next, &peer.older})
    if (wireguard_session* const s = place->exchange(nullptr, std::memory_order_acq_rel)) retire(s);
}

bool wireguard_table::forget(uint32_t peer_id) {
  wireguard_peer* const p = peer_of(peer_id);
  if (p) end_sessions(*p);
  reclaim();
  return p != nullptr;
}

void wireguard_table::retire(wireguard_session* s) {
  places_[s->local_index & (index_places - 1)].session.store(nullptr, std::memory_order_release);
  std::lock_guard guard(retired_mutex_);
  retired_.push_back({s, nullptr, epochs_->advance()});
}

void wireguard_table::retire(wireguard_peer* p) {
  std::lock_guard guard(retired_mutex_);
  retired_.push_back({nullptr, p, epochs_->advance()});
}

void wireguard_table::reclaim() {
  std::lock_guard guard(retired_mutex_);
  std::erase_if(retired_, [&](const retired& r) {
    if (!epochs_->passed(r.epoch)) return false;
    free_retired(r);
    return true;
  });
}

void wireguard_table::free_retired(const retired& r) {
  if (r.session) free_places_.push_back(r.session->local_index & (index_places - 1));
  delete r.session;
  delete r.peer;
}

// ---- events ------------------------------------------------------------------------------------------------------------------------------

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

// ---- messages ----------------------------------------------------------------------------------------------------------------------------

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

}  // namespace sluice
