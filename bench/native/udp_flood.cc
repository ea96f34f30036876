// SPDX-License-Identifier: Apache-2.0
// UDP flood: prepared messages, one after the other and again, each from another spoofed IPv4 address and port, at a rate.
// One thread sends (AF_PACKET past the queueing discipline, many frames a call), the other answers samples; see tool.h.
// What the netdev's queue does not take is not sent again: it counts as not sent.
#include "tool.h"
#include <arpa/inet.h>
#include <atomic>
#include <fstream>
#include <iterator>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <thread>
#include <vector>

using namespace bench;

static const char help[] =
    "usage: udp_flood --out NETDEV --destination-mac MAC --destination ADDRESS --port PORT --messages FILE --message-bytes N [options]\n"
    "  --out NETDEV              netdev that sends\n"
    "  --destination-mac MAC     of the next hop\n"
    "  --destination ADDRESS     IPv4\n"
    "  --port PORT               destination port\n"
    "  --messages FILE           payloads, one behind the other\n"
    "  --message-bytes N         of each of them\n"
    "  --source ADDRESS          first source address (100.64.0.1)\n"
    "  --sources N               consecutive source addresses (4000000)\n"
    "  --rate N                  messages a second (50000)\n";

constexpr unsigned BATCH = 32;
constexpr uint64_t SLICE_NS = 500000; // a burst every 0.5 ms
constexpr unsigned FIRST_PORT = 1024, PORTS = 60000;

struct Frame {
  ethhdr eth;
  iphdr ip;
  udphdr udp;
  uint8_t payload[1472];
} __attribute__((packed));

static uint16_t header_checksum(const iphdr &ip) {
  uint32_t sum = 0;
  auto *word = reinterpret_cast<const uint8_t *>(&ip);
  for (unsigned i = 0; i < sizeof ip; i += 2)
    sum += word[i] << 8 | word[i + 1];
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return htons(uint16_t(~sum));
}

static int open_netdev(unsigned ifindex) {
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0)
    fail("socket: %s", strerror(errno));
  setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on);
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_ifindex = int(ifindex);
  if (bind(fd, reinterpret_cast<sockaddr *>(&at), sizeof at))
    fail("bind: %s", strerror(errno));
  return fd;
}

int main(int count, char **words) {
  Options options(count, words, help);
  unsigned ifindex = options.netdev("out");
  std::ifstream file(options.required("messages"), std::ios::binary);
  std::vector<uint8_t> messages{std::istreambuf_iterator<char>(file), {}};
  size_t bytes = options.number("message-bytes", 0);
  if (!bytes || bytes > sizeof Frame::payload || messages.size() < bytes)
    fail("--messages must hold at least one message of --message-bytes, 1472 at most");
  size_t kinds = messages.size() / bytes;
  uint32_t sources = options.number("sources", 4000000);
  uint64_t rate = options.number("rate", 50000);
  if (!sources || !rate)
    fail("--sources and --rate must be at least 1");
  in_addr source{}, destination{};
  if (inet_pton(AF_INET, options.text("source", "100.64.0.1").c_str(), &source) != 1 || inet_pton(AF_INET, options.required("destination").c_str(), &destination) != 1)
    fail("--source and --destination take IPv4 addresses");

  Frame model{};
  options.mac("destination-mac", model.eth.h_dest);
  model.eth.h_source[0] = 0x02;
  model.eth.h_proto = htons(ETH_P_IP);
  model.ip.version = 4;
  model.ip.ihl = 5;
  model.ip.tot_len = htons(uint16_t(sizeof model.ip + sizeof model.udp + bytes));
  model.ip.ttl = 64;
  model.ip.protocol = IPPROTO_UDP;
  model.ip.daddr = destination.s_addr;
  model.udp.dest = htons(uint16_t(options.number("port", 0)));
  model.udp.len = htons(uint16_t(sizeof model.udp + bytes)); // no checksum: IPv4 allows it

  int fd = open_netdev(ifindex);
  std::atomic<uint64_t> sent{0};
  std::thread([&] {
    std::vector<Frame> frames(BATCH, model);
    std::vector<iovec> parts(BATCH);
    std::vector<mmsghdr> calls(BATCH);
    for (unsigned i = 0; i < BATCH; i++) {
      parts[i] = {&frames[i], offsetof(Frame, payload) + bytes};
      calls[i].msg_hdr.msg_iov = &parts[i];
      calls[i].msg_hdr.msg_iovlen = 1;
    }
    uint64_t start = now_ns(), tried = 0;
    for (;;) {
      uint64_t due = rate * (now_ns() - start + SLICE_NS) / 1000000000u;
      while (tried < due) {
        unsigned batch = unsigned(std::min<uint64_t>(BATCH, due - tried));
        for (unsigned i = 0; i < batch; i++, tried++) {
          Frame &frame = frames[i];
          frame.ip.saddr = htonl(ntohl(source.s_addr) + uint32_t(tried % sources));
          frame.ip.check = 0;
          frame.ip.check = header_checksum(frame.ip);
          frame.udp.source = htons(uint16_t(FIRST_PORT + tried % PORTS));
          memcpy(frame.payload, &messages[tried % kinds * bytes], bytes);
        }
        int taken = sendmmsg(fd, calls.data(), batch, 0);
        if (taken > 0)
          sent += unsigned(taken);
      }
      timespec pause{0, long(SLICE_NS)};
      nanosleep(&pause, nullptr);
    }
  }).detach();
  answer_samples([&] { return format("{\"ns\":%lu,\"sent\":%lu,\"cpuSeconds\":%.6f}", now_ns(), sent.load(), cpu_seconds()); });
  _exit(0); // the sender has no end of its own
}
