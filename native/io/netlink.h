// SPDX-License-Identifier: Apache-2.0
/*
 * netlink: what the kernel knows about links, addresses and neighbours, as events; and requests to resolve neighbours.
 *
 * netlink_monitor owns one thread, "sl-netlink". It dumps the kernel's state once, then follows notifications; when it
 * lost some (ENOBUFS) it dumps again and reports the difference, removals included. Callbacks run on that thread and
 * should be short: while one runs, nothing is read.
 *
 * Who calls it: `engine` starts and destroys it; workers call resolve() from their hot path, which neither blocks nor
 * allocates: a bounded lock-free ring, and an eventfd written only when the thread was not already called.
 *
 * Resolution is the kernel's own: RTM_NEWNEIGH with NTF_USE does what its output path does. It sends ARP or neighbour
 * solicitations for an unknown or failed neighbour, starts re-probing a stale one, and leaves a reachable one alone. So
 * calling resolve() now and then (each second, say) for next hops in use keeps them fresh. The kernel asks for IPv6
 * neighbours from the link's link-local address only: a netdev without one (addrgenmode none) resolves none of them.
 *
 * Bounds: resolve_ring_entries requests wait; equal ones within resolve_collapse_ms are one; neighbours_max neighbours.
 */
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "abi/dataplane.h"

namespace sluice {

constexpr uint32_t resolve_ring_entries = 1024;     // a burst of first packets to that many next hops; power of two
constexpr uint32_t resolve_collapse_ms = 200;       // the kernel repeats solicitations by itself, each second
constexpr uint32_t neighbours_max = 65536;          // far above the kernel's own gc_thresh3
constexpr uint32_t netlink_buffer_bytes = 8 << 20;  // notifications that may wait before a new dump is needed

struct link_event {
  uint32_t ifindex;
  char name[SL_NAME_BYTES];
  bool up;       // administratively up, with carrier, and operational
  bool removed;  // the other fields are the last known
  uint32_t mtu_bytes;
  uint8_t mac[6];  // zero where the link has none of this size
};

struct neighbour_event {
  uint32_t ifindex;
  sl_address address;
  uint8_t mac[6];  // only when usable
  bool usable;     // packets may be sent to mac, be it freshly confirmed or stale
  bool failed;     // nobody answered, or the kernel refused to ask: drop what waits for it
  bool removed;    // the kernel forgot it
};

struct address_event {
  uint32_t ifindex;
  sl_address address;
  uint8_t prefix_length;  // in the 128-bit space
  bool added;             // false: removed
  uint32_t flags;         // IFA_F_*: an address with IFA_F_TENTATIVE or IFA_F_DADFAILED is not usable (yet)
};

// Every one may be empty. Called on the monitor's thread.
struct netlink_callbacks {
  std::function<void(const link_event&)> on_link;
  std::function<void(const address_event&)> on_address;
  std::function<void(const neighbour_event&)> on_neighbour;
  std::function<void()> on_synchronised;  // a dump was reported in full: the first, and each later one
  std::function<void(const std::string&)> on_warning;
};

struct netlink_options {
  uint32_t receive_buffer_bytes = netlink_buffer_bytes;
};

struct netlink_counters {
  uint64_t resolves_sent;       // requests given to the kernel
  uint64_t resolves_collapsed;  // equal to one within resolve_collapse_ms
  uint64_t resolves_refused;    // the kernel said no: link down, no such link, table full
  uint64_t resolves_lost;       // the ring was full
  uint64_t dumps;
  uint64_t overruns;            // notifications were lost, and a dump made up for them
  uint64_t neighbours_ignored;  // beyond neighbours_max
};

class netlink_monitor {
 public:
  // Opens its sockets in the caller's network namespace and starts the thread.
  static std::unique_ptr<netlink_monitor> start(netlink_callbacks callbacks, const netlink_options& options,
                                                std::string* error);
  ~netlink_monitor();  // stops the thread; no callback runs after it
  netlink_monitor(const netlink_monitor&) = delete;
  netlink_monitor& operator=(const netlink_monitor&) = delete;

  // Any thread. ifindex is the netdev on which the kernel resolves (a VLAN's own device). The answer comes by
  // on_neighbour: at once when the neighbour is known, else when somebody answered, or failed. False: the ring is full;
  // ask again later.
  bool resolve(uint32_t ifindex, const sl_address& address) noexcept;

  // Any thread. Dumps again and reports everything, changed or not; on_synchronised follows.
  void request_dump() noexcept;

  netlink_counters counters() const noexcept;

 private:
  struct state;
  explicit netlink_monitor(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace sluice
