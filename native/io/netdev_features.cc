// SPDX-License-Identifier: Apache-2.0
// netdev_features.cc: see netdev_features.h.
#include "io/netdev_features.h"

#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstring>

namespace sluice {
namespace {

// linux/netdev.h is younger than Debian 12's headers.
constexpr uint8_t netdev_cmd_dev_get = 1;
constexpr uint16_t netdev_a_dev_ifindex = 1, netdev_a_dev_xdp_features = 3;
constexpr uint64_t netdev_xdp_act_ndo_xmit = 4;
constexpr timeval answer_time_max{0, 200'000};

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

int on_message(const nlmsghdr* message, void* into) { return mnl_attr_parse(message, sizeof(genlmsghdr), on_attribute, into); }

// Sends a request that has one answer and reads one attribute of it.
bool ask(mnl_socket* socket, nlmsghdr* request, wanted_attribute* wanted) {
  if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0) return false;
  char buffer[8192];
  for (;;) {
    ssize_t n = mnl_socket_recvfrom(socket, buffer, sizeof buffer);
    if (n <= 0) return false;
    int result = mnl_cb_run(buffer, static_cast<size_t>(n), request->nlmsg_seq, mnl_socket_get_portid(socket), on_message, wanted);
    if (result <= MNL_CB_STOP) return wanted->found;
  }
}

nlmsghdr* begin(char* buffer, uint16_t family, uint8_t command, uint32_t sequence) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer);
  message->nlmsg_type = family;
  message->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  message->nlmsg_seq = sequence;
  auto* header = static_cast<genlmsghdr*>(mnl_nlmsg_put_extra_header(message, sizeof(genlmsghdr)));
  header->cmd = command;
  header->version = 1;
  return message;
}

}  // namespace

std::unique_ptr<netdev_features> netdev_features::open() {
  std::unique_ptr<netdev_features> f(new netdev_features);
  f->socket_ = mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC);
  if (!f->socket_ || mnl_socket_bind(f->socket_, 0, MNL_SOCKET_AUTOPID) < 0) return nullptr;
  setsockopt(mnl_socket_get_fd(f->socket_), SOL_SOCKET, SO_RCVTIMEO, &answer_time_max, sizeof answer_time_max);
  char buffer[8192];
  nlmsghdr* message = begin(buffer, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, ++f->sequence_);
  mnl_attr_put_strz(message, CTRL_ATTR_FAMILY_NAME, "netdev");
  wanted_attribute id{CTRL_ATTR_FAMILY_ID, 0, false};
  if (!ask(f->socket_, message, &id)) return nullptr;
  f->family_ = static_cast<uint16_t>(id.value);
  return f;
}

netdev_features::~netdev_features() { if (socket_) mnl_socket_close(socket_); }

bool netdev_features::takes_redirects(uint32_t ifindex) {
  char buffer[8192];
  nlmsghdr* message = begin(buffer, family_, netdev_cmd_dev_get, ++sequence_);
  mnl_attr_put_u32(message, netdev_a_dev_ifindex, ifindex);
  wanted_attribute features{netdev_a_dev_xdp_features, 0, false};
  return ask(socket_, message, &features) && (features.value & netdev_xdp_act_ndo_xmit);
}

}  // namespace sluice
