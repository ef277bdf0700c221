/* SPDX-License-Identifier: GPL-2.0-only */
/* The hot path of IPv6 from a pod, without headers before the transport's: see hot_path.h. */
#ifndef HOSTROUTE_HOT_PATH_OUT6_H
#define HOSTROUTE_HOT_PATH_OUT6_H

#include "maps.h"
#include "packet.h"
#include "kernel_skb.h"
#include "packet_write.h"
#include "parse.h"
#include "pods.h"
#include "generation.h"
#include "route.h"
#include "tcp_state.h"
#include "owner.h"
#include "send.h"
#include "hot_path.h"
#include "hot_path_edge.h"

/*
 * Of a GSO packet, or where the destination is on-link: the MACs if it fits and
 * they are known, unless `eth` is NULL. The next hop's device; 0: nothing was
 * written. Not inlined, and with its own writes: else the others would have
 * fewer registers.
 */
static __attribute__((noinline)) __u32 write_macs6(struct __sk_buff *skb, struct ethhdr *eth,
						   const struct nexthop *nexthop, const struct tuple6 *tuple)
{
	const __u8 *mac = nexthop->mac;
	struct neighbour *neighbour;

	if (!fits6(skb, skb->len - ETH, nexthop->mtu))
		return 0;
	if (!nexthop->mac_known) { /* nor is it where there is no gateway */
		if (nexthop->flags & NEXTHOP_GATEWAY)
			return 0;
		neighbour = neighbour_of(nexthop->ifindex, (const struct address *)tuple->remote);
		if (!neighbour || !neighbour->known)
			return 0;
		mac = neighbour->mac;
	}
	if (eth)
		copy_both_macs(eth->h_dest, mac, nexthop->source_mac);
	return nexthop->ifindex;
}

/* As may_leave4(). */
static __always_inline bool may_leave6(struct __sk_buff *skb, const struct nexthop *nexthop, const struct tuple6 *tuple)
{
	return (skb->len - ETH <= nexthop->mtu && nexthop->mac_known) || write_macs6(skb, NULL, nexthop, tuple);
}

/* The pod's first ACK, or one after a RST. false: it is the stages'. Not inlined: as write_macs6(). */
static __attribute__((noinline)) int notes_ack6(struct __sk_buff *skb, struct flow *flow, const struct nexthop *nexthop,
						const struct tuple6 *tuple, __be32 ack)
{
	if ((flow->tcp & SEEN_RESET) || !may_leave6(skb, nexthop, tuple))
		return false;
	flow->expected = ack;
	see(flow, SEEN_ACK);
	return true;
}

/* The header is plain, the source the pod's own, the destination no pod's. `edge`: see hot_edge6(). */
static __always_inline bool hot_leave6(struct __sk_buff *skb, struct device *device, struct ethhdr *eth, bool tcp,
				       bool edge, int *action)
{
	struct tuple6 tuple __attribute__((aligned(8)));
	struct ipv6hdr *ip = (void *)(eth + 1);
	__u8 *l4 = (void *)(ip + 1);
	struct nexthop *nexthop;
	struct flow *flow;
	__u64 way;
	__u32 now, ifindex;

	/* the length is the packet's own: with the header in reach it is long enough */
	if (!in_reach6(skb, l4, tcp) || (tcp && l4[12] < 5 << 4))
		return false;
	fill_tuple6(&tuple, &ip->saddr, &ip->daddr, *(__u32 *)l4, tcp);
	if (!edge && is_translating() && opens_nothing(l4, tcp)) {
		__u32 owner = hot_owner6(&tuple, device->pod_id);

		if (owner > FLOW_FAST)
			return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
	}
	if (edge ? !is_edge(l4, TCP_SYN) && !is_edge(l4, TCP_FIN | TCP_ACK) : !in_the_middle(l4, tcp)) {
		if (edge || !tcp)
			return false;
		*action = FOR_EDGE;
		return true;
	}
	flow = bpf_map_lookup_elem(&flows6, &tuple);
	if (!flow) {
		if (tcp && !(edge && is_edge(l4, TCP_SYN)))
			return false;
		*action = open6(skb, &tuple);
		if (*action != MADE)
			return *action != FOR_STAGES;
		flow = made_flow();
		if (!flow)
			return false;
	} else if (edge && is_edge(l4, TCP_SYN)) {
		return false;
	}
	if (flow->pod_id != device->pod_id || flow->life != FLOW_LIVE ||
	    (flow->verdict == FLOW_SNAT && (!tells_checksum_state() || without_checksum6(l4, tcp))))
		return false;
	way = way_of(flow);
	if (!is_current_way_of(flow, way))
		return false;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return false;
	if (edge) {
		if (!may_leave6(skb, nexthop, &tuple) || !joins_edge(flow, l4))
			return false;
	} else if (tcp && __builtin_expect((flow->tcp & (SEEN_ACK | SEEN_RESET)) != SEEN_ACK, 0) &&
		   !notes_ack6(skb, flow, nexthop, &tuple, ((const struct tcphdr *)l4)->ack_seq)) {
		return false;
	}
	if (__builtin_expect(skb->len - ETH <= nexthop->mtu && nexthop->mac_known, 1)) {
		ifindex = nexthop->ifindex;
		copy_both_macs(eth->h_dest, nexthop->mac, nexthop->source_mac);
	} else {
		ifindex = write_macs6(skb, eth, nexthop, &tuple);
		if (!ifindex)
			return false;
	}
	/* both as early as can be: neither next hop nor device is needed any more */
	bpf_redirect(ifindex, 0);
	count_whole(device, REASON_TO_UPLINK, skb);
	decrease_hop_limit(ip);
	if (flow->verdict == FLOW_SNAT) {
		write_source6(skb, ip, flow, tcp);
	}
	if (tcp && !edge)
		flow->expected = ((const struct tcphdr *)l4)->ack_seq;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	*action = TC_ACT_REDIRECT;
	return true;
}

/*
 * Not inlined: all registers for itself, and stack that the stages do not have
 * to pay for. Both headers are in reach. An action, FOR_STAGES or FOR_EDGE.
 */
static __attribute__((noinline)) int hot_to_uplink6(struct __sk_buff *skb, struct device *device, struct ethhdr *eth)
{
	const struct ipv6hdr *ip = (void *)(eth + 1);
	int action;

	/* a padded packet is for the stages, pods send none */
	if (bpf_ntohs(ip->payload_len) + ETH + sizeof(*ip) == skb->len && !(device->flags & DEVICE_STACK6) &&
	    (__builtin_expect(ip->nexthdr == IPPROTO_TCP, 1) ? hot_leave6(skb, device, eth, true, false, &action) :
	     ip->nexthdr == IPPROTO_UDP                      ? hot_leave6(skb, device, eth, false, false, &action) :
							       false))
		return action;
	/* else clang would keep this constant in a register all the way */
	asm volatile("" : : : "memory");
	return FOR_STAGES;
}

/* As hot_edge4(). */
static __attribute__((noinline)) int hot_edge6(struct __sk_buff *skb, struct device *device)
{
	struct ethhdr *eth = DATA(skb);
	int action;

	if (device && (void *)(eth + 1) + sizeof(struct ipv6hdr) <= END(skb) &&
	    hot_leave6(skb, device, eth, true, true, &action))
		return action;
	return FOR_STAGES;
}

static __attribute__((noinline)) __u32 local_owner6(struct __sk_buff *skb, __u32 pod_id, __u32 to)
{
	struct ipv6hdr *ip = DATA(skb) + ETH;
	const struct tcphdr *tcp = (void *)(ip + 1);
	struct tuple6 tuple = {};

	/* to be plain it must be long enough for TCP, whatever it is */
	if ((void *)(tcp + 1) > END(skb) ||
	    (ip->nexthdr == IPPROTO_TCP && (((const __u8 *)tcp)[13] & (TCP_FIN | TCP_SYN | TCP_RST))))
		return FLOW_UNKNOWN;
	if (ip->nexthdr != IPPROTO_TCP && is_shared(to))
		return FLOW_UNKNOWN;
	if (!is_shared(skb->ifindex))
		return FLOW_FAST;
	__builtin_memcpy(tuple.local, &ip->saddr, 16);
	__builtin_memcpy(tuple.remote, &ip->daddr, 16);
	tuple.local_port = tcp->source;
	tuple.remote_port = tcp->dest;
	tuple.protocol = ip->nexthdr;
	return hot_owner6(&tuple, pod_id);
}

static __always_inline bool hot_from_pod6(struct __sk_buff *skb, struct device *device, int *action)
{
	struct ethhdr *eth = DATA(skb);
	struct ipv6hdr *ip = (void *)(eth + 1);
	const struct address *source = (void *)&ip->saddr, *destination = (void *)&ip->daddr;
	struct pod_slot *slot;
	__u32 index;

	if ((void *)(ip + 1) > END(skb) || !plain_header6(ip) || !same_address(source, device->address6))
		return false;
	index = pod_slot_index(destination, true);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return false;
	if (!same_address(destination, slot->address)) {
		*action = slot->more ? FOR_STAGES : hot_to_uplink6(skb, device, eth);
		if (*action > FOR_STAGES)
			return true;
		if (*action == FOR_EDGE)
			*action = hot_edge6(skb, device);
		return *action != FOR_STAGES;
	}
	/* a class may know another way */
	if (!ip->payload_len || bpf_ntohs(ip->payload_len) + sizeof(*ip) > skb->len - ETH ||
	    (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP) ||
	    (device->flags & (DEVICE_STACK6 | DEVICE_CLASS6)) || special6(source) || special6(destination) ||
	    slot->pod.ifindex == device->ifindex || !fits6(skb, skb->len - ETH, slot->pod.mtu))
		return false;
	if (is_translating() && (is_shared(device->ifindex) || is_shared(slot->pod.ifindex))) {
		__u32 owner = local_owner6(skb, device->pod_id, slot->pod.ifindex);

		if (owner != FLOW_FAST)
			return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
	}
	decrease_hop_limit(ip);
	return deliver(skb, device, &slot->pod, eth, action);
}

#endif
