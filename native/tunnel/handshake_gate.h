// SPDX-License-Identifier: Apache-2.0
// handshake_gate.h: what a handshake message must pass before TypeScript spends a curve operation on it (whitepaper section 5.3 and 5.4.4 to 5.4.7).
//
// Order: 1 type and length, 2 an answer's index is one that we gave out (both the table's, before judge()), 3 mac1 is for one of the interface's
// keys, 4 under load an initiation carries a valid mac2, else it may get a cookie reply, 5 the source has not had its share.
// An answer (types 2 and 3) needs no cookie: whoever is not on the path cannot know its index, which says as much about him as a cookie.
// Cookie replies have a rate of their own: sending them is what a flood costs most. Under load, what can get none is dropped before step 3. Sources that a peer was authentically heard from get theirs
// past that rate, so that running tunnels find their next session whatever strangers send.
//
// Threads: set_keys() is the main thread's; judge() any worker's, with its number; note_peer() any thread's. Load, buckets and the cookies'
// secret are shared.
// Bounds: handshake_sources of 8 bytes, known_sources of 4; two keys an interface. Nothing is allocated but when keys change.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"

namespace sluice {

class aead;

// Initiations with a right mac1 a second, from all sources, that are worked on without asking for cookies. Each costs TypeScript 1.3 ms, a peer's
// 4.5 ms (docs/internals/wireguard-handshakes.md): at this rate strangers take an eighth of a core; above it, nothing. 2,000 peers that all rekey
// each 120 s make 17.
inline constexpr unsigned handshake_load_per_second = 100;
inline constexpr uint64_t handshake_load_window_ns = 250'000'000;   // the second is looked at in quarters
inline constexpr uint64_t handshake_load_hold_ns = 1'000'000'000;   // load is over when this long no quarter was too full
inline constexpr uint64_t cookie_secret_ns = 120'000'000'000;       // whitepaper 5.4.7: two minutes
inline constexpr unsigned handshake_source_per_second = 20, handshake_source_burst = 5;
inline constexpr unsigned handshake_sources = 16384;                // IPv4 addresses and IPv6 /64s remembered at a time
inline constexpr unsigned cookie_replies_per_second = 5000;         // to sources that no peer is known at; a percent or two of a core
inline constexpr unsigned known_sources = 65536;                    // four for each peer that there can be
static_assert(known_sources >= 4 * SL_WIREGUARD_PEERS_MAX);
inline constexpr unsigned cookie_bytes = 16, mac_bytes = 16;
inline constexpr uint8_t gate_key_unknown = 0xff;

// What a message is by its first bytes and length: a wireguard_type, or 0: none.
uint8_t handshake_type(const uint8_t* message, uint32_t length);

struct gate_verdict {
  sl_drop_reason reason = SL_DROP_NONE;
  bool cookie = false;             // `reply` was written: a cookie reply to send back
  uint8_t key = gate_key_unknown;  // which static key mac1 is for; type 3 has no mac1
};

// A number of a source: an IPv4 address, or an IPv6 /64. Seeded, so that nobody chooses his neighbours in a table.
class source_hash {
 public:
  bool open();  // false: no random numbers
  uint64_t operator()(const sl_address& source) const;

 private:
  uint64_t seed_[2] = {};
};

// Sources' token buckets without locks: an entry is 16 bits of the source's hash and 48 bits of time in microseconds, when its bucket is full again.
class source_buckets {
 public:
  source_buckets() : entries_(new std::atomic<uint64_t>[handshake_sources]()) {}
  // Takes a token of the source. False: it has none, or no entry is free for it.
  bool take(uint64_t source, uint64_t now_ns);

 private:
  static constexpr unsigned ways = 4, sets = handshake_sources / ways;
  static_assert((sets & (sets - 1)) == 0);
  std::unique_ptr<std::atomic<uint64_t>[]> entries_;
};

class handshake_gate {
 public:
  explicit handshake_gate(unsigned workers);  // numbers 0..workers - 1
  ~handshake_gate();
  // Before anything else. False and a text when OpenSSL lacks what is needed.
  bool open(std::string* error);

  // Main thread. Replaces an interface's keys; none: it answers to nobody.
  void set_keys(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys);
  // A peer was authentically heard from there, or is configured to be there.
  void note_peer(const sl_address& source);
  // A message of handshake_type() 1 to 3 to an interface. cipher: the worker's; reply: wireguard_cookie_bytes.
  gate_verdict judge(unsigned worker, aead& cipher, uint32_t interface_id, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from,
                     uint64_t now_ns, uint8_t* reply);

 private:
  struct part;  // a worker's contexts
  struct interface_keys { unsigned count = 0; std::array<sl_wireguard_gate_key, 2> keys{}; };

  bool refresh(part& p, uint64_t now_ns);
  bool under_load(uint64_t now_ns);
  static bool cookie_of(part& p, const sl_wireguard_endpoint& from, uint8_t cookie[cookie_bytes]);
  static bool has_cookie(part& p, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from);
  bool is_loaded(uint64_t now_ns) const { return now_ns < loaded_until_ns_.load(std::memory_order_relaxed); }
  bool is_known(uint64_t source) const;
  bool ration_left(uint64_t now_ns) const;
  bool may_reply(uint64_t source, uint64_t now_ns);
  static bool write_reply(part& p, aead& cipher, const sl_wireguard_gate_key& key, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from,
                          uint8_t* into);

  std::vector<std::unique_ptr<part>> parts_;
  source_hash hash_;
  source_buckets buckets_, reply_buckets_;
  std::unique_ptr<std::atomic<uint32_t>[]> known_;     // by the source's hash: another part of it
  alignas(64) std::atomic<uint64_t> load_{0};          // number of the quarter << 24 | initiations in it
  std::atomic<uint64_t> loaded_until_ns_{0};
  std::atomic<uint64_t> replies_{0};                   // microsecond at which all of a second's replies can be sent again

  alignas(64) std::atomic<uint64_t> keys_version_{0};
  std::mutex mutex_;                                   // guards what follows
  std::unordered_map<uint32_t, interface_keys> keys_;
  std::array<uint8_t, 32> secret_{};
  uint64_t secret_period_ = 0;                         // of which 120 s the secret is, and one; 0: none yet
};

}  // namespace sluice
