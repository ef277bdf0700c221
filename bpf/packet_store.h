/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writes to the rare packets: those with options, fragments, and ICMP errors.
 * Every write goes through bpf_skb_store_bytes with BPF_F_RECOMPUTE_CSUM, which
 * keeps every state of ip_summed right, and no speed is sought. All return 0, or
 * something else after which the packet must be dropped.
 */
#ifndef HOSTROUTE_PACKET_STORE_H
#define HOSTROUTE_PACKET_STORE_H

#include "types.h"
#include "packet.h"
#include "checksum.h"
#include "packet_write.h"

static __always_inline int store(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length)
{
	return bpf_skb_store_bytes(skb, offset, from, length, BPF_F_RECOMPUTE_CSUM);
}

/* Of a packet for the pod; if its MAC is not known, its neighbour entry writes them. */
static __always_inline int store_macs(struct packet *p, const struct pod *pod)
{
	__u8 macs[12];

	if (!(pod->flags & POD_READY))
		return 0;
	__builtin_memcpy(macs, pod->mac, 6);
	__builtin_memcpy(macs + 6, pod->host_mac, 6);
	return bpf_skb_store_bytes(p->skb, 0, macs, sizeof(macs), 0);
}

/* The IP header with `address` in place of `old`, TTL less by `hops`, and its checksum. */
static __always_inline int store_ip(struct __sk_buff *skb, const struct address *old, const struct address *address,
				    bool source, __u8 hops, bool six)
{
	int error;

	if (six) {
		/* two words, not the header: there is not stack enough for it. From an even place on, for the sum's
		 * sake. */
		__u8 next_and_hops[2];

		error = bpf_skb_load_bytes(skb, ETH + offsetof(struct ipv6hdr, nexthdr), next_and_hops, 2);
		next_and_hops[1] -= hops;
		error |= store(skb, ETH + offsetof(struct ipv6hdr, nexthdr), next_and_hops, 2);
		error |= store(skb, ETH + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
			       address, 16);
	} else {
		struct iphdr ip;
		__u16 *word = (__u16 *)&ip.ttl, old_word;
		__be32 plain = PLAIN(*address);

		error = bpf_skb_load_bytes(skb, ETH, &ip, sizeof(ip));
		old_word = *word;
		ip.ttl -= hops;
		ip.check = checksum_after(ip.check, difference2(old_word, *word) + difference4(PLAIN(*old), plain));
		if (source)
			ip.saddr = plain;
		else
			ip.daddr = plain;
		error |= store(skb, ETH, &ip, sizeof(ip));
	}
	return error;
}

/* Where the checksum stands in a transport header. */
static __always_inline __u32 check_within(__u8 protocol)
{
	return protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) :
	       protocol == IPPROTO_UDP ? offsetof(struct udphdr, check) :
					 offsetof(struct icmp_header, checksum);
}

static __always_inline __u32 port_offset(const struct packet *p, bool source, bool six)
{
	return is_echo(p, six) ? offsetof(struct icmp_header, id) : source ? 0 : 2;
}

/* Not inlined, for the stack's sake. */
static __attribute__((noinline)) int fix_behind_options4(struct packet *p, const struct address *old,
							 const struct address *new, __be16 old_port, __be16 new_port)
{
	return p && old && new ? fix_l4_at(p, p->l4, old, new, old_port, new_port, false) : -1;
}

static __attribute__((noinline)) int fix_behind_options6(struct packet *p, const struct address *old,
							 const struct address *new, __be16 old_port, __be16 new_port)
{
	return p && old && new ? fix_l4_at(p, p->l4, old, new, old_port, new_port, true) : -1;
}

/*
 * Address, TTL less by `hops` and, where they are, port and checksum. Not 0: the
 * packet must be dropped. A fragment's checksum is never left to the device to
 * finish, a whole packet's may be.
 */
static __always_inline int rewrite_fragment(struct packet *p, const struct address *address, __be16 port, bool source,
					    __u8 hops, bool six)
{
	const struct address *old = source ? &p->source : &p->destination;
	const __be16 old_port = source ? p->source_port : p->destination_port;
	__u32 check_offset, difference = difference2(old_port, port);
	__u16 check = 0;
	int error = 0;

	if (p->fragment == PLACE_OPTIONS) {
		error = six ? fix_behind_options6(p, old, address, old_port, port) :
			      fix_behind_options4(p, old, address, old_port, port);
		/* what the port adds to the sum its checksum takes away */
		error |= bpf_skb_store_bytes(p->skb, p->l4 + port_offset(p, source, six), &port, 2, 0);
	} else if (p->fragment == PLACE_FIRST) {
		if (p->protocol != IPPROTO_ICMP)
			difference += six ? difference16(old, address) : difference4(PLAIN(*old), PLAIN(*address));
		check_offset = p->l4 + check_within(p->protocol);
		error = bpf_skb_load_bytes(p->skb, check_offset, &check, 2);
		if (p->protocol != IPPROTO_UDP || check) {
			check = checksum_after(check, difference);
			if (!check && p->protocol == IPPROTO_UDP)
				check = 0xffff;
			error |= store(p->skb, check_offset, &check, 2);
		}
		error |= store(p->skb, p->l4 + port_offset(p, source, six), &port, 2);
	}
	return error | store_ip(p->skb, old, address, source, hops, six);
}

/* The packet inside an ICMP error; `local` is the side that NAT changes. */
struct inner {
	__u32 ip; /* offset of its IP header */
	__u32 l4; /* offset of its transport header */
	__u8 protocol;
	__u8 local_is_source;
	__u8 is_request; /* echo */
	struct address source;
	struct address destination;
	__be16 source_port; /* echo: identifier in both */
	__be16 destination_port;
};

/*
 * Rewrites the inner local address and port, the outer address that mirrors it
 * (an error for a flow's local side is sent to it, or by it), the outer TTL and
 * all checksums. 0, or a negative error after which the packet must be dropped.
 */
static __always_inline int rewrite_error(struct __sk_buff *skb, const struct facts *p, const struct inner *inner,
					 const struct address *address, __be16 port, bool six)
{
	const bool source = inner->local_is_source;
	const struct address *old = source ? &inner->source : &inner->destination;
	const __be16 old_port = source ? inner->source_port : inner->destination_port;
	const struct address *outer_old = source ? &p->destination : &p->source;
	const bool echo = inner->protocol == IPPROTO_ICMP || inner->protocol == IPPROTO_ICMPV6;
	__u32 check_offset, covered, icmp_difference;
	__u16 old_check = 0, check;
	bool has_check;
	int error = 0;

	/* inner transport checksum: covers the port and, but for ICMPv4, the address */
	covered = difference2(old_port, port);
	if (inner->protocol != IPPROTO_ICMP)
		covered += six ? difference16(old, address) : difference4(PLAIN(*old), PLAIN(*address));
	check_offset = inner->l4 + check_within(inner->protocol);
	/* of TCP the first eight bytes are often all there is */
	has_check = check_offset + 2 <= p->end && !bpf_skb_load_bytes(skb, check_offset, &old_check, 2) &&
		    (inner->protocol != IPPROTO_UDP || old_check);
	icmp_difference = difference2(old_port, port);
	if (has_check) {
		check = checksum_after(old_check, covered);
		if (!check && inner->protocol == IPPROTO_UDP)
			check = 0xffff;
		error |= store(skb, check_offset, &check, 2);
		icmp_difference += difference2(old_check, check);
	}
	error |= store(skb, inner->l4 + (echo ? 4 : source ? 0 : 2), &port, 2);

	if (six) {
		error |= store(skb,
			       inner->ip + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
			       address, 16);
		icmp_difference += difference16(old, address);
		icmp_difference += difference16(outer_old, address); /* pseudo header */
	} else {
		struct iphdr ip;
		__be32 plain = PLAIN(*address);

		/* the inner header's checksum balances the inner address */
		error |= bpf_skb_load_bytes(skb, inner->ip, &ip, sizeof(ip));
		ip.check = checksum_after(ip.check, difference4(PLAIN(*old), plain));
		if (source)
			ip.saddr = plain;
		else
			ip.daddr = plain;
		error |= store(skb, inner->ip, &ip, sizeof(ip));
	}
	error |= store_ip(skb, outer_old, address, !source, 1, six);
	error |= bpf_skb_load_bytes(skb, p->l4 + offsetof(struct icmp_header, checksum), &old_check, 2);
	check = checksum_after(old_check, fold(icmp_difference));
	error |= store(skb, p->l4 + offsetof(struct icmp_header, checksum), &check, 2);
	return error;
}

/* IPv4, not a fragment: the destination and its port, and no TTL, since the packet goes on in the stack. */
static __always_inline int rewrite_whole4(struct packet *p, const struct address *address, __be16 port)
{
	int error = fix_l4(p, &p->destination, address, p->destination_port, port, false);

	/* what the port adds to the sum its checksum takes away */
	error |= bpf_skb_store_bytes(p->skb, p->l4 + (is_echo(p, false) ? 4 : 2), &port, 2, 0);
	return error | store_ip(p->skb, &p->destination, address, false, 0, false);
}

/* Sets DF. `ip`: the packet's header, which has none. */
static __always_inline int forbid_fragments4(struct __sk_buff *skb, struct iphdr *ip)
{
	const __be16 old = ip->frag_off;

	ip->frag_off |= bpf_htons(IP_DF);
	ip->check = checksum_after(ip->check, difference2(old, ip->frag_off));
	return store(skb, ETH, ip, sizeof(*ip));
}

#endif
