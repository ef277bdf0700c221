/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path from an uplink: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_IN_H
#define HOSTROUTE_STRAIGHT_IN_H

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
		owner = straight_owner4(tuple, pod->id);
		if (owner > FLOW_FAST)
			return owner;
	}
	flow = bpf_map_lookup_elem(&flows4, tuple);
	if (!flow) {
		if (tuple->protocol == IPPROTO_TCP && !is_asked_about(tuple, pod->ifindex))
			return awaits_opener(pod->ifindex) ? FLOW_UNKNOWN : FLOW_FAST;
		owner = straight_owner4(tuple, pod->id);
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

static __always_inline bool straight_in4(struct __sk_buff *skb, const struct device *device, bool tcp, int *action)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *port = (void *)(ip + 1);
	struct tuple4 tuple = {};
	struct reverse *reverse;
	struct pod_slot *slot;
	__u32 length, now;
	__be32 address;

	if ((void *)(ip + 1) > END(skb))
		return false;
	/* Ethernet pads small ones */
	length = skb->len - ETH;
	if (bpf_ntohs(ip->tot_len) > length ||
	    bpf_ntohs(ip->tot_len) < sizeof(*ip) + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr)) ||
	    !plain_header4(ip) || !plain_l4(skb, ip, tcp))
		return false;
	tuple.local = ip->daddr;
	tuple.remote = ip->saddr;
	tuple.local_port = port[1];
	tuple.remote_port = port[0];
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	slot = slot_of4(ip->daddr);
	if (!slot)
		return false;
	if (slot->address4 == ip->daddr) {
		if (special4(ip->saddr) || !fits4(skb, skb->len - ETH, slot->pod.mtu))
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
	if (!reverse || reverse->life != FLOW_LIVE || !reverse->replied || (tcp && !(reverse->tcp & SEEN_ACK)))
		return false;
	address = *(__be32 *)(reverse->pod + 12);
	slot = slot_of4(address);
	if (!slot || slot->pod.id != reverse->pod_id || !fits4(skb, skb->len - ETH, slot->pod.mtu) ||
	    !tells_checksum_state())
		return false;
	fix_checksums4(skb, ip, &reverse->difference, tcp);
	port[1] = reverse->pod_port;
	ip->daddr = address;
	now = bpf_jiffies64();
	if (reverse->seen != now)
		reverse->seen = now;
	return deliver(skb, device, &slot->pod, eth, action);
}

static __always_inline bool straight_from_uplink(struct __sk_buff *skb, struct device *device, int *action)
{
	const struct iphdr *ip = DATA(skb) + ETH;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !may_go_straight(skb) || (void *)(ip + 1) > END(skb) ||
	    (device->flags & DEVICE_STACK4))
		return false;
	return ip->protocol == IPPROTO_TCP ? straight_in4(skb, device, true, action) :
	       ip->protocol == IPPROTO_UDP ? straight_in4(skb, device, false, action) :
					     false;
}

#endif
