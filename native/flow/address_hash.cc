// SPDX-License-Identifier: Apache-2.0
// address_hash.cc: see address_hash.h.
#include "flow/address_hash.h"

#include <sys/random.h>

namespace sluice {

uint64_t address_hash_secret() {
  static const uint64_t secret = [] {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) __builtin_trap();  // never fails once booted
    return random;
  }();
  return secret;
}

}  // namespace sluice
