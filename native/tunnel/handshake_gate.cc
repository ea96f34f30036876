// SPDX-License-Identifier: Apache-2.0
// handshake_gate.cc: BLAKE2s and XChaCha20-Poly1305 around handshake messages, load, and sources' buckets. Order: tables, then judge()'s steps.
#include "tunnel/handshake_gate.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

#include "packet/bytes.h"
#include "tunnel/aead.h"
#include "tunnel/wireguard.h"

namespace sluice {

uint8_t handshake_type(const uint8_t* message, uint32_t length) {
  if (length < 4) return 0;
  const uint32_t type = load32_raw(message);  // its three reserved bytes are zero
  const bool right = (type == wireguard_initiation && length == wireguard_initiation_bytes) || (type == wireguard_response && length == wireguard_response_bytes) ||
                     (type == wireguard_cookie && length == wireguard_cookie_bytes);
  return right ? static_cast<uint8_t>(type) : 0;
}

// ---- sources -----------------------------------------------------------------------------------------------------------------------------

bool source_hash::open() { return RAND_bytes(reinterpret_cast<uint8_t*>(seed_), sizeof seed_) == 1; }

uint64_t source_hash::operator()(const sl_address& source) const {
  const bool whole = is_ipv4(source);
  const auto mixed = static_cast<unsigned __int128>(load64_raw(source.bytes) ^ seed_[0]) * ((whole ? load64_raw(source.bytes + 8) : 0) ^ seed_[1]);
  const auto folded = static_cast<uint64_t>(mixed) ^ static_cast<uint64_t>(mixed >> 64);
  const auto again = static_cast<unsigned __int128>(folded ^ seed_[1]) * (seed_[0] | 1);
  return static_cast<uint64_t>(again) ^ static_cast<uint64_t>(again >> 64);
}

namespace {

constexpr uint64_t us_per_second = 1'000'000;
constexpr uint64_t token_us = us_per_second / handshake_source_per_second;
constexpr uint64_t time_mask = (uint64_t{1} << 48) - 1;  // nine years of microseconds

}  // namespace

// A bucket by the time at which it is full again (the generic cell rate algorithm): a message is in order when that is less than a burst ahead,
// and puts it one token further. An entry whose time has come is as good as none.
bool source_buckets::take(uint64_t source, uint64_t now_ns) {
  const uint64_t now_us = now_ns / 1000, tag = source >> 48;
  std::atomic<uint64_t>* const set = &entries_[source % sets * ways];
  for (;;) {
    std::atomic<uint64_t>* at = nullptr;
    uint64_t found = 0, full_us = now_us;
    for (unsigned i = 0; i < ways; ++i) {
      const uint64_t entry = set[i].load(std::memory_order_relaxed), until_us = entry & time_mask;
      if (entry >> 48 == tag && until_us > now_us) {
        at = &set[i];
        found = entry;
        full_us = until_us;
        break;
      }
      if (!at && until_us <= now_us) {
        at = &set[i];
        found = entry;
      }
    }
    if (!at || full_us > now_us + (handshake_source_burst - 1) * token_us) return false;
    if (at->compare_exchange_weak(found, tag << 48 | (full_us + token_us), std::memory_order_relaxed)) return true;
  }
}

void handshake_gate::note_peer(const sl_address& source) {
  if (is_unspecified(source)) return;
  const uint64_t hash = hash_(source);
  known_[hash % known_sources].store(static_cast<uint32_t>(hash >> 32) | 1, std::memory_order_relaxed);
}

// ---- a worker's contexts -----------------------------------------------------------------------------------------------------------------

namespace {

// BLAKE2s-128 with a key, the protocol's Mac(). One thread; the context keeps the key. False: OpenSSL could not.
class keyed_blake2s {
 public:
  bool open() {
    EVP_MAC* const mac = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
    context_.reset(mac ? EVP_MAC_CTX_new(mac) : nullptr);
    EVP_MAC_free(mac);
    size_t bytes = mac_bytes;
    const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &bytes), OSSL_PARAM_construct_end()};
    return context_ && EVP_MAC_CTX_set_params(context_.get(), parameters) == 1;
  }
  bool set_key(const uint8_t* key, size_t bytes) { return EVP_MAC_init(context_.get(), key, bytes, nullptr) == 1; }
  bool compute(const uint8_t* data, size_t bytes, uint8_t out[mac_bytes]) const {
    size_t written = 0;
    EVP_MAC_CTX* const c = context_.get();
    return EVP_MAC_init(c, nullptr, 0, nullptr) == 1 && EVP_MAC_update(c, data, bytes) == 1 && EVP_MAC_final(c, out, &written, mac_bytes) == 1 && written == mac_bytes;
  }
  bool matches(const uint8_t* data, size_t bytes, const uint8_t mac[mac_bytes]) const {
    uint8_t right[mac_bytes];
    return compute(data, bytes, right) && CRYPTO_memcmp(right, mac, mac_bytes) == 0;
  }

 private:
  struct free_context { void operator()(EVP_MAC_CTX* c) const { EVP_MAC_CTX_free(c); } };
  std::unique_ptr<EVP_MAC_CTX, free_context> context_;
};

constexpr unsigned nonces_at_once = 64;  // random bytes are cheaper by the kilobyte

// Offsets, section 5.4: the sender's index stands behind the type; initiation and response end in mac1 and mac2, each of what stands before it.
constexpr unsigned sender_offset = 4;
constexpr uint32_t mac1_offset(uint32_t length) { return length - 2 * mac_bytes; }
constexpr uint32_t mac2_offset(uint32_t length) { return length - mac_bytes; }
bool has_mac2(const uint8_t* message, uint32_t length) { return (load64_raw(message + mac2_offset(length)) | load64_raw(message + mac2_offset(length) + 8)) != 0; }

}  // namespace

struct handshake_gate::part {
  struct answering { unsigned count = 0; std::array<sl_wireguard_gate_key, 2> keys{}; keyed_blake2s mac1[2]; };
  uint64_t keys_version = 0, secret_period = 0;
  std::unordered_map<uint32_t, answering> interfaces;  // by id
  keyed_blake2s secret, mac2;
  uint8_t nonces[nonces_at_once][aead_extended_nonce_bytes];
  unsigned nonces_left = 0;
};

handshake_gate::handshake_gate(unsigned workers) : known_(new std::atomic<uint32_t>[known_sources]()) {
  for (unsigned w = 0; w < workers; ++w) parts_.push_back(std::make_unique<part>());
}

handshake_gate::~handshake_gate() { OPENSSL_cleanse(secret_.data(), secret_.size()); }

bool handshake_gate::open(std::string* error) {
  bool opened = hash_.open();
  for (auto& p : parts_) opened = opened && p->secret.open() && p->mac2.open();
  if (!opened) *error = "WireGuard: OpenSSL gives no BLAKE2s or no random numbers; a configuration of it (openssl.cnf) may have switched its default provider off";
  return opened;
}

void handshake_gate::set_keys(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys) {
  std::lock_guard guard(mutex_);
  interface_keys& known = keys_[interface_id];
  known.count = static_cast<unsigned>(std::min(keys.size(), known.keys.size()));
  std::copy_n(keys.begin(), known.count, known.keys.begin());
  keys_version_.fetch_add(1, std::memory_order_release);
}

// Takes over keys that changed, and the secret when its time is over.
bool handshake_gate::refresh(part& p, uint64_t now_ns) {
  const uint64_t period = now_ns / cookie_secret_ns + 1;
  if (p.keys_version == keys_version_.load(std::memory_order_acquire) && p.secret_period == period) return true;
  std::lock_guard guard(mutex_);
  if (p.keys_version != keys_version_.load(std::memory_order_relaxed)) {
    p.interfaces.clear();
    for (const auto& [id, known] : keys_) {
      part::answering& a = p.interfaces[id];
      a.keys = known.keys;
      for (; a.count < known.count; ++a.count)
        if (!a.mac1[a.count].open() || !a.mac1[a.count].set_key(known.keys[a.count].mac1_key, sizeof known.keys[a.count].mac1_key)) return false;
    }
    p.keys_version = keys_version_.load(std::memory_order_relaxed);
  }
  if (secret_period_ < period) {  // the first worker whose clock says so
    if (RAND_bytes(secret_.data(), static_cast<int>(secret_.size())) != 1) return false;
    secret_period_ = period;
  }
  if (p.secret_period == secret_period_) return true;
  if (!p.secret.set_key(secret_.data(), secret_.size())) return false;
  p.secret_period = secret_period_;
  return true;
}

// ---- a message ---------------------------------------------------------------------------------------------------------------------------

gate_verdict handshake_gate::judge(unsigned worker, aead& cipher, uint32_t interface_id, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from,
                                   uint64_t now_ns, uint8_t* reply) {
  part& p = *parts_[worker];
  if (!refresh(p, now_ns)) return {SL_DROP_WIREGUARD_HANDSHAKE_LIMIT};
  const auto at = p.interfaces.find(interface_id);
  if (at == p.interfaces.end() || at->second.count == 0) return {SL_DROP_WIREGUARD_HANDSHAKE_MAC};
  const part::answering& us = at->second;

  gate_verdict verdict;
  const uint64_t source = hash_(from.address);
  // In a flood most messages come to nothing whatever their mac1 is: from a stranger, without a cookie, and with no reply left to give. Not even it is looked at.
  if (message[0] == wireguard_initiation && is_loaded(now_ns) && !has_mac2(message, length) && !is_known(source) && !ration_left(now_ns))
    return {SL_DROP_WIREGUARD_HANDSHAKE_LIMIT};
  if (message[0] != wireguard_cookie) {
    unsigned key = 0;
    while (key < us.count && !us.mac1[key].matches(message, mac1_offset(length), message + mac1_offset(length))) ++key;
    if (key == us.count) return {SL_DROP_WIREGUARD_HANDSHAKE_MAC};
    verdict.key = static_cast<uint8_t>(key);
  }
  if (message[0] == wireguard_initiation && under_load(now_ns) && !has_cookie(p, message, length, from)) {
    verdict.reason = SL_DROP_WIREGUARD_HANDSHAKE_LIMIT;
    verdict.cookie = may_reply(source, now_ns) && write_reply(p, cipher, us.keys[verdict.key], message, length, from, reply);
    return verdict;
  }
  if (!buckets_.take(source, now_ns)) verdict.reason = SL_DROP_WIREGUARD_HANDSHAKE_LIMIT;
  return verdict;
}

// Counts an initiation. Those that come without a cookie count too: while they come, it is load.
bool handshake_gate::under_load(uint64_t now_ns) {
  constexpr unsigned count_bits = 24;
  constexpr uint64_t limit = handshake_load_per_second * handshake_load_window_ns / 1'000'000'000;
  const uint64_t window = now_ns / handshake_load_window_ns;
  uint64_t was = load_.load(std::memory_order_relaxed), is;
  do {
    const bool same = was >> count_bits == window;
    if (same && (was & ((1u << count_bits) - 1)) > limit) {  // no need to count on
      is = was;
      break;
    }
    is = same ? was + 1 : window << count_bits | 1;
  } while (!load_.compare_exchange_weak(was, is, std::memory_order_relaxed));
  if ((is & ((1u << count_bits) - 1)) > limit) {
    // Written once a millisecond: the line is read by all workers.
    if (loaded_until_ns_.load(std::memory_order_relaxed) < now_ns + handshake_load_hold_ns - 1'000'000) loaded_until_ns_.store(now_ns + handshake_load_hold_ns, std::memory_order_relaxed);
    return true;
  }
  return is_loaded(now_ns);
}

// The cookie of a source: Mac(secret, address || port), section 5.4.7.
bool handshake_gate::cookie_of(part& p, const sl_wireguard_endpoint& from, uint8_t cookie[cookie_bytes]) {
  uint8_t where[sizeof from.address + sizeof from.port];
  std::memcpy(where, from.address.bytes, sizeof from.address);
  store16(where + sizeof from.address, from.port);
  return p.secret.compute(where, sizeof where, cookie);
}

// Is mac2 there, and made with the cookie of where the message came from?
bool handshake_gate::has_cookie(part& p, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from) {
  const uint8_t* const mac2 = message + mac2_offset(length);
  uint8_t cookie[cookie_bytes];
  return has_mac2(message, length) && cookie_of(p, from, cookie) && p.mac2.set_key(cookie, sizeof cookie) &&
         p.mac2.matches(message, mac2_offset(length), mac2);
}

bool handshake_gate::is_known(uint64_t source) const {
  return known_[source % known_sources].load(std::memory_order_relaxed) == (static_cast<uint32_t>(source >> 32) | 1);
}

// Cookie replies to strangers have one bucket, as in source_buckets, which holds a tenth of a second's worth.
constexpr uint64_t reply_us = us_per_second / cookie_replies_per_second, replies_burst_us = us_per_second / 10;

bool handshake_gate::ration_left(uint64_t now_ns) const { return replies_.load(std::memory_order_relaxed) + reply_us <= now_ns / 1000 + replies_burst_us; }

bool handshake_gate::may_reply(uint64_t source, uint64_t now_ns) {
  if (is_known(source)) return reply_buckets_.take(source, now_ns);
  const uint64_t now_us = now_ns / 1000;
  uint64_t full_us = replies_.load(std::memory_order_relaxed), next_us;
  do {
    next_us = std::max(full_us, now_us) + reply_us;
    if (next_us > now_us + replies_burst_us) return false;
  } while (!replies_.compare_exchange_weak(full_us, next_us, std::memory_order_relaxed));
  return true;
}

// Section 5.4.7: type, receiver's index, nonce, and the cookie sealed with Hash("cookie--" || our key); mac1 of the message is the additional data.
bool handshake_gate::write_reply(part& p, aead& cipher, const sl_wireguard_gate_key& key, const uint8_t* message, uint32_t length, const sl_wireguard_endpoint& from,
                                 uint8_t* into) {
  if (p.nonces_left == 0) {
    if (RAND_bytes(p.nonces[0], sizeof p.nonces) != 1) return false;
    p.nonces_left = nonces_at_once;
  }
  const uint8_t* const nonce = p.nonces[--p.nonces_left];
  store32_raw(into, wireguard_cookie);
  std::memcpy(into + 4, message + sender_offset, 4);
  std::memcpy(into + 8, nonce, aead_extended_nonce_bytes);
  uint8_t* const sealed = into + 8 + aead_extended_nonce_bytes;
  static_assert(8 + aead_extended_nonce_bytes + cookie_bytes + aead_tag_bytes == wireguard_cookie_bytes);
  if (!cookie_of(p, from, sealed)) return false;
  aead_item item{sealed, cookie_bytes, mac_bytes, message + mac1_offset(length), key.cookie_key};
  cipher.seal_extended(item, nonce);
  return item.ok;
}

}  // namespace sluice
