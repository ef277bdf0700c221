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
	/* an error about a flow without SNAT has none either */
	if (!p->related && trace_masquerade(p, masquerade_due(&p->destination)))
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

	if (flow->verdict != FLOW_SNAT)
		return true;
	tuple_of_nat(&key, tuple, flow, six);
	reverse = reverse_of(&key, six);
	return !reverse || ((flow->tcp | reverse->tcp) & (SEEN_FIN | SEEN_RST));
}

/* Off the hot path, and it needs stack. */
static __attribute__((noinline)) int outdated4(struct packet *p, const union tuple *tuple, struct flow *flow)
{
	return flow && outdated(p, tuple, flow, false);
}

static __attribute__((noinline)) int outdated6(struct packet *p, const union tuple *tuple, struct flow *flow)
{
	return flow && outdated(p, tuple, flow, true);
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
	if (flow &&
	    (flow->pod_id != p->device->pod_id ||
	     (opens(p) && (six ? outdated6(p, &tuple, flow) : outdated4(p, &tuple, flow)))) &&
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
		return !six && flow && flow->verdict == FLOW_SNAT ? too_big_to_leave4(p) : REASON_MTU;
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
	if ((p->device->flags & (six ? DEVICE_STACK6 : DEVICE_STACK4)) || is_marked(p->skb))
		return trace(p, TRACE_SOURCE, REASON_POLICY);
	if (p->ttl <= 1)
		return trace(p, TRACE_SOURCE, REASON_TTL);
	pod = pod_of(&p->destination, six);
	if (!pod || !pods_answer(p, six))
		return leave_node(p, &new, six);
	if (pod->ifindex == p->device->ifindex)
		return trace_pod(p, pod, REASON_SAME_POD);
	return send_to_pod(p, pod, &new, six);
}

static __always_inline int stages_from_pod(struct __sk_buff *skb, struct device *device, bool six)
{
	struct packet p = { .skb = skb, .device = device };
	int reason;

	if (!device)
		return TC_ACT_UNSPEC;
	p.trace = trace_of(skb);
	reason = judge_outside(skb);
	if (reason == GO_ON)
		reason = six || skb->protocol == bpf_htons(ETH_P_IP) ? route_from_pod(&p, six) : REASON_NOT_IP;
	return conclude(&p, reason, six);
}

/* Not inlined, so that the straight path has the registers for itself; and two, for each has less on its stack. */
static __attribute__((noinline)) int stages_from_pod4(struct __sk_buff *skb, struct device *device)
{
	return stages_from_pod(skb, device, false);
}

static __attribute__((noinline)) int stages_from_pod6(struct __sk_buff *skb, struct device *device)
{
	return stages_from_pod(skb, device, true);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct device *device = device_of(skb->ifindex);
	int action;

	if (!device)
		return TC_ACT_UNSPEC;
	if (straight_from_pod(skb, device, &action))
		return action;
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? stages_from_pod6(skb, device) : stages_from_pod4(skb, device);
}

#endif
