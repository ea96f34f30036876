// SPDX-License-Identifier: Apache-2.0
// wireguard_fuzz.cc: WireGuard messages from the network: the gate before handshakes, and transport messages. Input: records of
//   u8 operation | u8 time | u16 length (little-endian) | bytes
// operation, low three bits:
//   0 the bytes as a message to the gate         1 the same, with type, length and mac1 put right
//   2 the bytes as a transport message           3 the same, with a type and an index that exist
//   4 a genuine message, the bytes laid over it by exclusive or
//   5 a new session                              6 all sessions of the peer end
//   7 the index of a handshake of ours, then as 1 with an answer to it
// bit 3: the second worker. time: the clock moves on by 2^(time & 31) microseconds.
// What must hold: no sanitizer's complaint; what opens is a genuine message, unchanged, and for the first time; only it changes counters and
// endpoint; a cookie reply is never longer than what it answers.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "../native/wireguard_sides.h"

namespace {

using namespace sluice;
using namespace sluice::testing;

constexpr unsigned workers = 2, records_max = 64;
constexpr size_t message_bytes_max = 2000;
constexpr uint64_t harness_ns_max = 5ull * 365 * 86400 * 1'000'000'000;

[[noreturn]] void violated(const char* what) {
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

struct harness {
  wireguard_side a{1}, b{workers};
  sl_wireguard_gate_key key{};
  uint64_t now_ns = wireguard_now_ns;
  std::set<std::vector<uint8_t>> opened;  // by this session
  uint8_t seed = 0;

  harness() {
    for (unsigned i = 0; i < 32; ++i) key.mac1_key[i] = key.cookie_key[i] = static_cast<uint8_t>(i);
    std::string error;
    if (!b.table->set_gate(1, {&key, 1}, &error)) violated(error.c_str());
    connect();
  }

  void connect() {
    if (!wireguard_connect(a, b, ++seed, 100, now_ns)) violated("a session is refused");
  }

  void quiet() {
    a.epoch.quiescent(0);
    for (unsigned w = 0; w < workers; ++w) b.epoch.quiescent(w);
    a.table->records();
    b.events();
  }

  void handshake(unsigned worker, const std::vector<uint8_t>& message) {
    uint8_t reply[wireguard_cookie_bytes];
    const handshake_verdict v = b.table->handshake(worker, b.tunnel(), message.data(), static_cast<uint32_t>(message.size()), wireguard_from(0x0a000000 + seed), now_ns, reply);
    if (v.answer && (v.reason == SL_DROP_NONE || message.size() < sizeof reply || load32_raw(reply) != wireguard_cookie)) violated("a cookie reply to what needs none");
  }

  // genuine: whether it may open.
  void transport(unsigned worker, std::vector<uint8_t> message, bool genuine) {
    const sl_wireguard_peer_record before = b.table->records()[0];
    open_item item{message.data(), static_cast<uint32_t>(message.size()), wireguard_from(0x0b000000 + static_cast<uint32_t>(opened.size())), SL_DROP_NONE, nullptr, 0, nullptr, false};
    const std::vector<uint8_t> as_sent = message;
    b.table->open(worker, {&item, 1}, now_ns);
    const sl_wireguard_peer_record after = b.table->records()[0];
    if (item.reason == SL_DROP_NONE) {
      if (!genuine) violated("a message opens that nobody sealed");
      if (!opened.insert(as_sent).second) violated("a message opens twice");
      if (item.packet < message.data() || item.packet + item.packet_bytes + wireguard_tag_bytes > message.data() + message.size()) violated("a packet outside its message");
      if (after.rx_packets != before.rx_packets + 1) violated("a message is not counted");
    } else {
      if (genuine && !opened.contains(as_sent)) violated("a genuine message does not open");
      if (after.rx_packets != before.rx_packets || std::memcmp(&after.endpoint, &before.endpoint, sizeof after.endpoint) != 0) violated("what does not open leaves a trace");
    }
  }
};

void right_mac(std::vector<uint8_t>& m, const sl_wireguard_gate_key& key, uint8_t type, uint32_t receiver) {
  m.resize(type == wireguard_initiation ? wireguard_initiation_bytes : wireguard_response_bytes);
  store32_raw(m.data(), type);
  if (type == wireguard_response) store32_raw(m.data() + 8, receiver);
  const auto mac1 = wireguard_mac(key.mac1_key, 32, m.data(), m.size() - 32);
  std::copy(mac1.begin(), mac1.end(), m.end() - 32);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Inputs take hours of the harness's time each; the gate's clock lasts for nine years (handshake_gate.cc).
  static std::unique_ptr<harness> current;
  if (!current || current->now_ns > harness_ns_max) current = std::make_unique<harness>();
  harness& h = *current;
  h.opened.clear();
  h.connect();
  for (unsigned records = 0; size >= 4 && records < records_max; ++records) {
    const uint8_t operation = data[0], time = data[1];
    const size_t length = std::min({static_cast<size_t>(data[2] | data[3] << 8), size - 4, message_bytes_max});
    std::vector<uint8_t> bytes(data + 4, data + 4 + length);
    data += 4 + length;
    size -= 4 + length;
    h.now_ns += 1000ull << (time & 31);
    const unsigned worker = operation >> 3 & 1;
    wireguard_session* const s = h.a.sending(100, h.now_ns);
    switch (operation & 7) {
      case 0: h.handshake(worker, bytes); break;
      case 1:
        right_mac(bytes, h.key, wireguard_initiation, 0);
        h.handshake(worker, bytes);
        break;
      case 2: h.transport(worker, bytes, false); break;
      case 3:
        if (bytes.size() >= 8 && s) {
          store32_raw(bytes.data(), wireguard_transport);
          store32_raw(bytes.data() + 4, s->remote_index);
        }
        h.transport(worker, bytes, false);
        break;
      case 4: {
        if (!s) break;
        std::vector<uint8_t> genuine = wireguard_sealed(h.a, s, static_cast<uint32_t>(length), 0x5a, h.now_ns);
        if (genuine.empty()) break;
        // The first copy changed, the second not: the window keeps a place for it.
        std::vector<uint8_t> changed = genuine;
        bool differs = false;
        for (size_t i = 0; i < bytes.size() && i < changed.size(); ++i) {
          changed[i] ^= bytes[i];
          differs |= bytes[i] != 0;
        }
        h.transport(worker, changed, !differs);
        h.transport(worker, genuine, true);
        h.transport(worker ^ 1, genuine, true);
        break;
      }
      case 5:
        h.opened.clear();
        h.connect();
        break;
      case 6:
        h.b.table->forget(100);
        h.a.table->forget(100);
        break;
      case 7:
        right_mac(bytes, h.key, wireguard_response, h.b.table->index(h.now_ns));
        h.handshake(worker, bytes);
        break;
    }
    h.quiet();
  }
  return 0;
}
