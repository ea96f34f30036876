/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * parse.h: from bytes to `struct packet`, in the order of the headers: Ethernet and VLAN → IPv4 or IPv6 → extension
 * headers → TCP, UDP, ICMP.
 *
 * Each function returns SL_DROP_NONE, or the reason why the packet is clearly malformed. What takes a judgement
 * (checksums, martians, flags) is the engine's. The first two steps, which every frame takes, read the frame directly;
 * the later ones, which only packets that may be the host's take, read it by bpf_xdp_load_bytes: that checks bounds in the
 * kernel and leaves the verifier nothing to prove. Offsets count from the frame's first byte.
 */
#ifndef SLUICE_BPF_PARSE_H
#define SLUICE_BPF_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "dataplane.h"

#define VLAN_ID_MASK 0x0fff
#define IPV4_FRAGMENT_MASK 0x3fff /* more-fragments flag and offset */
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8
#define TRANSPORT_BYTES 8 /* all of UDP and ICMP, the ports of TCP; what an ICMP error must quote (RFC 792) */
#define ARP_BYTES 28
#define TCP_BYTES_MIN 20

#define opaque(x) __asm__ volatile("" : "+r"(x)) /* what the compiler must not see through */

struct vlan_header {
	__be16 tci;
	__be16 ethertype;
};

struct packet {
	struct sl_address dst;
	__u32 l4;               /* offset of the transport header (IPv6: of the extension header looked at) */
	__u32 end;              /* offset at which the IP packet ends; Ethernet padding may follow */
	__u16 src_port;         /* TCP, UDP; ICMP queries: identifier */
	__u16 dst_port;         /* the same */
	__u8 is_ipv6;
	__u8 protocol;          /* IPv6: the next header */
	__u8 hop_limit;
	__u8 is_fragment;       /* any fragment, atomic ones included */
	__u8 is_later_fragment; /* not the first: carries no transport header */
	__u8 icmp_type;
};

/* ---- 1. Ethernet, and one 802.1Q tag --------------------------------------------------------------------------- */

/* Finds the ethertype (host order) and the layer above it; vlan_id is SL_VLAN_NONE for an untagged frame. */
static __always_inline __u32 parse_ethernet(void *data, void *data_end, __u16 *ethertype, __u16 *vlan_id, __u32 *l3)
{
	struct vlan_header *tag = data + sizeof(struct ethhdr);

	if ((void *)tag > data_end)
		return SL_DROP_TRUNCATED;
	*ethertype = bpf_ntohs(*(__be16 *)(data + offsetof(struct ethhdr, h_proto))); /* the struct is packed: byte by byte */
	*vlan_id = SL_VLAN_NONE;
	*l3 = sizeof(struct ethhdr);
	if (*ethertype != ETH_P_8021Q)
		return SL_DROP_NONE;
	if ((void *)(tag + 1) > data_end)
		return SL_DROP_TRUNCATED;
	*ethertype = bpf_ntohs(tag->ethertype);
	*vlan_id = bpf_ntohs(tag->tci) & VLAN_ID_MASK;
	if (*vlan_id == 0) /* a priority tag only */
		*vlan_id = SL_VLAN_NONE;
	*l3 += sizeof(*tag);
	return SL_DROP_NONE;
}

/* ---- 2. IP headers; also of the packet inside an ICMP error, which may be cut short: the caller judges `end` ---- */

static __always_inline __u32 parse_ipv4(const struct iphdr *ip, __u32 l3, struct packet *packet)
{
	__u32 header_bytes = ip->ihl * 4;
	__u32 total_bytes = bpf_ntohs(ip->tot_len);
	__u16 fragment = bpf_ntohs(ip->frag_off);

	if (ip->version != 4 || header_bytes < sizeof(*ip) || total_bytes < header_bytes)
		return SL_DROP_MALFORMED_IPV4;
	packet->dst.bytes[10] = 0xff; /* ::ffff:a.b.c.d; the rest is zero already */
	packet->dst.bytes[11] = 0xff;
	__builtin_memcpy(&packet->dst.bytes[12], &ip->daddr, 4);
	packet->l4 = l3 + header_bytes;
	packet->end = l3 + total_bytes;
	packet->protocol = ip->protocol;
	packet->hop_limit = ip->ttl;
	packet->is_fragment = (fragment & IPV4_FRAGMENT_MASK) != 0;
	packet->is_later_fragment = (fragment & IPV4_OFFSET_MASK) != 0;
	return SL_DROP_NONE;
}

static __always_inline __u32 parse_ipv6(const struct ipv6hdr *ip, __u32 l3, struct packet *packet)
{
	__u32 payload_bytes = bpf_ntohs(ip->payload_len);

	/* A length of zero with something behind it is a jumbogram (RFC 2675), which no Ethernet here carries. */
	if (ip->version != 6 || (payload_bytes == 0 && ip->nexthdr != IPPROTO_NONE))
		return SL_DROP_MALFORMED_IPV6;
	__builtin_memcpy(&packet->dst, &ip->daddr, sizeof(packet->dst));
	packet->l4 = l3 + sizeof(*ip);
	packet->end = packet->l4 + payload_bytes;
	packet->is_ipv6 = 1;
	packet->protocol = ip->nexthdr;
	packet->hop_limit = ip->hop_limit;
	return SL_DROP_NONE;
}

/* ---- 3. IPv6 extension headers (RFC 8200 section 4) ------------------------------------------------------------- */

static __always_inline int is_extension(__u8 next_header)
{
	switch (next_header) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case 139: /* HIP, RFC 7401 */
	case 140: /* Shim6, RFC 5533 */
		return 1;
	}
	return 0;
}

/* Moves l4 and protocol behind the extension headers. A later fragment ends the walk: what follows is payload. */
static __noinline __u32 skip_extensions(struct xdp_md *ctx, struct packet *packet)
{
	for (int i = 0; i < SL_IPV6_EXTENSIONS_MAX; i++) {
		__u8 header[4]; /* next header, length, and of a fragment header: its offset */
		__u32 header_bytes;

		if (!is_extension(packet->protocol) || packet->is_later_fragment)
			return SL_DROP_NONE;
		if (packet->protocol == IPPROTO_HOPOPTS && i > 0)
			return SL_DROP_MALFORMED_IPV6; /* only the first may be hop-by-hop options */
		if (bpf_xdp_load_bytes(ctx, packet->l4, header, sizeof(header)) < 0)
			return SL_DROP_MALFORMED_IPV6;
		header_bytes = ((__u32)header[1] + 1) * 8;
		if (packet->protocol == IPPROTO_AH)
			header_bytes = ((__u32)header[1] + 2) * 4; /* RFC 4302 section 2.2 */
		if (packet->protocol == IPPROTO_FRAGMENT) {
			header_bytes = 8;
			packet->is_fragment = 1;
			packet->is_later_fragment = ((header[2] << 8 | header[3]) & IPV6_OFFSET_MASK) != 0;
		}
		packet->protocol = header[0];
		packet->l4 += header_bytes;
		if (packet->l4 > packet->end)
			return SL_DROP_MALFORMED_IPV6;
	}
	return is_extension(packet->protocol) && !packet->is_later_fragment ? SL_DROP_MALFORMED_IPV6 : SL_DROP_NONE;
}

/* ---- 4. TCP, UDP, ICMP ------------------------------------------------------------------------------------------ */

static __always_inline int is_icmp(const struct packet *packet)
{
	return packet->protocol == (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Fills ports and ICMP type from the first bytes of the transport header. Other protocols and later fragments have none. */
static __always_inline __u32 parse_ports(struct xdp_md *ctx, struct packet *packet, __u8 header[TRANSPORT_BYTES])
{
	if (bpf_xdp_load_bytes(ctx, packet->l4, header, TRANSPORT_BYTES) < 0 || packet->l4 + TRANSPORT_BYTES > packet->end)
		return SL_DROP_MALFORMED_L4;
	if (is_icmp(packet)) {
		packet->icmp_type = header[0];
		packet->src_port = header[4] << 8 | header[5];
		packet->dst_port = packet->src_port;
	} else {
		packet->src_port = header[0] << 8 | header[1];
		packet->dst_port = header[2] << 8 | header[3];
	}
	return SL_DROP_NONE;
}

static __always_inline int has_ports(const struct packet *packet)
{
	if (packet->is_later_fragment)
		return 0;
	return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP || is_icmp(packet);
}

/* Ports, and lengths that cannot be: what a host must not have to survive. */
static __noinline __u32 parse_transport(struct xdp_md *ctx, struct packet *packet)
{
	__u8 header[TRANSPORT_BYTES];
	__u32 payload_bytes = packet->end - packet->l4;
	__u32 reason;

	if (!has_ports(packet))
		return SL_DROP_NONE;
	reason = parse_ports(ctx, packet, header);
	if (reason)
		return reason;
	if (packet->protocol == IPPROTO_UDP) {
		__u32 udp_bytes = header[4] << 8 | header[5];

		if (udp_bytes < TRANSPORT_BYTES || (udp_bytes > payload_bytes && !packet->is_fragment))
			return SL_DROP_MALFORMED_L4;
	}
	if (packet->protocol == IPPROTO_TCP) {
		__u8 data_offset;

		if (bpf_xdp_load_bytes(ctx, packet->l4 + 12, &data_offset, 1) < 0 || payload_bytes < TCP_BYTES_MIN)
			return SL_DROP_MALFORMED_L4;
		data_offset = (data_offset >> 4) * 4;
		if (data_offset < TCP_BYTES_MIN || data_offset > payload_bytes)
			return SL_DROP_MALFORMED_L4;
	}
	return SL_DROP_NONE;
}

/* The packet inside an ICMP error: its IP header and ports, as far as the error quotes it. */
static __noinline __u32 parse_embedded(struct xdp_md *ctx, const struct packet *error, struct packet *embedded)
{
	__u32 l3 = error->l4 + TRANSPORT_BYTES;
	__u8 header[TRANSPORT_BYTES];
	__u32 reason;

	if (error->is_ipv6) {
		struct ipv6hdr ip;

		if (bpf_xdp_load_bytes(ctx, l3, &ip, sizeof(ip)) < 0 || parse_ipv6(&ip, l3, embedded) ||
		    skip_extensions(ctx, embedded))
			return SL_DROP_ICMP_BAD_EMBEDDED;
	} else {
		struct iphdr ip;

		if (bpf_xdp_load_bytes(ctx, l3, &ip, sizeof(ip)) < 0 || parse_ipv4(&ip, l3, embedded))
			return SL_DROP_ICMP_BAD_EMBEDDED;
	}
	if (!has_ports(embedded))
		return SL_DROP_NONE;
	reason = parse_ports(ctx, embedded, header);
	/* Padding behind the error is no quotation. */
	if (reason || embedded->l4 + TRANSPORT_BYTES > error->end)
		return SL_DROP_ICMP_BAD_EMBEDDED;
	return SL_DROP_NONE;
}

#endif
