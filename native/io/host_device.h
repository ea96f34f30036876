// SPDX-License-Identifier: Apache-2.0
/*
 * host_device: a TUN device by which the engine hands IP packets to the host's stack.
 *
 * For packets that are addressed to the appliance but came to the engine first: fragments, and what arrived at a port
 * shared with NAT but has no session. The host sees them come in on this device; its answers leave by its own routes.
 *
 * The other way the host sends by it what its routes lead to tunnels: packets of its own, for a WireGuard interface, whose
 * addresses stand on this device.
 *
 * Who calls it: `engine` opens and destroys it; each worker may call write(), which never blocks (the kernel queues or
 * processes the packet within the call); one worker calls read(). The device lives as long as the object.
 *
 * What the caller must see to, because the host cannot any more: checksums are complete (partial ones would be verified
 * and fail), the destination is an address of the host and not link-local (those are bound to their own link), and the
 * packet has passed the checks that the real netdev's rp_filter would have made: source validation is off here. IPv6
 * knows no per-device forwarding switch: a packet to a foreign destination would be forwarded where
 * net.ipv6.conf.all.forwarding is 1.
 *
 * Bounds: packets of up to host_device_mtu_bytes.
 */
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sluice {

constexpr uint32_t host_device_mtu_bytes = 65535;  // a whole reassembled datagram

class host_device {
 public:
  // In the caller's network namespace. Null with *error set, or a device that works with *warning non-empty when the
  // host's settings will make it drop packets (strict reverse path filter) or forward them.
  static std::unique_ptr<host_device> open(const std::string& name, std::string* error, std::string* warning);
  ~host_device();
  host_device(const host_device&) = delete;
  host_device& operator=(const host_device&) = delete;

  // One IPv4 or IPv6 packet, without link header. False: not taken (counted), try no more than the next packet.
  bool write(const uint8_t* packet, size_t length) noexcept;

  // The next packet that the host sent by the device, without link header; 0: none waits. Of a packet longer than `size` the rest is lost.
  size_t read(uint8_t* packet, size_t size) noexcept;
  int fd() const { return fd_; }  // readable when a packet waits

  uint32_t ifindex() const { return ifindex_; }
  const std::string& name() const { return name_; }
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  host_device() = default;
  int fd_ = -1;
  uint32_t ifindex_ = 0;
  std::string name_;
  std::atomic<uint64_t> refused_{0};
};

}  // namespace sluice
