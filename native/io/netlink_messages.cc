// SPDX-License-Identifier: Apache-2.0
// netlink_messages.cc: see netlink_messages.h.
#include "io/netlink_messages.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "packet/bytes.h"

namespace sluice {
namespace {

constexpr uint16_t nud_valid = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY;

bool is_multicast(const sl_address& a) {
  return is_ipv4(a) ? (a.bytes[12] & 0xf0) == 0xe0 : a.bytes[0] == 0xff;
}

// The header behind nlmsghdr, when it is there.
template <class Header>
const Header* header_of(const nlmsghdr* message) {
  return message->nlmsg_len >= MNL_NLMSG_HDRLEN + sizeof(Header) ? static_cast<const Header*>(mnl_nlmsg_get_payload(message)) : nullptr;
}

// Attributes of one message by type; unknown and later ones are ignored.
template <size_t N>
std::array<const nlattr*, N> attributes_of(const nlmsghdr* message, size_t header_bytes) {
  std::array<const nlattr*, N> found{};
  const auto* end = reinterpret_cast<const char*>(message) + message->nlmsg_len;  // not the aligned tail, which may lie behind it
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, header_bytes));
  while (mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)))) {
    const uint16_t type = mnl_attr_get_type(attribute);
    if (type < N) found[type] = attribute;
    attribute = mnl_attr_next(attribute);
  }
  return found;
}

uint32_t u32_of(const nlattr* attribute, uint32_t otherwise) {
  return attribute && mnl_attr_get_payload_len(attribute) >= sizeof(uint32_t) ? mnl_attr_get_u32(attribute) : otherwise;
}

bool address_of(uint8_t family, const nlattr* attribute, sl_address* out) {
  const size_t bytes = family == AF_INET ? 4 : 16;
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) < bytes) return false;
  *out = {};
  if (family == AF_INET) out->bytes[10] = out->bytes[11] = 0xff;
  memcpy(out->bytes + 16 - bytes, mnl_attr_get_payload(attribute), bytes);
  return true;
}

bool mac_of(const nlattr* attribute, uint8_t (*out)[6]) {
  if (attribute == nullptr || mnl_attr_get_payload_len(attribute) != sizeof *out) return false;
  memcpy(out, mnl_attr_get_payload(attribute), sizeof *out);
  return true;
}

}  // namespace

bool read_link(const nlmsghdr* message, link_event* out) {
  const auto* head = header_of<ifinfomsg>(message);
  // A bridge port's RTM_DELLINK (AF_BRIDGE) means that it left the bridge, not that it is gone.
  if (!head || head->ifi_family != AF_UNSPEC) return false;
  *out = {};
  out->ifindex = static_cast<uint32_t>(head->ifi_index);
  out->removed = message->nlmsg_type == RTM_DELLINK;
  if (out->removed) return true;
  const auto attributes = attributes_of<IFLA_MTU + 1>(message, sizeof *head);
  constexpr unsigned running = IFF_UP | IFF_RUNNING | 0x10000 /* IFF_LOWER_UP */;
  out->up = (head->ifi_flags & running) == running;
  if (const nlattr* name = attributes[IFLA_IFNAME])
    memcpy(out->name, mnl_attr_get_payload(name), strnlen(mnl_attr_get_str(name), std::min<size_t>(sizeof out->name - 1, mnl_attr_get_payload_len(name))));
  out->mtu_bytes = u32_of(attributes[IFLA_MTU], 0);
  mac_of(attributes[IFLA_ADDRESS], &out->mac);
  return true;
}

bool read_address(const nlmsghdr* message, address_event* out) {
  const auto* head = header_of<ifaddrmsg>(message);
  if (!head || (head->ifa_family != AF_INET && head->ifa_family != AF_INET6)) return false;
  const auto attributes = attributes_of<IFA_FLAGS + 1>(message, sizeof *head);
  // On point-to-point links IFA_ADDRESS is the peer's, IFA_LOCAL ours; IPv6 leaves IFA_LOCAL out elsewhere.
  const nlattr* own = attributes[IFA_LOCAL] ? attributes[IFA_LOCAL] : attributes[IFA_ADDRESS];
  *out = {};
  if (!address_of(head->ifa_family, own, &out->address)) return false;
  out->ifindex = head->ifa_index;
  out->prefix_length = static_cast<uint8_t>(head->ifa_family == AF_INET ? head->ifa_prefixlen + 96 : head->ifa_prefixlen);
  out->flags = u32_of(attributes[IFA_FLAGS], head->ifa_flags);
  out->added = message->nlmsg_type != RTM_DELADDR;
  return true;
}

bool read_neighbour(const nlmsghdr* message, neighbour_event* out, uint16_t* nud) {
  const auto* head = header_of<ndmsg>(message);
  if (!head || (head->ndm_family != AF_INET && head->ndm_family != AF_INET6)) return false;  // AF_BRIDGE: forwarding database
  if (head->ndm_flags & NTF_PROXY) return false;
  const auto attributes = attributes_of<NDA_LLADDR + 1>(message, sizeof *head);
  *out = {};
  if (!address_of(head->ndm_family, attributes[NDA_DST], &out->address) || is_multicast(out->address)) return false;
  out->ifindex = static_cast<uint32_t>(head->ndm_ifindex);
  *nud = head->ndm_state;
  out->removed = message->nlmsg_type == RTM_DELNEIGH;
  if (out->removed) return true;
  out->failed = (head->ndm_state & NUD_FAILED) != 0;
  out->usable = (head->ndm_state & nud_valid) && mac_of(attributes[NDA_LLADDR], &out->mac);
  return true;
}

int error_of(const nlmsghdr* message) {
  const auto* error = header_of<nlmsgerr>(message);
  return error ? -error->error : EBADMSG;
}

}  // namespace sluice
