/* SPDX-License-Identifier: GPL-2.0-only */
/* TC ingress of a pod's host-side device: everything the pod sends. */
#ifndef HOSTROUTE_FROM_POD_H
#define HOSTROUTE_FROM_POD_H

/* fragment.h */
static int parse_fragment4(struct packet *p);
static int parse_fragment6(struct packet *p);
static int leave_first4(struct packet *p, struct rewrite *new, struct nexthop *nexthop, __u32 index);
static int leave_first6(struct packet *p, struct rewrite *new, struct nexthop *nexthop, __u32 index);
static int leave_later4(struct packet *p, struct rewrite *new);
static int leave_later6(struct packet *p, struct rewrite *new);

/* Not tracked: ESP, GRE, ICMP errors, ... Routed if their source may stay. */
static __always_inline int leave_untracked(struct packet *p, struct rewrite *new, bool six)
{
	struct nexthop *nexthop;
	__u32 index = 0;
	int reason;

	if (is_icmp_error(p, six)) {
		reason = six ? error_from_pod6(p) : error_from_pod4(p);
		if (reason != GO_ON)
			return reason;
	}
	reason = choose_nexthop(p, six, 0, &index);
	if (reason != GO_ON)
		return reason;
	if (trace_masquerade(p, masquerade_due(&p->destination)))
		return control.flags & CONTROL_DROP_PROTOCOLS ? REASON_DROP_PROTOCOL : REASON_PROTOCOL;
	nexthop = nexthop_at(index);
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six))
		return REASON_MTU;
	return send_to_uplink(p, nexthop, new, six);
}

/* The flow's next hop; looked up again only after the routes have changed. */
static __always_inline int nexthop_of_flow(struct packet *p, struct flow *flow, __u32 *index, bool six)
{
	__u64 route = flow->route;
	__u32 generation = control.route_generation;
	int reason;

	if (route >> 32 == generation) {
		*index = route;
		return GO_ON;
	}
	reason = choose_nexthop(p, six, route, index);
	if (reason == GO_ON && !p->trace)
		flow->route = (__u64)generation << 32 | *index;
	return reason;
}

/*
 * A connection that is opened anew over an entry that says something old. The
 * remote's FIN or RST counts too: it stands in the reverse entry.
 */
static __always_inline bool outdated(const struct packet *p, const union tuple *tuple, const struct flow *flow,
				     bool six)
{
	struct reverse *reverse;
	union tuple key;

	if (!opens(p))
		return false;
	if (flow->verdict != FLOW_SNAT)
		return true;
	tuple_of_nat(&key, tuple, flow, six);
	reverse = reverse_of(&key, six);
	return !reverse || ((flow->tcp | reverse->tcp) & (SEEN_FIN | SEEN_RST));
}

static __always_inline int leave_node(struct packet *p, struct rewrite *new, bool six)
{
	struct nexthop *nexthop;
	union tuple tuple;
	struct flow *flow;
	__u32 index = 0;
	int reason;

	if (p->fragment)
		reason = six ? parse_fragment6(p) : parse_fragment4(p);
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (!p->tracked)
		return !p->fragment ? leave_untracked(p, new, six) : six ? leave_later6(p, new) : leave_later4(p, new);

	tuple_out(&tuple, p, six);
	flow = flow_of(&tuple, six);
	if (flow && (flow->pod_id != p->device->pod_id || outdated(p, &tuple, flow, six)) &&
	    replace(p, &tuple, flow, six))
		flow = NULL;
	if (!flow) {
		reason = six ? new_flow6(p, &tuple) : new_flow4(p, &tuple);
		if (reason != GO_ON)
			return reason;
		flow = p->trace ? &p->trace->flow : flow_of(&tuple, six);
	}
	if (!flow) {
		/* a plain route and a full table: forwarded, not remembered */
		reason = choose_nexthop(p, six, 0, &index);
	} else if (!join(p, flow)) {
		return REASON_DROP_FLOWS;
	} else {
		if (flow->verdict == FLOW_STACK)
			return REASON_OLDER_FLOW;
		reason = nexthop_of_flow(p, flow, &index, six);
	}
	if (reason != GO_ON)
		return reason;
	nexthop = nexthop_at(index);
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six))
		return REASON_MTU;
	if (flow && flow->verdict == FLOW_SNAT) {
		new->what = NAT_SOURCE;
		__builtin_memcpy(&new->address, flow->nat_address, 16);
		new->port = flow->nat_port;
		p->nat_port = flow->nat_port;
	}
	if (p->fragment) {
		reason = six ? leave_first6(p, new, nexthop, index) : leave_first4(p, new, nexthop, index);
		if (reason != GO_ON)
			return reason;
	}
	return send_to_uplink(p, nexthop, new, six);
}

static __always_inline int route_from_pod(struct packet *p, bool six)
{
	struct rewrite new = {};
	struct pod *pod;
	int reason;

	reason = six ? parse6(p) : parse4(p);
	if (reason == GO_ON)
		reason = check_source(p, six);
	if (reason != GO_ON)
		return reason;
	if (p->device->flags & (six ? DEVICE_STACK6 : DEVICE_STACK4))
		return trace(p, TRACE_SOURCE, REASON_POLICY);
	if (p->ttl <= 1)
		return trace(p, TRACE_SOURCE, REASON_TTL);
	pod = pod_of(&p->destination, six);
	if (!pod)
		return leave_node(p, &new, six);
	if (pod->ifindex == p->device->ifindex)
		return trace_pod(p, pod, REASON_SAME_POD);
	return send_to_pod(p, pod, &new, six);
}

/*
 * The stages in one go for what is most frequent and most plain: IPv4 between
 * two pods of this node. Nothing here needs struct packet, so that all of it
 * stays in registers: half the instructions. GO_ON, nothing changed: there is
 * anything to say about this packet, and the stages say it.
 */
static __always_inline int straight_to_pod4(struct __sk_buff *skb, const struct device *device)
{
	void *data = DATA(skb);
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH;
	__u32 length, index, *address;
	struct pod_slot *slot;

	if ((void *)(ip + 1) > END(skb))
		return GO_ON;
	index = bpf_ntohl(ip->daddr) & (POD_SLOTS - 1);
	slot = bpf_map_lookup_elem(&pod_slots, &index);
	if (!slot)
		return GO_ON;
	address = (__u32 *)slot->address;
	/* special4() is not asked: both ends have host routes, so the kernel would forward, too; 0 is "none" */
	if (address[3] != ip->daddr || address[2] != bpf_htonl(0xffff) || (address[0] | address[1]))
		return GO_ON;
	if (ip->saddr != device->address4 || !ip->saddr || (device->flags & DEVICE_STACK4) ||
	    slot->pod.ifindex == device->ifindex || !(slot->pod.flags & POD_READY))
		return GO_ON;
	length = bpf_ntohs(ip->tot_len);
	if (*(__u8 *)ip != 0x45 || ip->ttl <= 1 || length < sizeof(*ip) || length > skb->len - ETH ||
	    skb->len - ETH > slot->pod.mtu || !header_checksum_ok(ip))
		return GO_ON;
	if (control.flags & CONTROL_MONITOR)
		return GO_ON;
	decrease_ttl4(ip);
	copy_mac(eth->h_dest, slot->pod.mac);
	copy_mac(eth->h_source, slot->pod.host_mac);
	skb->mark = 0;
	count(device, REASON_TO_POD, skb->len);
	return bpf_redirect_peer(slot->pod.ifindex, 0);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct device *device = device_of(skb->ifindex);
	struct packet p;
	bool six = false;
	int reason;

	if (!device)
		return TC_ACT_UNSPEC;
	reason = judge_outside(skb);
	if (reason == GO_ON && !skb->mark && skb->protocol == bpf_htons(ETH_P_IP)) {
		int action = straight_to_pod4(skb, device);

		if (action != GO_ON)
			return action;
	}
	__builtin_memset(&p, 0, sizeof(p));
	p.skb = skb;
	p.device = device;
	p.trace = trace_of(skb);
	six = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (reason == GO_ON)
		reason = six                                  ? route_from_pod(&p, true) :
			 skb->protocol == bpf_htons(ETH_P_IP) ? route_from_pod(&p, false) :
								REASON_NOT_IP;
	return conclude(&p, reason, six);
}

#endif
