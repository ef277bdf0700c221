/* SPDX-License-Identifier: GPL-2.0-only */
/* The hot path from a pod: see hot_path.h. */
#ifndef HOSTROUTE_HOT_PATH_OUT4_H
#define HOSTROUTE_HOT_PATH_OUT4_H

#include "maps.h"
#include "packet.h"
#include "kernel_skb.h"
#include "packet_write.h"
#include "generation.h"
#include "route.h"
#include "tcp_state.h"
#include "owner.h"
#include "send.h"
#include "hot_path.h"
#include "hot_path_edge.h"
#include "hot_path_out6.h"

/* MAC of an on-link destination; NULL: the kernel has to be asked. */
static __attribute__((noinline)) const __u8 *known_mac4(__u32 ifindex, __be32 destination)
{
	struct address address = { .low = MAPPED(destination) };
	struct neighbour *neighbour = neighbour_of(ifindex, &address);

	return neighbour && neighbour->known ? neighbour->mac : NULL;
}

static int hot_edge4(struct __sk_buff *skb, struct device *device);

/*
 * Of a GSO packet, or where the destination is on-link: the MACs if it fits and
 * they are known, unless `eth` is NULL. The next hop's device; 0: nothing was
 * written. Not inlined, and with its own writes: else the others would have
 * fewer registers.
 */
static __attribute__((noinline)) __u32 write_macs4(struct __sk_buff *skb, struct ethhdr *eth,
						   const struct nexthop *nexthop, __be32 remote)
{
	const __u8 *mac = nexthop->mac;

	if (!fits4(skb, skb->len - ETH, nexthop->mtu))
		return 0;
	if (!nexthop->mac_known) { /* nor is it where there is no gateway */
		if (nexthop->flags & NEXTHOP_GATEWAY)
			return 0;
		mac = known_mac4(nexthop->ifindex, remote);
		if (!mac)
			return 0;
	}
	if (eth)
		copy_both_macs(eth->h_dest, mac, nexthop->source_mac);
	return nexthop->ifindex;
}

/* All that write_macs4() needs is there: most often no more is to be asked. */
static __always_inline bool may_leave4(struct __sk_buff *skb, const struct nexthop *nexthop, __be32 remote)
{
	return (skb->len - ETH <= nexthop->mtu && nexthop->mac_known) || write_macs4(skb, NULL, nexthop, remote);
}

/* The pod's first ACK, or one after a RST. false: it is the stages'. Not inlined: as write_macs4(). */
static __attribute__((noinline)) int notes_ack4(struct __sk_buff *skb, struct flow *flow, const struct nexthop *nexthop,
						__be32 remote, __be32 ack)
{
	if ((flow->tcp & SEEN_RESET) || !may_leave4(skb, nexthop, remote))
		return false;
	flow->expected = ack;
	see(flow, SEEN_ACK);
	return true;
}

/* A function: of `from` clang knows no alignment here, so it reads both in one go; and not what for. */
static __always_inline void copy_both_addresses(struct tuple4 *tuple, const void *from)
{
	__u64 both = *(const __u64 *)from;

	asm volatile("" : "+r"(both));
	*(__u64 *)&tuple->local = both;
}

/* `edge`: see hot_edge4(). */
static __always_inline bool hot_to_uplink4(struct __sk_buff *skb, struct device *device, struct ethhdr *eth, bool tcp,
					   bool edge, int *action)
{
	struct tuple4 tuple __attribute__((aligned(8)));
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *port = (void *)(ip + 1);
	struct nexthop *nexthop;
	struct flow *flow;
	__u64 way;
	__u32 now, ifindex;

	/* What the caller has read is read again where it is needed: kept, it would be spilled, for packets to pods,
	 * too. */
	asm volatile("" : : : "memory");
	/* the length is the packet's own: with the header in reach it is long enough */
	if (!whole_l4(skb, ip, tcp) || (tcp && *(__u8 *)&port[6] < 5 << 4))
		return false;
	/* both addresses, and both ports, as they stand there */
	copy_both_addresses(&tuple, &ip->saddr);
	*(__u32 *)&tuple.local_port = *(__u32 *)port;
	*(__u32 *)&tuple.protocol = 0;
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	if (!edge && is_translating() && may_be_stacks(tuple.local, tuple.remote) && opens_nothing(ip + 1, tcp)) {
		__u32 owner = hot_owner4(&tuple, device->pod_id);

		if (owner > FLOW_FAST)
			return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
		asm volatile("" : : : "memory");
	}
	if (edge ? !is_edge((void *)port, TCP_SYN) && !is_edge((void *)port, TCP_FIN | TCP_ACK) :
		   !in_the_middle((void *)port, tcp)) {
		if (edge || !tcp)
			return false;
		*action = hot_edge4(skb, device);
		return *action != FOR_STAGES;
	}
	flow = bpf_map_lookup_elem(&flows4, &tuple);
	if (!flow) {
		if (tcp && !(edge && is_edge((void *)port, TCP_SYN)))
			return false;
		*action = open4(skb, &tuple);
		if (*action != MADE)
			return *action != FOR_STAGES;
		flow = made_flow();
		if (!flow)
			return false;
	} else if (edge && is_edge((void *)port, TCP_SYN)) {
		return false;
	}
	if (flow->pod_id != device->pod_id || flow->life != FLOW_LIVE ||
	    (flow->verdict == FLOW_SNAT && !tells_checksum_state()))
		return false;
	way = way_of(flow);
	if (!is_current_way_of(flow, way))
		return false;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return false;
	if (edge) {
		if (!may_leave4(skb, nexthop, ip->daddr) || !joins_edge(flow, port))
			return false;
	} else if (tcp && __builtin_expect((flow->tcp & (SEEN_ACK | SEEN_RESET)) != SEEN_ACK, 0) &&
		   !notes_ack4(skb, flow, nexthop, ip->daddr, ((const struct tcphdr *)port)->ack_seq)) {
		return false;
	}
	if (__builtin_expect(skb->len - ETH <= nexthop->mtu && nexthop->mac_known, 1)) {
		ifindex = nexthop->ifindex;
		copy_both_macs(eth->h_dest, nexthop->mac, nexthop->source_mac);
	} else {
		ifindex = write_macs4(skb, eth, nexthop, ip->daddr);
		if (!ifindex)
			return false;
	}
	/* both as early as can be: neither next hop nor device is needed any more */
	bpf_redirect(ifindex, 0);
	count_whole(device, REASON_TO_UPLINK, skb);
	if (__builtin_expect(ip->tos, 0))
		skb->priority = priority_of(ip->tos);
	if (flow->verdict == FLOW_SNAT) {
		write_source4(skb, ip, flow, tcp);
	} else {
		decrease_ttl4(ip);
	}
	if (tcp && !edge)
		flow->expected = ((const struct tcphdr *)port)->ack_seq;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	*action = TC_ACT_REDIRECT;
	return true;
}

/*
 * The same for the packet that opens a connection, or the pod's end of it. Not
 * inlined: the others would pay for the questions. An action, or FOR_STAGES.
 */
static __attribute__((noinline)) int hot_edge4(struct __sk_buff *skb, struct device *device)
{
	struct ethhdr *eth = DATA(skb);
	int action;

	if (device && (void *)(eth + 1) + sizeof(struct iphdr) <= END(skb) &&
	    hot_to_uplink4(skb, device, eth, true, true, &action))
		return action;
	return FOR_STAGES;
}

/*
 * Between local pods of which one is shared: whose flow it is. To a shared one
 * the opening of a flow is looked at, as it may clash with one of the stack's
 * (owner_of_local()). Not inlined: see hot_owner4().
 */
static __attribute__((noinline)) __u32 local_owner4(struct __sk_buff *skb, __u32 pod_id, __u32 to, __u32 to_id)
{
	struct iphdr *ip = DATA(skb) + ETH;
	__be16 *port = (void *)(ip + 1);
	struct tuple4 tuple = {};
	struct owner *clashing;
	__u32 owner;
	bool shared = is_shared(skb->ifindex);

	if ((void *)(ip + 1) > END(skb))
		return FLOW_UNKNOWN;
	if (ip->protocol == IPPROTO_TCP ? !whole_l4(skb, ip, true) || !opens_nothing(ip + 1, true) :
	    ip->protocol == IPPROTO_UDP ? !whole_l4(skb, ip, false) :
					  true)
		return FLOW_UNKNOWN;
	/* in the middle of a flow; or a pair that has none */
	if ((!shared && ip->protocol == IPPROTO_TCP) || !may_be_stacks(ip->saddr, ip->daddr))
		return FLOW_FAST;
	tuple.local = ip->saddr;
	tuple.remote = ip->daddr;
	if ((void *)(port + 2) > END(skb))
		return FLOW_UNKNOWN;
	tuple.local_port = port[0];
	tuple.remote_port = port[1];
	tuple.protocol = ip->protocol;
	if (shared) {
		owner = hot_owner4(&tuple, pod_id);
		if (owner != FLOW_FAST || ip->protocol == IPPROTO_TCP)
			return owner;
	}
	if (!is_shared(to))
		return FLOW_FAST;
	tuple.local = ip->daddr;
	tuple.remote = ip->saddr;
	tuple.local_port = port[1];
	tuple.remote_port = port[0];
	clashing = bpf_map_lookup_elem(&owners4, &tuple);
	return clashing && clashing->reason && still_counts(clashing, to_id, bpf_jiffies64()) ? FLOW_UNKNOWN :
												FLOW_FAST;
}

/*
 * The rest of the way between local pods of which one is shared. Not inlined, and
 * the end: the others have all registers for themselves.
 */
static __attribute__((noinline)) int hot_shared4(struct __sk_buff *skb, struct device *device, struct pod_slot *slot)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	int action = FOR_STAGES;
	__u32 owner;

	if (!device || !slot || (void *)(ip + 1) > END(skb))
		return FOR_STAGES;
	owner = local_owner4(skb, device->pod_id, slot->pod.ifindex, slot->pod.id);
	if (owner == FLOW_FAST) {
		decrease_ttl4(ip);
		deliver(skb, device, &slot->pod, eth, &action);
	} else if (owner > FLOW_ASK) {
		leave_to_stack(skb, device, owner, &action);
	}
	return action;
}

/*
 * The slot is looked up first: what was read before it would have to be read
 * again after it. A padded packet is for the stages, pods send none.
 */
static __always_inline bool hot_from_pod4(struct __sk_buff *skb, struct device *device, int *action)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	struct pod_slot *slot;
	__u32 length;

	if ((void *)(ip + 1) > END(skb))
		return false;
	slot = slot_of4(ip->daddr);
	if (!slot)
		return false;
	length = skb->len - ETH;
	if (ip->saddr != device->address4 || bpf_ntohs(ip->tot_len) != length || !plain_header4(ip))
		return false;
	if (slot->address4 != ip->daddr)
		return slot->more || (device->flags & DEVICE_STACK4) ? false :
		       ip->protocol == IPPROTO_TCP ? hot_to_uplink4(skb, device, eth, true, false, action) :
		       ip->protocol == IPPROTO_UDP ? hot_to_uplink4(skb, device, eth, false, false, action) :
						     false;
	/*
	 * special4() is not asked: both ends have host routes, so the kernel would
	 * forward, too; and 0 is nobody's: nothing fits into an empty slot's MTU. A
	 * class may know another way.
	 */
	if (slot->pod.ifindex == device->ifindex || (device->flags & (DEVICE_STACK4 | DEVICE_CLASS4)) ||
	    !fits4(skb, length, slot->pod.mtu))
		return false;
	/* its first may have been too big: see follow_first() */
	if (device->mtu > slot->pod.mtu && (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)))
		return false;
	if (is_translating() && (is_shared(device->ifindex) || is_shared(slot->pod.ifindex))) {
		*action = hot_shared4(skb, device, slot);
		return *action != FOR_STAGES;
	}
	decrease_ttl4(ip);
	return deliver(skb, device, &slot->pod, eth, action);
}

static __always_inline bool hot_from_pod(struct __sk_buff *skb, struct device *device, int *action)
{
	if (!may_take_hot_path(skb))
		return false;
	if (__builtin_expect(skb->protocol == bpf_htons(ETH_P_IP), 1))
		return hot_from_pod4(skb, device, action);
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? hot_from_pod6(skb, device, action) : false;
}

#endif
