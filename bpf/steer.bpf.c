/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * steer.bpf.c: the XDP program on each of our netdevs: which frames are the host's, which the engine's, which nobody's.
 * Loaded and fed by native/io/steer.cc; runs in softirq, once a frame; keeps no state but counters.
 *
 * The way of a frame, and of this file:
 *   1. netdev        not in `ports`: dropped
 *      sessions      a packet of an offloaded session: rewritten and sent on (offload.h); what is left begins at 1
 *   2. Ethernet      VLAN tag, or the lack of one, that no interface names: dropped; ARP: host; neither ARP nor IP: dropped
 *   3. IP header     impossible version or lengths: dropped
 *   4. destination   link-local scope: host (7); not one of ours, or the engine's alone: engine
 *   5. headers       extension headers and transport of what is addressed to us; impossible ones: dropped
 *   6. tunnels, NAT  whole datagrams to a UDP port of a tunnel, and ICMPv6's "too big" about one from there: engine; an address that
 *                    NAT shares with the host: fragments and ports in use by NAT: engine
 *   7. host          neighbour discovery from beyond the link: dropped; everything else: host
 * Engine means: the AF_XDP socket of this netdev and queue. Without one the frame is dropped: closed while the engine is away.
 */
#include "maps.h"
#include "offload.h"
#include "parse.h"

/* What becomes of a frame: a drop reason (SL_DROP_*, below SL_STEER_BASE), or one of the counters beside them. */
#define TO_ENGINE (SL_STEER_BASE + SL_STEER_TO_ENGINE)
#define TO_HOST (SL_STEER_BASE + SL_STEER_TO_HOST)

#define ICMP_TIMESTAMP_REPLY 14
#define ICMPV6_INFORMATIONAL 128 /* types below are errors, RFC 4443 section 2.1 */
#define ICMPV6_TOO_BIG 2
#define ND_ROUTER_SOLICITATION 133
#define ND_REDIRECT 137
#define ND_HOP_LIMIT 255

/* ---- 4. destination ---------------------------------------------------------------------------------------------- */

/* Destinations that never leave the link, and that host daemons listen on: DHCP, MLD, IGMP, ND, routing protocols. */
static __always_inline int is_link_scope(const struct packet *packet)
{
	const __u8 *dst = packet->dst.bytes;

	if (packet->is_ipv6)
		return (dst[0] == 0xff && dst[1] == 0x02) || (dst[0] == 0xfe && (dst[1] & 0xc0) == 0x80);
	if (dst[12] == 224 && dst[13] == 0 && dst[14] == 0)
		return 1;
	return (dst[12] & dst[13] & dst[14] & dst[15]) == 255;
}

/* An IPv6 packet to ::ffff:a.b.c.d would pass for one to a.b.c.d (RFC 4942 section 2.2); the engine refuses it. */
static __always_inline int is_mapped_ipv6(const struct packet *packet)
{
	const __u8 *dst = packet->dst.bytes;
	__u8 zeros = 0;

	for (int i = 0; i < 10; i++)
		zeros |= dst[i];
	return packet->is_ipv6 && zeros == 0 && dst[10] == 0xff && dst[11] == 0xff;
}

/* ---- 6. tunnels, NAT --------------------------------------------------------------------------------------------- */

/* Fragments are the host's, which hands a whole datagram to the socket that the engine keeps on the port. */
static __always_inline int has_engine_bit(__u16 port)
{
	__u32 key = port / 64;
	__u64 *word = bpf_map_lookup_elem(&engine_ports, &key);

	return word && (*word >> (port & 63) & 1);
}

static __always_inline int is_engine_port(const struct packet *packet)
{
	return packet->protocol == IPPROTO_UDP && !packet->is_fragment && has_engine_bit(packet->dst_port);
}

static __always_inline int is_nat_port(__u16 nat_slot, __u8 protocol, __u16 port)
{
	__u32 index = protocol == IPPROTO_TCP ? 0 : protocol == IPPROTO_UDP ? 1 : 2;
	__u32 key = (nat_slot * SL_NAT_PROTOCOLS + index) * 1024 + port / 64;
	__u64 *word = bpf_map_lookup_elem(&nat_ports, &key);

	return word && (*word >> (port & 63) & 1);
}

static __always_inline int is_icmp_error(const struct packet *packet)
{
	if (packet->is_ipv6)
		return packet->icmp_type < ICMPV6_INFORMATIONAL;
	switch (packet->icmp_type) {
	case 3:  /* destination unreachable */
	case 4:  /* source quench */
	case 5:  /* redirect */
	case 11: /* time exceeded */
	case 12: /* parameter problem */
		return 1;
	}
	return 0;
}

static __always_inline int is_icmp_reply(const struct packet *packet)
{
	if (packet->is_ipv6)
		return packet->icmp_type == ICMPV6_ECHO_REPLY;
	return packet->icmp_type == ICMP_ECHO_REPLY || packet->icmp_type == ICMP_TIMESTAMP_REPLY;
}

/* An error is NAT's when the packet it quotes left here with a port of NAT's. */
static __noinline __u32 steer_icmp_error(struct xdp_md *ctx, const struct packet *error, __u16 nat_slot)
{
	struct packet embedded = {};
	__u32 reason = parse_embedded(ctx, error, &embedded);

	if (reason)
		return reason;
	if (has_ports(&embedded) && is_nat_port(nat_slot, embedded.protocol, embedded.src_port))
		return TO_ENGINE;
	return TO_HOST;
}

/* What a router on the way says about a tunnel's message is the engine's to judge. */
static __noinline int is_about_tunnel(struct xdp_md *ctx, const struct packet *error)
{
	struct packet embedded = {};

	return !parse_embedded(ctx, error, &embedded) && has_ports(&embedded) && embedded.protocol == IPPROTO_UDP &&
	       has_engine_bit(embedded.src_port);
}

/* An unfragmented packet to an address that NAT shares with the host. */
static __always_inline __u32 steer_shared_address(struct xdp_md *ctx, const struct packet *packet, __u16 nat_slot)
{
	if (!has_ports(packet))
		return TO_HOST;
	if (is_icmp(packet)) {
		if (is_icmp_error(packet))
			return steer_icmp_error(ctx, packet, nat_slot);
		if (!is_icmp_reply(packet))
			return TO_HOST;
	}
	return is_nat_port(nat_slot, packet->protocol, packet->dst_port) ? TO_ENGINE : TO_HOST;
}

/* ---- 7. host ----------------------------------------------------------------------------------------------------- */

/* RFC 4861 section 6.1, 7.1, 8.1: a hop limit below 255 came through a router, so it is forged. */
static __always_inline __u32 steer_host(const struct packet *packet)
{
	if (packet->is_ipv6 && has_ports(packet) && is_icmp(packet) && packet->icmp_type >= ND_ROUTER_SOLICITATION &&
	    packet->icmp_type <= ND_REDIRECT && packet->hop_limit != ND_HOP_LIMIT)
		return SL_DROP_ND_HOP_LIMIT;
	return TO_HOST;
}

/* ---- 3. to 7. ---------------------------------------------------------------------------------------------------- */

static __always_inline __u32 steer_ip(struct xdp_md *ctx, struct packet *packet)
{
	struct sl_local_address *local = 0;
	__u16 nat_slot = SL_NAT_SLOT_NONE;
	__u32 verdict;

	if (packet->end > ctx->data_end - ctx->data)
		return SL_DROP_TRUNCATED;
	if (!is_link_scope(packet)) {
		local = bpf_map_lookup_elem(&local_addresses, &packet->dst);
		if (!local || local->flags & SL_LOCAL_ENGINE || is_mapped_ipv6(packet))
			return TO_ENGINE;
		nat_slot = local->nat_slot;
	}
	if (packet->is_ipv6) {
		verdict = skip_extensions(ctx, packet);
		if (verdict)
			return verdict;
	}
	/* Only the engine knows whose a later fragment is, and it must see the first one to know. */
	if (nat_slot != SL_NAT_SLOT_NONE && packet->is_fragment)
		return TO_ENGINE;
	verdict = parse_transport(ctx, packet);
	if (verdict)
		return verdict;
	if (local && is_engine_port(packet))
		return TO_ENGINE;
	if (local && packet->is_ipv6 && has_ports(packet) && is_icmp(packet) && packet->icmp_type == ICMPV6_TOO_BIG &&
	    is_about_tunnel(ctx, packet))
		return TO_ENGINE;
	if (nat_slot != SL_NAT_SLOT_NONE) {
		verdict = steer_shared_address(ctx, packet, nat_slot);
		if (verdict != TO_HOST)
			return verdict;
	}
	return steer_host(packet);
}

static __always_inline __u32 steer_l3(struct xdp_md *ctx, __u16 ethertype, __u32 l3)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct packet packet = {};
	__u32 reason;

	switch (ethertype) {
	case ETH_P_ARP:
		return data + l3 + ARP_BYTES > data_end ? SL_DROP_TRUNCATED : TO_HOST;
	case ETH_P_IP: {
		struct iphdr *ip = data + l3;

		if ((void *)(ip + 1) > data_end)
			return SL_DROP_TRUNCATED;
		reason = parse_ipv4(ip, l3, &packet);
		break;
	}
	case ETH_P_IPV6: {
		struct ipv6hdr *ip = data + l3;

		if ((void *)(ip + 1) > data_end)
			return SL_DROP_TRUNCATED;
		reason = parse_ipv6(ip, l3, &packet);
		break;
	}
	default:
		return SL_DROP_MALFORMED_ETHERNET;
	}
	return reason ? reason : steer_ip(ctx, &packet);
}

static __always_inline __u32 steer(struct xdp_md *ctx, const struct sl_steer_port *port)
{
	void *data = (void *)(long)ctx->data;
	__u16 ethertype, vlan_id;
	__u32 l3, reason;
	int interface;

	opaque(data); /* or clang copies the pointer in 32 bits, which the verifier refuses */
	reason = parse_ethernet(data, (void *)(long)ctx->data_end, &ethertype, &vlan_id, &l3);
	if (reason)
		return reason;
	/* A second tag, or a service tag: no interface can name it. */
	if (ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD)
		return SL_DROP_UNKNOWN_VLAN;
	interface = interface_of(port, vlan_id);
	if (interface < 0)
		return SL_DROP_UNKNOWN_VLAN;
	return steer_l3(ctx, ethertype, l3);
}

/* What no session takes. Not inlined: the program above it has more registers without. */
static __noinline int steer_frame(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, at = ifindex % SL_STEER_PORTS, unknown = SL_PORTS_MAX;
	struct sl_steer_port *port = bpf_map_lookup_elem(&ports, &at);
	struct counter_row *row;
	__u32 slot, verdict, queue, socket;

	if (!port || port->ifindex != ifindex) {
		row = bpf_map_lookup_elem(&steer_counters, &unknown);
		if (row)
			row->value[SL_DROP_UNKNOWN_PORT]++;
		return XDP_DROP;
	}
	slot = port->slot;
	row = bpf_map_lookup_elem(&steer_counters, &slot);
	if (!row)
		return XDP_DROP;
	verdict = steer(ctx, port);
	queue = ctx->rx_queue_index;
	socket = port->slot * SL_QUEUES_MAX + queue;
	if (verdict == TO_ENGINE && (queue >= SL_QUEUES_MAX || !bpf_map_lookup_elem(&xsks, &socket)))
		verdict = SL_DROP_NO_ENGINE;
	if (verdict < SL_STEER_KEYS)
		row->value[verdict]++;
	if (verdict == TO_ENGINE)
		return bpf_redirect_map(&xsks, socket, XDP_DROP);
	return verdict == TO_HOST ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int sluice_steer(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, at = ifindex % SL_STEER_PORTS;
	struct sl_steer_port *port = bpf_map_lookup_elem(&ports, &at);

	return port && port->ifindex == ifindex ? offload(ctx, port) : steer_frame(ctx);
}

char LICENSE[] SEC("license") = "GPL";
