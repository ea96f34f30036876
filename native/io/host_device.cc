// SPDX-License-Identifier: Apache-2.0
/*
 * host_device.cc: set-up of the TUN device, the write and the read.
 *
 * Order of set-up: create, configure, then set up: the device is never up with an address of its own, with reverse path
 * filter, or forwarding. Settings go by /proc/sys, which belongs to the caller's network namespace.
 */
#include "io/host_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sluice {
namespace {

constexpr int rp_filter_strict = 1, rp_filter_loose = 2;

bool write_setting(const std::string& path, const char* value) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = ::write(fd, value, strlen(value)) == static_cast<ssize_t>(strlen(value));
  ::close(fd);
  return done;
}

int read_setting(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  char text[16]{};
  const ssize_t bytes = ::read(fd, text, sizeof text - 1);
  ::close(fd);
  return bytes > 0 ? atoi(text) : -1;
}

struct setting {
  const char *family, *name, *value, *reason;
  bool essential;
};

constexpr setting settings[] = {
    {"ipv4", "rp_filter", "0", "replies leave by other netdevs: each source would fail the reverse path check", true},
    {"ipv4", "forwarding", "0", "what is not for the host must end here", true},
    {"ipv6", "forwarding", "0", "what is not for the host must end here", false},
    {"ipv6", "accept_ra", "0", "nobody is a router on this device", false},
    {"ipv6", "autoconf", "0", "the device needs no address", false},
    {"ipv6", "addr_gen_mode", "1", "the device needs no link-local address", false},  // IN6_ADDR_GEN_MODE_NONE
};

std::string path_of(const char* family, const std::string& device, const char* name) {
  return std::string("/proc/sys/net/") + family + "/conf/" + device + "/" + name;
}

void add_warning(std::string* warning, const std::string& text) {
  if (!warning->empty()) *warning += "\n";
  *warning += text;
}

}  // namespace

std::unique_ptr<host_device> host_device::open(const std::string& name, std::string* error, std::string* warning) {
  warning->clear();
  const std::string what = "host device " + name;
  if (name.empty() || name.size() >= IFNAMSIZ || name.find_first_of("/% ") != std::string::npos || name == "." || name == "..") {
    *error = what + ": not a netdev name; 1 to 15 characters without '/', '%' and space are possible";
    return nullptr;
  }
  std::unique_ptr<host_device> device(new host_device);
  device->name_ = name;
  device->fd_ = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (device->fd_ < 0) {
    *error = what + ": cannot open /dev/net/tun: " + strerror(errno) + "; load the tun module and allow access to it";
    return nullptr;
  }
  ifreq request{};
  memcpy(request.ifr_name, name.c_str(), name.size());
  request.ifr_flags = IFF_TUN | IFF_NO_PI | static_cast<short>(IFF_TUN_EXCL);
  if (ioctl(device->fd_, TUNSETIFF, &request) != 0) {
    const int code = errno;
    *error = what + ": cannot create it: " + strerror(code) +
             (code == EBUSY ? "; a netdev of this name exists: choose another name or stop its owner"
                            : "; CAP_NET_ADMIN is needed");
    return nullptr;
  }

  for (const setting& s : settings) {
    const std::string path = path_of(s.family, name, s.name);
    if (write_setting(path, s.value) || read_setting(path) == atoi(s.value)) continue;
    const std::string text = what + ": cannot set " + path + " to " + s.value + ": " + strerror(errno) + " (" + s.reason + ")";
    if (s.essential) {
      *error = text + "; /proc/sys must be writable and CAP_NET_ADMIN held";
      return nullptr;
    }
    // Without IPv6 in the kernel there is nothing to set.
    if (errno != ENOENT) add_warning(warning, text);
  }
  // The stricter of `all` and the device's own holds. Loose is harmless: it asks only for any route to the source.
  const int all_filter = read_setting(path_of("ipv4", "all", "rp_filter"));
  if (all_filter == rp_filter_strict)
    add_warning(warning, "net.ipv4.conf.all.rp_filter is 1 (strict) and overrules " + name +
                ": the host drops IPv4 packets that the engine hands to it; set it to 0 (and netdevs' own as wanted)");
  static_assert(rp_filter_loose > rp_filter_strict, "the kernel takes the larger value; 2 is loose");
  if (read_setting(path_of("ipv6", "all", "forwarding")) == 1)
    add_warning(warning, "net.ipv6.conf.all.forwarding is 1: the host forwards IPv6 by itself, past the policy; set it to 0");

  const int control = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool done = control >= 0;
  request.ifr_mtu = host_device_mtu_bytes;
  done = done && ioctl(control, SIOCSIFMTU, &request) == 0;
  done = done && ioctl(control, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags |= IFF_UP;
  done = done && ioctl(control, SIOCSIFFLAGS, &request) == 0;
  done = done && ioctl(control, SIOCGIFINDEX, &request) == 0;
  const int code = errno;
  if (control >= 0) ::close(control);
  if (!done) {
    *error = what + ": cannot set it up: " + strerror(code) + "; CAP_NET_ADMIN is needed";
    return nullptr;
  }
  device->ifindex_ = static_cast<uint32_t>(request.ifr_ifindex);
  return device;
}

host_device::~host_device() {
  if (fd_ >= 0) ::close(fd_);
}

size_t host_device::read(uint8_t* packet, size_t size) noexcept {
  const ssize_t bytes = ::read(fd_, packet, size);
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

bool host_device::write(const uint8_t* packet, size_t length) noexcept {
  if (length <= host_device_mtu_bytes && ::write(fd_, packet, length) == static_cast<ssize_t>(length)) return true;
  refused_.fetch_add(1, std::memory_order_relaxed);
  return false;
}

}  // namespace sluice
