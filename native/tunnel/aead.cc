// SPDX-License-Identifier: Apache-2.0
// aead.cc: ChaCha20-Poly1305 as jobs of Intel's ipsec-mb, which picks the code for this CPU (AVX-512 with IFMA, AVX2, AVX, SSE); the one block of
// ChaCha20 that a cookie reply needs beside it is OpenSSL's.
#include "tunnel/aead.h"

#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>

#include "packet/bytes.h"

namespace sluice {
namespace {

struct free_manager { void operator()(IMB_MGR* m) const { free_mb_mgr(m); } };
struct free_cipher { void operator()(EVP_CIPHER* c) const { EVP_CIPHER_free(c); } };
struct free_context { void operator()(EVP_CIPHER_CTX* c) const { EVP_CIPHER_CTX_free(c); } };

}  // namespace

struct aead::library {
  std::unique_ptr<IMB_MGR, free_manager> manager{alloc_mb_mgr(0)};
  std::unique_ptr<EVP_CIPHER_CTX, free_context> chacha20;

  bool open() {
    if (!manager) return false;
    init_mb_mgr_auto(manager.get(), nullptr);
    const std::unique_ptr<EVP_CIPHER, free_cipher> cipher(EVP_CIPHER_fetch(nullptr, "ChaCha20", nullptr));
    chacha20.reset(cipher ? EVP_CIPHER_CTX_new() : nullptr);
    return imb_get_errno(manager.get()) == 0 && chacha20 && EVP_EncryptInit_ex2(chacha20.get(), cipher.get(), nullptr, nullptr, nullptr);
  }

  // The manager may hand a job back later than it was given; its item goes with it.
  void submit(aead_item& item, bool encrypt, uint8_t* tag) {
    IMB_MGR* const m = manager.get();
    IMB_JOB* const job = IMB_GET_NEXT_JOB(m);
    job->enc_keys = job->dec_keys = item.key;
    job->key_len_in_bytes = aead_key_bytes;
    job->src = job->dst = item.text;
    job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = item.bytes;
    job->iv = item.nonce;
    job->iv_len_in_bytes = aead_nonce_bytes;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = aead_tag_bytes;
    job->u.CHACHA20_POLY1305.aad = item.aad;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = item.aad_bytes;
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = encrypt ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = encrypt ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->user_data = &item;
    item.ok = false;
    finish(IMB_SUBMIT_JOB_NOCHECK(m));  // every field is set above
  }
  void flush() { while (finish(IMB_FLUSH_JOB(manager.get()))) {} }

 private:
  bool finish(IMB_JOB* job) {
    for (IMB_JOB* done = job; done; done = IMB_GET_COMPLETED_JOB(manager.get())) static_cast<aead_item*>(done->user_data)->ok = done->status == IMB_STATUS_COMPLETED;
    return job != nullptr;
  }
};

aead::aead() : library_(std::make_unique<library>()) {}
aead::~aead() = default;

std::unique_ptr<aead> aead::open(std::string* error) {
  std::unique_ptr<aead> made(new aead);
  if (!made->library_->open())
    *error = "WireGuard: the cipher is not to be had: ipsec-mb does not start on this CPU, or OpenSSL (openssl.cnf) has its default provider switched off";
  else if (!made->self_test())
    *error = "WireGuard: ChaCha20-Poly1305 of ipsec-mb does not compute what RFC 8439 says on this machine; nothing is encrypted with it";
  else
    return made;
  return nullptr;
}

void aead::seal(std::span<aead_item> items) {
  for (aead_item& item : items) library_->submit(item, true, item.text + item.bytes);
  library_->flush();
}

void aead::open(std::span<aead_item> items) {
  uint8_t tags[batch][aead_tag_bytes];
  while (!items.empty()) {
    const auto now = items.first(std::min<size_t>(batch, items.size()));
    for (size_t i = 0; i < now.size(); ++i) library_->submit(now[i], false, tags[i]);
    library_->flush();
    for (size_t i = 0; i < now.size(); ++i) now[i].ok = now[i].ok && CRYPTO_memcmp(tags[i], now[i].text + now[i].bytes, aead_tag_bytes) == 0;
    items = items.subspan(now.size());
  }
}

// HChaCha20 from the library's block function: a block is the permuted state plus the initial one, HChaCha20 is words 0 to 3 and 12 to 15 of the
// permuted state. Of these eight, the initial state is no secret: the constants, and the nonce.
void aead::seal_extended(aead_item& item, const uint8_t nonce[aead_extended_nonce_bytes]) {
  static constexpr uint8_t constants[] = "expand 32-byte k";
  uint8_t block[64] = {}, key[aead_key_bytes];
  int n;
  item.ok = EVP_EncryptInit_ex2(library_->chacha20.get(), nullptr, item.key, nonce, nullptr) && EVP_EncryptUpdate(library_->chacha20.get(), block, &n, block, sizeof block);
  for (unsigned i = 0; i < 4; ++i) {
    store32_raw(key + 4 * i, load32_raw(block + 4 * i) - load32_raw(constants + 4 * i));
    store32_raw(key + 16 + 4 * i, load32_raw(block + 48 + 4 * i) - load32_raw(nonce + 4 * i));
  }
  aead_item inner = item;
  inner.key = key;
  std::memset(inner.nonce, 0, 4);
  std::memcpy(inner.nonce + 4, nonce + 16, 8);
  const bool derived = item.ok;
  seal({&inner, 1});
  item.ok = derived && inner.ok;
  OPENSSL_cleanse(key, sizeof key);
  OPENSSL_cleanse(block, sizeof block);
}

// RFC 8439 section 2.8.2: known text in, known text and tag out; then back again; then with a bit wrong.
bool aead::self_test() {
  static constexpr uint8_t plain[] = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
  static constexpr uint8_t aad[] = {0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};
  static constexpr uint8_t nonce[aead_nonce_bytes] = {0x07, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47};
  static constexpr uint8_t first[] = {0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb, 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef, 0x7e, 0xc2};
  static constexpr uint8_t tag[aead_tag_bytes] = {0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60, 0x06, 0x91};
  constexpr uint32_t bytes = sizeof plain - 1;
  uint8_t key[aead_key_bytes], text[bytes + aead_tag_bytes];
  for (unsigned i = 0; i < sizeof key; ++i) key[i] = static_cast<uint8_t>(0x80 + i);
  std::memcpy(text, plain, bytes);
  aead_item item{text, bytes, sizeof aad, aad, key};
  std::memcpy(item.nonce, nonce, sizeof nonce);
  seal({&item, 1});
  if (!item.ok || std::memcmp(text, first, sizeof first) != 0 || std::memcmp(text + bytes, tag, sizeof tag) != 0) return false;
  uint8_t wrong[sizeof text];
  std::memcpy(wrong, text, sizeof text);
  wrong[bytes / 2] ^= 1;
  open({&item, 1});
  if (!item.ok || std::memcmp(text, plain, bytes) != 0) return false;
  item.text = wrong;
  open({&item, 1});
  return !item.ok;
}

}  // namespace sluice
