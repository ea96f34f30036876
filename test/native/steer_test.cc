// SPDX-License-Identifier: Apache-2.0
/*
 * steer_test.cc: the compiled steering program (build/bpf/steer.bpf.o) in the kernel, and the class that feeds it.
 *
 * 1. Verdicts: a table of frames, each run by BPF_PROG_TEST_RUN on the loopback of a namespace of our own, once with an
 *    AF_XDP socket bound and once without; a verdict counts only when exactly its own counter has moved.
 * 2. Maps, attaching, taking over, and real frames over a veth pair.
 * Needs root, and scripts/build-bpf.sh run before. Add a case: one line in `cases()`.
 */
#include "io/steer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <doctest/doctest.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "flow/memory.h"
#include "io/xsk.h"
#include "network_namespace.h"
#include "pin_directory.h"

using namespace sluice;
using namespace sluice_test;

namespace {

using bytes = std::vector<uint8_t>;

constexpr uint32_t loopback = 1;  // ifindex, in each namespace; where test runs happen
constexpr uint16_t slot = 3;      // not 0, so that a forgotten multiplication shows
constexpr uint16_t known_vlan = 100, unknown_vlan = 101;
constexpr uint16_t nat_slot_4 = 5, nat_slot_6 = 63;
constexpr uint16_t nat_tcp = 40000, nat_udp = 40001, nat_identifier = 777, free_port = 22, tunnel_port = 51820;
constexpr int to_engine = SL_STEER_BASE + SL_STEER_TO_ENGINE, to_host = SL_STEER_BASE + SL_STEER_TO_HOST;

std::string object_path() {
  return std::filesystem::path(__FILE__).parent_path().parent_path().parent_path() / "build/bpf/steer.bpf.o";
}

// ---- frames ----------------------------------------------------------------------------------------------------------

bytes operator+(bytes a, const bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
uint8_t high(unsigned v) { return static_cast<uint8_t>(v >> 8); }
uint8_t low(unsigned v) { return static_cast<uint8_t>(v); }
bytes zeros(size_t n) { return bytes(n); }

bytes ethernet(uint16_t type) { return {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, high(type), low(type)}; }
bytes tag(uint16_t vlan_id, uint16_t type) { return {low(0x60u | high(vlan_id)), low(vlan_id), high(type), low(type)}; }

struct ip4_address { uint8_t bytes[4]; };
using ip6_address = std::array<uint8_t, 16>;
constexpr ip4_address host4{{192, 0, 2, 1}}, engine4{{192, 0, 2, 2}}, shared4{{192, 0, 2, 3}}, far4{{198, 51, 100, 9}};
ip6_address ip6(uint16_t first, uint16_t second, uint8_t last) {
  ip6_address a{};
  a[0] = high(first), a[1] = low(first), a[2] = high(second), a[3] = low(second), a[15] = last;
  return a;
}
const ip6_address host6 = ip6(0x2001, 0xdb8, 1), engine6 = ip6(0x2001, 0xdb8, 2), shared6 = ip6(0x2001, 0xdb8, 3), far6 = ip6(0x2001, 0xdb9, 9);

struct ip4_options {
  ip4_address src = far4;
  unsigned option_words = 0, fragment = 0, version = 4;
  int ihl = -1, total = -1;  // -1: the right one
};
bytes ip4(ip4_address dst, uint8_t protocol, const bytes& payload, ip4_options o = {}) {
  unsigned ihl = o.ihl >= 0 ? static_cast<unsigned>(o.ihl) : 5 + o.option_words;
  unsigned total = o.total >= 0 ? static_cast<unsigned>(o.total) : 20 + o.option_words * 4 + static_cast<unsigned>(payload.size());
  bytes b = {low(o.version << 4 | ihl), 0, high(total), low(total), 0, 1, high(o.fragment), low(o.fragment), 64, protocol, 0, 0};
  b.insert(b.end(), o.src.bytes, o.src.bytes + 4);
  b.insert(b.end(), dst.bytes, dst.bytes + 4);
  return b + bytes(o.option_words * 4, 1) + payload;
}

struct ip6_options {
  ip6_address src = far6;
  uint8_t hop_limit = 64, version = 6;
  int payload = -1;
};
bytes ip6_packet(const ip6_address& dst, uint8_t next_header, const bytes& payload, ip6_options o = {}) {
  unsigned length = o.payload >= 0 ? static_cast<unsigned>(o.payload) : static_cast<unsigned>(payload.size());
  bytes b = {low(o.version << 4), 0, 0, 0, high(length), low(length), next_header, o.hop_limit};
  b.insert(b.end(), o.src.begin(), o.src.end());
  b.insert(b.end(), dst.begin(), dst.end());
  return b + payload;
}

// Extension header of `units` more than eight bytes.
bytes extension(uint8_t next_header, uint8_t units = 0) { return bytes{next_header, units} + zeros(6 + units * 8u); }
bytes fragment_header(uint8_t next_header, uint16_t offset, bool more) {
  return {next_header, 0, high(offset), low(offset | (more ? 1u : 0u)), 0, 0, 0, 7};
}
bytes chain(unsigned count, uint8_t last) {  // destination options, count times
  bytes b;
  for (unsigned i = 0; i < count; ++i) b = b + extension(i + 1 == count ? last : 60);
  return b;
}

bytes ports(uint16_t src, uint16_t dst) { return {high(src), low(src), high(dst), low(dst)}; }
bytes tcp(uint16_t src, uint16_t dst, uint8_t words = 5) { return ports(src, dst) + zeros(8) + bytes{low(words << 4), 2, 0xff, 0xff, 0, 0, 0, 0} + zeros(words > 5 ? (words - 5) * 4u : 0); }
bytes udp(uint16_t src, uint16_t dst, int length = -1, unsigned payload = 4) {
  unsigned n = length >= 0 ? static_cast<unsigned>(length) : 8 + payload;
  return ports(src, dst) + bytes{high(n), low(n), 0, 0} + zeros(payload);
}
bytes icmp(uint8_t type, uint16_t identifier, const bytes& payload = {}) {
  return bytes{type, 0, 0, 0, high(identifier), low(identifier), 0, 1} + payload;
}

constexpr uint8_t p_icmp = 1, p_tcp = 6, p_udp = 17, p_icmp6 = 58, p_hop = 0, p_routing = 43, p_fragment = 44, p_ah = 51, p_destination = 60, p_none = 59, p_ospf = 89;

bytes on4(const bytes& packet) { return ethernet(0x0800) + packet; }
bytes on6(const bytes& packet) { return ethernet(0x86dd) + packet; }
// An ICMP error to a shared address about a packet that left it.
bytes error4(uint8_t protocol, const bytes& quoted, ip4_options o = {}, uint8_t type = 3) {
  o.src = shared4;
  return on4(ip4(shared4, p_icmp, icmp(type, 0, ip4(far4, protocol, quoted, o))));
}
bytes error6(uint8_t next_header, const bytes& quoted, uint8_t type = 1) {
  return on6(ip6_packet(shared6, p_icmp6, icmp(type, 0, ip6_packet(far6, next_header, quoted, {.src = shared6}))));
}

// The same to an address of the host's, about a UDP packet.
bytes too_big6(uint16_t from_port, uint8_t type = 2) {
  return on6(ip6_packet(host6, p_icmp6, icmp(type, 0, ip6_packet(far6, p_udp, udp(from_port, 53), {.src = host6}))));
}

struct steering_case {
  const char* name;
  bytes frame;
  int verdict;           // to_host, to_engine or SL_DROP_*
  uint16_t port_flags = SL_STEER_PORT_UNTAGGED;
};

std::vector<steering_case> cases() {
  const bytes arp = zeros(28);
  const bytes nd = zeros(16);
  const bytes forwarded = ip4(far4, p_udp, udp(1, 2));
  return {
    // Ethernet and VLAN
    {"ARP", ethernet(0x0806) + arp, to_host},
    {"ARP in a known VLAN", ethernet(0x8100) + tag(known_vlan, 0x0806) + arp, to_host},
    {"ARP in an unknown VLAN", ethernet(0x8100) + tag(unknown_vlan, 0x0806) + arp, SL_DROP_UNKNOWN_VLAN},
    {"ARP cut short", ethernet(0x0806) + zeros(27), SL_DROP_TRUNCATED},
    {"untagged where no interface takes it", on4(forwarded), SL_DROP_UNKNOWN_VLAN, 0},
    {"ARP untagged where no interface takes it", ethernet(0x0806) + arp, SL_DROP_UNKNOWN_VLAN, 0},
    {"known VLAN on a port without untagged frames", ethernet(0x8100) + tag(known_vlan, 0x0800) + forwarded, to_engine, 0},
    {"known VLAN, to the host", ethernet(0x8100) + tag(known_vlan, 0x0800) + ip4(host4, p_tcp, tcp(1, 22)), to_host},
    {"priority tag counts as untagged", ethernet(0x8100) + tag(0, 0x0800) + forwarded, to_engine},
    {"unknown VLAN", ethernet(0x8100) + tag(unknown_vlan, 0x0800) + forwarded, SL_DROP_UNKNOWN_VLAN},
    {"two tags", ethernet(0x8100) + tag(known_vlan, 0x8100) + tag(known_vlan, 0x0800) + forwarded, SL_DROP_UNKNOWN_VLAN},
    {"service tag", ethernet(0x88a8) + tag(known_vlan, 0x0800) + forwarded, SL_DROP_UNKNOWN_VLAN},
    {"service tag inside", ethernet(0x8100) + tag(known_vlan, 0x88a8) + tag(known_vlan, 0x0800) + forwarded, SL_DROP_UNKNOWN_VLAN},
    {"LLDP", ethernet(0x88cc) + zeros(46), SL_DROP_MALFORMED_ETHERNET},
    {"802.3 length instead of a type", ethernet(46) + zeros(46), SL_DROP_MALFORMED_ETHERNET},
    {"MPLS in a known VLAN", ethernet(0x8100) + tag(known_vlan, 0x8847) + zeros(46), SL_DROP_MALFORMED_ETHERNET},

    // IPv4 header
    {"IPv4 forwarded", on4(forwarded), to_engine},
    {"IPv4 forwarded, with padding", on4(forwarded) + zeros(18), to_engine},
    {"IPv4 version 5", on4(ip4(host4, p_udp, udp(1, 2), {.version = 5})), SL_DROP_MALFORMED_IPV4},
    {"IPv4 header length 4", on4(ip4(host4, p_udp, udp(1, 2), {.ihl = 4})), SL_DROP_MALFORMED_IPV4},
    {"IPv4 header longer than the packet", on4(ip4(host4, p_udp, udp(1, 2), {.ihl = 15})), SL_DROP_MALFORMED_IPV4},
    {"IPv4 total length shorter than the header", on4(ip4(host4, p_udp, udp(1, 2), {.total = 19})), SL_DROP_MALFORMED_IPV4},
    {"IPv4 total length beyond the frame", on4(ip4(host4, p_udp, udp(1, 2), {.total = 33})), SL_DROP_TRUNCATED},
    {"IPv4 forwarded, total length beyond the frame", on4(ip4(far4, p_udp, udp(1, 2), {.total = 33})), SL_DROP_TRUNCATED},
    {"IPv4 options, to the host", on4(ip4(host4, p_udp, udp(1, 2), {.option_words = 10})), to_host},
    {"IPv4 options, port of NAT behind them", on4(ip4(shared4, p_udp, udp(53, nat_udp), {.option_words = 10})), to_engine},

    // IPv4 destinations
    {"to a host address", on4(ip4(host4, p_tcp, tcp(1, 22))), to_host},
    {"to a host address, port of another's NAT", on4(ip4(host4, p_tcp, tcp(1, nat_tcp))), to_host},
    {"to a host address, fragment", on4(ip4(host4, p_udp, zeros(16), {.fragment = 0x2000 | 10})), to_host},
    {"to an address of the engine's", on4(ip4(engine4, p_tcp, tcp(1, 22))), to_engine},
    {"to an address of the engine's, impossible UDP", on4(ip4(engine4, p_udp, udp(1, 2, 3))), to_engine},
    {"from the platform's wire server", on4(ip4(host4, p_tcp, tcp(80, 50000), {.src = {{168, 63, 129, 16}}})), to_host},
    {"from the metadata service", on4(ip4(host4, p_tcp, tcp(80, 50000), {.src = {{169, 254, 169, 254}}})), to_host},
    {"to 169.254.169.254 is no local traffic", on4(ip4({{169, 254, 169, 254}}, p_tcp, tcp(1, 80))), to_engine},
    {"DHCP to the broadcast address", on4(ip4({{255, 255, 255, 255}}, p_udp, udp(67, 68))), to_host},
    {"OSPF hello", on4(ip4({{224, 0, 0, 5}}, p_ospf, zeros(24))), to_host},
    {"IGMP with router alert", on4(ip4({{224, 0, 0, 22}}, 2, zeros(8), {.option_words = 1})), to_host},
    {"multicast beyond the link", on4(ip4({{224, 0, 1, 1}}, p_udp, udp(123, 123))), to_engine},
    {"loopback as destination", on4(ip4({{127, 0, 0, 1}}, p_tcp, tcp(1, 22))), to_engine},
    {"unspecified destination", on4(ip4({{0, 0, 0, 0}}, p_tcp, tcp(1, 22))), to_engine},
    {"link-local multicast with an impossible UDP length", on4(ip4({{224, 0, 0, 251}}, p_udp, udp(5353, 5353, 7))), SL_DROP_MALFORMED_L4},

    // transport headers of what may be the host's
    {"TCP cut short by the total length", on4(ip4(host4, p_tcp, tcp(1, 22), {.total = 39})) , SL_DROP_MALFORMED_L4},
    {"TCP cut short, ports only", on4(ip4(host4, p_tcp, zeros(8))), SL_DROP_MALFORMED_L4},
    {"TCP header length 4", on4(ip4(host4, p_tcp, tcp(1, 22, 4))), SL_DROP_MALFORMED_L4},
    {"TCP header longer than the packet", on4(ip4(host4, p_tcp, ports(1, 22) + zeros(8) + bytes{0x60, 2} + zeros(6))), SL_DROP_MALFORMED_L4},
    {"TCP with options", on4(ip4(host4, p_tcp, tcp(1, 22, 15))), to_host},
    {"TCP tiny first fragment", on4(ip4(host4, p_tcp, zeros(8), {.fragment = 0x2000})), SL_DROP_MALFORMED_L4},
    {"UDP header cut short", on4(ip4(host4, p_udp, zeros(7))), SL_DROP_MALFORMED_L4},
    {"UDP length 7", on4(ip4(host4, p_udp, udp(1, 2, 7))), SL_DROP_MALFORMED_L4},
    {"UDP length beyond the packet", on4(ip4(host4, p_udp, udp(1, 2, 13))), SL_DROP_MALFORMED_L4},
    {"UDP length beyond the packet, behind it padding", on4(ip4(host4, p_udp, udp(1, 2, 13))) + zeros(20), SL_DROP_MALFORMED_L4},
    {"UDP first fragment, length of the whole", on4(ip4(host4, p_udp, udp(1, 2, 3000), {.fragment = 0x2000})), to_host},
    {"ICMP cut short", on4(ip4(host4, p_icmp, zeros(7))), SL_DROP_MALFORMED_L4},
    {"ESP to the host", on4(ip4(host4, 50, zeros(3))), to_host},

    // an IPv4 address that NAT shares with the host
    {"shared: TCP port of NAT", on4(ip4(shared4, p_tcp, tcp(443, nat_tcp))), to_engine},
    {"shared: TCP port of the host", on4(ip4(shared4, p_tcp, tcp(443, free_port))), to_host},
    {"shared: source port does not count", on4(ip4(shared4, p_tcp, tcp(nat_tcp, free_port))), to_host},
    {"tunnel's port on an address of the host", on4(ip4(host4, p_udp, udp(53, tunnel_port))), to_engine},
    {"tunnel's port on an address shared with NAT", on4(ip4(shared4, p_udp, udp(53, tunnel_port))), to_engine},
    {"tunnel's port, IPv6", on6(ip6_packet(host6, p_udp, udp(53, tunnel_port))), to_engine},
    {"tunnel's port, IPv6 behind a chain", on6(ip6_packet(host6, p_hop, extension(p_udp) + udp(53, tunnel_port))), to_engine},
    {"tunnel's port behind IPv4 options", on4(ip4(host4, p_udp, udp(53, tunnel_port), {.option_words = 3})), to_engine},
    {"tunnel's port as the source", on4(ip4(host4, p_udp, udp(tunnel_port, 53))), to_host},
    {"neighbours of the tunnel's port, below", on4(ip4(host4, p_udp, udp(53, tunnel_port - 1))), to_host},
    {"neighbours of the tunnel's port, above", on4(ip4(host4, p_udp, udp(53, tunnel_port + 1))), to_host},
    {"tunnel's port of TCP", on4(ip4(host4, p_tcp, tcp(53, tunnel_port))), to_host},
    {"tunnel's port in a fragment", on4(ip4(host4, p_udp, udp(53, tunnel_port), {.fragment = 0x2000})), to_host},
    {"tunnel's port in a later fragment's payload", on4(ip4(host4, p_udp, udp(53, tunnel_port), {.fragment = 100})), to_host},
    {"tunnel's port in an IPv6 fragment", on6(ip6_packet(host6, p_fragment, fragment_header(p_udp, 0, true) + udp(53, tunnel_port))), to_host},
    {"tunnel's port, broadcast", on4(ip4({{255, 255, 255, 255}}, p_udp, udp(53, tunnel_port))), to_host},
    {"a tunnel's message that was too big", too_big6(tunnel_port), to_engine},
    {"another message that was too big", too_big6(tunnel_port + 1), to_host},
    {"a tunnel's message that could not be delivered", too_big6(tunnel_port, 1), to_host},
    {"too big: what, is cut off", on6(ip6_packet(host6, p_icmp6, icmp(2, 0, bytes(44)))), to_host},
    {"too big, of IPv4", on4(ip4(host4, p_icmp, icmp(3, 0, ip4(far4, p_udp, udp(tunnel_port, 53), {.src = host4})))), to_host},
    {"tunnel's port, impossible length", on4(ip4(host4, p_udp, udp(53, tunnel_port, 4000))), SL_DROP_MALFORMED_L4},
    {"shared: UDP port of NAT", on4(ip4(shared4, p_udp, udp(53, nat_udp))), to_engine},
    {"shared: UDP on NAT's TCP port", on4(ip4(shared4, p_udp, udp(53, nat_tcp))), to_host},
    {"shared: TCP on NAT's UDP port", on4(ip4(shared4, p_tcp, tcp(53, nat_udp))), to_host},
    {"shared: neighbour bit", on4(ip4(shared4, p_tcp, tcp(443, nat_tcp + 2))), to_host},
    {"shared: last port", on4(ip4(shared4, p_tcp, tcp(443, 65535))), to_engine},
    {"shared: echo reply of NAT", on4(ip4(shared4, p_icmp, icmp(0, nat_identifier))), to_engine},
    {"shared: echo reply of the host", on4(ip4(shared4, p_icmp, icmp(0, 778))), to_host},
    {"shared: timestamp reply of NAT", on4(ip4(shared4, p_icmp, icmp(14, nat_identifier))), to_engine},
    {"shared: echo request with NAT's identifier", on4(ip4(shared4, p_icmp, icmp(8, nat_identifier))), to_host},
    {"shared: first fragment", on4(ip4(shared4, p_tcp, tcp(1, free_port), {.fragment = 0x2000})), to_engine},
    {"shared: later fragment", on4(ip4(shared4, p_tcp, zeros(8), {.fragment = 100})), to_engine},
    {"shared: do-not-fragment is no fragment", on4(ip4(shared4, p_tcp, tcp(1, free_port), {.fragment = 0x4000})), to_host},
    {"shared: another protocol", on4(ip4(shared4, p_ospf, zeros(24))), to_host},
    {"shared: impossible TCP", on4(ip4(shared4, p_tcp, tcp(1, nat_tcp, 4))), SL_DROP_MALFORMED_L4},

    // ICMP errors to it
    {"error about NAT's TCP", error4(p_tcp, ports(nat_tcp, 443) + zeros(4)), to_engine},
    {"error about the host's TCP", error4(p_tcp, ports(free_port, 443) + zeros(4)), to_host},
    {"error about a packet to NAT's port", error4(p_tcp, ports(free_port, nat_tcp) + zeros(4)), to_host},
    {"error about NAT's UDP", error4(p_udp, udp(nat_udp, 53)), to_engine},
    {"error about NAT's UDP with options", error4(p_udp, udp(nat_udp, 53), {.option_words = 3}), to_engine},
    {"time exceeded about NAT's UDP", error4(p_udp, udp(nat_udp, 53), {}, 11), to_engine},
    {"redirect about NAT's UDP", error4(p_udp, udp(nat_udp, 53), {}, 5), to_engine},
    {"error about NAT's echo", error4(p_icmp, icmp(8, nat_identifier)), to_engine},
    {"error about the host's echo", error4(p_icmp, icmp(8, 778)), to_host},
    {"error that quotes its packet's whole length, not its bytes", error4(p_tcp, ports(nat_tcp, 443) + zeros(4), {.total = 1500}), to_engine},
    {"error about a later fragment", error4(p_udp, zeros(8), {.fragment = 100}), to_host},
    {"error about another protocol", error4(p_ospf, zeros(8)), to_host},
    {"error with a cut quotation", error4(p_tcp, ports(nat_tcp, 443)), SL_DROP_ICMP_BAD_EMBEDDED},
    {"error with a cut quotation and padding", error4(p_tcp, ports(nat_tcp, 443)) + zeros(20), SL_DROP_ICMP_BAD_EMBEDDED},
    {"error without a quotation", on4(ip4(shared4, p_icmp, icmp(3, 0))), SL_DROP_ICMP_BAD_EMBEDDED},
    {"error that quotes another version", error4(p_tcp, tcp(nat_tcp, 443), {.version = 6}), SL_DROP_ICMP_BAD_EMBEDDED},
    {"error to a host address is not looked into", on4(ip4(host4, p_icmp, icmp(3, 0))), to_host},

    // IPv6 header and destinations
    {"IPv6 forwarded", on6(ip6_packet(far6, p_udp, udp(1, 2))), to_engine},
    {"IPv6 version 4", on6(ip6_packet(host6, p_udp, udp(1, 2), {.version = 4})), SL_DROP_MALFORMED_IPV6},
    {"IPv6 payload beyond the frame", on6(ip6_packet(host6, p_udp, udp(1, 2), {.payload = 13})), SL_DROP_TRUNCATED},
    {"IPv6 payload length 0 with a payload", on6(ip6_packet(host6, p_udp, udp(1, 2), {.payload = 0})), SL_DROP_MALFORMED_IPV6},
    {"IPv6 without a next header", on6(ip6_packet(host6, p_none, {})), to_host},
    {"IPv6 to a host address", on6(ip6_packet(host6, p_tcp, tcp(1, 22))), to_host},
    {"IPv6 to an address of the engine's", on6(ip6_packet(engine6, p_tcp, tcp(1, 22))), to_engine},
    {"IPv6 forwarded, chain not looked at", on6(ip6_packet(far6, p_destination, chain(12, p_tcp))), to_engine},
    {"link-local unicast", on6(ip6_packet(ip6(0xfe80, 0, 1), p_tcp, tcp(1, 179))), to_host},
    {"end of fe80::/10", on6(ip6_packet(ip6(0xfebf, 0, 1), p_tcp, tcp(1, 179))), to_host},
    {"fec0:: is not link-local", on6(ip6_packet(ip6(0xfec0, 0, 1), p_tcp, tcp(1, 179))), to_engine},
    {"MLD report behind hop-by-hop options", on6(ip6_packet(ip6(0xff02, 0, 0x16), p_hop, extension(p_icmp6) + icmp(143, 0, zeros(20)), {.hop_limit = 1})), to_host},
    {"DHCPv6", on6(ip6_packet(ip6(0xff02, 0, 2), p_udp, udp(547, 546), {.hop_limit = 1})), to_host},
    {"site multicast", on6(ip6_packet(ip6(0xff05, 0, 2), p_udp, udp(1, 2))), to_engine},
    {"IPv6 loopback as destination", on6(ip6_packet(ip6(0, 0, 1), p_tcp, tcp(1, 22))), to_engine},
    {"IPv4-mapped destination cannot name a host address", on6(ip6_packet({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1}, p_tcp, tcp(1, 22))), to_engine},

    // neighbour discovery
    {"neighbour solicitation", on6(ip6_packet(ip6(0xff02, 0, 1), p_icmp6, icmp(135, 0, nd), {.hop_limit = 255})), to_host},
    {"neighbour solicitation through a router", on6(ip6_packet(ip6(0xff02, 0, 1), p_icmp6, icmp(135, 0, nd), {.hop_limit = 254})), SL_DROP_ND_HOP_LIMIT},
    {"neighbour advertisement to a host address through a router", on6(ip6_packet(host6, p_icmp6, icmp(136, 0, nd), {.hop_limit = 64})), SL_DROP_ND_HOP_LIMIT},
    {"router solicitation through a router", on6(ip6_packet(ip6(0xff02, 0, 2), p_icmp6, icmp(133, 0), {.hop_limit = 1})), SL_DROP_ND_HOP_LIMIT},
    {"router advertisement through a router", on6(ip6_packet(ip6(0xfe80, 0, 2), p_icmp6, icmp(134, 0), {.hop_limit = 0})), SL_DROP_ND_HOP_LIMIT},
    {"redirect to a shared address through a router", on6(ip6_packet(shared6, p_icmp6, icmp(137, 0, zeros(32)))), SL_DROP_ND_HOP_LIMIT},
    {"redirect behind an extension header through a router", on6(ip6_packet(host6, p_destination, extension(p_icmp6) + icmp(137, 0, zeros(32)))), SL_DROP_ND_HOP_LIMIT},
    {"advertisement in a first fragment through a router", on6(ip6_packet(host6, p_fragment, fragment_header(p_icmp6, 0, true) + icmp(136, 0, nd))), SL_DROP_ND_HOP_LIMIT},
    {"type 132 is not neighbour discovery", on6(ip6_packet(host6, p_icmp6, icmp(132, 0, nd), {.hop_limit = 1})), to_host},
    {"type 138 is not neighbour discovery", on6(ip6_packet(host6, p_icmp6, icmp(138, 0, nd), {.hop_limit = 1})), to_host},

    // extension headers
    {"each extension header once", on6(ip6_packet(host6, p_hop, extension(p_destination) + extension(p_routing, 2) + extension(p_ah) + bytes{p_tcp, 4} + zeros(22) + tcp(1, 22))), to_host},
    {"as many extension headers as we walk", on6(ip6_packet(host6, p_destination, chain(SL_IPV6_EXTENSIONS_MAX, p_tcp) + tcp(1, 22))), to_host},
    {"one extension header more", on6(ip6_packet(host6, p_destination, chain(SL_IPV6_EXTENSIONS_MAX + 1, p_tcp) + tcp(1, 22))), SL_DROP_MALFORMED_IPV6},
    {"hop-by-hop options not first", on6(ip6_packet(host6, p_destination, extension(p_hop) + extension(p_tcp) + tcp(1, 22))), SL_DROP_MALFORMED_IPV6},
    {"extension header beyond the packet", on6(ip6_packet(host6, p_destination, extension(p_tcp, 0) + extension(p_tcp, 9), {.payload = 4})), SL_DROP_MALFORMED_IPV6},
    {"extension header that claims more than there is", on6(ip6_packet(host6, p_destination, bytes{p_tcp, 255} + zeros(30))), SL_DROP_MALFORMED_IPV6},
    {"chain that ends with the packet", on6(ip6_packet(host6, p_destination, extension(p_destination))), SL_DROP_MALFORMED_IPV6},
    {"chain that leaves no room for TCP", on6(ip6_packet(host6, p_destination, extension(p_tcp))), SL_DROP_MALFORMED_L4},
    {"later fragment to the host", on6(ip6_packet(host6, p_fragment, fragment_header(p_tcp, 8, true) + zeros(8))), to_host},
    {"later fragment whose payload looks like a chain", on6(ip6_packet(host6, p_fragment, fragment_header(p_destination, 8, true) + zeros(8))), to_host},

    // an IPv6 address that NAT shares with the host
    {"IPv6 shared: TCP port of NAT", on6(ip6_packet(shared6, p_tcp, tcp(443, nat_tcp))), to_engine},
    {"IPv6 shared: TCP port of the host", on6(ip6_packet(shared6, p_tcp, tcp(443, free_port))), to_host},
    {"IPv6 shared: port of NAT behind a chain", on6(ip6_packet(shared6, p_hop, extension(p_destination) + extension(p_udp) + udp(53, nat_udp))), to_engine},
    {"IPv6 shared: echo reply of NAT", on6(ip6_packet(shared6, p_icmp6, icmp(129, nat_identifier))), to_engine},
    {"IPv6 shared: echo request with NAT's identifier", on6(ip6_packet(shared6, p_icmp6, icmp(128, nat_identifier))), to_host},
    {"IPv6 shared: neighbour solicitation", on6(ip6_packet(shared6, p_icmp6, icmp(135, 0, nd), {.hop_limit = 255})), to_host},
    {"IPv6 shared: ICMPv4 inside IPv6 is another protocol", on6(ip6_packet(shared6, p_icmp, icmp(0, nat_identifier))), to_host},
    {"IPv6 shared: first fragment", on6(ip6_packet(shared6, p_fragment, fragment_header(p_tcp, 0, true) + tcp(1, free_port))), to_engine},
    {"IPv6 shared: later fragment", on6(ip6_packet(shared6, p_fragment, fragment_header(p_tcp, 80, false) + zeros(8))), to_engine},
    {"IPv6 shared: atomic fragment", on6(ip6_packet(shared6, p_fragment, fragment_header(p_tcp, 0, false) + tcp(1, free_port))), to_engine},
    {"ICMPv6 error about NAT's TCP", error6(p_tcp, ports(nat_tcp, 443) + zeros(4)), to_engine},
    {"ICMPv6 packet too big about NAT's UDP", error6(p_udp, udp(nat_udp, 53), 2), to_engine},
    {"ICMPv6 error about the host's TCP", error6(p_tcp, ports(free_port, 443) + zeros(4)), to_host},
    {"ICMPv6 error about NAT's echo", error6(p_icmp6, icmp(128, nat_identifier)), to_engine},
    {"ICMPv6 error about NAT's UDP behind a chain", error6(p_destination, extension(p_udp) + udp(nat_udp, 53)), to_engine},
    {"ICMPv6 error about NAT's first fragment", error6(p_fragment, fragment_header(p_udp, 0, true) + udp(nat_udp, 53)), to_engine},
    {"ICMPv6 error with a cut quotation", error6(p_tcp, ports(nat_tcp, 443)), SL_DROP_ICMP_BAD_EMBEDDED},
    {"ICMPv6 error with a cut chain", error6(p_destination, bytes{p_udp, 200} + zeros(14)), SL_DROP_ICMP_BAD_EMBEDDED},
  };
}

// ---- the program under test ------------------------------------------------------------------------------------------

sl_address mapped(ip4_address a) {
  sl_address out{};
  out.bytes[10] = out.bytes[11] = 0xff;
  std::copy(a.bytes, a.bytes + 4, out.bytes + 12);
  return out;
}
sl_address address(const ip6_address& a) {
  sl_address out{};
  std::copy(a.begin(), a.end(), out.bytes);
  return out;
}

std::unique_ptr<steering> open_steering(const std::string& pins = {}) {
  std::string error;
  auto s = steering::open(object_path(), pins, 64, &error);
  REQUIRE_MESSAGE(s, error);
  return s;
}

using row = std::array<uint64_t, SL_STEER_KEYS>;
row counters(const steering& s, unsigned which = slot) {
  row out{};
  s.read_counters(which, out.data());
  return out;
}

// Loads the program and describes to it what the cases speak of. In the namespace that the caller is inside of.
std::unique_ptr<steering> prepared_steering() {
  auto s = open_steering();
  REQUIRE(s->set_port(loopback, slot, SL_STEER_PORT_UNTAGGED));
  REQUIRE(s->set_vlans(loopback, {{known_vlan, 0}}));
  std::string error;
  const uint16_t none = SL_NAT_SLOT_NONE;
  REQUIRE_MESSAGE(s->set_local_addresses({{mapped(host4), {none, 0}}, {mapped(engine4), {none, SL_LOCAL_ENGINE}}, {mapped(shared4), {nat_slot_4, 0}},
                                          {address(host6), {none, 0}}, {address(engine6), {none, SL_LOCAL_ENGINE}}, {address(shared6), {nat_slot_6, 0}}}, &error), error);
  auto set_bit = [&](unsigned nat_slot, unsigned protocol, unsigned port) {
    s->nat_port_words()[(nat_slot * SL_NAT_PROTOCOLS + protocol) * 1024 + port / 64] |= uint64_t{1} << (port & 63);
  };
  s->engine_port_words()[tunnel_port / 64] |= uint64_t{1} << (tunnel_port & 63);
  for (unsigned nat_slot : {nat_slot_4, nat_slot_6}) {
    set_bit(nat_slot, 0, nat_tcp);
    set_bit(nat_slot, 0, 65535);
    set_bit(nat_slot, 1, nat_udp);
    set_bit(nat_slot, 2, nat_identifier);
  }
  return s;
}

uint32_t test_run(const steering& s, const bytes& frame) {
  LIBBPF_OPTS(bpf_test_run_opts, options);
  options.data_in = frame.data();
  options.data_size_in = static_cast<uint32_t>(frame.size());
  options.repeat = 1;
  REQUIRE(bpf_prog_test_run_opts(s.program_fd(), &options) == 0);
  return options.retval;
}

struct outcome { uint32_t action; int counter; uint64_t counted; };

// Which counter moved, and by how much all did. -1: none.
outcome observe(const steering& s, const bytes& frame, unsigned which = slot) {
  const row before = counters(s, which);
  outcome o{test_run(s, frame), -1, 0};
  const row after = counters(s, which);
  for (int n = 0; n < SL_STEER_KEYS; ++n) {
    o.counted += after[n] - before[n];
    if (after[n] != before[n]) o.counter = n;
  }
  return o;
}

void expect(const steering& s, const bytes& frame, int verdict) {
  const outcome o = observe(s, frame);
  CHECK(o.counter == verdict);
  CHECK(o.counted == 1);
  CHECK(o.action == static_cast<uint32_t>(verdict == to_engine ? XDP_REDIRECT : verdict == to_host ? XDP_PASS : XDP_DROP));
}

// A veth pair with a socket on its first queue; IPv6 is off, so that the kernel sends nothing by itself.
struct veth_pair {
  explicit veth_pair(const std::string& a = "steer0", const std::string& b = "steer1") {
    run_ip("link add " + a + " type veth peer name " + b);
    for (const std::string& name : {a, b}) {
      REQUIRE(system(("echo 1 > /proc/sys/net/ipv6/conf/" + name + "/disable_ipv6").c_str()) == 0);
      run_ip("link set " + name + " up");
    }
    near = if_nametoindex(a.c_str());
    far = if_nametoindex(b.c_str());
  }
  uint32_t near, far;
};

struct bound_socket {
  explicit bound_socket(uint32_t ifindex) {
    std::string error;
    area = umem_area::create(64, &error);
    REQUIRE_MESSAGE(area, error);
    pool = std::make_unique<frame_pool>(*area);
    xsk_options options;
    options.ifindex = ifindex;
    options.ring_entries = 64;
    options.tx_budget = 32;
    socket = xsk::open(*area, options, &error);
    REQUIRE_MESSAGE(socket, error);
    socket->refill(*pool);
  }
  ~bound_socket() { if (socket) socket->close(*pool); }
  std::unique_ptr<umem_area> area;
  std::unique_ptr<frame_pool> pool;
  std::unique_ptr<xsk> socket;
};

uint32_t attached_program(uint32_t ifindex) {
  uint32_t id = 0;
  REQUIRE(bpf_xdp_query_id(static_cast<int>(ifindex), 0, &id) == 0);
  return id;
}
uint32_t program_id(int fd) {
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  REQUIRE(bpf_obj_get_info_by_fd(fd, &info, &size) == 0);
  return info.id;
}

bool attach(steering& s, uint32_t ifindex, const std::string& name, std::string* error, xdp_mode wanted = xdp_mode::native) {
  std::string warning;
  return s.attach(ifindex, name, slot, &wanted, &warning, error);
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    poll(nullptr, 0, 1);
  }
  return true;
}

void send_frame(uint32_t ifindex, bytes frame) {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  REQUIRE(fd >= 0);
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(ifindex);
  CHECK(sendto(fd, frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == static_cast<ssize_t>(frame.size()));
  close(fd);
}

}  // namespace

// ---- 1. verdicts -----------------------------------------------------------------------------------------------------

TEST_CASE("steering program: each frame goes where it belongs, and is counted there") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  veth_pair veth;
  bound_socket bound(veth.near);
  std::string error;
  for (const steering_case& c : cases()) {
    INFO(std::string(c.name));
    REQUIRE(s->set_port(loopback, slot, c.port_flags));
    REQUIRE_MESSAGE(s->set_xsk(slot, 0, bound.socket->fd(), &error), error);
    expect(*s, c.frame, c.verdict);
    s->clear_xsk(slot, 0);
    expect(*s, c.frame, c.verdict == to_engine ? static_cast<int>(SL_DROP_NO_ENGINE) : c.verdict);
  }
}

TEST_CASE("steering program: whatever is cut short is dropped as truncated, byte by byte") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  veth_pair veth;
  bound_socket bound(veth.near);
  std::string error;
  REQUIRE(s->set_xsk(slot, 0, bound.socket->fd(), &error));
  for (const steering_case& c : cases()) {
    if (c.verdict < SL_STEER_BASE || std::string(c.name).find("padding") != std::string::npos) continue;
    INFO(std::string(c.name));
    REQUIRE(s->set_port(loopback, slot, c.port_flags));
    for (size_t length = 14; length < c.frame.size(); ++length) {
      INFO("cut to ", length, " of ", c.frame.size());
      expect(*s, bytes(c.frame.begin(), c.frame.begin() + static_cast<long>(length)), SL_DROP_TRUNCATED);
    }
  }
}

TEST_CASE("steering program: padding behind the packet changes no verdict") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  veth_pair veth;
  bound_socket bound(veth.near);
  std::string error;
  REQUIRE(s->set_xsk(slot, 0, bound.socket->fd(), &error));
  for (const steering_case& c : cases()) {
    if (c.verdict < SL_STEER_BASE) continue;
    INFO(std::string(c.name));
    REQUIRE(s->set_port(loopback, slot, c.port_flags));
    expect(*s, c.frame + zeros(40), c.verdict);
  }
}

TEST_CASE("steering program: any bytes at all get one verdict and one count") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  std::mt19937 random(20240229);
  const auto seeds = cases();
  for (int round = 0; round < 2000; ++round) {
    bytes frame = seeds[random() % seeds.size()].frame;
    for (unsigned changes = 1 + random() % 4; changes > 0; --changes) frame[random() % frame.size()] = static_cast<uint8_t>(random());
    const outcome o = observe(*s, frame);
    INFO("round ", round);
    CHECK(o.counted == 1);
    CHECK((o.action == XDP_PASS) == (o.counter == to_host));
    CHECK(o.action != XDP_ABORTED);
  }
}

TEST_CASE("steering program: frames of a netdev that nobody named are dropped and counted in their own row") {
  network_namespace there;
  inside in(there);
  auto s = open_steering();
  const outcome o = observe(*s, on4(ip4(host4, p_tcp, tcp(1, 22))), SL_PORTS_MAX);
  CHECK(o.action == XDP_DROP);
  CHECK(o.counter == SL_DROP_UNKNOWN_PORT);
  CHECK(o.counted == 1);
}

TEST_CASE("steering program: a slot's socket is not another slot's, nor another queue's") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  veth_pair veth;
  bound_socket bound(veth.near);
  std::string error;
  REQUIRE(s->set_xsk(slot, 1, bound.socket->fd(), &error));
  REQUIRE(s->set_xsk(slot + 1, 0, bound.socket->fd(), &error));
  REQUIRE(s->set_xsk(0, 0, bound.socket->fd(), &error));
  expect(*s, on4(ip4(far4, p_udp, udp(1, 2))), SL_DROP_NO_ENGINE);
}

TEST_CASE("steering program: a closed socket means closed") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  veth_pair veth;
  std::string error;
  const bytes frame = on4(ip4(far4, p_udp, udp(1, 2)));
  {
    bound_socket bound(veth.near);
    REQUIRE(s->set_xsk(slot, 0, bound.socket->fd(), &error));
    expect(*s, frame, to_engine);
  }
  REQUIRE(eventually([&] { return test_run(*s, frame) == XDP_DROP; }));
  expect(*s, frame, SL_DROP_NO_ENGINE);
}

// ---- 2. maps ---------------------------------------------------------------------------------------------------------

TEST_CASE("steering: the address list is the whole truth") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  std::string error;
  const bytes to_host4 = on4(ip4(host4, p_tcp, tcp(1, 22)));
  expect(*s, to_host4, to_host);
  REQUIRE(s->set_local_addresses({{address(host6), {SL_NAT_SLOT_NONE, 0}}}, &error));
  expect(*s, to_host4, SL_DROP_NO_ENGINE);
  REQUIRE(s->set_local_addresses({{mapped(host4), {SL_NAT_SLOT_NONE, 0}}}, &error));
  expect(*s, to_host4, to_host);
  expect(*s, on6(ip6_packet(host6, p_tcp, tcp(1, 22))), SL_DROP_NO_ENGINE);
  REQUIRE(s->set_local_addresses({{mapped(host4), {nat_slot_4, 0}}}, &error));
  expect(*s, on4(ip4(host4, p_tcp, tcp(1, nat_tcp))), SL_DROP_NO_ENGINE);
  REQUIRE(s->set_local_addresses({}, &error));
  expect(*s, to_host4, SL_DROP_NO_ENGINE);
}

TEST_CASE("steering: a full address list is replaced by another full one") {
  network_namespace there;
  inside in(there);
  auto s = open_steering();
  std::string error;
  auto list = [](uint8_t network) {
    std::vector<std::pair<sl_address, sl_local_address>> out;
    for (unsigned i = 0; i < SL_LOCAL_ADDRESSES_MAX; ++i) out.push_back({mapped({{10, network, high(i), low(i)}}), {SL_NAT_SLOT_NONE, 0}});
    return out;
  };
  REQUIRE_MESSAGE(s->set_local_addresses(list(1), &error), error);
  REQUIRE_MESSAGE(s->set_local_addresses(list(2), &error), error);
  sl_local_address value;
  const sl_address old_one = mapped({{10, 1, 0, 0}}), new_one = mapped({{10, 2, 3, 255}});
  CHECK(bpf_map_lookup_elem(s->map_fd("local_addresses"), &old_one, &value) != 0);
  CHECK(bpf_map_lookup_elem(s->map_fd("local_addresses"), &new_one, &value) == 0);
  auto too_many = list(3);
  too_many.push_back({mapped(host4), {SL_NAT_SLOT_NONE, 0}});
  CHECK_FALSE(s->set_local_addresses(too_many, &error));
  CHECK(error != "");
}

TEST_CASE("steering: VLANs are those of the last call, a netdev") {
  network_namespace there;
  inside in(there);
  auto s = prepared_steering();
  auto tagged = [](uint16_t id) { return ethernet(0x8100) + tag(id, 0x0800) + ip4(host4, p_tcp, tcp(1, 22)); };
  REQUIRE(s->set_vlans(loopback + 1, {{300, 0}}));
  REQUIRE(s->set_vlans(loopback, {{200, 0}, {201, 0}}));
  expect(*s, tagged(known_vlan), SL_DROP_UNKNOWN_VLAN);
  expect(*s, tagged(300), SL_DROP_UNKNOWN_VLAN);
  expect(*s, tagged(200), to_host);
  expect(*s, tagged(201), to_host);
  uint16_t value;
  const sl_steer_vlan other{loopback + 1, 300};
  CHECK(bpf_map_lookup_elem(s->map_fd("vlans"), &other, &value) == 0);
}

TEST_CASE("steering: a missing object is an error with a remedy") {
  std::string error;
  CHECK_FALSE(steering::open("/nonexistent/steer.bpf.o", "", 64, &error));
  CHECK(error.find("/nonexistent/steer.bpf.o") != std::string::npos);
  CHECK(error.find("npm run build") != std::string::npos);
}

TEST_CASE("steering: a pin directory that is no bpffs is an error") {
  std::string error;
  CHECK_FALSE(steering::open(object_path(), "/tmp", 64, &error));
  CHECK(error.find("bpffs") != std::string::npos);
}

TEST_CASE("steering: pins of maps that another version had go, when an engine has its own and when it takes them over") {
  pin_directory pins;
  auto pinned = [&](const char* name) { return access((pins.path + "/" + name).c_str(), F_OK) == 0; };
  for (const bool takes_over : {false, true}) {
    for (const char* name : {"map-adjacencies", "map-recent_flows", "link-ifindex7", "mapping"}) {
      const int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "other", 4, 8, 1, nullptr);
      REQUIRE(map >= 0);
      if (!pinned(name)) REQUIRE(bpf_obj_pin(map, (pins.path + "/" + name).c_str()) == 0);
      close(map);
    }
    auto s = open_steering(pins.path);
    CHECK(s->inherited() == takes_over);
    std::string error;
    REQUIRE_MESSAGE(flow_memory::of_maps(64, [&](const char* name, size_t bytes, std::string* e) { return s->map_memory(name, bytes, e); }, &error), error);
    CHECK_FALSE(pinned("map-adjacencies"));
    CHECK_FALSE(pinned("map-recent_flows"));
    CHECK(pinned("map-flow_header"));
    CHECK(pinned("map-sessions"));
    CHECK(pinned("link-ifindex7"));
    CHECK(pinned("mapping"));
  }
}

// ---- 3. attaching ----------------------------------------------------------------------------------------------------

TEST_CASE("steering: native and generic mode, and generic where native is refused") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  std::string error, warning;
  for (xdp_mode wanted : {xdp_mode::native, xdp_mode::generic}) {
    auto s = open_steering();
    xdp_mode mode = wanted;
    REQUIRE_MESSAGE(s->attach(veth.near, "steer0", slot, &mode, &warning, &error), error);
    CHECK(mode == wanted);
    CHECK(warning == "");
    CHECK(attached_program(veth.near) == program_id(s->program_fd()));
    s->detach(slot);
    CHECK(attached_program(veth.near) == 0);
  }
  run_ip("link set steer1 mtu 9000");  // frames that native mode cannot take without multi-buffer
  run_ip("link set steer0 mtu 9000");
  auto s = open_steering();
  xdp_mode mode = xdp_mode::native;
  REQUIRE_MESSAGE(s->attach(veth.near, "steer0", slot, &mode, &warning, &error), error);
  CHECK(mode == xdp_mode::generic);
  CHECK(warning.find("steer0") != std::string::npos);
}

TEST_CASE("steering: a foreign program is refused by name, and stays") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  pin_directory pins;
  const bpf_insn pass[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
  const int foreign = bpf_prog_load(BPF_PROG_TYPE_XDP, "foreign_pass", "GPL", pass, 2, nullptr);
  REQUIRE(foreign >= 0);
  for (uint32_t flags : {XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE}) {
    LIBBPF_OPTS(bpf_link_create_opts, options);
    options.flags = flags;
    const int link = bpf_link_create(foreign, static_cast<int>(veth.near), BPF_XDP, &options);
    REQUIRE(link >= 0);
    std::string error;
    {
      auto s = open_steering(pins.path);
      CHECK_FALSE(attach(*s, veth.near, "steer0", &error));
    }
    CHECK(error.find("foreign_pass") != std::string::npos);
    CHECK(error.find(std::to_string(program_id(foreign))) != std::string::npos);
    CHECK(attached_program(veth.near) == program_id(foreign));
    CHECK_FALSE(std::filesystem::exists(pins.path + "/link-steer0"));
    bpf_link_detach(link);
    close(link);
  }
  close(foreign);
}

TEST_CASE("steering: a dead engine's program stays, and the next one takes over without an open moment") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  pin_directory pins;
  std::string error;
  uint32_t first_id, link_id;
  auto pinned_link = [&] {
    const int fd = bpf_obj_get((pins.path + "/link-steer0").c_str());
    REQUIRE(fd >= 0);
    bpf_link_info info{};
    uint32_t size = sizeof info;
    REQUIRE(bpf_obj_get_info_by_fd(fd, &info, &size) == 0);
    close(fd);
    return info.id;
  };
  {
    auto s = open_steering(pins.path);
    REQUIRE(s->set_port(veth.near, slot, SL_STEER_PORT_UNTAGGED));
    REQUIRE_MESSAGE(attach(*s, veth.near, "steer0", &error), error);
    first_id = program_id(s->program_fd());
    link_id = pinned_link();
  }
  CHECK(attached_program(veth.near) == first_id);

  std::atomic<bool> stop = false;
  std::atomic<unsigned> looks = 0, open_moments = 0;
  std::thread watcher([&] {
    if (setns(there.fd(), CLONE_NEWNET) != 0) return;
    while (!stop) {
      uint32_t id = 0;
      if (bpf_xdp_query_id(static_cast<int>(veth.near), 0, &id) == 0) { ++looks; if (id == 0) ++open_moments; }
    }
  });
  const bool watching = eventually([&] { return looks > 10; });
  {
    auto s = open_steering(pins.path);
    CHECK(attached_program(veth.near) == first_id);
    CHECK_MESSAGE(attach(*s, veth.near, "steer0", &error), error);
    CHECK(attached_program(veth.near) == program_id(s->program_fd()));
    CHECK(pinned_link() == link_id);
    stop = true;
    watcher.join();
    CHECK(watching);
    CHECK(open_moments == 0);
    s->detach(slot);
  }
  CHECK(attached_program(veth.near) == 0);
  CHECK_FALSE(std::filesystem::exists(pins.path + "/link-steer0"));
}

TEST_CASE("steering: the next engine goes on with the program that the kernel has verified, unless object or maps are others") {
  pin_directory pins;
  const std::string same = object_path(), other = pins.path + "-object";
  std::filesystem::copy_file(same, other);
  std::ofstream(other, std::ios::app) << "another build";  // ELF does not mind
  auto open = [&](const std::string& object, uint32_t sessions) {
    std::string error;
    auto s = steering::open(object, pins.path, sessions, &error);
    REQUIRE_MESSAGE(s, error);
    // Maps are taken over when their memory says what it is.
    REQUIRE_MESSAGE(flow_memory::of_maps(sessions, [&](const char* name, size_t size, std::string* e) { return s->map_memory(name, size, e); }, &error), error);
    return s;
  };
  auto pinned = [&] {
    unsigned count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(pins.path)) count += entry.path().filename().string().starts_with("program-");
    return count;
  };
  const uint32_t first = program_id(open(same, 64)->program_fd());
  auto again = open(same, 64);
  CHECK(program_id(again->program_fd()) == first);
  CHECK(again->inherited());
  again.reset();
  const uint32_t rebuilt = program_id(open(other, 64)->program_fd());
  CHECK(rebuilt != first);
  CHECK(pinned() == 1);
  CHECK(program_id(open(other, 64)->program_fd()) == rebuilt);
  // Other maps: the program of before works on those of before.
  auto larger = open(other, 128);
  CHECK_FALSE(larger->inherited());
  CHECK(program_id(larger->program_fd()) != rebuilt);
  larger.reset();
  // A pin that is no program of these maps.
  std::string pin;
  for (const auto& entry : std::filesystem::directory_iterator(pins.path)) if (entry.path().filename().string().starts_with("program-")) pin = entry.path();
  const bpf_insn pass[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
  const int foreign = bpf_prog_load(BPF_PROG_TYPE_XDP, "foreign_pass", "GPL", pass, 2, nullptr);
  REQUIRE(foreign >= 0);
  REQUIRE(unlink(pin.c_str()) == 0);
  REQUIRE(bpf_obj_pin(foreign, pin.c_str()) == 0);
  CHECK(program_id(open(other, 128)->program_fd()) != program_id(foreign));
  close(foreign);
  std::filesystem::remove(other);
}

TEST_CASE("steering: netdevs that exchanged their names keep their programs") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  pin_directory pins;
  std::string error;
  uint32_t first_id;
  {
    auto s = open_steering(pins.path);
    xdp_mode mode = xdp_mode::native;
    std::string warning;
    REQUIRE_MESSAGE(s->attach(veth.near, "steer0", 0, &mode, &warning, &error), error);
    REQUIRE_MESSAGE(s->attach(veth.far, "steer1", 1, &mode, &warning, &error), error);
    first_id = program_id(s->program_fd());
  }
  auto s = open_steering(pins.path);
  xdp_mode mode = xdp_mode::native;
  std::string warning;
  REQUIRE_MESSAGE(s->attach(veth.far, "steer0", 0, &mode, &warning, &error), error);
  CHECK(attached_program(veth.far) == program_id(s->program_fd()));
  CHECK(attached_program(veth.near) == first_id);  // still closed, until its turn comes
  REQUIRE_MESSAGE(s->attach(veth.near, "steer1", 1, &mode, &warning, &error), error);
  CHECK(attached_program(veth.near) == program_id(s->program_fd()));
  s->detach(0);
  s->detach(1);
  for (const auto& entry : std::filesystem::directory_iterator(pins.path)) CHECK(entry.path().filename().string().rfind("link-", 0) != 0);
}

TEST_CASE("steering: a link taken over keeps its mode, and says so") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  pin_directory pins;
  std::string error, warning;
  {
    auto s = open_steering(pins.path);
    REQUIRE_MESSAGE(attach(*s, veth.near, "steer0", &error, xdp_mode::generic), error);
  }
  auto s = open_steering(pins.path);
  xdp_mode mode = xdp_mode::native;
  REQUIRE_MESSAGE(s->attach(veth.near, "steer0", slot, &mode, &warning, &error), error);
  CHECK(mode == xdp_mode::generic);
  CHECK(warning.find("steer0") != std::string::npos);
}

TEST_CASE("steering: a link whose netdev is gone is replaced") {
  network_namespace there;
  inside in(there);
  pin_directory pins;
  std::string error;
  {
    veth_pair veth;
    auto s = open_steering(pins.path);
    REQUIRE_MESSAGE(attach(*s, veth.near, "steer0", &error), error);
  }
  run_ip("link del steer0");
  veth_pair again;
  auto s = open_steering(pins.path);
  REQUIRE_MESSAGE(attach(*s, again.near, "steer0", &error), error);
  CHECK(attached_program(again.near) == program_id(s->program_fd()));
  CHECK(std::filesystem::exists(pins.path + "/link-steer0"));
}

TEST_CASE("steering: without pins nothing outlives the object") {
  network_namespace there;
  inside in(there);
  veth_pair veth;
  std::string error;
  {
    auto s = open_steering();
    REQUIRE_MESSAGE(attach(*s, veth.near, "steer0", &error), error);
    CHECK(attached_program(veth.near) != 0);
  }
  CHECK(eventually([&] { return attached_program(veth.near) == 0; }));
}

// ---- 4. real frames --------------------------------------------------------------------------------------------------

TEST_CASE("steering: frames over a veth pair reach the socket, and nobody once it is gone") {
  for (xdp_mode wanted : {xdp_mode::native, xdp_mode::generic}) {
    INFO(std::string(wanted == xdp_mode::native ? "native" : "generic"));
    network_namespace there;
    inside in(there);
    veth_pair veth;
    auto s = open_steering();
    std::string error;
    REQUIRE(s->set_port(veth.near, slot, SL_STEER_PORT_UNTAGGED));
    REQUIRE(s->set_local_addresses({{mapped(host4), {SL_NAT_SLOT_NONE, 0}}}, &error));
    REQUIRE_MESSAGE(attach(*s, veth.near, "steer0", &error, wanted), error);
    const bytes forwarded = on4(ip4(far4, p_udp, udp(1, 2)));
    {
      bound_socket bound(veth.near);
      REQUIRE_MESSAGE(s->set_xsk(slot, 0, bound.socket->fd(), &error), error);
      send_frame(veth.far, forwarded);
      rx_frame frame{};
      REQUIRE(eventually([&] { return bound.socket->receive(&frame, 1) == 1; }));
      CHECK(bytes(frame.data, frame.data + frame.length) == forwarded);
      bound.pool->put(frame.address);
      CHECK(counters(*s)[to_engine] == 1);
    }
    // The kernel empties the map's entry when the socket is released.
    CHECK(eventually([&] { send_frame(veth.far, forwarded); return counters(*s)[SL_DROP_NO_ENGINE] > 0; }));
    send_frame(veth.far, on4(ip4(host4, p_tcp, tcp(1, 22))));
    CHECK(eventually([&] { return counters(*s)[to_host] == 1; }));
  }
}
