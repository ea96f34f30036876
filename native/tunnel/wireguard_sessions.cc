// SPDX-License-Identifier: Apache-2.0
// wireguard_sessions.cc: sessions' lives: an index, keys, which session of a peer is which (whitepaper section 6.3), and the end.
#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <cstring>

#include "tunnel/wireguard.h"
#include "tunnel/wireguard_worker.h"

namespace sluice {

wireguard_session::~wireguard_session() {
  OPENSSL_cleanse(send_key, sizeof send_key);
  OPENSSL_cleanse(receive_key, sizeof receive_key);
}

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

}  // namespace sluice
