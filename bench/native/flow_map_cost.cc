// SPDX-License-Identifier: Apache-2.0
// flow_map_cost: what it costs the engine to hand a flow to the XDP program, two ways: BPF_MAP_UPDATE_BATCH and
// BPF_MAP_DELETE_BATCH of a preallocated hash map, in batches, and stores into an array that is memory-mapped.
// Usage: flow_map_cost [FLOWS] [BATCH]
#include <bpf/bpf.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "abi/dataplane.h"

namespace {

struct entry { uint8_t bytes[88]; };  // what a forwarding entry of one direction would need beside its key
uint64_t now_ns() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec); }

}  // namespace

int main(int argc, char** argv) {
  const uint32_t flows = argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 100'000, batch = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 64;
  const int hash = bpf_map_create(BPF_MAP_TYPE_HASH, "hash", sizeof(sl_flow_key), sizeof(entry), flows, nullptr);
  LIBBPF_OPTS(bpf_map_create_opts, mmapable);
  mmapable.map_flags = BPF_F_MMAPABLE;
  const int array = bpf_map_create(BPF_MAP_TYPE_ARRAY, "array", 4, sizeof(sl_session), flows, &mmapable);
  if (hash < 0 || array < 0) { std::fprintf(stderr, "cannot create the maps: %s\n", std::strerror(errno)); return 1; }
  auto* memory = static_cast<sl_session*>(mmap(nullptr, size_t{flows} * sizeof(sl_session), PROT_READ | PROT_WRITE, MAP_SHARED, array, 0));
  if (memory == MAP_FAILED) { std::perror("mmap"); return 1; }
  std::vector<sl_flow_key> keys(flows);
  std::vector<entry> values(flows);
  for (uint32_t i = 0; i < flows; ++i) { std::memcpy(keys[i].src.bytes + 12, &i, 4); keys[i].dst_port = 80; }
  auto per_entry = [&](auto&& run) {
    std::vector<double> rounds;
    for (int round = 0; round < 5; ++round) { uint64_t t = now_ns(); run(); rounds.push_back(static_cast<double>(now_ns() - t) / flows); }
    std::sort(rounds.begin(), rounds.end());
    return rounds[2];
  };
  auto batched = [&](bool update, uint32_t size) {
    for (uint32_t at = 0; at < flows; at += size) {
      uint32_t count = std::min(size, flows - at);
      if (int r = update ? bpf_map_update_batch(hash, &keys[at], &values[at], &count, nullptr) : bpf_map_delete_batch(hash, &keys[at], &count, nullptr); r != 0) { std::fprintf(stderr, "batch: %s\n", std::strerror(-r)); std::exit(1); }
    }
  };
  double update = per_entry([&] { batched(true, batch); }), update_one = per_entry([&] { batched(true, 1); });
  double mapped = per_entry([&] { for (uint32_t i = 0; i < flows; ++i) { memory[(i * 2654435761u) % flows].generation = i; __atomic_store_n(&memory[(i * 2654435761u) % flows].offload, static_cast<uint8_t>(SL_OFFLOAD_ON), __ATOMIC_RELEASE); } });
  double read = per_entry([&] { uint32_t key = 0; entry e; for (uint32_t i = 0; i < flows; ++i) { (void)key; bpf_map_lookup_elem(hash, &keys[i], &e); } });
  double seen = per_entry([&] { volatile uint64_t sum = 0; for (uint32_t i = 0; i < flows; ++i) sum = sum + memory[i].last_seen_ticks; });
  batched(false, batch);
  std::printf("{\"flows\": %u, \"batch\": %u, \"nsPerEntry\": {\"hashUpdateBatch\": %.0f, \"hashUpdateSingle\": %.0f, \"mappedStore\": %.1f, \"hashReadOne\": %.0f, \"mappedRead\": %.1f}}\n", flows, batch, update, update_one, mapped, read, seen);
}
