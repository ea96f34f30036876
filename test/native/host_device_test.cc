// SPDX-License-Identifier: Apache-2.0
/*
 * host_device_test.cc: datagrams written to the device reach a socket bound to an address of another netdev, whole or in
 * fragments; what is not for the host goes nowhere.
 */
#include "io/host_device.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <fstream>
#include <string>
#include <vector>

#include "network_namespace.h"

using namespace sluice;
using namespace sluice_test;

namespace {

constexpr int patience_ms = 5000;
constexpr uint16_t port = 5353;

uint32_t sum(const uint8_t* bytes, size_t length, uint32_t so_far) {
  for (size_t i = 0; i < length; ++i) so_far += i % 2 ? bytes[i] : bytes[i] << 8;
  return so_far;
}
uint16_t fold(uint32_t s) {
  while (s >> 16) s = (s & 0xffff) + (s >> 16);
  return htons(static_cast<uint16_t>(~s));
}

std::vector<uint8_t> udp(const void* from, const void* to, size_t address_bytes, const std::string& text) {
  std::vector<uint8_t> datagram(sizeof(udphdr) + text.size());
  udphdr head{};
  head.uh_sport = htons(40000);
  head.uh_dport = htons(port);
  head.uh_ulen = htons(static_cast<uint16_t>(datagram.size()));
  memcpy(datagram.data(), &head, sizeof head);
  memcpy(datagram.data() + sizeof head, text.data(), text.size());
  uint32_t s = sum(static_cast<const uint8_t*>(from), address_bytes, IPPROTO_UDP + static_cast<uint32_t>(datagram.size()));
  s = sum(static_cast<const uint8_t*>(to), address_bytes, s);
  head.uh_sum = fold(sum(datagram.data(), datagram.size(), s));
  memcpy(datagram.data(), &head, sizeof head);
  return datagram;
}

std::vector<uint8_t> ipv4_packet(const char* from, const char* to, const uint8_t* payload, size_t length, uint16_t fragment) {
  std::vector<uint8_t> packet(sizeof(iphdr) + length);
  iphdr head{};
  head.version = 4;
  head.ihl = 5;
  head.ttl = 64;
  head.id = htons(77);
  head.protocol = IPPROTO_UDP;
  head.frag_off = htons(fragment);
  head.tot_len = htons(static_cast<uint16_t>(packet.size()));
  inet_pton(AF_INET, from, &head.saddr);
  inet_pton(AF_INET, to, &head.daddr);
  head.check = fold(sum(reinterpret_cast<uint8_t*>(&head), sizeof head, 0));
  memcpy(packet.data(), &head, sizeof head);
  memcpy(packet.data() + sizeof head, payload, length);
  return packet;
}

std::vector<uint8_t> ipv4_datagram(const char* from, const char* to, const std::string& text) {
  in_addr a, b;
  inet_pton(AF_INET, from, &a);
  inet_pton(AF_INET, to, &b);
  const auto payload = udp(&a, &b, 4, text);
  return ipv4_packet(from, to, payload.data(), payload.size(), 0);
}

std::vector<uint8_t> ipv6_datagram(const char* from, const char* to, const std::string& text) {
  ip6_hdr head{};
  inet_pton(AF_INET6, from, &head.ip6_src);
  inet_pton(AF_INET6, to, &head.ip6_dst);
  const auto payload = udp(&head.ip6_src, &head.ip6_dst, 16, text);
  head.ip6_flow = htonl(6u << 28);
  head.ip6_plen = htons(static_cast<uint16_t>(payload.size()));
  head.ip6_nxt = IPPROTO_UDP;
  head.ip6_hlim = 64;
  std::vector<uint8_t> packet(sizeof head + payload.size());
  memcpy(packet.data(), &head, sizeof head);
  memcpy(packet.data() + sizeof head, payload.data(), payload.size());
  return packet;
}

class listener {
 public:
  listener(int family, const char* address) : fd_(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in v4{};
    sockaddr_in6 v6{};
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    v4.sin_port = v6.sin6_port = htons(port);
    inet_pton(family, address, family == AF_INET ? static_cast<void*>(&v4.sin_addr) : &v6.sin6_addr);
    const bool bound = family == AF_INET ? bind(fd_, reinterpret_cast<sockaddr*>(&v4), sizeof v4) == 0
                                         : bind(fd_, reinterpret_cast<sockaddr*>(&v6), sizeof v6) == 0;
    REQUIRE(bound);
  }
  ~listener() { ::close(fd_); }
  std::string receive(int timeout_ms = patience_ms) {
    pollfd wait{fd_, POLLIN, 0};
    if (::poll(&wait, 1, timeout_ms) != 1) return "nothing";
    std::string text(65536, '\0');
    const ssize_t bytes = recv(fd_, text.data(), text.size(), 0);
    text.resize(bytes < 0 ? 0 : bytes);
    return text;
  }

 private:
  int fd_;
};

void set(const std::string& name, const char* value) {
  std::ofstream file("/proc/sys/net/" + name);
  file << value << std::flush;
  REQUIRE(file.good());
}

std::string get(const std::string& name) {
  std::ifstream file("/proc/sys/net/" + name);
  std::string value;
  file >> value;
  return value;
}

struct host {
  network_namespace space, peer;
  inside here{space};
  std::string error, warning;
  std::unique_ptr<host_device> device;

  host() {
    run_ip("link add e0 type veth peer name p0 netns " + peer.path());
    run_ip("link set e0 up");
    run_ip("addr add 192.0.2.1/24 dev e0");
    run_ip("addr add 2001:db8::1/64 dev e0 nodad");
    {
      inside there(peer);
      run_ip("link set p0 up");
      run_ip("addr add 192.0.2.2/24 dev p0");
    }
    set("ipv4/conf/all/rp_filter", "0");
    set("ipv4/conf/default/rp_filter", "1");  // what the device would inherit
  }
  void open() {
    device = host_device::open("sluice0", &error, &warning);
    REQUIRE_MESSAGE(device, error);
  }
  bool write(const std::vector<uint8_t>& packet) { return device->write(packet.data(), packet.size()); }
};

}  // namespace

TEST_CASE("host device: datagrams to an address of another netdev reach its socket, from on-link and routed sources") {
  host h;
  run_ip("route add default via 192.0.2.2");
  h.open();
  CHECK(h.warning == "");
  CHECK(h.device->ifindex() == if_nametoindex("sluice0"));
  listener v4(AF_INET, "192.0.2.1"), v6(AF_INET6, "2001:db8::1");
  for (const char* source : {"192.0.2.2", "198.51.100.7"}) {
    CHECK(h.write(ipv4_datagram(source, "192.0.2.1", source)));
    CHECK(v4.receive() == source);
  }
  for (const char* source : {"2001:db8::2", "2001:db8:ffff::7"}) {
    CHECK(h.write(ipv6_datagram(source, "2001:db8::1", source)));
    CHECK(v6.receive() == source);
  }
  CHECK(h.device->refused() == 0);
}

TEST_CASE("host device: sources need no route at all") {
  host h;
  h.open();
  listener v4(AF_INET, "192.0.2.1"), v6(AF_INET6, "2001:db8::1");
  CHECK(h.write(ipv4_datagram("198.51.100.7", "192.0.2.1", "four")));
  CHECK(v4.receive() == "four");
  CHECK(h.write(ipv6_datagram("2001:db8:ffff::7", "2001:db8::1", "six")));
  CHECK(v6.receive() == "six");
}

TEST_CASE("host device: the host reassembles fragments, up to the largest datagram") {
  host h;
  h.open();
  listener v4(AF_INET, "192.0.2.1");
  const std::string text(60000, 'x');
  in_addr a, b;
  inet_pton(AF_INET, "192.0.2.2", &a);
  inet_pton(AF_INET, "192.0.2.1", &b);
  const auto payload = udp(&a, &b, 4, text);
  constexpr size_t piece = 1480;
  for (size_t at = 0; at < payload.size(); at += piece) {
    const size_t length = std::min(piece, payload.size() - at);
    const bool last = at + length == payload.size();
    CHECK(h.write(ipv4_packet("192.0.2.2", "192.0.2.1", payload.data() + at, length,
                              static_cast<uint16_t>(at / 8 | (last ? 0 : IP_MF)))));
  }
  CHECK(v4.receive() == text);
  CHECK(h.write(ipv4_datagram("192.0.2.2", "192.0.2.1", std::string(65000, 'y'))));
  CHECK(v4.receive() == std::string(65000, 'y'));
}

TEST_CASE("host device: IPv4 that is not for the host ends there, even where other netdevs forward") {
  host h;
  set("ipv4/ip_forward", "1");
  h.open();
  CHECK(get("ipv4/conf/sluice0/forwarding") == "0");
  std::unique_ptr<listener> beyond;
  {
    inside there(h.peer);
    beyond = std::make_unique<listener>(AF_INET, "192.0.2.2");
  }
  listener own(AF_INET, "192.0.2.1");
  CHECK(h.write(ipv4_datagram("198.51.100.7", "192.0.2.2", "through")));
  // The device handles packets in order and within write: once this one is here, the other would be beyond.
  CHECK(h.write(ipv4_datagram("198.51.100.7", "192.0.2.1", "here")));
  CHECK(own.receive() == "here");
  CHECK(beyond->receive(100) == "nothing");
}

TEST_CASE("host device: it has no address, no forwarding, and is gone with its object") {
  host h;
  h.open();
  CHECK(get("ipv4/conf/sluice0/rp_filter") == "0");
  CHECK(get("ipv4/conf/sluice0/forwarding") == "0");
  CHECK(get("ipv6/conf/sluice0/forwarding") == "0");
  CHECK(get("ipv6/conf/sluice0/addr_gen_mode") == "1");
  CHECK(system("test -z \"$(ip -o addr show dev sluice0)\"") == 0);
  const uint8_t nonsense[] = {0xff, 0, 0, 0};
  CHECK_FALSE(h.device->write(nonsense, sizeof nonsense));
  CHECK(h.device->refused() == 1);
  h.device.reset();
  CHECK(if_nametoindex("sluice0") == 0);
}

TEST_CASE("host device: settings of the host that defeat it are told") {
  host h;
  SUBCASE("strict reverse path filter") {
    set("ipv4/conf/all/rp_filter", "1");
    h.open();
    CHECK(h.warning.find("net.ipv4.conf.all.rp_filter") != std::string::npos);
    listener v4(AF_INET, "192.0.2.1");
    CHECK(h.write(ipv4_datagram("192.0.2.2", "192.0.2.1", "dropped")));
    CHECK(v4.receive(100) == "nothing");
  }
  SUBCASE("IPv6 forwarding") {
    set("ipv6/conf/all/forwarding", "1");
    h.open();
    CHECK(h.warning.find("net.ipv6.conf.all.forwarding") != std::string::npos);
  }
  SUBCASE("name taken") {
    h.open();
    CHECK(host_device::open("sluice0", &h.error, &h.warning) == nullptr);
    CHECK(h.error.find("exists") != std::string::npos);
  }
  SUBCASE("no name") {
    CHECK(host_device::open("a/b", &h.error, &h.warning) == nullptr);
    CHECK(h.error.find("not a netdev name") != std::string::npos);
  }
}
