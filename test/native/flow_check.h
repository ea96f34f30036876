// SPDX-License-Identifier: Apache-2.0
// flow_check.h: what must hold of flow memory while nobody changes it. For native tests alone.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "abi/flow_hash.h"
#include "flow/memory.h"

namespace sluice::testing {

// Empty, or what is wrong: each live session has both keys in the index exactly once, in a bucket of theirs that a lookup reaches;
// each entry of the index belongs to a live session; no lock is held; what is not live is not offloaded.
inline std::string flow_memory_fault(const flow_memory& m) {
  const uint32_t mask = m.header->bucket_mask, capacity = m.header->capacity;
  std::vector<uint8_t> seen(size_t{capacity} * 2);
  auto hash_of = [&](const flow_key& k) { return sl_flow_hash(reinterpret_cast<const uint64_t*>(&k), m.header->hash_keys); };
  for (uint64_t i = 0; i <= mask; ++i) {
    const sl_flow_bucket& b = m.buckets[i];
    if (b.lock) return "bucket " + std::to_string(i) + " is locked";
    for (unsigned slot = 0; slot < SL_FLOW_BUCKET_SLOTS; ++slot) {
      if (!b.tag[slot]) continue;
      const uint32_t reference = b.reference[slot], index = reference >> 1;
      const std::string what = "bucket " + std::to_string(i) + " names session " + std::to_string(index);
      if (index >= capacity || !m.sessions[index].live.load()) return what + ", which is not live";
      if (m.sessions[index].flags.load() & session_ended) return what + ", which has ended";
      const uint64_t h = hash_of(m.sessions[index].key(reference & 1));
      if (b.tag[slot] != sl_flow_tag(h)) return what + " with another tag";
      if (sl_flow_first_bucket(h, mask) != i) {
        if (sl_flow_second_bucket(h, mask) != i) return what + ", whose key does not belong there";
        if (!m.buckets[sl_flow_first_bucket(h, mask)].overflow) return what + ", whose first bucket does not say so";
      }
      if (seen[reference]++) return what + " a second time";
    }
  }
  for (uint32_t i = 0; i < capacity; ++i) {
    const session& s = m.sessions[i];
    if (!s.live.load()) {
      if (s.offload.load() == SL_OFFLOAD_ON) return "session " + std::to_string(i) + " is offloaded and not live";
      continue;
    }
    for (unsigned direction = 0; direction < 2; ++direction)
      if (!seen[i << 1 | direction]) return "session " + std::to_string(i) + " is live and key " + std::to_string(direction) + " is not in the index";
  }
  return {};
}

// Of NAT mappings, once they are inherited: as many references as live sessions name them, no outside endpoint twice.
inline std::string mapping_fault(const flow_memory& m) {
  std::vector<uint32_t> named(m.header->capacity);
  for (uint32_t i = 0; i < m.header->capacity; ++i) {
    const session& s = m.sessions[i];
    if (!s.live.load()) continue;
    const session_mappings held = mappings_of(s);
    const struct { uint32_t index; const sl_address& outside; uint16_t port; } both[] = {{held.originator, s.key1.dst, s.key1.dst_port}, {held.responder, s.key0.dst, s.key0.dst_port}};
    for (const auto& one : both) {
      if (one.index == mapping_none) continue;
      if (one.index >= m.header->capacity) return "session " + std::to_string(i) + " names a mapping that cannot be";
      ++named[one.index];
      const mapping& n = m.mappings[one.index];
      if (n.outside_port != one.port || !equal(n.outside, one.outside)) return "session " + std::to_string(i) + " names another's mapping";
    }
  }
  std::map<std::string, uint32_t> outside;
  for (uint32_t i = 0; i < m.header->capacity; ++i) {
    const mapping& n = m.mappings[i];
    const uint32_t references = n.references.load();
    if (references != named[i]) return "mapping " + std::to_string(i) + " counts " + std::to_string(references) + " sessions and has " + std::to_string(named[i]);
    if (!references) continue;
    std::string key(reinterpret_cast<const char*>(n.outside.bytes), sizeof n.outside.bytes);
    key += std::to_string(n.outside_port) + "/" + std::to_string(n.protocol);
    if (auto [at, fresh] = outside.emplace(key, i); !fresh) return "mappings " + std::to_string(at->second) + " and " + std::to_string(i) + " have one outside endpoint";
  }
  return {};
}

}  // namespace sluice::testing
