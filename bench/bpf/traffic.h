/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What the traffic programs (bench/bpf) and the tools that load them (bench/native) share: struct layouts and limits.
 * Multi-byte fields are in host byte order unless they say otherwise.
 */
#ifndef SLUICE_BENCH_TRAFFIC_H
#define SLUICE_BENCH_TRAFFIC_H
#include <linux/types.h>

#define TRAFFIC_UDP_PORT 9          /* discard: destination port of each generated packet, and what the receiver counts */
#define TRAFFIC_MARK_TOS 0x28       /* AF11: first packets of flows, which the receiver notes (and answers when told to) */
#define TRAFFIC_FLOWS_MAX 1048576   /* flows that the receiver can tell apart */
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
  __u32 marked;             /* TRAFFIC_MARK_TOS is set */
  __u32 interval_ns;        /* between two packets; 0: as fast as it goes */
  __u32 flows;              /* flow i: source + i % sources, source port + i / sources, destination + i % destinations */
  __u32 sources, destinations;
  __u32 source_port;
  __u32 source[4], destination[4]; /* first address of each range; IPv4 in [3] */
};

struct generator_state {
  __u32 flow, source, port, destination; /* of the next packet */
  __u64 packets;
  __u64 due_ns;                          /* when it may leave, if the configuration sets an interval */
};

struct receiver_config {
  __u32 check_checksums;
  __u32 track_flows;        /* of marked packets: so that counting the others costs the same at any number of flows */
  __u32 answer;             /* marked packets go back to where they came from */
  __u32 stamped;
};

struct receiver_counts {
  __u64 packets, bytes;       /* UDP to or from TRAFFIC_UDP_PORT */
  __u64 bad_checksums;        /* of those, IP header or UDP checksum wrong */
  __u64 marked;               /* of those, with TRAFFIC_MARK_TOS */
  __u64 others;               /* everything else: given to the host's stack */
};

/* Bare forwarders: where frames go, whatever their addresses. */
struct forward_config {
  __u8 destination_mac[6], source_mac[6]; /* first: see write_macs */
  __u32 ifindex;
};

#endif
