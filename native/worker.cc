// SPDX-License-Identifier: Apache-2.0
// worker.cc: a round of a worker: receive → process → transmit → flush, reclaim, refill; timers now and then; and sleep
// when nothing comes. An idle worker wakes ten times a second. Worker 0 also takes what the host sends into tunnels.
#include "worker.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sluice {
namespace {

// Often and little: when a million sessions end at once, packets wait 2 ms at a time for it, not 20. A sleeping worker does it at each of its
// ten wake-ups a second, for all of the time since.
constexpr uint64_t housekeeping_ns = 10'000'000;
// Sessions go to the XDP program when the rings were found empty, or after so many rounds: a worker that never catches up needs it most.
constexpr unsigned offload_rounds_max = 8;
constexpr uint64_t kernel_drops_interval_ns = 1'000'000'000;
constexpr uint64_t housekeeping_held_ns = 5'000'000;  // while packets wait for a next hop
constexpr int sleep_ms_max = 100, sleep_ms_busy_tx = 1, sleep_ms_held = 5;
// Who asks for a processor in short slices gets it soon after waking up (EEVDF, Linux 6.12; before that the kernel does not heed it). How
// much of it a worker gets beside others is the supervisor's to say.
constexpr uint64_t slice_ns = 500'000;
constexpr uint64_t hear_host_ns = 50'000;  // a busy worker looks so often whether the host has packets: the look is a system call

}  // namespace

uint64_t monotonic_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000ull + static_cast<uint64_t>(t.tv_nsec);
}

std::unique_ptr<worker> worker::create(dataplane& shared, unsigned index, uint32_t frames, std::string* error) {
  std::unique_ptr<worker> w(new worker(shared, index));
  w->area_ = umem_area::create(frames, error);
  if (!w->area_) return nullptr;
  w->pool_ = std::make_unique<frame_pool>(*w->area_);
  w->pipeline_ = std::make_unique<pipeline>(shared, index, *w->area_, *w->pool_);
  w->wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (w->wake_fd_ < 0) { *error = std::string("eventfd: ") + std::strerror(errno); return nullptr; }
  w->frames_free_.store(w->pool_->count(), std::memory_order_relaxed);
  return w;
}

worker::~worker() {
  stop();
  for (port_socket& s : sockets_) s.socket->close(*pool_);
  sockets_.clear();
  if (wake_fd_ >= 0) close(wake_fd_);
}

void worker::start() {
  stopping_ = false;
  thread_ = std::thread([this] { routine_worker(); });
  pthread_setname_np(thread_.native_handle(), ("sl-worker-" + std::to_string(index_)).c_str());
}

void worker::ask_for_short_slices() {
  // struct sched_attr of linux/sched/types.h, which C libraries from glibc 2.41 on bring themselves.
  struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) || attributes.policy != SCHED_OTHER) return;  // benches choose another
  attributes.runtime = slice_ns;
  (void)!syscall(SYS_sched_setattr, 0, &attributes, 0);  // as it was, then
}

void worker::wake() {
  uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof one);
}

void worker::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  wake();
  thread_.join();
}

void worker::run_on(const std::function<void()>& task) {
  if (!thread_.joinable()) { task(); return; }
  std::unique_lock lock(tasks_mutex_);
  tasks_.push_back(&task);
  has_tasks_.store(true, std::memory_order_release);
  wake();
  tasks_done_.wait(lock, [&] { for (auto* t : tasks_) if (t == &task) return false; return true; });
}

void worker::run_tasks() {
  std::lock_guard lock(tasks_mutex_);
  for (const auto* task : tasks_) (*task)();
  tasks_.clear();
  transmit_output();  // a task may have sent something
  has_tasks_.store(false, std::memory_order_release);
  tasks_done_.notify_all();
}

void worker::add_socket(unsigned port_slot, bool partial_checksums, std::unique_ptr<xsk> socket) {
  if (!transmit_[port_slot]) transmit_[port_slot] = socket.get();
  sockets_.push_back({port_slot, partial_checksums, std::move(socket), 0, 0});
  share_frames();
  sockets_.back().socket->refill(*pool_, fill_target_);
}

void worker::list_rings(std::vector<sl_ring_record>* into) const {
  for (const port_socket& s : sockets_) {
    const xsk::ring_levels levels = s.socket->levels();
    into->push_back({static_cast<sl_u16>(s.port_slot), static_cast<sl_u16>(s.socket->queue()), levels.entries, levels.rx, levels.fill, levels.tx, levels.completion});
  }
}

void worker::share_frames() {
  fill_target_ = std::max<uint32_t>(batch_max, area_->frame_count() / (2 * std::max<uint32_t>(1, static_cast<uint32_t>(sockets_.size()))));
}

void worker::remove_sockets(unsigned port_slot) {
  transmit_[port_slot] = nullptr;
  for (auto it = sockets_.begin(); it != sockets_.end();) {
    if (it->port_slot != port_slot) { ++it; continue; }
    it->socket->close(*pool_);
    it = sockets_.erase(it);
  }
  share_frames();
}

// What the kernel dropped before the worker could see it.
void worker::count_kernel_drops() {
  for (port_socket& s : sockets_) {
    xdp_statistics statistics{};
    if (!s.socket->statistics(&statistics)) continue;
    bump(pipeline_->counters().drop[SL_DROP_UMEM_EXHAUSTED], statistics.rx_dropped - s.rx_dropped);
    bump(pipeline_->counters().drop[SL_DROP_RX_RING_FULL], statistics.rx_ring_full - s.rx_ring_full);
    s.rx_dropped = statistics.rx_dropped;
    s.rx_ring_full = statistics.rx_ring_full;
  }
}

void worker::routine_worker() {
  ask_for_short_slices();
  uint64_t idle_ns = 0, look_until_ns = 0;  // since when there is no work, 0: there is; until when to look for some
  while (!stopping_.load(std::memory_order_relaxed)) {
    shared_.epoch.quiescent(index_);
    if (has_tasks_.load(std::memory_order_acquire)) [[unlikely]] run_tasks();
    uint64_t now = monotonic_ns();
    bool worked = round(now);
    worked |= pipeline_->revalidate_some(now);
    uint64_t interval = pipeline_->holds_packets() ? housekeeping_held_ns : housekeeping_ns;
    if (now - housekept_ns_ >= interval) {
      const uint64_t since_ns = std::min(now - housekept_ns_, sweep_ns);
      housekept_ns_ = now;
      pipeline_->housekeeping(now, static_cast<uint32_t>(since_ns * sweep_budget_max / sweep_ns));
      transmit_output();
      frames_free_.store(pool_->count(), std::memory_order_relaxed);
      held_.store(pipeline_->holds_packets(), std::memory_order_relaxed);
    }
    if (now - kernel_drops_counted_ns_ >= kernel_drops_interval_ns) {
      kernel_drops_counted_ns_ = now;
      count_kernel_drops();
    }
    if (worked) {
      if (idle_ns) waits_.came_after(now - idle_ns);
      idle_ns = 0;
      continue;
    }
    if (!idle_ns) {
      idle_ns = now;
      look_until_ns = now + waits_.look_ns(now);
    }
    // It yields at each look, so that on a small machine only time that nobody else wants is spent.
    if (now < look_until_ns) {
      sched_yield();
      continue;
    }
    if (look_until_ns) waits_.in_vain(look_until_ns - idle_ns);
    look_until_ns = 0;
    sleep_until_work(now);
  }
  shared_.epoch.sleep(index_);
}

// One batch from each socket. Returns whether most of it was sent on: a flood, of which most is dropped, keeps nobody awake.
bool worker::round(uint64_t now_ns) {
  rx_frame frames[batch_max];
  uint64_t received = 0, sent = 0;
  for (port_socket& s : sockets_) {
    unsigned n = s.socket->receive(frames, batch_max);
    if (n) {
      received += n;
      pipeline_->process(frames, n, s.port_slot, s.partial_checksums, now_ns);
      sent += transmit_output();
    }
  }
  const bool host_waits = index_ == 0 && shared_.has_tunnels.load(std::memory_order_relaxed) && hear_host(now_ns);
  uint64_t kicks = 0;
  for (port_socket& s : sockets_) {
    s.socket->flush();
    s.socket->reclaim(*pool_);
    s.socket->refill(*pool_, fill_target_);
    kicks += s.socket->kicks();
  }
  if (kicks != kicks_) {
    if (kicks > kicks_) pipeline_->counters().add(SL_COUNTER_TX_KICKS, kicks - kicks_);
    kicks_ = kicks;
  }
  if (pipeline_->has_sessions_to_offload()) {
    const bool waiting = std::any_of(sockets_.begin(), sockets_.end(), [](const port_socket& s) { return s.socket->rx_ready(); });
    if (!waiting || ++offload_rounds_ >= offload_rounds_max) {
      pipeline_->offload_waiting();
      offload_rounds_ = 0;
    }
  }
  // now_ns is from before the first batch was received.
  if (received) pipeline_->counters().add_latency(monotonic_ns() - now_ns);
  return host_waits || (received && sent * 2 >= received);
}

// Packets of the host's own, for tunnels.
bool worker::hear_host(uint64_t now_ns) {
  if (shared_.from_host_fd < 0 || (!host_waits_ && now_ns - host_heard_ns_ < hear_host_ns)) return false;
  host_heard_ns_ = now_ns;
  host_waits_ = pipeline_->take_from_host(now_ns) == batch_max;
  transmit_output();
  return host_waits_;
}

uint64_t worker::transmit_output() {
  auto& output = pipeline_->output();
  if (output.empty()) return 0;
  uint64_t packets = 0, bytes = 0;
  for (const tx_item& item : output) {
    xsk* socket = item.port_slot < SL_PORTS_MAX ? transmit_[item.port_slot] : nullptr;
    if (socket && socket->transmit(item.address, item.length)) {
      ++packets;
      bytes += item.length;
      continue;
    }
    bump(pipeline_->counters().drop[socket ? SL_DROP_TX_RING_FULL : SL_DROP_LINK_DOWN]);
    pool_->put(item.address);
  }
  output.clear();
  pipeline_->counters().add(SL_COUNTER_TX_PACKETS, packets);
  pipeline_->counters().add(SL_COUNTER_TX_BYTES, bytes);
  return packets;
}

void worker::sleep_until_work(uint64_t) {
  pollfd fds[2 + SL_XSKS_MAX / 8];
  nfds_t count = 0;
  fds[count++] = {wake_fd_, POLLIN, 0};
  const bool hears_host = index_ == 0 && shared_.from_host_fd >= 0 && shared_.has_tunnels.load(std::memory_order_relaxed);
  if (hears_host) fds[count++] = {shared_.from_host_fd, POLLIN, 0};
  int timeout_ms = pipeline_->holds_packets() ? sleep_ms_held : sleep_ms_max;
  for (port_socket& s : sockets_) {
    if (s.socket->rx_ready()) return;
    if (s.socket->outstanding_tx()) timeout_ms = sleep_ms_busy_tx;
    if (count < sizeof fds / sizeof *fds) fds[count++] = {s.socket->fd(), POLLIN, 0};
  }
  pipeline_->counters().add(SL_COUNTER_POLLS);
  shared_.epoch.sleep(index_);
  poll(fds, count, timeout_ms);
  shared_.epoch.quiescent(index_);
  if (hears_host && fds[1].revents) host_waits_ = true;
  if (fds[0].revents) {
    uint64_t value;
    (void)!read(wake_fd_, &value, sizeof value);
  }
}

}  // namespace sluice
