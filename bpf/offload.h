/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * offload.h: packets of sessions that the engine has offloaded, forwarded here: the same packet in, the same packet out as
 * in native/forward.cc, without leaving the driver.
 *
 * The way of a packet, and of this file:
 *   1 read       TCP, UDP or ICMP echo right behind an IP header without options, whole, TTL above 1
 *   2 find       recent flows, or hash and bucket; the session; its key, incarnation, generation, state, ingress interface
 *   3 judge      TCP: no SYN, FIN, RST; inside the window. Egress: next hop resolved, link up, MTU not exceeded
 *   4 forward    redirect, rewrite addresses, ports, TTL and checksums, Ethernet header, counters and time of the session
 * Whatever does not pass a step goes on to steer_frame(), untouched: the engine judges it. Sessions may end while we read:
 * `offload` is taken off first, and memory that is used anew has another incarnation, so both are looked at once more before
 * anything is written to the packet. What we write to the session then (counters, time) may reach a successor; it means nothing there.
 * Two processors may count for one direction at a time (the engine beside us, or after a queue moved): a count may be lost.
 *
 * This is the path whose nanoseconds count: docs/internals/offload.md says what they are spent on, bench/native/offload_cost.cc
 * measures them. Hence each family and each direction has its own copy (constants, inlined), what is needed again is read
 * again instead of kept (BPF has ten registers, and a helper's call voids six), and failures leave by one cold call.
 */
#ifndef SLUICE_BPF_OFFLOAD_H
#define SLUICE_BPF_OFFLOAD_H

#include "flow_hash.h"
#include "maps.h"
#include "parse.h"

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define NO_REFERENCE 0xffffffffu
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define MAPPED_PREFIX 0xffff0000ull /* the low half of word 1 and 3 of an IPv4 flow key */
#define MAC_MASK 0xffffffffffffull
#define TTL_DELTA 0xfffe            /* RFC 1624 delta of a word whose low byte (in memory order: the first) falls by one */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define ICMP_ECHO 8
#define ICMP_ECHO_REPLY 0
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129

struct l4_header { /* of TCP as far as it is tracked; UDP and ICMP have the first eight bytes of it */
	__be16 first, second;     /* ports; ICMP: type and code, checksum */
	union {
		__be32 sequence;
		struct { __be16 length, udp_check; };
		struct { __be16 identifier, icmp_sequence; };
	};
	__be32 acknowledgement;
	__u8 data_offset, flags;
	__be16 window;
	__u16 tcp_check;
};

/* What the headers say. The functions below have `is_ipv6` as a constant: each family gets code of its own. */
struct offload_packet {
	__u32 l3_bytes;  /* of the IP packet */
	__u32 l4_bytes;  /* of what is behind the IP header */
	__u32 protocol;
	__u16 check;     /* of TCP or UDP */
	__u64 ports;     /* the last word of the flow key */
};

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * Does a sum of 16-bit words (of any number, not all zero) fold to 0xffff, is it a multiple of 65535? It is if its product
 * with the inverse of 65535 modulo 2^64 is small (Hacker's Delight, 10-17: exact division).
 */
static __always_inline int is_zero_sum(__u64 sum)
{
	return sum * 0xfffefffefffeffffull <= 0x0001000100010001ull;
}

/* Of two 16-bit numbers. */
static __always_inline __u16 fold_once(__u32 sum)
{
	return sum + (sum >> 16);
}

/* RFC 1624. delta: below 2^16; of two deltas together, fold it first. */
static __always_inline __u16 apply_delta(__u16 check, __u32 delta)
{
	__u32 sum = (__u16)~check + delta;

	return ~(sum + (sum >> 16));
}

/* The verifier forgets across branches that a segment's header was found to be inside the frame. */
#define HOLDS_TCP(l4, data_end) ((void *)(l4) + TCP_BYTES_MIN <= (data_end))

/* What no session takes (steer.bpf.c). */
static __noinline int steer_frame(struct xdp_md *ctx);

/* ---- 1. read ------------------------------------------------------------------------------------------------------ */

static __always_inline int read_ipv4(const struct iphdr *ip, __u32 room, struct offload_packet *p)
{
	const __u32 *raw = (const void *)ip;

	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IPV4_FRAGMENT_MASK) || ip->ttl <= 1)
		return 0;
	if (!is_zero_sum((__u64)raw[0] + raw[1] + raw[2] + raw[3] + raw[4]))
		return 0;
	p->l3_bytes = bpf_ntohs(ip->tot_len);
	p->l4_bytes = p->l3_bytes - sizeof(*ip);
	p->protocol = ip->protocol;
	return p->l3_bytes <= room && p->l3_bytes >= sizeof(*ip);
}

static __always_inline int read_ipv6(const struct ipv6hdr *ip, __u32 room, struct offload_packet *p)
{
	const __u64 *addresses = (const void *)&ip->saddr;

	if (ip->version != 6 || ip->hop_limit <= 1)
		return 0;
	p->l4_bytes = bpf_ntohs(ip->payload_len);
	p->l3_bytes = p->l4_bytes + sizeof(*ip);
	p->protocol = ip->nexthdr;
	/* ::ffff:a.b.c.d on the wire would pass for IPv4 */
	return p->l3_bytes <= room && addresses[0] != 0 && addresses[2] != 0;
}

/* Ports as in the key; 0 for what is not plain traffic of a session that is under way. */
static __always_inline int read_l4(const struct l4_header *l4, const void *data_end, const int is_ipv6, struct offload_packet *p)
{
	__u16 source, destination;

	if (p->l4_bytes < TRANSPORT_BYTES)
		return 0;
	if (p->protocol == IPPROTO_UDP) {
		__u32 length = bpf_ntohs(l4->length);

		if (length < TRANSPORT_BYTES || length > p->l4_bytes)
			return 0;
		source = bpf_ntohs(l4->first);
		destination = bpf_ntohs(l4->second);
		p->check = l4->udp_check;
	} else if (p->protocol == IPPROTO_TCP) {
		__u32 header;

		if (!HOLDS_TCP(l4, data_end))
			return 0;
		header = (l4->data_offset >> 4) * 4;
		if (header < TCP_BYTES_MIN || header > p->l4_bytes || (l4->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
			return 0;
		source = bpf_ntohs(l4->first);
		destination = bpf_ntohs(l4->second);
		p->check = l4->tcp_check;
	} else {
		/* Type and code as they stand in memory: type in the low byte. */
		if (is_ipv6 ? p->protocol != IPPROTO_ICMPV6 || (l4->first != ICMPV6_ECHO && l4->first != ICMPV6_ECHO_REPLY)
			    : p->protocol != IPPROTO_ICMP || (l4->first != ICMP_ECHO && l4->first != ICMP_ECHO_REPLY))
			return 0;
		source = destination = bpf_ntohs(l4->identifier);
		p->check = 0;
	}
	p->ports = source | (__u64)destination << 16 | (__u64)p->protocol << 32;
	return 1;
}

/* The flow key. */
static __always_inline void read_key(__u64 words[5], const void *ip, const int is_ipv6, const struct offload_packet *p)
{
	if (is_ipv6) {
		const __u64 *addresses = ip + offsetof(struct ipv6hdr, saddr);

		words[0] = addresses[0];
		words[1] = addresses[1];
		words[2] = addresses[2];
		words[3] = addresses[3];
	} else {
		const __u32 *addresses = ip + offsetof(struct iphdr, saddr);

		words[0] = words[2] = 0;
		words[1] = (__u64)addresses[0] << 32 | MAPPED_PREFIX;
		words[3] = (__u64)addresses[1] << 32 | MAPPED_PREFIX;
	}
	words[4] = p->ports;
}

static __always_inline __u64 pseudo_sum(const void *ip, const int is_ipv6, const struct offload_packet *p)
{
	const __u32 *words = ip + (is_ipv6 ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr));
	__u64 sum = (p->protocol << 8) + bpf_htons(p->l4_bytes);

	for (int i = 0; i < (is_ipv6 ? 8 : 2); i++) {
		sum += words[i];
		opaque(sum); /* or clang reads all the words first and has no registers for them */
	}
	return sum;
}

/* A checksum that only holds the pseudo-header's sum: whoever receives it here has to complete it, over the whole packet. */
static __always_inline int is_partial(const void *ip, const int is_ipv6, const struct offload_packet *p)
{
	return is_zero_sum(pseudo_sum(ip, is_ipv6, p) + (p->check ^ 0xffff)) && p->check;
}

/*
 * One right checksum in 65,536 looks like a partial one. A packet lost while the engine is away is one too many: add it up.
 * Not static: the verifier judges it once, not for each state of its caller.
 */
#define SUM_WORDS 8
__noinline int is_summed_right(struct xdp_md *ctx, __u32 at, __u32 bytes, __u64 sum)
{
	for (int i = 0; i <= SL_FRAME_BYTES_MAX / (SUM_WORDS * 8); i++) {
		__u64 words[SUM_WORDS] = {};
		__u32 n = bytes < sizeof(words) ? bytes : sizeof(words);

		if (n == 0)
			break;
		n = (n - 1) & (sizeof(words) - 1);
		opaque(n); /* the verifier sees a length of 1 to 64 */
		n++;
		if (bpf_xdp_load_bytes(ctx, at, words, n) < 0)
			return 0;
		for (int w = 0; w < SUM_WORDS; w++)
			sum += (words[w] & 0xffffffff) + (words[w] >> 32);
		at += n;
		bytes -= n;
	}
	return bytes == 0 && fold(sum) == 0xffff;
}

/* ---- 2. find ------------------------------------------------------------------------------------------------------ */

static __always_inline int has_key(const struct sl_session *session, __u32 direction, const __u64 words[5])
{
	const __u64 *key = (const void *)session + (direction & 1) * 64;

	return key[0] == words[0] && key[1] == words[1] && key[2] == words[2] && key[3] == words[3] && key[4] == words[4];
}

static __always_inline __u32 first_match(__u32 index, __u16 tag)
{
	struct sl_flow_bucket *bucket = bpf_map_lookup_elem(&flow_buckets, &index);

	if (!bucket)
		return NO_REFERENCE;
#pragma unroll
	for (int i = 0; i < SL_FLOW_BUCKET_SLOTS; i++)
		if (bucket->tag[i] == tag)
			return bucket->reference[i];
	return NO_REFERENCE;
}

/* Beyond the first reference with the right tag: the others of its bucket, and the second bucket. */
static __noinline __u32 find_elsewhere(const __u64 words[5])
{
	__u64 hash = sl_flow_hash(words, flow.header.hash_keys);
	__u32 mask = flow.header.bucket_mask;
	__u16 tag = sl_flow_tag(hash);

	for (int pass = 0; pass < 2; pass++) {
		__u32 index = pass ? sl_flow_second_bucket(hash, mask) : sl_flow_first_bucket(hash, mask);
		struct sl_flow_bucket *bucket = bpf_map_lookup_elem(&flow_buckets, &index);

		if (!bucket)
			return NO_REFERENCE;
		for (int i = 0; i < SL_FLOW_BUCKET_SLOTS; i++) {
			__u32 reference, at;
			struct sl_session *session;

			if (bucket->tag[i] != tag)
				continue;
			reference = bucket->reference[i];
			at = reference >> 1;
			session = bpf_map_lookup_elem(&sessions, &at);
			if (session && has_key(session, reference, words))
				return reference;
		}
		if (!bucket->overflow)
			return NO_REFERENCE;
	}
	return NO_REFERENCE;
}

/* A hash that costs little and need not be good: flows that have one place in `recent` slow each other a little. */
static __always_inline __u64 quick_hash(const void *ip, const int is_ipv6, __u64 ports, const __u64 keys[2])
{
	__u64 key = keys[0] | 1;

	if (is_ipv6) {
		const __u64 *addresses = ip + offsetof(struct ipv6hdr, saddr);

		/* The last bytes of addresses differ most: multiplied, low bits reach all that are above them. */
		return (addresses[0] + bpf_be64_to_cpu(addresses[1]) + ports) * key + (addresses[2] + bpf_be64_to_cpu(addresses[3])) * (keys[1] | 1);
	}
	return (*(const __u64 *)(ip + offsetof(struct iphdr, saddr)) + ports) * key;
}

/*
 * An entry of flow.recent: sixteen bits of the flow's quick hash, the index of its next hop, its reference. The buckets of a
 * thousand flows lie on a thousand pages, which no TLB holds, and their hash takes longer. What an entry says is compared
 * with the session.
 */
static __always_inline __u64 recent_entry(__u64 hash, const struct sl_session *s, __u32 reference)
{
	return hash >> 32 << 48 | (__u64)(s->adjacency[reference & 1] & 0xffff) << 32 | reference;
}

/*
 * The session of a key, its direction, and its incarnation as it was before the key was compared. *next_hop: the index of
 * its next hop, most likely, known before the session is read.
 */
static __always_inline struct sl_session *find(const void *ip, const int is_ipv6, const struct offload_packet *p, __u32 *direction, __u32 *incarnation, __u32 *next_hop)
{
	__u64 words[5], hash = quick_hash(ip, is_ipv6, p->ports, flow.header.hash_keys), recent, *entry;
	struct sl_session *session;
	__u32 reference, at;

	entry = &flow.recent[hash >> (64 - SL_RECENT_FLOWS_BITS)];
	recent = READ_ONCE(*entry);
	if (unlikely((recent ^ hash << 16) >> 48)) {
		__u64 whole;

		read_key(words, ip, is_ipv6, p);
		whole = sl_flow_hash(words, flow.header.hash_keys);
		recent = first_match(sl_flow_first_bucket(whole, flow.header.bucket_mask), sl_flow_tag(whole));
	}
	reference = recent;
	at = reference >> 1;
	session = bpf_map_lookup_elem(&sessions, &at);
	read_key(words, ip, is_ipv6, p); /* once more, instead of keeping it */
	if (likely(session))
		*incarnation = READ_ONCE(session->incarnation);
	if (unlikely(!session || !has_key(session, reference, words))) {
		__u64 again[5]; /* of its own: `words` stay in registers */

		read_key(again, ip, is_ipv6, p);
		reference = find_elsewhere(again);
		at = reference >> 1;
		session = bpf_map_lookup_elem(&sessions, &at);
		if (!session)
			return 0;
		*incarnation = READ_ONCE(session->incarnation);
		if (!has_key(session, reference, again))
			return 0;
	}
	*direction = reference & 1;
	/* The processor takes the guess for true and asks for the next hop while it waits for the session. */
	*next_hop = recent >> 32 & 0xffff;
	opaque(*next_hop);
	if (unlikely(*next_hop != (session->adjacency[reference & 1] & 0xffff) || (__u32)recent != reference || (recent ^ hash << 16) >> 48)) {
		/* Not each time: all processors share the table, and more flows than it holds would have them fight for its lines. */
		if (!(session->packets[reference & 1] % 8))
			*(volatile __u64 *)entry = recent_entry(hash, session, reference);
		*next_hop = session->adjacency[reference & 1] & 0xffff;
		opaque(*next_hop);
	}
	return session;
}

/* ---- 3. judge ------------------------------------------------------------------------------------------------------ */

/* The window conditions of native/flow/tcp.cc, for a session both ends of which have acknowledged something. */
static __always_inline int tcp_pass(struct sl_session *s, __u32 d, const struct l4_header *l4, const void *data_end, __u32 l4_bytes)
{

	if (!HOLDS_TCP(l4, data_end))
		return 0;

	const __u32 r = d ^ 1;
	const __u32 sequence = bpf_ntohl(l4->sequence), acknowledgement = bpf_ntohl(l4->acknowledgement);
	const __u32 end = sequence + l4_bytes - (l4->data_offset >> 4) * 4;
	const __u32 scale = d ? s->tcp_scale >> 4 : s->tcp_scale & 15;
	__u32 window = bpf_ntohs(l4->window), window_max = 1u << (s->tcp_window_log2[d] & 31), back = window_max, edge;

	if (s->tcp_bits & (SL_TCP_FIN_SEEN * 3) || (s->tcp_bits & (SL_TCP_ACK_SEEN * 3)) != SL_TCP_ACK_SEEN * 3)
		return 0;
	if ((s->tcp_bits & (SL_TCP_SCALE_SEEN * 3)) == SL_TCP_SCALE_SEEN * 3)
		window <<= scale;
	/* A window larger than any before: the engine notes it. */
	if (window > window_max)
		return 0;
	if (back < SL_TCP_ACK_WINDOW_MIN)
		back = SL_TCP_ACK_WINDOW_MIN;
	if ((__s32)(sequence - s->tcp_edge[r]) > 0 || (__s32)(end - (s->tcp_end[d] - (1u << (s->tcp_window_log2[r] & 31)) - 1)) < 0)
		return 0;
	if ((__s32)(acknowledgement - s->tcp_end[r]) > 0 || (__s32)(acknowledgement - (s->tcp_end[r] - back)) < 0)
		return 0;
	if ((__s32)(end - s->tcp_end[d]) > 0)
		s->tcp_end[d] = end;
	if ((__s32)(acknowledgement - s->tcp_acked[d]) > 0)
		s->tcp_acked[d] = acknowledgement;
	edge = acknowledgement + window;
	if ((__s32)(edge - s->tcp_edge[d]) > 0)
		s->tcp_edge[d] = edge;
	if ((s->tcp_flags_seen[d] | l4->flags) != s->tcp_flags_seen[d])
		s->tcp_flags_seen[d] |= l4->flags;
	return 1;
}

/* Does the direction of the session still mean what it meant when it was offloaded? */
static __always_inline int is_current(const struct sl_session *s, __u32 d, __u32 interface_slot, const int is_ipv6, const struct offload_packet *p, const struct l4_header *l4)
{
	__u32 generation = READ_ONCE(s->generation);

	if (READ_ONCE(s->offload) != SL_OFFLOAD_ON || s->interface_slot[d & 1] != interface_slot)
		return 0;
	if (generation != READ_ONCE(flow.header.generations[0]) &&
	    (generation != READ_ONCE(flow.header.generations[1]) ||
	     (__u32)(bpf_ktime_get_coarse_ns() >> SL_TICK_SHIFT) - flow.header.committed_ticks > SL_GRACE_TICKS))
		return 0;
	if (s->state != SL_STATE_ESTABLISHED && (s->state != SL_STATE_NEW || d != 0 || p->protocol == IPPROTO_TCP))
		return 0;
	if (p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_TCP)
		return 1;
	/* An echo request of the originator and its reply; the other way round it is another conversation. */
	return l4->first == (is_ipv6 ? d ? ICMPV6_ECHO_REPLY : ICMPV6_ECHO : d ? ICMP_ECHO_REPLY : ICMP_ECHO);
}

/* ---- 4. forward ----------------------------------------------------------------------------------------------------- */

/* The engine's time. A jiffy is shorter than a tick: the clock is asked once a jiffy, which spares each packet the call. */
static __always_inline __u32 now_ticks(void)
{
	__u32 jiffy = bpf_jiffies64();
	__u64 clock = READ_ONCE(flow.header.clock);

	if ((__u32)clock != jiffy) {
		clock = (bpf_ktime_get_coarse_ns() >> SL_TICK_SHIFT << 32) | jiffy;
		*(volatile __u64 *)&flow.header.clock = clock;
	}
	return clock >> 32;
}

static __always_inline void rewrite_l4(struct l4_header *l4, const void *data_end, __u32 protocol, __u16 source, __u16 destination, __u16 delta)
{
	if (protocol == IPPROTO_UDP) {
		l4->first = bpf_htons(source);
		l4->second = bpf_htons(destination);
		if (l4->udp_check) {
			__u16 check = apply_delta(l4->udp_check, delta);

			l4->udp_check = check ? check : 0xffff;
		}
	} else if (protocol == IPPROTO_TCP) {
		if (!HOLDS_TCP(l4, data_end))
			return;
		l4->first = bpf_htons(source);
		l4->second = bpf_htons(destination);
		l4->tcp_check = apply_delta(l4->tcp_check, delta);
	} else {
		l4->identifier = bpf_htons(source);
		l4->second = apply_delta(l4->second, delta);
	}
}

/* Both link addresses: six bytes each, in memory order. */
static __always_inline void set_macs(void *frame, __u64 to, __u64 from)
{
	*(__u64 *)frame = (to & MAC_MASK) | from << 48;
	*(__u32 *)(frame + 8) = from >> 16;
}

/* The frame as its egress wants it, where that is not as it came: with that interface's tag, or without one. */
static __noinline int set_ethernet(struct xdp_md *ctx, __u32 l3, __be16 ethertype, const struct sl_interface_state *out, __u64 mac)
{
	__u32 wanted = out->vlan_id == SL_VLAN_NONE ? sizeof(struct ethhdr) : sizeof(struct ethhdr) + sizeof(struct vlan_header);
	struct vlan_header *tag;
	void *frame;

	if (wanted != l3 && bpf_xdp_adjust_head(ctx, (int)l3 - (int)wanted))
		return 0;
	frame = (void *)(long)ctx->data;
	opaque(frame); /* or clang copies the pointer in 32 bits, which the verifier refuses */
	tag = frame + sizeof(struct ethhdr);
	if ((void *)(tag + 1) > (void *)(long)ctx->data_end)
		return 0;
	set_macs(frame, mac, out->mac);
	if (out->vlan_id == SL_VLAN_NONE) {
		*(__be16 *)(frame + 12) = ethertype;
	} else {
		*(__be16 *)(frame + 12) = bpf_htons(ETH_P_8021Q);
		tag->tci = bpf_htons(out->vlan_id);
		tag->ethertype = ethertype;
	}
	return 1;
}

/* Slot of the interface that takes the frame; -1: none. */
static __always_inline int interface_of(const struct sl_steer_port *port, __u16 vlan_id)
{
	if (vlan_id == SL_VLAN_NONE)
		return port->flags & SL_STEER_PORT_UNTAGGED ? port->interface : -1;
	{
		struct sl_steer_vlan key = { .ifindex = port->ifindex, .vlan_id = vlan_id };
		__u16 *interface = bpf_map_lookup_elem(&vlans, &key);

		return interface ? *interface : -1;
	}
}

/* A capture wants to see every packet. Without an engine nobody would: it died while one ran, and sessions go on. */
static __always_inline int has_engine(struct xdp_md *ctx, const struct sl_steer_port *port)
{
	__u32 queue = ctx->rx_queue_index, socket = port->slot * SL_QUEUES_MAX + queue;

	return queue < SL_QUEUES_MAX && bpf_map_lookup_elem(&xsks, &socket);
}

/* Whose the packet is: what finish() goes on with. */
struct found {
	struct sl_session *s;
	__u32 incarnation, next_hop, interface_slot, port_slot, l3;
};

/* Judges and forwards a packet of direction d. Each direction has code of its own, too: no place in the session is reckoned. */
static __always_inline int finish(struct xdp_md *ctx, void *data, void *ip, struct l4_header *l4, void *data_end, const struct found *f, const struct offload_packet *p, const int is_ipv6, const int d)
{
	struct sl_session *s = f->s;
	const struct sl_flow_key *to = d ? &s->key0 : &s->key1; /* turned around: its source is our destination */
	__u32 at = f->port_slot, ticks;
	const struct sl_interface_state *out;
	struct counter_row *row;
	struct sl_adjacency *a;
	__u64 mac;

	if (!is_current(s, d, f->interface_slot, is_ipv6, p, l4))
		return steer_frame(ctx);
	a = &flow.adjacencies[f->next_hop & (SL_ADJACENCIES_MAX - 1)];
	if (a->incarnation != s->adjacency[d] >> 16)
		return steer_frame(ctx);
	out = &flow.interfaces[a->interface_slot & (SL_INTERFACES_MAX - 1)];
	if (!out->up || !out->offload || p->l3_bytes > out->mtu_bytes || bpf_redirect_map(&tx_ports, out->port_slot, 0) != XDP_REDIRECT)
		return steer_frame(ctx);
	row = bpf_map_lookup_elem(&steer_counters, &at);
	mac = READ_ONCE(a->mac);
	if (!row || !(mac & SL_ADJACENCY_RESOLVED) || READ_ONCE(s->incarnation) != f->incarnation || READ_ONCE(s->offload) != SL_OFFLOAD_ON)
		return steer_frame(ctx);
	if (p->protocol == IPPROTO_TCP && !tcp_pass(s, d, l4, data_end, p->l4_bytes))
		return steer_frame(ctx);

	if (is_ipv6) {
		__u64 *addresses = ip + offsetof(struct ipv6hdr, saddr);
		const __u64 *destination = (const void *)&to->src, *source = (const void *)&to->dst;

		((struct ipv6hdr *)ip)->hop_limit--;
		addresses[0] = source[0];
		addresses[1] = source[1];
		addresses[2] = destination[0];
		addresses[3] = destination[1];
	} else {
		struct iphdr *header = ip;

		header->ttl--;
		header->check = apply_delta(header->check, fold_once(s->l3_delta[d] + TTL_DELTA));
		header->saddr = *(const __u32 *)&to->dst.bytes[12];
		header->daddr = *(const __u32 *)&to->src.bytes[12];
	}
	rewrite_l4(l4, data_end, p->protocol, to->dst_port, to->src_port, s->l4_delta[d]);

	s->packets[d]++;
	s->bytes[d] += p->l3_bytes;
	ticks = now_ticks();
	if (unlikely(s->last_seen_ticks != ticks))
		s->last_seen_ticks = ticks;
	if (unlikely(a->used_ticks != ticks))
		a->used_ticks = ticks;
	row->value[SL_STEER_BASE + SL_STEER_OFFLOADED]++;
	row->value[SL_STEER_BASE + SL_STEER_OFFLOADED_BYTES] += p->l3_bytes;
	if (likely(f->l3 == sizeof(struct ethhdr) && out->vlan_id == SL_VLAN_NONE)) {
		set_macs(data, mac, out->mac);
	} else if (!set_ethernet(ctx, f->l3, is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP), out, mac)) {
		row->value[SL_DROP_TX_RING_FULL]++;
		return XDP_DROP;
	}
	return XDP_REDIRECT;
}

/* Sends the packet on, or leaves it untouched to steer_frame(). Returns the program's result. */
static __always_inline int forward(struct xdp_md *ctx, const struct sl_steer_port *port, void *data, void *data_end, struct found *f, const int is_ipv6)
{
	void *ip = data + f->l3;
	struct l4_header *l4 = ip + (is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u64 room = data_end - ip;
	struct offload_packet p;
	__u32 direction;

	opaque(room); /* or clang subtracts from pointers in 32 bits, which the verifier refuses */
	if ((void *)l4 + TRANSPORT_BYTES > data_end || !(is_ipv6 ? read_ipv6(ip, room, &p) : read_ipv4(ip, room, &p)) || !read_l4(l4, data_end, is_ipv6, &p))
		return steer_frame(ctx);
	if (port->flags & SL_STEER_PORT_PARTIAL && unlikely(is_partial(ip, is_ipv6, &p)) &&
	    !is_summed_right(ctx, f->l3 + p.l3_bytes - p.l4_bytes, p.l4_bytes, pseudo_sum(ip, is_ipv6, &p)))
		return steer_frame(ctx);
	f->port_slot = port->slot;
	f->s = find(ip, is_ipv6, &p, &direction, &f->incarnation, &f->next_hop);
	if (unlikely(!f->s))
		return steer_frame(ctx);
	return direction ? finish(ctx, data, ip, l4, data_end, f, &p, is_ipv6, 1) : finish(ctx, data, ip, l4, data_end, f, &p, is_ipv6, 0);
}

/* Forwards a frame of an offloaded session; any other one goes untouched to steer_frame(). Returns the program's result. */
static __always_inline int offload(struct xdp_md *ctx, const struct sl_steer_port *port)
{
	void *data, *data_end;
	__u16 ethertype, vlan_id;
	struct found f;
	int interface;

	data = (void *)(long)ctx->data;
	data_end = (void *)(long)ctx->data_end;
	opaque(data);
	if (parse_ethernet(data, data_end, &ethertype, &vlan_id, &f.l3))
		return steer_frame(ctx);
	interface = interface_of(port, vlan_id);
	if (interface < 0 || (unlikely(READ_ONCE(flow.header.captures)) && has_engine(ctx, port)))
		return steer_frame(ctx);
	f.interface_slot = interface;
	/* The destination is the first six of the frame's bytes, and in the low 48 bits of `mac`. */
	if ((*(__u64 *)data ^ flow.interfaces[interface & (SL_INTERFACES_MAX - 1)].mac) << 16)
		return steer_frame(ctx);
	if (ethertype == ETH_P_IP)
		return forward(ctx, port, data, data_end, &f, 0);
	if (ethertype == ETH_P_IPV6)
		return forward(ctx, port, data, data_end, &f, 1);
	return steer_frame(ctx);
}

#endif
