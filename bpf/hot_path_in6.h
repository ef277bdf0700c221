/* SPDX-License-Identifier: GPL-2.0-only */
/* The hot path of IPv6 from an uplink, without headers before the transport's: see hot_path.h. */
#ifndef HOSTROUTE_HOT_PATH_IN6_H
#define HOSTROUTE_HOT_PATH_IN6_H

#include "maps.h"
#include "packet.h"
#include "kernel_skb.h"
#include "packet_write.h"
#include "parse.h"
#include "pods.h"
#include "tcp_state.h"
#include "owner.h"
#include "hot_path.h"
#include "hot_path_edge.h"

/* As inbound_owner4(). No pair of IPv6 addresses is known to have no flow of the stack's, so all TCP is looked up. */
static __attribute__((noinline)) __u32 inbound_owner6(const struct pod *pod, const struct tuple6 *tuple)
{
	struct flow *flow;
	__u32 now, owner;

	if (!pod || !tuple)
		return FLOW_UNKNOWN;
	flow = bpf_map_lookup_elem(&flows6, tuple);
	if (!flow) {
		if (tuple->protocol == IPPROTO_TCP && !is_translating())
			return awaits_opener(pod->ifindex) ? FLOW_UNKNOWN : FLOW_FAST;
		owner = hot_owner6(tuple, pod->id);
		/* what is nobody else's gets an entry, but TCP in the middle */
		return owner == FLOW_FAST && (tuple->protocol == IPPROTO_UDP || (control.flags & CONTROL_HAND_OVER)) ?
			       FLOW_UNKNOWN :
			       owner;
	}
	if (flow->pod_id != pod->id || flow->life != FLOW_LIVE)
		return FLOW_UNKNOWN;
	/* the ACK of a SYN-ACK: see note_remote() */
	if (flow->verdict == FLOW_INBOUND && tuple->protocol == IPPROTO_TCP && !(flow->tcp & SEEN_REMOTE_ACK))
		return FLOW_UNKNOWN;
	/* the port may be another's, too: see may_be_another() */
	if (tuple->protocol == IPPROTO_UDP && is_translating() && port_is_remembered6(tuple, pod->id))
		return FLOW_UNKNOWN;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	return FLOW_FAST;
}

/* As may_be_pods4(). */
static __always_inline bool may_be_pods6(const struct address *address)
{
	__u32 index = pod_slot_index(address, true);
	struct pod_slot *slot = bpf_map_lookup_elem(&pod_slots, &index);

	return !slot || same_address(address, slot->address) || slot->more;
}

static int hot_answer6(struct __sk_buff *skb, const struct device *device);

/* The IP header is in reach. `edge`: see hot_answer6(). */
static __always_inline bool hot_arrive6(struct __sk_buff *skb, const struct device *device, bool tcp, bool edge,
					int *action)
{
	const __u32 headers = sizeof(struct ipv6hdr) + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr));
	struct tuple6 tuple __attribute__((aligned(8)));
	const struct address *local = (void *)tuple.local, *remote = (void *)tuple.remote;
	struct ethhdr *eth = DATA(skb);
	struct ipv6hdr *ip = (void *)(eth + 1);
	__u8 *l4 = (void *)(ip + 1);
	struct reverse *reverse;
	struct pod_slot *slot;
	__u32 index, ports, length, now;

	if (!in_reach6(skb, l4, tcp))
		return false;
	/* Ethernet pads small ones */
	length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (length > skb->len - ETH || length < headers || !plain_header6(ip) ||
	    (edge ? !is_answer_edge(l4) : tcp && l4[12] < 5 << 4))
		return false;
	if (!edge && !in_the_middle(l4, tcp)) {
		*action = hot_answer6(skb, device);
		return *action != FOR_STAGES;
	}
	ports = *(__u32 *)l4;
	fill_tuple6(&tuple, &ip->daddr, &ip->saddr, ports << 16 | ports >> 16, tcp);
	index = pod_slot_index(local, true);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return false;
	if (same_address(local, slot->address)) {
		if (edge)
			return false;
		if (special6(local) || special6(remote) || !fits6(skb, skb->len - ETH, slot->pod.mtu) ||
		    may_be_pods6(remote))
			return false;
		if (!tcp || is_translating() || awaits_opener(slot->pod.ifindex)) {
			__u32 owner = inbound_owner6(&slot->pod, &tuple);

			if (owner != FLOW_FAST)
				return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
		}
	} else {
		if (slot->more)
			return false;
		/* an answer: that its remote is not special was asked when the flow began */
		reverse = bpf_map_lookup_elem(&reverse6, &tuple);
		if (!reverse || reverse->life != FLOW_LIVE)
			return false;
		index = pod_slot_index((const struct address *)reverse->pod, true);
		slot = bpf_map_lookup_elem(&pod_slots, &index);
		if (!slot || slot->pod.id != reverse->pod_id || !fits6(skb, skb->len - ETH, slot->pod.mtu) ||
		    !tells_checksum_state() || without_checksum6(l4, tcp))
			return false;
		if (edge) {
			if (!answers_edge6(skb, &tuple, reverse, l4))
				return false;
		} else if (!reverse->replied || (tcp && !(reverse->tcp & SEEN_ACK))) {
			replied(reverse, tcp);
		}
		write_destination6(skb, ip, reverse, tcp);
		now = bpf_jiffies64();
		if (reverse->seen != now)
			reverse->seen = now;
	}
	decrease_hop_limit_from_outside(skb, ip);
	return deliver(skb, device, &slot->pod, eth, action);
}

/* As hot_answer4(). */
static __attribute__((noinline)) int hot_answer6(struct __sk_buff *skb, const struct device *device)
{
	const struct ipv6hdr *ip = DATA(skb) + ETH;
	int action;

	return device && (void *)(ip + 1) <= END(skb) && hot_arrive6(skb, device, true, true, &action) ? action :
													 FOR_STAGES;
}

/* Not inlined: see hot_to_uplink6(). An action, or FOR_STAGES. */
static __attribute__((noinline)) int hot_from_uplink6(struct __sk_buff *skb, const struct device *device)
{
	const struct ipv6hdr *ip = DATA(skb) + ETH;
	int action;

	if (device && may_take_hot_path(skb) && (void *)(ip + 1) <= END(skb) && !(device->flags & DEVICE_STACK6) &&
	    (__builtin_expect(ip->nexthdr == IPPROTO_TCP, 1) ? hot_arrive6(skb, device, true, false, &action) :
	     ip->nexthdr == IPPROTO_UDP                      ? hot_arrive6(skb, device, false, false, &action) :
							       false))
		return action;
	asm volatile("" : : : "memory"); /* as there */
	return FOR_STAGES;
}

#endif
