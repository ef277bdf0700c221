/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path of IPv6 from a pod, without headers before the transport's: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_OUT6_H
#define HOSTROUTE_STRAIGHT_OUT6_H

/* `to` is the packet's destination, where the source follows; after `mac` there are two bytes more. */
static __always_inline void copy_both_macs(__u8 *to, const __u8 *mac, const __u8 *source)
{
	*(__u64 *)to = *(const __u64 *)mac;
	copy_mac(to + 6, source);
}

/*
 * Of a GSO packet, or where the destination is on-link: the MACs if it fits and
 * they are known. The next hop's device; 0: nothing was written. Not inlined, and
 * with its own writes: else the others would have fewer registers.
 */
static __attribute__((noinline)) __u32 write_macs6(struct __sk_buff *skb, struct ethhdr *eth,
						   const struct nexthop *nexthop, const struct address *remote)
{
	const __u8 *mac = nexthop->mac;
	struct neighbour *neighbour;

	if (!fits6(skb, skb->len - ETH, nexthop->mtu))
		return 0;
	if (!nexthop->mac_known) { /* nor is it where there is no gateway */
		if (nexthop->flags & NEXTHOP_GATEWAY)
			return 0;
		neighbour = neighbour_of(nexthop->ifindex, remote);
		if (!neighbour || !neighbour->known)
			return 0;
		mac = neighbour->mac;
	}
	copy_both_macs(eth->h_dest, mac, nexthop->source_mac);
	return nexthop->ifindex;
}

/* The header is plain, the source the pod's own, the destination no pod's. */
static __always_inline bool leave_straight6(struct __sk_buff *skb, const struct device *device, struct ethhdr *eth,
					    bool tcp, int *action)
{
	struct tuple6 tuple __attribute__((aligned(8)));
	struct ipv6hdr *ip = (void *)(eth + 1);
	__u8 *l4 = (void *)(ip + 1);
	struct nexthop *nexthop;
	struct flow *flow;
	__u64 route;
	__u32 now, ifindex;

	/* the length is the packet's own: with the header in reach it is long enough */
	if (!in_reach6(skb, l4, tcp) || (tcp && l4[12] < 5 << 4))
		return false;
	fill_tuple6(&tuple, &ip->saddr, &ip->daddr, *(__u32 *)l4, tcp);
	if (is_translating() && opens_nothing(l4, tcp)) {
		__u32 owner = straight_owner6(&tuple, device->pod_id);

		if (owner > FLOW_FAST)
			return owner > FLOW_ASK && leave_to_stack(skb, device, owner, action);
	}
	if (!in_the_middle6(l4, tcp))
		return false;
	flow = bpf_map_lookup_elem(&flows6, &tuple);
	if (!flow || flow->pod_id != device->pod_id || flow->life != FLOW_LIVE ||
	    (tcp && (flow->tcp & (SEEN_ACK | SEEN_RESET)) != SEEN_ACK) ||
	    (flow->verdict == FLOW_SNAT && (!tells_checksum_state() || without_checksum6(l4, tcp))))
		return false;
	route = flow->route;
	if (route >> 32 != control.route_generation)
		return false;
	nexthop = nexthop_at(route);
	if (!nexthop)
		return false;
	ifindex = nexthop->ifindex;
	if (skb->len - ETH <= nexthop->mtu && nexthop->mac_known) {
		copy_both_macs(eth->h_dest, nexthop->mac, nexthop->source_mac);
	} else {
		ifindex = write_macs6(skb, eth, nexthop, (const struct address *)tuple.remote);
		if (!ifindex)
			return false;
	}
	/* as early as can be: the device is not needed any more */
	count_whole(device, REASON_TO_UPLINK, skb);
	ip->hop_limit--;
	if (flow->verdict == FLOW_SNAT) {
		fix_checksum6(skb, l4, &flow->difference, tcp);
		*(__be16 *)l4 = flow->nat_port;
		copy_address(&ip->saddr, flow->nat_address);
	}
	if (tcp)
		flow->expected = ((const struct tcphdr *)l4)->ack_seq;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	*action = bpf_redirect(ifindex, 0);
	return true;
}

/*
 * Not inlined: all registers for itself, and stack that the stages do not have
 * to pay for. Both headers are in reach. An action, or FOR_STAGES.
 */
static __attribute__((noinline)) int straight_to_uplink6(struct __sk_buff *skb, const struct device *device,
							 struct ethhdr *eth)
{
	const struct ipv6hdr *ip = (void *)(eth + 1);
	int action;

	/* a padded packet is for the stages, pods send none */
	if (bpf_ntohs(ip->payload_len) + ETH + sizeof(*ip) == skb->len && !(device->flags & DEVICE_STACK6) &&
	    (__builtin_expect(ip->nexthdr == IPPROTO_TCP, 1) ? leave_straight6(skb, device, eth, true, &action) :
	     ip->nexthdr == IPPROTO_UDP                      ? leave_straight6(skb, device, eth, false, &action) :
							       false))
		return action;
	/* else clang would keep this constant in a register all the way */
	asm volatile("" : : : "memory");
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
	return straight_owner6(&tuple, pod_id);
}

static __always_inline bool straight_from_pod6(struct __sk_buff *skb, struct device *device, int *action)
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
		*action = slot->more ? FOR_STAGES : straight_to_uplink6(skb, device, eth);
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
	ip->hop_limit--;
	return deliver(skb, device, &slot->pod, eth, action);
}

#endif
