/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * offload.h: packets of sessions that the engine has offloaded, forwarded here: the same packet in, the same packet out as
 * in native/pipeline.cc, without leaving the driver.
 *
 * The way of a packet, and of this file:
 *   1 read       TCP, UDP or ICMP echo right behind an IP header without options, whole, TTL above 1
 *   2 find       hash, bucket, session; its key, incarnation, generation, state, ingress interface
 *   3 judge      TCP: no SYN, FIN, RST; inside the window. Egress: next hop resolved, link up, MTU not exceeded
 *   4 forward    redirect, rewrite addresses, ports, TTL and checksums, Ethernet header, counters and time of the session
 * Whatever does not pass a step returns 0, untouched: the engine judges it. Sessions may end while we read: `offload` is
 * taken off first, and memory that is used anew has another incarnation, so both are looked at once more before anything
 * is written to the packet. What we write to the session then (counters, time) may reach a successor; it means nothing there.
 * Two processors may count for one direction at a time (the engine beside us, or after a queue moved): a count may be lost.
 */
#ifndef SLUICE_BPF_OFFLOAD_H
#define SLUICE_BPF_OFFLOAD_H

#include "flow_hash.h"
#include "maps.h"
#include "parse.h"

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define NO_REFERENCE 0xffffffffu
#define opaque(x) __asm__ volatile("" : "+r"(x))
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

struct offload_packet {
	__u64 words[5];  /* the flow key */
	__u32 l3_bytes;  /* of the IP packet */
	__u32 l4_bytes;  /* of what is behind the IP header */
	__u64 pseudo;    /* sum of the addresses, not folded, for partial checksums */
	__u8 protocol;
	__u8 is_ipv6;
};

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 apply_delta(__u16 check, __u32 delta)
{
	__u32 sum = (__u16)~check + delta;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The verifier forgets across branches that a segment's header was found to be inside the frame. */
#define HOLDS_TCP(l4, data_end) ((void *)(l4) + TCP_BYTES_MIN <= (data_end))

/* ---- 1. read ------------------------------------------------------------------------------------------------------ */

static __always_inline int read_ipv4(const struct iphdr *ip, __u32 room, struct offload_packet *p)
{
	const __u32 *raw = (const void *)ip;
	__u64 addresses = (__u64)raw[3] + raw[4];

	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IPV4_FRAGMENT_MASK) || ip->ttl <= 1)
		return 0;
	if (fold(addresses + raw[0] + raw[1] + raw[2]) != 0xffff)
		return 0;
	p->l3_bytes = bpf_ntohs(ip->tot_len);
	if (p->l3_bytes > room || p->l3_bytes < sizeof(*ip))
		return 0;
	p->l4_bytes = p->l3_bytes - sizeof(*ip);
	p->protocol = ip->protocol;
	p->is_ipv6 = 0;
	p->pseudo = addresses;
	p->words[0] = 0;
	p->words[1] = (__u64)raw[3] << 32 | MAPPED_PREFIX;
	p->words[2] = 0;
	p->words[3] = (__u64)raw[4] << 32 | MAPPED_PREFIX;
	return 1;
}

static __always_inline int read_ipv6(const struct ipv6hdr *ip, __u32 room, struct offload_packet *p)
{
	const __u64 *addresses = (const void *)&ip->saddr;

	if (ip->version != 6 || ip->hop_limit <= 1)
		return 0;
	p->l4_bytes = bpf_ntohs(ip->payload_len);
	p->l3_bytes = p->l4_bytes + sizeof(*ip);
	if (p->l3_bytes > room)
		return 0;
	p->protocol = ip->nexthdr == IPPROTO_ICMP ? 0 : ip->nexthdr;
	p->is_ipv6 = 1;
	p->pseudo = 0;
	for (int i = 0; i < 4; i++) {
		p->words[i] = addresses[i];
		p->pseudo += (addresses[i] & 0xffffffff) + (addresses[i] >> 32);
	}
	/* ::ffff:a.b.c.d on the wire would pass for IPv4 */
	return p->words[0] != 0 && p->words[2] != 0;
}

/* Ports into the key; 0 for what is not plain traffic of a session that is under way. */
static __always_inline int read_l4(const struct l4_header *l4, const void *data_end, struct offload_packet *p)
{
	__u16 source, destination;

	if (p->protocol == IPPROTO_UDP) {
		__u32 length = bpf_ntohs(l4->length);

		if (length < TRANSPORT_BYTES || length > p->l4_bytes)
			return 0;
		source = bpf_ntohs(l4->first);
		destination = bpf_ntohs(l4->second);
	} else if (p->protocol == IPPROTO_TCP) {
		__u32 header;

		if (!HOLDS_TCP(l4, data_end))
			return 0;
		header = (l4->data_offset >> 4) * 4;
		if (header < TCP_BYTES_MIN || header > p->l4_bytes || (l4->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
			return 0;
		source = bpf_ntohs(l4->first);
		destination = bpf_ntohs(l4->second);
	} else {
		/* Type and code as they stand in memory: type in the low byte. */
		if (p->is_ipv6 ? p->protocol != IPPROTO_ICMPV6 || (l4->first != ICMPV6_ECHO && l4->first != ICMPV6_ECHO_REPLY)
			       : p->protocol != IPPROTO_ICMP || (l4->first != ICMP_ECHO && l4->first != ICMP_ECHO_REPLY))
			return 0;
		source = destination = bpf_ntohs(l4->identifier);
	}
	p->words[4] = source | (__u64)destination << 16 | (__u64)p->protocol << 32;
	return 1;
}

/* A checksum that only holds the pseudo-header's sum: whoever receives it here has to complete it, over the whole packet. */
static __always_inline int is_partial(const struct l4_header *l4, const void *data_end, const struct offload_packet *p)
{
	__u16 check;

	if (p->protocol == IPPROTO_UDP)
		check = l4->udp_check;
	else if (p->protocol == IPPROTO_TCP && HOLDS_TCP(l4, data_end))
		check = l4->tcp_check;
	else
		return 0;
	return check == (__u16)fold(p->pseudo + bpf_htons(p->protocol) + bpf_htons(p->l4_bytes));
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

	return ((key[0] ^ words[0]) | (key[1] ^ words[1]) | (key[2] ^ words[2]) | (key[3] ^ words[3]) | (key[4] ^ words[4])) == 0;
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
static __noinline __u32 find_elsewhere(const __u64 words[5], __u64 hash, __u32 mask)
{
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

/* The session of a key, its direction, and its incarnation as it was before the key was compared. */
static __always_inline struct sl_session *find(const struct sl_flow_header *header, const __u64 words[5], __u32 *direction, __u32 *incarnation)
{
	__u64 hash = sl_flow_hash(words, header->hash_keys), recent;
	__u32 mask = header->bucket_mask, zero = 0, way, reference, at;
	struct recent_flows *cache = bpf_map_lookup_elem(&recent_flows, &zero);
	struct sl_session *session;

	if (!cache)
		return 0;
	way = (hash >> 20) & (RECENT_FLOWS - 2);
	recent = cache->entry[way];
	if ((recent ^ hash) >> 32)
		recent = cache->entry[++way];
	if ((recent ^ hash) >> 32)
		reference = first_match(sl_flow_first_bucket(hash, mask), sl_flow_tag(hash));
	else
		reference = recent;
	at = reference >> 1;
	session = bpf_map_lookup_elem(&sessions, &at);
	if (session)
		*incarnation = READ_ONCE(session->incarnation);
	if (!session || !has_key(session, reference, words)) {
		reference = find_elsewhere(words, hash, mask);
		at = reference >> 1;
		session = bpf_map_lookup_elem(&sessions, &at);
		if (!session)
			return 0;
		*incarnation = READ_ONCE(session->incarnation);
		if (!has_key(session, reference, words))
			return 0;
	}
	/* The other way keeps the flow that was here before. */
	if ((__u32)recent != reference || (recent ^ hash) >> 32)
		cache->entry[(way ^ (reference & 1)) & (RECENT_FLOWS - 1)] = (hash >> 32 << 32) | reference;
	*direction = reference & 1;
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
static __always_inline int is_current(const struct sl_flow_header *header, const struct sl_session *s, __u32 d, __u32 interface_slot, const struct offload_packet *p, const struct l4_header *l4)
{
	__u32 generation = READ_ONCE(s->generation);

	if (READ_ONCE(s->offload) != SL_OFFLOAD_ON || s->interface_slot[d] != interface_slot)
		return 0;
	if (generation != READ_ONCE(header->generations[0]) &&
	    (generation != READ_ONCE(header->generations[1]) ||
	     (__u32)(bpf_ktime_get_coarse_ns() >> SL_TICK_SHIFT) - header->committed_ticks > SL_GRACE_TICKS))
		return 0;
	if (s->state != SL_STATE_ESTABLISHED && (s->state != SL_STATE_NEW || d != 0 || p->protocol == IPPROTO_TCP))
		return 0;
	/* An echo request of the originator and its reply; the other way round it is another conversation. */
	if (p->protocol == IPPROTO_ICMP)
		return l4->first == (d ? ICMP_ECHO_REPLY : ICMP_ECHO);
	if (p->protocol == IPPROTO_ICMPV6)
		return l4->first == (d ? ICMPV6_ECHO_REPLY : ICMPV6_ECHO);
	return 1;
}

/* ---- 4. forward ----------------------------------------------------------------------------------------------------- */

static __always_inline void rewrite_l4(struct l4_header *l4, const void *data_end, const struct offload_packet *p, __u16 source, __u16 destination, __u16 delta)
{
	if (p->protocol == IPPROTO_TCP) {
		if (!HOLDS_TCP(l4, data_end))
			return;
		l4->first = bpf_htons(source);
		l4->second = bpf_htons(destination);
		l4->tcp_check = apply_delta(l4->tcp_check, delta);
	} else if (p->protocol == IPPROTO_UDP) {
		l4->first = bpf_htons(source);
		l4->second = bpf_htons(destination);
		if (l4->udp_check) {
			__u16 check = apply_delta(l4->udp_check, delta);

			l4->udp_check = check ? check : 0xffff;
		}
	} else {
		l4->identifier = bpf_htons(source);
		l4->second = apply_delta(l4->second, delta);
	}
}

/* The frame as its egress wants it: with that interface's tag, or without one. Pointers into it are void afterwards. */
static __always_inline int set_ethernet(struct xdp_md *ctx, __u32 l3, __u16 ethertype, const struct sl_interface_state *out, __u64 mac)
{
	__u32 wanted = out->vlan_id == SL_VLAN_NONE ? sizeof(struct ethhdr) : sizeof(struct ethhdr) + sizeof(struct vlan_header);
	__u64 own = out->mac;
	struct vlan_header *tag;
	__u8 *frame;

	if (wanted != l3 && bpf_xdp_adjust_head(ctx, (int)l3 - (int)wanted))
		return 0;
	frame = (void *)(long)ctx->data;
	tag = (void *)(frame + sizeof(struct ethhdr));
	if ((void *)(tag + 1) > (void *)(long)ctx->data_end)
		return 0;
	*(__u32 *)frame = mac;
	*(__u16 *)(frame + 4) = mac >> 32;
	*(__u32 *)(frame + 6) = own;
	*(__u16 *)(frame + 10) = own >> 32;
	if (out->vlan_id == SL_VLAN_NONE) {
		*(__be16 *)(frame + 12) = ethertype;
	} else {
		*(__be16 *)(frame + 12) = bpf_htons(ETH_P_8021Q);
		tag->tci = bpf_htons(out->vlan_id);
		tag->ethertype = ethertype;
	}
	return 1;
}

/* A capture wants to see every packet. Without an engine nobody would: it died while one ran, and sessions go on. */
static __always_inline int has_engine(struct xdp_md *ctx, const struct sl_steer_port *port)
{
	__u32 queue = ctx->rx_queue_index, socket = port->slot * SL_QUEUES_MAX + queue;

	return queue < SL_QUEUES_MAX && bpf_map_lookup_elem(&xsks, &socket);
}

/*
 * Forwards a frame of an offloaded session. ethertype in network order; l3: offset of the IP header, 14 or 18.
 * Returns the program's result (XDP_REDIRECT), or 0: not ours, nothing happened.
 */
static __always_inline int offload(struct xdp_md *ctx, const struct sl_steer_port *port, struct counter_row *row, __be16 ethertype, __u32 l3, __u32 interface_slot)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	__u32 zero = 0, d, at, port_slot, incarnation, ticks;
	struct sl_flow_header *header = bpf_map_lookup_elem(&flow_header, &zero);
	struct sl_interface_state *in = bpf_map_lookup_elem(&interfaces, &interface_slot), *out;
	__u64 frame_bytes = data_end - data;
	struct offload_packet p;
	struct l4_header *l4;
	struct sl_session *s;
	struct sl_adjacency *a;
	__u64 to[5], mac;
	__u16 l3_delta, l4_delta;

	opaque(frame_bytes); /* or clang subtracts from pointers in 32 bits, which the verifier refuses */
	if (!header || !in || data + sizeof(struct ethhdr) > data_end)
		return 0;
	if (READ_ONCE(header->captures) && has_engine(ctx, port))
		return 0;
	if (((*(__u32 *)data | (__u64) *(__u16 *)(data + 4) << 32) ^ in->mac) & MAC_MASK)
		return 0;
	if (ethertype == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + l3;

		l4 = (void *)(ip + 1);
		if ((void *)l4 + TRANSPORT_BYTES > data_end || !read_ipv4(ip, frame_bytes - l3, &p))
			return 0;
	} else {
		struct ipv6hdr *ip = data + l3;

		l4 = (void *)(ip + 1);
		if ((void *)l4 + TRANSPORT_BYTES > data_end || !read_ipv6(ip, frame_bytes - l3, &p))
			return 0;
	}
	if (p.l4_bytes < TRANSPORT_BYTES || !read_l4(l4, data_end, &p))
		return 0;
	if (port->flags & SL_STEER_PORT_PARTIAL && is_partial(l4, data_end, &p) &&
	    !is_summed_right(ctx, l3 + p.l3_bytes - p.l4_bytes, p.l4_bytes, p.pseudo + bpf_htons(p.protocol) + bpf_htons(p.l4_bytes)))
		return 0;

	s = find(header, p.words, &d, &incarnation);
	if (!s || !is_current(header, s, d, interface_slot, &p, l4))
		return 0;

	at = s->adjacency[d & 1];
	zero = at & 0xffff;
	a = bpf_map_lookup_elem(&adjacencies, &zero);
	if (!a || a->incarnation != at >> 16)
		return 0;
	mac = READ_ONCE(a->mac);
	zero = a->interface_slot;
	out = bpf_map_lookup_elem(&interfaces, &zero);
	if (!out || !(mac & SL_ADJACENCY_RESOLVED) || !out->up || !out->offload || p.l3_bytes > out->mtu_bytes)
		return 0;
	port_slot = out->port_slot;
	{
		const __u64 *other = (const void *)s + ((d ^ 1) & 1) * 64;

		to[0] = other[2];
		to[1] = other[3];
		to[2] = other[0];
		to[3] = other[1];
		to[4] = other[4];
	}
	l3_delta = s->l3_delta[d & 1];
	l4_delta = s->l4_delta[d & 1];
	if (READ_ONCE(s->incarnation) != incarnation || READ_ONCE(s->offload) != SL_OFFLOAD_ON)
		return 0;
	if (p.protocol == IPPROTO_TCP && !tcp_pass(s, d & 1, l4, data_end, p.l4_bytes))
		return 0;
	if (bpf_redirect_map(&tx_ports, port_slot, 0) != XDP_REDIRECT)
		return 0;

	if (p.is_ipv6) {
		struct ipv6hdr *ip = data + l3;
		__u64 *addresses = (void *)&ip->saddr;

		ip->hop_limit--;
		addresses[0] = to[0];
		addresses[1] = to[1];
		addresses[2] = to[2];
		addresses[3] = to[3];
	} else {
		struct iphdr *ip = data + l3;

		ip->ttl--;
		ip->check = apply_delta(ip->check, (__u32)l3_delta + TTL_DELTA);
		ip->saddr = to[1] >> 32;
		ip->daddr = to[3] >> 32;
	}
	rewrite_l4(l4, data_end, &p, (__u16)(to[4] >> 16), (__u16)to[4], l4_delta);

	s->packets[d & 1]++;
	s->bytes[d & 1] += p.l3_bytes;
	ticks = bpf_ktime_get_coarse_ns() >> SL_TICK_SHIFT;
	if (s->last_seen_ticks != ticks)
		s->last_seen_ticks = ticks;
	if (a->used_ticks != ticks)
		a->used_ticks = ticks;
	row->value[SL_STEER_BASE + SL_STEER_OFFLOADED]++;
	row->value[SL_STEER_BASE + SL_STEER_OFFLOADED_BYTES] += p.l3_bytes;
	return set_ethernet(ctx, l3, ethertype, out, mac) ? XDP_REDIRECT : XDP_DROP;
}

#endif
