/* SPDX-License-Identifier: GPL-2.0-only */
/* The hot path from an uplink: see hot_path.h. */
#ifndef HOSTROUTE_HOT_PATH_IN4_H
#define HOSTROUTE_HOT_PATH_IN4_H

#include "maps.h"
#include "packet.h"
#include "kernel_skb.h"
#include "packet_write.h"
#include "parse.h"
#include "tcp_state.h"
#include "owner.h"
#include "hot_path.h"
#include "hot_path_edge.h"

static __always_inline bool is_asked_about(const struct tuple4 *tuple, __u32 ifindex)
{
	return is_translating() && may_answer_stacks(tuple->local, tuple->remote, ifindex);
}

/*
 * note_inbound() for what is in the middle of a flow: UDP, and TCP between two
 * that have had a flow of the stack's. enum known_flow, or a reason of the stack's. Not inlined: few
 * packets are asked about, and it would need stack.
 */
static __attribute__((noinline)) __u32 inbound_owner4(const struct pod *pod, const struct tuple4 *tuple)
{
	struct flow *flow;
	__u32 now, owner;

	if (!pod || !tuple)
		return FLOW_UNKNOWN;
	if (is_asked_about(tuple, pod->ifindex)) {
		owner = hot_owner4(tuple, pod->id);
		if (owner > FLOW_FAST)
			return owner;
	}
	flow = bpf_map_lookup_elem(&flows4, tuple);
	if (!flow) {
		if (tuple->protocol == IPPROTO_TCP && !is_asked_about(tuple, pod->ifindex))
			return awaits_opener(pod->ifindex) ? FLOW_UNKNOWN : FLOW_FAST;
		owner = hot_owner4(tuple, pod->id);
		/* what is nobody else's gets an entry, but TCP in the middle */
		return owner == FLOW_FAST && (tuple->protocol == IPPROTO_UDP || (control.flags & CONTROL_HAND_OVER)) ?
			       FLOW_UNKNOWN :
			       owner;
	}
	/* the ACK of a SYN-ACK: see note_remote() */
	if (flow->verdict == FLOW_INBOUND && tuple->protocol == IPPROTO_TCP && !(flow->tcp & SEEN_REMOTE_ACK))
		return FLOW_UNKNOWN;
	if (flow->pod_id != pod->id || flow->life != FLOW_LIVE)
		return FLOW_UNKNOWN;
	/* the port may be another's, too: see may_be_another() */
	if (tuple->protocol == IPPROTO_UDP && is_translating() && port_is_remembered4(tuple, pod->id))
		return FLOW_UNKNOWN;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	return FLOW_FAST;
}

/* A pod of this node that sends from outside: see note_inbound(). */
static __always_inline bool may_be_pods4(__be32 address)
{
	struct pod_slot *slot = slot_of4(address);

	return !slot || slot->address4 == address || slot->more;
}

static int hot_answer4(struct __sk_buff *skb, const struct device *device);

/* `edge`: see hot_answer4(). */
static __always_inline bool hot_in4(struct __sk_buff *skb, const struct device *device, bool tcp, bool edge,
				    int *action)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *port = (void *)(ip + 1);
	struct tuple4 tuple;
	struct reverse *reverse;
	struct pod_slot *slot;
	__u32 length, now;

	if ((void *)(ip + 1) > END(skb))
		return false;
	/* Ethernet pads small ones */
	length = skb->len - ETH;
	if (bpf_ntohs(ip->tot_len) > length ||
	    bpf_ntohs(ip->tot_len) < sizeof(*ip) + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr)) ||
	    !plain_header4(ip) || (edge && !(whole_l4(skb, ip, true) && is_answer_edge((void *)port))))
		return false;
	if (!edge && __builtin_expect(!plain_l4(skb, ip, tcp), 0)) {
		if (!tcp)
			return false;
		*action = hot_answer4(skb, device);
		return *action != FOR_STAGES;
	}
	tuple.local = ip->daddr;
	tuple.remote = ip->saddr;
	tuple.local_port = port[1];
	tuple.remote_port = port[0];
	*(__u32 *)&tuple.protocol = 0;
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	slot = slot_of4(ip->daddr);
	if (!slot)
		return false;
	if (edge && slot->address4 == ip->daddr)
		return false;
	if (slot->address4 == ip->daddr) {
		if (special4(ip->saddr) || !fits4(skb, skb->len - ETH, slot->pod.mtu) || may_be_pods4(ip->saddr))
			return false;
		if (!tcp || awaits_opener(slot->pod.ifindex) ||
		    (is_translating() && may_answer_stacks(ip->saddr, ip->daddr, slot->pod.ifindex))) {
			__u32 owner = inbound_owner4(&slot->pod, &tuple);

			if (owner != FLOW_FAST)
				return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
		}
		decrease_ttl4(ip);
		return deliver(skb, device, &slot->pod, eth, action);
	}
	if (slot->more)
		return false;
	/* an answer: that its remote is not special was asked when the flow began */
	reverse = bpf_map_lookup_elem(&reverse4, &tuple);
	if (!reverse || reverse->life != FLOW_LIVE || (device->reply_tag && reverse->replied != device->reply_tag))
		return false;
	slot = slot_of4(*(const volatile __be32 *)(reverse->pod + 12));
	if (!slot || slot->pod.id != reverse->pod_id || !fits4(skb, skb->len - ETH, slot->pod.mtu) ||
	    !tells_checksum_state())
		return false;
	if (edge) {
		if (!answers_edge4(skb, &tuple, reverse, (void *)port))
			return false;
	} else if (__builtin_expect(!reverse->replied || (tcp && !(reverse->tcp & SEEN_ACK)), 0)) {
		replied(reverse, tcp);
	}
	write_destination4(skb, ip, reverse, tcp);
	now = bpf_jiffies64();
	if (reverse->seen != now)
		reverse->seen = now;
	return deliver(skb, device, &slot->pod, eth, action);
}

/*
 * The same for a SYN-ACK or FIN to a SNATed flow. Not inlined: see
 * hot_edge4(). An action, or FOR_STAGES.
 */
static __attribute__((noinline)) int hot_answer4(struct __sk_buff *skb, const struct device *device)
{
	int action;

	return device && hot_in4(skb, device, true, true, &action) ? action : FOR_STAGES;
}

static __always_inline bool hot_from_uplink(struct __sk_buff *skb, struct device *device, int *action)
{
	const struct iphdr *ip = DATA(skb) + ETH;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !may_take_hot_path(skb) || (void *)(ip + 1) > END(skb) ||
	    (device->flags & DEVICE_STACK4))
		return false;
	return ip->protocol == IPPROTO_TCP ? hot_in4(skb, device, true, false, action) :
	       ip->protocol == IPPROTO_UDP ? hot_in4(skb, device, false, false, action) :
					     false;
}

#endif
