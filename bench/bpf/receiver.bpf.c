// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Receiver: counts generated packets and drops them, or answers marked ones; everything else (ARP, ND, TCP) goes to the
 * host's stack. Swapping addresses and ports leaves checksums right.
 * Loaded by bench/native/receiver.cc at the far end, and at the first hop to measure the generator's ceiling.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "traffic.h"

const volatile struct receiver_config config;

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct receiver_counts);
} counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, LATENCY_BUCKETS);
  __type(key, __u32);
  __type(value, __u64);
} latency SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, TRAFFIC_FLOWS_MAX);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, __u32);
  __type(value, __u8);
} flows_seen SEC(".maps");

static __always_inline __u16 fold(__u64 sum) {
  sum = (sum >> 32) + (sum & 0xffffffff);
  sum = (sum >> 16) + (sum & 0xffff);
  sum = (sum >> 16) + (sum & 0xffff);
  sum = (sum >> 16) + (sum & 0xffff);
  return sum;
}

/* Sum of the 16-bit words from `at` to the frame's end, odd byte included; 0 to 1600 bytes. */
static __always_inline __u64 sum_to_end(void *at, void *end) {
  __u64 sum = 0;
  __u16 *word = at;
  for (int i = 0; i < 800; i++, word++) {
    if ((void *)(word + 1) > end)
      break;
    sum += *word;
  }
  if ((void *)word + 1 <= end)
    sum += *(__u8 *)word;
  return sum;
}

static __always_inline void record_latency(__u64 sent_ns) {
  __u64 now = bpf_ktime_get_ns(), value = now > sent_ns ? now - sent_ns : 0;
  __u32 power = 0, bucket;
  for (__u64 rest = value >> 4; rest && power < 59; rest >>= 1)
    power++;
  bucket = power * LATENCY_SUB_BUCKETS + ((value >> (power ? power - 1 : 0)) & 15);
  __u64 *count = bpf_map_lookup_elem(&latency, &bucket);
  if (count)
    ++*count;
}

static __always_inline void swap_words(void *a, void *b, int words) {
  __u16 *left = a, *right = b;
  for (int i = 0; i < words; i++) {
    __u16 kept = left[i];
    left[i] = right[i];
    right[i] = kept;
  }
}

SEC("xdp")
int receive(struct xdp_md *ctx) {
  void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
  struct ethhdr *eth = data;
  struct udphdr *udp;
  __u64 pseudo = bpf_htons(IPPROTO_UDP);
  __u32 key = 0;
  int bad = 0, marked;
  struct receiver_counts *count = bpf_map_lookup_elem(&counts, &key);
  if (!count || data + sizeof(*eth) > end)
    return XDP_ABORTED;

  if (eth->h_proto == bpf_htons(ETH_P_IP)) {
    struct iphdr *ip = (void *)(eth + 1);
    udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
      goto other;
    marked = ip->tos == TRAFFIC_MARK_TOS;
    if (config.check_checksums) {
      __u16 *word = (void *)ip;
      __u64 sum = 0;
      for (int i = 0; i < 10; i++)
        sum += word[i];
      bad = fold(sum) != 0xffff;
      for (int i = 6; i < 10; i++)
        pseudo += word[i];
    }
  } else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
    struct ipv6hdr *ip = (void *)(eth + 1);
    udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end || ip->nexthdr != IPPROTO_UDP)
      goto other;
    marked = (*(__u32 *)ip & bpf_htonl(0x0ff00000)) == bpf_htonl(TRAFFIC_MARK_TOS << 20);
    if (config.check_checksums) {
      __u16 *word = (void *)&ip->saddr;
      for (int i = 0; i < 16; i++)
        pseudo += word[i];
    }
  } else {
    goto other;
  }
  if (udp->dest != bpf_htons(TRAFFIC_UDP_PORT) && udp->source != bpf_htons(TRAFFIC_UDP_PORT))
    goto other;

  count->packets++;
  count->bytes += end - data;
  count->marked += marked;
  if (config.check_checksums && (bad || fold(pseudo + udp->len + sum_to_end(udp, end)) != 0xffff))
    count->bad_checksums++;
  __u32 *payload = (void *)(udp + 1);
  if (config.track_flows && marked && (void *)(payload + 1) <= end) {
    __u32 flow = bpf_ntohl(*payload);
    __u8 *seen = bpf_map_lookup_elem(&flows_seen, &flow);
    if (seen)
      *seen = 1;
  }
  if (config.stamped && (void *)(payload + 3) <= end)
    record_latency(payload[1] | (__u64)payload[2] << 32);
  if (!config.answer || !marked)
    return XDP_DROP;
  swap_words(eth->h_dest, eth->h_source, 3);
  swap_words(&udp->source, &udp->dest, 1);
  if (eth->h_proto == bpf_htons(ETH_P_IP)) {
    struct iphdr *ip = (void *)(eth + 1);
    swap_words(&ip->saddr, &ip->daddr, 2);
  } else {
    struct ipv6hdr *ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > end)
      return XDP_ABORTED;
    swap_words(&ip->saddr, &ip->daddr, 8);
  }
  /* Not XDP_TX: veth wakes a peer for that only if it has an XDP program, which the kernel's forwarding has not. */
  return bpf_redirect(ctx->ingress_ifindex, 0);

other:
  count->others++;
  return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
