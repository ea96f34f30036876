// SPDX-License-Identifier: Apache-2.0
// netdev_features.cc: see netdev_features.h.
#include "io/netdev_features.h"

#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <cerrno>
#include <cstring>

namespace sluice {
namespace {

// linux/netdev.h is younger than Debian 12's headers.
constexpr uint8_t netdev_cmd_dev_get = 1;
constexpr uint16_t netdev_a_dev_ifindex = 1, netdev_a_dev_xdp_features = 3;
constexpr uint64_t netdev_xdp_act_ndo_xmit = 4;
constexpr uint64_t answer_ns_max = 200'000'000;
constexpr size_t message_bytes_max = 8192;

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000ull + static_cast<uint64_t>(t.tv_nsec);
}

class generic_netlink final : public netlink_channel {
 public:
  static std::unique_ptr<netlink_channel> open() {
    mnl_socket* socket = mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (!socket) return nullptr;
    std::unique_ptr<netlink_channel> channel(new generic_netlink(socket));
    return mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0 ? nullptr : std::move(channel);
  }
  ~generic_netlink() override { mnl_socket_close(socket_); }
  bool send(const void* message, size_t bytes) override { return mnl_socket_sendto(socket_, message, bytes) >= 0; }
  ssize_t receive(void* into, size_t bytes, uint64_t until_ns) override {
    for (;;) {
      const ssize_t n = mnl_socket_recvfrom(socket_, into, bytes);
      if (n >= 0 || (errno != EAGAIN && errno != EINTR)) return n;
      const uint64_t now = now_ns();
      if (now >= until_ns) return 0;
      pollfd wait{mnl_socket_get_fd(socket_), POLLIN, 0};
      poll(&wait, 1, static_cast<int>((until_ns - now) / 1'000'000) + 1);
    }
  }

 private:
  explicit generic_netlink(mnl_socket* socket) : socket_(socket) {}
  mnl_socket* const socket_;
};

struct wanted_attribute { uint16_t type; uint64_t value; bool found; };

int on_attribute(const nlattr* attribute, void* into) {
  auto* wanted = static_cast<wanted_attribute*>(into);
  if (mnl_attr_get_type(attribute) != wanted->type) return MNL_CB_OK;
  size_t length = mnl_attr_get_payload_len(attribute);
  if (length > sizeof wanted->value) return MNL_CB_ERROR;
  wanted->value = 0;
  std::memcpy(&wanted->value, mnl_attr_get_payload(attribute), length);
  wanted->found = true;
  return MNL_CB_OK;
}

nlmsghdr* begin(char* buffer, uint16_t family, uint8_t command) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer);
  message->nlmsg_type = family;
  message->nlmsg_flags = NLM_F_REQUEST;  // no acknowledgement: the answer is one message, or an error
  auto* header = static_cast<genlmsghdr*>(mnl_nlmsg_put_extra_header(message, sizeof(genlmsghdr)));
  header->cmd = command;
  header->version = 1;
  return message;
}

}  // namespace

std::unique_ptr<netdev_features> netdev_features::open() { return open(generic_netlink::open()); }

std::unique_ptr<netdev_features> netdev_features::open(std::unique_ptr<netlink_channel> channel) {
  if (!channel) return nullptr;
  std::unique_ptr<netdev_features> f(new netdev_features(std::move(channel)));
  return f->find_family() == outcome::refused ? nullptr : std::move(f);
}

netdev_features::outcome netdev_features::find_family() {
  char buffer[message_bytes_max];
  nlmsghdr* message = begin(buffer, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
  mnl_attr_put_strz(message, CTRL_ATTR_FAMILY_NAME, "netdev");
  uint64_t id = 0;
  const outcome result = ask(message, CTRL_ATTR_FAMILY_ID, &id);
  if (result == outcome::answered) family_ = static_cast<uint16_t>(id);
  return result;
}

// Sends a request that has one answer and reads one attribute of it. What answers an earlier question is passed over.
netdev_features::outcome netdev_features::ask(void* request, uint16_t attribute, uint64_t* value) {
  auto* question = static_cast<nlmsghdr*>(request);
  question->nlmsg_seq = ++sequence_;
  const uint64_t until_ns = now_ns() + answer_ns_max;
  if (!channel_->send(question, question->nlmsg_len)) return outcome::silent;
  alignas(nlmsghdr) char buffer[message_bytes_max];
  for (;;) {
    const ssize_t n = channel_->receive(buffer, sizeof buffer, until_ns);
    if (n <= 0) return outcome::silent;
    int left = static_cast<int>(n);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer); mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence_) continue;
      if (message->nlmsg_type == NLMSG_ERROR) return outcome::refused;
      wanted_attribute wanted{attribute, 0, false};
      if (mnl_attr_parse(message, sizeof(genlmsghdr), on_attribute, &wanted) < 0 || !wanted.found) return outcome::refused;
      *value = wanted.value;
      return outcome::answered;
    }
    if (now_ns() >= until_ns) return outcome::silent;
  }
}

std::optional<bool> netdev_features::takes_redirects(uint32_t ifindex) {
  if (!family_ && find_family() != outcome::answered) return std::nullopt;
  char buffer[message_bytes_max];
  nlmsghdr* message = begin(buffer, family_, netdev_cmd_dev_get);
  mnl_attr_put_u32(message, netdev_a_dev_ifindex, ifindex);
  uint64_t features = 0;
  switch (ask(message, netdev_a_dev_xdp_features, &features)) {
    case outcome::answered: return (features & netdev_xdp_act_ndo_xmit) != 0;
    case outcome::refused: return false;  // there is no such netdev any more
    default: return std::nullopt;
  }
}

}  // namespace sluice
