/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TC ingress of an uplink: answers to SNATed flows, and everything for a pod of
 * this node. What is for the node itself, or to be routed on, is the stack's.
 */
#ifndef HOSTROUTE_FROM_UPLINK_H
#define HOSTROUTE_FROM_UPLINK_H

/* fragment.h */
static int find_fragments_pod4(struct packet *p, struct pod **found, struct rewrite *new);
static int find_fragments_pod6(struct packet *p, struct pod **found, struct rewrite *new);
static int fragment_to_pod4(struct packet *p, struct pod *pod, struct rewrite *new);
static int fragment_to_pod6(struct packet *p, struct pod *pod, struct rewrite *new);

static __always_inline int way_back(const struct address *remote, __u32 ifindex, bool six)
{
	struct device *device = device_of(ifindex);
	struct route *route = NULL;
	union route_key key;

	if (!device)
		return GO_ON;
	if (has_class(device, six)) {
		route = class_route_to(device, remote, &key, six);
		if (route && route->action == ROUTE_MAIN)
			route = NULL;
	}
	if (!route)
		route = route_to(remote, &key, six);
	if (!route || route->action != ROUTE_STACK || route->reason >= REASON_FIRST_DROP)
		return GO_ON;
	return route->reason;
}

/*
 * What the pod on `ifindex` answers would leave by the stack: then the packet
 * takes it, too, or conntrack would see half a flow. The reason, or GO_ON.
 * Global: see owner.h.
 */
__attribute__((noinline)) int way_back4(const struct address *remote, __u32 ifindex)
{
	return remote ? way_back(remote, ifindex, false) : GO_ON;
}

__attribute__((noinline)) int way_back6(const struct address *remote, __u32 ifindex)
{
	return remote ? way_back(remote, ifindex, true) : GO_ON;
}

/*
 * The pod may use the same port for a flow of the stack's, whose answers look
 * like those of an entry that is still there: a SYN-ACK where a connection was
 * known already, or UDP where the port has sent to a translated destination.
 */
static __always_inline bool may_be_another(struct packet *p, const union tuple *tuple, const struct flow *flow,
					   bool six)
{
	if (flow->verdict == FLOW_SNAT)
		return false;
	if (p->protocol == IPPROTO_TCP)
		return (p->tcp & (SEEN_SYN | SEEN_ACK)) == (SEEN_SYN | SEEN_ACK) && (flow->tcp & SEEN_ACK);
	if (p->protocol != IPPROTO_UDP || !is_translating())
		return false;
	return six ? port_is_remembered6(&tuple->six, flow->pod_id) : port_is_remembered4(&tuple->four, flow->pod_id);
}

/*
 * The verdict of a flow that begins here. Only of what would be masqueraded, and
 * of echoes, it has to be known who has begun; the others are DIRECT.
 */
static __always_inline __u8 verdict_of_inbound(struct packet *p, bool six)
{
	return is_echo(p, six) || masquerade_due(&p->source) ? FLOW_INBOUND : FLOW_DIRECT;
}

static __always_inline int insert_inbound(struct packet *p, const struct pod *pod, const union tuple *tuple,
					  __u8 verdict, enum purpose purpose, bool six)
{
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });
	struct flow *flow;

	if (!new || !has_room(pod->id, purpose, six))
		return GO_ON;
	flow = &new->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->verdict = verdict;
	flow->pod_id = pod->id;
	if (p->trace)
		return trace_flow(p, flow, TRACE_FLOW_NEW, GO_ON);
	/* generation 0 is never current: the answer looks its route up */
	flow->seen = flow->created = bpf_jiffies64();
	insert_flow(tuple, flow, six);
	return GO_ON;
}

/* The opener of a connection that found no room when it began: it speaks again, a flood of SYNs does not. */
static __always_inline int note_opener(struct packet *p, const struct pod *pod, const union tuple *tuple, bool six)
{
	if (!awaits_opener(pod->ifindex) || (p->tcp & (SEEN_FIN | SEEN_RST)) || !masquerade_due(&p->source))
		return GO_ON;
	return insert_inbound(p, pod, tuple, FLOW_INBOUND, FOR_INBOUND, six);
}

/*
 * A packet for a pod that was not SNATed: whose its flow is, and that it was
 * opened from outside, so that its answers keep the pod's address whatever the
 * masquerade policy says. GO_ON, or why it is the stack's.
 */
static __always_inline int note_inbound(struct packet *p, struct pod *pod, bool six)
{
	union tuple tuple;
	struct flow *flow;
	bool opening = opens(p), middle = is_mid_flow(p);
	bool asked =
		is_translating() && (six || may_answer_stacks(PLAIN(p->source), PLAIN(p->destination), pod->ifindex));
	int reason;

	/* of plain TCP only what says how the connection is */
	if (middle && !asked && !(p->tcp & (SEEN_SYN | SEEN_FIN | SEEN_RST)) && !awaits_opener(pod->ifindex))
		return GO_ON;
	tuple_in(&tuple, p, six);
	flow = flow_of(&tuple, six);
	if (middle && !asked && !(p->tcp & SEEN_SYN) && !flow)
		return note_opener(p, pod, &tuple, six);
	if (flow && flow->pod_id == pod->id && may_be_another(p, &tuple, flow, six) &&
	    ask_about(p->skb, &tuple, false, six) == CONNTRACK_TRANSLATES) {
		if (!p->trace) {
			raise_translating();
			remember_owner(&tuple, pod->id, REASON_TRANSLATED_FLOW, six);
			if (claim_flow(&tuple, flow, six))
				delete_flow(&tuple, flow->pod_id, six);
		}
		return REASON_TRANSLATED_FLOW;
	}
	if (flow && flow->pod_id == pod->id && usable(p, &flow->life)) {
		/* nor does a SYN from outside end a live SNATed flow */
		if (!opening ||
		    (flow->verdict != FLOW_DIRECT && !(flow->tcp & (SEEN_FIN | SEEN_REMOTE_FIN | SEEN_RESET)))) {
			if (p->trace)
				return trace_flow(p, flow, TRACE_FLOW, GO_ON);
			note_remote(p, flow, six);
			touch(flow, 0);
			return GO_ON;
		}
	} else if (!opening || owner_of(&tuple, six)) {
		/*
		 * Of a connection that begins here conntrack cannot know anything; but its answers may look like
		 * those of a flow of the stack's, and then conntrack has to tell the two apart.
		 */
		reason = six ? judge_owner6(p->skb, &tuple.six, pod->id, question_of(p, opening ? ASK_AS_SENT : 0)) :
			       judge_owner4(p->skb, &tuple.four, pod->id, question_of(p, opening ? ASK_AS_SENT : 0));
		if (reason != GO_ON)
			return reason;
		if (middle && !(control.flags & CONTROL_HAND_OVER) && known_owner(p->skb, &tuple, pod->id, six) == 0)
			return GO_ON;
	}
	/* its request has not come through here */
	if (is_echo(p, six) && !is_echo_request(p, six))
		return REASON_UNKNOWN_OWNER;
	reason = six ? way_back6(&p->source, pod->ifindex) : way_back4(&p->source, pod->ifindex);
	if (reason != GO_ON) {
		if (!p->trace) {
			raise_translating();
			remember_owner(&tuple, pod->id, reason, six);
		}
		return reason;
	}
	if (control.flags & CONTROL_HAND_OVER)
		return REASON_OFF;
	if (middle) {
		if (!p->trace)
			remember_owner(&tuple, pod->id, 0, six);
		return GO_ON;
	}
	if (!flow || replace(p, &tuple, flow, six)) {
		__u8 verdict = verdict_of_inbound(p, six);

		/* of TCP the SYN-ACK makes it; no room: answers are judged as new */
		if (verdict == FLOW_INBOUND)
			return insert_inbound(p, pod, &tuple, verdict, FOR_OPENING, six);
		if (p->protocol != IPPROTO_TCP)
			return insert_inbound(p, pod, &tuple, verdict, FOR_SPEED, six);
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

/* Whose is a packet for a pod that was not SNATed. GO_ON, or why it is the stack's. */
static __always_inline int owner_of_inbound(struct packet *p, struct pod *pod, bool six)
{
	int reason;

	if (p->tracked) {
		reason = six ? note_inbound6(p, pod) : note_inbound4(p, pod);
		return !p->fragment ? reason :
		       six          ? note_owner6(p->skb, facts_of(p), reason) :
				      note_owner4(p->skb, facts_of(p), reason);
	}
	if (owner_is_unknown(p, six))
		return REASON_UNKNOWN_OWNER;
	if (!is_translating())
		return GO_ON;
	if (p->fragment)
		return six ? noted_owner6(facts_of(p)) : noted_owner4(facts_of(p));
	if (is_icmp_error(p, six))
		return six ? error_owner_to_pod6(p, pod) : error_owner_to_pod4(p, pod);
	return GO_ON;
}

/* The flow at the pod whose answer `answered` is, and its tuple. */
static __always_inline struct flow *flow_of_answer(const union tuple *answered, const struct reverse *reverse,
						   union tuple *tuple, bool six)
{
	struct flow *flow;

	tuple_of_pod(tuple, answered, reverse, six);
	flow = flow_of(tuple, six);
	return flow && flow->pod_id == reverse->pod_id ? flow : NULL;
}

static __attribute__((noinline)) int end_answered4(const union tuple *answered, const struct reverse *reverse)
{
	union tuple tuple;
	struct flow *flow = answered && reverse ? flow_of_answer(answered, reverse, &tuple, false) : NULL;

	return flow && forget(&tuple, flow, false);
}

static __attribute__((noinline)) int end_answered6(const union tuple *answered, const struct reverse *reverse)
{
	union tuple tuple;
	struct flow *flow = answered && reverse ? flow_of_answer(answered, reverse, &tuple, true) : NULL;

	return flow && forget(&tuple, flow, true);
}

/* The remote's end of a SNATed connection: it counts in the flow's entry. */
static __always_inline void note_end(struct packet *p, const union tuple *answered, const struct reverse *reverse,
				     bool six)
{
	union tuple tuple;
	struct flow *flow = flow_of_answer(answered, reverse, &tuple, six);

	if (flow)
		note_remote(p, flow, six);
}

static __attribute__((noinline)) int note_end4(struct packet *p, const union tuple *answered,
					       const struct reverse *reverse)
{
	if (p && answered && reverse)
		note_end(p, answered, reverse, false);
	return 0;
}

static __attribute__((noinline)) int note_end6(struct packet *p, const union tuple *answered,
					       const struct reverse *reverse)
{
	if (p && answered && reverse)
		note_end(p, answered, reverse, true);
	return 0;
}

static __always_inline void note_answer(struct reverse *reverse, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	tcp &= SEEN_SYN | SEEN_ACK;

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
	if (!reverse || !usable(p, &reverse->life)) {
		/* so that it can be told: a NodePort's */
		if (p->trace)
			ask_about(p->skb, &tuple, false, six);
		return trace(p, TRACE_ASKED_REVERSE, REASON_NODE);
	}
	__builtin_memcpy(&new->address, reverse->pod, 16);
	pod = sender_of(&new->address, reverse->ifindex, reverse->pod_id, six);
	if (!pod)
		return REASON_NODE;
	/* the node has begun a connection with a port that a pod has taken up in the middle of one */
	if ((reverse->tcp & REVERSE_MIDDLE) && (p->tcp & (SEEN_SYN | SEEN_ACK)) == (SEEN_SYN | SEEN_ACK)) {
		if (!p->trace) {
			if (six)
				end_answered6(&tuple, reverse);
			else
				end_answered4(&tuple, reverse);
		}
		return REASON_NODE;
	}
	if (p->trace) {
		p->trace->stages |= TRACE_ASKED_REVERSE | TRACE_REVERSE;
	} else {
		if (p->tcp & (SEEN_FIN | SEEN_RST)) {
			if (six)
				note_end6(p, &tuple, reverse);
			else
				note_end4(p, &tuple, reverse);
		}
		note_answer(reverse, p->tcp);
	}
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
		reason = six ? parse_fragment6(p->skb, facts_of(p)) : parse_fragment4(p->skb, facts_of(p));
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (pod) {
		/* an answer to a SNATed flow is ours whatever its mark: the stack would take it for its own */
		if (is_marked(p->skb))
			return trace_pod(p, pod, REASON_POLICY);
		reason = owner_of_inbound(p, pod, six);
		if (reason != GO_ON)
			return trace_pod(p, pod, reason);
		return send_to_pod(p, pod, &new, six);
	}
	if (p->fragment) {
		reason = six ? find_fragments_pod6(p, &pod, &new) : find_fragments_pod4(p, &pod, &new);
		if (reason != GO_ON)
			return reason;
		if (p->ttl <= 1 || too_big(p, pod->mtu, six))
			return six ? undeliverable6(p, pod, &new) : undeliverable4(p, pod, &new);
		return six ? fragment_to_pod6(p, pod, &new) : fragment_to_pod4(p, pod, &new);
	}
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
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return stages_from_uplink4(skb, device);
	action = straight_from_uplink6(skb, device);
	return action != FOR_STAGES ? action : stages_from_uplink6(skb, device);
}

#endif
