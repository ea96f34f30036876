// SPDX-License-Identifier: Apache-2.0
// netlink_messages.h: what messages about links, addresses and neighbours say, as events. Pure: bytes in, events out. The caller has made sure
// that a message is as long as it says; of its header and attributes nothing is taken for granted. Called by netlink.cc.
#pragma once
#include <linux/netlink.h>

#include "io/netlink.h"

namespace sluice {

// Each false: of no concern to us, or cut short. An attribute that is missing, or too short for what stands in it, counts as absent.
bool read_link(const nlmsghdr* message, link_event* out);  // RTM_DELLINK: ifindex and `removed` alone
bool read_address(const nlmsghdr* message, address_event* out);
bool read_neighbour(const nlmsghdr* message, neighbour_event* out, uint16_t* nud);  // RTM_DELNEIGH: whom, and `removed`
// Of an NLMSG_ERROR: the errno, 0: done as asked.
int error_of(const nlmsghdr* message);

}  // namespace sluice
