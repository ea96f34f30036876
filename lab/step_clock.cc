// SPDX-License-Identifier: Apache-2.0
// step_clock.cc: a wall clock that a test can set, for the programs of one appliance alone. A library for LD_PRELOAD: CLOCK_REALTIME is
// the kernel's plus the nanoseconds that stand, as a signed 64-bit number in host order, in the file that $SLUICE_STEP_CLOCK names; a write
// there steps the clock between one reading and the next. Monotonic clocks are left alone, as by a real step. Used by test/netns/clock.test.ts.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace {

using reader = int (*)(clockid_t, timespec*);

struct step {
  reader real = nullptr;
  const int64_t* ns = nullptr;
  step() {
    real = reinterpret_cast<reader>(dlsym(RTLD_NEXT, "clock_gettime"));
    const char* path = std::getenv("SLUICE_STEP_CLOCK");
    const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void* p = mmap(nullptr, sizeof *ns, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED) ns = static_cast<const int64_t*>(p);
  }
};

int read_clock(clockid_t id, timespec* t) {
  static const step s;
  const int result = s.real ? s.real(id, t) : static_cast<int>(syscall(SYS_clock_gettime, id, t));
  if (result != 0 || !s.ns || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return result;
  constexpr int64_t second = 1'000'000'000;
  const int64_t by = __atomic_load_n(s.ns, __ATOMIC_RELAXED);
  int64_t nanoseconds = t->tv_nsec + by % second;
  t->tv_sec += by / second;
  if (nanoseconds < 0) { nanoseconds += second; --t->tv_sec; }
  if (nanoseconds >= second) { nanoseconds -= second; ++t->tv_sec; }
  t->tv_nsec = nanoseconds;
  return 0;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t id, timespec* t) noexcept { return read_clock(id, t); }

int gettimeofday(timeval* t, void*) noexcept {
  timespec now;
  if (read_clock(CLOCK_REALTIME, &now) != 0) return -1;
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* out) noexcept {
  timespec now;
  if (read_clock(CLOCK_REALTIME, &now) != 0) return -1;
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
}
