// SPDX-License-Identifier: Apache-2.0
/*
 * xsk.cc: set-up, system calls and end of AF_XDP sockets; the hot calls stand in the header.
 *
 * Raw socket options instead of libxdp: libxdp ties the registration of the memory to its first socket, and brings a
 * program loader that we do not want.
 */
#include "io/xsk.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bit>

#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9  // kernel 6.17 on; absent in Debian 12's header
#endif

namespace sluice {
namespace {

constexpr size_t huge_page_bytes = 2 << 20;
constexpr uint32_t tx_budget_min = 32;  // TX_BATCH_SIZE of the kernel: it refuses less

void sleep_ms(long ms) {
  timespec t{ms / 1000, (ms % 1000) * 1000000};
  while (nanosleep(&t, &t) != 0 && errno == EINTR) {
  }
}

std::string port_name(uint32_t ifindex, uint32_t queue) {
  char name[IF_NAMESIZE] = "?";
  if_indextoname(ifindex, name);
  return std::string(name) + " (netdev " + std::to_string(ifindex) + ") queue " + std::to_string(queue);
}

std::string with_errno(const std::string& what, int code) {
  return what + ": " + strerror(code);
}

std::string remedy_of_bind(int code, const xsk_options& options) {
  switch (code) {
    case EBUSY: return "; another AF_XDP socket holds this queue: stop the process that owns it";
    case EINVAL: return "; the netdev has no such queue (see `ethtool -l`), or it cannot take frames of 4096 bytes";
    case ENODEV: return "; there is no such netdev in this network namespace";
    case ENETDOWN: return "; set the netdev up first";
    case EPERM: return "; CAP_NET_RAW is needed";
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
      return options.mode == xsk_mode::zero_copy ? "; the driver has no zero-copy: use automatic or copy mode" : "";
    default: return "";
  }
}

bool set_ring(int fd, int option, uint32_t entries) {
  return setsockopt(fd, SOL_XDP, option, &entries, sizeof entries) == 0;
}

bool register_memory(int fd, void* base, uint64_t bytes) {
  xdp_umem_reg registration{};
  registration.addr = reinterpret_cast<uint64_t>(base);
  registration.len = bytes;
  registration.chunk_size = umem_frame_bytes;
  return setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &registration, sizeof registration) == 0;
}

int bind_queue(int fd, uint32_t ifindex, uint32_t queue, uint16_t flags) {
  sockaddr_xdp address{};
  address.sxdp_family = AF_XDP;
  address.sxdp_flags = flags;
  address.sxdp_ifindex = ifindex;
  address.sxdp_queue_id = queue;
  return ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
}

// The kernel takes a queue away from the driver in deferred work, some time after close(): EBUSY until then.
int bind_when_free(int fd, uint32_t ifindex, uint32_t queue, uint16_t flags) {
  int code = EBUSY;
  for (unsigned waited_ms = 0; code == EBUSY && waited_ms <= xsk_open_retry_ms; waited_ms += 5) {
    if (waited_ms > 0) sleep_ms(5);
    code = bind_queue(fd, ifindex, queue, flags);
  }
  return code;
}

// A zero-copy driver may write into frames until that deferred work is done. A scratch socket in copy mode can be bound
// only then: that is the one sign the kernel gives.
void wait_until_released(uint32_t ifindex, uint32_t queue) {
  void* page = mmap(nullptr, umem_frame_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  const int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd >= 0 && register_memory(fd, page, umem_frame_bytes) && set_ring(fd, XDP_UMEM_FILL_RING, 1) &&
      set_ring(fd, XDP_UMEM_COMPLETION_RING, 1) && set_ring(fd, XDP_TX_RING, 1))
    bind_when_free(fd, ifindex, queue, XDP_COPY);
  if (fd >= 0) ::close(fd);
  munmap(page, umem_frame_bytes);
}

}  // namespace

std::unique_ptr<umem_area> umem_area::create(uint32_t frame_count, std::string* error) {
  if (frame_count == 0 || frame_count > umem_frames_max) {
    *error = "packet memory of " + std::to_string(frame_count) + " frames: 1 to " + std::to_string(umem_frames_max) +
             " are possible";
    return nullptr;
  }
  std::unique_ptr<umem_area> area(new umem_area);
  area->frame_count_ = frame_count;
  // Over-allocate and trim, so that huge pages can begin with the first frame.
  const size_t bytes = area->bytes();
  auto* start = static_cast<uint8_t*>(
      mmap(nullptr, bytes + huge_page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (start == MAP_FAILED) {
    *error = with_errno("cannot map " + std::to_string(bytes) + " bytes of packet memory", errno) +
             "; configure fewer frames a worker or give the machine more memory";
    area->frame_count_ = 0;
    return nullptr;
  }
  const size_t lead = -reinterpret_cast<uintptr_t>(start) % huge_page_bytes;
  if (lead > 0) munmap(start, lead);
  area->base_ = start + lead;
  const size_t kept = (bytes + umem_frame_bytes - 1) / umem_frame_bytes * umem_frame_bytes;
  if (lead + kept < bytes + huge_page_bytes) munmap(area->base_ + kept, bytes + huge_page_bytes - lead - kept);
  madvise(area->base_, bytes, MADV_HUGEPAGE);
  // Pinned pages are copied by fork, not shared; no child needs them.
  madvise(area->base_, bytes, MADV_DONTFORK);
  return area;
}

umem_area::~umem_area() {
  if (base_ != nullptr) munmap(base_, bytes());
}

frame_pool::frame_pool(const umem_area& area) : free_(area.frame_count()), count_(area.frame_count()) {
  for (uint32_t i = 0; i < count_; ++i) free_[i] = uint64_t{count_ - 1 - i} * umem_frame_bytes;
}

std::unique_ptr<xsk> xsk::open(umem_area& area, const xsk_options& options, std::string* error) {
  std::unique_ptr<xsk> socket(new xsk);
  if (!socket->set_up(area, options, error)) return nullptr;
  return socket;
}

bool xsk::set_up(umem_area& area, const xsk_options& options, std::string* error) {
  const std::string where = "AF_XDP socket on " + port_name(options.ifindex, options.queue);
  if (!std::has_single_bit(options.ring_entries)) {
    *error = where + ": a ring of " + std::to_string(options.ring_entries) + " entries is not a power of two";
    return false;
  }
  base_ = area.base();
  area_bytes_ = area.bytes();
  held_.assign((area.frame_count() + 63) / 64, 0);
  ifindex_ = options.ifindex;
  queue_ = options.queue;
  need_wakeup_ = options.need_wakeup;

  fd_ = ::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd_ < 0) {
    *error = with_errno(where, errno) + (errno == EPERM ? "; CAP_NET_RAW is needed" : "; the kernel needs CONFIG_XDP_SOCKETS");
    return false;
  }
  if (!register_memory(fd_, area.base(), area.bytes())) {
    *error = with_errno(where + ": cannot register " + std::to_string(area.bytes()) + " bytes of packet memory", errno) +
             "; give the process CAP_IPC_LOCK, raise RLIMIT_MEMLOCK to unlimited, or configure fewer frames a worker";
    return false;
  }
  const uint32_t entries = options.ring_entries;
  if (!set_ring(fd_, XDP_UMEM_FILL_RING, entries) || !set_ring(fd_, XDP_UMEM_COMPLETION_RING, entries) ||
      !set_ring(fd_, XDP_RX_RING, entries) || !set_ring(fd_, XDP_TX_RING, entries)) {
    *error = with_errno(where + ": cannot create rings of " + std::to_string(entries) + " entries", errno);
    return false;
  }

  // From here to bind: what makes it faster. Where the kernel lacks an option, its default is good enough.
  const uint32_t budget = std::clamp(options.tx_budget, std::min(tx_budget_min, entries), entries);
  if (setsockopt(fd_, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof budget) == 0) tx_budget_ = budget;
  const int send_buffer = xsk_send_buffer_bytes;
  if (setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &send_buffer, sizeof send_buffer) != 0)
    setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
  if (options.busy_poll_us > 0) {
    const int on = 1;
    const int us = static_cast<int>(options.busy_poll_us), poll_budget = static_cast<int>(options.busy_poll_budget);
    busy_polling_ = setsockopt(fd_, SOL_SOCKET, SO_PREFER_BUSY_POLL, &on, sizeof on) == 0 &&
                    setsockopt(fd_, SOL_SOCKET, SO_BUSY_POLL, &us, sizeof us) == 0 &&
                    setsockopt(fd_, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &poll_budget, sizeof poll_budget) == 0;
  }

  xdp_mmap_offsets offsets{};
  socklen_t offsets_bytes = sizeof offsets;
  if (getsockopt(fd_, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &offsets_bytes) != 0 || offsets_bytes != sizeof offsets) {
    *error = where + ": the kernel does not tell the layout of its rings; Linux 5.4 or later is needed";
    return false;
  }
  if (!map_ring(&fill_, offsets.fr, XDP_UMEM_PGOFF_FILL_RING, entries, sizeof(uint64_t)) ||
      !map_ring(&completion_, offsets.cr, XDP_UMEM_PGOFF_COMPLETION_RING, entries, sizeof(uint64_t)) ||
      !map_ring(&rx_, offsets.rx, XDP_PGOFF_RX_RING, entries, sizeof(xdp_desc)) ||
      !map_ring(&tx_, offsets.tx, XDP_PGOFF_TX_RING, entries, sizeof(xdp_desc))) {
    *error = with_errno(where + ": cannot map its rings", errno);
    return false;
  }

  uint16_t flags = need_wakeup_ ? XDP_USE_NEED_WAKEUP : 0;
  if (options.mode == xsk_mode::copy) flags |= XDP_COPY;
  if (options.mode == xsk_mode::zero_copy) flags |= XDP_ZEROCOPY;
  if (const int code = bind_when_free(fd_, ifindex_, queue_, flags); code != 0) {
    *error = with_errno(where + ": cannot bind", code) + remedy_of_bind(code, options);
    return false;
  }
  xdp_options bound{};
  socklen_t bound_bytes = sizeof bound;
  if (getsockopt(fd_, SOL_XDP, XDP_OPTIONS, &bound, &bound_bytes) == 0)
    zero_copy_ = (bound.flags & XDP_OPTIONS_ZEROCOPY) != 0;
  return true;
}

bool xsk::map_ring(ring* r, const xdp_ring_offset& offset, uint64_t page_offset, uint32_t entries, size_t entry_bytes) {
  const size_t bytes = offset.desc + entries * entry_bytes;
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, static_cast<off_t>(page_offset));
  if (map == MAP_FAILED) return false;
  // A child between fork and exec would keep the socket, and with it the queue, alive.
  madvise(map, bytes, MADV_DONTFORK);
  auto* start = static_cast<uint8_t*>(map);
  r->map = map;
  r->map_bytes = bytes;
  r->producer = reinterpret_cast<uint32_t*>(start + offset.producer);
  r->consumer = reinterpret_cast<uint32_t*>(start + offset.consumer);
  r->flags = reinterpret_cast<uint32_t*>(start + offset.flags);
  r->entries = start + offset.desc;
  r->size = entries;
  r->mask = entries - 1;
  return true;
}

void xsk::kick() {
  // Goes on only while the kernel makes progress: EAGAIN is both "budget used up" (progress: call again) and "no room in
  // the send buffer or completion ring" (none: only reclaim helps). A frame dropped by the device, with EBUSY, shows in
  // the completion ring alone.
  for (unsigned i = 0; i < xsk_tx_kicks_max; ++i) {
    const uint32_t taken = __atomic_load_n(tx_.consumer, __ATOMIC_ACQUIRE);
    const uint32_t completed = __atomic_load_n(completion_.producer, __ATOMIC_ACQUIRE);
    ++kicks_;
    if (sendto(fd_, nullptr, 0, MSG_DONTWAIT, nullptr, 0) >= 0) return;
    if (errno == ENXIO || errno == ENODEV || errno == EBADF) {
      gone_ = true;
      return;
    }
    if (errno != EAGAIN && errno != EBUSY && errno != ENOBUFS && errno != EINTR) return;
    if (!tx_waiting()) return;
    if (taken == __atomic_load_n(tx_.consumer, __ATOMIC_ACQUIRE) &&
        completed == __atomic_load_n(completion_.producer, __ATOMIC_ACQUIRE))
      return;
  }
}

void xsk::poll_driver() {
  recvfrom(fd_, nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
}

void xsk::close(frame_pool& pool) {
  if (fd_ < 0) return;
  for (unsigned ms = 0; outstanding_tx_ > 0 && !gone_; ++ms) {
    flush();
    reclaim(pool);
    if (outstanding_tx_ == 0 || ms == xsk_close_drain_ms) break;
    sleep_ms(1);
  }
  release();
  for (size_t word = 0; word < held_.size(); ++word)
    for (uint64_t bits = held_[word]; bits != 0; bits &= bits - 1)
      pool.put((word * 64 + std::countr_zero(bits)) * umem_frame_bytes);
  std::fill(held_.begin(), held_.end(), 0);
  outstanding_tx_ = 0;
}

// The mapped rings hold the socket as well as its descriptor does: unmap first. Empty rings of no size take their place.
void xsk::release() {
  gone_ = true;
  for (ring* r : {&rx_, &tx_, &fill_, &completion_}) {
    if (r->map != nullptr) munmap(r->map, r->map_bytes);
    *r = {};
    r->producer = r->consumer = r->flags = &ended_;
  }
  if (fd_ >= 0) {
    ::close(fd_);
    fd_ = -1;
    if (zero_copy_) wait_until_released(ifindex_, queue_);
  }
}

xsk::~xsk() {
  release();
}

uint32_t xsk::held() const {
  uint32_t n = 0;
  for (const uint64_t word : held_) n += std::popcount(word);
  return n;
}

bool xsk::statistics(xdp_statistics* out) const {
  *out = {};
  socklen_t bytes = sizeof *out;
  return getsockopt(fd_, SOL_XDP, XDP_STATISTICS, out, &bytes) == 0;
}

}  // namespace sluice
