// SPDX-License-Identifier: Apache-2.0
// icmp_test.cc: errors and resets as built, checked by full computation.
#include <tuple>

#include "packet/icmp.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

TEST_CASE("icmp: an error is a sound packet of bounded size, both families") {
  for (auto [src, dst, own, limit] : {std::tuple{"10.0.1.10", "198.51.100.10", "10.0.1.4", 576u}, {"2001:db8::1", "2001:db8:f::1", "2001:db8::4", 1280u}}) {
    for (size_t payload : {0u, 1u, 7u, 500u, 1400u}) {
      for (icmp_error kind : {icmp_error::ttl_expired, icmp_error::no_route, icmp_error::host_unreachable, icmp_error::prohibited, icmp_error::too_big, icmp_error::port_unreachable}) {
        frame about = ip_frame(src, dst, protocol_udp, udp_datagram(1, 2, payload), 6);
        REQUIRE(about.parse() == SL_DROP_NONE);
        CHECK(icmp_error_allowed(about.p));
        frame error;
        error.bytes.assign(14 + icmp_error_bytes_max, 0);
        unsigned length = build_icmp_error(about.p, kind, 1400, address_of(own), error.bytes.data() + 14);
        CHECK(length <= limit);
        error.bytes.resize(14 + length);
        REQUIRE(error.parse() == SL_DROP_NONE);
        CHECK(l4_checksum_valid(error.p));
        CHECK((error.p.flags & packet_icmp_error) != 0);
        CHECK_FALSE(icmp_error_allowed(error.p));  // never an error about an error
        embedded_packet e;
        REQUIRE(parse_embedded(error.p, &e) == SL_DROP_NONE);
        CHECK(equal(e.key, about.p.key));
      }
    }
  }
}

TEST_CASE("icmp: a reset acknowledges what the segment occupied") {
  for (auto [src, dst] : {std::pair{"10.0.1.10", "198.51.100.10"}, {"2001:db8::1", "2001:db8:f::1"}}) {
    std::vector<uint8_t> tcp;
    put16(tcp, 4000);
    put16(tcp, 80);
    put32(tcp, 1000);
    put32(tcp, 0);
    tcp.insert(tcp.end(), {0x50, tcp_syn, 0xff, 0xff, 0, 0, 0, 0, 'a', 'b', 'c'});
    frame syn = ip_frame(src, dst, protocol_tcp, tcp, 16);
    REQUIRE(syn.parse() == SL_DROP_NONE);
    frame reset;
    reset.bytes.assign(14 + 60, 0);
    reset.bytes.resize(14 + build_tcp_reset(syn.p, reset.bytes.data() + 14));
    REQUIRE(reset.parse() == SL_DROP_NONE);
    CHECK(l4_checksum_valid(reset.p));
    CHECK(reset.p.tcp_flags == (tcp_rst | tcp_ack));
    CHECK(load32(reset.p.l4() + 8) == 1004);
    uint8_t out[60];
    CHECK(build_tcp_reset(reset.p, out) == 0);  // never answers a reset
  }
}

}  // namespace
}  // namespace sluice
