// SPDX-License-Identifier: Apache-2.0
// wireguard_sides.h: two WireGuard tables that talk to each other, from memory, for tests, the fuzzer and the bench.
#pragma once
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "packet/bytes.h"
#include "policy/snapshot.h"
#include "tunnel/wireguard.h"

namespace sluice::testing {

inline constexpr uint64_t wireguard_now_ns = 1'000'000'000'000;

inline sl_address wireguard_ipv4(uint32_t host_order) {
  uint8_t four[4];
  store32(four, host_order);
  sl_address a;
  set_ipv4(a, four);
  return a;
}

inline sl_wireguard_endpoint wireguard_from(uint32_t ipv4, uint16_t port = 51820) {
  return {wireguard_ipv4(ipv4), wireguard_ipv4(0xc0000201), port, {}};
}

// A part of a snapshot: interface `id` with peers, each with one allowed IPv4 prefix.
struct wireguard_plan {
  snapshot snap;
  void interface(uint32_t id, uint16_t port) {
    sl_interface n{};
    n.id = id;
    n.kind = SL_INTERFACE_WIREGUARD;
    snap.interfaces.push_back(n);
    snap.wireguards.push_back({static_cast<uint16_t>(snap.interfaces.size() - 1), port, {static_cast<uint32_t>(snap.wireguard_peers.size()), 0}});
  }
  void peer(uint32_t id, const std::vector<sl_prefix>& allowed) {
    snap.wireguard_peers.push_back({id, 0, {static_cast<uint32_t>(snap.prefixes.size()), static_cast<uint32_t>(allowed.size())}});
    snap.prefixes.insert(snap.prefixes.end(), allowed.begin(), allowed.end());
    ++snap.wireguards.back().peers.count;
  }
};

inline sl_prefix wireguard_prefix(uint32_t ipv4, unsigned length) { return {wireguard_ipv4(ipv4), static_cast<uint8_t>(96 + length), {}}; }

// One end: a table with interface 1 on port 51820 and peers 100, 101, …
struct wireguard_side {
  epochs epoch;
  std::unique_ptr<wireguard_table> table;
  std::unique_ptr<const wireguard_routes> routes;

  explicit wireguard_side(unsigned workers = 1, unsigned peers = 1) {
    epoch.set_workers(workers);
    std::string error;
    table = wireguard_table::open(workers, &epoch, &error);
    wireguard_plan plan;
    plan.interface(1, 51820);
    for (unsigned i = 0; i < peers; ++i) plan.peer(100 + i, {wireguard_prefix(0x0a000000 + (i << 8), 24)});
    if (table) routes = table->apply(plan.snap, &error);
    if (!routes) {
      std::fprintf(stderr, "%s\n", error.c_str());
      std::abort();
    }
  }
  wireguard_peer& peer(uint32_t id = 100) { return *table->peer(table->slot_of(id)); }
  const wireguard_routes::tunnel& tunnel() { return routes->tunnels()[0]; }
  wireguard_session* sending(uint32_t id = 100, uint64_t now_ns = wireguard_now_ns) { return peer(id).sending(now_ns); }

  std::vector<std::pair<sl_wireguard_event_record, std::vector<uint8_t>>> events() {
    std::vector<std::pair<sl_wireguard_event_record, std::vector<uint8_t>>> out;
    std::vector<uint8_t> buffer(1 << 16);
    while (const size_t bytes = table->events(buffer.data(), buffer.size())) {
      for (size_t at = 0; at < bytes;) {
        sl_wireguard_event_record r;
        std::memcpy(&r, buffer.data() + at, sizeof r);
        const uint8_t* message = buffer.data() + at + sizeof r;
        out.emplace_back(r, std::vector<uint8_t>(message, message + r.message_bytes));
        at += r.record_bytes;
      }
    }
    return out;
  }
};

// What a handshake between the two would have given: `a` initiated. Both know the peer as `id`; `seed` makes other keys.
struct wireguard_handshake { sl_wireguard_keypair a, b; };
inline wireguard_handshake wireguard_keys(wireguard_side& a, wireguard_side& b, uint8_t seed = 1, uint32_t id = 100, uint64_t now_ns = wireguard_now_ns) {
  wireguard_handshake h{};
  h.a.peer_id = h.b.peer_id = id;
  h.a.initiator = 1;
  h.a.created_ns = h.b.created_ns = now_ns;
  h.a.local_index = h.b.remote_index = a.table->index(now_ns);
  h.b.local_index = h.a.remote_index = b.table->index(now_ns);
  std::memset(h.a.send_key, seed, 32);
  std::memset(h.a.receive_key, seed + 100, 32);
  std::memcpy(h.b.receive_key, h.a.send_key, 32);
  std::memcpy(h.b.send_key, h.a.receive_key, 32);
  return h;
}
inline bool wireguard_connect(wireguard_side& a, wireguard_side& b, uint8_t seed = 1, uint32_t id = 100, uint64_t now_ns = wireguard_now_ns) {
  wireguard_handshake h = wireguard_keys(a, b, seed, id, now_ns);
  std::string error;
  return b.table->install(&h.b, now_ns, &error) && a.table->install(&h.a, now_ns, &error);
}

// A buffer with room in front and behind, and exactly so much: a sanitizer sees what writes past it.
struct wireguard_buffer {
  std::vector<uint8_t> bytes;
  uint32_t length;
  explicit wireguard_buffer(uint32_t length_, uint8_t fill = 0x5a, uint32_t mtu_bytes = 1420)
      : bytes(wireguard_overhead_bytes + wireguard_padded(length_, mtu_bytes), fill), length(length_) {}
  uint8_t* packet() { return bytes.data() + wireguard_header_bytes; }
  seal_item sealing(wireguard_session* s, uint32_t mtu_bytes = 1420) { return {packet(), length, mtu_bytes, s, nullptr, 0}; }
};

inline std::vector<uint8_t> wireguard_sealed(wireguard_side& side, wireguard_session* s, uint32_t length, uint8_t fill = 0x5a, uint64_t now_ns = wireguard_now_ns) {
  wireguard_buffer b(length, fill);
  seal_item item = b.sealing(s);
  side.table->seal(0, {&item, 1}, now_ns);
  return {item.message, item.message + item.message_bytes};
}

// Opens a copy. The copy is as long as the message, no byte more.
struct wireguard_opened { open_item item; std::vector<uint8_t> copy; };
inline wireguard_opened wireguard_open(wireguard_side& side, const std::vector<uint8_t>& message, uint64_t now_ns = wireguard_now_ns,
                                       const sl_wireguard_endpoint& from = wireguard_from(0xc6336401)) {
  wireguard_opened o{{}, message};
  o.item.message = o.copy.data();
  o.item.length = static_cast<uint32_t>(o.copy.size());
  o.item.from = from;
  side.table->open(0, {&o.item, 1}, now_ns);
  return o;
}

// ---- handshake messages ------------------------------------------------------------------------------------------------------------------

// The protocol's Mac(): BLAKE2s-128 with a key. By OpenSSL directly.
inline std::vector<uint8_t> wireguard_mac(const uint8_t* key, size_t key_bytes, const uint8_t* data, size_t bytes) {
  EVP_MAC* const kind = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
  EVP_MAC_CTX* const c = EVP_MAC_CTX_new(kind);
  size_t size = 16, written;
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
  std::vector<uint8_t> out(16);
  if (!EVP_MAC_init(c, key, key_bytes, parameters) || !EVP_MAC_update(c, data, bytes) || !EVP_MAC_final(c, out.data(), &written, out.size())) std::abort();
  EVP_MAC_CTX_free(c);
  EVP_MAC_free(kind);
  return out;
}

// Type 1 or 2, with anything inside, and the MACs that it should have. receiver: of type 2.
inline std::vector<uint8_t> wireguard_handshake_message(uint8_t type, uint32_t receiver, const sl_wireguard_gate_key& key, const std::vector<uint8_t>& cookie = {}) {
  std::vector<uint8_t> m(type == wireguard_initiation ? wireguard_initiation_bytes : wireguard_response_bytes, 0x33);
  store32_raw(m.data(), type);
  store32_raw(m.data() + 4, 0xabcd0123);
  if (type == wireguard_response) store32_raw(m.data() + 8, receiver);
  std::fill(m.end() - 32, m.end(), 0);
  const auto mac1 = wireguard_mac(key.mac1_key, 32, m.data(), m.size() - 32);
  std::copy(mac1.begin(), mac1.end(), m.end() - 32);
  if (!cookie.empty()) {
    const auto mac2 = wireguard_mac(cookie.data(), cookie.size(), m.data(), m.size() - 16);
    std::copy(mac2.begin(), mac2.end(), m.end() - 16);
  }
  return m;
}

}  // namespace sluice::testing
