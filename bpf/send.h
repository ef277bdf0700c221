/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The last stage: redirect, to a pod or away from the node, after packet_write.h
 * has rewritten the packet. A traced packet ends before that. Whether a pod can
 * have it: send_to_pod.h.
 */
#ifndef HOSTROUTE_SEND_H
#define HOSTROUTE_SEND_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "packet_write.h"
#include "tcp_state.h"

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

/* Not inlined where stages that are passed often would pay for it with stack. */
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

/*
 * Away from the node. A MAC is used only while the kernel vouches for it. One
 * that is there but stale is for bpf_redirect_neigh, which has it refreshed.
 * That would also resolve an absent one, but tell nobody when it cannot be; so
 * the stack gets the packet, which delivers it or answers host unreachable. Not
 * if SNAT is due: the stack would send it with the pod's address.
 */
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
