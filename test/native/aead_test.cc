// SPDX-License-Identifier: Apache-2.0
// aead_test.cc: the cipher against Wycheproof's vectors, and batches against single messages.
#include <doctest/doctest.h>

#include <openssl/evp.h>

#include <random>

#include "tunnel/aead.h"
#include "vectors.h"

namespace sluice {
namespace {

using namespace testing;

std::unique_ptr<aead> cipher() {
  std::string error;
  auto made = aead::open(&error);
  REQUIRE_MESSAGE(made != nullptr, error);
  return made;
}

struct message {
  std::vector<uint8_t> text, key, aad;
  aead_item item;
  message(std::vector<uint8_t> text_, std::vector<uint8_t> key_, std::vector<uint8_t> aad_ = {}) : text(std::move(text_)), key(std::move(key_)), aad(std::move(aad_)) {
    const auto bytes = static_cast<uint32_t>(text.size());
    text.resize(bytes + aead_tag_bytes);
    item = {text.data(), bytes, static_cast<uint32_t>(aad.size()), aad.data(), key.data()};
  }
};

TEST_CASE("aead: Wycheproof's ChaCha20-Poly1305") {
  const auto c = cipher();
  unsigned valid = 0, invalid = 0;
  for (const aead_vector& v : aead_vectors("chacha20-poly1305.json")) {
    const std::vector<uint8_t> nonce = bytes_of_hex(v.nonce), plain = bytes_of_hex(v.plain), sealed = bytes_of_hex(v.sealed);
    if (nonce.size() != aead_nonce_bytes) continue;  // nonces of other lengths cannot be said here
    CAPTURE(v.id);
    message open({sealed.begin(), sealed.end() - aead_tag_bytes}, bytes_of_hex(v.key), bytes_of_hex(v.aad));
    open.text = sealed;
    open.item.text = open.text.data();
    std::copy(nonce.begin(), nonce.end(), open.item.nonce);
    c->open({&open.item, 1});
    CHECK(open.item.ok == (v.result == "valid"));
    if (v.result == "valid") {
      ++valid;
      CHECK(std::equal(plain.begin(), plain.end(), open.text.begin()));
      message seal(plain, bytes_of_hex(v.key), bytes_of_hex(v.aad));
      std::copy(nonce.begin(), nonce.end(), seal.item.nonce);
      c->seal({&seal.item, 1});
      CHECK(seal.item.ok);
      CHECK(seal.text == sealed);
    } else {
      ++invalid;
    }
  }
  CHECK(valid > 200);
  CHECK(invalid > 50);
}

TEST_CASE("aead: Wycheproof's XChaCha20-Poly1305") {
  const auto c = cipher();
  unsigned valid = 0;
  for (const aead_vector& v : aead_vectors("xchacha20-poly1305.json")) {
    const std::vector<uint8_t> nonce = bytes_of_hex(v.nonce);
    if (nonce.size() != aead_extended_nonce_bytes || v.result != "valid") continue;
    CAPTURE(v.id);
    ++valid;
    message seal(bytes_of_hex(v.plain), bytes_of_hex(v.key), bytes_of_hex(v.aad));
    c->seal_extended(seal.item, nonce.data());
    CHECK(seal.item.ok);
    CHECK(seal.text == bytes_of_hex(v.sealed));
  }
  CHECK(valid > 200);
}

TEST_CASE("aead: the same bytes as OpenSSL's, of each length up to a frame's") {
  const auto c = cipher();
  EVP_CIPHER_CTX* const reference = EVP_CIPHER_CTX_new();
  std::mt19937 random(5);
  unsigned wrong = 0;
  for (uint32_t length = 0; length < 1800; ++length) {
    std::vector<uint8_t> text(length), key(aead_key_bytes);
    for (uint8_t& b : text) b = static_cast<uint8_t>(random());
    for (uint8_t& b : key) b = static_cast<uint8_t>(random());
    message m(text, key);
    m.item.set_counter(uint64_t{random()} << 32 | random());
    std::vector<uint8_t> expected = text;
    expected.resize(length + aead_tag_bytes);
    int n;
    REQUIRE(EVP_EncryptInit_ex(reference, EVP_chacha20_poly1305(), nullptr, key.data(), m.item.nonce));
    if (length) REQUIRE(EVP_EncryptUpdate(reference, expected.data(), &n, expected.data(), static_cast<int>(length)));
    REQUIRE(EVP_EncryptFinal_ex(reference, expected.data() + length, &n));
    REQUIRE(EVP_CIPHER_CTX_ctrl(reference, EVP_CTRL_AEAD_GET_TAG, aead_tag_bytes, expected.data() + length));
    c->seal({&m.item, 1});
    wrong += !m.item.ok || m.text != expected;
    c->open({&m.item, 1});
    wrong += !m.item.ok || !std::equal(text.begin(), text.end(), m.text.begin());
  }
  EVP_CIPHER_CTX_free(reference);
  CHECK(wrong == 0);
}

TEST_CASE("aead: batches of mixed lengths and keys are single messages in a row") {
  const auto c = cipher();
  std::mt19937 random(3);
  for (const size_t count : {size_t{1}, size_t{2}, size_t{7}, size_t{8}, size_t{16}, size_t{33}, size_t{64}}) {
    CAPTURE(count);
    std::vector<message> together, alone;
    for (size_t i = 0; i < count; ++i) {
      std::vector<uint8_t> text(random() % 1600), key(aead_key_bytes, static_cast<uint8_t>(random()));
      for (uint8_t& b : text) b = static_cast<uint8_t>(random());
      together.emplace_back(text, key);
      alone.emplace_back(text, key);
      together.back().item.set_counter(i << 33 | 5);
      alone.back().item.set_counter(i << 33 | 5);
    }
    std::vector<aead_item> items;
    for (message& m : together) {
      m.item.text = m.text.data();
      m.item.key = m.key.data();
      items.push_back(m.item);
    }
    c->seal(items);
    for (size_t i = 0; i < count; ++i) {
      alone[i].item.text = alone[i].text.data();
      alone[i].item.key = alone[i].key.data();
      c->seal({&alone[i].item, 1});
      CHECK(alone[i].text == together[i].text);
    }
    const size_t broken = random() % count;
    together[broken].text[random() % together[broken].text.size()] ^= 0x10;
    c->open(items);
    for (size_t i = 0; i < count; ++i) CHECK(items[i].ok == (i != broken));
  }
}

}  // namespace
}  // namespace sluice
