/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path of IPv6 from an uplink, without headers before the transport's: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_IN6_H
#define HOSTROUTE_STRAIGHT_IN6_H

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
		owner = straight_owner6(tuple, pod->id);
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

/* The IP header is in reach. */
static __always_inline bool arrive_straight6(struct __sk_buff *skb, const struct device *device, bool tcp, int *action)
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
	if (length > skb->len - ETH || length < headers || !plain_header6(ip) || (tcp && l4[12] < 5 << 4) ||
	    !in_the_middle6(l4, tcp))
		return false;
	ports = *(__u32 *)l4;
	fill_tuple6(&tuple, &ip->daddr, &ip->saddr, ports << 16 | ports >> 16, tcp);
	index = pod_slot_index(local, true);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return false;
	if (same_address(local, slot->address)) {
		if (special6(local) || special6(remote) || !fits6(skb, skb->len - ETH, slot->pod.mtu))
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
		if (!reverse || reverse->life != FLOW_LIVE || !reverse->replied || (tcp && !(reverse->tcp & SEEN_ACK)))
			return false;
		index = pod_slot_index((const struct address *)reverse->pod, true);
		slot = bpf_map_lookup_elem(&pod_slots, &index);
		if (!slot || slot->pod.id != reverse->pod_id || !fits6(skb, skb->len - ETH, slot->pod.mtu) ||
		    !tells_checksum_state() || without_checksum6(l4, tcp))
			return false;
		fix_checksum6(skb, l4, &reverse->difference, tcp);
		((__be16 *)l4)[1] = reverse->pod_port;
		copy_address(&ip->daddr, reverse->pod);
		now = bpf_jiffies64();
		if (reverse->seen != now)
			reverse->seen = now;
	}
	ip->hop_limit--;
	/* no header checksum balances this in a CHECKSUM_COMPLETE sum */
	if (!tells_checksum_state() || checksum_state(skb) == CHECKSUM_COMPLETE)
		bpf_csum_update(skb, HOP_LIMIT_LESS);
	return deliver(skb, device, &slot->pod, eth, action);
}

/* Not inlined: see straight_to_uplink6(). An action, or FOR_STAGES. */
static __attribute__((noinline)) int straight_from_uplink6(struct __sk_buff *skb, const struct device *device)
{
	const struct ipv6hdr *ip = DATA(skb) + ETH;
	int action;

	if (device && may_go_straight(skb) && (void *)(ip + 1) <= END(skb) && !(device->flags & DEVICE_STACK6) &&
	    (__builtin_expect(ip->nexthdr == IPPROTO_TCP, 1) ? arrive_straight6(skb, device, true, &action) :
	     ip->nexthdr == IPPROTO_UDP                      ? arrive_straight6(skb, device, false, &action) :
							       false))
		return action;
	asm volatile("" : : : "memory"); /* as there */
	return FOR_STAGES;
}

#endif
