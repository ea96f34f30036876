// SPDX-License-Identifier: Apache-2.0
// handshake_gate_test.cc: what of handshake messages passes, and what is answered. MACs are computed here by OpenSSL directly, keys as the
// whitepaper derives them, cookies opened as an initiator would.
#include <doctest/doctest.h>

#include <openssl/evp.h>

#include <set>
#include <thread>

#include "tunnel/aead.h"
#include "tunnel/handshake_gate.h"
#include "wireguard_sides.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint64_t second = 1'000'000'000, now = wireguard_now_ns;

sl_wireguard_gate_key gate_key(const std::vector<uint8_t>& public_key) {
  sl_wireguard_gate_key k{};
  for (const auto& [label, into] : {std::pair{"mac1----", k.mac1_key}, std::pair{"cookie--", k.cookie_key}}) {
    std::vector<uint8_t> text(label, label + 8);
    text.insert(text.end(), public_key.begin(), public_key.end());
    unsigned written;
    REQUIRE(EVP_Digest(text.data(), text.size(), into, &written, EVP_blake2s256(), nullptr));
  }
  return k;
}

// As an initiator takes a cookie out of a reply: XChaCha20 is its own inverse, and sealing again gives the tag.
std::vector<uint8_t> cookie_in(const uint8_t reply[64], const std::vector<uint8_t>& message, const sl_wireguard_gate_key& key) {
  std::string error;
  const auto cipher = aead::open(&error);
  std::vector<uint8_t> text(reply + 32, reply + 48), mac1(message.end() - 32, message.end() - 16);
  text.resize(32);
  aead_item item{text.data(), 16, 16, mac1.data(), key.cookie_key};
  cipher->seal_extended(item, reply + 8);
  std::vector<uint8_t> cookie(text.begin(), text.begin() + 16);
  cipher->seal_extended(item, reply + 8);
  REQUIRE(std::equal(text.begin(), text.end(), reply + 32));
  return cookie;
}

struct gated {
  wireguard_side side;
  std::vector<sl_wireguard_gate_key> keys{gate_key(std::vector<uint8_t>(32, 7)), gate_key(std::vector<uint8_t>(32, 8))};
  uint8_t reply[wireguard_cookie_bytes];
  explicit gated(unsigned workers = 1) : side(workers) {
    std::string error;
    REQUIRE(side.table->set_gate(1, keys, &error));
  }
  handshake_verdict offer(const std::vector<uint8_t>& m, const sl_wireguard_endpoint& from, uint64_t at = now, unsigned worker = 0) {
    return side.table->handshake(worker, side.tunnel(), m.data(), static_cast<uint32_t>(m.size()), from, at, reply);
  }
  handshake_verdict initiation(uint32_t source, uint64_t at = now, const std::vector<uint8_t>& cookie = {}) {
    return offer(wireguard_handshake_message(wireguard_initiation, 0, keys[0], cookie), wireguard_from(source), at);
  }
  // Initiations from here and there until there is load.
  void load(uint64_t at = now) {
    for (unsigned i = 0; i < handshake_load_per_second; ++i) initiation(0x64000000 + i, at);
    side.events();
  }
};

TEST_CASE("gate: the MACs are BLAKE2s with a key") {
  // Computed with another implementation (Python's hashlib): key 00..1f, data 00..73, 16 bytes.
  uint8_t key[32], data[116];
  for (unsigned i = 0; i < 32; ++i) key[i] = static_cast<uint8_t>(i);
  for (unsigned i = 0; i < 116; ++i) data[i] = static_cast<uint8_t>(i);
  CHECK(wireguard_mac(key, 32, data, 116) == std::vector<uint8_t>{0x07, 0x2e, 0x94, 0xff, 0xbf, 0xc6, 0x84, 0xbd, 0x8a, 0xb2, 0xa1, 0xb9, 0xda, 0xde, 0x2f, 0xd5});
}

TEST_CASE("gate: only the three types, with zeros behind, of their lengths") {
  gated g;
  for (unsigned type = 0; type < 256; ++type)
    for (uint32_t length = 0; length < 200; ++length) {
      std::vector<uint8_t> m(length, 0);
      if (length) m[0] = static_cast<uint8_t>(type);
      const bool right = (type == 1 && length == 148) || (type == 2 && length == 92) || (type == 3 && length == 64);
      if (right) {
        m[2] = 1;
        CHECK(g.offer(m, wireguard_from(1)).reason == SL_DROP_WIREGUARD_MALFORMED);
      } else if (g.offer(m, wireguard_from(1)).reason != SL_DROP_WIREGUARD_MALFORMED) {
        FAIL_CHECK("type " << type << " of " << length << " bytes");
      }
    }
}

TEST_CASE("gate: mac1 decides whether anything happens, and says which key is meant") {
  gated g;
  for (unsigned key = 0; key < 2; ++key) {
    const auto good = wireguard_handshake_message(wireguard_initiation, 0, g.keys[key]);
    for (size_t at = 4; at < good.size() - 16; ++at) {
      auto bad = good;
      bad[at] ^= 0x40;
      const handshake_verdict v = g.offer(bad, wireguard_from(1));
      CHECK(v.reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
      CHECK_FALSE(v.answer);
    }
    CHECK(g.offer(good, wireguard_from(1)).reason == SL_DROP_NONE);
    const auto events = g.side.events();
    REQUIRE(events.size() == 1);
    CHECK(events[0].first.event == SL_WIREGUARD_MESSAGE);
    CHECK(events[0].first.key == key);
    CHECK(events[0].first.interface == 1);
    CHECK(events[0].first.peer_id == 0);
    CHECK(events[0].first.time_ns == now);
    CHECK(events[0].first.from.port == 51820);
    CHECK(events[0].second == good);
  }
  // Without keys, or with others, nobody is there.
  std::string error;
  REQUIRE(g.side.table->set_gate(1, {}, &error));
  CHECK(g.initiation(2).reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
  REQUIRE(g.side.table->set_gate(1, std::span(g.keys).last(1), &error));
  CHECK(g.initiation(2).reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
  CHECK(g.offer(wireguard_handshake_message(wireguard_initiation, 0, g.keys[1]), wireguard_from(2)).reason == SL_DROP_NONE);
  g.keys.push_back(g.keys[0]);
  CHECK_FALSE(g.side.table->set_gate(1, g.keys, &error));
  CHECK(error.find("at most 2") != std::string::npos);
}

TEST_CASE("gate: an answer must name a handshake of ours") {
  gated g;
  const uint32_t index = g.side.table->index(now);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, index ^ 1, g.keys[0]), wireguard_from(1)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, index ^ 0x80000000, g.keys[0]), wireguard_from(1)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, 0, g.keys[0]), wireguard_from(1)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, index, g.keys[1]), wireguard_from(1)).reason == SL_DROP_NONE);
  std::vector<uint8_t> cookie(64, 9);
  store32_raw(cookie.data(), wireguard_cookie);
  CHECK(g.offer(cookie, wireguard_from(1)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  store32_raw(cookie.data() + 4, index);
  CHECK(g.offer(cookie, wireguard_from(1)).reason == SL_DROP_NONE);
  const auto events = g.side.events();
  REQUIRE(events.size() == 2);
  CHECK(events[0].first.key == 1);
  CHECK(events[1].first.key == 0xff);
  // A cookie for a response of ours: its session stands already. A second response to what was answered: no.
  wireguard_side other;
  wireguard_handshake h = wireguard_keys(other, g.side);
  const uint32_t installed = h.b.local_index;
  std::string error;
  REQUIRE(g.side.table->install(&h.b, now, &error));
  store32_raw(cookie.data() + 4, installed);
  CHECK(g.offer(cookie, wireguard_from(1)).reason == SL_DROP_NONE);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, installed, g.keys[0]), wireguard_from(1)).reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
}

TEST_CASE("gate: under load an initiation needs a cookie; the reply holds one that helps") {
  gated g;
  g.load();
  const auto message = wireguard_handshake_message(wireguard_initiation, 0, g.keys[1]);
  const sl_wireguard_endpoint from = wireguard_from(0x0a0b0c0d, 4444);
  const handshake_verdict v = g.offer(message, from);
  CHECK(v.reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  REQUIRE(v.answer);
  CHECK(load32_raw(g.reply) == 3);
  CHECK(load32_raw(g.reply + 4) == 0xabcd0123);
  const std::vector<uint8_t> cookie = cookie_in(g.reply, message, g.keys[1]);
  std::vector<uint8_t> nonce(g.reply + 8, g.reply + 32);
  REQUIRE(g.offer(message, from).answer);
  CHECK(nonce != std::vector<uint8_t>(g.reply + 8, g.reply + 32));
  CHECK(cookie_in(g.reply, message, g.keys[1]) == cookie);

  const auto with = wireguard_handshake_message(wireguard_initiation, 0, g.keys[1], cookie);
  CHECK(g.offer(with, from).reason == SL_DROP_NONE);
  REQUIRE(g.side.events().size() == 1);
  auto wrong = with;
  wrong.back() ^= 1;
  CHECK(g.offer(wrong, from).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  // It is for this address and port, and for its two minutes.
  CHECK(g.offer(with, wireguard_from(0x0a0b0c0d, 4445)).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.offer(with, wireguard_from(0x0a0b0c0e, 4444)).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  const uint64_t later = (now / cookie_secret_ns + 1) * cookie_secret_ns;
  g.load(later - second / 1000);
  CHECK(g.offer(with, from, later - 1).reason == SL_DROP_NONE);
  CHECK(g.offer(with, from, later).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.side.events().size() == 1);
}

TEST_CASE("gate: answers pass under load without a cookie") {
  gated g;
  g.load();
  const uint32_t index = g.side.table->index(now);
  CHECK(g.initiation(5).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.offer(wireguard_handshake_message(wireguard_response, index, g.keys[0]), wireguard_from(5)).reason == SL_DROP_NONE);
}

TEST_CASE("gate: load begins with too many in a quarter of a second, and ends a second after the last such quarter") {
  gated g;
  unsigned passed = 0;
  // As many as are allowed, for three seconds: no load.
  for (uint64_t ms = 0; ms < 3000; ms += 1000 / handshake_load_per_second) passed += g.initiation(0x64000000 + static_cast<uint32_t>(ms), now + ms * 1'000'000).reason == SL_DROP_NONE;
  CHECK(passed == 3 * handshake_load_per_second);
  g.side.events();
  const uint64_t flood = now + 10 * second;
  passed = 0;
  for (unsigned i = 0; i < 5000; ++i) passed += g.initiation(0x65000000 + i, flood).reason == SL_DROP_NONE;
  CHECK(passed == handshake_load_per_second / 4);
  CHECK(g.initiation(1, flood + second / 2).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.initiation(2, flood + second - 2'000'000).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.initiation(3, flood + second).reason == SL_DROP_NONE);
}

TEST_CASE("gate: load lasts as long as the flood, and a cookie helps all along") {
  gated g;
  unsigned passed = 0, helped = 0;
  const auto message = wireguard_handshake_message(wireguard_initiation, 0, g.keys[0]);
  std::vector<uint8_t> with;
  for (uint32_t i = 0; i < 150'000; ++i) {  // three seconds
    const uint64_t at = now + i * (second / 50'000);
    passed += g.offer(message, wireguard_from(0x66000000 + i), at).reason == SL_DROP_NONE;
    const sl_wireguard_endpoint peer = wireguard_from(0x0a0a0a0a);
    if (i % 10'000 != 9'999) continue;
    g.side.table->set_endpoint(100, peer);
    if (with.empty() && g.offer(message, peer, at).answer) with = wireguard_handshake_message(wireguard_initiation, 0, g.keys[0], cookie_in(g.reply, message, g.keys[0]));
    else helped += g.offer(with, peer, at).reason == SL_DROP_NONE;
  }
  CHECK(passed == handshake_load_per_second / 4);
  CHECK(helped == 14);
}

TEST_CASE("gate: what is not for us makes no load") {
  gated g;
  auto bad = wireguard_handshake_message(wireguard_initiation, 0, g.keys[0]);
  bad[20] ^= 1;
  for (unsigned i = 0; i < 1000; ++i) CHECK(g.offer(bad, wireguard_from(i)).reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
  CHECK(g.initiation(1).reason == SL_DROP_NONE);
}

TEST_CASE("gate: cookie replies to strangers are rationed, those to where a peer is are not") {
  gated g;
  g.load();
  unsigned replies = 0;
  for (unsigned i = 0; i < 50'000; ++i) replies += g.initiation(0x70000000 + i, now + i * (second / 50'000)).answer;
  CHECK(replies <= cookie_replies_per_second + cookie_replies_per_second / 10);
  CHECK(replies >= cookie_replies_per_second);
  // The same flood, and a peer's address among it: known by configuration or because it was heard from.
  const uint64_t later = now + 5 * second;
  g.side.table->set_endpoint(100, wireguard_from(0x0a0a0a0a));
  wireguard_side other;
  REQUIRE(wireguard_connect(other, g.side));
  wireguard_open(g.side, wireguard_sealed(other, other.sending(), 0), now, wireguard_from(0x0b0b0b0b));
  g.load(later);
  for (unsigned i = 0; i < 5000; ++i) g.initiation(0x71000000 + i, later);
  CHECK_FALSE(g.initiation(0x0c0c0c0c, later).answer);
  // So far is a stranger's mac1 not even looked at; of a source that is known it is.
  auto foreign = wireguard_handshake_message(wireguard_initiation, 0, g.keys[0]);
  foreign[20] ^= 1;
  CHECK(g.offer(foreign, wireguard_from(0x0c0c0c0c), later).reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT);
  CHECK(g.offer(foreign, wireguard_from(0x0a0a0a0a), later).reason == SL_DROP_WIREGUARD_HANDSHAKE_MAC);
  unsigned configured = 0, heard = 0;
  for (unsigned i = 0; i < 100; ++i) {
    configured += g.initiation(0x0a0a0a0a, later).answer;
    heard += g.initiation(0x0b0b0b0b, later).answer;
  }
  CHECK(configured == handshake_source_burst);
  CHECK(heard == handshake_source_burst);
}

TEST_CASE("gate: a source gets five at once and twenty a second; an IPv6 source is its /64") {
  gated g;
  for (const bool v6 : {false, true}) {
    CAPTURE(v6);
    sl_wireguard_endpoint from = wireguard_from(0x01020304);
    if (v6) from.address = sl_address{{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 1}};
    std::string error;
    const uint32_t index = g.side.table->index(now);  // answers: no load in the way
    const auto message = wireguard_handshake_message(wireguard_response, index, g.keys[0]);
    unsigned passed = 0;
    for (unsigned i = 0; i < 50; ++i) {
      if (v6) from.address.bytes[15] = static_cast<uint8_t>(i);
      from.port = static_cast<uint16_t>(i);
      passed += g.offer(message, from).reason == SL_DROP_NONE;
    }
    CHECK(passed == handshake_source_burst);
    passed = 0;
    for (unsigned ms = 1; ms <= 10'000; ms += 3) passed += g.offer(message, from, now + uint64_t{ms} * 1'000'000).reason == SL_DROP_NONE;
    CHECK(passed >= 198);
    CHECK(passed <= 200);
    // Next door there is room.
    if (v6) from.address.bytes[7] = 2;
    else from.address = wireguard_ipv4(0x01020305);
    CHECK(g.offer(message, from).reason == SL_DROP_NONE);
    g.side.events();
  }
}

TEST_CASE("gate: buckets of many sources stay in bounds, and are free again with time") {
  source_buckets buckets;
  source_hash hash;
  REQUIRE(hash.open());
  unsigned first = 0, later = 0;
  for (uint32_t i = 0; i < 200'000; ++i) first += buckets.take(hash(wireguard_ipv4(i)), now);
  CHECK(first < handshake_sources + 100);  // a few share an entry: a tag has 16 bits
  CHECK(first > handshake_sources * 9 / 10);
  for (uint32_t i = 200'000; i < 210'000; ++i) later += buckets.take(hash(wireguard_ipv4(i)), now + second);
  CHECK(later > 9'000);  // five in one set of four, now and then
}

TEST_CASE("gate: several workers share load and buckets") {
  constexpr unsigned workers = 3;
  gated g(workers);
  std::atomic<unsigned> passed{0}, of_one{0};
  const uint32_t index = g.side.table->index(now);
  const auto initiation = wireguard_handshake_message(wireguard_initiation, 0, g.keys[0]), answer = wireguard_handshake_message(wireguard_response, index, g.keys[0]);
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      uint8_t reply[wireguard_cookie_bytes];
      for (unsigned i = 0; i < 500; ++i) {
        passed += g.side.table->handshake(w, g.side.tunnel(), initiation.data(), 148, wireguard_from(w << 16 | i), now, reply).reason == SL_DROP_NONE;
        of_one += g.side.table->handshake(w, g.side.tunnel(), answer.data(), 92, wireguard_from(0x0a000001), now, reply).reason == SL_DROP_NONE;
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(passed.load() == handshake_load_per_second / 4);
  CHECK(of_one.load() == handshake_source_burst);
  CHECK(g.side.events().size() == passed.load() + of_one.load());
}

TEST_CASE("gate: messages that nobody takes are lost and counted, notices are not") {
  gated g;
  unsigned passed = 0, lost = 0;
  const uint32_t index = g.side.table->index(now);
  const auto message = wireguard_handshake_message(wireguard_response, index, g.keys[0]);
  for (uint32_t i = 0; i < 1100; ++i) {
    const handshake_verdict v = g.offer(message, wireguard_from(i));
    passed += v.reason == SL_DROP_NONE;
    lost += v.reason == SL_DROP_WIREGUARD_HANDSHAKE_LIMIT;
  }
  CHECK(passed == 1024);
  CHECK(lost == 76);
  CHECK(g.side.table->events_lost() == 76);
  g.side.table->wanted(0, g.side.peer(), now);
  const auto events = g.side.events();
  CHECK(events.size() == 1025);
  CHECK(events[0].first.event == SL_WIREGUARD_WANTED);
}

}  // namespace
}  // namespace sluice
