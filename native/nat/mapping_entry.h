// SPDX-License-Identifier: Apache-2.0
// mapping_entry.h: one NAT binding as it stands in flow memory; nat/mapping.h has the table of them.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/dataplane.h"

namespace sluice {

inline constexpr uint32_t mapping_none = UINT32_MAX;

struct mapping {
  sl_address inside, outside;
  uint16_t inside_port, outside_port;
  uint8_t protocol;
  std::atomic<uint8_t> filtering;  // as its rule says now
  uint8_t independent;          // endpoint-independent: other sessions of the inside endpoint share it
  uint8_t reserved;
  std::atomic<uint32_t> references;
  std::atomic<uint32_t> nat_rule_id;
  uint32_t next_inside, next_outside;  // chains
  uint32_t pool;                // index into the table's pools
  uint32_t last_peer_clean;     // 1: the last TCP session closed in order
};
static_assert(sizeof(mapping) == 64);
static_assert(sizeof(sl_nat_mapping) == sizeof(mapping) && offsetof(sl_nat_mapping, references) == offsetof(mapping, references) && offsetof(sl_nat_mapping, pool) == offsetof(mapping, pool));

}  // namespace sluice
