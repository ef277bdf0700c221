/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From bytes to struct packet. Headers are checked as strictly as the kernel
 * does on receive (ip_rcv_core, ip6_rcv_core): what it would refuse goes to it.
 */
#ifndef HOSTROUTE_PARSE_H
#define HOSTROUTE_PARSE_H

#include "maps.h"
#include "packet.h"
#include "checksum.h"
#include "kernel_skb.h"
#include "parse_options.h"

/* Makes the first `bytes` linear. false: the packet is shorter. */
static __always_inline bool pull(struct __sk_buff *skb, __u32 bytes)
{
	/* else clang may keep skb->data in a register, and truncate it, which the verifier takes for a scalar */
	asm volatile("" : : : "memory");
	if (DATA(skb) + bytes <= END(skb))
		return true;
	if (skb->len < bytes || bpf_skb_pull_data(skb, bytes))
		return false;
	return DATA(skb) + bytes <= END(skb);
}

/* this network, loopback, link-local, multicast, reserved, broadcast */
static __always_inline bool special4(__be32 address)
{
	__u32 host = bpf_ntohl(address);

	return host >= 0xe0000000 || host >> 24 == 0 || host >> 24 == 127 || host >> 16 == 0xa9fe;
}

/* As special4(), of a packet: link-local addresses may be the policy's to masquerade. */
static __always_inline bool stays4(__be32 address)
{
	return special4(address) &&
	       !((address & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000) && (control.flags & CONTROL_LINK_LOCAL));
}

/* ::/64 (unspecified, loopback, v4-mapped and -compatible), fe80::/10, ff00::/8 */
static __always_inline bool special6(const struct address *address)
{
	__u32 head;

	__builtin_memcpy(&head, address, 4);
	head = bpf_ntohl(head);
	return !address->high || head >> 24 == 0xff || head >> 22 == 0x3fa;
}

static __always_inline int parse4(struct packet *p)
{
	struct __sk_buff *skb = p->skb;
	struct iphdr *ip;
	__u32 length;

	if (!pull(skb, ETH + sizeof(*ip)))
		return REASON_MALFORMED;
	ip = DATA(skb) + ETH;
	if ((void *)(ip + 1) > END(skb) || ip->version != 4 || ip->ihl < 5)
		return REASON_MALFORMED;
	p->source.high = 0;
	p->source.low = MAPPED(ip->saddr);
	p->destination.high = 0;
	p->destination.low = MAPPED(ip->daddr);
	if (ip->ihl != 5) {
		if (stays4(ip->daddr) || stays4(ip->saddr))
			return REASON_LINK_LOCAL;
		parse_options4(skb, facts_of(p));
		return REASON_OPTIONS;
	}
	length = bpf_ntohs(ip->tot_len);
	/* BIG TCP over IPv4 (6.3) carries total length 0 in GSO packets. */
	if (length > skb->len - ETH || (length < sizeof(*ip) && !(length == 0 && skb->gso_size)))
		return REASON_MALFORMED;
	if (!header_checksum_ok(ip))
		return REASON_MALFORMED;
	p->end = length ? ETH + length : skb->len;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	if (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) {
		p->fragment = ip->frag_off & bpf_htons(IP_OFFSET) ? PLACE_LATER : PLACE_FIRST;
		p->fragment_id = ip->id;
	}
	p->l4 = ETH + sizeof(*ip);
	if (stays4(ip->daddr) || stays4(ip->saddr))
		return REASON_LINK_LOCAL;
	return GO_ON;
}

/* Of an IPv6 packet with payload length 0, before BIG TCP has it cut: a jumbo payload option, and no other (RFC 2675).
 */
struct jumbo_header {
	__u8 next;
	__u8 length;
	__be16 option; /* its type and length */
	__be32 payload;
};
#define JUMBO_OPTION 0xc204

/*
 * BIG TCP (Linux 5.19): a GSO packet of more than 64 KiB. Whoever cuts it takes
 * the option off, so it is not for the stack to judge as options on the wire are.
 * false: a jumbogram from elsewhere, or nonsense.
 */
static __always_inline bool parse_big_tcp6(struct packet *p)
{
	struct __sk_buff *skb = p->skb;
	struct jumbo_header *jumbo;

	if (!skb->gso_size)
		return false;
	p->end = skb->len;
	if (p->protocol == IPPROTO_TCP) /* without the option, as IPv4 has it */
		return true;
	if (p->protocol != IPPROTO_HOPOPTS || !pull(skb, ETH + sizeof(struct ipv6hdr) + sizeof(*jumbo)))
		return false;
	jumbo = DATA(skb) + ETH + sizeof(struct ipv6hdr);
	if ((void *)(jumbo + 1) > END(skb) || jumbo->next != IPPROTO_TCP || jumbo->length ||
	    jumbo->option != bpf_htons(JUMBO_OPTION))
		return false;
	p->protocol = IPPROTO_TCP;
	p->l4 += sizeof(*jumbo);
	return true;
}

static __always_inline int parse6(struct packet *p)
{
	struct __sk_buff *skb = p->skb;
	struct ipv6hdr *ip;

	if (!pull(skb, ETH + sizeof(*ip)))
		return REASON_MALFORMED;
	ip = DATA(skb) + ETH;
	if ((void *)(ip + 1) > END(skb) || ip->version != 6)
		return REASON_MALFORMED;
	__builtin_memcpy(&p->source, &ip->saddr, 16);
	__builtin_memcpy(&p->destination, &ip->daddr, 16);
	p->protocol = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->l4 = ETH + sizeof(*ip);
	if (ip->payload_len)
		p->end = ETH + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	else if (!parse_big_tcp6(p))
		return REASON_MALFORMED;
	if (p->end > skb->len)
		return REASON_MALFORMED;
	if (special6(&p->destination) || special6(&p->source))
		return REASON_LINK_LOCAL;
	switch (p->protocol) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_AH:
		parse_options6(skb, facts_of(p));
		return REASON_OPTIONS;
	case NEXTHDR_FRAGMENT: {
		struct fragment_header *header;

		if (p->end < ETH + sizeof(*ip) + sizeof(*header) || !pull(skb, ETH + sizeof(*ip) + sizeof(*header)))
			return REASON_MALFORMED;
		header = DATA(skb) + ETH + sizeof(*ip);
		if ((void *)(header + 1) > END(skb))
			return REASON_MALFORMED;
		p->fragment = header->offset & bpf_htons(IP6_OFFSET) ? PLACE_LATER : PLACE_FIRST;
		p->fragment_id = header->id;
		p->protocol = header->next;
		p->l4 += sizeof(*header);
		break;
	}
	case IPPROTO_ICMPV6: {
		struct icmp6hdr *icmp;

		if (p->end < ETH + sizeof(*ip) + sizeof(*icmp) || !pull(skb, ETH + sizeof(*ip) + sizeof(*icmp)))
			return REASON_MALFORMED;
		icmp = DATA(skb) + ETH + sizeof(*ip);
		if ((void *)(icmp + 1) > END(skb))
			return REASON_MALFORMED;
		if ((icmp->icmp6_type >= ICMPV6_NEIGHBOUR_FIRST && icmp->icmp6_type <= ICMPV6_NEIGHBOUR_LAST) ||
		    (icmp->icmp6_type >= ICMPV6_MGM_QUERY && icmp->icmp6_type <= ICMPV6_MGM_REDUCTION) ||
		    icmp->icmp6_type == ICMPV6_MLD2_REPORT)
			return REASON_LINK_LOCAL;
		break;
	}
	}
	return GO_ON;
}

static __always_inline __u8 tcp_flags(const struct tcphdr *tcp)
{
	__u8 flags = ((const __u8 *)tcp)[13]; /* FIN 1, SYN 2, RST 4, ACK 16 */

	return (flags & 2) >> 1 | (flags & 1) << 1 | (flags & 4) | (flags & 16) >> 1;
}

/*
 * Ports, flags and echo identifier of what is not a fragment. Leaves `tracked`
 * 0 for every other protocol, ICMP errors among them.
 */
static __always_inline int parse_l4(struct packet *p, bool six)
{
	struct __sk_buff *skb = p->skb;
	const __u32 l4 = l4_of(p, six);

	switch (p->protocol) {
	case IPPROTO_TCP: {
		struct tcphdr *tcp;

		if (p->end < l4 + sizeof(*tcp) || !pull(skb, l4 + sizeof(*tcp)))
			return REASON_MALFORMED;
		tcp = DATA(skb) + l4;
		if ((void *)(tcp + 1) > END(skb) || tcp->doff < 5)
			return REASON_MALFORMED;
		p->source_port = tcp->source;
		p->destination_port = tcp->dest;
		p->tcp = tcp_flags(tcp);
		p->tracked = 1;
		break;
	}
	case IPPROTO_UDP: {
		struct udphdr *udp;

		if (p->end < l4 + sizeof(*udp) || !pull(skb, l4 + sizeof(*udp)))
			return REASON_MALFORMED;
		udp = DATA(skb) + l4;
		if ((void *)(udp + 1) > END(skb))
			return REASON_MALFORMED;
		p->source_port = udp->source;
		p->destination_port = udp->dest;
		p->tracked = 1;
		break;
	}
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		struct icmp_header *icmp;

		if (p->protocol != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
			break;
		if (p->end < l4 + sizeof(*icmp) || !pull(skb, l4 + sizeof(*icmp)))
			return REASON_MALFORMED;
		icmp = DATA(skb) + l4;
		if ((void *)(icmp + 1) > END(skb))
			return REASON_MALFORMED;
		p->icmp_type = icmp->type;
		if (icmp->type == (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO) ||
		    icmp->type == (six ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY)) {
			p->source_port = icmp->id;
			p->destination_port = icmp->id;
			p->tracked = 1;
		}
		break;
	}
	}
	return GO_ON;
}

/*
 * Larger than `mtu` once cut into its segments. GSO packets are judged by the
 * segments they become (skb_gso_validate_network_len), not by their length.
 */
static __always_inline bool too_big(struct packet *p, __u32 mtu, bool six)
{
	struct __sk_buff *skb = p->skb;
	const bool shifted = p->fragment == PLACE_OPTIONS;
	const __u32 l4 = shifted ? p->l4 & 127 : l4_of(p, six);
	/* without the jumbo option of BIG TCP, which no segment has */
	__u32 headers = shifted ? l4 - ETH : six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 tunnel;

	if (skb->len - ETH <= mtu)
		return false;
	if (!skb->gso_size)
		return true;
	tunnel = tunnel_headers(skb);
	if (tunnel) {
		headers = tunnel;
	} else if (p->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = DATA(skb) + l4;

		if ((void *)(tcp + 1) > END(skb))
			return true;
		headers += tcp->doff * 4;
	} else if (p->protocol == IPPROTO_UDP) {
		headers += tells_checksum_state() ? sizeof(struct udphdr) : MOST_TUNNEL_HEADERS;
	} else {
		return true;
	}
	return headers + skb->gso_size > mtu;
}

#endif
