// SPDX-License-Identifier: Apache-2.0
//
// classifier_lists.h: a rule's lists, reduced, and which of them become entries of their own.
//
// Who:    classifier_build.cc, for each rule that it builds or adds.
// Thread: one; pure but for the list it is given.
// Bounds: a choice is at most the cap it is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "abi/dataplane.h"
#include "policy/classifier_parts.h"

namespace sluice::classifier_parts {

// A list after reduction, with the one prefix or service that stands for all of it.
struct prefix_list {
  std::vector<flat_prefix> items;
  flat_prefix common;
  double bits_mean = 0; // beyond the family's own bits
  double bits_common = 0;
  std::span<const flat_prefix> placed; // where snapshots read it, once a rule needs it there
};
struct service_list_reduced {
  std::vector<sl_service> items;
  sl_service common;
  double bits_mean = 0;
  double bits_common = 0;
  std::span<const sl_service> placed;
};

/// Covered prefixes go, two halves become one; an empty list becomes the one that covers all.
prefix_list reduce(std::span<const sl_prefix> list);
service_list_reduced reduce(std::span<const sl_service> list);

/// Bits that all ports of a range have in common.
uint8_t range_bits(uint16_t lo, uint16_t hi);

/// What of a rule becomes entries of its own.
struct expansion {
  bool sources = false, destinations = false, services = false;
  std::size_t entries = 1;
};

/// The fields that make a rule most selective for their number of entries, within the cap; the rest of its lists are
/// looked up when an entry is verified.
expansion choose(const prefix_list& sources, const prefix_list& destinations, const service_list_reduced& services, std::size_t cap);

} // namespace sluice::classifier_parts
