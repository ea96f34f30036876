// SPDX-License-Identifier: Apache-2.0
// Generator: sends UDP frames out of a netdev with XDP live frames (BPF_PROG_TEST_RUN), no socket and no skb involved.
// The netdev's peer needs NAPI: an XDP program or `ethtool -K PEER gro on`. Frames go in rounds over all flows.
// Prints one JSON object at the end: packets made (drops in a full veth ring included), seconds, CPU seconds.
#include "../bpf/traffic.h"
#include "tool.h"
#include <algorithm>
#include <sched.h>
#include <linux/if_link.h>
#include <sys/mman.h>
#include <sys/time.h>

using namespace bench;

static const char help[] =
    "usage: generator --out NETDEV --destination-mac MAC --source ADDRESS --destination ADDRESS [options]\n"
    "  --out NETDEV              netdev that sends\n"
    "  --destination-mac MAC     of the device under test\n"
    "  --source ADDRESS          first source address (IPv4 or IPv6, both ends the same family)\n"
    "  --destination ADDRESS     first destination address\n"
    "  --sources N               consecutive source addresses (250)\n"
    "  --destinations N          consecutive destination addresses (200)\n"
    "  --flows N                 (1000) flow i: source + i % sources, port + i / sources, destination + i % destinations\n"
    "  --source-port PORT        first source port (1024)\n"
    "  --size BYTES              frame without FCS (64)\n"
    "  --seconds N               how long at most (5)\n"
    "  --packets N               how many at most (no limit)\n"
    "  --rate N                  packets a second (as fast as it goes), in bursts of half a millisecond\n"
    "  --even                    with --rate: evenly spaced, at the price of a busy CPU\n"
    "  --probe ROUNDS            instead: each flow ROUNDS times, at --rate (20000): lets the device make its sessions\n"
    "  --mark                    mark the packets, for the receiver's --flows and --answer\n"
    "  --stamp                   put the time into the payload, for the receiver's latency\n"
    "  --cpu N                   run on this CPU\n"
    "  --bpf FILE                BPF object (build/bench/generator.bpf.o)\n";

constexpr uint64_t SLICE_NS = 500000;           // rate limit: a burst every 0.5 ms; each costs some 50 us to set up
constexpr unsigned EVEN_BATCH = 8;              // a frame leaves at the end of its batch: within a microsecond
constexpr uint64_t CALL_PACKETS_MAX = INT32_MAX; // a timer's signal ends the call before that

static volatile sig_atomic_t stopped;

static uint32_t parse_address(const std::string &text, uint32_t into[4]) {
  if (inet_pton(AF_INET, text.c_str(), &into[3]) == 1) {
    into[0] = into[1] = into[2] = 0;
    into[3] = ntohl(into[3]);
    return 4;
  }
  if (inet_pton(AF_INET6, text.c_str(), into) != 1)
    fail("%s is no IP address", text.c_str());
  for (int i = 0; i < 4; i++)
    into[i] = ntohl(into[i]);
  return 6;
}

static generator_config read_config(const Options &options) {
  generator_config config{};
  config.ifindex = options.netdev("out");
  options.mac("destination-mac", config.destination_mac);
  config.source_mac[0] = 0x02;
  config.family = parse_address(options.required("source"), config.source);
  if (parse_address(options.required("destination"), config.destination) != config.family)
    fail("--source and --destination are of different families");
  config.flows = options.number("flows", 1000);
  config.sources = options.number("sources", 250);
  config.destinations = options.number("destinations", 200);
  config.source_port = options.number("source-port", 1024);
  config.frame_bytes = options.number("size", 64);
  uint32_t headers = 14 + (config.family == 4 ? 20 : 40) + 8;
  if (config.frame_bytes < headers || config.frame_bytes > 3506)
    fail("--size must be %u to 3506", headers);
  if (!config.flows || !config.sources || !config.destinations)
    fail("--flows, --sources and --destinations must be at least 1");
  if (config.source_port + (config.flows - 1) / config.sources > 65535)
    fail("%u flows need more --sources: the ports end at 65535", config.flows);
  config.tagged = config.frame_bytes - headers >= TRAFFIC_TAG_BYTES;
  config.marked = options.has("mark");
  config.stamped = options.has("stamp");
  if (config.stamped && config.frame_bytes - headers < TRAFFIC_STAMP_BYTES)
    fail("--stamp needs --size %u at least", headers + TRAFFIC_STAMP_BYTES);
  return config;
}

// Each test run puts its program into the kernel's XDP dispatcher and takes it out again: two patches of kernel code,
// some 20 ms. While the program is attached somewhere it is in there already; loopback carries nothing here.
static void keep_dispatched(bpf_program *program) {
  int loopback = if_nametoindex("lo");
  if (bpf_xdp_attach(loopback, bpf_program__fd(program), XDP_FLAGS_SKB_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST, nullptr))
    return;
  atexit([] { bpf_xdp_detach(if_nametoindex("lo"), XDP_FLAGS_SKB_MODE, nullptr); });
}

int main(int count, char **words) {
  Options options(count, words, help);
  generator_config config = read_config(options);
  bool probe = options.has("probe");
  uint64_t rate = options.number("rate", probe ? 20000 : 0);
  bool even = rate && options.has("even");
  if (even) {
    config.interval_ns = 1000000000u / rate;
    rate = 0;
  }
  uint64_t packets_max = probe ? options.number("probe", 1) * config.flows : options.number("packets", UINT64_MAX);
  uint64_t seconds_max = options.number("seconds", probe ? 600 : 5);
  if (options.has("cpu")) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(options.number("cpu", 0), &set);
    if (sched_setaffinity(0, sizeof set, &set))
      fail("--cpu %s: %s", options.text("cpu", "").c_str(), strerror(errno));
  }

  bpf_object *object = open_object(options, "generator");
  set_config(object, config);
  bpf_program *generate = load_program(object, "generate");
  keep_dispatched(generate);
  int program = bpf_program__fd(generate);
  void *memory = mmap(nullptr, sizeof(generator_state), PROT_READ, MAP_SHARED, bpf_map__fd(internal_map(object, ".bss")), 0);
  if (memory == MAP_FAILED)
    fail("cannot map the generator's state: %s", strerror(errno));
  const volatile auto *state = static_cast<const volatile generator_state *>(memory);
  for (int signal_number : {SIGINT, SIGTERM, SIGALRM})
    signal(signal_number, [](int) { stopped = 1; });

  std::string frame(config.frame_bytes, '\0');
  uint64_t start = now_ns(), end = start + seconds_max * 1000000000u, now = start;
  double cpu_start = cpu_seconds();
  itimerval timer{{0, 10000}, {time_t(seconds_max), 0}}; // repeats, should the first signal come between two calls
  setitimer(ITIMER_REAL, &timer, nullptr);
  while (!stopped && now < end && state->packets < packets_max) {
    uint64_t made = state->packets;
    uint64_t due = rate ? rate * (now - start + SLICE_NS) / 1000000000u : UINT64_MAX;
    uint64_t repeat = std::min({due - std::min(due, made), packets_max - made, CALL_PACKETS_MAX});
    if (repeat) {
      LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame.data(), .data_size_in = config.frame_bytes, .repeat = int(repeat),
                  .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = even ? EVEN_BATCH : 0);
      if (bpf_prog_test_run_opts(program, &run) && errno != EINTR)
        fail("BPF_PROG_TEST_RUN with live frames: %s", strerror(errno));
    }
    now = now_ns();
    if (rate) {
      uint64_t wake = start + state->packets * 1000000000u / rate;
      if (wake > now) {
        timespec pause{0, long(std::min<uint64_t>(wake - now, 999999999u))};
        nanosleep(&pause, nullptr);
        now = now_ns();
      }
    }
  }
  double seconds = (now_ns() - start) / 1e9;
  uint64_t packets = state->packets;
  print_line(format("{\"packets\":%lu,\"seconds\":%.6f,\"pps\":%.0f,\"cpuSeconds\":%.6f}", packets, seconds, packets / seconds,
                    cpu_seconds() - cpu_start));
}
