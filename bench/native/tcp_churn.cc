// SPDX-License-Identifier: Apache-2.0
// Opens TCP connections at a steady rate; each sends a request, gets an answer and is closed by the client, most with
// FIN, every tenth (--reset-every) with RST. Source and destination addresses take turns.
#include "sockets.h"
#include <algorithm>
#include <list>
#include <vector>

using namespace bench;

static const char help[] =
    "usage: tcp_churn --listen ADDRESS | --connect ADDRESS [options]\n"
    "  --listen ADDRESS       server: until standard input ends; a sample holds totals\n"
    "  --connect ADDRESS      client: first server address; prints totals at the end, exit code 1 when a connection failed\n"
    "  --port PORT            (5002)\n"
    "  --servers N            consecutive server addresses (1)\n"
    "  --source ADDRESS       first source address (the kernel's choice)\n"
    "  --sources N            consecutive source addresses (1)\n"
    "  --rate N               connections a second (2000)\n"
    "  --seconds N            how long new connections are opened (10)\n"
    "  --reset-every N        every Nth connection is reset by the client; 0: none (10)\n"
    "  --timeout-seconds N    a connection fails when it is not done by then (10)\n"
    "  --open-max N           connections open at once at most (8192)\n";

// A reset lost on the way is never sent again; the server's probe of the silent connection brings the next one.
constexpr int KEEPALIVE_SECONDS = 15;
constexpr size_t REQUEST_BYTES = 64, ANSWER_BYTES = 256;

struct ServerTotals {
  uint64_t accepted = 0, answered = 0, open = 0;
};

class Served : public Watched {
 public:
  Served(Loop &loop, ServerTotals &totals, int fd) : totals_(totals), fd_(fd) {
    totals_.accepted++;
    totals_.open++;
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_SECONDS);
    set(IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_SECONDS);
    loop.add(fd, EPOLLIN, this);
  }
  ~Served() override {
    totals_.open--;
    close(fd_);
  }
  void ready(uint32_t) override {
    char buffer[ANSWER_BYTES] = {};
    ssize_t bytes = recv(fd_, buffer, sizeof buffer, 0);
    if (bytes < 0 && errno == EAGAIN)
      return;
    if (bytes <= 0) {
      delete this;
      return;
    }
    received_ += bytes;
    if (received_ == REQUEST_BYTES && send(fd_, buffer, sizeof buffer, MSG_NOSIGNAL) == ssize_t(sizeof buffer))
      totals_.answered++;
  }

 private:
  ServerTotals &totals_;
  int fd_;
  void set(int level, int option, int value) { setsockopt(fd_, level, option, &value, sizeof value); }
  size_t received_ = 0;
};

struct ClientTotals {
  uint64_t opened = 0, completed = 0, refused = 0, broken = 0, timed_out = 0, not_opened = 0;
  std::vector<float> milliseconds;
  uint64_t failed() const { return refused + broken + timed_out + not_opened; }
};

class Client : public Watched {
 public:
  Client(Loop &loop, ClientTotals &totals, const Address &from, const Address &to, bool reset)
      : loop_(loop), totals_(totals), fd_(open_socket(to.family())), reset_(reset) {
    int on = 1;
    totals_.opened++;
    if (from.bytes) {
      setsockopt(fd_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
      if (bind(fd_, from.get(), from.bytes))
        fail("cannot bind to a source address: %s", strerror(errno));
    }
    if (connect(fd_, to.get(), to.bytes) && errno != EINPROGRESS) {
      totals_.refused++;
      ended_ = true;
      return;
    }
    loop_.add(fd_, EPOLLOUT, this);
  }
  ~Client() override {
    if (reset_) {
      linger now{1, 0};
      setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(fd_);
  }
  bool ended() const { return ended_; }
  uint64_t start_ns() const { return start_ns_; }
  void time_out() {
    totals_.timed_out++;
    ended_ = true;
  }

  void ready(uint32_t) override {
    char buffer[ANSWER_BYTES] = {};
    if (ended_)
      return;
    if (!requested_) {
      int error = 0;
      socklen_t bytes = sizeof error;
      getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &bytes);
      if (error || send(fd_, buffer, REQUEST_BYTES, MSG_NOSIGNAL) != ssize_t(REQUEST_BYTES)) {
        totals_.refused++;
        ended_ = true;
        return;
      }
      requested_ = true;
      loop_.change(fd_, EPOLLIN, this);
      return;
    }
    ssize_t bytes = recv(fd_, buffer, sizeof buffer, 0);
    if (bytes < 0 && errno == EAGAIN)
      return;
    if (bytes <= 0) {
      totals_.broken++;
      ended_ = true;
      return;
    }
    received_ += bytes;
    if (received_ < ANSWER_BYTES)
      return;
    totals_.completed++;
    totals_.milliseconds.push_back((now_ns() - start_ns_) / 1e6);
    ended_ = true;
  }

 private:
  Loop &loop_;
  ClientTotals &totals_;
  int fd_;
  bool reset_, requested_ = false, ended_ = false;
  size_t received_ = 0;
  uint64_t start_ns_ = now_ns();
};

static void serve(const Options &options, uint16_t port) {
  Loop loop;
  ServerTotals totals;
  Listener listener(loop, parse_address(options.required("listen"), port), [&](int fd) { new Served(loop, totals, fd); });
  Console(loop, [&] {
    return format("{\"accepted\":%lu,\"answered\":%lu,\"open\":%lu}", totals.accepted, totals.answered, totals.open);
  }).run();
}

static double quantile(std::vector<float> &values, double part) {
  if (values.empty())
    return 0;
  auto at = values.begin() + size_t(part * (values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

static bool run_client(const Options &options, uint16_t port) {
  uint64_t rate = options.number("rate", 2000), sources = options.number("sources", 1), servers = options.number("servers", 1);
  uint64_t reset_every = options.number("reset-every", 10), open_max = options.number("open-max", 8192);
  uint64_t timeout_ns = options.number("timeout-seconds", 10) * 1000000000u;
  uint64_t start = now_ns(), end = start + options.number("seconds", 10) * 1000000000u;
  std::vector<Address> from, to;
  for (uint64_t i = 0; i < servers; i++)
    to.push_back(parse_address(options.required("connect"), port, i));
  for (uint64_t i = 0; i < sources; i++)
    from.push_back(options.has("source") ? parse_address(options.text("source", ""), 0, i) : Address{});

  Loop loop;
  ClientTotals totals;
  std::list<Client> clients; // oldest first
  uint64_t due = 0;
  for (uint64_t now = start; now < end || !clients.empty(); now = now_ns()) {
    if (now < end)
      due = rate * (now - start) / 1000000000u;
    for (; totals.opened + totals.not_opened < due; ) {
      if (clients.size() >= open_max) {
        totals.not_opened++;
        continue;
      }
      uint64_t number = totals.opened;
      clients.emplace_back(loop, totals, from[number % sources], to[number / sources % servers], reset_every && number % reset_every == 0);
    }
    loop.turn(1);
    for (auto client = clients.begin(); client != clients.end();) {
      if (!client->ended() && now > client->start_ns() + timeout_ns)
        client->time_out();
      client = client->ended() ? clients.erase(client) : std::next(client);
    }
  }
  double seconds = (now_ns() - start) / 1e9;
  print_line(format("{\"opened\":%lu,\"completed\":%lu,\"refused\":%lu,\"broken\":%lu,\"timedOut\":%lu,\"notOpened\":%lu,\"seconds\":%.3f,"
                    "\"perSecond\":%.0f,\"msP50\":%.3f,\"msP99\":%.3f,\"msMax\":%.3f}",
                    totals.opened, totals.completed, totals.refused, totals.broken, totals.timed_out, totals.not_opened, seconds,
                    totals.completed / seconds, quantile(totals.milliseconds, 0.5), quantile(totals.milliseconds, 0.99), quantile(totals.milliseconds, 1)));
  return totals.failed() == 0;
}

int main(int count, char **words) {
  Options options(count, words, help);
  uint16_t port = options.number("port", 5002);
  raise_file_limit();
  if (options.has("listen"))
    return serve(options, port), 0;
  return run_client(options, port) ? 0 : 1;
}
