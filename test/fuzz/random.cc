// SPDX-License-Identifier: Apache-2.0
// random.cc: what the engine draws at random while it is fuzzed: hash keys, ports, secrets, jitter. Linked into each target, in place of the
// kernel's and libcrypto's, so that a seed (SLUICE_FUZZ_RANDOM, default 1) gives the same run again. One thread.
#include <openssl/rand.h>
#include <sys/random.h>

#include <cstdint>
#include <cstdlib>

namespace {

// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
uint64_t next() {
  static uint64_t state = [] {
    const char* seed = std::getenv("SLUICE_FUZZ_RANDOM");
    return seed ? std::strtoull(seed, nullptr, 10) : 1;
  }();
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

void fill(void* into, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) static_cast<uint8_t*>(into)[i] = static_cast<uint8_t>(next() >> 56);
}

}  // namespace

extern "C" ssize_t getrandom(void* into, size_t bytes, unsigned) {
  fill(into, bytes);
  return static_cast<ssize_t>(bytes);
}

extern "C" int RAND_bytes(unsigned char* into, int bytes) {
  fill(into, static_cast<size_t>(bytes));
  return 1;
}
