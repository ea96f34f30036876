// SPDX-License-Identifier: Apache-2.0
/*
 * xsk_test.cc: AF_XDP sockets over real veth pairs: source a0 → a1 [xsk, engine's namespace, xsk] b0 → b1 sink.
 * The steering program is five instructions: redirect into the map of sockets by receive queue, else pass.
 */
#include "io/xsk.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <doctest/doctest.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <set>

#include "network_namespace.h"
#include "worker.h"

using namespace sluice;
using namespace sluice_test;

namespace {

constexpr int patience_ms = 5000;
constexpr uint16_t test_ethertype = 0x88b5;  // IEEE 802 local experimental

class steering {
 public:
  explicit steering(uint32_t ifindex) {
    map_ = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "xsks", 4, 4, 1, nullptr);
    REQUIRE(map_ >= 0);
    const bpf_insn program[] = {
        {BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1, offsetof(xdp_md, rx_queue_index), 0},
        {BPF_LD | BPF_IMM | BPF_DW, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map_},
        {0, 0, 0, 0, 0},
        {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, XDP_PASS},
        {BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map},
        {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    program_ = bpf_prog_load(BPF_PROG_TYPE_XDP, "redirect", "Apache-2.0", program, std::size(program), nullptr);
    REQUIRE(program_ >= 0);
    REQUIRE(bpf_xdp_attach(static_cast<int>(ifindex), program_, XDP_FLAGS_DRV_MODE, nullptr) == 0);
  }
  ~steering() {
    ::close(program_);
    ::close(map_);
  }
  void set(const xsk& socket) {
    const uint32_t key = socket.queue();
    const int fd = socket.fd();
    REQUIRE(bpf_map_update_elem(map_, &key, &fd, 0) == 0);
  }
  void clear(uint32_t queue) { bpf_map_delete_elem(map_, &queue); }

 private:
  int map_, program_;
};

class packet_socket {
 public:
  explicit packet_socket(const char* ifname) : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(test_ethertype))) {
    sockaddr_ll at{};
    at.sll_family = AF_PACKET;
    at.sll_protocol = htons(test_ethertype);
    at.sll_ifindex = static_cast<int>(if_nametoindex(ifname));
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    const int buffer = 16 << 20;
    REQUIRE(setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) == 0);
  }
  ~packet_socket() { ::close(fd_); }
  void send(uint32_t serial, size_t bytes = 60) {
    uint8_t frame[1514]{};
    memset(frame, 0xff, 6);
    frame[6] = 2;
    frame[12] = test_ethertype >> 8;
    frame[13] = test_ethertype & 0xff;
    memcpy(frame + 14, &serial, sizeof serial);
    REQUIRE(::send(fd_, frame, bytes, 0) == static_cast<ssize_t>(bytes));
  }
  // -1: nothing within the time.
  int64_t receive(int timeout_ms = patience_ms) {
    pollfd wait{fd_, POLLIN, 0};
    if (::poll(&wait, 1, timeout_ms) != 1) return -1;
    uint8_t frame[2048];
    const ssize_t bytes = recv(fd_, frame, sizeof frame, 0);
    uint32_t serial;
    if (bytes < 18) return -1;
    memcpy(&serial, frame + 14, sizeof serial);
    return serial;
  }

 private:
  int fd_;
};

// The two veth pairs, one worker's memory, and its pool. The test stands in the engine's namespace.
struct topology {
  network_namespace left, engine, right;
  inside here{engine};
  std::unique_ptr<umem_area> area;
  std::unique_ptr<frame_pool> pool;
  std::string error;

  explicit topology(uint32_t frames = 1024) {
    // Neighbour discovery would send frames of its own.
    for (const network_namespace* n : {&left, &engine, &right}) {
      inside there(*n);
      FILE* f = fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "we");
      REQUIRE(f != nullptr);
      REQUIRE(fputs("1", f) >= 0);
      fclose(f);
    }
    run_ip("link add name a1 type veth peer name a0 netns " + left.path());
    run_ip("link add name b0 type veth peer name b1 netns " + right.path());
    run_ip("link set a1 up");
    run_ip("link set b0 up");
    {
      inside there(left);
      run_ip("link set a0 up");
    }
    {
      inside there(right);
      run_ip("link set b1 up");
    }
    area = umem_area::create(frames, &error);
    REQUIRE_MESSAGE(area, error);
    pool = std::make_unique<frame_pool>(*area);
  }
  std::unique_ptr<xsk> open(const char* ifname, uint32_t ring_entries = 256) {
    xsk_options options;
    options.ifindex = if_nametoindex(ifname);
    options.ring_entries = ring_entries;
    auto socket = xsk::open(*area, options, &error);
    REQUIRE_MESSAGE(socket, error);
    return socket;
  }
  // Every frame is back, and each but once.
  void check_all_frames_free() {
    CHECK(pool->count() == area->frame_count());
    CHECK(pool->overflows() == 0);
    std::set<uint64_t> seen;
    for (uint64_t address; pool->get(&address);) {
      CHECK(address % umem_frame_bytes == 0);
      CHECK(address < area->bytes());
      seen.insert(address);
    }
    CHECK(seen.size() == area->frame_count());
  }
};

// Receives until `wanted` frames came; returns how many did.
unsigned receive_some(xsk& socket, rx_frame* out, unsigned wanted) {
  unsigned n = 0;
  while (n < wanted) {
    n += socket.receive(out + n, wanted - n);
    pollfd wait{socket.fd(), POLLIN, 0};
    if (n < wanted && ::poll(&wait, 1, patience_ms) != 1) break;
  }
  return n;
}

}  // namespace

TEST_CASE("xsk: frames go from one netdev's socket to another's, and all of them are accounted for") {
  topology net;
  steering steer(if_nametoindex("a1"));
  auto in = net.open("a1"), out = net.open("b0");
  CHECK_FALSE(in->zero_copy());
  in->refill(*net.pool);
  CHECK(net.pool->count() == 1024 - 256);
  CHECK(in->held() == 256);
  steer.set(*in);

  std::unique_ptr<packet_socket> source, sink;
  {
    inside there(net.left);
    source = std::make_unique<packet_socket>("a0");
  }
  {
    inside there(net.right);
    sink = std::make_unique<packet_socket>("b1");
  }
  constexpr unsigned rounds = 100, burst = 40;
  uint32_t sent = 0, arrived = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned i = 0; i < burst; ++i) source->send(sent++, 60 + i * 37);
    rx_frame frames[burst];
    REQUIRE(receive_some(*in, frames, burst) == burst);
    for (unsigned i = 0; i < burst; ++i) {
      CHECK(frames[i].length == 60 + i * 37);
      CHECK(frames[i].data == net.area->at(frames[i].address));
      CHECK(frames[i].address % umem_frame_bytes >= umem_headroom_bytes);
      REQUIRE(out->transmit(frames[i].address, frames[i].length));
    }
    out->flush();
    CHECK_FALSE(out->tx_waiting());
    out->reclaim(*net.pool);
    in->refill(*net.pool);
    for (unsigned i = 0; i < burst; ++i) CHECK(sink->receive() == arrived++);
  }
  CHECK(in->kicks() == 0);
  CHECK(out->kicks() >= rounds);
  CHECK(out->tx_budget() >= 32);

  steer.clear(0);
  in->close(*net.pool);
  out->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: the transmit ring refuses when full and goes on when the kernel took what waits") {
  topology net;
  auto out = net.open("b0", 64);
  std::unique_ptr<packet_socket> sink;
  {
    inside there(net.right);
    sink = std::make_unique<packet_socket>("b1");
  }
  for (unsigned round = 0; round < 5; ++round) {
    uint64_t address = 0;
    for (unsigned i = 0; i < 64; ++i) {
      REQUIRE(net.pool->get(&address));
      uint8_t* frame = net.area->at(address + umem_headroom_bytes);
      memset(frame, 0, 64);
      memset(frame, 0xff, 6);
      frame[12] = test_ethertype >> 8;
      frame[13] = test_ethertype & 0xff;
      memcpy(frame + 14, &i, sizeof i);
      REQUIRE(out->transmit(address + umem_headroom_bytes, 64));
    }
    REQUIRE(net.pool->get(&address));
    CHECK_FALSE(out->transmit(address, 64));
    net.pool->put(address + 100);
    CHECK(out->outstanding_tx() == 64);
    out->flush();
    for (unsigned i = 0; i < 64; ++i) CHECK(sink->receive() == i);
    while (out->outstanding_tx() > 0) REQUIRE(out->reclaim(*net.pool) > 0);
    CHECK(net.pool->count() == 1024);
  }
  out->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: the levels of a socket's rings are what waits in them") {
  topology net;
  steering steer(if_nametoindex("a1"));
  auto socket = net.open("a1", 64);
  socket->refill(*net.pool);
  CHECK(socket->levels().entries == 64);
  CHECK(socket->levels().fill == 64);
  CHECK(socket->levels().rx == 0);
  steer.set(*socket);
  std::unique_ptr<packet_socket> source;
  {
    inside there(net.left);
    source = std::make_unique<packet_socket>("a0");
  }
  for (uint32_t serial = 0; serial < 10; ++serial) source->send(serial);
  pollfd wait{socket->fd(), POLLIN, 0};
  for (int tries = 0; socket->levels().rx < 10 && tries < 100; ++tries) ::poll(&wait, 1, patience_ms / 100);
  CHECK(socket->levels().rx == 10);
  CHECK(socket->levels().fill == 54);
  rx_frame frames[64];
  REQUIRE(socket->receive(frames, 64) == 10);
  CHECK(socket->levels().rx == 0);
  for (int i = 0; i < 10; ++i) REQUIRE(socket->transmit(frames[i].address, frames[i].length));
  CHECK(socket->levels().tx == 10);
  socket->flush();
  for (int tries = 0; socket->levels().completion < 10 && tries < 100; ++tries) ::poll(nullptr, 0, patience_ms / 100);
  CHECK(socket->levels().tx == 0);
  CHECK(socket->levels().completion == 10);
  socket->reclaim(*net.pool);
  CHECK(socket->levels().completion == 0);
  socket->close(*net.pool);
  CHECK(socket->levels().entries == 0);
  net.check_all_frames_free();
}

TEST_CASE("worker: lists its rings, and takes the time of a round that received something") {
  topology net;
  std::string error;
  auto memory = flow_memory::anonymous(256, &error);
  REQUIRE_MESSAGE(memory, error);
  dataplane shared(std::move(memory), 1);
  auto w = worker::create(shared, 0, 1024, &error);
  REQUIRE_MESSAGE(w, error);
  w->start();
  xsk_options options;
  options.ifindex = if_nametoindex("a1");
  options.ring_entries = 256;
  steering steer(options.ifindex);
  w->run_on([&] {
    auto socket = xsk::open(w->area(), options, &error);
    if (!socket) return;
    steer.set(*socket);
    w->add_socket(5, false, std::move(socket));
  });
  REQUIRE_MESSAGE(error.empty(), error);
  std::vector<sl_ring_record> rings;
  w->run_on([&] { w->list_rings(&rings); });
  REQUIRE(rings.size() == 1);
  CHECK(rings[0].port_slot == 5);
  CHECK(rings[0].queue == 0);
  CHECK(rings[0].entries == 256);
  CHECK(rings[0].fill == 256);

  worker_counters& counters = w->path().counters();
  auto rounds = [&] { uint64_t sum = 0; for (const auto& n : counters.latency) sum += n.load(); return sum; };
  CHECK(rounds() == 0);
  {
    inside there(net.left);
    packet_socket source("a0");
    source.send(1);
  }
  for (int tries = 0; rounds() == 0 && tries < 1000; ++tries) ::poll(nullptr, 0, patience_ms / 1000);
  CHECK(rounds() == 1);
  CHECK(counters.latency_ns.load() > 0);
  CHECK(counters.drop[SL_DROP_NO_SNAPSHOT].load() == 1);
  w->run_on([&] { w->remove_sockets(5); rings.clear(); w->list_rings(&rings); });
  CHECK(rings.empty());
  w->stop();
}

TEST_CASE("xsk: a descriptor that the kernel would discard is refused") {
  topology net(16);
  auto out = net.open("b0", 64);
  CHECK_FALSE(out->transmit(0, 0));
  CHECK_FALSE(out->transmit(0, umem_frame_bytes + 1));
  CHECK_FALSE(out->transmit(umem_headroom_bytes, umem_frame_bytes));
  CHECK_FALSE(out->transmit(net.area->bytes(), 64));
  CHECK(out->outstanding_tx() == 0);
  out->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: close gives back what lies in each ring, and the queue can be opened again at once") {
  topology net;
  steering steer(if_nametoindex("a1"));
  std::unique_ptr<packet_socket> source;
  {
    inside there(net.left);
    source = std::make_unique<packet_socket>("a0");
  }
  for (unsigned round = 0; round < 10; ++round) {
    auto in = net.open("a1", 128);
    in->refill(*net.pool, 100);
    CHECK(in->held() == 100);
    steer.set(*in);
    for (uint32_t i = 0; i < 50; ++i) source->send(i);  // 50 in the RX ring, 50 in the fill ring
    rx_frame frames[20];
    REQUIRE(receive_some(*in, frames, 20) == 20);
    CHECK(in->held() == 80);
    for (unsigned i = 0; i < 10; ++i) REQUIRE(in->transmit(frames[i].address, frames[i].length));  // never flushed by us
    for (unsigned i = 10; i < 20; ++i) net.pool->put(frames[i].address);
    in->close(*net.pool);
    CHECK(net.pool->count() == 1024);
    CHECK(in->fd() == -1);
    CHECK(in->held() == 0);
    CHECK(in->outstanding_tx() == 0);
    CHECK_FALSE(in->transmit(frames[0].address, 60));
    in->flush();
    in->refill(*net.pool);
    CHECK(in->reclaim(*net.pool) == 0);
    CHECK(in->receive(frames, 20) == 0);
    CHECK(net.pool->count() == 1024);
  }
  net.check_all_frames_free();
}

TEST_CASE("xsk: an empty fill ring drops, says so, and recovers when refilled") {
  topology net(64);
  steering steer(if_nametoindex("a1"));
  std::unique_ptr<packet_socket> source;
  {
    inside there(net.left);
    source = std::make_unique<packet_socket>("a0");
  }
  auto in = net.open("a1", 64);
  in->refill(*net.pool, 8);
  CHECK(net.pool->count() == 56);
  steer.set(*in);
  rx_frame frames[64];
  for (uint32_t i = 0; i < 30; ++i) source->send(i);
  REQUIRE(receive_some(*in, frames, 8) == 8);
  CHECK(in->receive(frames + 8, 1) == 0);
  xdp_statistics statistics;
  REQUIRE(in->statistics(&statistics));
  CHECK(statistics.rx_fill_ring_empty_descs + statistics.rx_dropped >= 22);
  for (unsigned i = 0; i < 8; ++i) net.pool->put(frames[i].address);
  in->refill(*net.pool);
  CHECK(net.pool->count() == 0);
  for (uint32_t i = 0; i < 30; ++i) source->send(i);
  REQUIRE(receive_some(*in, frames, 30) == 30);
  for (unsigned i = 0; i < 30; ++i) net.pool->put(frames[i].address);
  in->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: a socket lives on when the one opened first is closed, and when its netdev is removed") {
  for (const bool removed : {false, true}) {
    CAPTURE(removed);
    topology net;
    auto first = net.open("b0");
    first->refill(*net.pool);
    if (removed) {
      run_ip("link del b0");
      uint64_t address = 0;
      REQUIRE(net.pool->get(&address));
      REQUIRE(first->transmit(address, 60));
      first->flush();
      CHECK(first->gone());
      CHECK_FALSE(first->transmit(address, 60));
    }
    auto second = net.open("a1");
    steering steer(if_nametoindex("a1"));
    second->refill(*net.pool);
    steer.set(*second);
    first->close(*net.pool);
    std::unique_ptr<packet_socket> source;
    {
      inside there(net.left);
      source = std::make_unique<packet_socket>("a0");
    }
    source->send(1);
    rx_frame frame;
    REQUIRE(receive_some(*second, &frame, 1) == 1);
    REQUIRE(second->transmit(frame.address, frame.length));
    second->flush();
    CHECK(second->reclaim(*net.pool) == 1);
    second->close(*net.pool);
    net.check_all_frames_free();
  }
}

TEST_CASE("xsk: with the link down, frames wait or complete, none is lost, and traffic goes on afterwards") {
  topology net;
  auto out = net.open("b0", 64);
  const auto send_ten = [&] {
    for (unsigned i = 0; i < 10; ++i) {
      uint64_t address = 0;
      REQUIRE(net.pool->get(&address));
      memset(net.area->at(address), 0, 60);
      REQUIRE(out->transmit(address, 60));
    }
    out->flush();
  };
  SUBCASE("administratively down") {
    run_ip("link set b0 down");
    send_ten();
    CHECK(out->outstanding_tx() == 10);
    CHECK(out->tx_waiting());
    run_ip("link set b0 up");
    out->flush();
  }
  SUBCASE("no carrier") {
    {
      inside there(net.right);
      run_ip("link set b1 down");
    }
    send_ten();
    {
      inside there(net.right);
      run_ip("link set b1 up");
    }
    out->flush();
  }
  CHECK(out->reclaim(*net.pool) == 10);
  CHECK_FALSE(out->gone());
  out->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: busy polling and no need_wakeup transmit as well") {
  topology net;
  xsk_options options;
  options.ifindex = if_nametoindex("b0");
  options.need_wakeup = false;
  options.mode = xsk_mode::copy;
  options.busy_poll_us = 20;
  auto out = xsk::open(*net.area, options, &net.error);
  REQUIRE_MESSAGE(out, net.error);
  CHECK(out->busy_polling());
  out->refill(*net.pool, 32);
  uint64_t address = 0;
  REQUIRE(net.pool->get(&address));
  REQUIRE(out->transmit(address, 60));
  out->flush();
  CHECK(out->reclaim(*net.pool) == 1);
  out->close(*net.pool);
  net.check_all_frames_free();
}

TEST_CASE("xsk: what cannot be opened says why and what would be right") {
  topology net(16);
  xsk_options options;
  options.ifindex = if_nametoindex("a1");
  std::string error;
  const auto refused = [&](const char* word) {
    CHECK(xsk::open(*net.area, options, &error) == nullptr);
    INFO(error);
    CHECK(error.find(word) != std::string::npos);
  };
  SUBCASE("no such queue") {
    options.queue = 63;
    refused("no such queue");
  }
  SUBCASE("no such netdev") {
    options.ifindex = 9999;
    refused("no such netdev");
  }
  SUBCASE("ring size") {
    options.ring_entries = 100;
    refused("power of two");
  }
  SUBCASE("zero-copy on a driver without") {
    options.mode = xsk_mode::zero_copy;
    refused("zero-copy");
  }
  SUBCASE("queue taken") {
    auto holder = xsk::open(*net.area, options, &error);
    REQUIRE(holder);
    refused("another AF_XDP socket");
  }
  SUBCASE("frame count") {
    CHECK(umem_area::create(0, &error) == nullptr);
    CHECK(error.find("1 to") != std::string::npos);
  }
}
