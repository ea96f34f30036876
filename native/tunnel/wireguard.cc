// SPDX-License-Identifier: Apache-2.0
// wireguard.cc: the table of peers. Order: open and close, binding a snapshot, records. Sessions' lives: wireguard_sessions.cc; events and
// handshake messages: wireguard_events.cc; transport messages: wireguard_messages.cc.
#include "tunnel/wireguard.h"

#include "policy/snapshot.h"
#include "tunnel/handshake_gate.h"
#include "tunnel/wireguard_worker.h"

namespace sluice {

// ---- open, close -------------------------------------------------------------------------------------------------------------------------

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
  } else if (next_slot_.load(std::memory_order_relaxed) < slots_max) {
    slot = next_slot_.fetch_add(1, std::memory_order_relaxed);
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

}  // namespace sluice
