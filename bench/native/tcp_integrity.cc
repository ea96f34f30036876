// SPDX-License-Identifier: Apache-2.0
// Is every byte right? Pseudo-random streams over parallel TCP connections, every word compared with what it must be,
// and checksums of what each end saw compared at the end of each connection. Connections with an even number send to
// the server, those with an odd number receive from it.
//
// On the wire: the client sends a Request; the data flows; the end that received sends a Trailer and both close.
#include "sockets.h"
#include <algorithm>
#include <memory>
#include <vector>

using namespace bench;

static const char help[] =
    "usage: tcp_integrity --listen ADDRESS | --connect ADDRESS [options]\n"
    "  --listen ADDRESS     server: until standard input ends; a sample holds totals\n"
    "  --connect ADDRESS    client: prints totals at the end, exit code 1 when a byte was wrong or a connection broke\n"
    "  --port PORT          (5001)\n"
    "  --connections N      parallel connections (64)\n"
    "  --bytes N            all of them together, K, M and G allowed (256M)\n"
    "  --seconds N          each connection is made anew until then (once)\n"
    "  --stall-seconds N    a connection without progress for so long is broken (30)\n";

constexpr uint64_t MAGIC = 0x534c554943450001;
constexpr size_t CHUNK_BYTES = 64 << 10;

struct Request {
  uint64_t magic, seed, bytes, to_server;
};
struct Trailer {
  uint64_t bytes, low, high;
  bool operator==(const Trailer &) const = default;
};

struct Totals {
  uint64_t completed = 0, broken = 0, bytes = 0, wrong_words = 0, checksum_mismatches = 0, retransmits = 0;
  bool clean() const { return !broken && !wrong_words && !checksum_mismatches; }
  std::string json() const {
    return format("\"completed\":%lu,\"broken\":%lu,\"bytes\":%lu,\"wrongWords\":%lu,\"checksumMismatches\":%lu,\"retransmits\":%lu", completed,
                  broken, bytes, wrong_words, checksum_mismatches, retransmits);
  }
};

// Word number `index` of the stream of a seed.
static inline uint64_t word_at(uint64_t seed, uint64_t index) {
  uint64_t word = (seed + index) * 0x9e3779b97f4a7c15;
  return word ^ (word >> 29);
}

// Fletcher's sum over 64-bit words: sees order as well as content.
struct Checksum {
  uint64_t low = 0, high = 0;
  void add(uint64_t word) {
    low += word;
    high += low;
  }
};

class Connection : public Watched {
 public:
  // Server's side: the request comes first.
  Connection(Loop &loop, Totals &totals, int fd) : loop_(loop), totals_(totals), fd_(fd), client_(false), step_(Step::Request) { loop_.add(fd, EPOLLIN, this); }
  // Client's side.
  Connection(Loop &loop, Totals &totals, const Address &to, const Request &request)
      : loop_(loop), totals_(totals), fd_(open_socket(to.family())), client_(true), step_(Step::Request), request_(request) {
    if (connect(fd_, to.get(), to.bytes) && errno != EINPROGRESS)
      fail("connect: %s", strerror(errno));
    loop_.add(fd_, EPOLLOUT, this);
  }
  ~Connection() override { close(fd_); }

  bool ended() const { return ended_; }
  uint64_t progress_ns() const { return progress_ns_; }

  void ready(uint32_t) override {
    while (!ended_ && advance())
      ;
    if (ended_ && !client_)
      delete this; // the client's are owned by its slots
  }

  void end(bool complete) {
    tcp_info info{};
    socklen_t bytes = sizeof info;
    if (getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0)
      totals_.retransmits += info.tcpi_total_retrans;
    (complete ? totals_.completed : totals_.broken)++;
    ended_ = true;
  }

 private:
  enum class Step { Request, Send, Receive, AwaitTrailer, SendTrailer, AwaitEnd };

  bool sends() const { return client_ == (request_.to_server != 0); }

  // One step as far as the socket allows; false: wait for the socket.
  bool advance() {
    switch (step_) {
      case Step::Request:
        if (client_ ? !put(&request_, sizeof request_) : !take(&request_, sizeof request_))
          return false;
        if (request_.magic != MAGIC || request_.bytes % 8)
          return end(false), false;
        buffer_.resize(CHUNK_BYTES);
        return enter(sends() ? Step::Send : Step::Receive);
      case Step::Send: {
        if (made_ == request_.bytes && done_ == fill_)
          return enter(Step::AwaitTrailer);
        if (done_ == fill_)
          make_chunk();
        ssize_t bytes = send(fd_, buffer_.data() + done_, fill_ - done_, MSG_NOSIGNAL);
        if (bytes < 0)
          return blocked();
        done_ += bytes;
        return progressed();
      }
      case Step::Receive: {
        if (seen_ == request_.bytes) {
          mine_ = {seen_, sum_.low, sum_.high};
          return enter(Step::SendTrailer);
        }
        size_t room = std::min<uint64_t>(CHUNK_BYTES, request_.bytes - seen_) - fill_; // fill_: bytes of a word begun
        ssize_t bytes = recv(fd_, buffer_.data() + fill_, room, 0);
        if (bytes <= 0)
          return bytes == 0 ? (end(false), false) : blocked();
        fill_ += bytes;
        check_words();
        return progressed();
      }
      case Step::SendTrailer:
        if (!put(&mine_, sizeof mine_))
          return false;
        return enter(Step::AwaitEnd);
      case Step::AwaitTrailer: {
        if (!take(&theirs_, sizeof theirs_))
          return false;
        if (theirs_ != Trailer{made_, sum_.low, sum_.high})
          totals_.checksum_mismatches++;
        return end(true), false; // closes first
      }
      case Step::AwaitEnd: {
        char byte;
        ssize_t bytes = recv(fd_, &byte, 1, 0);
        if (bytes < 0)
          return blocked();
        return end(bytes == 0), false;
      }
    }
    return false;
  }

  void make_chunk() {
    size_t bytes = std::min<uint64_t>(CHUNK_BYTES, request_.bytes - made_);
    auto *words = reinterpret_cast<uint64_t *>(buffer_.data());
    for (size_t i = 0; i < bytes / 8; i++) {
      words[i] = word_at(request_.seed, made_ / 8 + i);
      sum_.add(words[i]);
    }
    made_ += bytes;
    fill_ = bytes;
    done_ = 0;
  }

  void check_words() {
    const auto *words = reinterpret_cast<const uint64_t *>(buffer_.data());
    size_t whole = fill_ / 8;
    uint64_t wrong = 0;
    for (size_t i = 0; i < whole; i++) {
      wrong += words[i] != word_at(request_.seed, seen_ / 8 + i);
      sum_.add(words[i]);
    }
    if (wrong && !totals_.wrong_words)
      fprintf(stderr, "first wrong word of a connection near byte %lu of %lu\n", seen_, request_.bytes);
    totals_.wrong_words += wrong;
    totals_.bytes += whole * 8;
    seen_ += whole * 8;
    fill_ -= whole * 8;
    memmove(buffer_.data(), buffer_.data() + whole * 8, fill_);
  }

  bool put(const void *from, size_t size) {
    ssize_t bytes = send(fd_, static_cast<const char *>(from) + part_, size - part_, MSG_NOSIGNAL);
    return bytes < 0 ? blocked() : part_done(bytes, size);
  }
  bool take(void *into, size_t size) {
    ssize_t bytes = recv(fd_, static_cast<char *>(into) + part_, size - part_, 0);
    if (bytes == 0)
      return end(false), false;
    return bytes < 0 ? blocked() : part_done(bytes, size);
  }
  bool part_done(ssize_t bytes, size_t size) {
    part_ += bytes;
    progressed();
    if (part_ < size)
      return false;
    part_ = 0;
    return true;
  }
  bool blocked() {
    if (errno != EAGAIN && errno != EINTR)
      end(false);
    return false;
  }
  bool progressed() {
    progress_ns_ = now_ns();
    return true;
  }
  bool enter(Step step) {
    step_ = step;
    fill_ = step == Step::Send || step == Step::Receive ? 0 : fill_;
    bool writes = step == Step::Send || step == Step::SendTrailer;
    loop_.change(fd_, writes ? EPOLLOUT : EPOLLIN, this);
    return true;
  }

  Loop &loop_;
  Totals &totals_;
  int fd_;
  bool client_, ended_ = false;
  Step step_;
  Request request_{};
  Trailer mine_{}, theirs_{};
  std::vector<char> buffer_;
  size_t part_ = 0, fill_ = 0, done_ = 0; // of a header; bytes in the buffer; of those sent
  uint64_t made_ = 0, seen_ = 0, progress_ns_ = now_ns();
  Checksum sum_;
};

static void serve(const Options &options, uint16_t port) {
  Loop loop;
  Totals totals;
  Listener listener(loop, parse_address(options.required("listen"), port), [&](int fd) { new Connection(loop, totals, fd); });
  Console(loop, [&] { return format("{%s}", totals.json().c_str()); }).run();
}

static bool run_client(const Options &options, uint16_t port) {
  uint64_t connections = options.number("connections", 64), bytes = options.number("bytes", 256 << 20);
  uint64_t start = now_ns(), end = start + options.number("seconds", 0) * 1000000000u, stall_ns = options.number("stall-seconds", 30) * 1000000000u;
  Address server = parse_address(options.required("connect"), port);
  uint64_t share = (bytes / connections + 7) / 8 * 8, made = 0;
  Loop loop;
  Totals totals;
  std::vector<std::unique_ptr<Connection>> slots(connections);
  auto open = [&](size_t slot) {
    slots[slot] = std::make_unique<Connection>(loop, totals, server, Request{MAGIC, (start ^ 0x5eed) + ++made * 1000003, share, slot % 2 == 0});
  };
  for (size_t i = 0; i < connections; i++)
    open(i);
  for (size_t open_slots = connections; open_slots;) {
    loop.turn(100);
    uint64_t now = now_ns();
    for (size_t i = 0; i < connections; i++) {
      if (!slots[i])
        continue;
      if (!slots[i]->ended() && now > slots[i]->progress_ns() + stall_ns)
        slots[i]->end(false);
      if (!slots[i]->ended())
        continue;
      slots[i].reset();
      if (now < end)
        open(i);
      else
        open_slots--;
    }
  }
  double seconds = (now_ns() - start) / 1e9;
  // What was sent and confirmed counts as well as what was received.
  uint64_t moved = totals.completed * share;
  print_line(format("{%s,\"connections\":%lu,\"moved\":%lu,\"seconds\":%.3f,\"bitsPerSecond\":%.0f}", totals.json().c_str(), made, moved, seconds,
                    moved * 8 / seconds));
  return totals.clean();
}

int main(int count, char **words) {
  Options options(count, words, help);
  uint16_t port = options.number("port", 5001);
  raise_file_limit();
  if (options.has("listen"))
    return serve(options, port), 0;
  return run_client(options, port) ? 0 : 1;
}
