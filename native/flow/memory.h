// SPDX-License-Identifier: Apache-2.0
// memory.h: where sessions, their index, NAT mappings, next hops and interface states stand. In the appliance: maps of the
// steering program (BPF arrays, memory-mapped and pinned), so that the XDP program forwards by them and the next engine
// finds them after this one died. Offline and in tests: plain memory. Who: engine.cc makes it before anything that lives
// in it, and destroys it last. Errors: nullptr and a text.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "abi/dataplane.h"
#include "flow/session.h"
#include "nat/mapping_entry.h"
#include "route/adjacency.h"

namespace sluice {

// Entries of each part, from limits.sessions.
struct flow_sizes {
  uint32_t sessions, buckets;
  static flow_sizes of(uint32_t sessions);
  size_t bytes() const;  // of the parts that grow with them
};

class flow_memory {
 public:
  // Plain zeroed memory, huge pages where there are any.
  static std::unique_ptr<flow_memory> anonymous(uint32_t sessions, std::string* error);
  // The memory of maps. map(name, bytes): where the map of that name is mapped, or nullptr with *error.
  static std::unique_ptr<flow_memory> of_maps(uint32_t sessions, const std::function<void*(const char* name, size_t bytes, std::string* error)>& map, std::string* error);
  ~flow_memory();
  flow_memory(const flow_memory&) = delete;

  sl_flow_header* header = nullptr;
  sl_flow_bucket* buckets = nullptr;
  session* sessions = nullptr;
  mapping* mappings = nullptr;
  adjacency* adjacencies = nullptr;
  interface_state* interfaces = nullptr;
  bool inherited = false;  // an engine before us filled it

 private:
  flow_memory() = default;
  void share(void* shared);
  void prepare(const flow_sizes& sizes);
  void* owned_ = nullptr;
  size_t owned_bytes_ = 0;
};

}  // namespace sluice
