// SPDX-License-Identifier: Apache-2.0
// aead.h: ChaCha20-Poly1305 (RFC 8439), in place, a batch a call, and XChaCha20-Poly1305 for cookie replies. The cipher is a library's;
// docs/internals/wireguard-transport.md says which and why.
//
// One thread at a time owns an aead (about 100 kB: the library's job manager). Nothing is allocated after open(), and no key is kept. Errors: a wrong
// tag, or a job that the library did not finish: both are `ok` false.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>

namespace sluice {

inline constexpr unsigned aead_key_bytes = 32, aead_nonce_bytes = 12, aead_tag_bytes = 16;
inline constexpr unsigned aead_extended_nonce_bytes = 24;

struct aead_item {
  uint8_t* text;                // seal: plaintext, with room for the tag behind it; open: ciphertext, its tag behind it
  uint32_t bytes;               // without the tag
  uint32_t aad_bytes = 0;
  const uint8_t* aad = nullptr; // additional data; WireGuard's transport messages have none
  const uint8_t* key = nullptr; // aead_key_bytes
  uint8_t nonce[aead_nonce_bytes] = {};
  bool ok = false;              // result; open: the tag is right. When it is not, `text` holds nothing of use

  // A transport message's nonce: four zero bytes, then the counter in little-endian.
  void set_counter(uint64_t counter) { std::memcpy(nonce + 4, &counter, 8); }
};

class aead {
 public:
  // Nullptr and a text when the library lacks the cipher, or computes anything else than it should.
  static std::unique_ptr<aead> open(std::string* error);
  ~aead();
  aead(const aead&) = delete;

  void seal(std::span<aead_item> items);
  void open(std::span<aead_item> items);
  // XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): as above, with a nonce of 24 bytes that may be random. The item's own nonce does not count.
  void seal_extended(aead_item& item, const uint8_t nonce[aead_extended_nonce_bytes]);

 private:
  aead();
  bool self_test();
  static constexpr size_t batch = 64;  // jobs at a time
  struct library;
  std::unique_ptr<library> library_;
};

}  // namespace sluice
