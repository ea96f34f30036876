// SPDX-License-Identifier: Apache-2.0
// Peer: a bare AF_XDP forwarder between two netdevs, one worker thread: receive, set MAC addresses, transmit, both ways.
// It stands on the engine's own socket wrapper with the engine's settings, so the difference between the two is the
// engine's logic and nothing else. Ends with standard input; a sample holds its counters.
#include "../bpf/traffic.h"
#include "io/xsk.h"
#include "tool.h"
#include <atomic>
#include <thread>

using namespace bench;
using namespace sluice;

static const char help[] =
    "usage: bare_forwarder --in NETDEV --out NETDEV --destination-mac MAC --source-mac MAC [options]\n"
    "  --in NETDEV             netdev that receives\n"
    "  --out NETDEV            netdev that sends; what it receives goes back to --in\n"
    "  --destination-mac MAC   of the next hop\n"
    "  --source-mac MAC        of the outgoing netdev\n"
    "  --return-destination-mac MAC, --return-source-mac MAC   of what goes back (the same)\n"
    "  --batch N               frames a round and port (64)\n"
    "  --frames N              packet buffers (8192)\n"
    "  --ring N                entries a ring (2048)\n"
    "  --tx-budget N           descriptors a system call (256)\n"
    "  --idle-rounds N         empty rounds before it sleeps in poll (8)\n"
    "  --no-need-wakeup        kick on each flush\n"
    "  --bpf FILE              BPF object (build/bench/forwarders.bpf.o)\n";

constexpr unsigned BATCH_MAX = 256;
constexpr int SLEEP_MS = 100;       // so that the end of the process is noticed
constexpr int SLEEP_BUSY_TX_MS = 1; // while transmissions are under way

struct Counters {
  std::atomic<uint64_t> received{0}, transmitted{0}, dropped{0}, sleeps{0};
  static void add(std::atomic<uint64_t> &counter, uint64_t n) { counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
};

struct Worker {
  umem_area &area;
  frame_pool pool;
  std::unique_ptr<xsk> sockets[2];
  uint8_t macs[2][12]; // by the netdev that received
  unsigned batch, idle_rounds;
  Counters counters;
  std::atomic<bool> stopping{false};

  unsigned forward(unsigned in) {
    xsk &from = *sockets[in], &to = *sockets[!in];
    rx_frame frames[BATCH_MAX];
    unsigned received = from.receive(frames, batch), dropped = 0;
    for (unsigned i = 0; i < received; i++) {
      memcpy(frames[i].data, macs[in], sizeof macs[in]);
      if (!to.transmit(frames[i].address, frames[i].length)) {
        pool.put(frames[i].address);
        dropped++;
      }
    }
    if (received) {
      Counters::add(counters.received, received);
      Counters::add(counters.transmitted, received - dropped);
      Counters::add(counters.dropped, dropped);
    }
    to.flush();
    to.reclaim(pool);
    from.refill(pool);
    return received;
  }

  void run() {
    unsigned empty_rounds = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
      unsigned received = forward(0) + forward(1);
      empty_rounds = received ? 0 : empty_rounds + 1;
      if (empty_rounds > idle_rounds && !sockets[0]->rx_ready() && !sockets[1]->rx_ready()) {
        pollfd wait[2] = {{sockets[0]->fd(), POLLIN, 0}, {sockets[1]->fd(), POLLIN, 0}};
        poll(wait, 2, sockets[0]->outstanding_tx() || sockets[1]->outstanding_tx() ? SLEEP_BUSY_TX_MS : SLEEP_MS);
        Counters::add(counters.sleeps, 1);
        empty_rounds = 0;
      }
    }
  }
};

// Loads the steering program for one netdev and puts the netdev's socket into its map.
static void steer(const Options &options, unsigned ifindex, const xsk &socket) {
  bpf_object *object = open_object(options, "forwarders");
  bpf_program *program = load_program(object, "to_socket");
  uint32_t queue = 0, fd = socket.fd();
  if (bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, "sockets"), &queue, &fd, BPF_ANY))
    fail("cannot put the socket into the steering map: %s", strerror(errno));
  attach(program, ifindex);
}

int main(int count, char **words) {
  Options options(count, words, help);
  rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  std::string error;
  std::unique_ptr<umem_area> area = umem_area::create(options.number("frames", 8192), &error);
  if (!area)
    fail("packet memory: %s", error.c_str());

  Worker worker{*area, frame_pool(*area)};
  worker.batch = options.number("batch", 64);
  worker.idle_rounds = options.number("idle-rounds", 8);
  if (worker.batch < 1 || worker.batch > BATCH_MAX)
    fail("--batch must be 1 to %u", BATCH_MAX);
  for (int back : {0, 1}) {
    options.mac_or(back ? "return-destination-mac" : "destination-mac", "destination-mac", worker.macs[back]);
    options.mac_or(back ? "return-source-mac" : "source-mac", "source-mac", worker.macs[back] + 6);
  }
  const char *names[2] = {"in", "out"};
  for (int i = 0; i < 2; i++) {
    xsk_options settings;
    settings.ifindex = options.netdev(names[i]);
    settings.ring_entries = options.number("ring", xsk_ring_entries_default);
    settings.tx_budget = options.number("tx-budget", xsk_tx_budget_default);
    settings.need_wakeup = !options.has("no-need-wakeup");
    worker.sockets[i] = xsk::open(*area, settings, &error);
    if (!worker.sockets[i])
      fail("%s", error.c_str());
    worker.sockets[i]->refill(worker.pool);
    steer(options, settings.ifindex, *worker.sockets[i]);
  }

  std::thread thread([&] { worker.run(); });
  answer_samples([&] {
    Counters &counters = worker.counters;
    return format("{\"received\":%lu,\"transmitted\":%lu,\"dropped\":%lu,\"sleeps\":%lu,\"kicks\":%lu}", counters.received.load(),
                  counters.transmitted.load(), counters.dropped.load(), counters.sleeps.load(),
                  worker.sockets[0]->kicks() + worker.sockets[1]->kicks());
  });
  worker.stopping = true;
  thread.join();
}
