// SPDX-License-Identifier: Apache-2.0
//
// lpm.h: longest prefix match for both address families.
//
// Who:    built by the snapshot's compiler from the routes; asked by the slow path for a session's first packet, for the
//         anti-spoofing check, and after a commit (sessions keep the answer). The classifier maps addresses to its
//         prefixes with it.
// Thread: immutable after build(); every worker reads it at the same time, without locks.
// Bounds: at most 2 ranges a prefix; lookup() is one binary search and allocates nothing.
//
// Prefixes count in the mapped 128-bit space (IPv4 0.0.0.0/0 is length 96). IPv4 and IPv6 are searched apart: an IPv6
// prefix that is shorter than /96 and covers ::ffff:0:0/96 by its bits, ::/0 above all, never matches an IPv4 address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "abi/dataplane.h"

namespace sluice {

class lpm {
public:
  static constexpr uint32_t no_route = UINT32_MAX;

  /// Null and a text in *error when a prefix is longer than 128 or has bits beyond its length. Of equal prefixes the
  /// first listed wins.
  static std::unique_ptr<const lpm> build(std::span<const sl_route> routes, std::string* error);
  static std::unique_ptr<const lpm> build(std::span<const sl_prefix> prefixes, std::string* error);

  /// Index of the longest prefix that covers the address, or no_route.
  uint32_t lookup(const sl_address& address) const noexcept;

  /// Index of the next shorter prefix that covers this one, or no_route. Of equal prefixes, those that lost have the
  /// winner as parent.
  uint32_t parent(uint32_t index) const noexcept { return parents_[index]; }

  std::size_t bytes() const noexcept;

private:
  lpm() = default;
  static std::unique_ptr<const lpm> build_from(const sl_prefix* first, std::size_t stride, std::size_t count,
                                               std::string* error);

  // Ranges [starts[i], starts[i + 1]) with the prefix that owns them; starts[0] is 0.
  std::vector<uint32_t> ipv4_starts_, ipv4_owners_;
  std::vector<unsigned __int128> ipv6_starts_;
  std::vector<uint32_t> ipv6_owners_;
  std::vector<uint32_t> parents_;
};

} // namespace sluice
