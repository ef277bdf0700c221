/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Turns a packet that ends here into the ICMP error that its sender gets, from the
 * address that it was sent to, about the packet as it was sent. For whom, and
 * why: undeliverable.h. Errors that others make: icmp_error_translate.h.
 */
#ifndef HOSTROUTE_ICMP_ERROR_SEND_H
#define HOSTROUTE_ICMP_ERROR_SEND_H

#include "types.h"
#include "packet.h"
#include "event.h"
#include "checksum.h"
#include "route.h"
#include "send.h"

/* Bytes of the packet within the error: what is left of 576 and 1,280 bytes, as the kernel's icmp_send() has it. */
#define QUOTE4 548
#define QUOTE6 1232
#define QUOTE_ROOM 2048        /* a power of two */
#define SUM_AT_ONCE 512        /* bpf_csum_diff() */
#define ERRORS_PER_SECOND 1000 /* on a CPU; net.ipv4.icmp_msgs_per_sec */

struct icmp_answer {
	__u8 bytes[sizeof(struct ipv6hdr) + sizeof(struct icmp_header) + QUOTE_ROOM];
	struct event_budget budget;
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct icmp_answer);
} icmp_answers SEC(".maps");

/*
 * CHECKSUM_PARTIAL: the device that sends the packet, or another kernel behind
 * a veth or virtio, still has to finish the transport checksum. No helper ends
 * that state, and in another packet it would write the sum to the wrong place.
 * Such a checksum is the pseudo header's sum; any other packet has that value
 * once in 65,536.
 */
static __always_inline bool unfinished(struct packet *p, bool six)
{
	__u16 check = 0;

	if ((p->fragment && p->fragment != PLACE_OPTIONS) || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP))
		return false;
	bpf_skb_load_bytes(
		p->skb,
		p->l4 + (p->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check)),
		&check, 2);
	return check == pseudo_header(&p->source, &p->destination, p->protocol, p->end - p->l4, six);
}

/* For the way back, and once more for the event that tells of the packet. */
static __always_inline void swap_ends(struct packet *p)
{
	struct address source = p->source;

	p->source = p->destination;
	p->destination = source;
}

/*
 * Turns the packet into the ICMP error about it, from p->source to
 * p->destination. `what`: its type << 8 | its code. false: as it was, or lost.
 */
static __always_inline bool become_error(struct __sk_buff *skb, const struct facts *p, __u32 what, __u32 rest, bool six)
{
	const __u32 header = six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 before = header + sizeof(struct icmp_header);
	struct icmp_answer *answer = bpf_map_lookup_elem(&icmp_answers, &(__u32){ 0 });
	const __u32 most = six ? QUOTE6 : QUOTE4;
	__u64 quoted = p->end - ETH;
	struct icmp_header *icmp;
	__u64 sum = 0;

	if (!answer || !spend(&answer->budget, ERRORS_PER_SECOND))
		return false;
	if (quoted > most)
		quoted = most;
	if (quoted < sizeof(struct iphdr))
		return false;
	/* in one register from here on, and within 1 and QUOTE_ROOM: Linux 6.1 carries no bound over to copies */
	asm volatile("" : "+r"(quoted));
	quoted = ((quoted - 1) & (QUOTE_ROOM - 1)) + 1;
	/* so that the sum can be made of pieces with constant lengths */
	for (__u32 at = before; at < before + most; at += 4) {
		*(__u32 *)(answer->bytes + at) = 0;
		/* else clang makes a call to memset of it, which BPF does not have */
		asm volatile("" : : : "memory");
	}
	if (bpf_skb_load_bytes(skb, ETH, answer->bytes + before, quoted))
		return false;
	icmp = (void *)answer->bytes + header;
	icmp->type = what >> 8;
	icmp->code = what;
	icmp->checksum = 0;
	rest = bpf_htonl(rest);
	__builtin_memcpy(&icmp->id, &rest, 4);
	if (six) {
		struct ipv6hdr *ip = (void *)answer->bytes;

		/* first as the pseudo header: length, zeros and protocol before the addresses */
		*(__be32 *)ip = bpf_htonl(sizeof(*icmp) + quoted);
		*((__be32 *)ip + 1) = bpf_htonl(IPPROTO_ICMPV6);
		__builtin_memcpy(&ip->saddr, &p->source, 16);
		__builtin_memcpy(&ip->daddr, &p->destination, 16);
		sum = bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0);
		*(__be32 *)ip = bpf_htonl(6U << 28);
		ip->payload_len = bpf_htons(sizeof(*icmp) + quoted);
		ip->nexthdr = IPPROTO_ICMPV6;
		ip->hop_limit = 64;
	} else {
		struct iphdr *ip = (void *)answer->bytes;
		struct iphdr *of = (void *)answer->bytes + before;

		*(__u8 *)ip = 0x45;
		ip->tos = (of->tos & 0x1e) | 0xc0; /* internetwork control, RFC 1812 4.3.2.5 */
		ip->tot_len = bpf_htons(before + quoted);
		ip->id = bpf_get_prandom_u32();
		ip->frag_off = 0;
		ip->ttl = 64;
		ip->protocol = IPPROTO_ICMP;
		ip->check = 0;
		ip->saddr = PLAIN(p->source);
		ip->daddr = PLAIN(p->destination);
		ip->check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
	}
	sum = bpf_csum_diff(NULL, 0, (__be32 *)icmp, sizeof(*icmp), sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)(answer->bytes + before), SUM_AT_ONCE, sum);
	if (six)
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(answer->bytes + before + SUM_AT_ONCE), SUM_AT_ONCE, sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)(answer->bytes + before + (six ? 2 : 1) * SUM_AT_ONCE),
			    most - (six ? 2 : 1) * SUM_AT_ONCE, sum);
	icmp->checksum = ~fold(sum);
	if (bpf_skb_change_tail(skb, ETH + before + quoted, 0) ||
	    bpf_skb_store_bytes(skb, ETH, answer->bytes, before + quoted, BPF_F_RECOMPUTE_CSUM))
		return false;
	skb->mark = 0;
	return true;
}

/* Global: see packet.h. */
__attribute__((noinline)) int become_error4(struct __sk_buff *skb, const struct facts *p, __u32 what, __u32 rest)
{
	return p && become_error(skb, p, what, rest, false);
}

__attribute__((noinline)) int become_error6(struct __sk_buff *skb, const struct facts *p, __u32 what, __u32 rest)
{
	return p && become_error(skb, p, what, rest, true);
}

/* Sends the ICMP error about a packet whose ends are swapped. false: as it was, or lost. */
static __always_inline bool tell_sender(struct packet *p, __u32 what, __u32 rest, bool six)
{
	struct nexthop *nexthop;
	__u64 way = 0;

	if (p->fragment == PLACE_LATER || unfinished(p, six) || choose_nexthop(p, six, 0, false, &way) != GO_ON)
		return false;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop ||
	    !(six ? become_error6(p->skb, facts_of(p), what, rest) : become_error4(p->skb, facts_of(p), what, rest)))
		return false;
	p->out = nexthop->ifindex;
	if (six)
		by_neighbour6(p, nexthop);
	else
		by_neighbour4(p, nexthop);
	return true;
}

#endif
