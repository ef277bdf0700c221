/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path from a pod: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_OUT_H
#define HOSTROUTE_STRAIGHT_OUT_H

/* MAC of the one to send to; NULL: the kernel has to be asked. */
static __always_inline const __u8 *mac_towards4(const struct nexthop *nexthop, __be32 destination)
{
	struct neighbour_key key = {};
	struct neighbour *neighbour;

	if (nexthop->flags & NEXTHOP_GATEWAY)
		return nexthop->mac_known ? nexthop->mac : NULL;
	key.ifindex = nexthop->ifindex;
	*(__u16 *)(key.address + 10) = 0xffff;
	__builtin_memcpy(key.address + 12, &destination, 4);
	neighbour = bpf_map_lookup_elem(&neighbours, &key);
	return neighbour && neighbour->known ? neighbour->mac : NULL;
}

static __always_inline int straight_to_uplink4(struct __sk_buff *skb, const struct device *device, bool tcp)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	void *l4 = ip + 1;
	__be16 *port = l4;
	struct tuple4 tuple = {};
	struct nexthop *nexthop;
	struct flow *flow;
	const __u8 *mac;
	__u64 route;
	__u32 now;
	__u8 acks;

	if ((void *)(ip + 1) > END(skb) || (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) ||
	    !plain_l4(skb, l4, bpf_ntohs(ip->tot_len) - sizeof(*ip), &acks, tcp))
		return GO_ON;
	tuple.local = ip->saddr;
	tuple.remote = ip->daddr;
	tuple.local_port = port[0];
	tuple.remote_port = port[1];
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	flow = bpf_map_lookup_elem(&flows4, &tuple);
	if (!flow || flow->pod_id != device->pod_id || flow->life != FLOW_LIVE || flow->verdict == FLOW_STACK ||
	    (acks & ~flow->tcp))
		return GO_ON;
	route = flow->route;
	if (route >> 32 != control.route_generation)
		return GO_ON;
	nexthop = nexthop_at(route);
	if (!nexthop || !fits(skb, l4, tuple.protocol, sizeof(*ip), nexthop->mtu))
		return GO_ON;
	mac = mac_towards4(nexthop, ip->daddr);
	if (!mac)
		return GO_ON;
	if (flow->verdict == FLOW_SNAT) {
		__be32 address = *(__be32 *)(flow->nat_address + 12);
		__u32 difference = difference4(ip->saddr, address);

		if (!fix_l4_directly(skb, l4, difference, port[0], flow->nat_port, tcp))
			return GO_ON;
		port[0] = flow->nat_port;
		ip->saddr = address;
		ip->check = checksum_after(ip->check, difference);
	}
	decrease_ttl4(ip);
	copy_mac(eth->h_dest, mac);
	copy_mac(eth->h_source, nexthop->source_mac);
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	count(device, REASON_TO_UPLINK, skb->len);
	return bpf_redirect(nexthop->ifindex, 0);
}

/* Subprograms: inlined, their stack would be on top of the stages'. */
static __attribute__((noinline)) int straight_tcp4(struct __sk_buff *skb, struct device *device)
{
	return device ? straight_to_uplink4(skb, device, true) : GO_ON;
}

static __attribute__((noinline)) int straight_udp4(struct __sk_buff *skb, struct device *device)
{
	return device ? straight_to_uplink4(skb, device, false) : GO_ON;
}

static __always_inline int straight_from_pod4(struct __sk_buff *skb, struct device *device)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	struct pod_slot *slot;
	struct address to;
	__u32 index;

	if ((void *)(ip + 1) > END(skb))
		return GO_ON;
	if (ip->saddr != device->address4 || !ip->saddr || !plain_header4(skb, ip))
		return GO_ON;
	index = bpf_ntohl(ip->daddr) & (POD_SLOTS - 1);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return GO_ON;
	to.high = 0;
	to.low = MAPPED(ip->daddr);
	if (!same_address(&to, slot->address))
		return slot->more || (device->flags & DEVICE_STACK4) ? GO_ON :
		       ip->protocol == IPPROTO_TCP                   ? straight_tcp4(skb, device) :
		       ip->protocol == IPPROTO_UDP                   ? straight_udp4(skb, device) :
								       GO_ON;
	/* special4() is not asked: both ends have host routes, so the kernel would forward, too; 0 is "none" */
	if (slot->pod.ifindex == device->ifindex || !(slot->pod.flags & POD_READY) ||
	    (device->flags & (DEVICE_STACK4 | DEVICE_CLASS4)) /* its class may know another way */ ||
	    !fits(skb, ip + 1, ip->protocol, sizeof(*ip), slot->pod.mtu))
		return GO_ON;
	decrease_ttl4(ip);
	return deliver(skb, device, &slot->pod, eth);
}

/* Only to another pod, and without headers before the transport's. */
static __always_inline int straight_from_pod6(struct __sk_buff *skb, struct device *device)
{
	struct ethhdr *eth = DATA(skb);
	struct ipv6hdr *ip = (void *)(eth + 1);
	const struct address *source = (void *)&ip->saddr, *destination = (void *)&ip->daddr;
	struct pod_slot *slot;
	__u32 index;

	if ((void *)(ip + 1) > END(skb) || ip->version != 6 || ip->hop_limit <= 1 || !ip->payload_len ||
	    bpf_ntohs(ip->payload_len) + sizeof(*ip) > skb->len - ETH ||
	    (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP) ||
	    (device->flags & (DEVICE_STACK6 | DEVICE_CLASS6)) || !same_address(source, device->address6) ||
	    special6(source) || special6(destination))
		return GO_ON;
	index = pod_slot_index(destination, true);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot || !same_address(destination, slot->address) || slot->pod.ifindex == device->ifindex ||
	    !(slot->pod.flags & POD_READY) || !fits(skb, ip + 1, ip->nexthdr, sizeof(*ip), slot->pod.mtu))
		return GO_ON;
	ip->hop_limit--;
	return deliver(skb, device, &slot->pod, eth);
}

static __always_inline int straight_from_pod(struct __sk_buff *skb, struct device *device)
{
	if (!may_go_straight(skb))
		return GO_ON;
	return skb->protocol == bpf_htons(ETH_P_IP)   ? straight_from_pod4(skb, device) :
	       skb->protocol == bpf_htons(ETH_P_IPV6) ? straight_from_pod6(skb, device) :
							GO_ON;
}

#endif
