// SPDX-License-Identifier: Apache-2.0
// netdev_features.h: what a netdev can do with XDP, as the kernel says it (generic netlink family "netdev", Linux 6.3 on;
// Documentation/netlink/specs/netdev.yaml). Who: the engine's clock, once a second a port, and when a configuration is applied.
// Bounds: a question waits answer_ns_max for its answer. An answer that comes later is read, and thrown away, by the next question.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace sluice {

// Where questions go and answers come from: a netlink socket. A test plays the kernel.
class netlink_channel {
 public:
  virtual ~netlink_channel() = default;
  virtual bool send(const void* message, size_t bytes) = 0;
  // Bytes of the next datagram; 0: none came until then; below 0: none will come.
  virtual ssize_t receive(void* into, size_t bytes, uint64_t until_ns) = 0;
};

class netdev_features {
 public:
  // nullptr when the kernel has no such family. One that does not answer in time is asked again by the next question.
  static std::unique_ptr<netdev_features> open();
  static std::unique_ptr<netdev_features> open(std::unique_ptr<netlink_channel> channel);
  // Does the netdev take frames that XDP programs redirect to it? A veth does while its peer has NAPI (an XDP program of
  // its own, or GRO on). Empty: the kernel did not say.
  std::optional<bool> takes_redirects(uint32_t ifindex);

 private:
  enum class outcome { answered, refused, silent };
  explicit netdev_features(std::unique_ptr<netlink_channel> channel) : channel_(std::move(channel)) {}
  outcome find_family();
  outcome ask(void* request, uint16_t attribute, uint64_t* value);

  std::unique_ptr<netlink_channel> channel_;
  uint16_t family_ = 0;  // 0: not known yet
  uint32_t sequence_ = 0;
};

}  // namespace sluice
