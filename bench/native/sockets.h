// SPDX-License-Identifier: Apache-2.0
// TCP plumbing of the bench tools: addresses, non-blocking sockets, one epoll loop that also serves standard input
// (a line asks for a sample, its end ends the tool).
#pragma once
#include "tool.h"
#include <fcntl.h>
#include <functional>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

namespace bench {

struct Address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  int family() const { return storage.ss_family; }
  const sockaddr *get() const { return reinterpret_cast<const sockaddr *>(&storage); }
};

// The address `offset` after `text`.
inline Address parse_address(const std::string &text, uint16_t port, uint32_t offset = 0) {
  Address address;
  auto *v4 = reinterpret_cast<sockaddr_in *>(&address.storage);
  auto *v6 = reinterpret_cast<sockaddr_in6 *>(&address.storage);
  if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    v4->sin_addr.s_addr = htonl(ntohl(v4->sin_addr.s_addr) + offset);
    address.bytes = sizeof *v4;
  } else if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    uint32_t *low = &v6->sin6_addr.s6_addr32[3];
    *low = htonl(ntohl(*low) + offset);
    address.bytes = sizeof *v6;
  } else {
    fail("%s is no IP address", text.c_str());
  }
  return address;
}

inline int open_socket(int family) {
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0)
    fail("socket: %s", strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

inline int listen_on(const Address &address) {
  int fd = open_socket(address.family()), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, address.get(), address.bytes) || listen(fd, 4096))
    fail("cannot listen: %s", strerror(errno));
  return fd;
}

inline void raise_file_limit() {
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Something that epoll reports on.
class Watched {
 public:
  virtual ~Watched() = default;
  virtual void ready(uint32_t events) = 0;
};

class Loop {
 public:
  Loop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {}
  ~Loop() { close(epoll_); }
  void add(int fd, uint32_t events, Watched *watched) {
    epoll_event event{events, {.ptr = watched}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event))
      fail("epoll: %s", strerror(errno));
  }
  void change(int fd, uint32_t events, Watched *watched) {
    epoll_event event{events, {.ptr = watched}};
    epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
  }
  // One round; a Watched may delete itself in it, no other one.
  void turn(int timeout_ms) {
    epoll_event events[256];
    int count = epoll_wait(epoll_, events, 256, timeout_ms);
    for (int i = 0; i < count; i++)
      static_cast<Watched *>(events[i].data.ptr)->ready(events[i].events);
  }

 private:
  int epoll_;
};

// Takes connections and hands their sockets on.
class Listener : public Watched {
 public:
  Listener(Loop &loop, const Address &address, std::function<void(int)> accepted) : fd_(listen_on(address)), accepted_(std::move(accepted)) {
    loop.add(fd_, EPOLLIN, this);
  }
  void ready(uint32_t) override {
    int on = 1;
    for (int fd; (fd = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      accepted_(fd);
    }
  }

 private:
  int fd_;
  std::function<void(int)> accepted_;
};

// Runs a server until standard input ends, answering its lines with samples.
class Console : public Watched {
 public:
  Console(Loop &loop, std::function<std::string()> sample) : loop_(loop), sample_(std::move(sample)) { loop.add(STDIN_FILENO, EPOLLIN, this); }
  void ready(uint32_t) override {
    char buffer[256];
    ssize_t bytes = read(STDIN_FILENO, buffer, sizeof buffer);
    if (bytes <= 0)
      ended_ = true;
    for (ssize_t i = 0; i < bytes; i++)
      if (buffer[i] == '\n')
        print_line(sample_());
  }
  void run() {
    print_line("{\"ready\":true}");
    while (!ended_)
      loop_.turn(1000);
  }

 private:
  Loop &loop_;
  std::function<std::string()> sample_;
  bool ended_ = false;
};

}  // namespace bench
