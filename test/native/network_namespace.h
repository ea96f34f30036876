// SPDX-License-Identifier: Apache-2.0
/*
 * network_namespace.h: network namespaces for native tests. They live as long as their object; needs root and iproute2.
 * A test enters one with `inside`, for its own thread and what it starts from it, and is back at the scope's end.
 */
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

namespace sluice_test {

inline int current_namespace() { return ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC); }

inline void run_ip(const std::string& arguments) {
  INFO("ip ", arguments);
  REQUIRE(system(("ip " + arguments).c_str()) == 0);
}

class network_namespace {
 public:
  network_namespace() {
    const int back = current_namespace();
    REQUIRE_MESSAGE(unshare(CLONE_NEWNET) == 0, "root is needed to make network namespaces");
    fd_ = current_namespace();
    run_ip("link set lo up");
    REQUIRE(setns(back, CLONE_NEWNET) == 0);
    ::close(back);
  }
  ~network_namespace() { ::close(fd_); }
  network_namespace(const network_namespace&) = delete;
  network_namespace& operator=(const network_namespace&) = delete;

  int fd() const { return fd_; }
  // As iproute2 takes it for `netns`.
  std::string path() const { return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd_); }

 private:
  int fd_ = -1;
};

class inside {
 public:
  explicit inside(const network_namespace& there) : back_(current_namespace()) {
    REQUIRE(setns(there.fd(), CLONE_NEWNET) == 0);
  }
  ~inside() {
    if (setns(back_, CLONE_NEWNET) != 0) abort();
    ::close(back_);
  }
  inside(const inside&) = delete;
  inside& operator=(const inside&) = delete;

 private:
  int back_;
};

}  // namespace sluice_test
