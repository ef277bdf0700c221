/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TC ingress of an uplink: answers to SNATed flows, and everything for a pod of
 * this node. What is for the node itself, or to be routed on, is the stack's.
 */
#ifndef HOSTROUTE_FROM_UPLINK_H
#define HOSTROUTE_FROM_UPLINK_H

/* fragment.h */
static int fragment_to_pod4(struct packet *p, struct rewrite *new);
static int fragment_to_pod6(struct packet *p, struct rewrite *new);

/*
 * A packet for a pod that was not SNATed: remembers who opened the flow, so
 * that its answers keep the pod's address whatever the masquerade policy says.
 */
static __always_inline int note_inbound(struct packet *p, struct pod *pod, bool six)
{
	union tuple tuple;
	struct flow *flow;
	bool opening = opens(p);

	if (is_mid_flow(p) && bpf_jiffies64() >= control.older_until)
		return GO_ON;
	tuple_in(&tuple, p, six);
	flow = flow_of(&tuple, six);
	if (flow && flow->pod_id == pod->id && usable(p, &flow->life)) {
		if (is_mid_flow(p) && flow->verdict == FLOW_STACK)
			return trace_flow(p, flow, TRACE_FLOW, REASON_OLDER_FLOW);
		/* nor does a SYN from outside end a live SNATed flow */
		if (!opening || flow->verdict == FLOW_INBOUND ||
		    (flow->verdict == FLOW_SNAT && !(flow->tcp & (SEEN_FIN | SEEN_RST)))) {
			if (!p->trace)
				touch(flow, 0);
			else
				trace_flow(p, flow, TRACE_FLOW, 0);
			return GO_ON;
		}
	}
	if (is_mid_flow(p))
		return flow || !masquerade_due(&p->source) ? GO_ON : REASON_OLDER_FLOW;
	if (!flow || replace(p, &tuple, flow, six)) {
		struct flow inbound = { .verdict = FLOW_INBOUND, .pod_id = pod->id };

		if (p->trace) {
			return trace_flow(p, &inbound, TRACE_FLOW_NEW, GO_ON);
		}

		/* generation 0 is never current: the answer looks its route up */
		inbound.seen = inbound.created = bpf_jiffies64();
		insert_flow(&tuple, &inbound, six); /* full: answers are judged as new */
	}
	return GO_ON;
}

static __attribute__((noinline)) int note_inbound4(struct packet *p, struct pod *pod)
{
	return pod ? note_inbound(p, pod, false) : GO_ON;
}

static __attribute__((noinline)) int note_inbound6(struct packet *p, struct pod *pod)
{
	return pod ? note_inbound(p, pod, true) : GO_ON;
}

static __always_inline void note_answer(struct reverse *reverse, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	if (reverse->seen != now)
		reverse->seen = now;
	if (!reverse->replied)
		reverse->replied = 1;
	if ((reverse->tcp | tcp) != reverse->tcp)
		reverse->tcp |= tcp;
}

/* The pod whose SNATed flow this answers, and what it gets to see. GO_ON, or REASON_NODE: it answers none. */
static __always_inline int find_answered(struct packet *p, struct pod **found, struct rewrite *new, bool six)
{
	struct reverse *reverse;
	union tuple tuple;
	struct pod *pod;

	/* the request of an echo is the node's to answer */
	if (is_echo(p, six) && p->icmp_type != (six ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY))
		return REASON_NODE;
	tuple_in(&tuple, p, six);
	reverse = reverse_of(&tuple, six);
	if (!reverse || !usable(p, &reverse->life))
		return trace(p, TRACE_ASKED_REVERSE, REASON_NODE);
	__builtin_memcpy(&new->address, reverse->pod, 16);
	pod = pod_of(&new->address, six);
	if (!pod || pod->id != reverse->pod_id)
		return REASON_NODE;
	if (p->trace)
		p->trace->stages |= TRACE_ASKED_REVERSE | TRACE_REVERSE;
	else
		note_answer(reverse, p->tcp);
	new->what = NAT_DESTINATION;
	new->port = reverse->pod_port;
	*found = pod;
	return GO_ON;
}

static __always_inline int answer_to_pod(struct packet *p, struct rewrite *new, bool six)
{
	struct pod *pod;
	int reason = find_answered(p, &pod, new, six);

	return reason == GO_ON ? send_to_pod(p, pod, new, six) : reason;
}

static __always_inline int route_from_uplink(struct packet *p, bool six)
{
	struct rewrite new = {};
	struct pod *pod;
	int reason;

	reason = six ? parse6(p) : parse4(p);
	if (reason != GO_ON)
		return reason;
	if (p->device->flags & (six ? DEVICE_STACK6 : DEVICE_STACK4))
		return REASON_POLICY;
	pod = pod_of(&p->destination, six);
	if (p->fragment)
		reason = six ? parse_fragment6(p) : parse_fragment4(p);
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (pod) {
		/* an answer to a SNATed flow is ours whatever its mark: the stack would take it for its own */
		if (is_marked(p->skb))
			return trace_pod(p, pod, REASON_POLICY);
		if (p->tracked) {
			reason = six ? note_inbound6(p, pod) : note_inbound4(p, pod);
			if (reason != GO_ON)
				return trace_pod(p, pod, reason);
		}
		return send_to_pod(p, pod, &new, six);
	}
	if (p->fragment)
		return six ? fragment_to_pod6(p, &new) : fragment_to_pod4(p, &new);
	if (p->tracked)
		return answer_to_pod(p, &new, six);
	if (is_icmp_error(p, six))
		return six ? error_to_pod6(p) : error_to_pod4(p);
	return REASON_NODE;
}

static __always_inline int stages_from_uplink(struct __sk_buff *skb, struct device *device, bool six)
{
	struct packet p = { .skb = skb, .device = device };
	int reason;

	if (!device)
		return TC_ACT_UNSPEC;
	p.trace = trace_of(skb);
	reason = judge_outside(skb);
	if (reason == GO_ON)
		reason = six || skb->protocol == bpf_htons(ETH_P_IP) ? route_from_uplink(&p, six) : REASON_NOT_IP;
	return conclude(&p, reason, six);
}

/* As stages_from_pod4. */
static __attribute__((noinline)) int stages_from_uplink4(struct __sk_buff *skb, struct device *device)
{
	return stages_from_uplink(skb, device, false);
}

static __attribute__((noinline)) int stages_from_uplink6(struct __sk_buff *skb, struct device *device)
{
	return stages_from_uplink(skb, device, true);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct device *device = device_of(skb->ifindex);
	int action;

	if (!device)
		return TC_ACT_UNSPEC;
	if (straight_from_uplink(skb, device, &action))
		return action;
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? stages_from_uplink6(skb, device) :
							stages_from_uplink4(skb, device);
}

#endif
