// SPDX-License-Identifier: Apache-2.0
//
// lpm.cc: prefixes flattened to disjoint ranges, searched by halving.
//
// Build: 1 check and sort the prefixes by start, shorter first, 2 sweep over them with a stack of those that are open;
// each start and each end opens a range. Threads and bounds: see the header; docs/internals/route-lookup.md has the
// reasons and figures.

#include "route/lpm.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sluice {
namespace {

using u128 = unsigned __int128;

constexpr unsigned ipv4_length_base = 96; // ::ffff:0:0/96

u128 number_of(const sl_address& address) {
  uint64_t hi, lo;
  std::memcpy(&hi, address.bytes, 8);
  std::memcpy(&lo, address.bytes + 8, 8);
  return u128{__builtin_bswap64(hi)} << 64 | __builtin_bswap64(lo);
}

bool is_ipv4(u128 number) { return static_cast<uint64_t>(number >> 32) == 0xffff && number >> 96 == 0; }

u128 host_bits(unsigned length) { return length == 0 ? ~u128{0} : (u128{1} << (128 - length)) - 1; }

struct ranged_prefix {
  u128 first, last;
  uint32_t index;
  uint8_t length;
};

// Emits (start, owner) pairs; a prefix's ranges are what its longer ones leave of it.
template <typename number> class sweep {
public:
  sweep(std::vector<number>& starts, std::vector<uint32_t>& owners, std::vector<uint32_t>& parents)
      : starts_(starts), owners_(owners), parents_(parents) {
    put(0, lpm::no_route);
  }

  void open(const ranged_prefix& prefix) {
    while (!stack_.empty() && stack_.back()->last < prefix.first)
      close();
    if (!stack_.empty() && stack_.back()->first == prefix.first && stack_.back()->length == prefix.length) {
      parents_[prefix.index] = stack_.back()->index; // an equal one was listed before
      return;
    }
    parents_[prefix.index] = stack_.empty() ? lpm::no_route : stack_.back()->index;
    put(static_cast<number>(prefix.first), prefix.index);
    stack_.push_back(&prefix);
  }

  void finish() {
    while (!stack_.empty())
      close();
    starts_.shrink_to_fit();
    owners_.shrink_to_fit();
  }

private:
  void close() {
    const number last = static_cast<number>(stack_.back()->last);
    stack_.pop_back();
    if (last != static_cast<number>(~number{0}))
      put(last + 1, stack_.empty() ? lpm::no_route : stack_.back()->index);
  }

  void put(number start, uint32_t owner) {
    if (!starts_.empty() && starts_.back() == start) {
      owners_.back() = owner;
      return;
    }
    starts_.push_back(start);
    owners_.push_back(owner);
  }

  std::vector<number>& starts_;
  std::vector<uint32_t>& owners_;
  std::vector<uint32_t>& parents_;
  std::vector<const ranged_prefix*> stack_;
};

// Last start that is not above the address. The compiler makes the choice a conditional move: no mispredictions.
template <typename number> std::size_t range_of(const std::vector<number>& starts, number address) {
  const number* base = starts.data();
  for (std::size_t count = starts.size(); count > 1;) {
    const std::size_t half = count / 2;
    base = base[half] <= address ? base + half : base;
    count -= half;
  }
  return static_cast<std::size_t>(base - starts.data());
}

} // namespace

std::unique_ptr<const lpm> lpm::build(std::span<const sl_route> routes, std::string* error) {
  return build_from(routes.empty() ? nullptr : &routes[0].to, sizeof(sl_route), routes.size(), error);
}

std::unique_ptr<const lpm> lpm::build(std::span<const sl_prefix> prefixes, std::string* error) {
  return build_from(prefixes.data(), sizeof(sl_prefix), prefixes.size(), error);
}

std::unique_ptr<const lpm> lpm::build_from(const sl_prefix* first, std::size_t stride, std::size_t count,
                                           std::string* error) {
  std::vector<ranged_prefix> ipv4, ipv6;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& prefix = *reinterpret_cast<const sl_prefix*>(reinterpret_cast<const char*>(first) + i * stride);
    const u128 start = number_of(prefix.address);
    if (prefix.length > 128 || (start & host_bits(prefix.length)) != 0) {
      if (error != nullptr)
        *error = "prefix " + std::to_string(i) + " of length " + std::to_string(prefix.length) +
                 " is none: the length must be 0 to 128 and the bits beyond it zero";
      return nullptr;
    }
    const ranged_prefix ranged{start, start | host_bits(prefix.length), static_cast<uint32_t>(i), prefix.length};
    (prefix.length >= ipv4_length_base && is_ipv4(start) ? ipv4 : ipv6).push_back(ranged);
  }

  std::unique_ptr<lpm> built(new lpm);
  built->parents_.assign(count, no_route);
  const auto fill = [&](std::vector<ranged_prefix>& prefixes, auto& starts, auto& owners) {
    std::sort(prefixes.begin(), prefixes.end(), [](const ranged_prefix& a, const ranged_prefix& b) {
      if (a.first != b.first)
        return a.first < b.first;
      return a.length != b.length ? a.length < b.length : a.index < b.index;
    });
    sweep ranges(starts, owners, built->parents_);
    for (const auto& prefix : prefixes)
      ranges.open(prefix);
    ranges.finish();
  };
  for (auto& prefix : ipv4) {
    prefix.first &= UINT32_MAX;
    prefix.last &= UINT32_MAX;
  }
  fill(ipv4, built->ipv4_starts_, built->ipv4_owners_);
  fill(ipv6, built->ipv6_starts_, built->ipv6_owners_);
  return built;
}

uint32_t lpm::lookup(const sl_address& address) const noexcept {
  const u128 number = number_of(address);
  if (is_ipv4(number))
    return ipv4_owners_[range_of(ipv4_starts_, static_cast<uint32_t>(number))];
  return ipv6_owners_[range_of(ipv6_starts_, number)];
}

std::size_t lpm::bytes() const noexcept {
  return sizeof(*this) + ipv4_starts_.capacity() * 4 + ipv4_owners_.capacity() * 4 + ipv6_starts_.capacity() * 16 +
         ipv6_owners_.capacity() * 4 + parents_.capacity() * 4;
}

} // namespace sluice
