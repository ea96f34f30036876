// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Traffic generator: run by BPF_PROG_TEST_RUN with live frames (bench/native/generator.cc), on one CPU at a time.
 * Pages come back from the receiver as the path changed them, so each run writes every header byte again; the rest of
 * the payload is zero from the page's first filling and nobody on the way changes it.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "ethernet.h"
#include "traffic.h"

#define CATCH_UP_NS_MAX 1000000

const volatile struct generator_config config;
struct generator_state state;

/* Sum of a 32-bit host-order word as two 16-bit words. */
static __always_inline __u32 halves(__u32 word) { return (word >> 16) + (word & 0xffff); }

static __always_inline __u16 finish(__u64 sum) {
  sum = (sum >> 32) + (sum & 0xffffffff);
  sum = (sum >> 16) + (sum & 0xffff);
  sum = (sum >> 16) + (sum & 0xffff);
  sum = (sum >> 16) + (sum & 0xffff);
  return ~sum;
}

/* Is the next packet due? After a pause of the machine's it does not catch up by a burst. */
static __always_inline int is_due(void) {
  __u64 now = bpf_ktime_get_ns();
  if (now < state.due_ns)
    return 0;
  state.due_ns = now > state.due_ns + CATCH_UP_NS_MAX ? now : state.due_ns + config.interval_ns;
  return 1;
}

/* Takes the next flow in turn: its number, and offsets into the ranges of addresses and ports. */
static __always_inline struct generator_state take_flow(void) {
  struct generator_state taken = state;
  state.packets++;
  if (++state.flow >= config.flows) {
    state.flow = state.source = state.port = state.destination = 0;
    return taken;
  }
  if (++state.source >= config.sources) {
    state.source = 0;
    state.port++;
  }
  if (++state.destination >= config.destinations)
    state.destination = 0;
  return taken;
}

/* Writes UDP header and payload at `udp`; `pseudo` is the sum of the pseudo header without its length. */
static __always_inline int write_udp(struct udphdr *udp, void *end, __u16 source_port, __u32 udp_bytes, __u32 flow, __u64 pseudo) {
  __u64 sum = pseudo + udp_bytes + source_port + TRAFFIC_UDP_PORT + udp_bytes;
  __u32 *payload = (void *)(udp + 1);
  udp->source = bpf_htons(source_port);
  udp->dest = bpf_htons(TRAFFIC_UDP_PORT);
  udp->len = bpf_htons(udp_bytes);
  if (config.stamped) {
    if ((void *)(payload + 3) > end)
      return -1;
    __u64 now = bpf_ktime_get_ns();
    __u32 low = now, high = now >> 32;
    payload[0] = bpf_htonl(flow);
    payload[1] = low;
    payload[2] = high;
    sum += halves(flow) + halves(bpf_ntohl(low)) + halves(bpf_ntohl(high));
  } else if (config.tagged) {
    if ((void *)(payload + 1) > end)
      return -1;
    payload[0] = bpf_htonl(flow);
    sum += halves(flow);
  }
  __u16 check = finish(sum);
  udp->check = bpf_htons(check ? check : 0xffff);
  return 0;
}

SEC("xdp")
int generate(struct xdp_md *ctx) {
  void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
  struct ethhdr *eth = data;
  if (data + sizeof(*eth) > end)
    return XDP_ABORTED;
  if (config.interval_ns && !is_due())
    return XDP_DROP;
  __u32 tos = config.marked ? TRAFFIC_MARK_TOS : 0;
  struct generator_state taken = take_flow();
  __u32 source = config.source[3] + taken.source, destination = config.destination[3] + taken.destination;
  __u16 source_port = config.source_port + taken.port;

  write_macs(eth, &config);
  if (config.family == 4) {
    struct iphdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end)
      return XDP_ABORTED;
    __u32 ip_bytes = config.frame_bytes - sizeof(*eth), udp_bytes = ip_bytes - sizeof(*ip);
    __u32 addresses = halves(source) + halves(destination);
    eth->h_proto = bpf_htons(ETH_P_IP);
    *(__u16 *)ip = bpf_htons(0x4500 | tos);
    ip->tot_len = bpf_htons(ip_bytes);
    ip->id = 0;
    ip->frag_off = bpf_htons(0x4000);
    ip->ttl = 64;
    ip->protocol = IPPROTO_UDP;
    ip->saddr = bpf_htonl(source);
    ip->daddr = bpf_htonl(destination);
    ip->check = bpf_htons(finish((0x4500 | tos) + ip_bytes + 0x4000 + (64 << 8 | IPPROTO_UDP) + addresses));
    if (write_udp(udp, end, source_port, udp_bytes, taken.flow, IPPROTO_UDP + addresses))
      return XDP_ABORTED;
  } else {
    struct ipv6hdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);
    if ((void *)(udp + 1) > end)
      return XDP_ABORTED;
    __u32 udp_bytes = config.frame_bytes - sizeof(*eth) - sizeof(*ip);
    __u64 sum = IPPROTO_UDP + halves(source) + halves(destination);
    eth->h_proto = bpf_htons(ETH_P_IPV6);
    *(__u32 *)ip = bpf_htonl(0x60000000 | tos << 20);
    ip->payload_len = bpf_htons(udp_bytes);
    ip->nexthdr = IPPROTO_UDP;
    ip->hop_limit = 64;
    for (int i = 0; i < 3; i++) {
      ip->saddr.in6_u.u6_addr32[i] = bpf_htonl(config.source[i]);
      ip->daddr.in6_u.u6_addr32[i] = bpf_htonl(config.destination[i]);
      sum += halves(config.source[i]) + halves(config.destination[i]);
    }
    ip->saddr.in6_u.u6_addr32[3] = bpf_htonl(source);
    ip->daddr.in6_u.u6_addr32[3] = bpf_htonl(destination);
    if (write_udp(udp, end, source_port, udp_bytes, taken.flow, sum))
      return XDP_ABORTED;
  }
  return bpf_redirect(config.ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
