// SPDX-License-Identifier: Apache-2.0
// aead_bench.cc: ChaCha20-Poly1305 at the sizes of packets: the engine's (native/tunnel/aead.h) beside OpenSSL's.
//
//   engine         aead::seal and open, one message a call and 32 a call
//   openssl        EVP with kept contexts, key and nonce set for each message, as the engine would have to use it
//   openssl-speed  what `openssl speed -evp chacha20-poly1305` does: EncryptUpdate again and again, no nonce and no tag: the bar's yardstick
//   transport      wireguard_table::seal and open, 32 a call: header, counter, padding, replay window, counters included
//
// Each round measures all of them one after the other; median of the rounds. One thread, CPU time. A JSON object a line.
#include <openssl/evp.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "../../test/native/wireguard_sides.h"
#include "tool.h"
#include "tunnel/aead.h"

namespace {

using namespace sluice;

constexpr unsigned messages = 32;
constexpr const char help[] =
    "aead_bench: nanoseconds a message of ChaCha20-Poly1305\n"
    "  --rounds N    rounds, each of all kinds (11)\n"
    "  --messages N  messages a kind and round (20000)\n"
    "  --help \n";

double cpu_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

struct bench_state {
  uint8_t key[aead_key_bytes] = {1, 2, 3};
  std::vector<std::vector<uint8_t>> buffers{messages, std::vector<uint8_t>(4096)};
  std::unique_ptr<aead> cipher;
  EVP_CIPHER_CTX *seal = EVP_CIPHER_CTX_new(), *open = EVP_CIPHER_CTX_new(), *bulk = EVP_CIPHER_CTX_new();
  uint64_t counter = 0;
  testing::wireguard_side a, b;
  std::vector<seal_item> sealed;

  bench_state() {
    std::string error;
    cipher = aead::open(&error);
    if (!cipher) bench::fail("%s", error.c_str());
    const uint8_t nonce[aead_nonce_bytes] = {};
    EVP_EncryptInit_ex(seal, EVP_chacha20_poly1305(), nullptr, key, nonce);
    EVP_DecryptInit_ex(open, EVP_chacha20_poly1305(), nullptr, key, nonce);
    EVP_EncryptInit_ex(bulk, EVP_chacha20_poly1305(), nullptr, key, nonce);
    if (!testing::wireguard_connect(a, b)) bench::fail("no session");
  }

  std::vector<aead_item> items(uint32_t bytes) {
    std::vector<aead_item> all(messages);
    for (unsigned i = 0; i < messages; ++i) {
      all[i].text = buffers[i].data() + wireguard_header_bytes;
      all[i].bytes = bytes;
      all[i].key = key;
      all[i].set_counter(counter + i);
    }
    return all;
  }
  static void check(bool ok) { if (!ok) bench::fail("a message did not open"); }

  void engine_seal(std::vector<aead_item>& all, unsigned batch) { for (unsigned i = 0; i < messages; i += batch) cipher->seal(std::span(all).subspan(i, batch)); }
  void engine_open(std::vector<aead_item>& all, unsigned batch) {
    for (unsigned i = 0; i < messages; i += batch) cipher->open(std::span(all).subspan(i, batch));
    for (const aead_item& item : all) check(item.ok);
  }
  void openssl_seal(std::vector<aead_item>& all) {
    int n;
    for (aead_item& i : all) {
      EVP_EncryptInit_ex2(seal, nullptr, i.key, i.nonce, nullptr);
      EVP_EncryptUpdate(seal, i.text, &n, i.text, static_cast<int>(i.bytes));
      EVP_EncryptFinal_ex(seal, i.text + i.bytes, &n);
      EVP_CIPHER_CTX_ctrl(seal, EVP_CTRL_AEAD_GET_TAG, aead_tag_bytes, i.text + i.bytes);
    }
  }
  void openssl_open(std::vector<aead_item>& all) {
    int n;
    for (aead_item& i : all) {
      EVP_DecryptInit_ex2(open, nullptr, i.key, i.nonce, nullptr);
      EVP_CIPHER_CTX_ctrl(open, EVP_CTRL_AEAD_SET_TAG, aead_tag_bytes, i.text + i.bytes);
      EVP_DecryptUpdate(open, i.text, &n, i.text, static_cast<int>(i.bytes));
      check(EVP_DecryptFinal_ex(open, i.text + i.bytes, &n) > 0);
    }
  }
  void openssl_speed(std::vector<aead_item>& all) {
    int n;
    for (aead_item& i : all) EVP_EncryptUpdate(bulk, i.text, &n, i.text, static_cast<int>(i.bytes));
  }
  void transport_seal(std::vector<aead_item>& all) {
    sealed.clear();
    for (aead_item& i : all) sealed.push_back({i.text, i.bytes, 4000, a.sending(), nullptr, 0});
    a.table->seal(0, sealed, testing::wireguard_now_ns);
  }
  void transport_open() {
    std::vector<open_item> opened;
    for (seal_item& s : sealed) opened.push_back({s.message, s.message_bytes, testing::wireguard_from(1), SL_DROP_NONE, nullptr, 0, nullptr, false});
    b.table->open(0, opened, testing::wireguard_now_ns);
    for (const open_item& o : opened) check(o.reason == SL_DROP_NONE);
  }
};

}  // namespace

int main(int count, char** words) {
  const bench::Options options(count, words, help);
  const auto rounds = options.number("rounds", 11), wanted = options.number("messages", 20000);
  bench_state s;
  for (const uint32_t bytes : {64u, 512u, 1420u}) {
    struct kind { const char *name, *what; unsigned batch; std::function<void(std::vector<aead_item>&)> run; std::vector<double> ns; };
    // Each opening follows the sealing whose messages it opens.
    std::vector<kind> kinds;
    kinds.push_back({"openssl-speed", "seal", 1, [&](auto& all) { s.openssl_speed(all); }, {}});
    for (const unsigned batch : {1u, messages}) {
      kinds.push_back({"engine", "seal", batch, [&, batch](auto& all) { s.engine_seal(all, batch); }, {}});
      kinds.push_back({"engine", "open", batch, [&, batch](auto& all) { s.engine_open(all, batch); }, {}});
    }
    kinds.push_back({"openssl", "seal", 1, [&](auto& all) { s.openssl_seal(all); }, {}});
    kinds.push_back({"openssl", "open", 1, [&](auto& all) { s.openssl_open(all); }, {}});
    kinds.push_back({"transport", "seal", messages, [&](auto& all) { s.transport_seal(all); }, {}});
    kinds.push_back({"transport", "open", messages, [&](auto&) { s.transport_open(); }, {}});
    for (uint64_t round = 0; round < rounds; ++round) {
      std::vector<double> spent(kinds.size());
      for (uint64_t done = 0; done < wanted; done += messages) {
        std::vector<aead_item> all = s.items(bytes);
        s.counter += messages;
        for (size_t k = 0; k < kinds.size(); ++k) {
          const double began = cpu_ns();
          kinds[k].run(all);
          spent[k] += cpu_ns() - began;
        }
      }
      for (size_t k = 0; k < kinds.size(); ++k) kinds[k].ns.push_back(spent[k] / static_cast<double>((wanted + messages - 1) / messages * messages));
    }
    for (kind& k : kinds) std::sort(k.ns.begin(), k.ns.end());
    const double speed_ns = kinds[0].ns[rounds / 2];
    for (const kind& k : kinds) {
      const double median = k.ns[rounds / 2];
      bench::print_line(bench::format("{\"bytes\":%u,\"kind\":\"%s\",\"what\":\"%s\",\"batch\":%u,\"ns\":%.1f,\"ns_min\":%.1f,\"ns_max\":%.1f,\"gb_per_s\":%.2f,\"ratio_to_openssl_speed\":%.2f}", bytes, k.name, k.what,
                                      k.batch, median, k.ns.front(), k.ns.back(), bytes / median, speed_ns / median));
    }
  }
}
