/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The last stage: rewrite and redirect. All writes of a packet are here and in
 * fix_l4(); after the first one nothing may return to the stack. A traced packet
 * ends before them.
 */
#ifndef HOSTROUTE_SEND_H
#define HOSTROUTE_SEND_H

/* What NAT changes in the headers; nothing if `what` is NAT_NONE. */
enum nat { NAT_NONE, NAT_SOURCE, NAT_DESTINATION };

struct rewrite {
	enum nat what;
	struct address address;
	__be16 port;
};

/* undeliverable.h */
static int too_big_to_leave4(struct packet *p);
static int undeliverable4(struct packet *p, struct pod *pod, struct rewrite *new);
static int undeliverable6(struct packet *p, struct pod *pod, struct rewrite *new);

/* Between a map's value and a packet. Not memcpy: clang would copy single bytes. */
static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(__u32 *)to = *(const __u32 *)from;
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

static __always_inline bool no_mac(const __u8 *mac)
{
	return !(*(const __u32 *)mac | *(const __u16 *)(mac + 4));
}

static __always_inline void write_port(struct packet *p, void *l4, __be16 port, bool source)
{
	__be16 *at = l4;

	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		at += 2; /* the echo identifier */
	else if (!source)
		at += 1;
	*at = port;
}

/* Checks that all is writable before the first write. false: nothing was changed. */
static __always_inline bool rewrite(struct packet *p, const struct rewrite *new, bool six)
{
	struct __sk_buff *skb = p->skb;
	const __u32 l4 = l4_of(p, six);
	const bool source = new->what == NAT_SOURCE;
	struct ethhdr *eth;
	void *port;

	if (new->what != NAT_NONE && fix_l4(p, source ? &p->source : &p->destination, &new->address,
					    source ? p->source_port : p->destination_port, new->port, six))
		return false;
	eth = DATA(skb);
	port = DATA(skb) + l4;
	if ((void *)(eth + 1) + (six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > END(skb) ||
	    (new->what != NAT_NONE &&port + 8 > END(skb)))
		return false;
	if (six) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		__u16 *word = (__u16 *)&ip->nexthdr;
		__u16 old = *word;

		ip->hop_limit--;
		/* No header checksum balances this in a CHECKSUM_COMPLETE sum. */
		if (new->what == NAT_SOURCE)
			__builtin_memcpy(&ip->saddr, &new->address, 16);
		else if (new->what == NAT_DESTINATION)
			__builtin_memcpy(&ip->daddr, &new->address, 16);
		if (p->device->kind == DEVICE_UPLINK)
			bpf_csum_update(skb, fold(difference2(old, *word)));
	} else {
		struct iphdr *ip = (void *)(eth + 1);

		decrease_ttl4(ip);
		if (new->what == NAT_SOURCE) {
			ip->check = checksum_after(ip->check, difference4(ip->saddr, PLAIN(new->address)));
			ip->saddr = PLAIN(new->address);
		} else if (new->what == NAT_DESTINATION) {
			ip->check = checksum_after(ip->check, difference4(ip->daddr, PLAIN(new->address)));
			ip->daddr = PLAIN(new->address);
		}
	}
	if (new->what != NAT_NONE)
		write_port(p, port, new->port, source);
	return true;
}

/* After rewrite(): the header is in reach. */
static __always_inline void write_macs(struct packet *p, const __u8 *to, const __u8 *from)
{
	struct ethhdr *eth = DATA(p->skb);

	if ((void *)(eth + 1) > END(p->skb))
		return;
	copy_mac(eth->h_dest, to);
	copy_mac(eth->h_source, from);
}

/* Not inlined, for the stack's sake. */
static __attribute__((noinline)) int pod_by_neighbour(__u32 ifindex, const struct address *address, int six)
{
	struct bpf_redir_neigh neighbour = {};

	if (!address)
		return TC_ACT_SHOT;
	if (six) {
		neighbour.nh_family = AF_INET6;
		__builtin_memcpy(neighbour.ipv6_nh, address, 16);
	} else {
		neighbour.nh_family = AF_INET;
		neighbour.ipv4_nh = PLAIN(*address);
	}
	return bpf_redirect_neigh(ifindex, &neighbour, sizeof(neighbour), 0);
}

/* The last step into a pod with `address`; its MACs are written if the pod's is known. */
static __always_inline int hand_over(struct packet *p, struct pod *pod, const struct address *address, bool six)
{
	p->skb->mark = 0;
	p->out = pod->ifindex;
	if (pod->flags & POD_READY) {
		p->action = bpf_redirect_peer(pod->ifindex, 0);
		return REASON_TO_POD;
	}
	p->action = pod_by_neighbour(pod->ifindex, address, six);
	return REASON_TO_NEIGHBOUR;
}

/* Both steps for a traced packet. */
static __always_inline int trace_to_pod(struct packet *p, struct pod *pod, const struct address *nat, __be16 nat_port)
{
	const bool ready = pod->flags & POD_READY;

	trace_pod(p, pod, 0);
	return trace_sent(p, pod->ifindex, ready ? pod->mac : NULL, ready ? pod->host_mac : NULL, nat, nat_port,
			  ready ? REASON_TO_POD : REASON_TO_NEIGHBOUR);
}

/*
 * To a pod of this node. bpf_redirect_peer frees the packet after the program
 * when the peer is gone or down: the count then overstates; nothing can be done
 * here. Before 6.15 it leaves the mark set, so clear it.
 *
 * Without the pod's MAC the kernel's stack forwards, except for the answer to a
 * SNATed flow: it would take that for its own. The neighbour entry asks then.
 */
static __always_inline int send_to_pod(struct packet *p, struct pod *pod, struct rewrite *new, bool six)
{
	const bool ready = pod->flags & POD_READY;

	if (new->what != NAT_NONE && (p->ttl <= 1 || too_big(p, pod->mtu, six)))
		return six ? undeliverable6(p, pod, new) : undeliverable4(p, pod, new);
	if (p->ttl <= 1)
		return trace_pod(p, pod, REASON_TTL);
	if (!ready && new->what == NAT_NONE)
		return trace_pod(p, pod, REASON_POD_NOT_READY);
	if (too_big(p, pod->mtu, six))
		return trace_pod(p, pod, REASON_MTU);
	if (p->trace)
		return trace_to_pod(p, pod, new->what == NAT_NONE ? NULL : &new->address, new->port);
	if (!rewrite(p, new, six))
		return REASON_MALFORMED;
	if (ready)
		write_macs(p, pod->mac, pod->host_mac);
	return hand_over(p, pod, &new->address, six);
}

static __always_inline int send_to_neighbour(struct packet *p, struct nexthop *nexthop, bool six)
{
	struct bpf_redir_neigh neighbour = {};

	if (nexthop->flags & NEXTHOP_GATEWAY) {
		struct address gateway;

		__builtin_memcpy(&gateway, nexthop->gateway, 16);
		/* the low word of a v4-mapped address starts with 0000ffff */
		if (!gateway.high && MAPPED(PLAIN(gateway)) == gateway.low) {
			neighbour.nh_family = AF_INET;
			neighbour.ipv4_nh = PLAIN(gateway);
		} else {
			neighbour.nh_family = AF_INET6;
			__builtin_memcpy(neighbour.ipv6_nh, &gateway, 16);
		}
	} else if (six) {
		neighbour.nh_family = AF_INET6;
		__builtin_memcpy(neighbour.ipv6_nh, &p->destination, 16);
	} else {
		neighbour.nh_family = AF_INET;
		neighbour.ipv4_nh = PLAIN(p->destination);
	}
	p->action = bpf_redirect_neigh(nexthop->ifindex, &neighbour, sizeof(neighbour), 0);
	return REASON_TO_NEIGHBOUR;
}

/* Not inlined where the hot stages would pay for it with stack. */
static __attribute__((noinline)) int by_neighbour4(struct packet *p, struct nexthop *nexthop)
{
	return nexthop ? send_to_neighbour(p, nexthop, false) : REASON_ROUTE;
}

static __attribute__((noinline)) int by_neighbour6(struct packet *p, struct nexthop *nexthop)
{
	return nexthop ? send_to_neighbour(p, nexthop, true) : REASON_ROUTE;
}

static __attribute__((noinline)) struct neighbour *neighbour_of(__u32 ifindex, const struct address *address)
{
	struct neighbour_key key = { .ifindex = ifindex };

	if (!address)
		return NULL;
	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(&neighbours, &key);
}

/*
 * What conntrack takes for the beginning of a flow, or does not follow. Of the
 * rest it would say "invalid" in the stack, unless it has seen the beginning.
 */
static __always_inline bool may_begin(const struct packet *p, bool six)
{
	if (p->fragment)
		return true;
	if (p->protocol == IPPROTO_TCP)
		return !is_mid_flow(p);
	if (is_echo(p, six))
		return is_echo_request(p, six);
	return true;
}

/*
 * Away from the node. A MAC is used only while the kernel vouches for it. One
 * that is there but stale is for bpf_redirect_neigh, which has it refreshed.
 * That would also resolve an absent one, but tell nobody when it cannot be; so
 * the stack gets the packet, which delivers it or answers host unreachable. Not
 * if SNAT is due: the stack would send it with the pod's address.
 */
/* As ip_forward() sets it, for queueing disciplines (rt_tos2priority). IPv6 has no such thing. */
static __always_inline __u32 priority_of(__u8 tos)
{
	return 0x4444666622220000ULL >> ((tos & 0x1e) << 1) & 15;
}

static __always_inline void set_priority4(struct __sk_buff *skb)
{
	const struct iphdr *ip = DATA(skb) + ETH;

	if ((void *)(ip + 1) <= END(skb))
		skb->priority = priority_of(ip->tos);
}

static __always_inline int send_to_uplink(struct packet *p, struct nexthop *nexthop, struct rewrite *new, bool six)
{
	const __u8 *to = NULL;
	bool resolved = true;

	if (nexthop->flags & NEXTHOP_GATEWAY) {
		if (nexthop->mac_known)
			to = nexthop->mac;
		else
			resolved = !no_mac(nexthop->mac);
	} else {
		struct neighbour *neighbour = neighbour_of(nexthop->ifindex, &p->destination);

		if (neighbour && neighbour->known)
			to = neighbour->mac;
		resolved = neighbour; /* only with a MAC are they in the map */
	}
	if (!resolved && new->what == NAT_NONE && may_begin(p, six))
		return REASON_UNRESOLVED;
	if (p->trace)
		return trace_sent(p, nexthop->ifindex, to, to ? nexthop->source_mac : NULL,
				  new->what == NAT_NONE ? NULL : &new->address, new->port,
				  to ? REASON_TO_UPLINK : REASON_TO_NEIGHBOUR);
	if (!rewrite(p, new, six))
		return REASON_MALFORMED;
	p->skb->mark = 0;
	if (!six)
		set_priority4(p->skb);
	p->out = nexthop->ifindex;
	if (!to)
		return six ? by_neighbour6(p, nexthop) : by_neighbour4(p, nexthop);
	write_macs(p, to, nexthop->source_mac);
	p->action = bpf_redirect(nexthop->ifindex, 0);
	return REASON_TO_UPLINK;
}

#endif
