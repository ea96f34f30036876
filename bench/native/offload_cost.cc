// SPDX-License-Identifier: Apache-2.0
// offload_cost: what a packet of an offloaded session costs in the XDP program, beside a bare XDP redirect, without an appliance
// around it. Each program has a lane in a network namespace of this tool's own: generator, netdev with the program, netdev that
// counts and drops. The lanes take turns of some milliseconds, so that what differs between them is the program; everything is
// built anew a few times, because where memory comes to lie moves every program by some percent. Sessions have source NAT.
// Needs root. For figures on a machine that others use: chrt -f 10 taskset -c 1 build/native/offload_cost.
#include <linux/if_link.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "../bpf/traffic.h"
#include "dataplane.h"
#include "io/steer.h"
#include "packet/checksum.h"
#include "tool.h"

using namespace sluice;
using bench::fail;
using bench::format;

namespace {

const char help[] =
    "usage: offload_cost [options]\n"
    "  --objects LIST    steering programs to compare, with commas (build/bpf/steer.bpf.o)\n"
    "  --family N        4 or 6 (4)\n"
    "  --flows N         sessions that take turns (1000)\n"
    "  --packets N       packets a turn (50000)\n"
    "  --turns N         turns of each program in a layout (40)\n"
    "  --layouts N       how often everything is built anew (5)\n";

struct settings { unsigned family, flows, packets, turns, layouts; std::vector<std::string> objects; };

constexpr uint32_t generation = 7, source = 0x0a0a0100, destination = 0x0a1e0001, pool = 0x0a140008;
constexpr unsigned sources = 250, destinations = 200, source_port = 1024, nat_port = 20000;

// The address of the benches' plan (bench/topology.ts): IPv4 mapped, or 2001:db8:: with the same last word.
sl_address address_of(unsigned family, uint32_t v4) {
  sl_address a{};
  if (family == 4) { a.bytes[10] = a.bytes[11] = 0xff; }
  else { store32(a.bytes, 0x20010db8); store32(a.bytes + 4, v4 & 0xffff0000); }
  store32(a.bytes + 12, v4);
  return a;
}

uint64_t mac_of(const char* netdev) {
  ifreq request{};
  std::snprintf(request.ifr_name, sizeof request.ifr_name, "%s", netdev);
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  if (ioctl(s, SIOCGIFHWADDR, &request)) fail("%s: %s", netdev, strerror(errno));
  close(s);
  uint64_t mac = 0;
  std::memcpy(&mac, request.ifr_hwaddr.sa_data, 6);
  return mac;
}

void shell(const std::string& command) { if (system(command.c_str()) != 0) fail("failed: %s", command.c_str()); }

bpf_object* open_object(const char* name) {
  char tool[] = "offload_cost";
  char* words[] = {tool};
  return bench::open_object(bench::Options(1, words, help), name);
}

// gen → in [program] → out → far: counted and dropped.
class lane {
 public:
  lane(unsigned number, const settings& s, const std::string& object) : s_(s) {
    const std::string n = std::to_string(number), gen = "gen" + n, in = "in" + n, out = "out" + n, far = "far" + n;
    shell("ip link add " + gen + " type veth peer name " + in + " && ip link add " + out + " type veth peer name " + far);
    for (const std::string& netdev : {gen, in, out, far}) shell("ip link set " + netdev + " up");
    receiver_ = open_object("receiver");
    bench::set_config(receiver_, receiver_config{});
    bench::attach(bench::load_program(receiver_, "receive"), if_nametoindex(far.c_str()));
    if (object == "redirect") attach_redirect(in, out, far);
    else attach_steering(object, in, out, far);
    generator_config c{};
    uint64_t to = mac_of(in.c_str()), from = mac_of(gen.c_str());
    std::memcpy(c.destination_mac, &to, 6);
    std::memcpy(c.source_mac, &from, 6);
    c.ifindex = if_nametoindex(gen.c_str());
    c.family = s.family;
    c.frame_bytes = s.family == 4 ? 64 : 66;
    c.tagged = 1;
    c.flows = s.flows;
    c.sources = sources;
    c.destinations = destinations;
    c.source_port = source_port;
    for (unsigned i = 0; i < 4; ++i) {
      c.source[i] = load32(address_of(s.family, source).bytes + 4 * i);
      c.destination[i] = load32(address_of(s.family, destination).bytes + 4 * i);
    }
    generator_ = open_object("generator");
    bench::set_config(generator_, c);
    bpf_program* generate = bench::load_program(generator_, "generate");
    generator_fd_ = bpf_program__fd(generate);
    // Attached somewhere, it stays in the kernel's XDP dispatcher between test runs: see generator.cc.
    if (bpf_xdp_attach(static_cast<int>(c.ifindex), generator_fd_, XDP_FLAGS_SKB_MODE, nullptr)) fail("cannot attach the generator");
  }

  // Nanoseconds a packet: from the generator to the far end, in one softirq.
  double measure(unsigned packets) {
    std::vector<uint8_t> frame(66);
    LIBBPF_OPTS(bpf_test_run_opts, run);
    run.data_in = frame.data();
    run.data_size_in = s_.family == 4 ? 64 : 66;
    run.repeat = static_cast<int>(packets);
    run.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    const uint64_t before = counted(), start = bench::now_ns();
    if (bpf_prog_test_run_opts(generator_fd_, &run)) fail("BPF_PROG_TEST_RUN with live frames: %s", strerror(errno));
    const uint64_t ns = bench::now_ns() - start, arrived = counted() - before;
    if (arrived < packets * 9 / 10) fail("only %lu of %u packets arrived", static_cast<unsigned long>(arrived), packets);
    return static_cast<double>(ns) / static_cast<double>(arrived);
  }

 private:
  uint64_t counted() {
    std::vector<receiver_counts> cpus(static_cast<size_t>(libbpf_num_possible_cpus()));
    uint32_t key = 0;
    bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(receiver_, "counts"), &key, cpus.data());
    uint64_t total = 0;
    for (const receiver_counts& c : cpus) total += c.packets;
    return total;
  }
  static void attach_redirect(const std::string& in, const std::string& out, const std::string& far) {
    forward_config c{};
    uint64_t to = mac_of(far.c_str()), from = mac_of(out.c_str());
    std::memcpy(c.destination_mac, &to, 6);
    std::memcpy(c.source_mac, &from, 6);
    c.ifindex = if_nametoindex(out.c_str());
    bpf_object* object = open_object("forwarders");
    bench::set_config(object, c);
    bench::attach(bench::load_program(object, "redirect"), if_nametoindex(in.c_str()));
  }
  void attach_steering(const std::string& object, const std::string& in, const std::string& out, const std::string& far) {
    std::string error;
    const uint32_t capacity = std::max(262144u, s_.flows * 2);
    steering_ = steering::open(object, "", capacity, &error);
    if (!steering_) fail("%s", error.c_str());
    auto memory = flow_memory::of_maps(capacity, [&](const char* name, size_t bytes, std::string* e) { return steering_->map_memory(name, bytes, e); }, &error);
    if (!memory) fail("%s", error.c_str());
    shared_ = std::make_unique<dataplane>(std::move(memory), 1);
    const std::string netdevs[] = {in, out};
    for (unsigned slot = 0; slot < 2; ++slot) {
      uint32_t ifindex = if_nametoindex(netdevs[slot].c_str());
      std::string warning;
      xdp_mode mode = xdp_mode::native;
      steering_->set_port(ifindex, static_cast<uint16_t>(slot), SL_STEER_PORT_UNTAGGED | SL_STEER_PORT_PARTIAL, static_cast<uint16_t>(slot));
      if (!steering_->attach(ifindex, netdevs[slot], slot, &mode, &warning, &error)) fail("%s", error.c_str());
      interface_state& i = shared_->interfaces[slot];
      i.mac = mac_of(netdevs[slot].c_str());
      i.mtu_bytes = 1500;
      i.up = true;
      i.offload = 1;
      i.port_slot = static_cast<uint8_t>(slot);
      i.id = slot + 1;
    }
    shared_->memory->header->generations[0] = generation;
    bool created;
    uint32_t adjacency_id = shared_->adjacencies.find_or_create(1, sl_address{}, 0, &created);
    shared_->adjacencies.get(adjacency_id)->mac = mac_of(far.c_str()) | adjacency::resolved_bit;
    for (unsigned flow = 0; flow < s_.flows; ++flow) add_session(flow, adjacency_id);
  }
  void add_session(unsigned flow, uint32_t adjacency_id) {
    uint32_t index = shared_->sessions.allocate(0);
    session& one = shared_->sessions.at(index);
    flow_key k{};
    k.src = address_of(s_.family, source + flow % sources);
    k.dst = address_of(s_.family, destination + flow % destinations);
    k.src_port = static_cast<uint16_t>(source_port + flow / sources);
    k.dst_port = TRAFFIC_UDP_PORT;
    k.protocol = IPPROTO_UDP;
    flow_key back = reversed(k);
    back.dst = address_of(s_.family, pool + flow / 40000);
    back.dst_port = static_cast<uint16_t>(nat_port + flow % 40000);
    one.key0 = k;
    one.key1 = back;
    one.l3_delta[0] = checksum_delta(k.src.bytes, back.dst.bytes, 16);
    one.l4_delta[0] = checksum_delta_join(one.l3_delta[0], checksum_delta16(__builtin_bswap16(k.src_port), __builtin_bswap16(back.dst_port)));
    one.adjacency[0] = one.adjacency[1] = adjacency_id;
    one.interface_slot[1] = 1;
    one.generation = generation;
    one.state = SL_STATE_ESTABLISHED;
    one.offload = SL_OFFLOAD_ON;
    if (shared_->sessions.insert(index) != session_table::insert_result::inserted) fail("a session did not fit");
  }

  const settings& s_;
  bpf_object *receiver_ = nullptr, *generator_ = nullptr;
  int generator_fd_ = -1;
  std::unique_ptr<steering> steering_;
  std::unique_ptr<dataplane> shared_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Of a lane in one layout, medians of its turns: nanoseconds a packet, and the redirect's in the same turn divided by them.
struct figures { double ns, ratio; };

// The kernel frees all of it with the process.
std::vector<figures> measure_layout(const settings& s) {
  if (unshare(CLONE_NEWNET)) fail("no network namespace: %s", strerror(errno));
  shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
  std::vector<std::unique_ptr<lane>> lanes;
  for (const std::string& object : s.objects) lanes.push_back(std::make_unique<lane>(lanes.size(), s, object));
  std::vector<std::vector<double>> turns(lanes.size()), ratios(lanes.size());
  for (unsigned turn = 0; turn <= s.turns; ++turn) {
    std::vector<double> ns(lanes.size());
    for (size_t i = 0; i < lanes.size(); ++i) {
      size_t at = turn % 2 ? lanes.size() - 1 - i : i;
      ns[at] = lanes[at]->measure(s.packets);
    }
    for (size_t i = 0; i < lanes.size() && turn; ++i) {  // the first turn warms up
      turns[i].push_back(ns[i]);
      ratios[i].push_back(ns[0] / ns[i]);
    }
  }
  std::vector<figures> all;
  for (size_t i = 0; i < lanes.size(); ++i) all.push_back({median(turns[i]), median(ratios[i])});
  return all;
}

std::vector<figures> in_child(const settings& s) {
  int ends[2];
  if (pipe(ends)) fail("pipe: %s", strerror(errno));
  pid_t child = fork();
  if (child == 0) {
    std::vector<figures> all = measure_layout(s);
    ssize_t written = write(ends[1], all.data(), all.size() * sizeof(figures));
    _exit(written < 0);
  }
  close(ends[1]);
  std::vector<figures> all(s.objects.size());
  ssize_t bytes = read(ends[0], all.data(), all.size() * sizeof(figures));
  close(ends[0]);
  int status;
  waitpid(child, &status, 0);
  if (status || bytes != static_cast<ssize_t>(all.size() * sizeof(figures))) fail("a layout failed");
  return all;
}

}  // namespace

int main(int count, char** words) {
  bench::Options options(count, words, help);
  settings s{static_cast<unsigned>(options.number("family", 4)), static_cast<unsigned>(options.number("flows", 1000)), static_cast<unsigned>(options.number("packets", 50000)),
             static_cast<unsigned>(options.number("turns", 40)), static_cast<unsigned>(options.number("layouts", 5)), {"redirect"}};
  std::string list = options.text("objects", "build/bpf/steer.bpf.o") + ",";
  for (size_t at = 0, comma; (comma = list.find(',', at)) != std::string::npos; at = comma + 1) s.objects.push_back(list.substr(at, comma - at));
  if ((s.family != 4 && s.family != 6) || !s.flows || !s.packets || !s.turns || !s.layouts) { fputs(help, stderr); return 2; }
  std::vector<std::vector<double>> ns(s.objects.size()), ratio(s.objects.size());
  for (unsigned layout = 0; layout < s.layouts; ++layout) {
    std::vector<figures> all = in_child(s);
    for (size_t i = 0; i < all.size(); ++i) {
      ns[i].push_back(all[i].ns);
      ratio[i].push_back(all[i].ratio);
    }
  }
  for (size_t i = 0; i < s.objects.size(); ++i) {
    auto [least, most] = std::minmax_element(ratio[i].begin(), ratio[i].end());
    bench::print_line(format("{\"program\":\"%s\",\"family\":%u,\"flows\":%u,\"nsPerPacket\":%.1f,\"redirectOverThis\":%.3f,\"least\":%.3f,\"most\":%.3f}", s.objects[i].c_str(), s.family, s.flows,
                             median(ns[i]), median(ratio[i]), *least, *most));
  }
}
