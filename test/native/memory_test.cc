// SPDX-License-Identifier: Apache-2.0
// memory_test.cc: the kernel has no memory for the maps that limits.sessions asks for. In a process of its own, in a control group
// with a limit: the machine's memory is not the test's to take.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "io/steer.h"

namespace sluice {
namespace {

constexpr uint32_t sessions = 1u << 22;   // 768 MiB of sessions alone
constexpr const char* limit = "268435456";

std::string object_path() {
  const char* path = std::getenv("SLUICE_STEER_OBJECT");
  return path ? path : "build/bpf/steer.bpf.o";
}

// A control group with little memory: of version 1 or 2, whichever has the memory controller. Gone with the object.
class small_group {
 public:
  small_group() {
    const struct { const char *root, *file; } versions[] = {{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}};
    for (const auto& v : versions) {
      const std::string path = std::string(v.root) + "/sluice-test-" + std::to_string(getpid());
      if (mkdir(path.c_str(), 0755) != 0) continue;
      std::ofstream file(path + "/" + v.file);
      if (file << limit << std::flush) { path_ = path; return; }
      rmdir(path.c_str());
    }
  }
  ~small_group() { if (!path_.empty()) rmdir(path_.c_str()); }
  bool is_there() const { return !path_.empty(); }
  bool enter() const { return static_cast<bool>(std::ofstream(path_ + "/cgroup.procs") << getpid() << std::flush); }

 private:
  std::string path_;
};

TEST_CASE("no memory for the maps of limits.sessions: refused, and the text says what to lower") {
  small_group group;
  if (!group.is_there()) { MESSAGE("no control group can be made here"); return; }
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string error = "it entered no group";
    if (group.enter()) {
      error.clear();
      auto s = steering::open(object_path(), "", sessions, &error);
      if (s) error = "opened";
    }
    (void)!write(ends[1], error.data(), error.size());
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char part[512];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE_MESSAGE((WIFEXITED(status) && WEXITSTATUS(status) == 0), "the process was killed: status " << status);
  if (said == "opened") { MESSAGE("this kernel does not count the memory of maps"); return; }
  CHECK(said.find("limits.sessions") != std::string::npos);
  CHECK(said.find(std::to_string(sessions)) != std::string::npos);
  CHECK(said.find("MiB") != std::string::npos);
  CHECK(said.find("lower") != std::string::npos);
}

}  // namespace
}  // namespace sluice
