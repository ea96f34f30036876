// SPDX-License-Identifier: Apache-2.0
// frames.cc: raw frames for the lab (lab/frames.ts starts it inside a namespace). Runs until stdin ends or it is killed.
//   frames DEVICE exchange [PORT...]  each line of stdin, a frame in hex, is sent; each frame that comes in is written as a line of hex,
//                                     but UDP to these ports
//   frames DEVICE stream HEX RATE     sends a UDP frame RATE times a second, its last eight bytes a counter, checksums kept right
//   frames DEVICE flood HEX RATE      the same with another source port, and after each 60,000 another source address, for each frame
//   frames DEVICE count PORT          counters of `stream` that come in to UDP port PORT: JSON lines {received, lost, reordered, last}, every 50 ms;
//                                     "lost" counts gaps that nothing filled yet
// One thread; AF_PACKET with a receive buffer of 64 MiB.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using bytes = std::vector<uint8_t>;
constexpr int receive_bytes = 64 << 20;
constexpr unsigned flood_ports = 60'000, flood_first_port = 2000, flood_addresses = 100;
// At once at most, when it was late: a veth's ring holds 256, and what it refuses would pass for a loss of the appliance's.
constexpr uint64_t burst_frames_max = 64;
constexpr uint64_t report_ns = 50'000'000;

[[noreturn]] void fail(const char* what) { std::perror(what); std::exit(1); }

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}

int open_device(const char* device) {
  // Of no protocol until it is bound: one that hears already goes deaf for as long as bind() waits for the kernel's readers, a gap among what it counts.
  int fd = socket(AF_PACKET, SOCK_RAW, 0);
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes);
  int one = 1;
  setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one);
  setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one);
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(ETH_P_ALL);
  at.sll_ifindex = static_cast<int>(if_nametoindex(device));
  if (!at.sll_ifindex || bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0) fail(device);
  return fd;
}

// A frame as it was on the wire: the kernel takes a VLAN tag out before a packet socket sees the frame, and tells it beside. Room for it
// must be in `into`. Below 0: there is none.
ssize_t receive(int fd, uint8_t* into, size_t room) {
  constexpr size_t tag_bytes = 4, addresses_bytes = 12;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(tpacket_auxdata))];
  iovec part{into, room - tag_bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT);
  if (n < static_cast<ssize_t>(addresses_bytes)) return n;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
    tpacket_auxdata aux;
    std::memcpy(&aux, CMSG_DATA(c), sizeof aux);
    if (!(aux.tp_status & TP_STATUS_VLAN_VALID)) continue;
    std::memmove(into + addresses_bytes + tag_bytes, into + addresses_bytes, static_cast<size_t>(n) - addresses_bytes);
    const uint16_t tpid = aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : ETH_P_8021Q;
    const uint8_t tag[tag_bytes] = {static_cast<uint8_t>(tpid >> 8), static_cast<uint8_t>(tpid), static_cast<uint8_t>(aux.tp_vlan_tci >> 8), static_cast<uint8_t>(aux.tp_vlan_tci)};
    std::memcpy(into + addresses_bytes, tag, sizeof tag);
    return n + static_cast<ssize_t>(tag_bytes);
  }
  return n;
}

bytes from_hex(const std::string& text) {
  bytes out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) out.push_back(static_cast<uint8_t>(std::strtoul(text.substr(i, 2).c_str(), nullptr, 16)));
  return out;
}

uint32_t sum(const uint8_t* p, size_t n, uint32_t s = 0) {
  for (size_t i = 0; i + 1 < n; i += 2) s += static_cast<uint32_t>(p[i] << 8 | p[i + 1]);
  if (n & 1) s += static_cast<uint32_t>(p[n - 1] << 8);
  return s;
}
uint16_t finish(uint32_t s) {
  while (s >> 16) s = (s & 0xffff) + (s >> 16);
  return static_cast<uint16_t>(~s);
}
void put16(uint8_t* p, uint16_t v) { p[0] = static_cast<uint8_t>(v >> 8); p[1] = static_cast<uint8_t>(v); }

struct udp_place { size_t ip, udp, bytes; bool v4; };

bool find_udp(const uint8_t* f, size_t n, udp_place* at) {
  size_t ip = n >= 18 && f[12] == 0x81 && f[13] == 0 ? 18 : 14;
  if (n < ip + 28) return false;
  const bool v4 = f[ip] >> 4 == 4;
  const size_t udp = ip + (v4 ? (f[ip] & 15) * 4u : 40u);
  if (f[ip + (v4 ? 9 : 6)] != 17 || n < udp + 8) return false;
  const size_t length = static_cast<size_t>(f[udp + 4] << 8 | f[udp + 5]);
  if (length < 8 || udp + length > n) return false;
  *at = {ip, udp, length, v4};
  return true;
}

void set_checksums(bytes& f, const udp_place& at) {
  uint8_t *ip = &f[at.ip], *udp = &f[at.udp];
  if (at.v4) {
    put16(ip + 10, 0);
    put16(ip + 10, finish(sum(ip, 20)));
  }
  put16(udp + 6, 0);
  uint32_t s = at.v4 ? sum(ip + 12, 8) : sum(ip + 8, 32);
  uint16_t check = finish(sum(udp, at.bytes, s + 17 + static_cast<uint32_t>(at.bytes)));
  put16(udp + 6, check ? check : 0xffff);
}

void send_many(int fd, bytes frame, double rate, bool flood) {
  udp_place at;
  if (!find_udp(frame.data(), frame.size(), &at) || at.bytes < 16) { std::fputs("a UDP frame with eight bytes of payload is wanted\n", stderr); std::exit(2); }
  const uint64_t began = now_ns();
  uint64_t sent = 0, reported = began;
  const uint8_t first_address = frame[at.ip + (at.v4 ? 15 : 23)];
  for (;;) {
    const uint64_t now = now_ns(), due = static_cast<uint64_t>(static_cast<double>(now - began) * rate / 1e9);
    for (const uint64_t until = flood ? due : std::min(due, sent + burst_frames_max); sent < until; ++sent) {
      if (flood) {
        put16(&frame[at.udp], static_cast<uint16_t>(flood_first_port + sent % flood_ports));
        frame[at.ip + (at.v4 ? 15 : 23)] = static_cast<uint8_t>(first_address + sent / flood_ports % flood_addresses);
      }
      for (unsigned i = 0; i < 8; ++i) frame[at.udp + at.bytes - 8 + i] = static_cast<uint8_t>(sent >> (56 - 8 * i));
      set_checksums(frame, at);
      while (send(fd, frame.data(), frame.size(), 0) < 0) {  // the queue is full: what is not sent is not counted
        pollfd wait{fd, POLLOUT, 0};
        poll(&wait, 1, 1);
      }
    }
    if (now - reported >= report_ns) {
      reported = now;
      std::printf("{\"sent\":%llu}\n", static_cast<unsigned long long>(sent));
      std::fflush(stdout);
    }
    timespec pause{0, 500'000};
    nanosleep(&pause, nullptr);
  }
}

void count(int fd, unsigned port) {
  std::vector<bool> seen;
  uint64_t received = 0, reordered = 0, first = UINT64_MAX, last = 0, distinct = 0, reported = now_ns();
  uint8_t f[4096];
  for (;;) {
    pollfd wait{fd, POLLIN, 0};
    poll(&wait, 1, 20);
    for (ssize_t n; (n = receive(fd, f, sizeof f)) > 0;) {
      udp_place at;
      if (!find_udp(f, static_cast<size_t>(n), &at) || at.bytes < 16 || static_cast<unsigned>(f[at.udp + 2] << 8 | f[at.udp + 3]) != port) continue;
      uint64_t value = 0;
      for (unsigned i = 0; i < 8; ++i) value = value << 8 | f[at.udp + at.bytes - 8 + i];
      if (value > 100'000'000) continue;
      if (value >= seen.size()) seen.resize(value + 65536);
      ++received;
      if (!seen[value]) { seen[value] = true; ++distinct; }
      if (first == UINT64_MAX) first = value;
      else if (value < last) ++reordered;
      if (value < first) first = value;
      if (value > last) last = value;
    }
    if (const uint64_t now = now_ns(); now - reported >= report_ns) {
      reported = now;
      const uint64_t span = received ? last - first + 1 : 0;
      std::printf("{\"received\":%llu,\"lost\":%llu,\"reordered\":%llu,\"repeated\":%llu,\"last\":%lld}\n", static_cast<unsigned long long>(received), static_cast<unsigned long long>(span - distinct),
                  static_cast<unsigned long long>(reordered), static_cast<unsigned long long>(received - distinct), received ? static_cast<long long>(last) : -1);
      std::fflush(stdout);
    }
  }
}

void exchange(int fd, const std::vector<unsigned>& ignored) {
  std::string line;
  char in[16384];
  uint8_t f[65536];
  for (;;) {
    pollfd wait[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
    poll(wait, 2, -1);
    if (wait[0].revents & POLLIN) {
      ssize_t n = receive(fd, f, sizeof f);
      udp_place at;
      bool wanted = n > 0;
      if (wanted && find_udp(f, static_cast<size_t>(n), &at))
        for (unsigned port : ignored) wanted = wanted && static_cast<unsigned>(f[at.udp + 2] << 8 | f[at.udp + 3]) != port;
      if (wanted) {
        std::string out;
        char two[3];
        for (ssize_t i = 0; i < n; ++i) { std::snprintf(two, sizeof two, "%02x", f[i]); out += two; }
        std::puts(out.c_str());
        std::fflush(stdout);
      }
    }
    if (!wait[1].revents) continue;
    ssize_t n = read(0, in, sizeof in);
    if (n <= 0) return;
    for (ssize_t i = 0; i < n; ++i) {
      if (in[i] != '\n') { line += in[i]; continue; }
      bytes frame = from_hex(line);
      line.clear();
      if (!frame.empty() && send(fd, frame.data(), frame.size(), 0) < 0) std::perror("send");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[2] : "";
  if (command == "exchange") {
    std::vector<unsigned> ignored;
    for (int i = 3; i < argc; ++i) ignored.push_back(static_cast<unsigned>(std::atoi(argv[i])));
    exchange(open_device(argv[1]), ignored);
  }
  else if ((command == "stream" || command == "flood") && argc == 5) send_many(open_device(argv[1]), from_hex(argv[3]), std::atof(argv[4]), command == "flood");
  else if (command == "count" && argc == 4) count(open_device(argv[1]), static_cast<unsigned>(std::atoi(argv[3])));
  else { std::fputs("frames DEVICE exchange [PORT...] | stream HEX RATE | flood HEX RATE | count PORT\n", stderr); return 2; }
  return 0;
}
