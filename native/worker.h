// SPDX-License-Identifier: Apache-2.0
// worker.h: one thread with its packet memory, its sockets and its pipeline. The engine gives it sockets and takes them
// away by run_on(), which executes on the worker's thread between two batches.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "io/xsk.h"
#include "pipeline.h"
#include "wait_policy.h"

namespace sluice {

uint64_t monotonic_ns();

class worker {
 public:
  // nullptr with *error when memory is short.
  static std::unique_ptr<worker> create(dataplane& shared, unsigned index, uint32_t frames, std::string* error);
  ~worker();
  void start();
  void stop();
  // Ends its sleep, if it sleeps. Any thread.
  void wake();

  // Runs `task` on the worker's thread between two batches and waits for it; on the caller's when it does not run.
  void run_on(const std::function<void()>& task);

  // On the worker's thread (or before start): takes over a bound socket of a port; gives one back, frames returned.
  void add_socket(unsigned port_slot, bool partial_checksums, std::unique_ptr<xsk> socket);
  void remove_sockets(unsigned port_slot);
  // On the worker's thread: what its sockets' rings hold, between two batches.
  void list_rings(std::vector<sl_ring_record>* into) const;

  pipeline& path() { return *pipeline_; }
  umem_area& area() { return *area_; }
  frame_pool& pool() { return *pool_; }
  uint32_t frames_free() const { return frames_free_.load(std::memory_order_relaxed); }
  uint32_t frames_total() const { return area_->frame_count(); }
  uint32_t held() const { return held_.load(std::memory_order_relaxed); }

 private:
  struct port_socket { unsigned port_slot; bool partial_checksums; std::unique_ptr<xsk> socket; uint64_t rx_dropped = 0, rx_ring_full = 0; };

  worker(dataplane& shared, unsigned index) : shared_(shared), index_(index) {}
  void routine_worker();
  static void ask_for_short_slices();
  bool round(uint64_t now_ns);
  uint64_t transmit_output();  // packets that went
  void run_tasks();
  void share_frames();
  void count_kernel_drops();
  bool hear_host(uint64_t now_ns);
  void sleep_until_work(uint64_t now_ns);

  dataplane& shared_;
  const unsigned index_;
  std::unique_ptr<umem_area> area_;
  std::unique_ptr<frame_pool> pool_;
  std::unique_ptr<pipeline> pipeline_;
  std::vector<port_socket> sockets_;
  xsk* transmit_[SL_PORTS_MAX] = {};
  uint32_t fill_target_ = 0;  // frames a fill ring gets: half of all, shared by the sockets, so that some stay for answers
  wait_policy waits_;
  uint64_t host_heard_ns_ = 0;
  bool host_waits_ = false;   // the host has a packet for a tunnel
  unsigned offload_rounds_ = 0;  // sessions wait so long to be offloaded
  uint64_t housekept_ns_ = 0, kernel_drops_counted_ns_ = 0, kicks_ = 0;
  std::atomic<uint32_t> frames_free_{0}, held_{0};

  std::thread thread_;
  std::atomic<bool> stopping_{false}, has_tasks_{false};
  int wake_fd_ = -1;
  std::mutex tasks_mutex_;
  std::condition_variable tasks_done_;
  std::vector<const std::function<void()>*> tasks_;
};

}  // namespace sluice
