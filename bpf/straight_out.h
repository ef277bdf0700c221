/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path from a pod: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_OUT_H
#define HOSTROUTE_STRAIGHT_OUT_H

/* MAC of an on-link destination; NULL: the kernel has to be asked. */
static __attribute__((noinline)) const __u8 *known_mac4(__u32 ifindex, __be32 destination)
{
	struct address address = { .low = MAPPED(destination) };
	struct neighbour *neighbour = neighbour_of(ifindex, &address);

	return neighbour && neighbour->known ? neighbour->mac : NULL;
}

static __always_inline bool straight_to_uplink4(struct __sk_buff *skb, const struct device *device, struct ethhdr *eth,
						bool tcp, int *action)
{
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *port = (void *)(ip + 1);
	struct tuple4 tuple = {};
	struct nexthop *nexthop;
	struct flow *flow;
	const __u8 *mac;
	__u64 route;
	__u32 now, ifindex;

	/* What the caller has read is read again where it is needed: kept, it would be spilled, for packets to pods,
	 * too. */
	asm volatile("" : : : "memory");
	/* the length is the packet's own: with the header in reach it is long enough */
	if (!whole_l4(skb, ip, tcp))
		return false;
	tuple.local = ip->saddr;
	tuple.remote = ip->daddr;
	tuple.local_port = port[0];
	tuple.remote_port = port[1];
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	if (is_translating() && may_be_stacks(ip->saddr, ip->daddr) && opens_nothing(ip + 1, tcp)) {
		__u32 owner = straight_owner4(&tuple, device->pod_id);

		if (owner > FLOW_FAST)
			return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
		asm volatile("" : : : "memory");
	}
	if (!plain_l4(skb, ip, tcp))
		return false;
	flow = bpf_map_lookup_elem(&flows4, &tuple);
	if (!flow)
		return false;
	if (flow->pod_id != device->pod_id || flow->life != FLOW_LIVE ||
	    (tcp && (flow->tcp & (SEEN_ACK | SEEN_RESET)) != SEEN_ACK) ||
	    (flow->verdict == FLOW_SNAT && !tells_checksum_state()))
		return false;
	route = flow->route;
	if (route >> 32 != control.route_generation)
		return false;
	nexthop = nexthop_at(route);
	if (!nexthop || !fits4(skb, skb->len - ETH, nexthop->mtu))
		return false;
	mac = nexthop->mac;
	if (!nexthop->mac_known) { /* nor is it where there is no gateway */
		if (nexthop->flags & NEXTHOP_GATEWAY)
			return false;
		mac = known_mac4(nexthop->ifindex, ip->daddr);
		if (!mac)
			return false;
	}
	if (__builtin_expect(ip->tos, 0))
		skb->priority = priority_of(ip->tos);
	copy_mac(eth->h_dest, mac);
	copy_mac(eth->h_source, nexthop->source_mac);
	ifindex = nexthop->ifindex;
	if (flow->verdict == FLOW_SNAT) {
		fix_checksums4(skb, ip, &flow->difference, tcp);
		port[0] = flow->nat_port;
		ip->saddr = *(__be32 *)(flow->nat_address + 12);
	} else {
		decrease_ttl4(ip);
	}
	if (tcp)
		flow->expected = ((const struct tcphdr *)port)->ack_seq;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	count(device, REASON_TO_UPLINK, skb->len);
	*action = bpf_redirect(ifindex, 0);
	return true;
}

/*
 * Between local pods of which one is shared: whose flow it is. To a shared one
 * the opening of a flow is looked at, as it may clash with one of the stack's
 * (owner_of_local()). Not inlined: see straight_owner4().
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
		owner = straight_owner4(&tuple, pod_id);
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
static __attribute__((noinline)) int straight_shared4(struct __sk_buff *skb, struct device *device,
						      struct pod_slot *slot)
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
static __always_inline bool straight_from_pod4(struct __sk_buff *skb, struct device *device, int *action)
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
		       ip->protocol == IPPROTO_TCP ? straight_to_uplink4(skb, device, eth, true, action) :
		       ip->protocol == IPPROTO_UDP ? straight_to_uplink4(skb, device, eth, false, action) :
						     false;
	/*
	 * special4() is not asked: both ends have host routes, so the kernel would
	 * forward, too; and 0 is nobody's: nothing fits into an empty slot's MTU. A
	 * class may know another way.
	 */
	if (slot->pod.ifindex == device->ifindex || (device->flags & (DEVICE_STACK4 | DEVICE_CLASS4)) ||
	    !fits4(skb, length, slot->pod.mtu))
		return false;
	if (is_translating() && (is_shared(device->ifindex) || is_shared(slot->pod.ifindex))) {
		*action = straight_shared4(skb, device, slot);
		return *action != FOR_STAGES;
	}
	decrease_ttl4(ip);
	return deliver(skb, device, &slot->pod, eth, action);
}

static __always_inline bool straight_from_pod(struct __sk_buff *skb, struct device *device, int *action)
{
	if (!may_go_straight(skb))
		return false;
	if (__builtin_expect(skb->protocol == bpf_htons(ETH_P_IP), 1))
		return straight_from_pod4(skb, device, action);
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? straight_from_pod6(skb, device, action) : false;
}

#endif
