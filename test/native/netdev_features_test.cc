// SPDX-License-Identifier: Apache-2.0
// netdev_features_test.cc: what is asked of the kernel about netdevs, with a kernel that answers late, twice, not at all or with an
// error; and the real one.
#include "io/netdev_features.h"

#include <doctest/doctest.h>
#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <net/if.h>

#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "network_namespace.h"

namespace sluice {
namespace {

constexpr uint16_t netdev_family = 0x17;
constexpr uint64_t basic = 1, redirect = 2, ndo_xmit = 4;

using datagram = std::vector<char>;

struct question { uint32_t sequence; bool about_family; };

// Answers each question by what the test says; no clock: what is not there when it is read never comes within the time.
class told_kernel final : public netlink_channel {
 public:
  std::function<void(told_kernel&, const question&)> answer;
  std::deque<datagram> waiting;
  std::vector<question> asked;
  bool broken = false;

  bool send(const void* message, size_t) override {
    if (broken) return false;
    auto* header = static_cast<const nlmsghdr*>(message);
    asked.push_back({header->nlmsg_seq, header->nlmsg_type == GENL_ID_CTRL});
    answer(*this, asked.back());
    return true;
  }
  ssize_t receive(void* into, size_t bytes, uint64_t) override {
    if (waiting.empty()) return 0;
    datagram next = std::move(waiting.front());
    waiting.pop_front();
    REQUIRE(next.size() <= bytes);
    std::memcpy(into, next.data(), next.size());
    return static_cast<ssize_t>(next.size());
  }
  void attribute(uint32_t sequence, uint16_t type, uint64_t value, size_t bytes) {
    alignas(nlmsghdr) char buffer[256] = {};
    nlmsghdr* message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = netdev_family;
    message->nlmsg_seq = sequence;
    mnl_nlmsg_put_extra_header(message, sizeof(genlmsghdr));
    mnl_attr_put_u32(message, 1, 3);
    mnl_attr_put(message, type, bytes, &value);
    waiting.emplace_back(buffer, buffer + message->nlmsg_len);
  }
  void family(uint32_t sequence) { attribute(sequence, CTRL_ATTR_FAMILY_ID, netdev_family, 2); }
  void features(uint32_t sequence, uint64_t bits) { attribute(sequence, 3, bits, 8); }
  void error(uint32_t sequence, int code) {
    alignas(nlmsghdr) char buffer[64] = {};
    nlmsghdr* message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = NLMSG_ERROR;
    message->nlmsg_seq = sequence;
    static_cast<nlmsgerr*>(mnl_nlmsg_put_extra_header(message, sizeof(nlmsgerr)))->error = -code;
    waiting.emplace_back(buffer, buffer + message->nlmsg_len);
  }
};

struct asking {
  told_kernel* kernel = new told_kernel;  // `features` owns it
  std::unique_ptr<netdev_features> features;
  void open(std::function<void(told_kernel&, const question&)> answer) {
    kernel->answer = std::move(answer);
    features = netdev_features::open(std::unique_ptr<netlink_channel>(kernel));
  }
};

void answer_all(told_kernel& kernel, const question& q) {
  if (q.about_family) kernel.family(q.sequence);
  else kernel.features(q.sequence, basic | redirect | ndo_xmit);
}

TEST_CASE("netdev features: an answer that comes too late is the next question's to throw away") {
  asking a;
  a.open(answer_all);
  REQUIRE(a.features);
  CHECK(a.features->takes_redirects(3) == true);

  a.kernel->answer = [](told_kernel&, const question&) {};
  CHECK(a.features->takes_redirects(3) == std::nullopt);
  CHECK(a.features->takes_redirects(3) == std::nullopt);

  // Both answers come now, before the one that is waited for; they say something else.
  const std::vector<question> late(a.kernel->asked.end() - 2, a.kernel->asked.end());
  for (const question& q : late) a.kernel->features(q.sequence, basic);
  a.kernel->answer = answer_all;
  CHECK(a.features->takes_redirects(3) == true);
  CHECK(a.kernel->waiting.empty());
  CHECK(a.features->takes_redirects(3) == true);

  // One datagram with an old and the right answer.
  a.kernel->answer = [&](told_kernel& kernel, const question& q) {
    kernel.error(late[0].sequence, 19);
    kernel.features(q.sequence, ndo_xmit);
    datagram both = kernel.waiting[0];
    both.insert(both.end(), kernel.waiting[1].begin(), kernel.waiting[1].end());
    kernel.waiting = {both};
  };
  CHECK(a.features->takes_redirects(3) == true);
}

TEST_CASE("netdev features: no, unknown and no such family are three things") {
  asking a;
  a.open(answer_all);
  REQUIRE(a.features);
  a.kernel->answer = [](told_kernel& kernel, const question& q) { kernel.features(q.sequence, basic | redirect); };
  CHECK(a.features->takes_redirects(3) == false);
  a.kernel->answer = [](told_kernel& kernel, const question& q) { kernel.error(q.sequence, 19); };
  CHECK(a.features->takes_redirects(3) == false);
  a.kernel->answer = answer_all;
  a.kernel->broken = true;
  CHECK(a.features->takes_redirects(3) == std::nullopt);
  a.kernel->broken = false;
  CHECK(a.features->takes_redirects(3) == true);

  asking none;
  none.open([](told_kernel& kernel, const question& q) { kernel.error(q.sequence, 2); });
  CHECK(!none.features);
}

TEST_CASE("netdev features: a kernel that says nothing at the start is asked again") {
  asking a;
  a.open([](told_kernel&, const question&) {});
  REQUIRE(a.features);
  CHECK(a.features->takes_redirects(3) == std::nullopt);
  a.kernel->answer = answer_all;
  CHECK(a.features->takes_redirects(3) == true);
  CHECK(!a.kernel->asked.back().about_family);
  CHECK(a.features->takes_redirects(4) == true);
}

TEST_CASE("netdev features: a veth takes redirected frames while its peer has NAPI") {
  sluice_test::network_namespace there;
  sluice_test::inside in(there);
  sluice_test::run_ip("link add name a0 type veth peer name b0");
  sluice_test::run_ip("link set a0 up");
  sluice_test::run_ip("link set b0 up");
  std::unique_ptr<netdev_features> features = netdev_features::open();
  if (!features) { MESSAGE("this kernel has no netdev family"); return; }
  const uint32_t a = if_nametoindex("a0");
  CHECK(features->takes_redirects(a) == false);
  REQUIRE(system("ethtool -K b0 gro on") == 0);
  CHECK(features->takes_redirects(a) == true);
  REQUIRE(system("ethtool -K b0 gro off") == 0);
  CHECK(features->takes_redirects(a) == false);
  CHECK(features->takes_redirects(99'999) == false);
}

}  // namespace
}  // namespace sluice
