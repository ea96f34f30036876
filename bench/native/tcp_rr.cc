// SPDX-License-Identifier: Apache-2.0
// Transactions a second, after netperf's TCP_RR, TCP_CRR and UDP_RR: one client, one request under way, each answered
// before the next. rr: over one TCP connection; crr: connect, request, answer, close, each time; udp: datagrams.
// Both ends block in their sockets: an event loop would add its own calls to each transaction.
#include "sockets.h"
#include <algorithm>
#include <sys/time.h>
#include <thread>
#include <vector>

using namespace bench;

static const char help[] =
    "usage: tcp_rr --listen ADDRESS | --connect ADDRESS --kind rr|crr|udp [options]\n"
    "  --listen ADDRESS    server of all kinds, until standard input ends\n"
    "  --connect ADDRESS   client; prints transactions a second and their times\n"
    "  --kind rr|crr|udp   what a transaction is\n"
    "  --port PORT         (5003)\n"
    "  --bytes N           of a request, and of its answer (1)\n"
    "  --seconds N         measured (5)\n"
    "  --warm-up-ms N      before that (300)\n"
    "  --source ADDRESS    first source address (the kernel's choice)\n"
    "  --sources N         consecutive source addresses, in turns: ports in TIME_WAIT last longer (1)\n";

constexpr int TIMEOUT_S = 2; // a lost packet is repeated by then; else the transaction has failed
constexpr size_t BYTES_MAX = 1400;

// A blocking socket that gives up after the time-out.
static int open_blocking(int family, int type) {
  int fd = socket(family, type | SOCK_CLOEXEC, 0), on = 1;
  timeval timeout{TIMEOUT_S, 0};
  if (fd < 0)
    fail("socket: %s", strerror(errno));
  if (type == SOCK_STREAM)
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  return fd;
}

static int bind_blocking(const Address &address, int type) {
  int fd = open_blocking(address.family(), type);
  if (bind(fd, address.get(), address.bytes) || (type == SOCK_STREAM && listen(fd, 4096)))
    fail("cannot listen: %s", strerror(errno));
  return fd;
}

static void serve_tcp(int listener) {
  char buffer[BYTES_MAX];
  int on = 1;
  for (;;) {
    int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0)
      continue; // the listener's time-out
    timeval timeout{TIMEOUT_S, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (ssize_t bytes; (bytes = recv(fd, buffer, sizeof buffer, 0)) > 0;)
      if (send(fd, buffer, bytes, MSG_NOSIGNAL) != bytes)
        break;
    close(fd);
  }
}

static void serve_udp(int fd) {
  char buffer[BYTES_MAX];
  for (;;) {
    Address from;
    from.bytes = sizeof from.storage;
    ssize_t bytes = recvfrom(fd, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr *>(&from.storage), &from.bytes);
    if (bytes >= 0)
      sendto(fd, buffer, bytes, 0, from.get(), from.bytes);
  }
}

[[noreturn]] static void serve(const Address &address) {
  std::thread(serve_tcp, bind_blocking(address, SOCK_STREAM)).detach();
  std::thread(serve_udp, bind_blocking(address, SOCK_DGRAM)).detach();
  answer_samples([] { return "{}"; });
  _exit(0);
}

class Client {
 public:
  explicit Client(const Options &options) : kind_(options.required("kind")), bytes_(options.number("bytes", 1)) {
    uint16_t port = options.number("port", 5003);
    to_ = parse_address(options.required("connect"), port);
    for (uint64_t i = 0; options.has("source") && i < options.number("sources", 1); i++)
      from_.push_back(parse_address(options.text("source", ""), 0, i));
    if (kind_ != "rr" && kind_ != "crr" && kind_ != "udp")
      fail("--kind is rr, crr or udp, not %s", kind_.c_str());
    if (!bytes_ || bytes_ > BYTES_MAX)
      fail("--bytes must be 1 to %zu", BYTES_MAX);
    if (kind_ != "crr")
      fd_ = connected();
  }
  // One transaction; false when it failed, after which there is a new connection.
  bool transact() {
    if (kind_ == "crr")
      fd_ = connected();
    bool done = fd_ >= 0 && exchange();
    if (kind_ == "crr" || !done) {
      char rest;
      if (kind_ == "crr" && done && (shutdown(fd_, SHUT_WR) || recv(fd_, &rest, 1, 0) != 0))
        done = false;
      if (fd_ >= 0)
        close(fd_);
      fd_ = kind_ == "crr" ? -1 : connected();
    }
    return done;
  }

 private:
  std::string kind_;
  size_t bytes_;
  Address to_;
  std::vector<Address> from_;
  uint64_t opened_ = 0;
  int fd_ = -1;

  int connected() {
    int fd = open_blocking(to_.family(), kind_ == "udp" ? SOCK_DGRAM : SOCK_STREAM), on = 1;
    if (!from_.empty()) {
      const Address &from = from_[opened_++ % from_.size()];
      setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
      if (bind(fd, from.get(), from.bytes))
        fail("cannot bind to a source address: %s", strerror(errno));
    }
    if (connect(fd, to_.get(), to_.bytes) == 0)
      return fd;
    close(fd);
    return -1;
  }
  bool exchange() {
    char buffer[BYTES_MAX] = {};
    if (send(fd_, buffer, bytes_, MSG_NOSIGNAL) != ssize_t(bytes_))
      return false;
    for (size_t received = 0; received < bytes_;) {
      ssize_t part = recv(fd_, buffer, sizeof buffer, 0);
      if (part <= 0)
        return false;
      received += part;
    }
    return true;
  }
};

static double quantile(std::vector<float> &values, double part) {
  if (values.empty())
    return 0;
  auto at = values.begin() + size_t(part * (values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

int main(int count, char **words) {
  Options options(count, words, help);
  if (options.has("listen"))
    serve(parse_address(options.required("listen"), options.number("port", 5003)));
  Client client(options);
  for (uint64_t end = now_ns() + options.number("warm-up-ms", 300) * 1000000u; now_ns() < end;)
    client.transact();
  std::vector<float> microseconds;
  uint64_t failed = 0, start = now_ns(), end = start + options.number("seconds", 5) * 1000000000u, now = start;
  while (now < end) {
    bool done = client.transact();
    uint64_t after = now_ns();
    if (done)
      microseconds.push_back((after - now) / 1e3);
    else
      failed++;
    now = after;
  }
  print_line(format("{\"transactions\":%zu,\"failed\":%lu,\"perSecond\":%.1f,\"usP50\":%.2f,\"usP99\":%.2f,\"usP999\":%.2f}", microseconds.size(), failed,
                    microseconds.size() * 1e9 / (now - start), quantile(microseconds, 0.5), quantile(microseconds, 0.99), quantile(microseconds, 0.999)));
}
