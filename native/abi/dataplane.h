/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * dataplane.h: the one contract between BPF (C), the packet engine (C++) and the control plane (TypeScript).
 *
 * Every struct that crosses a language boundary, every limit that two sides share, and every list that people see
 * (drop reasons, counters, events) stands here and only here. TypeScript's side (src/engine/abi.generated.ts) is
 * generated from this file by scripts/generate-abi.mjs and checked in; CI fails when it is stale. The compiled BPF
 * object's BTF is compared with it as well.
 *
 * Rules: fixed-width little-endian fields, natural alignment, explicit padding (named reserved*), no pointers, no
 * bit-fields. Addresses are 16 bytes in network byte order; IPv4 is the mapped form ::ffff:a.b.c.d, so that one code
 * path serves both families and prefix lengths count in the 128-bit space (an IPv4 /24 is 120). Ports are in host
 * byte order. Times end in their unit. ICMP and ICMPv6 "ports": for queries, the identifier stands in both ports of
 * a flow key; in services, dst_lo..dst_hi range over (type << 8 | code).
 */
#ifndef SLUICE_DATAPLANE_H
#define SLUICE_DATAPLANE_H

#ifdef __BPF__
/* vmlinux.h or linux/types.h gave us __u8 ... __u64 */
typedef __u8 sl_u8; typedef __u16 sl_u16; typedef __u32 sl_u32; typedef __u64 sl_u64;
#else
#include <stdint.h>
typedef uint8_t sl_u8; typedef uint16_t sl_u16; typedef uint32_t sl_u32; typedef uint64_t sl_u64;
#endif

#define SL_ABI_VERSION 2
#define SL_SNAPSHOT_MAGIC 0x50414e53u /* "SNAP" */

/* ---- limits: name, reason ------------------------------------------------------------------------------------ */
#define SL_PORTS_MAX 32              /* netdevs that carry our XDP program; a VM has at most 8-16 vNICs */
#define SL_QUEUES_MAX 64             /* receive queues a netdev; Azure gives at most one a vCPU, up to 64 */
#define SL_XSKS_MAX 2048             /* SL_PORTS_MAX * SL_QUEUES_MAX */
#define SL_INTERFACES_MAX 256        /* logical interfaces: netdevs, VLANs, tunnels */
#define SL_ZONES_MAX 64              /* zone sets are one 64-bit mask */
#define SL_RULES_MAX 131072
#define SL_LOCAL_ADDRESSES_MAX 1024  /* addresses of the appliance that the steering map holds */
#define SL_NAT_SLOTS_MAX 64          /* local addresses that NAT shares with the host: one port bitmap each */
#define SL_VLAN_NONE 0xffff          /* interface carries untagged frames */
#define SL_PROTOCOL_ANY 0xffff       /* service matches each IP protocol */
#define SL_NAT_SLOT_NONE 0xffff      /* address belongs to the engine alone (or to the host alone): no bitmap */
#define SL_NAT_PORT_RESERVED 65330   /* Azure reserves this UDP source port; never allocated */
#define SL_IPV6_EXTENSIONS_MAX 8     /* extension headers walked before a packet counts as malformed */
#define SL_FRAME_BYTES_MAX 3506      /* largest frame XDP takes on 4 KiB pages without multi-buffer */
#define SL_NAME_BYTES 16             /* IFNAMSIZ */
#define SL_WIREGUARDS_MAX 64         /* WireGuard interfaces */
#define SL_WIREGUARD_PEERS_MAX 16384 /* of all WireGuard interfaces */
#define SL_ENGINE_PORTS_WORDS 1024   /* map `engine_ports`: a bit a UDP port */

/* ---- enums that people see: X(UPPER_NAME, "kebab-name", "help") ------------------------------------------------ */

/* Why a packet was dropped. One list for BPF, the engine, metrics' labels, flow logs and the CLI. */
#define SL_DROP_REASONS(X) \
  X(NONE, "none", "not dropped") \
  X(TRUNCATED, "truncated", "frame ends before its headers do, or IP total length exceeds the frame") \
  X(MALFORMED_ETHERNET, "malformed-ethernet", "Ethernet header or ethertype that is not IP, ARP or a known VLAN") \
  X(MALFORMED_IPV4, "malformed-ipv4", "bad version, header length, total length or options") \
  X(MALFORMED_IPV6, "malformed-ipv6", "bad version, payload length, or extension header chain") \
  X(MALFORMED_L4, "malformed-l4", "TCP, UDP or ICMP header with impossible lengths or flags") \
  X(CHECKSUM_IPV4, "checksum-ipv4", "IPv4 header checksum is wrong") \
  X(CHECKSUM_L4, "checksum-l4", "TCP, UDP, ICMP or ICMPv6 checksum is wrong") \
  X(MARTIAN_SOURCE, "martian-source", "source address that no packet may carry: loopback, multicast, broadcast, unspecified") \
  X(MARTIAN_DESTINATION, "martian-destination", "destination that is never forwarded: loopback, link-local, multicast, broadcast, unspecified") \
  X(OTHER_STATION, "other-station", "frame to the link address of another station") \
  X(UNKNOWN_VLAN, "unknown-vlan", "802.1Q tag that no interface names") \
  X(UNKNOWN_PORT, "unknown-port", "frame from a netdev that the configuration does not name") \
  X(NO_ENGINE, "no-engine", "no engine socket is bound to this queue: closed while the engine is away") \
  X(ND_HOP_LIMIT, "nd-hop-limit", "neighbour discovery with a hop limit other than 255") \
  X(ANTI_SPOOFING, "anti-spoofing", "source address is not routed to the interface it came in on") \
  X(NO_ROUTE, "no-route", "no route to the destination") \
  X(BLACKHOLE_ROUTE, "blackhole-route", "the route says blackhole") \
  X(TTL_EXPIRED, "ttl-expired", "TTL or hop limit ran out here") \
  X(TOO_BIG, "too-big", "larger than the egress MTU and must not be fragmented") \
  X(POLICY_DENY, "policy-deny", "a rule denies it, or no rule allows it") \
  X(POLICY_REJECT, "policy-reject", "a rule rejects it; the sender was told") \
  X(POLICY_CHANGED, "policy-changed", "the session is no longer allowed after a commit") \
  X(TCP_NOT_SYN, "tcp-not-syn", "TCP segment without a session that does not open one") \
  X(TCP_BAD_FLAGS, "tcp-bad-flags", "TCP flag combination that no stack sends") \
  X(TCP_WINDOW, "tcp-window", "sequence or acknowledgement outside the window") \
  X(TCP_RST_SEQUENCE, "tcp-rst-sequence", "RST that does not carry the exact sequence (RFC 5961)") \
  X(TCP_STATE, "tcp-state", "segment that does not fit the session's state") \
  X(ICMP_NO_SESSION, "icmp-no-session", "ICMP error or reply that belongs to no session") \
  X(ICMP_BAD_EMBEDDED, "icmp-bad-embedded", "ICMP error whose embedded packet is cut short or does not fit its session") \
  X(SESSION_TABLE_FULL, "session-table-full", "no room for another session") \
  X(SESSION_LIMIT, "session-limit", "the source or rule has as many sessions as it may") \
  X(NAT_PORTS_EXHAUSTED, "nat-ports-exhausted", "no free port in the SNAT pool") \
  X(NAT_CONFLICT, "nat-conflict", "the translated flow would collide with another session") \
  X(NAT_FILTERED, "nat-filtered", "inbound packet to a NAT mapping that its filtering does not admit") \
  X(NEIGHBOUR_UNRESOLVED, "neighbour-unresolved", "the next hop's link address is not known (yet, or at all)") \
  X(NEIGHBOUR_QUEUE_FULL, "neighbour-queue-full", "too many packets wait for this next hop's link address") \
  X(LINK_DOWN, "link-down", "the egress interface is down") \
  X(FRAGMENT_OVERLAP, "fragment-overlap", "overlapping fragments: the whole datagram is discarded (RFC 5722)") \
  X(FRAGMENT_TABLE_FULL, "fragment-table-full", "no room for another fragmented datagram") \
  X(FRAGMENT_TIMEOUT, "fragment-timeout", "held fragment whose first fragment never came") \
  X(FRAGMENT_MALFORMED, "fragment-malformed", "impossible fragment: zero length, past 65535, header chain cut (RFC 7112)") \
  X(FRAGMENT_DENIED, "fragment-denied", "fragment of a datagram whose first fragment was dropped") \
  X(UMEM_EXHAUSTED, "umem-exhausted", "no free packet buffer") \
  X(RX_RING_FULL, "rx-ring-full", "the engine did not take packets as fast as they came") \
  X(TX_RING_FULL, "tx-ring-full", "the egress transmit ring is full") \
  X(HOST_QUEUE_FULL, "host-queue-full", "the path to the host's stack is full") \
  X(NO_SNAPSHOT, "no-snapshot", "no forwarding state is loaded yet") \
  X(RATE_LIMITED, "rate-limited", "over a rate limit") \
  X(WIREGUARD_MALFORMED, "wireguard-malformed", "WireGuard message of an unknown type or an impossible length") \
  X(WIREGUARD_HANDSHAKE_MAC, "wireguard-handshake-mac", "handshake message whose mac1 is not for our key") \
  X(WIREGUARD_HANDSHAKE_LIMIT, "wireguard-handshake-limit", "handshake message over a limit: of its source, or under load without a valid cookie") \
  X(WIREGUARD_UNKNOWN_INDEX, "wireguard-unknown-index", "transport message of a session that we do not have, or no longer") \
  X(WIREGUARD_AUTHENTICATION, "wireguard-authentication", "transport message that does not authenticate") \
  X(WIREGUARD_REPLAY, "wireguard-replay", "transport message that came before, or is older than the replay window") \
  X(WIREGUARD_ALLOWED_IPS, "wireguard-allowed-ips", "decrypted packet whose source is not among its peer's allowed IPs") \
  X(WIREGUARD_NO_PEER, "wireguard-no-peer", "no peer of the interface has the destination among its allowed IPs") \
  X(WIREGUARD_NO_SESSION, "wireguard-no-session", "no session with the peer: no endpoint, or its handshake was not answered") \
  X(ENCRYPTION_REQUIRED, "encryption-required", "the route wants encryption, and no WireGuard interface takes the packet") \
  X(TUNNEL_CONGESTION, "tunnel-congestion", "marked as congested on its way through a tunnel, and its sender does not know ECN (RFC 6040)") \
  X(ROUTING_HEADER, "routing-header", "IPv6 routing header that sends the packet on to somewhere else than the address that the rules see")

/* Counters beside drops. */
#define SL_COUNTERS(X) \
  X(RX_PACKETS, "rx-packets", "packets received by the engine") \
  X(RX_BYTES, "rx-bytes", "bytes received by the engine, Ethernet header included") \
  X(TX_PACKETS, "tx-packets", "packets sent by the engine") \
  X(TX_BYTES, "tx-bytes", "bytes sent by the engine, Ethernet header included") \
  X(HOST_PACKETS, "host-packets", "packets handed to the host's stack") \
  X(FAST_PATH_HITS, "fast-path-hits", "packets of a known session") \
  X(SLOW_PATH_PACKETS, "slow-path-packets", "packets that needed a decision") \
  X(SESSIONS_CREATED, "sessions-created", "sessions created") \
  X(SESSIONS_OFFLOADED, "sessions-offloaded", "sessions handed to the XDP program") \
  X(SESSIONS_ENDED, "sessions-ended", "sessions ended") \
  X(REVALIDATIONS, "revalidations", "sessions checked again after a commit") \
  X(ICMP_ERRORS_SENT, "icmp-errors-sent", "ICMP and ICMPv6 errors sent") \
  X(ICMP_ERRORS_SUPPRESSED, "icmp-errors-suppressed", "ICMP errors not sent because of the rate limit") \
  X(TCP_RESETS_SENT, "tcp-resets-sent", "TCP resets sent for reject rules") \
  X(FRAGMENTS, "fragments", "fragments seen") \
  X(FRAGMENTS_HELD, "fragments-held", "fragments held until their first fragment came") \
  X(NEIGHBOUR_HELD, "neighbour-held", "packets held until their next hop was resolved") \
  X(CHECKSUMS_COMPLETED, "checksums-completed", "partial checksums of packets born on this machine, completed") \
  X(CAPTURES_LOST, "captures-lost", "copies of packets lost because nobody took them in time") \
  X(RECORDS_LOST, "records-lost", "flow or drop records lost because nobody read them in time") \
  X(DROP_RECORDS_SAMPLED, "drop-records-sampled", "dropped packets without a record, because many were dropped at once") \
  X(WIREGUARD_SEALED, "wireguard-sealed", "packets encrypted for a WireGuard peer") \
  X(WIREGUARD_OPENED, "wireguard-opened", "packets of WireGuard peers that authenticated, keepalives included") \
  X(WIREGUARD_HANDSHAKES, "wireguard-handshakes", "WireGuard handshake messages that passed the gate") \
  X(WIREGUARD_COOKIES, "wireguard-cookies", "WireGuard cookie replies sent, under load") \
  X(WIREGUARD_EVENTS_LOST, "wireguard-events-lost", "WireGuard messages and events lost because nobody took them in time") \
  X(FROM_HOST_PACKETS, "from-host-packets", "packets of the host's stack taken for tunnels") \
  X(TX_KICKS, "tx-kicks", "system calls that started transmission") \
  X(POLLS, "polls", "times a worker slept") \
  X(SESSIONS_EVICTED, "sessions-evicted", "sessions that nobody had answered, ended early because the table was nearly full")

/* What the steering program did; BPF counts these a netdev. */
#define SL_STEER_COUNTERS(X) \
  X(TO_ENGINE, "to-engine", "redirected to an engine socket") \
  X(TO_HOST, "to-host", "passed to the host's stack") \
  X(OFFLOADED, "offloaded", "packets of established sessions, rewritten and redirected by the program itself") \
  X(OFFLOADED_BYTES, "offloaded-bytes", "IP bytes of these packets")

#define SL_RULE_ACTIONS(X) \
  X(DENY, "deny", "drop silently") \
  X(ALLOW, "allow", "allow and create a session") \
  X(REJECT, "reject", "drop and tell the sender: TCP RST or ICMP administratively prohibited")

#define SL_NAT_KINDS(X) \
  X(SOURCE, "source", "SNAT to a pool or the interface's address") \
  X(DESTINATION, "destination", "DNAT of an address and ports") \
  X(STATIC, "static", "1:1 in both directions") \
  X(EXEMPT, "exempt", "source NAT stops here: no translation")

#define SL_NAT_FILTERINGS(X) \
  X(ENDPOINT, "endpoint-independent", "any peer may reach the mapping, as far as rules allow") \
  X(ADDRESS, "address-dependent", "only addresses the inside has sent to") \
  X(ADDRESS_PORT, "address-and-port-dependent", "only addresses and ports the inside has sent to")

#define SL_NEXTHOP_KINDS(X) \
  X(FORWARD, "forward", "to a gateway, or to the destination itself when via is unspecified") \
  X(BLACKHOLE, "blackhole", "drop silently") \
  X(REJECT, "reject", "drop and answer unreachable") \
  X(UNENCRYPTED, "unencrypted", "the route wants encryption and has no way that encrypts: drop")

#define SL_ANTI_SPOOFINGS(X) \
  X(STRICT, "strict", "the route back to the source must leave by the same interface") \
  X(LOOSE, "loose", "there must be a route back to the source") \
  X(OFF, "off", "not checked")

#define SL_SESSION_STATES(X) \
  X(NEW, "new", "one direction seen") \
  X(TCP_SYN_SENT, "syn-sent", "SYN seen") \
  X(TCP_SYN_RECEIVED, "syn-received", "SYN-ACK seen, or both sent SYN") \
  X(ESTABLISHED, "established", "both directions seen; TCP: handshake done") \
  X(TCP_FIN_WAIT, "fin-wait", "one side sent FIN") \
  X(TCP_CLOSING, "closing", "both sides sent FIN") \
  X(TCP_TIME_WAIT, "time-wait", "both FINs acknowledged") \
  X(CLOSED, "closed", "reset or ended")

/* What carries a logical interface's packets. */
#define SL_INTERFACE_KINDS(X) \
  X(PORT, "port", "a netdev, or a VLAN on it") \
  X(WIREGUARD, "wireguard", "a WireGuard interface")

#define SL_WIREGUARD_EVENTS(X) \
  X(MESSAGE, "message", "a handshake message (types 1 to 3) that passed the gate; the message follows") \
  X(WANTED, "wanted", "packets wait for a session with the peer") \
  X(CONFIRMED, "confirmed", "the first transport message of a session that we answered: it is the current one from here on") \
  X(ROAMED, "roamed", "the peer's endpoint changed: an authenticated message came from another one")

/* Protocols as sessions are counted by them. */
#define SL_SESSION_PROTOCOLS(X) \
  X(TCP, "tcp", "TCP") \
  X(UDP, "udp", "UDP") \
  X(ICMP, "icmp", "ICMP and ICMPv6") \
  X(OTHER, "other", "any other")

#define SL_FLOW_EVENTS(X) \
  X(START, "start", "session created") \
  X(UPDATE, "update", "still alive; only in session listings") \
  X(END, "end", "session ended") 

#define SL_END_REASONS(X) \
  X(NONE, "none", "not ended") \
  X(IDLE, "idle", "idle timeout") \
  X(TCP_FIN, "tcp-fin", "closed by both sides") \
  X(TCP_RST, "tcp-rst", "reset") \
  X(POLICY_CHANGED, "policy-changed", "a commit no longer allows it") \
  X(KILLED, "killed", "ended by an operator") \
  X(REPLACED, "replaced", "a new connection took the same addresses and ports") \
  X(SHUTDOWN, "shutdown", "the engine stopped") \
  X(EVICTED, "evicted", "nobody had answered, and the session table was nearly full")

#define SL_ENUM_ENTRY(prefix, name) prefix##name
#define SL_X_DROP(name, text, help) SL_ENUM_ENTRY(SL_DROP_, name),
enum sl_drop_reason { SL_DROP_REASONS(SL_X_DROP) SL_DROP_REASON_COUNT };
#define SL_X_COUNTER(name, text, help) SL_ENUM_ENTRY(SL_COUNTER_, name),
enum sl_counter { SL_COUNTERS(SL_X_COUNTER) SL_COUNTER_COUNT };
#define SL_X_STEER(name, text, help) SL_ENUM_ENTRY(SL_STEER_, name),
enum sl_steer_counter { SL_STEER_COUNTERS(SL_X_STEER) SL_STEER_COUNTER_COUNT };
#define SL_X_ACTION(name, text, help) SL_ENUM_ENTRY(SL_ACTION_, name),
enum sl_rule_action { SL_RULE_ACTIONS(SL_X_ACTION) SL_RULE_ACTION_COUNT };
#define SL_X_NAT(name, text, help) SL_ENUM_ENTRY(SL_NAT_, name),
enum sl_nat_kind { SL_NAT_KINDS(SL_X_NAT) SL_NAT_KIND_COUNT };
#define SL_X_FILTERING(name, text, help) SL_ENUM_ENTRY(SL_FILTERING_, name),
enum sl_nat_filtering { SL_NAT_FILTERINGS(SL_X_FILTERING) SL_NAT_FILTERING_COUNT };
#define SL_X_NEXTHOP(name, text, help) SL_ENUM_ENTRY(SL_NEXTHOP_, name),
enum sl_nexthop_kind { SL_NEXTHOP_KINDS(SL_X_NEXTHOP) SL_NEXTHOP_KIND_COUNT };
#define SL_X_ANTISPOOF(name, text, help) SL_ENUM_ENTRY(SL_ANTI_SPOOFING_, name),
enum sl_anti_spoofing { SL_ANTI_SPOOFINGS(SL_X_ANTISPOOF) SL_ANTI_SPOOFING_COUNT };
#define SL_X_STATE(name, text, help) SL_ENUM_ENTRY(SL_STATE_, name),
enum sl_session_state { SL_SESSION_STATES(SL_X_STATE) SL_SESSION_STATE_COUNT };
#define SL_X_SESSION_PROTOCOL(name, text, help) SL_ENUM_ENTRY(SL_SESSION_PROTOCOL_, name),
enum sl_session_protocol { SL_SESSION_PROTOCOLS(SL_X_SESSION_PROTOCOL) SL_SESSION_PROTOCOL_COUNT };
#define SL_X_EVENT(name, text, help) SL_ENUM_ENTRY(SL_EVENT_, name),
enum sl_flow_event { SL_FLOW_EVENTS(SL_X_EVENT) SL_FLOW_EVENT_COUNT };
#define SL_X_INTERFACE(name, text, help) SL_ENUM_ENTRY(SL_INTERFACE_, name),
enum sl_interface_kind { SL_INTERFACE_KINDS(SL_X_INTERFACE) SL_INTERFACE_KIND_COUNT };
#define SL_X_WIREGUARD(name, text, help) SL_ENUM_ENTRY(SL_WIREGUARD_, name),
enum sl_wireguard_event { SL_WIREGUARD_EVENTS(SL_X_WIREGUARD) SL_WIREGUARD_EVENT_COUNT };
#define SL_X_END(name, text, help) SL_ENUM_ENTRY(SL_END_, name),
enum sl_end_reason { SL_END_REASONS(SL_X_END) SL_END_REASON_COUNT };

/* ---- steering maps (BPF and the engine) ------------------------------------------------------------------------ */

/*
 * Entry of map `ports`: array, place = netdev index % SL_STEER_PORTS; the netdev's own when `ifindex` says so. Written by
 * the engine before XDP is attached to the netdev.
 */
struct sl_steer_port {
  sl_u32 ifindex;  /* 0: none */
  sl_u16 slot;     /* 0..SL_PORTS_MAX-1; xsks key = slot * SL_QUEUES_MAX + queue */
  sl_u16 flags;    /* SL_STEER_PORT_* */
  sl_u16 interface; /* interface slot that takes untagged frames, if SL_STEER_PORT_UNTAGGED */
  sl_u16 reserved;
};
#define SL_STEER_PORTS 4096
#define SL_STEER_PORT_UNTAGGED 1 /* an interface takes this port's untagged frames */
#define SL_STEER_PORT_PARTIAL 2  /* frames may carry partial checksums (veth, virtio): those go to the engine */

/* Key of map `vlans`; value u16: slot of the interface that names this tag on this netdev. */
struct sl_steer_vlan { sl_u32 ifindex; sl_u32 vlan_id; };

/* Key of map `local_addresses`. An address of the appliance; packets to it go to the host, except as flagged. */
struct sl_address { sl_u8 bytes[16]; };
struct sl_local_address {
  sl_u16 nat_slot; /* bitmap in map `nat_ports` whose set ports go to the engine; SL_NAT_SLOT_NONE: none */
  sl_u16 flags;    /* SL_LOCAL_ENGINE: each packet to it goes to the engine */
};
#define SL_LOCAL_ENGINE 1

/*
 * Map `nat_ports`: array of u64, memory-mapped by the engine (BPF_F_MMAPABLE). Bit (port & 63) of word
 * ((nat_slot * SL_NAT_PROTOCOLS + protocol) * 1024 + port / 64) is set while NAT uses the port of a shared address.
 */
#define SL_NAT_PROTOCOLS 3 /* index 0 TCP, 1 UDP, 2 ICMP and ICMPv6 (port = identifier) */
#define SL_NAT_PORT_WORDS 196608 /* SL_NAT_SLOTS_MAX * SL_NAT_PROTOCOLS * 1024 */

/* Map `steer_counters`: per-CPU array of rows of u64[SL_STEER_KEYS], key = slot; n < 64: SL_DROP_*, n >= 64: 64 + SL_STEER_* */
#define SL_STEER_KEYS 80
#define SL_STEER_BASE 64
#define SL_STEER_ROWS 33 /* a row a slot, and one for frames of netdevs that `ports` does not know (row SL_PORTS_MAX) */

/* ---- flow memory (BPF and the engine) ---------------------------------------------------------------------------- */

/*
 * What the engine and the XDP program know of flows stands once, in arrays that both have mapped (BPF_F_MMAPABLE) and
 * that are pinned: the engine decides and writes, the program forwards packets of established sessions by them and
 * writes their line "hot"; and when the engine dies, the next one finds its sessions. The engine's side of these structs
 * (native/flow/session.h, route/adjacency.h) has the same layout with atomics, compared by static_assert.
 *
 * Maps: flow_header (one value, flow_shared.h: header, interfaces, next hops), flow_buckets, sessions, nat_mappings (the
 * engine's alone, here to outlive it).
 */
#define SL_FLOW_MEMORY_VERSION 4   /* another layout: an engine that finds it starts with empty tables */
#define SL_ADJACENCIES_MAX 65536
#define SL_FLOW_BUCKET_SLOTS 10
#define SL_GRACE_TICKS 1
#define SL_TICK_SHIFT 28           /* engine time: CLOCK_MONOTONIC in ticks of 2^28 ns */
#define SL_TCP_ACK_WINDOW_MIN 66000 /* windows smaller than this are widened when old acknowledgements are judged, as netfilter's MAXACKWINCONST */

struct sl_flow_header {
  sl_u64 hash_keys[5];      /* of sl_flow_hash */
  sl_u64 seed;              /* of the engine's other hashes */
  sl_u32 version;           /* SL_FLOW_MEMORY_VERSION, written last */
  sl_u32 capacity;          /* sessions */
  sl_u32 bucket_mask;
  sl_u32 generations[2];    /* the program forwards sessions of these: the one in force, and while a commit's sessions are gone through, the one before */
  sl_u32 committed_ticks;   /* when generations[0] came into force; the one before counts for SL_GRACE_TICKS more, whatever becomes of the engine */
  sl_u32 captures;          /* not 0: a capture runs, and the program leaves all packets to the engine, while there is one */
  sl_u32 reserved;
  sl_u64 clock;             /* the program's own: low half: a jiffy, high half: the tick that it is in */
  sl_u8 reserved2[40];
};

/* Sixty-four bytes: a tag is 16 bits of the hash, 0 = empty; a reference is session index << 1 | direction. */
struct sl_flow_bucket {
  sl_u16 tag[SL_FLOW_BUCKET_SLOTS];
  sl_u16 lock;
  sl_u16 overflow;          /* some key with this first bucket lives in its second one */
  sl_u32 reference[SL_FLOW_BUCKET_SLOTS];
};

struct sl_flow_key {
  struct sl_address src, dst;
  sl_u16 src_port, dst_port; /* host order; ICMP queries: the identifier in both */
  sl_u8 protocol, kind;
  sl_u8 reserved[2];
};

struct sl_session {
  struct sl_flow_key key0;
  sl_u16 l3_delta[2], l4_delta[2];
  sl_u32 adjacency[2];      /* index | incarnation << 16 */
  sl_u32 generation;
  sl_u8 state, flags, tcp_bits, tcp_scale;
  struct sl_flow_key key1;
  sl_u32 rule_id, start_ticks, mapping, nat_destination_id, incarnation;
  sl_u8 interface_slot[2], tcp_flags_seen[2];
  sl_u32 last_seen_ticks;   /* from here on: written by each packet, also by the program */
  sl_u32 tcp_end[2], tcp_edge[2], tcp_acked[2];
  sl_u8 tcp_window_log2[2], offload, live;
  sl_u64 packets[2], bytes[2];
};
/* session.offload: whether the program forwards its packets. */
#define SL_OFFLOAD_NOT_YET 0
#define SL_OFFLOAD_ON 1
#define SL_OFFLOAD_NEVER 2         /* its rule says so */
/* session.tcp_bits: a direction d, shift by d. */
#define SL_TCP_FIN_SEEN 1
#define SL_TCP_FIN_ACKED 4
#define SL_TCP_ACK_SEEN 16
#define SL_TCP_SCALE_SEEN 64
#define SL_OFFLOAD_ONE_WAY_PACKETS 8 /* a session without an answer (not TCP) is offloaded after so many */

struct sl_adjacency {
  sl_u64 mac;               /* six bytes in memory order, low 48 bits; SL_ADJACENCY_* above */
  sl_u32 used_ticks, asked_ticks, waiting;
  sl_u16 incarnation, interface_slot;
  struct sl_address address;
  sl_u8 in_use;
  sl_u8 reserved[23];
};
#define SL_ADJACENCY_RESOLVED (1ull << 48)
#define SL_ADJACENCY_FAILED (1ull << 49)

/* A NAT binding; the engine's alone. */
struct sl_nat_mapping {
  struct sl_address inside, outside;
  sl_u16 inside_port, outside_port;
  sl_u8 protocol, filtering, independent, reserved;
  sl_u32 references;
  sl_u32 nat_rule_id;
  sl_u32 next_inside, next_outside;
  sl_u32 pool;
  sl_u32 last_peer_clean;
};

struct sl_interface_state {
  sl_u64 mac;
  sl_u32 mtu_bytes;
  sl_u8 up, port_slot;
  sl_u16 vlan_id;
  sl_u32 id, kernel_ifindex, ifindex, mtu_limit_bytes;
  sl_u8 offload;            /* 1: the netdev takes redirected frames */
  sl_u8 reserved[31];
};

/* ---- the snapshot: one flat buffer, built by TypeScript, validated and compiled by the engine ------------------- */

/* A run of entries of one section. */
struct sl_span { sl_u32 first; sl_u32 count; };

/* Where a section stands in the buffer: offset in bytes from the buffer's start (8-byte aligned), count of entries. */
struct sl_section { sl_u32 offset; sl_u32 count; };

/* Settings that hold for the whole appliance. Times in seconds unless named otherwise. */
struct sl_settings {
  sl_u32 tcp_syn_s;            /* SYN seen, no answer: RFC 5382 R4 >= 6 */
  sl_u32 tcp_established_s;    /* RFC 5382 R5 >= 7440 */
  sl_u32 tcp_transitory_s;     /* half-open after SYN-ACK, and closing: RFC 5382 R5 >= 240 */
  sl_u32 tcp_time_wait_s;
  sl_u32 tcp_reset_s;          /* after a valid RST */
  sl_u32 udp_s;                /* RFC 4787 R5: default 300, at least 120 */
  sl_u32 udp_new_s;            /* before the first answer */
  sl_u32 icmp_s;               /* RFC 5508 R2 >= 60 */
  sl_u32 other_s;
  sl_u32 fragment_s;           /* RFC 8200: 60; RFC 791 15-120 */
  sl_u32 nat_port_reuse_s;     /* RFC 6888 R8: 120 */
  sl_u32 icmp_errors_per_second; /* per worker, token bucket */
  sl_u32 sessions_per_source_max; /* 0 = no limit */
  sl_u32 fragments_max;        /* datagrams under virtual reassembly, all workers */
  sl_u32 default_action;       /* SL_ACTION_DENY or SL_ACTION_REJECT */
  sl_u32 default_log;          /* SL_LOG_* of what no rule matches */
};

/* SL_LOG_*: what a rule records. */
#define SL_LOG_START 1
#define SL_LOG_END 2

struct sl_interface {
  sl_u32 id;               /* stable id, hash of the name */
  sl_u32 ifindex;          /* netdev that carries XDP */
  sl_u32 kernel_ifindex;   /* netdev on which the kernel resolves neighbours: the same, or its VLAN device */
  sl_u16 vlan_id;          /* SL_VLAN_NONE: untagged */
  sl_u16 zone;             /* 0..SL_ZONES_MAX-1 */
  sl_u16 anti_spoofing;    /* SL_ANTI_SPOOFING_* */
  sl_u16 mss_clamp_bytes;  /* 0: off; 1: to the path's MTU; else this MSS at most */
  sl_u32 mtu_bytes;        /* L3 MTU; 0: follow the netdev's */
  sl_u16 kind;             /* SL_INTERFACE_*; other than PORT: ifindex 0, VLAN none, kernel_ifindex 0 */
  sl_u16 reserved;
};

/* An address of the appliance on an interface: connected route, steering to the host, address of interface SNAT. */
struct sl_interface_address {
  struct sl_address address;
  sl_u16 interface;        /* index into interfaces */
  sl_u8 prefix_length;     /* in the 128-bit space */
  sl_u8 reserved;
  sl_u16 nat_slot;         /* SL_NAT_SLOT_NONE unless NAT shares the address with the host */
  sl_u16 flags;            /* SL_LOCAL_* */
};

struct sl_prefix {
  struct sl_address address; /* bits beyond the length are zero */
  sl_u8 length;              /* 0..128 in the mapped space; 96 = any IPv4 */
  sl_u8 reserved[7];
};

struct sl_service {
  sl_u16 protocol;         /* IP protocol number, SL_PROTOCOL_ANY */
  sl_u16 src_lo, src_hi;   /* 0..65535 = any */
  sl_u16 dst_lo, dst_hi;   /* ICMP: type << 8 | code */
  sl_u16 reserved;
};

/* A firewall rule; order is precedence. An empty span means any. Destination and service are those after DNAT. */
struct sl_rule {
  sl_u64 from_zones, to_zones; /* bit a zone; all ones = any */
  sl_u32 id;                   /* stable id, hash of the name */
  sl_u8 action;                /* SL_ACTION_* */
  sl_u8 log;                   /* SL_LOG_* mask */
  sl_u16 flags;                /* SL_RULE_* */
  struct sl_span sources, destinations; /* into prefixes */
  struct sl_span services;              /* into services */
  sl_u32 sessions_max;         /* 0 = no limit */
  sl_u32 reserved;
};
#define SL_RULE_NO_OFFLOAD 1

/* An address that source NAT may translate to. */
struct sl_nat_address {
  struct sl_address address;
  sl_u16 port_lo, port_hi; /* ports that NAT may use, inclusive */
  sl_u16 nat_slot;         /* SL_NAT_SLOT_NONE: the address is the engine's alone */
  sl_u16 reserved;
};

/* A NAT rule; the first match wins a kind. Source rules see the packet after DNAT. */
struct sl_nat_rule {
  sl_u64 from_zones, to_zones; /* to_zones does not count for destination rules */
  sl_u32 id;
  sl_u8 kind;              /* SL_NAT_*; EXEMPT stands among the source rules */
  sl_u8 filtering;         /* SL_FILTERING_* */
  sl_u16 flags;            /* SL_NAT_RULE_* */
  struct sl_span sources, destinations; /* into prefixes; destination rules: the outside addresses */
  struct sl_span services;
  struct sl_span pool;     /* into nat_addresses; source rules only */
  struct sl_address to_address; /* destination: first address; static: inside address of `destinations`' outside prefix */
  sl_u16 to_port;          /* destination: first port of the range that dst_lo maps to; 0 = keep */
  sl_u8 to_prefix_length;  /* static: length of the inside and outside prefixes */
  sl_u8 reserved;
  sl_u16 interface;        /* source rules with `interface: true`: pool of this egress interface only; 0xffff = any */
  sl_u16 reserved2;
};
#define SL_NAT_RULE_ENDPOINT_DEPENDENT 1 /* mapping per destination instead of endpoint-independent (not RFC 4787 R1) */
#define SL_NAT_RULE_IPV4 2
#define SL_NAT_RULE_IPV6 4

struct sl_nexthop {
  struct sl_address via;   /* all zero: the destination itself is on the link */
  sl_u16 interface;
  sl_u8 kind;              /* SL_NEXTHOP_* */
  sl_u8 reserved;
  sl_u32 reserved2;
};

/* A route; more than one nexthop: equal-cost multipath by flow hash. Connected routes are listed too. */
struct sl_route {
  struct sl_prefix to;
  struct sl_span nexthops;
};

/* A WireGuard interface. Keys and endpoints are not in the snapshot: the engine process gives them (sl_wireguard_*). */
struct sl_wireguard {
  sl_u16 interface;        /* index into interfaces, of kind WIREGUARD */
  sl_u16 listen_port;      /* UDP, on each address of the appliance; one interface a port */
  struct sl_span peers;    /* into wireguard_peers; no peer belongs to two */
};

/* A peer. An allowed IP belongs to one peer of an interface; the longest prefix decides. */
struct sl_wireguard_peer {
  sl_u32 id;               /* stable id, hash of "INTERFACE/NAME" */
  sl_u32 reserved;
  struct sl_span allowed_ips; /* into prefixes */
};

struct sl_snapshot_header {
  sl_u32 magic, abi_version;
  sl_u32 bytes;            /* of the whole buffer */
  sl_u32 reserved;
  sl_u64 generation;       /* grows with each apply */
  struct sl_settings settings;
  struct sl_section interfaces, addresses, prefixes, services, rules, nat_rules, nat_addresses, nexthops, routes, wireguards, wireguard_peers;
};

/* ---- what comes back: records, listings, counters --------------------------------------------------------------- */

/* One session, as it starts, ends, or stands in a listing. Times: nanoseconds since the epoch. */
struct sl_flow_record {
  sl_u64 session_id;
  sl_u64 start_ns, last_ns;
  sl_u64 packets[2], bytes[2];      /* 0 originator to responder, 1 back */
  struct sl_address src, dst;       /* as the originator sent it */
  struct sl_address nat_src, nat_dst; /* as it leaves */
  sl_u16 src_port, dst_port, nat_src_port, nat_dst_port;
  sl_u32 rule_id;                   /* 0: none */
  sl_u32 nat_source_id, nat_destination_id; /* NAT rules that applied, 0: none */
  sl_u32 from_interface, to_interface;      /* ids */
  sl_u32 expires_s;                 /* listings: seconds until idle timeout */
  sl_u16 from_zone, to_zone;
  sl_u8 protocol, state, event, end_reason;
  sl_u8 tcp_flags[2];               /* all flags seen, a direction */
  sl_u8 reserved[6];
};

/* One dropped packet (sampled under load; counters are exact). */
struct sl_drop_record {
  sl_u64 time_ns;
  struct sl_address src, dst;       /* as it came */
  struct sl_address nat_src, nat_dst; /* as it would have left, as far as that was decided; else as it came */
  sl_u16 src_port, dst_port, nat_src_port, nat_dst_port;
  sl_u32 rule_id;          /* 0: none, or the default */
  sl_u32 nat_source_id, nat_destination_id; /* NAT rules of what was decided, 0: none */
  sl_u32 interface;        /* id of the ingress interface */
  sl_u32 to_interface;     /* id; 0: not decided */
  sl_u16 bytes;
  sl_u8 reason;            /* SL_DROP_* */
  sl_u8 protocol;
  sl_u8 tcp_flags;         /* of the packet */
  sl_u8 tcp_flags_known;   /* 0: not TCP, or its TCP header is not here */
  sl_u8 reserved[6];
};

/* What a capture copies: all that is given must fit. */
struct sl_capture_filter {
  struct sl_prefix source, destination; /* length 0: any */
  sl_u32 interface;        /* id; 0: each */
  sl_u16 protocol;         /* SL_PROTOCOL_ANY */
  sl_u16 port;             /* of either side, with SL_CAPTURE_PORT */
  sl_u16 snap_bytes;       /* bytes of each packet, from the Ethernet header on */
  sl_u8 directions;        /* SL_CAPTURE_IN | SL_CAPTURE_OUT */
  sl_u8 flags;             /* SL_CAPTURE_* */
  sl_u32 reserved;
};
#define SL_CAPTURES_MAX 4
#define SL_CAPTURE_IN 1            /* as received */
#define SL_CAPTURE_OUT 2           /* as sent */
#define SL_CAPTURE_PORT 1
#define SL_CAPTURE_BOTH_WAYS 2     /* source and destination also the other way round */
#define SL_CAPTURE_DROPPED 4       /* only what was dropped; received packets only */
#define SL_CAPTURE_NOT_DROPPED 8   /* only what was not */

/* A copied packet: this, then `bytes` bytes; the next one stands record_bytes behind. */
struct sl_captured {
  sl_u64 time_ns;          /* since the epoch */
  sl_u32 record_bytes;     /* header, bytes, padding to 8 */
  sl_u32 interface;        /* id */
  sl_u16 bytes, original_bytes;
  sl_u8 captures;          /* a bit each capture that it is for */
  sl_u8 direction, reason; /* SL_DROP_*; 0: not dropped here */
  sl_u8 reserved;
};

/* Would this packet pass? Input of simulate; ports as in a packet, ICMP: src_port = identifier, dst_port = type << 8 | code. */
struct sl_simulate_request {
  struct sl_address src, dst;
  sl_u16 src_port, dst_port;
  sl_u16 interface;        /* index of the ingress interface in the snapshot */
  sl_u8 protocol;
  sl_u8 reserved;
};
struct sl_simulate_result {
  sl_u8 verdict;           /* SL_ACTION_* */
  sl_u8 reason;            /* SL_DROP_* when not allowed */
  sl_u16 to_interface;     /* index; 0xffff: none */
  sl_u32 rule_id, nat_source_id, nat_destination_id;
  struct sl_address nat_src, nat_dst, next_hop;
  sl_u16 nat_src_port_lo, nat_src_port_hi; /* the pool's range; equal when the port is kept */
  sl_u16 nat_dst_port;
  sl_u16 from_zone, to_zone;
  sl_u8 host;              /* 1: addressed to the appliance itself, goes to the host's stack */
  sl_u8 reserved[5];
};

/* A rule's hits since the engine started. */
struct sl_rule_hits { sl_u32 rule_id; sl_u32 reserved; sl_u64 sessions; };

/* Latency of batches, in counters: bucket n counts those of at most 2^n ns that n - 1 does not; the last one all longer ones, too. */
#define SL_LATENCY_BUCKETS 32

/* Ports of an outside address of NAT, a protocol (as in `nat_ports`). What is left of total is reserved: local sockets, published ports. */
struct sl_nat_pool_record {
  struct sl_address address;
  sl_u32 used[SL_NAT_PROTOCOLS];    /* of mappings */
  sl_u32 resting[SL_NAT_PROTOCOLS]; /* released, not to be used again yet */
  sl_u32 free[SL_NAT_PROTOCOLS];
  sl_u32 total[SL_NAT_PROTOCOLS];
};

/* Rings of the socket of a port's queue: entries that wait in each for the side that takes them. */
struct sl_ring_record {
  sl_u16 port_slot, queue;
  sl_u32 entries;          /* that each ring has */
  sl_u32 rx, fill, tx, completion;
};

/* Frames that the engine itself received and sent on an interface, Ethernet header included; what the program forwards is not in it. */
struct sl_interface_record {
  sl_u32 interface;        /* id */
  sl_u32 reserved;
  sl_u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
};

/* A neighbour the engine knows. */
struct sl_neighbour_record {
  struct sl_address address;
  sl_u32 interface;        /* id */
  sl_u8 mac[6];
  sl_u8 resolved;
  sl_u8 reserved;
  sl_u32 waiting;          /* packets held */
};

/* ---- WireGuard: between the engine's workers and the handshakes in TypeScript -------------------------------------- */

/* An outer address; all zero: unknown. */
struct sl_wireguard_endpoint {
  struct sl_address address, local; /* local: our address at which the peer's last message came; zero: by route */
  sl_u16 port;
  sl_u16 reserved[3];
};

/* What a handshake gave. Wiped from the buffer when it was taken. */
struct sl_wireguard_keypair {
  sl_u32 peer_id;
  sl_u32 local_index;      /* the index that the peer sends; from wireguardIndex() */
  sl_u32 remote_index;     /* the index that we send */
  sl_u8 initiator;         /* 1: we initiated: current at once; 0: current when its first message came */
  sl_u8 reserved[3];
  sl_u64 created_ns;       /* CLOCK_MONOTONIC */
  sl_u8 send_key[32], receive_key[32];
};

/* What happened, for TypeScript; the next one stands record_bytes behind. */
struct sl_wireguard_event_record {
  sl_u32 record_bytes;     /* header, message, padding to 8 */
  sl_u32 peer_id;          /* 0 with MESSAGE */
  sl_u32 interface;        /* id */
  sl_u16 message_bytes;
  sl_u8 event;             /* SL_WIREGUARD_* */
  sl_u8 key;               /* MESSAGE: which of the interface's static keys its mac1 is for, 0 or 1; 0xff: not looked at (type 3) */
  sl_u64 time_ns;          /* CLOCK_MONOTONIC */
  struct sl_wireguard_endpoint from; /* of a message; the new one with ROAMED */
};

/* A static key of an interface, for the gate before handshakes: hash("mac1----" || public key), and hash("cookie--" || public key). */
struct sl_wireguard_gate_key { sl_u8 mac1_key[32], cookie_key[32]; };

/* A peer, as the workers see it. Times: CLOCK_MONOTONIC in ns, 0: never. Data: transport messages with a packet inside. */
struct sl_wireguard_peer_record {
  sl_u32 id;
  sl_u32 interface;        /* id */
  struct sl_wireguard_endpoint endpoint;
  sl_u64 last_sent_ns, last_received_ns;           /* any authenticated message, keepalives included */
  sl_u64 last_data_sent_ns, last_data_received_ns;
  sl_u64 current_created_ns;  /* 0: no session */
  sl_u64 current_sent;        /* messages sent with the current session's key */
  sl_u64 tx_packets, tx_bytes, rx_packets, rx_bytes; /* UDP payload bytes, as `wg show` counts */
  sl_u32 waiting;          /* packets held for a session */
  sl_u8 current_initiator; /* we initiated the current session */
  sl_u8 has_next;          /* a session that we answered waits for its first message */
  sl_u8 reserved[2];
};

#endif
