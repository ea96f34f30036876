// SPDX-License-Identifier: Apache-2.0
// offload_cost: what the XDP program costs a packet of an offloaded session, alone: BPF_PROG_TEST_RUN over packets in
// memory, no device. Sessions are untranslated and their next hop has our own link address, so that the packet that comes
// out is one that may go in again; only its TTL falls, so a run repeats it at most 200 times.
// Usage: offload_cost [FLOWS] [tcp|udp] [4|6]
#include <bpf/bpf.h>
#include <net/if.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dataplane.h"
#include "io/steer.h"
#include "packet/checksum.h"
#include "packet/packet.h"

using namespace sluice;

namespace {

constexpr unsigned repeat = 200, samples = 40; // each run exchanges the kernel's XDP dispatcher: some 25 ms
constexpr uint8_t mac[8] = {2, 0, 0, 0, 0, 1, 0, 0};

struct frame { std::vector<uint8_t> bytes; };

frame make_frame(const flow_key& k, bool v6) {
  frame f;
  f.bytes.resize(v6 ? 14 + 40 + 20 : 14 + 20 + 20 + 6);
  uint8_t* p = f.bytes.data();
  std::memcpy(p, mac, 6);
  std::memcpy(p + 6, mac, 6);
  store16(p + 12, v6 ? 0x86dd : 0x0800);
  uint8_t* ip = p + 14;
  uint16_t l4_bytes = 20;
  uint8_t* l4;
  if (v6) {
    ip[0] = 0x60;
    store16(ip + 4, l4_bytes);
    ip[6] = k.protocol;
    ip[7] = 255;
    std::memcpy(ip + 8, k.src.bytes, 16);
    std::memcpy(ip + 24, k.dst.bytes, 16);
    l4 = ip + 40;
  } else {
    ip[0] = 0x45;
    store16(ip + 2, 40);
    ip[8] = 255;
    ip[9] = k.protocol;
    std::memcpy(ip + 12, k.src.bytes + 12, 4);
    std::memcpy(ip + 16, k.dst.bytes + 12, 4);
    store16_raw(ip + 10, checksum_finish(checksum_add(0, ip, 20)));
    l4 = ip + 20;
  }
  store16(l4, k.src_port);
  store16(l4 + 2, k.dst_port);
  if (k.protocol == protocol_tcp) { store32(l4 + 4, 1000); store32(l4 + 8, 2000); l4[12] = 0x50; l4[13] = 0x10; store16(l4 + 14, 1000); }
  else { store16(l4 + 4, l4_bytes); store16(l4 + 6, 0x1234); }
  return f;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned flows = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 1000;
  const bool tcp = argc > 2 && !std::strcmp(argv[2], "tcp"), v6 = argc > 3 && !std::strcmp(argv[3], "6");
  const char* object = std::getenv("SLUICE_STEER_OBJECT");
  std::string error;
  auto s = steering::open(object ? object : "build/bpf/steer.bpf.o", "", std::max(262144u, flows * 2), &error);
  if (!s) { std::fprintf(stderr, "%s\n", error.c_str()); return 1; }
  auto memory = flow_memory::of_maps(std::max(262144u, flows * 2), [&](const char* name, size_t bytes, std::string* e) { return s->map_memory(name, bytes, e); }, &error);
  if (!memory) { std::fprintf(stderr, "%s\n", error.c_str()); return 1; }
  dataplane shared(std::move(memory), 1);
  const uint32_t lo = if_nametoindex("lo");
  s->set_port(lo, 0, SL_STEER_PORT_UNTAGGED, 0);
  interface_state& i = shared.interfaces[0];
  i.mac = load64_raw(mac) & 0xffffffffffffull;
  i.mtu_bytes = 1500;
  i.up = true;
  i.offload = 1;
  i.port_slot = 0;
  i.id = 1;
  shared.memory->header->generations[0] = 7;
  bool created;
  sl_address hop{};
  uint32_t adjacency_id = shared.adjacencies.find_or_create(0, hop, 0, &created);
  shared.adjacencies.get(adjacency_id)->mac = (load64_raw(mac) & 0xffffffffffffull) | adjacency::resolved_bit;
  std::vector<frame> frames;
  for (unsigned n = 0; n < flows; ++n) {
    uint32_t index = shared.sessions.allocate(0);
    session& one = shared.sessions.at(index);
    flow_key k{};
    if (v6) { k.src.bytes[0] = k.dst.bytes[0] = 0x20; k.dst.bytes[15] = 1; }
    else { k.src.bytes[10] = k.src.bytes[11] = k.dst.bytes[10] = k.dst.bytes[11] = 0xff; k.dst.bytes[12] = 198; k.src.bytes[12] = 10; }
    k.src.bytes[13] = static_cast<uint8_t>(n >> 16); k.src.bytes[14] = static_cast<uint8_t>(n >> 8); k.src.bytes[15] = static_cast<uint8_t>(n);
    k.src_port = static_cast<uint16_t>(1024 + n % 60000);
    k.dst_port = 80;
    k.protocol = tcp ? protocol_tcp : protocol_udp;
    one.key0 = k;
    one.key1 = reversed(k);
    one.adjacency[0] = one.adjacency[1] = adjacency_id;
    one.generation = 7;
    one.state = SL_STATE_ESTABLISHED;
    one.tcp_bits = (SL_TCP_ACK_SEEN | SL_TCP_SCALE_SEEN) * 3;
    one.tcp_end[0] = one.tcp_acked[1] = 1000; one.tcp_end[1] = one.tcp_acked[0] = 2000;
    one.tcp_edge[0] = one.tcp_edge[1] = 100000;
    one.tcp_window_log2[0] = one.tcp_window_log2[1] = 20;
    one.offload = SL_OFFLOAD_ON;
    if (shared.sessions.insert(index) != session_table::insert_result::inserted) { std::fprintf(stderr, "insert failed\n"); return 1; }
    if (n < 65536) frames.push_back(make_frame(k, v6));
  }
  std::vector<uint32_t> ns;
  std::vector<uint8_t> out(4096);
  unsigned forwarded = 0;
  xdp_md context{};
  context.ingress_ifindex = lo;
  // Many flows: one packet a run would measure the system call, so each run takes one flow `repeat` times, and what many
  // flows cost beside (caches) shows in a run of few repetitions.
  for (unsigned n = 0; n < samples; ++n) {
    frame f = frames[(n * 7919u) % frames.size()];
    LIBBPF_OPTS(bpf_test_run_opts, o);
    context.data_end = static_cast<uint32_t>(f.bytes.size());
    o.data_in = f.bytes.data();
    o.data_size_in = static_cast<uint32_t>(f.bytes.size());
    o.data_out = out.data();
    o.data_size_out = static_cast<uint32_t>(out.size());
    o.ctx_in = &context;
    o.ctx_size_in = sizeof context;
    o.repeat = repeat;
    if (int result = bpf_prog_test_run_opts(s->program_fd(), &o); result != 0) { std::fprintf(stderr, "test run: %s\n", std::strerror(-result)); return 1; }
    forwarded += o.retval == 4;
    ns.push_back(o.duration);
  }
  std::sort(ns.begin(), ns.end());
  uint64_t row[SL_STEER_KEYS];
  s->read_counters(0, row);
  std::printf("{\"flows\": %u, \"nsPerPacketMedian\": %u, \"p10\": %u, \"p90\": %u, \"redirected\": %u, \"runs\": %u, \"offloaded\": %llu}\n", flows, ns[ns.size() / 2], ns[ns.size() / 10], ns[ns.size() * 9 / 10], forwarded, samples,
              static_cast<unsigned long long>(row[SL_STEER_BASE + SL_STEER_OFFLOADED]));
}
