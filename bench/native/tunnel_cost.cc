// SPDX-License-Identifier: Apache-2.0
// tunnel_cost: what a packet into a WireGuard tunnel, and out of one, costs the engine beside its encryption. Two engines in memory, one's
// messages fed to the other; TSC cycles are counted around pipeline::process() of 64 packets, and around the AEAD alone over as many of the
// same size (medians). Parsing, session, rewriting, routing and outer headers are the difference. One thread.
//   tunnel_cost [--bytes 64,512,1420] [--batches 20000] [--v6]     bytes: of the packet inside; --v6: outside, which needs a UDP checksum
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "../../test/fuzz/snapshot_builder.h"
#include "engine.h"
#include "packet/checksum.h"
#include "tunnel/aead.h"

namespace {

using namespace sluice;
using namespace sluice::testing;

constexpr uint16_t lan = 0, wan = 1, port = 51820;
constexpr unsigned count = batch_max;
constexpr uint64_t now_ns = 1'000'000'000'000;

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "tunnel_cost: %s\n", text.c_str());
  std::exit(1);
}

struct side {
  engine e;
  std::vector<uint64_t> cycles;
  side(int self, bool v6) {
    const std::string me = std::to_string(self), other = std::to_string(3 - self);
    engine_options o;
    o.offline = true;
    std::string error;
    if (!e.open(o, {}, &error)) fail(error);
    snapshot_builder b;
    b.interface(1, 2, 0);
    b.interface(2, 3, 1);
    b.wireguard(3, 2, port);
    b.address(lan, ("10." + me + ".0.1").c_str(), 120);
    b.address(wan, ("192.0.2." + me).c_str(), 120);
    b.address(wan, ("2001:db8::" + me).c_str(), 64);
    b.route(("10." + other + ".0.0").c_str(), 112, "::", 2);
    b.peer(9, {{("10." + other + ".0.0").c_str(), 112}});
    b.rule(1, SL_ACTION_ALLOW).log = 0;
    std::vector<uint8_t> buffer = b.build();
    uint64_t generation, microseconds;
    if (!e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error)) fail(error);
    const uint8_t outside[6] = {2, 0, 0, 0, 0, wan + 1};
    e.set_neighbour(lan, address_of(("10." + me + ".0.10").c_str()), outside);
    for (const char* net : {"192.0.2.", "2001:db8::"}) e.set_neighbour(wan, address_of((net + other).c_str()), outside);
    sl_wireguard_endpoint where{};
    where.address = address_of(((v6 ? "2001:db8::" : "192.0.2.") + other).c_str());
    where.port = port;
    if (!e.wireguard_endpoint(9, where)) fail("no peer");
    injected out;
    e.advance(now_ns, &out);
  }
  // A batch of frames through the pipeline; what leaves comes back, copied.
  std::vector<std::vector<uint8_t>> pass(uint16_t interface, const std::vector<std::vector<uint8_t>>& in) {
    worker& w = e.offline_worker();
    rx_frame frames[count];
    for (unsigned i = 0; i < count; ++i) {
      uint64_t address;
      if (!w.pool().get(&address)) fail("no buffer");
      address += umem_headroom_bytes;
      frames[i] = {address, w.area().at(address), static_cast<uint32_t>(in[i].size())};
      std::memcpy(frames[i].data, in[i].data(), in[i].size());
      const uint8_t to[6] = {2, 0, 0, 0, 0, static_cast<uint8_t>(interface + 1)};
      std::memcpy(frames[i].data, to, sizeof to);
    }
    const uint64_t began = __rdtsc();
    w.path().process(frames, count, interface, false, now_ns);
    cycles.push_back(__rdtsc() - began);
    std::vector<std::vector<uint8_t>> out;
    for (const tx_item& item : w.path().output()) {
      out.emplace_back(w.area().at(item.address), w.area().at(item.address) + item.length);
      w.pool().put(item.address);
    }
    w.path().output().clear();
    if (out.size() != count) fail("packets were dropped");
    return out;
  }
};

void connect(side& a, side& b) {
  sl_wireguard_keypair left{}, right{};
  left.peer_id = right.peer_id = 9;
  left.local_index = right.remote_index = a.e.wireguard_index();
  left.remote_index = right.local_index = b.e.wireguard_index();
  left.initiator = 1;
  left.created_ns = right.created_ns = now_ns;
  std::memset(left.send_key, 1, 32);
  std::memset(right.receive_key, 1, 32);
  std::memset(left.receive_key, 2, 32);
  std::memset(right.send_key, 2, 32);
  std::string error;
  if (!a.e.wireguard_install(&left, &error) || !b.e.wireguard_install(&right, &error)) fail(error);
}

double median(std::vector<uint64_t> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return static_cast<double>(values[values.size() / 2]) / count;
}

std::vector<uint8_t> packet_of(unsigned bytes, unsigned flow) {
  std::vector<uint8_t> f(14 + bytes);
  f[12] = 8;
  uint8_t* ip = f.data() + 14;
  ip[0] = 0x45;
  store16(ip + 2, static_cast<uint16_t>(bytes));
  ip[8] = 64;
  ip[9] = protocol_udp;
  store32(ip + 12, 0x0a01000a);
  store32(ip + 16, 0x0a02000a);
  store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
  store16(ip + 20, static_cast<uint16_t>(1000 + flow));
  store16(ip + 22, 5000);
  store16(ip + 24, static_cast<uint16_t>(bytes - 20));
  return f;
}

// The AEAD over a batch: seal, then open what was sealed.
std::pair<double, double> aead_alone(unsigned bytes, unsigned batches) {
  std::string error;
  auto cipher = aead::open(&error);
  if (!cipher) fail(error);
  std::vector<std::vector<uint8_t>> text(count, std::vector<uint8_t>(bytes + aead_tag_bytes));
  uint8_t key[aead_key_bytes] = {1};
  std::vector<uint64_t> seal, open;
  std::vector<aead_item> items(count);
  for (unsigned n = 0; n < batches; ++n) {
    for (unsigned i = 0; i < count; ++i) {
      items[i] = {text[i].data(), bytes};
      items[i].key = key;
      items[i].set_counter(uint64_t{n} * count + i);
    }
    uint64_t began = __rdtsc();
    cipher->seal(items);
    seal.push_back(__rdtsc() - began);
    began = __rdtsc();
    cipher->open(items);
    open.push_back(__rdtsc() - began);
    if (!items[count - 1].ok) fail("the AEAD does not open what it sealed");
  }
  return {median(seal), median(open)};
}

}  // namespace

int main(int argc, char** argv) {
  std::string sizes = "64,512,1420";
  unsigned batches = 20000;
  bool v6 = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--bytes" && i + 1 < argc) sizes = argv[++i];
    else if (argument == "--batches" && i + 1 < argc) batches = static_cast<unsigned>(std::atoi(argv[++i]));
    else if (argument == "--v6") v6 = true;
    else { std::printf("usage: tunnel_cost [--bytes 64,512,1420] [--batches 20000] [--v6]\n"); return argument == "--help" ? 0 : 2; }
  }
  if (batches == 0) fail("--batches must be at least 1");
  std::printf("cycles a packet, median of %u batches of %u\n%8s %10s %10s %10s %10s\n", batches, count, "bytes", "into", "its AEAD", "out of", "its AEAD");
  std::istringstream list(sizes);
  for (std::string size; std::getline(list, size, ',');) {
    const auto bytes = static_cast<unsigned>(std::atoi(size.c_str()));
    if (bytes < 28 || bytes > 1420) fail("--bytes: from 28 to 1420");
    side a(1, v6), b(2, v6);
    connect(a, b);
    std::vector<std::vector<uint8_t>> batch;
    for (unsigned i = 0; i < count; ++i) batch.push_back(packet_of(bytes, i));
    for (unsigned n = 0; n < batches; ++n) b.pass(wan, a.pass(lan, batch));
    const auto [seal, open] = aead_alone(wireguard_padded(bytes, 1420), batches);
    std::printf("%8u %10.0f %10.0f %10.0f %10.0f\n", bytes, median(a.cycles), seal, median(b.cycles), open);
  }
  return 0;
}
