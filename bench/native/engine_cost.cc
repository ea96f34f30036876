// SPDX-License-Identifier: Apache-2.0
// engine_cost: what the engine's own work costs, without any I/O. 64-byte UDP packets from memory pass a stateful
// firewall (1,000 rules) and source NAT; TSC cycles are counted around pipeline::process() only (median batch of 64 packets). Also: how fast sessions
// are set up, and what one costs in memory. One thread.
//   engine_cost [--sessions 10000,1000000] [--packets 4000000] [--rounds 5] [--json]
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>

#include "../../test/fuzz/snapshot_builder.h"
#include "engine.h"
#include "packet/checksum.h"

namespace {

using namespace sluice;
using namespace sluice::testing;

constexpr unsigned frame_bytes = 60;  // 64 with the FCS
constexpr unsigned pool_addresses = 32;

sl_address ipv4(unsigned a, unsigned b, unsigned c, unsigned d) {
  const uint8_t bytes[4] = {static_cast<uint8_t>(a), static_cast<uint8_t>(b), static_cast<uint8_t>(c), static_cast<uint8_t>(d)};
  sl_address out;
  set_ipv4(out, bytes);
  return out;
}
std::string text_of(unsigned a, unsigned b, unsigned c, unsigned d) { return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(c) + "." + std::to_string(d); }

std::vector<uint8_t> bench_snapshot() {
  snapshot_builder b;
  b.interface(1, 100, 0);
  b.interface(2, 101, 1);
  b.address(0, "10.255.255.254", 104);
  b.address(1, "203.0.113.4", 120);
  b.route("0.0.0.0", 96, "203.0.113.1", 1);
  sl_span one_port = b.service(protocol_tcp, 1, 1);
  for (uint32_t i = 0; i < 999; ++i) {
    sl_rule& r = b.rule(100 + i, SL_ACTION_DENY);
    r.sources = b.prefix(text_of(172, 16 + i % 16, i / 16, 0).c_str(), 120);
    r.services = one_port;
  }
  b.rule(10, SL_ACTION_ALLOW, 1).log = 0;
  sl_nat_rule& egress = b.nat(20, SL_NAT_SOURCE);
  egress.filtering = SL_FILTERING_ADDRESS_PORT;
  egress.pool = {0, pool_addresses};
  for (unsigned i = 0; i < pool_addresses; ++i) b.pool(text_of(203, 0, 113, 64 + i).c_str(), 1024, 65535);
  return b.build();
}

void write_frame(uint8_t* f, const sl_address& src, const sl_address& dst, uint16_t src_port, uint16_t dst_port) {
  std::memset(f, 0, frame_bytes);
  f[0] = 2; f[5] = 1;  // the offline engine's first interface
  f[6] = 2;
  f[12] = 8;
  uint8_t* ip = f + 14;
  ip[0] = 0x45;
  store16(ip + 2, frame_bytes - 14);
  ip[8] = 64;
  ip[9] = 17;
  std::memcpy(ip + 12, src.bytes + 12, 4);
  std::memcpy(ip + 16, dst.bytes + 12, 4);
  store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
  store16(ip + 20, src_port);
  store16(ip + 22, dst_port);
  store16(ip + 24, frame_bytes - 34);
  store16_raw(ip + 26, checksum_finish(checksum_add(checksum_pseudo(ip + 12, 4, 17, frame_bytes - 34), ip + 20, frame_bytes - 34)));
}

struct flow { sl_address src, dst; uint16_t src_port, dst_port; };
flow flow_of(uint32_t i) { return {ipv4(10, 1 + i / 4096 / 256, i / 4096 % 256, 1 + i % 16), ipv4(198, 51, 100, 1 + i % 200), static_cast<uint16_t>(2000 + i / 16 % 256), 53}; }

struct result { uint32_t sessions; double setup_per_second; double bytes_per_session; std::vector<double> cycles; };

size_t resident_bytes() {
  FILE* f = std::fopen("/proc/self/statm", "r");
  size_t total = 0, resident = 0;
  if (f) { if (std::fscanf(f, "%zu %zu", &total, &resident) != 2) resident = 0; std::fclose(f); }
  return resident * 4096;
}

result measure(uint32_t sessions, uint64_t packets, unsigned rounds) {
  std::string error;
  engine e;
  engine_options options;
  options.offline = true;
  options.sessions_max = std::max<uint32_t>(sessions + sessions / 32, 4096);  // so much room that none ends for another
  size_t before = resident_bytes();
  if (!e.open(options, {}, &error)) { std::fprintf(stderr, "open: %s\n", error.c_str()); std::exit(1); }
  auto buffer = bench_snapshot();
  uint64_t generation, microseconds;
  if (!e.apply(buffer.data(), buffer.size(), &generation, &microseconds, &error)) { std::fprintf(stderr, "apply: %s\n", error.c_str()); std::exit(1); }
  const uint8_t mac[6] = {2, 1, 1, 1, 1, 1};
  e.set_neighbour(1, ipv4(203, 0, 113, 1), mac);
  worker& w = e.offline_worker();
  uint64_t now = 1'000'000'000'000ull;
  rx_frame frames[batch_max];
  auto batch = [&](auto&& pick, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      uint64_t address;
      if (!w.pool().get(&address)) { std::fprintf(stderr, "no frame\n"); std::exit(1); }
      address += umem_headroom_bytes;
      flow f = flow_of(pick(i));
      write_frame(w.area().at(address), f.src, f.dst, f.src_port, f.dst_port);
      frames[i] = {address, w.area().at(address), frame_bytes};
    }
    uint64_t began = __rdtsc();
    w.path().process(frames, count, 0, false, now);
    uint64_t cycles = __rdtsc() - began;
    for (const tx_item& item : w.path().output()) w.pool().put(item.address);
    w.path().output().clear();
    return cycles;
  };
  result r{sessions, 0, 0, {}};
  uint64_t began_ns = monotonic_ns(), began_tsc = __rdtsc();
  std::vector<uint64_t> setups;
  for (uint32_t i = 0; i < sessions; i += batch_max) setups.push_back(batch([&](unsigned k) { return i + k; }, std::min<uint32_t>(batch_max, sessions - i)));
  double tsc_hz = static_cast<double>(__rdtsc() - began_tsc) / (static_cast<double>(monotonic_ns() - began_ns) / 1e9);
  std::nth_element(setups.begin(), setups.begin() + static_cast<long>(setups.size() / 2), setups.end());
  r.setup_per_second = batch_max / (static_cast<double>(setups[setups.size() / 2]) / tsc_hz);
  auto counters = e.counters();
  uint64_t live = counters[SL_COUNTER_COUNT + SL_DROP_REASON_COUNT];
  if (live != sessions) {
    std::fprintf(stderr, "only %llu of %u sessions were set up\n", static_cast<unsigned long long>(live), sessions);
    for (unsigned i = 1; i < SL_DROP_REASON_COUNT; ++i) if (counters[SL_COUNTER_COUNT + i]) std::fprintf(stderr, "  drop reason %u: %llu\n", i, static_cast<unsigned long long>(counters[SL_COUNTER_COUNT + i])); std::exit(1); }
  r.bytes_per_session = static_cast<double>(resident_bytes() - before - w.area().bytes()) / sessions;
  std::mt19937_64 random(42);
  std::vector<uint32_t> order(sessions);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned round = 0; round <= rounds; ++round) {
    uint64_t at = 0;
    std::vector<uint64_t> batches;
    batches.reserve(packets / batch_max);
    for (uint64_t done = 0; done < packets; done += batch_max) {
      batches.push_back(batch([&](unsigned) { return order[at++ % sessions]; }, batch_max));
      now += 64'000;
    }
    // The median batch: what other programs of the machine steal falls on few of them. The first round warms up.
    std::nth_element(batches.begin(), batches.begin() + static_cast<long>(batches.size() / 2), batches.end());
    if (round) r.cycles.push_back(static_cast<double>(batches[batches.size() / 2]) / batch_max);
  }
  std::sort(r.cycles.begin(), r.cycles.end());
  return r;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<uint32_t> sizes{10'000, 1'000'000};
  uint64_t packets = 2'000'000;
  unsigned rounds = 5;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    std::string option = argv[i];
    if (option == "--json") json = true;
    else if (option == "--packets" && i + 1 < argc) packets = std::strtoull(argv[++i], nullptr, 10) / batch_max * batch_max;
    else if (option == "--rounds" && i + 1 < argc) rounds = static_cast<unsigned>(std::max(1, std::atoi(argv[++i])));
    else if (option == "--sessions" && i + 1 < argc) {
      sizes.clear();
      for (char* at = argv[++i]; *at;) { sizes.push_back(static_cast<uint32_t>(std::strtoul(at, &at, 10))); if (*at == ',') ++at; }
    } else {
      std::fprintf(stderr, "usage: engine_cost [--sessions N,N] [--packets N] [--rounds N] [--json]\n");
      return option == "--help" ? 0 : 2;
    }
  }
  std::string out = "[";
  for (uint32_t size : sizes) {
    result r = measure(size, packets, rounds);
    double median = r.cycles[r.cycles.size() / 2];
    if (!json) std::printf("%8u sessions: %6.1f cycles a packet (min %.1f, max %.1f), set up %.0f a second, %.0f bytes a session\n", r.sessions, median, r.cycles.front(), r.cycles.back(), r.setup_per_second, r.bytes_per_session);
    char text[256];
    std::snprintf(text, sizeof text, "%s{\"sessions\":%u,\"cyclesPerPacket\":{\"median\":%.1f,\"min\":%.1f,\"max\":%.1f},\"setupPerSecond\":%.0f,\"bytesPerSession\":%.0f}", out.size() > 1 ? "," : "", r.sessions, median, r.cycles.front(), r.cycles.back(), r.setup_per_second, r.bytes_per_session);
    out += text;
  }
  if (json) std::printf("%s]\n", out.c_str());
}
