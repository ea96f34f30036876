// SPDX-License-Identifier: Apache-2.0
// netdev_features.h: what a netdev can do with XDP, as the kernel says it (generic netlink family "netdev", Linux 6.3 on;
// Documentation/netlink/specs/netdev.yaml). Who: the engine's clock, once a second a port, and when a link changes.
#pragma once
#include <cstdint>
#include <memory>

struct mnl_socket;

namespace sluice {

class netdev_features {
 public:
  // nullptr when the kernel has no such family.
  static std::unique_ptr<netdev_features> open();
  ~netdev_features();
  netdev_features(const netdev_features&) = delete;
  // Does the netdev take frames that XDP programs redirect to it? A veth does while its peer has NAPI (an XDP program of
  // its own, or GRO on). False also when nobody knows.
  bool takes_redirects(uint32_t ifindex);

 private:
  netdev_features() = default;
  mnl_socket* socket_ = nullptr;
  uint16_t family_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace sluice
