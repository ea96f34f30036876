// SPDX-License-Identifier: Apache-2.0
// netlink_messages_test.cc: messages of the kernel, whole, and cut short in every way. Each stands in memory of exactly its length, so that
// AddressSanitizer sees a byte that is read behind it.
#include <doctest/doctest.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "io/netlink_messages.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;
using bytes = std::vector<uint8_t>;

struct message {
  bytes all;
  std::vector<size_t> attributes;  // where each begins
  template <class Header>
  message(uint16_t type, const Header& header) : all(NLMSG_HDRLEN) {
    at<nlmsghdr>(0).nlmsg_type = type;
    const auto* raw = reinterpret_cast<const uint8_t*>(&header);
    all.insert(all.end(), raw, raw + sizeof header);
    all.resize(NLMSG_ALIGN(all.size()));
    seal();
  }
  message& add(uint16_t type, const bytes& payload) {
    attributes.push_back(all.size());
    all.resize(all.size() + NLA_HDRLEN);
    at<nlattr>(attributes.back()) = {static_cast<uint16_t>(NLA_HDRLEN + payload.size()), type};
    all.insert(all.end(), payload.begin(), payload.end());
    all.resize(NLMSG_ALIGN(all.size()));
    seal();
    return *this;
  }
  template <class T> T& at(size_t offset) { return *reinterpret_cast<T*>(all.data() + offset); }
  void seal() { at<nlmsghdr>(0).nlmsg_len = static_cast<uint32_t>(all.size()); }
};

// The first `length` bytes, which say that they are all.
template <class Read> auto read_cut(const message& m, size_t length, Read&& read) {
  std::unique_ptr<uint8_t, decltype(&std::free)> exact(static_cast<uint8_t*>(std::malloc(length)), &std::free);
  std::memcpy(exact.get(), m.all.data(), length);
  auto* head = reinterpret_cast<nlmsghdr*>(exact.get());
  head->nlmsg_len = static_cast<uint32_t>(length);
  return read(head);
}
template <class Read> auto read_whole(const message& m, Read&& read) { return read_cut(m, m.all.size(), read); }

// Cut at each length, and each attribute at each of its own; nothing is to be said but that nothing is read behind the end.
template <class Read> void cut_everywhere(const message& m, Read&& read) {
  for (size_t length = NLMSG_HDRLEN; length <= m.all.size(); ++length) read_cut(m, length, read);
  for (const size_t place : m.attributes) {
    message shorter = m;
    for (unsigned said = 0; said <= 64; ++said) {
      shorter.at<nlattr>(place).nla_len = static_cast<uint16_t>(said);
      read_whole(shorter, read);
      // As the last of its message, with nothing behind it.
      const size_t end = place + std::max<size_t>(said, NLA_HDRLEN);
      if (end <= shorter.all.size()) read_cut(shorter, end, read);
    }
  }
}

const bytes mac{2, 0, 0, 0, 0, 7}, four{10, 1, 2, 3}, sixteen{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9};
bytes number(uint32_t n) { return {static_cast<uint8_t>(n), static_cast<uint8_t>(n >> 8), static_cast<uint8_t>(n >> 16), static_cast<uint8_t>(n >> 24)}; }
bytes text(const std::string& s) { return {s.begin(), s.end()}; }

message link(const bytes& name) {
  ifinfomsg head{};
  head.ifi_index = 5;
  head.ifi_flags = IFF_UP | IFF_RUNNING | 0x10000;
  return message(RTM_NEWLINK, head).add(IFLA_IFNAME, name).add(IFLA_MTU, number(9000)).add(IFLA_ADDRESS, mac);
}
message address(uint8_t family, uint16_t type = RTM_NEWADDR) {
  ifaddrmsg head{};
  head.ifa_family = family;
  head.ifa_prefixlen = 24;
  head.ifa_flags = IFA_F_SECONDARY;
  head.ifa_index = 5;
  return message(type, head).add(IFA_ADDRESS, family == AF_INET ? four : sixteen).add(IFA_FLAGS, number(IFA_F_TENTATIVE | 0x100));
}
message neighbour(uint8_t family, uint16_t type = RTM_NEWNEIGH) {
  ndmsg head{};
  head.ndm_family = family;
  head.ndm_ifindex = 5;
  head.ndm_state = NUD_STALE;
  return message(type, head).add(NDA_DST, family == AF_INET ? four : sixteen).add(NDA_LLADDR, mac);
}

const auto as_link = [](const nlmsghdr* m) { link_event e; return read_link(m, &e); };
const auto as_address = [](const nlmsghdr* m) { address_event e; return read_address(m, &e); };
const auto as_neighbour = [](const nlmsghdr* m) { neighbour_event e; uint16_t nud; return read_neighbour(m, &e, &nud); };

TEST_CASE("netlink messages: whole ones") {
  link_event l;
  REQUIRE(read_whole(link(text(std::string("eth7", 5))), [&](const nlmsghdr* m) { return read_link(m, &l); }));
  CHECK(std::string(l.name) == "eth7");
  CHECK(l.up);
  CHECK(l.mtu_bytes == 9000);
  CHECK(std::memcmp(l.mac, mac.data(), 6) == 0);
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    address_event a;
    REQUIRE(read_whole(address(family), [&](const nlmsghdr* m) { return read_address(m, &a); }));
    CHECK(equal(a.address, address_of(family == AF_INET ? "10.1.2.3" : "2001:db8::9")));
    CHECK(a.prefix_length == (family == AF_INET ? 120 : 24));
    CHECK(a.flags == (IFA_F_TENTATIVE | 0x100));
    CHECK(a.added);
    REQUIRE(read_whole(address(family, RTM_DELADDR), [&](const nlmsghdr* m) { return read_address(m, &a); }));
    CHECK_FALSE(a.added);
    neighbour_event n;
    uint16_t nud;
    REQUIRE(read_whole(neighbour(family), [&](const nlmsghdr* m) { return read_neighbour(m, &n, &nud); }));
    CHECK(n.usable);
    CHECK(nud == NUD_STALE);
    CHECK(std::memcmp(n.mac, mac.data(), 6) == 0);
    REQUIRE(read_whole(neighbour(family, RTM_DELNEIGH), [&](const nlmsghdr* m) { return read_neighbour(m, &n, &nud); }));
    CHECK(n.removed);
  }
}

TEST_CASE("netlink messages: cut anywhere, nothing is read behind their end") {
  cut_everywhere(link(text("eth7")), as_link);  // a name without its zero
  cut_everywhere(link(text("a-name-of-more-than-its-sixteen-bytes")), as_link);
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    cut_everywhere(address(family), as_address);
    cut_everywhere(neighbour(family), as_neighbour);
  }
}

TEST_CASE("netlink messages: an attribute shorter than what stands in it is none") {
  link_event l;
  for (const bytes& short_mtu : {bytes{}, bytes{1}, bytes{1, 2, 3}}) {
    ifinfomsg head{};
    head.ifi_index = 5;
    REQUIRE(read_whole(message(RTM_NEWLINK, head).add(IFLA_ADDRESS, {2, 0, 0, 0, 0}).add(IFLA_IFNAME, {}).add(IFLA_MTU, short_mtu), [&](const nlmsghdr* m) { return read_link(m, &l); }));
    CHECK(l.mtu_bytes == 0);
    CHECK(std::string(l.name).empty());
    CHECK(std::memcmp(l.mac, bytes(6).data(), 6) == 0);
  }
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    const bytes cut(family == AF_INET ? 3 : 15, 1);
    ifaddrmsg a{};
    a.ifa_family = family;
    a.ifa_flags = IFA_F_SECONDARY;
    CHECK_FALSE(read_whole(message(RTM_NEWADDR, a).add(IFA_ADDRESS, cut), as_address));
    CHECK_FALSE(read_whole(message(RTM_NEWADDR, a), as_address));
    address_event event;
    REQUIRE(read_whole(message(RTM_NEWADDR, a).add(IFA_ADDRESS, family == AF_INET ? four : sixteen).add(IFA_FLAGS, {1, 1}), [&](const nlmsghdr* m) { return read_address(m, &event); }));
    CHECK(event.flags == IFA_F_SECONDARY);
    ndmsg n{};
    n.ndm_family = family;
    n.ndm_state = NUD_REACHABLE;
    CHECK_FALSE(read_whole(message(RTM_NEWNEIGH, n).add(NDA_DST, cut), as_neighbour));
    neighbour_event known;
    uint16_t nud;
    REQUIRE(read_whole(message(RTM_NEWNEIGH, n).add(NDA_DST, family == AF_INET ? four : sixteen).add(NDA_LLADDR, {2, 0, 0}), [&](const nlmsghdr* m) { return read_neighbour(m, &known, &nud); }));
    CHECK_FALSE(known.usable);
  }
}

TEST_CASE("netlink messages: the kernel's answer to a request, cut short, is no success") {
  nlmsgerr head{};
  head.error = -ENETDOWN;
  const message refused(NLMSG_ERROR, head);
  CHECK(read_whole(refused, error_of) == ENETDOWN);
  for (size_t length = NLMSG_HDRLEN; length < refused.all.size(); ++length) CHECK(read_cut(refused, length, error_of) == EBADMSG);
  CHECK(read_whole(message(NLMSG_ERROR, nlmsgerr{}), error_of) == 0);
}

}  // namespace
}  // namespace sluice
