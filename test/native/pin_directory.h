// SPDX-License-Identifier: Apache-2.0
// pin_directory.h: a bpffs for pins, in a mount namespace of the test's thread: gone with the process, however it ends. Needs root.
#pragma once
#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace sluice_test {

struct pin_directory {
  pin_directory() {
    static const bool apart = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    REQUIRE(apart);
    char name[] = "/tmp/sluice-pins-test-XXXXXX";
    REQUIRE(mkdtemp(name));
    path = name;
    REQUIRE(mount("bpf", name, "bpf", 0, nullptr) == 0);
  }
  ~pin_directory() {
    umount2(path.c_str(), MNT_DETACH);
    rmdir(path.c_str());
  }
  std::string path;
};

}  // namespace sluice_test
