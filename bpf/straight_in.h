/* SPDX-License-Identifier: GPL-2.0-only */
/* The straight path from an uplink: see straight.h. */
#ifndef HOSTROUTE_STRAIGHT_IN_H
#define HOSTROUTE_STRAIGHT_IN_H

/* note_inbound() for what is in the middle of a flow. false: there is more to it. */
static __always_inline bool known_inbound4(const struct pod *pod, const struct tuple4 *tuple, bool tcp)
{
	struct address remote = { .high = 0, .low = MAPPED(tuple->remote) };
	struct flow *flow;
	__u32 now;

	if (tcp)
		return bpf_jiffies64() >= control.older_until || !masquerade_due(&remote);
	flow = bpf_map_lookup_elem(&flows4, tuple);
	if (!flow || flow->pod_id != pod->id || flow->life != FLOW_LIVE)
		return false;
	now = bpf_jiffies64();
	if (flow->seen != now)
		flow->seen = now;
	return true;
}

static __always_inline int straight_to_pod4(struct __sk_buff *skb, const struct device *device, bool tcp)
{
	struct ethhdr *eth = DATA(skb);
	struct iphdr *ip = (void *)(eth + 1);
	void *l4 = ip + 1;
	__be16 *port = l4;
	struct tuple4 tuple = {};
	struct reverse *reverse = NULL;
	struct pod_slot *slot;
	struct address to;
	__u32 index, now;
	__u8 acks;

	if ((void *)(ip + 1) > END(skb) || (device->flags & DEVICE_STACK4) || !plain_header4(skb, ip) ||
	    (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) ||
	    !plain_l4(skb, l4, bpf_ntohs(ip->tot_len) - sizeof(*ip), &acks, tcp) || special4(ip->saddr))
		return GO_ON;
	tuple.local = ip->daddr;
	tuple.remote = ip->saddr;
	tuple.local_port = port[1];
	tuple.remote_port = port[0];
	tuple.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	to.high = 0;
	to.low = MAPPED(ip->daddr);
	index = bpf_ntohl(ip->daddr) & (POD_SLOTS - 1);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return GO_ON;
	if (!same_address(&to, slot->address)) {
		if (slot->more)
			return GO_ON;
		reverse = bpf_map_lookup_elem(&reverse4, &tuple);
		if (!reverse || reverse->life != FLOW_LIVE || !reverse->replied || (acks & ~reverse->tcp))
			return GO_ON;
		__builtin_memcpy(&to, reverse->pod, 16);
		index = pod_slot_index(&to, false);
		slot = bpf_map_lookup_elem(&pod_slots, &index);
		if (!slot || !same_address(&to, slot->address) || slot->pod.id != reverse->pod_id)
			return GO_ON;
	}
	if (!(slot->pod.flags & POD_READY) || !fits(skb, l4, tuple.protocol, sizeof(*ip), slot->pod.mtu))
		return GO_ON;
	if (reverse) {
		__be32 address = PLAIN(to);
		__u32 difference = difference4(ip->daddr, address);

		if (!fix_l4_directly(skb, l4, difference, port[1], reverse->pod_port, tcp))
			return GO_ON;
		port[1] = reverse->pod_port;
		ip->daddr = address;
		ip->check = checksum_after(ip->check, difference);
		now = bpf_jiffies64();
		if (reverse->seen != now)
			reverse->seen = now;
	} else if (!known_inbound4(&slot->pod, &tuple, tcp)) {
		return GO_ON;
	}
	decrease_ttl4(ip);
	return deliver(skb, device, &slot->pod, eth);
}

/* Subprograms: inlined, their stack would be on top of the stages'. */
static __attribute__((noinline)) int straight_tcp4_in(struct __sk_buff *skb, struct device *device)
{
	return device ? straight_to_pod4(skb, device, true) : GO_ON;
}

static __attribute__((noinline)) int straight_udp4_in(struct __sk_buff *skb, struct device *device)
{
	return device ? straight_to_pod4(skb, device, false) : GO_ON;
}

static __always_inline int straight_from_uplink(struct __sk_buff *skb, struct device *device)
{
	const struct iphdr *ip = DATA(skb) + ETH;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !may_go_straight(skb) || (void *)(ip + 1) > END(skb))
		return GO_ON;
	return ip->protocol == IPPROTO_TCP ? straight_tcp4_in(skb, device) :
	       ip->protocol == IPPROTO_UDP ? straight_udp4_in(skb, device) :
					     GO_ON;
}

#endif
