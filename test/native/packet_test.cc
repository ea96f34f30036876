// SPDX-License-Identifier: Apache-2.0
// packet_test.cc: checksums as properties, and the parser on cut and random frames. What each header may hold is in the
// packet cases (test/cases); here it is about bounds.
#include <cstddef>
#include <random>

#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

uint16_t naive_sum(const uint8_t* p, size_t length) {
  uint32_t sum = 0;
  for (size_t i = 0; i < length; i += 2) {
    sum += static_cast<uint32_t>(p[i] << 8 | (i + 1 < length ? p[i + 1] : 0));
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<uint16_t>(sum);
}

TEST_CASE("checksum: the fast sum is the naive one, at each length") {
  std::mt19937_64 random(1);
  std::vector<uint8_t> bytes(1600);
  for (unsigned length = 0; length <= bytes.size(); ++length) {
    for (unsigned i = 0; i < length; ++i) bytes[i] = static_cast<uint8_t>(length % 3 == 0 ? 0xff : random());
    uint16_t fast = __builtin_bswap16(checksum_fold(checksum_add(0, bytes.data(), length)));
    CHECK(fast % 0xffff == naive_sum(bytes.data(), length) % 0xffff);
  }
}

TEST_CASE("checksum: incremental equals full, 100,000 random rewrites (RFC 1624)") {
  std::mt19937_64 random(2);
  unsigned wrong = 0;
  for (unsigned round = 0; round < 100'000; ++round) {
    uint8_t message[64];
    for (auto& byte : message) byte = random() % 5 == 0 ? (random() & 1 ? 0xff : 0x00) : static_cast<uint8_t>(random());
    store16_raw(message + 10, 0);
    store16_raw(message + 10, checksum_finish(checksum_add(0, message, sizeof message)));
    // A field of 2, 4 or 16 bytes at an even offset that is not the checksum itself.
    unsigned length = 2u << (random() % 3 == 2 ? 3 : random() % 2), offset = 12 + 2 * static_cast<unsigned>(random() % ((sizeof message - 12 - length) / 2 + 1));
    uint8_t before[16];
    std::memcpy(before, message + offset, length);
    for (unsigned i = 0; i < length; ++i) message[offset + i] = static_cast<uint8_t>(random());
    uint16_t delta = checksum_delta(before, message + offset, length);
    // Joined deltas of two halves are the delta of the whole.
    if (length >= 4) {
      uint16_t joined = checksum_delta_join(checksum_delta(before, message + offset, length / 2), checksum_delta(before + length / 2, message + offset + length / 2, length / 2));
      wrong += joined % 0xffff != delta % 0xffff;
    }
    checksum_apply(message + 10, delta);
    wrong += checksum_fold(checksum_add(0, message, sizeof message)) != 0xffff;
  }
  CHECK(wrong == 0);
}

TEST_CASE("checksum: the sixteen-bit delta is the delta of two bytes") {
  std::mt19937_64 random(3);
  for (unsigned round = 0; round < 10'000; ++round) {
    uint16_t from = static_cast<uint16_t>(random()), to = static_cast<uint16_t>(random());
    uint8_t a[2], b[2];
    store16_raw(a, from);
    store16_raw(b, to);
    CHECK(checksum_delta16(from, to) % 0xffff == checksum_delta(a, b, 2) % 0xffff);
  }
}

TEST_CASE("parser: a whole packet of each family") {
  for (auto [src, dst] : {std::pair{"10.0.1.10", "198.51.100.10"}, {"2001:db8::1", "2001:db8:f::1"}}) {
    CAPTURE(src);
    frame f = ip_frame(src, dst, protocol_udp, udp_datagram(1234, 53, 10), 6);
    REQUIRE(f.parse() == SL_DROP_NONE);
    CHECK(f.p.key.src_port == 1234);
    CHECK(f.p.key.dst_port == 53);
    CHECK(f.p.l4_length() == 18);
    CHECK(l4_checksum_valid(f.p));
    f.bytes.back() ^= 1;
    REQUIRE(f.parse() == SL_DROP_NONE);
    CHECK_FALSE(l4_checksum_valid(f.p));
  }
}

TEST_CASE("parser: no cut of a packet is read past its end") {
  // Under ASan each frame is a heap block of exactly its length.
  for (auto [src, dst] : {std::pair{"10.0.1.10", "198.51.100.10"}, {"2001:db8::1", "2001:db8:f::1"}}) {
    frame whole = ip_frame(src, dst, protocol_udp, udp_datagram(1, 2, 40), 6);
    for (size_t length = 14 + 1; length < whole.bytes.size(); ++length) {
      frame f;
      f.bytes.assign(whole.bytes.begin(), whole.bytes.begin() + static_cast<std::ptrdiff_t>(length));
      f.bytes.shrink_to_fit();
      CHECK(f.parse() == SL_DROP_TRUNCATED);
    }
  }
}

TEST_CASE("parser: random bytes behind a sound beginning") {
  std::mt19937_64 random(4);
  const uint8_t protocols[] = {1, 6, 17, 58, 0, 43, 44, 51, 60, 135, 59, 47};
  for (unsigned round = 0; round < 200'000; ++round) {
    std::vector<uint8_t> l4(random() % 120);
    for (auto& byte : l4) byte = random() % 4 == 0 ? protocols[random() % sizeof protocols] : static_cast<uint8_t>(random());
    bool v4 = random() & 1;
    frame f = ip_frame(v4 ? "10.0.1.10" : "2001:db8::1", v4 ? "198.51.100.10" : "2001:db8:f::1", protocols[random() % sizeof protocols], l4, 0, 1, v4 && random() % 4 == 0 ? static_cast<uint16_t>(random() & 0x3fff) : 0);
    if (f.parse() != SL_DROP_NONE) continue;
    if (f.p.flags & packet_icmp_error) {
      embedded_packet e;
      (void)parse_embedded(f.p, &e);
    } else if (!(f.p.flags & packet_fragment)) {
      (void)l4_checksum_valid(f.p);
    }
    CHECK(f.p.l4_offset <= f.bytes.size());
    CHECK(f.p.l3_offset + f.p.l3_length <= f.bytes.size());
  }
}

}  // namespace
}  // namespace sluice
