// SPDX-License-Identifier: Apache-2.0
// handshake_gate_bench.cc: what a handshake message costs before TypeScript sees it: nanoseconds of CPU a message, median of rounds, a JSON object
// a kind. One thread.
//   foreign    mac1 is for another key
//   stranger   under load, no cookie, and the ration of cookie replies is used up
//   reply      under load, no cookie, answered with a cookie reply
#include <openssl/rand.h>

#include <algorithm>
#include <vector>

#include "../../test/native/wireguard_sides.h"
#include "tool.h"
#include "tunnel/aead.h"
#include "tunnel/handshake_gate.h"

namespace {

using namespace sluice;

constexpr const char help[] =
    "handshake_gate_bench: nanoseconds a handshake message at the gate\n"
    "  --rounds N    rounds (11)\n"
    "  --messages N  messages a kind and round (20000)\n"
    "  --help \n";

double cpu_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

}  // namespace

int main(int count, char** words) {
  const bench::Options options(count, words, help);
  const auto rounds = options.number("rounds", 11), messages = options.number("messages", 20000);
  handshake_gate gate(1);
  std::string error;
  const auto cipher = aead::open(&error);
  if (!cipher || !gate.open(&error)) bench::fail("%s", error.c_str());
  sl_wireguard_gate_key keys[1];
  RAND_bytes(reinterpret_cast<uint8_t*>(keys), sizeof keys);
  gate.set_keys(1, keys);

  const std::vector<uint8_t> ours = testing::wireguard_handshake_message(wireguard_initiation, 0, keys[0]);
  std::vector<uint8_t> foreign = ours;
  foreign[100] ^= 1;
  uint8_t reply[wireguard_cookie_bytes];
  uint64_t now_ns = testing::wireguard_now_ns;
  uint32_t source = 0x64000000;
  // Time goes on as in a flood of 50,000 or 5 million a second, or at the rate at which each one is answered.
  const struct { const char* name; const uint8_t* message; uint64_t step_ns; } kinds[] = {
      {"foreign", foreign.data(), 20'000}, {"stranger", ours.data(), 200}, {"reply", ours.data(), 1'000'000'000 / cookie_replies_per_second}};
  std::vector<std::vector<double>> ns(std::size(kinds));
  std::vector<uint64_t> replies(std::size(kinds));
  for (uint64_t round = 0; round < rounds; ++round)
    for (size_t k = 0; k < std::size(kinds); ++k) {
      const double began = cpu_ns();
      for (uint64_t i = 0; i < messages; ++i) {
        now_ns += kinds[k].step_ns;
        const gate_verdict v = gate.judge(0, *cipher, 1, kinds[k].message, wireguard_initiation_bytes, testing::wireguard_from(++source), now_ns, reply);
        replies[k] += v.cookie;
      }
      ns[k].push_back((cpu_ns() - began) / static_cast<double>(messages));
    }
  for (size_t k = 0; k < std::size(kinds); ++k) {
    std::sort(ns[k].begin(), ns[k].end());
    bench::print_line(bench::format("{\"kind\":\"%s\",\"ns\":%.1f,\"ns_min\":%.1f,\"ns_max\":%.1f,\"replies\":%.3f}", kinds[k].name, ns[k][rounds / 2], ns[k].front(), ns[k].back(),
                                    static_cast<double>(replies[k]) / static_cast<double>(rounds * messages)));
  }
}
