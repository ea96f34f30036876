// SPDX-License-Identifier: Apache-2.0
/*
 * netlink_test.cc: the monitor against the kernel, over a veth pair whose far end answers ARP and ND, or does not.
 */
#include "io/netlink.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <net/if.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "network_namespace.h"

using namespace sluice;
using namespace sluice_test;

namespace {

constexpr auto patience = std::chrono::seconds(10);

sl_address address_of(const char* text) {
  sl_address a{};
  if (inet_pton(AF_INET6, text, a.bytes) == 1) return a;
  a.bytes[10] = a.bytes[11] = 0xff;
  REQUIRE(inet_pton(AF_INET, text, a.bytes + 12) == 1);
  return a;
}

bool operator==(const sl_address& a, const sl_address& b) { return memcmp(&a, &b, sizeof a) == 0; }

void set(const std::string& name, const char* value) {
  std::ofstream file("/proc/sys/net/" + name);
  file << value << std::flush;
  REQUIRE(file.good());
}

// Keeps what the monitor reported; waits for what is to come.
class record {
 public:
  std::vector<link_event> links;
  std::vector<address_event> addresses;
  std::vector<neighbour_event> neighbours;
  unsigned synchronised = 0;
  std::vector<std::string> warnings;

  netlink_callbacks callbacks() {
    return {[this](const link_event& e) { add(links, e); }, [this](const address_event& e) { add(addresses, e); },
            [this](const neighbour_event& e) { add(neighbours, e); },
            [this] {
              const std::lock_guard lock(mutex_);
              ++synchronised;
              changed_.notify_all();
            },
            [this](const std::string& text) { add(warnings, text); }};
  }
  template <class Condition>
  bool wait(Condition condition, std::chrono::milliseconds most = patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, condition);
  }
  template <class Condition>
  bool wait_link(Condition condition) {
    return wait([&] { return std::any_of(links.begin(), links.end(), condition); });
  }
  template <class Condition>
  bool wait_address(Condition condition) {
    return wait([&] { return std::any_of(addresses.begin(), addresses.end(), condition); });
  }
  template <class Condition>
  bool wait_neighbour(const char* text, Condition condition) {
    const sl_address wanted = address_of(text);
    return wait([&] {
      return std::any_of(neighbours.begin(), neighbours.end(),
                         [&](const neighbour_event& e) { return e.address == wanted && condition(e); });
    });
  }
  // Now, without waiting.
  template <class Event, class Condition>
  bool saw(const std::vector<Event>& events, Condition condition) {
    const std::lock_guard lock(mutex_);
    return std::any_of(events.begin(), events.end(), condition);
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    links.clear();
    addresses.clear();
    neighbours.clear();
  }
  void hold(bool on) { on ? gate_.lock() : gate_.unlock(); }

 private:
  template <class Event>
  void add(std::vector<Event>& to, const Event& event) {
    const std::lock_guard held(gate_);
    const std::lock_guard lock(mutex_);
    to.push_back(event);
    changed_.notify_all();
  }
  std::mutex mutex_, gate_;
  std::condition_variable changed_;
};

bool usable(const neighbour_event& e) { return e.usable; }
bool failed(const neighbour_event& e) { return e.failed; }
bool removed(const neighbour_event& e) { return e.removed; }

// e0 (ours, 02::1) and p0 (the peer's, 02::2); solicitations repeat quickly, so that failures do not take seconds.
struct pair {
  network_namespace ours, peer;
  inside here{ours};
  record seen;
  std::string error;
  std::unique_ptr<netlink_monitor> monitor;
  uint32_t e0 = 0;

  pair() {
    run_ip("link add e0 type veth peer name p0 netns " + peer.path());
    run_ip("link set e0 address 02:00:00:00:00:01");
    set("ipv6/conf/e0/accept_dad", "0");
    run_ip("link set e0 up");
    run_ip("addr add 192.0.2.1/24 dev e0");
    run_ip("addr add 2001:db8::1/64 dev e0 nodad");
    for (const char* family : {"ipv4", "ipv6"}) set(std::string(family) + "/neigh/e0/retrans_time_ms", "50");
    e0 = if_nametoindex("e0");
    inside there(peer);
    run_ip("link set p0 address 02:00:00:00:00:02");
    set("ipv6/conf/p0/accept_dad", "0");
    run_ip("link set p0 up");
    run_ip("addr add 192.0.2.2/24 dev p0");
    run_ip("addr add 2001:db8::2/64 dev p0 nodad");
    run_ip("addr add fe80::2/64 dev p0 nodad");
  }
  void start(netlink_options options = {}) {
    monitor = netlink_monitor::start(seen.callbacks(), options, &error);
    REQUIRE_MESSAGE(monitor, error);
    REQUIRE(seen.wait([&] { return seen.synchronised > 0; }));
    // The link comes up on its own time.
    REQUIRE(seen.wait_link([&](const link_event& e) { return e.ifindex == e0 && e.up; }));
  }
  ~pair() { monitor.reset(); }
};

const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 2};

}  // namespace

TEST_CASE("netlink: the first dump reports links and addresses, notifications what changes then") {
  pair p;
  p.start();
  CHECK(p.seen.wait_link([&](const link_event& e) {
    return e.ifindex == p.e0 && strcmp(e.name, "e0") == 0 && e.mtu_bytes == 1500 && e.mac[5] == 1 && !e.removed;
  }));
  CHECK(p.seen.wait_address([&](const address_event& e) {
    return e.address == address_of("192.0.2.1") && e.prefix_length == 120 && e.ifindex == p.e0 && e.added;
  }));
  CHECK(p.seen.wait_address(
      [&](const address_event& e) { return e.address == address_of("2001:db8::1") && e.prefix_length == 64 && e.added; }));

  p.seen.clear();
  run_ip("link set e0 mtu 1400");
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && e.mtu_bytes == 1400; }));
  run_ip("addr add 198.51.100.1/32 dev e0");
  CHECK(p.seen.wait_address([&](const address_event& e) {
    return e.address == address_of("198.51.100.1") && e.prefix_length == 128 && e.added;
  }));
  run_ip("addr del 198.51.100.1/32 dev e0");
  CHECK(p.seen.wait_address([&](const address_event& e) { return e.address == address_of("198.51.100.1") && !e.added; }));
  {
    inside there(p.peer);
    run_ip("link set p0 down");
  }
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && !e.up && !e.removed; }));
  CHECK(p.seen.warnings.empty());
}

TEST_CASE("netlink: resolve makes the kernel ask, for IPv4, IPv6 and link-local neighbours") {
  pair p;
  p.start();
  for (const char* text : {"192.0.2.2", "2001:db8::2", "fe80::2"}) {
    CAPTURE(text);
    CHECK(p.monitor->resolve(p.e0, address_of(text)));
    CHECK(p.seen.wait_neighbour(text, [&](const neighbour_event& e) {
      return e.usable && e.ifindex == p.e0 && memcmp(e.mac, peer_mac, 6) == 0;
    }));
  }
  CHECK(p.monitor->counters().resolves_sent == 3);
  CHECK(p.monitor->counters().resolves_refused == 0);
}

TEST_CASE("netlink: a neighbour that nobody is fails, again on each new attempt, and works once it is there") {
  pair p;
  p.start();
  for (const char* text : {"192.0.2.9", "2001:db8::9"}) {
    CAPTURE(text);
    for (unsigned attempt = 0; attempt < 2; ++attempt) {
      p.seen.clear();
      CHECK(p.monitor->resolve(p.e0, address_of(text)));
      CHECK(p.seen.wait_neighbour(text, failed));
      CHECK_FALSE(p.seen.saw(p.seen.neighbours, usable));
      // Out of the time in which equal requests are one.
      std::this_thread::sleep_for(std::chrono::milliseconds(resolve_collapse_ms + 10));
    }
  }
  {
    inside there(p.peer);
    run_ip("addr add 192.0.2.9/24 dev p0");
  }
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.9")));
  CHECK(p.seen.wait_neighbour("192.0.2.9", usable));
}

TEST_CASE("netlink: resolve starts re-probing of a stale neighbour, and shows its new link address") {
  pair p;
  // The kernel probes a stale neighbour in use after this time.
  for (const char* family : {"ipv4", "ipv6"}) set(std::string(family) + "/neigh/e0/delay_first_probe_time", "0");
  p.start();
  run_ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:77 dev e0 nud stale");
  CHECK(p.seen.wait_neighbour("192.0.2.2", [](const neighbour_event& e) { return e.usable && e.mac[5] == 0x77; }));
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.2")));
  // Unicast probes to the old address stay unanswered; then the kernel gives up, and asks all when used again.
  CHECK(p.seen.wait_neighbour("192.0.2.2", failed));
  std::this_thread::sleep_for(std::chrono::milliseconds(resolve_collapse_ms + 10));
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.2")));
  CHECK(p.seen.wait_neighbour("192.0.2.2", [](const neighbour_event& e) { return e.usable && e.mac[5] == 2; }));
}

TEST_CASE("netlink: a known neighbour is answered at once, and a permanent one stays permanent") {
  pair p;
  p.start();
  run_ip("neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev e0 nud permanent");
  CHECK(p.seen.wait_neighbour("192.0.2.50", usable));
  p.seen.clear();
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.50")));
  CHECK(p.seen.wait_neighbour("192.0.2.50", usable));
  CHECK(p.monitor->counters().resolves_sent == 0);
  CHECK(system("ip neigh show 192.0.2.50 | grep -q PERMANENT") == 0);
}

TEST_CASE("netlink: what the kernel cannot ask fails: no such link, link down") {
  pair p;
  p.start();
  CHECK(p.monitor->resolve(9999, address_of("192.0.2.2")));
  CHECK(p.seen.wait_neighbour("192.0.2.2", failed));
  CHECK(p.monitor->counters().resolves_refused == 1);
  p.seen.clear();
  run_ip("link set e0 down");
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && !e.up; }));
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.3")));
  CHECK(p.seen.wait_neighbour("192.0.2.3", failed));
}

TEST_CASE("netlink: IPv6 neighbours resolve from a link-local address only: without one they fail") {
  pair p;
  run_ip("link set e0 addrgenmode none");
  run_ip("-6 addr flush dev e0 scope link");
  p.start();
  CHECK(p.monitor->resolve(p.e0, address_of("2001:db8::2")));
  CHECK(p.seen.wait_neighbour("2001:db8::2", failed));
}

TEST_CASE("netlink: an interface that goes away takes its neighbours and addresses along") {
  pair p;
  p.start();
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.2")));
  CHECK(p.monitor->resolve(p.e0, address_of("2001:db8::2")));
  CHECK(p.seen.wait_neighbour("192.0.2.2", usable));
  CHECK(p.seen.wait_neighbour("2001:db8::2", usable));
  p.seen.clear();
  run_ip("link del e0");
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && e.removed && strcmp(e.name, "e0") == 0; }));
  CHECK(p.seen.wait_neighbour("192.0.2.2", removed));
  CHECK(p.seen.wait_neighbour("2001:db8::2", removed));
  CHECK(p.seen.wait_address([&](const address_event& e) { return e.address == address_of("192.0.2.1") && !e.added; }));
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.2")));
  p.seen.clear();
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.3")));
  CHECK(p.seen.wait_neighbour("192.0.2.3", failed));
}

TEST_CASE("netlink: leaving a bridge is not the end of a link") {
  pair p;
  p.start();
  run_ip("link add br0 type bridge");
  run_ip("link set e0 master br0");
  p.seen.clear();
  run_ip("link set e0 nomaster");
  run_ip("link set e0 mtu 1300");
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && e.mtu_bytes == 1300; }));
  CHECK_FALSE(p.seen.saw(p.seen.links, [&](const link_event& e) { return e.ifindex == p.e0 && e.removed; }));
}

TEST_CASE("netlink: a burst of requests for one neighbour is one request, and the ring refuses when full") {
  pair p;
  p.start();
  run_ip("neigh add 192.0.2.60 lladdr 02:00:00:00:00:60 dev e0 nud permanent");
  CHECK(p.seen.wait_neighbour("192.0.2.60", usable));
  p.seen.clear();
  p.seen.hold(true);  // the monitor's thread waits in a callback
  CHECK(p.monitor->resolve(p.e0, address_of("192.0.2.60")));
  unsigned taken = 0;
  for (unsigned i = 0; i < 2 * resolve_ring_entries; ++i) taken += p.monitor->resolve(p.e0, address_of("192.0.2.2"));
  CHECK(taken >= resolve_ring_entries - 1);
  CHECK(taken <= resolve_ring_entries);
  CHECK(p.monitor->counters().resolves_lost == 2 * resolve_ring_entries - taken);
  p.seen.hold(false);
  CHECK(p.seen.wait_neighbour("192.0.2.2", usable));
  CHECK(p.monitor->counters().resolves_sent < taken / 10);
}

TEST_CASE("netlink: many threads may ask at once, and each request arrives") {
  pair p;
  p.start();
  constexpr unsigned threads = 4, requests = 50;
  for (unsigned i = 0; i < threads * requests; ++i)
    run_ip("neigh add 192.0.2." + std::to_string(10 + i) + " lladdr 02:00:00:00:01:00 dev e0 nud permanent");
  REQUIRE(p.seen.wait_neighbour("192.0.2.209", usable));
  p.seen.clear();
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      for (unsigned i = 0; i < requests; ++i) {
        sl_address a{};
        a.bytes[10] = a.bytes[11] = 0xff;
        const uint8_t v4[4] = {192, 0, 2, static_cast<uint8_t>(10 + t * requests + i)};
        memcpy(a.bytes + 12, v4, 4);
        p.monitor->resolve(p.e0, a);
      }
    });
  for (auto& worker : workers) worker.join();
  CHECK(p.seen.wait([&] { return p.seen.neighbours.size() == threads * requests; }));
}

TEST_CASE("netlink: lost notifications are made up for by a dump, removals included") {
  pair p;
  p.start({.receive_buffer_bytes = 4096});
  run_ip("neigh add 192.0.2.70 lladdr 02:00:00:00:00:70 dev e0 nud permanent");
  run_ip("addr add 198.51.100.1/32 dev e0");
  CHECK(p.seen.wait_neighbour("192.0.2.70", usable));
  p.seen.clear();
  p.seen.hold(true);
  for (unsigned i = 100; i < 200; ++i)
    run_ip("neigh add 192.0.2." + std::to_string(i) + " lladdr 02:00:00:00:00:70 dev e0 nud permanent");
  run_ip("neigh del 192.0.2.70 dev e0");
  run_ip("addr del 198.51.100.1/32 dev e0");
  run_ip("link set e0 mtu 1280");
  p.seen.hold(false);
  CHECK(p.seen.wait_neighbour("192.0.2.70", removed));
  CHECK(p.seen.wait_neighbour("192.0.2.199", usable));
  CHECK(p.seen.wait_address([&](const address_event& e) { return e.address == address_of("198.51.100.1") && !e.added; }));
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0 && e.mtu_bytes == 1280; }));
  CHECK(p.seen.wait([&] { return p.seen.synchronised >= 2; }));
  CHECK(p.monitor->counters().overruns >= 1);
  CHECK(p.monitor->counters().dumps >= 2);
}

TEST_CASE("netlink: a dump on request reports everything again") {
  pair p;
  p.start();
  run_ip("neigh add 192.0.2.80 lladdr 02:00:00:00:00:80 dev e0 nud permanent");
  CHECK(p.seen.wait_neighbour("192.0.2.80", usable));
  p.seen.clear();
  const unsigned before = p.seen.synchronised;
  p.monitor->request_dump();
  CHECK(p.seen.wait([&] { return p.seen.synchronised > before; }));
  CHECK(p.seen.wait_neighbour("192.0.2.80", usable));
  CHECK(p.seen.wait_link([&](const link_event& e) { return e.ifindex == p.e0; }));
  CHECK(p.seen.wait_address([&](const address_event& e) { return e.address == address_of("192.0.2.1"); }));
}
