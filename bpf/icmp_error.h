/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors about SNATed flows (RFC 5508): the packet inside the error has
 * the flow's other face, so the inner address, port and checksums change along
 * with the outer address. Rare packets: every write goes through
 * bpf_skb_store_bytes with BPF_F_RECOMPUTE_CSUM, which keeps every state of
 * ip_summed right, and no speed is sought.
 */
#ifndef HOSTROUTE_ICMP_ERROR_H
#define HOSTROUTE_ICMP_ERROR_H

/* The packet inside an ICMP error; `local` is the side that NAT changes. */
struct inner {
	__u32 ip; /* offset of its IP header */
	__u32 l4; /* offset of its transport header */
	__u8 protocol;
	__u8 local_is_source;
	struct address source;
	struct address destination;
	__be16 source_port; /* echo: identifier in both */
	__be16 destination_port;
};

static __always_inline bool is_icmp_error(const struct packet *p, bool six)
{
	if (!is_echo(p, six) || p->tracked)
		return false;
	if (six)
		return p->icmp_type >= ICMPV6_DEST_UNREACH && p->icmp_type <= ICMPV6_PARAMPROB;
	return p->icmp_type == ICMP_DEST_UNREACH || p->icmp_type == ICMP_SOURCE_QUENCH ||
	       p->icmp_type == ICMP_TIME_EXCEEDED || p->icmp_type == ICMP_PARAMETERPROB;
}

/* GO_ON: `inner` is a packet whose flow can be looked up. */
static __always_inline int parse_inner(struct packet *p, struct inner *inner, bool six)
{
	__be16 ports[4]; /* the eight bytes that every error carries */

	inner->ip = p->l4 + sizeof(struct icmp_header);
	if (six) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(p->skb, inner->ip, &ip, sizeof(ip)))
			return REASON_MALFORMED;
		__builtin_memcpy(&inner->source, &ip.saddr, 16);
		__builtin_memcpy(&inner->destination, &ip.daddr, 16);
		inner->protocol = ip.nexthdr;
		inner->l4 = inner->ip + sizeof(ip);
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(p->skb, inner->ip, &ip, sizeof(ip)) || ip.ihl < 5)
			return REASON_MALFORMED;
		if (ip.frag_off & bpf_htons(IP_OFFSET))
			return REASON_FRAGMENT;
		inner->source.high = 0;
		inner->source.low = MAPPED(ip.saddr);
		inner->destination.high = 0;
		inner->destination.low = MAPPED(ip.daddr);
		inner->protocol = ip.protocol;
		inner->l4 = inner->ip + ip.ihl * 4;
	}
	if (inner->l4 + sizeof(ports) > p->end || bpf_skb_load_bytes(p->skb, inner->l4, ports, sizeof(ports)))
		return REASON_MALFORMED;
	switch (inner->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		inner->source_port = ports[0];
		inner->destination_port = ports[1];
		return GO_ON;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		inner->source_port = inner->destination_port = ports[2];
		return GO_ON;
	}
	return REASON_PROTOCOL;
}

static __always_inline void tuple_of_inner(union tuple *tuple, const struct inner *inner, bool six)
{
	bool echo = inner->protocol == IPPROTO_ICMP || inner->protocol == IPPROTO_ICMPV6;

	if (inner->local_is_source)
		make_tuple(tuple, &inner->source, &inner->destination, inner->source_port,
			   echo ? 0 : inner->destination_port, inner->protocol, six);
	else
		make_tuple(tuple, &inner->destination, &inner->source, inner->destination_port,
			   echo ? 0 : inner->source_port, inner->protocol, six);
}

static __always_inline int store(struct packet *p, __u32 offset, const void *from, __u32 length)
{
	return bpf_skb_store_bytes(p->skb, offset, from, length, BPF_F_RECOMPUTE_CSUM);
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
static __always_inline int store_ip(struct packet *p, const struct address *old, const struct address *address,
				    bool source, __u8 hops, bool six)
{
	int error;

	if (six) {
		/* two words, not the header: there is not stack enough for it. From an even place on, for the sum's
		 * sake. */
		__u8 next_and_hops[2];

		error = bpf_skb_load_bytes(p->skb, ETH + offsetof(struct ipv6hdr, nexthdr), next_and_hops, 2);
		next_and_hops[1] -= hops;
		error |= store(p, ETH + offsetof(struct ipv6hdr, nexthdr), next_and_hops, 2);
		error |= store(p, ETH + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
			       address, 16);
	} else {
		struct iphdr ip;
		__u16 *word = (__u16 *)&ip.ttl, old_word;
		__be32 plain = PLAIN(*address);

		error = bpf_skb_load_bytes(p->skb, ETH, &ip, sizeof(ip));
		old_word = *word;
		ip.ttl -= hops;
		ip.check = checksum_after(ip.check, difference2(old_word, *word) + difference4(PLAIN(*old), plain));
		if (source)
			ip.saddr = plain;
		else
			ip.daddr = plain;
		error |= store(p, ETH, &ip, sizeof(ip));
	}
	return error;
}

/*
 * Rewrites the inner local address and port, the outer address that mirrors it
 * (an error for a flow's local side is sent to it, or by it), the outer TTL and
 * all checksums. 0, or a negative error after which the packet must be dropped.
 */
static __always_inline int rewrite_error(struct packet *p, const struct inner *inner, const struct address *address,
					 __be16 port, bool six)
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
	check_offset = inner->l4 + (inner->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) :
				    inner->protocol == IPPROTO_UDP ? offsetof(struct udphdr, check) :
								     offsetof(struct icmp_header, checksum));
	/* of TCP the first eight bytes are often all there is */
	has_check = check_offset + 2 <= p->end && !bpf_skb_load_bytes(p->skb, check_offset, &old_check, 2) &&
		    (inner->protocol != IPPROTO_UDP || old_check);
	icmp_difference = difference2(old_port, port);
	if (has_check) {
		check = checksum_after(old_check, covered);
		if (!check && inner->protocol == IPPROTO_UDP)
			check = 0xffff;
		error |= store(p, check_offset, &check, 2);
		icmp_difference += difference2(old_check, check);
	}
	error |= store(p, inner->l4 + (echo ? 4 : source ? 0 : 2), &port, 2);

	if (six) {
		error |= store(p,
			       inner->ip + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr)),
			       address, 16);
		icmp_difference += difference16(old, address);
		icmp_difference += difference16(outer_old, address); /* pseudo header */
	} else {
		struct iphdr ip;
		__be32 plain = PLAIN(*address);

		/* the inner header's checksum balances the inner address */
		error |= bpf_skb_load_bytes(p->skb, inner->ip, &ip, sizeof(ip));
		ip.check = checksum_after(ip.check, difference4(PLAIN(*old), plain));
		if (source)
			ip.saddr = plain;
		else
			ip.daddr = plain;
		error |= store(p, inner->ip, &ip, sizeof(ip));
	}
	error |= store_ip(p, outer_old, address, !source, 1, six);
	error |= bpf_skb_load_bytes(p->skb, p->l4 + offsetof(struct icmp_header, checksum), &old_check, 2);
	check = checksum_after(old_check, fold(icmp_difference));
	error |= store(p, p->l4 + offsetof(struct icmp_header, checksum), &check, 2);
	return error;
}

/* An error from outside about a flow that left with our address: to its pod. */
static __always_inline int error_to_pod(struct packet *p, bool six)
{
	struct inner inner = { .local_is_source = 1 };
	struct reverse *reverse;
	struct address address;
	union tuple tuple;
	struct pod *pod;
	int reason;

	reason = parse_inner(p, &inner, six);
	if (reason != GO_ON)
		return reason;
	/* it must be for the address that the inner packet came from */
	if (!same_address(&p->destination, &inner.source))
		return REASON_NODE;
	tuple_of_inner(&tuple, &inner, six);
	reverse = reverse_of(&tuple, six);
	trace(p, TRACE_ICMP_ERROR | TRACE_ASKED_REVERSE, 0);
	if (!reverse || !usable(p, &reverse->life))
		return REASON_NODE;
	__builtin_memcpy(&address, reverse->pod, 16);
	pod = pod_of(&address, six);
	if (!pod || pod->id != reverse->pod_id)
		return REASON_NODE;
	trace(p, TRACE_REVERSE, trace_pod(p, pod, 0));
	if (p->ttl <= 1)
		return REASON_DROP_TTL; /* nobody is told of an error's end */
	if (too_big(p, pod->mtu, six))
		return REASON_DROP_MTU;
	if (p->trace)
		return trace_to_pod(p, pod, &address, reverse->pod_port);
	if (rewrite_error(p, &inner, &address, reverse->pod_port, six))
		return REASON_DROP_MALFORMED;
	if (store_macs(p, pod))
		return REASON_DROP_MALFORMED;
	return hand_over(p, pod, &address, six);
}

/*
 * An error that a pod sends about a packet it was sent over a SNATed flow: it
 * leaves with the flow's face. GO_ON: no such flow, route it like any packet.
 */
static __always_inline int error_from_pod(struct packet *p, bool six)
{
	struct inner inner = {};
	struct nexthop *nexthop;
	const struct address *address;
	union tuple tuple;
	struct flow *flow;
	__u32 index = 0;
	int reason;

	reason = parse_inner(p, &inner, six);
	if (reason != GO_ON)
		return reason;
	if (!same_address(&p->source, &inner.destination))
		return GO_ON;
	tuple_of_inner(&tuple, &inner, six);
	flow = flow_of(&tuple, six);
	if (!flow || flow->pod_id != p->device->pod_id || !usable(p, &flow->life))
		return GO_ON;
	trace_flow(p, flow, TRACE_FLOW | TRACE_ICMP_ERROR, 0);
	if (flow->verdict == FLOW_STACK)
		return REASON_OLDER_FLOW;
	if (flow->verdict != FLOW_SNAT) {
		p->related = 1;
		return GO_ON;
	}
	reason = choose_nexthop(p, six, (__u32)flow->route, &index);
	if (reason != GO_ON)
		return reason;
	nexthop = nexthop_at(index);
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six))
		return REASON_MTU;
	address = (void *)flow->nat_address;
	if (p->trace)
		return trace_sent(p, nexthop->ifindex, NULL, NULL, address, flow->nat_port, REASON_TO_NEIGHBOUR);
	if (rewrite_error(p, &inner, address, flow->nat_port, six))
		return REASON_DROP_MALFORMED;
	p->skb->mark = 0;
	p->out = nexthop->ifindex;
	return send_to_neighbour(p, nexthop, six);
}

static __attribute__((noinline)) int error_to_pod4(struct packet *p)
{
	return error_to_pod(p, false);
}

static __attribute__((noinline)) int error_to_pod6(struct packet *p)
{
	return error_to_pod(p, true);
}

static __attribute__((noinline)) int error_from_pod4(struct packet *p)
{
	return error_from_pod(p, false);
}

static __attribute__((noinline)) int error_from_pod6(struct packet *p)
{
	return error_from_pod(p, true);
}

#endif
