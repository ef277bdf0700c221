/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets of SNATed flows that end here, or are too big to go on as they are.
 * As they came the stack cannot have them: it would take an answer for its own
 * and tell the remote that nobody listens, and it would send a pod's packet
 * with the pod's address. So, as the kernel does with MASQUERADE:
 *
 * - An answer whose TTL is used up, or that is too big and must not be cut, is
 *   dropped; the packet becomes the ICMP error that its sender gets, from the
 *   address that it was sent to, about the packet as it was sent.
 * - An answer too big that may be cut (IPv4 without DF) gets the pod's address
 *   and is then the stack's, which forwards it in fragments.
 *
 * And unlike it, since nothing here can cut a packet: one too big to leave that
 * may be cut gets DF set before the stack has it, which then tells the pod, and
 * the pod's own stack cuts what follows. The first one is lost.
 */
#ifndef HOSTROUTE_UNDELIVERABLE_H
#define HOSTROUTE_UNDELIVERABLE_H

/* Bytes of the packet within the error: what is left of 576 and 1,280 bytes, as the kernel's icmp_send() has it. */
#define QUOTE4 548
#define QUOTE6 1232
#define QUOTE_ROOM 2048        /* a power of two */
#define SUM_AT_ONCE 512        /* bpf_csum_diff() */
#define ERRORS_PER_SECOND 1000 /* on a CPU; net.ipv4.icmp_msgs_per_sec */
#define IP_DF 0x4000

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

static __always_inline bool may_tell(struct event_budget *budget)
{
	__u64 second = bpf_ktime_get_ns() / 1000000000;

	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	return budget->sent++ < ERRORS_PER_SECOND;
}

static __always_inline __u32 sum4(__u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

/*
 * CHECKSUM_PARTIAL: the device that sends the packet, or another kernel behind
 * a veth or virtio, still has to finish the transport checksum. No helper ends
 * that state, and in another packet it would write the sum to the wrong place.
 * Such a checksum is the pseudo header's sum; any other packet has that value
 * once in 65,536.
 */
static __always_inline bool unfinished(struct packet *p, bool six)
{
	__u32 sum = bpf_htons(p->protocol) + bpf_htons(p->end - p->l4);
	__u16 check = 0;

	if (p->fragment || (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP))
		return false;
	if (six)
		sum += sum4(p->source.high) + sum4(p->source.high >> 32) + sum4(p->destination.high) +
		       sum4(p->destination.high >> 32) + sum4(p->source.low) + sum4(p->destination.low);
	sum += sum4(p->source.low >> 32) + sum4(p->destination.low >> 32);
	bpf_skb_load_bytes(
		p->skb,
		p->l4 + (p->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check)),
		&check, 2);
	return check == fold(sum);
}

/* For the way back, and once more for the event that tells of the packet. */
static __always_inline void swap_ends(struct packet *p)
{
	struct address source = p->source;

	p->source = p->destination;
	p->destination = source;
}

/* Turns the packet, its ends swapped, into the ICMP error about it and sends that. false: as it was, or lost. */
static __always_inline bool tell_sender(struct packet *p, __u8 type, __u8 code, __u32 rest, bool six)
{
	const __u32 header = six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 before = header + sizeof(struct icmp_header);
	struct icmp_answer *answer = bpf_map_lookup_elem(&icmp_answers, &(__u32){ 0 });
	const __u32 most = six ? QUOTE6 : QUOTE4;
	__u64 quoted = p->end - ETH;
	__u32 index = 0;
	struct icmp_header *icmp;
	struct nexthop *nexthop;
	__u64 sum = 0;

	if (!answer || p->fragment == PLACE_LATER || unfinished(p, six))
		return false;
	if (choose_nexthop(p, six, 0, false, &index) != GO_ON)
		return false;
	nexthop = nexthop_at(index);
	if (!nexthop || !may_tell(&answer->budget))
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
	if (bpf_skb_load_bytes(p->skb, ETH, answer->bytes + before, quoted))
		return false;
	icmp = (void *)answer->bytes + header;
	icmp->type = type;
	icmp->code = code;
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
	if (bpf_skb_change_tail(p->skb, ETH + before + quoted, 0) ||
	    bpf_skb_store_bytes(p->skb, ETH, answer->bytes, before + quoted, BPF_F_RECOMPUTE_CSUM))
		return false;
	p->skb->mark = 0;
	p->out = nexthop->ifindex;
	if (six)
		by_neighbour6(p, nexthop);
	else
		by_neighbour4(p, nexthop);
	return true;
}

/* IPv4: the pod's address and port, nothing else. */
static __always_inline int translate(struct packet *p, struct rewrite *new)
{
	int error;

	if (p->trace)
		return REASON_REWRITTEN;
	if (p->fragment) {
		error = rewrite_fragment(p, &new->address, new->port, false, 0, false);
	} else {
		error = fix_l4(p, &p->destination, &new->address, p->destination_port, new->port, false);
		/* what the port adds to the sum its checksum takes away */
		error |= bpf_skb_store_bytes(p->skb, p->l4 + (is_echo(p, false) ? 4 : 2), &new->port, 2, 0);
		error |= store_ip(p->skb, &p->destination, &new->address, false, 0, false);
	}
	return error ? REASON_DROP_MALFORMED : REASON_REWRITTEN;
}

static __always_inline bool may_be_cut(struct packet *p)
{
	__be16 offset = bpf_htons(IP_DF);

	bpf_skb_load_bytes(p->skb, ETH + offsetof(struct iphdr, frag_off), &offset, 2);
	return !(offset & bpf_htons(IP_DF));
}

/* An answer with its TTL used up, or larger than the pod takes. */
static __always_inline int undeliverable(struct packet *p, struct pod *pod, struct rewrite *new, bool six)
{
	const bool expired = p->ttl <= 1;
	int reason = expired ? REASON_DROP_TTL : REASON_DROP_MTU;

	if (!six && !expired && may_be_cut(p))
		return translate(p, new);
	if (p->trace)
		return reason;
	swap_ends(p);
	if (!tell_sender(p,
			 expired ? (six ? ICMPV6_TIME_EXCEED : ICMP_TIME_EXCEEDED) :
				   (six ? ICMPV6_PKT_TOOBIG : ICMP_DEST_UNREACH),
			 !six && !expired ? 4 : 0, expired ? 0 : pod->mtu, six))
		p->action = TC_ACT_SHOT;
	swap_ends(p);
	return reason;
}

static __attribute__((noinline)) int undeliverable4(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return undeliverable(p, pod, new, false);
}

static __attribute__((noinline)) int undeliverable6(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return undeliverable(p, pod, new, true);
}

/* From a pod: see above. IPv6 has no such packets. */
static __attribute__((noinline)) int too_big_to_leave4(struct packet *p)
{
	struct iphdr ip;
	__be16 old;

	if (p->trace || !may_be_cut(p) || bpf_skb_load_bytes(p->skb, ETH, &ip, sizeof(ip)))
		return REASON_MTU;
	old = ip.frag_off;
	ip.frag_off |= bpf_htons(IP_DF);
	ip.check = checksum_after(ip.check, difference2(old, ip.frag_off));
	return store(p->skb, ETH, &ip, sizeof(ip)) ? REASON_DROP_MALFORMED : REASON_MTU;
}

#endif
