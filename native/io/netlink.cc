// SPDX-License-Identifier: Apache-2.0
/*
 * netlink.cc: the monitor's thread, in the order of its life: sockets, dump, notifications, resolution, end.
 *
 * Three sockets: one subscribed to notifications, one for dumps, one for resolution. The subscription stands before the
 * first dump begins, so nothing falls between the two; a notification older than the dump is put right by the younger
 * one that must follow it.
 *
 * The thread keeps a table of what it reported. It makes removals visible after a lost notification, keeps refreshes of
 * a neighbour that change nothing from the engine, and answers resolve() for what the kernel has no news about.
 * What the bytes of a message say, netlink_messages.cc reads.
 */
#include "io/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flow/address_hash.h"
#include "io/netlink_messages.h"

namespace sluice {
namespace {

constexpr size_t message_bytes = 32768;     // what one recv takes: the kernel fills up to 32 KiB in a dump
constexpr unsigned dump_attempts_max = 10;  // a dump that changes disturbed is repeated, at once
constexpr int dump_retry_ms = 100;          // and after that many times, again later
constexpr size_t recent_entries = 4096;     // direct-mapped memory of requests; an eviction costs one request more

static_assert(recent_entries >= resolve_ring_entries, "a full ring must not evict itself");
static_assert((resolve_ring_entries & (resolve_ring_entries - 1)) == 0, "ring index is a mask");

struct endpoint {
  uint32_t ifindex;
  sl_address address;
  bool operator==(const endpoint& other) const {
    return ifindex == other.ifindex && memcmp(&address, &other.address, sizeof address) == 0;
  }
};

struct endpoint_hash {
  size_t operator()(const endpoint& e) const {
    return hash(e.address, address_hash_secret() + e.ifindex);
  }
};

// An interface may carry one address with two prefix lengths.
struct address_key {
  endpoint at;
  uint8_t prefix_length;
  bool operator==(const address_key& other) const { return at == other.at && prefix_length == other.prefix_length; }
};
struct address_key_hash {
  size_t operator()(const address_key& k) const { return endpoint_hash()(k.at) * 131 + k.prefix_length; }
};

bool same(const link_event& a, const link_event& b) {
  return strcmp(a.name, b.name) == 0 && a.up == b.up && a.mtu_bytes == b.mtu_bytes && memcmp(a.mac, b.mac, sizeof a.mac) == 0;
}

uint64_t now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1000 + t.tv_nsec / 1000000;
}

// Many producers, one consumer, no locks: each cell's sequence says whose turn it is (Vyukov's bounded queue).
class resolve_ring {
 public:
  resolve_ring() {
    for (uint64_t i = 0; i < resolve_ring_entries; ++i) cells_[i].sequence.store(i, std::memory_order_relaxed);
  }
  bool push(const endpoint& request) {
    uint64_t position = tail_.load(std::memory_order_relaxed);
    for (;;) {
      cell& c = cells_[position & (resolve_ring_entries - 1)];
      const int64_t turn = static_cast<int64_t>(c.sequence.load(std::memory_order_acquire) - position);
      if (turn < 0) return false;
      if (turn > 0) {
        position = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
        c.request = request;
        c.sequence.store(position + 1, std::memory_order_release);
        return true;
      }
    }
  }
  bool pop(endpoint* request) {
    cell& c = cells_[head_ & (resolve_ring_entries - 1)];
    if (c.sequence.load(std::memory_order_acquire) != head_ + 1) return false;
    *request = c.request;
    c.sequence.store(head_ + resolve_ring_entries, std::memory_order_release);
    ++head_;
    return true;
  }

 private:
  struct cell {
    std::atomic<uint64_t> sequence;
    endpoint request;
  };
  alignas(64) std::atomic<uint64_t> tail_{0};  // hot: producers
  alignas(64) uint64_t head_ = 0;              // hot: consumer
  std::array<cell, resolve_ring_entries> cells_;
};

struct socket_closer {
  void operator()(mnl_socket* s) const { mnl_socket_close(s); }
};
using socket_handle = std::unique_ptr<mnl_socket, socket_closer>;

socket_handle open_socket(std::string* error) {
  socket_handle s(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
  if (!s || mnl_socket_bind(s.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    *error = std::string("cannot open a route netlink socket: ") + strerror(errno) + "; the kernel needs CONFIG_NET, the process a free descriptor";
    return nullptr;
  }
  return s;
}

}  // namespace

struct netlink_monitor::state {
  struct link {
    link_event event;
    uint64_t epoch;
  };
  struct address {
    address_event event;
    uint64_t epoch;
  };
  struct neighbour {
    neighbour_event event;
    uint16_t nud;
    uint64_t epoch;
  };
  struct recent {
    endpoint request;
    uint64_t asked_ms;
    bool refused;
  };

  netlink_callbacks callbacks;
  socket_handle events, dumps, resolves;
  int wake = -1;
  std::thread thread;

  // shared with callers
  resolve_ring ring;
  alignas(64) std::atomic<bool> called{false};
  std::atomic<bool> stop{false}, dump_requested{false};
  std::atomic<uint64_t> resolves_lost{0};
  // written by the thread alone, read by counters()
  std::atomic<uint64_t> resolves_sent{0}, resolves_collapsed{0}, resolves_refused{0}, dump_count{0}, overruns{0},
      neighbours_ignored{0};

  // the thread's own
  std::unordered_map<uint32_t, link> links;
  std::unordered_map<address_key, address, address_key_hash> addresses;
  std::unordered_map<endpoint, neighbour, endpoint_hash> neighbours;
  std::array<recent, recent_entries> asked{};
  std::vector<char> buffer = std::vector<char>(message_bytes);
  uint64_t epoch = 0;
  uint32_t sequence = 0;
  bool dump_due = true, report_all = true;

  ~state() {
    if (wake >= 0) ::close(wake);
  }

  // ---- callers ----

  void call() noexcept {
    // The exchange orders the caller's push before it, and the thread's pop after its own: no request is left behind.
    if (called.exchange(true)) return;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake, &one, sizeof one);
  }

  // ---- the thread ----

  void run() {
    pthread_setname_np(pthread_self(), "sl-netlink");
    while (!stop.load()) {
      if (dump_requested.exchange(false)) dump_due = report_all = true;
      if (dump_due) dump_everything();
      pollfd wait[2] = {{mnl_socket_get_fd(events.get()), POLLIN, 0}, {wake, POLLIN, 0}};
      if (::poll(wait, 2, dump_due ? dump_retry_ms : -1) < 0) continue;
      if (wait[1].revents != 0) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = ::read(wake, &count, sizeof count);
        called.exchange(false);
        answer_requests();
      }
      if (wait[0].revents != 0) read_events();
    }
  }

  void warn(const std::string& text) {
    if (callbacks.on_warning) callbacks.on_warning(text);
  }

  // Links before addresses before neighbours: each refers to the one before.
  void dump_everything() {
    ++epoch;
    if (!dump(RTM_GETLINK) || !dump(RTM_GETADDR) || !dump(RTM_GETNEIGH)) {
      dump_due = true;
      return;
    }
    sweep();
    dump_due = report_all = false;
    dump_count.fetch_add(1, std::memory_order_relaxed);
    if (callbacks.on_synchronised) callbacks.on_synchronised();
  }

  bool dump(uint16_t type) {
    for (unsigned attempt = 0; attempt < dump_attempts_max; ++attempt) {
      char request[MNL_NLMSG_HDRLEN + 64]{};
      nlmsghdr* message = mnl_nlmsg_put_header(request);
      message->nlmsg_type = type;
      message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
      message->nlmsg_seq = ++sequence;
      // Each header's first byte is the family; AF_UNSPEC asks for all, bridge tables excepted.
      mnl_nlmsg_put_extra_header(message, type == RTM_GETLINK ? sizeof(ifinfomsg)
                                          : type == RTM_GETADDR ? sizeof(ifaddrmsg) : sizeof(ndmsg));
      if (type == RTM_GETLINK) mnl_attr_put_u32(message, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
      if (mnl_socket_sendto(dumps.get(), message, message->nlmsg_len) < 0) {
        warn(std::string("netlink dump request failed, will be repeated: ") + strerror(errno));
        return false;
      }
      const unsigned portid = mnl_socket_get_portid(dumps.get());
      int result = MNL_CB_OK;
      while (result > MNL_CB_STOP) {
        const ssize_t bytes = mnl_socket_recvfrom(dumps.get(), buffer.data(), buffer.size());
        if (bytes < 0 && errno == EINTR) continue;
        result = bytes < 0 ? MNL_CB_ERROR
                           : mnl_cb_run(buffer.data(), bytes, sequence, portid, &state::handle, this);
      }
      if (result == MNL_CB_STOP) return true;
      // EINTR: the kernel's tables changed under the dump. Drain what is left of it by a socket of a new request.
      const int code = errno;
      std::string error;
      if (socket_handle fresh = open_socket(&error)) dumps = std::move(fresh);
      if (code != EINTR) {
        warn(std::string("netlink dump failed, will be repeated: ") + strerror(code));
        return false;
      }
    }
    return false;
  }

  // What the dump did not name is gone.
  void sweep() {
    for (auto it = neighbours.begin(); it != neighbours.end();)
      it = it->second.epoch == epoch ? std::next(it) : forget(it);
    for (auto it = addresses.begin(); it != addresses.end();)
      it = it->second.epoch == epoch ? std::next(it) : forget(it);
    std::vector<uint32_t> lost;
    for (const auto& [ifindex, l] : links)
      if (l.epoch != epoch) lost.push_back(ifindex);
    for (const uint32_t ifindex : lost) forget_link(ifindex);
  }

  void read_events() {
    for (;;) {
      const ssize_t bytes = ::recv(mnl_socket_get_fd(events.get()), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (bytes < 0) {
        if (errno == EINTR) continue;
        if (errno == ENOBUFS) {
          overruns.fetch_add(1, std::memory_order_relaxed);
          dump_due = true;
          continue;
        }
        if (errno != EAGAIN) warn(std::string("netlink notifications failed: ") + strerror(errno));
        return;
      }
      if (mnl_cb_run(buffer.data(), bytes, 0, 0, &state::handle, this) < 0) dump_due = true;
      if (stop.load(std::memory_order_relaxed)) return;
    }
  }

  static int handle(const nlmsghdr* message, void* self) {
    auto* s = static_cast<state*>(self);
    switch (message->nlmsg_type) {
      case RTM_NEWLINK:
      case RTM_DELLINK: s->handle_link(message); break;
      case RTM_NEWADDR:
      case RTM_DELADDR: s->handle_address(message); break;
      case RTM_NEWNEIGH:
      case RTM_DELNEIGH: s->handle_neighbour(message); break;
    }
    return MNL_CB_OK;
  }

  void handle_link(const nlmsghdr* message) {
    link_event event;
    if (!read_link(message, &event)) return;
    if (event.removed) return forget_link(event.ifindex);
    auto [it, created] = links.try_emplace(event.ifindex);
    const bool changed = created || !same(it->second.event, event);
    it->second = {event, epoch};
    if ((changed || report_all) && callbacks.on_link) callbacks.on_link(event);
  }

  void handle_address(const nlmsghdr* message) {
    address_event event;
    if (!read_address(message, &event)) return;
    const address_key key{{event.ifindex, event.address}, event.prefix_length};
    if (!event.added) {
      if (const auto it = addresses.find(key); it != addresses.end()) forget(it);
      return;
    }
    auto [it, created] = addresses.try_emplace(key);
    const bool changed = created || it->second.event.flags != event.flags;
    it->second = {event, epoch};
    if ((changed || report_all) && callbacks.on_address) callbacks.on_address(event);
  }

  void handle_neighbour(const nlmsghdr* message) {
    neighbour_event event;
    uint16_t nud;
    if (!read_neighbour(message, &event, &nud)) return;
    const endpoint key{event.ifindex, event.address};
    auto it = neighbours.find(key);
    if (event.removed) {
      if (it != neighbours.end()) forget(it);
      return;
    }
    const bool created = it == neighbours.end();
    if (created) {
      if (neighbours.size() >= neighbours_max) {
        neighbours_ignored.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      it = neighbours.try_emplace(key).first;
    }
    // Each failure counts: packets may wait for this very attempt.
    const neighbour_event& known = it->second.event;
    const bool changed = event.failed || known.usable != event.usable || memcmp(known.mac, event.mac, sizeof event.mac) != 0;
    it->second = {event, nud, epoch};
    if ((changed || report_all) && callbacks.on_neighbour) callbacks.on_neighbour(event);
  }

  // ---- removal ----

  using neighbour_iterator = decltype(neighbours)::iterator;
  using address_iterator = decltype(addresses)::iterator;

  neighbour_iterator forget(neighbour_iterator it) {
    neighbour_event event = it->second.event;
    event.usable = event.failed = false;
    event.removed = true;
    it = neighbours.erase(it);
    if (callbacks.on_neighbour) callbacks.on_neighbour(event);
    return it;
  }

  address_iterator forget(address_iterator it) {
    address_event event = it->second.event;
    event.added = false;
    it = addresses.erase(it);
    if (callbacks.on_address) callbacks.on_address(event);
    return it;
  }

  // With its neighbours and addresses, whether or not the kernel says so of each.
  void forget_link(uint32_t ifindex) {
    const auto found = links.find(ifindex);
    if (found == links.end()) return;
    for (auto it = neighbours.begin(); it != neighbours.end();)
      it = it->first.ifindex == ifindex ? forget(it) : std::next(it);
    for (auto it = addresses.begin(); it != addresses.end();)
      it = it->first.at.ifindex == ifindex ? forget(it) : std::next(it);
    link_event event = found->second.event;
    event.up = false;
    event.removed = true;
    links.erase(found);
    if (callbacks.on_link) callbacks.on_link(event);
  }

  // ---- resolution ----

  void answer_requests() {
    endpoint request;
    while (ring.pop(&request)) {
      const auto known = neighbours.find(request);
      if (known != neighbours.end() && known->second.event.usable) {
        if (callbacks.on_neighbour) callbacks.on_neighbour(known->second.event);
        // NTF_USE makes the kernel forget that an entry was permanent, and start asking for it.
        if (known->second.nud & (NUD_PERMANENT | NUD_NOARP)) continue;
      }
      recent& last = asked[endpoint_hash()(request) % recent_entries];
      const uint64_t now = now_ms();
      if (last.asked_ms != 0 && last.request == request && now - last.asked_ms < resolve_collapse_ms) {
        resolves_collapsed.fetch_add(1, std::memory_order_relaxed);
      } else {
        last = {request, now, !ask_kernel(request)};
      }
      if (last.refused) report_refused(request);
    }
  }

  // The kernel answers within sendto, so one non-blocking read tells whether it refused.
  bool ask_kernel(const endpoint& request) {
    char bytes[MNL_NLMSG_HDRLEN + 64]{};
    nlmsghdr* message = mnl_nlmsg_put_header(bytes);
    message->nlmsg_type = RTM_NEWNEIGH;
    message->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK;
    message->nlmsg_seq = ++sequence;
    auto* head = static_cast<ndmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ndmsg)));
    head->ndm_ifindex = static_cast<int>(request.ifindex);
    head->ndm_flags = NTF_USE;
    if (is_ipv4(request.address)) {
      head->ndm_family = AF_INET;
      mnl_attr_put(message, NDA_DST, 4, request.address.bytes + 12);
    } else {
      head->ndm_family = AF_INET6;
      mnl_attr_put(message, NDA_DST, 16, request.address.bytes);
    }
    int code = 0;
    if (mnl_socket_sendto(resolves.get(), message, message->nlmsg_len) < 0) {
      code = errno;
    } else {
      resolves_sent.fetch_add(1, std::memory_order_relaxed);
      const int fd = mnl_socket_get_fd(resolves.get());
      for (ssize_t n; (n = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0;) {
        const auto* reply = reinterpret_cast<const nlmsghdr*>(buffer.data());
        if (mnl_nlmsg_ok(reply, n) && reply->nlmsg_type == NLMSG_ERROR && reply->nlmsg_seq == sequence) code = error_of(reply);
      }
    }
    if (code != 0) resolves_refused.fetch_add(1, std::memory_order_relaxed);
    return code == 0;
  }

  void report_refused(const endpoint& request) {
    neighbour_event event{};
    event.ifindex = request.ifindex;
    event.address = request.address;
    event.failed = true;
    if (callbacks.on_neighbour) callbacks.on_neighbour(event);
  }
};

netlink_monitor::netlink_monitor(std::unique_ptr<state> s) : state_(std::move(s)) {}

std::unique_ptr<netlink_monitor> netlink_monitor::start(netlink_callbacks callbacks, const netlink_options& options,
                                                        std::string* error) {
  auto s = std::make_unique<state>();
  s->callbacks = std::move(callbacks);
  s->events = open_socket(error);
  s->dumps = open_socket(error);
  s->resolves = open_socket(error);
  if (!s->events || !s->dumps || !s->resolves) return nullptr;
  const int fd = mnl_socket_get_fd(s->events.get());
  const int receive_buffer = static_cast<int>(options.receive_buffer_bytes);
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof receive_buffer) != 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  for (int group : {RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR}) {
    if (mnl_socket_setsockopt(s->events.get(), NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0) {
      *error = std::string("cannot subscribe to netlink notifications: ") + strerror(errno);
      return nullptr;
    }
  }
  s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (s->wake < 0) {
    *error = std::string("cannot create an eventfd: ") + strerror(errno) + "; raise the limit of open files";
    return nullptr;
  }
  state* raw = s.get();
  std::unique_ptr<netlink_monitor> monitor(new netlink_monitor(std::move(s)));
  raw->thread = std::thread([raw] { raw->run(); });
  return monitor;
}

netlink_monitor::~netlink_monitor() {
  state_->stop.store(true);
  // Not by call(): the thread may have been called already and be about to sleep again.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(state_->wake, &one, sizeof one);
  if (state_->thread.joinable()) state_->thread.join();
}

bool netlink_monitor::resolve(uint32_t ifindex, const sl_address& address) noexcept {
  if (!state_->ring.push({ifindex, address})) {
    state_->resolves_lost.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  state_->call();
  return true;
}

void netlink_monitor::request_dump() noexcept {
  state_->dump_requested.store(true);
  state_->call();
}

netlink_counters netlink_monitor::counters() const noexcept {
  const state& s = *state_;
  const auto get = [](const std::atomic<uint64_t>& n) { return n.load(std::memory_order_relaxed); };
  return {get(s.resolves_sent), get(s.resolves_collapsed), get(s.resolves_refused), get(s.resolves_lost),
          get(s.dump_count),    get(s.overruns),           get(s.neighbours_ignored)};
}

}  // namespace sluice
