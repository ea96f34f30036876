// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Peers' XDP programs: `redirect` is the whole bare XDP redirect, `to_socket` feeds the bare
 * AF_XDP forwarder. Loaded by bench/native/bare_redirect.cc and bare_forwarder.cc.
 * Only generated packets are taken: ARP and ND stay with the host's stack, so neighbours resolve.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "ethernet.h"
#include "traffic.h"

const volatile struct forward_config config;

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u32);
} sockets SEC(".maps");

static __always_inline int is_ip(struct ethhdr *eth) {
  return eth->h_proto == bpf_htons(ETH_P_IP) || (eth->h_proto == bpf_htons(ETH_P_IPV6) && !(eth->h_dest[0] & 1));
}

SEC("xdp")
int redirect(struct xdp_md *ctx) {
  void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
  struct ethhdr *eth = data;
  if (data + sizeof(*eth) > end || !is_ip(eth))
    return XDP_PASS;
  write_macs(eth, &config);
  return bpf_redirect(config.ifindex, 0);
}

SEC("xdp")
int to_socket(struct xdp_md *ctx) {
  void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
  struct ethhdr *eth = data;
  if (data + sizeof(*eth) > end || !is_ip(eth))
    return XDP_PASS;
  return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
