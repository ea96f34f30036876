// SPDX-License-Identifier: Apache-2.0
// Receiver: counts and drops generated packets in XDP, or answers them. See tool.h for how it is spoken to; a sample holds totals.
#include "../bpf/traffic.h"
#include "tool.h"
#include <sys/mman.h>
#include <vector>

using namespace bench;

static const char help[] =
    "usage: receiver --on NETDEV [options]\n"
    "  --on NETDEV     netdev that receives\n"
    "  --checksums     check IP and UDP checksums, count bad ones\n"
    "  --flows         count the flows seen, by marked packets (generator --mark)\n"
    "  --answer        send marked packets back\n"
    "  --latency       latency quantiles of packets sent with --stamp, since the last sample\n"
    "  --bpf FILE      BPF object (build/bench/receiver.bpf.o)\n";

static double bucket_us(unsigned bucket) {
  unsigned power = bucket / LATENCY_SUB_BUCKETS, sub = bucket % LATENCY_SUB_BUCKETS;
  return (power ? double((16ull + sub) << (power - 1)) : double(sub)) / 1000;
}

// Quantiles of what came in since the last call.
class Latency {
 public:
  explicit Latency(int map) : map_(map), before_(LATENCY_BUCKETS) {}
  std::string sample() {
    int cpus = libbpf_num_possible_cpus();
    std::vector<uint64_t> counts(LATENCY_BUCKETS), per_cpu(cpus);
    uint64_t total = 0;
    for (uint32_t bucket = 0; bucket < LATENCY_BUCKETS; bucket++) {
      uint64_t sum = 0;
      bpf_map_lookup_elem(map_, &bucket, per_cpu.data());
      for (uint64_t count : per_cpu)
        sum += count;
      counts[bucket] = sum - before_[bucket];
      before_[bucket] = sum;
      total += counts[bucket];
    }
    return format(",\"latencyUs\":{\"packets\":%lu,\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f}", total, quantile(counts, total, 0.5),
                  quantile(counts, total, 0.99), quantile(counts, total, 0.999));
  }

 private:
  static double quantile(const std::vector<uint64_t> &counts, uint64_t total, double part) {
    uint64_t seen = 0;
    for (unsigned bucket = 0; bucket < LATENCY_BUCKETS; bucket++)
      if (counts[bucket] && (seen += counts[bucket]) >= part * total)
        return bucket_us(bucket);
    return 0;
  }
  int map_;
  std::vector<uint64_t> before_;
};

int main(int count, char **words) {
  Options options(count, words, help);
  unsigned ifindex = options.netdev("on");
  receiver_config config{options.has("checksums"), options.has("flows"), options.has("answer"), options.has("latency")};
  bpf_object *object = open_object(options, "receiver");
  set_config(object, config);
  attach(load_program(object, "receive"), ifindex);

  int counts = bpf_object__find_map_fd_by_name(object, "counts");
  int seen_map = bpf_object__find_map_fd_by_name(object, "flows_seen");
  auto *seen = static_cast<const volatile uint8_t *>(mmap(nullptr, TRAFFIC_FLOWS_MAX * 8, PROT_READ, MAP_SHARED, seen_map, 0));
  if (seen == MAP_FAILED)
    fail("cannot map flows_seen: %s", strerror(errno));
  Latency latency(bpf_object__find_map_fd_by_name(object, "latency"));

  uint64_t marked = 0;
  unsigned flows = 0;
  answer_samples([&] {
    std::vector<receiver_counts> per_cpu(libbpf_num_possible_cpus());
    receiver_counts total{};
    uint32_t key = 0;
    bpf_map_lookup_elem(counts, &key, per_cpu.data());
    uint64_t now = now_ns();
    for (const receiver_counts &part : per_cpu) {
      total.packets += part.packets;
      total.bytes += part.bytes;
      total.bad_checksums += part.bad_checksums;
      total.marked += part.marked;
      total.others += part.others;
    }
    std::string line = format("{\"ns\":%lu,\"packets\":%llu,\"bytes\":%llu,\"others\":%llu", now, total.packets, total.bytes, total.others);
    if (config.check_checksums)
      line += format(",\"badChecksums\":%llu", total.bad_checksums);
    if (config.track_flows) {
      if (total.marked != marked) { // else nothing can have changed, and looking takes milliseconds
        marked = total.marked;
        flows = 0;
        for (unsigned flow = 0; flow < TRAFFIC_FLOWS_MAX; flow++)
          flows += seen[flow * 8]; // array elements are 8 bytes apart
      }
      line += format(",\"flows\":%u", flows);
    }
    if (config.stamped)
      line += latency.sample();
    return line + "}";
  });
}
