// SPDX-License-Identifier: Apache-2.0
//
// classifier_lists.cc: order: prefixes, services, choice. See the header.

#include "policy/classifier_lists.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>

namespace sluice::classifier_parts {
namespace {

constexpr double service_bit_weight = 0.3; // of a port's bit against an address's, as to what it tells apart

bool is_within(const flat_prefix& inner, const flat_prefix& outer) {
  return inner.ipv4 == outer.ipv4 && inner.length >= outer.length && covers(outer.hi, outer.lo, outer.length, inner.hi, inner.lo);
}

double selectivity(const flat_prefix& prefix) {
  return prefix.ipv4 == family_any ? 0 : prefix.ipv4 != 0 ? prefix.length - ipv4_length_base : prefix.length / 2.0;
}

// Two halves that stand last become their whole.
bool merge_siblings(std::vector<flat_prefix>& prefixes) {
  if (prefixes.size() < 2)
    return false;
  const flat_prefix& last = prefixes.back();
  flat_prefix whole = prefixes[prefixes.size() - 2];
  if (whole.ipv4 != last.ipv4 || whole.length != last.length || whole.length <= (last.ipv4 ? ipv4_length_base : 0))
    return false;
  --whole.length;
  if (!is_within(last, whole) || (whole.hi & ~prefix_masks[whole.length].hi) != 0 ||
      (whole.lo & ~prefix_masks[whole.length].lo) != 0)
    return false;
  prefixes.pop_back();
  prefixes.back() = whole;
  return true;
}

bool is_within(const sl_service& inner, const sl_service& outer) {
  return (outer.protocol == SL_PROTOCOL_ANY || outer.protocol == inner.protocol) && inner.src_lo >= outer.src_lo &&
         inner.src_hi <= outer.src_hi && inner.dst_lo >= outer.dst_lo && inner.dst_hi <= outer.dst_hi;
}

// Weighed less than an address's bits: many rules share a few well-known services.
double selectivity(const sl_service& service) {
  return ((service.protocol == SL_PROTOCOL_ANY ? 0 : 1) + range_bits(service.src_lo, service.src_hi) +
          range_bits(service.dst_lo, service.dst_hi)) * service_bit_weight;
}

} // namespace

prefix_list reduce(std::span<const sl_prefix> all) {
  prefix_list list;
  if (all.empty()) {
    list.common = {0, 0, 0, family_any};
    list.items.push_back(list.common);
    return list;
  }
  std::vector<flat_prefix> sorted;
  sorted.reserve(all.size());
  for (const sl_prefix& prefix : all) {
    const mask128 value = halves(prefix.address);
    sorted.push_back({value.hi, value.lo, prefix.length,
                      prefix.length >= ipv4_length_base && is_ipv4(value.hi, value.lo) ? 1u : 0u});
  }
  std::sort(sorted.begin(), sorted.end(), [](const flat_prefix& a, const flat_prefix& b) {
    return std::tie(a.ipv4, a.hi, a.lo, a.length) < std::tie(b.ipv4, b.hi, b.lo, b.length);
  });
  for (const flat_prefix& prefix : sorted) {
    if (!list.items.empty() && is_within(prefix, list.items.back()))
      continue;
    list.items.push_back(prefix);
    while (merge_siblings(list.items)) {
    }
  }
  list.common = list.items.front();
  for (const flat_prefix& prefix : list.items) {
    if (prefix.ipv4 != list.common.ipv4)
      list.common = {0, 0, 0, family_any};
    else
      while (!is_within(prefix, list.common)) {
        --list.common.length;
        list.common.hi &= prefix_masks[list.common.length].hi;
        list.common.lo &= prefix_masks[list.common.length].lo;
      }
    if (list.common.ipv4 == family_any)
      break;
  }
  for (const flat_prefix& prefix : list.items)
    list.bits_mean += selectivity(prefix) / static_cast<double>(list.items.size());
  list.bits_common = selectivity(list.common);
  return list;
}

uint8_t range_bits(uint16_t lo, uint16_t hi) {
  return static_cast<uint8_t>(16 - std::bit_width(static_cast<uint16_t>(lo ^ hi)));
}

service_list_reduced reduce(std::span<const sl_service> all) {
  service_list_reduced list;
  if (all.empty()) {
    list.items.push_back({SL_PROTOCOL_ANY, 0, 0xffff, 0, 0xffff, 0});
  } else {
    std::vector<sl_service> sorted(all.begin(), all.end());
    std::sort(sorted.begin(), sorted.end(), [](const sl_service& a, const sl_service& b) {
      return std::tie(a.protocol, a.dst_lo, b.dst_hi, a.src_lo, b.src_hi) <
             std::tie(b.protocol, b.dst_lo, a.dst_hi, b.src_lo, a.src_hi);
    });
    for (const sl_service& service : sorted)
      if (list.items.empty() || !is_within(service, list.items.back()))
        list.items.push_back(service);
  }
  list.common = list.items.front();
  for (const sl_service& service : list.items) {
    if (service.protocol != list.common.protocol)
      list.common.protocol = SL_PROTOCOL_ANY;
    list.common.src_lo = std::min(list.common.src_lo, service.src_lo);
    list.common.src_hi = std::max(list.common.src_hi, service.src_hi);
    list.common.dst_lo = std::min(list.common.dst_lo, service.dst_lo);
    list.common.dst_hi = std::max(list.common.dst_hi, service.dst_hi);
    list.bits_mean += selectivity(service) / static_cast<double>(list.items.size());
  }
  list.bits_common = selectivity(list.common);
  return list;
}

expansion choose(const prefix_list& sources, const prefix_list& destinations, const service_list_reduced& services, std::size_t cap) {
  expansion best;
  double score_best = -1e9;
  for (unsigned choice = 0; choice < 8; ++choice) {
    const expansion tried{(choice & 1) != 0 || sources.items.size() == 1, (choice & 2) != 0 || destinations.items.size() == 1,
                          (choice & 4) != 0 || services.items.size() == 1, 1};
    // Each factor is bounded by a section's 32-bit count; doubles do not overflow.
    const double product = (tried.sources ? static_cast<double>(sources.items.size()) : 1.0) *
                           (tried.destinations ? static_cast<double>(destinations.items.size()) : 1.0) *
                           (tried.services ? static_cast<double>(services.items.size()) : 1.0);
    if (product > static_cast<double>(cap))
      continue;
    double score = (tried.sources ? sources.bits_mean : sources.bits_common) +
                   (tried.destinations ? destinations.bits_mean : destinations.bits_common) +
                   (tried.services ? services.bits_mean : services.bits_common);
    score += tried.sources + tried.destinations + tried.services; // no list to look up
    score -= product == 1 ? 0 : std::log2(product) / 2;
    if (score > score_best) {
      score_best = score;
      best = tried;
      best.entries = static_cast<std::size_t>(product);
    }
  }
  return best;
}

} // namespace sluice::classifier_parts
