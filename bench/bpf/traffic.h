/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What the traffic programs (bench/bpf) and the tools that load them (bench/native) share: struct layouts and limits.
 * Multi-byte fields are in host byte order unless they say otherwise.
 */
#ifndef SLUICE_BENCH_TRAFFIC_H
#define SLUICE_BENCH_TRAFFIC_H
#include <linux/types.h>

#define TRAFFIC_UDP_PORT 9          /* discard: destination port of each generated packet, and what the receiver counts */
#define TRAFFIC_FLOWS_MAX 1048576   /* bits in the receiver's map of flows seen */
#define TRAFFIC_TAG_BYTES 4         /* payload: flow number, big-endian; left out when the frame has no room */
#define TRAFFIC_STAMP_BYTES 12      /* payload: flow number, then CLOCK_MONOTONIC nanoseconds, host order */
#define LATENCY_SUB_BUCKETS 16      /* buckets a power of two: 6 % resolution */
#define LATENCY_BUCKETS 1024        /* 64 powers of two */

struct generator_config {
  __u8 destination_mac[6], source_mac[6]; /* first: see write_macs */
  __u32 ifindex;            /* netdev that sends; its peer is the device under test */
  __u32 family;             /* 4 or 6 */
  __u32 frame_bytes;        /* Ethernet header included, FCS not */
  __u32 tagged, stamped;    /* payload carries TRAFFIC_TAG / TRAFFIC_STAMP */
  __u32 flows;              /* flow i: source + i % sources, source port + i / sources, destination + i % destinations */
  __u32 sources, destinations;
  __u32 source_port;
  __u32 source[4], destination[4]; /* first address of each range; IPv4 in [3] */
};

struct generator_state {
  __u32 flow, source, port, destination; /* of the next packet */
  __u64 packets;
};

struct receiver_config {
  __u32 check_checksums;
  __u32 track_flows;
  __u32 stamped;
};

struct receiver_counts {
  __u64 packets, bytes;       /* UDP to TRAFFIC_UDP_PORT */
  __u64 bad_checksums;        /* of those, IP header or UDP checksum wrong */
  __u64 others;               /* everything else: given to the host's stack */
};

/* Bare forwarders: where frames go, whatever their addresses. */
struct forward_config {
  __u8 destination_mac[6], source_mac[6]; /* first: see write_macs */
  __u32 ifindex;
};

#endif
