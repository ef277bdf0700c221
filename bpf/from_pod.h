/* SPDX-License-Identifier: GPL-2.0-only */
/* TC ingress of a pod's host-side device: everything the pod sends. */
#ifndef HOSTROUTE_FROM_POD_H
#define HOSTROUTE_FROM_POD_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "verdict.h"
#include "packet_write.h"
#include "parse.h"
#include "pods.h"
#include "generation.h"
#include "masquerade.h"
#include "route.h"
#include "account.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "owner.h"
#include "detour.h"
#include "new_flow.h"
#include "options.h"
#include "send.h"
#include "fragment.h"
#include "undeliverable.h"
#include "send_to_pod.h"
#include "icmp_error_translate.h"
#include "way_back.h"
#include "outbound_owner.h"
#include "fragment_out.h"
#include "hot_path_out4.h"

/* Not tracked: ESP, GRE, ICMP errors, ... Routed if their source may stay. */
static __always_inline int leave_untracked(struct packet *p, struct rewrite *new, bool six)
{
	struct nexthop *nexthop;
	__u64 way = 0;
	int reason;

	if (is_icmp_error(p, six)) {
		reason = six ? error_from_pod6(p) : error_from_pod4(p);
		if (reason == GO_ON && !p->related)
			reason = six ? error_owner_from_pod6(p) : error_owner_from_pod4(p);
		if (reason != GO_ON)
			return reason;
	}
	reason = choose_nexthop(p, six, 0, false, &way);
	if (reason != GO_ON)
		return reason;
	/* an error about a flow without SNAT has none either */
	if (!p->related && p->origin != SOURCE_STAYS && trace_masquerade(p, masquerade_due(&p->destination)))
		return control.flags & CONTROL_DROP_PROTOCOLS ? REASON_DROP_PROTOCOL : REASON_PROTOCOL;
	if (owner_is_unknown(p, six))
		return REASON_UNKNOWN_OWNER;
	if (returns_by_stack(p, six))
		return REASON_UNKNOWN_DEVICE;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six))
		return REASON_MTU;
	return send_to_uplink(p, nexthop, new, six);
}

/* The remote has answered, as far as the pod's packets or the reverse entry tell: the flow is no mistaken attempt. */
static __always_inline bool is_answered(struct packet *p, struct flow *flow, bool six)
{
	struct reverse *reverse;
	union tuple tuple, key;

	if (p->protocol == IPPROTO_TCP)
		return flow->tcp & SEEN_ACK;
	if (flow->verdict != FLOW_SNAT)
		return flow->verdict == FLOW_INBOUND;
	tuple_out(&tuple, p, six);
	tuple_of_nat(&key, &tuple, flow, six);
	reverse = reverse_of(&key, six);
	return reverse && reverse->replied;
}

#define MOVED (-2)

/*
 * The flow's address was chosen for another uplink, or the node has it no
 * longer, as when the kernel's MASQUERADE ends a mapping (nf_nat_masquerade.c).
 */
static __always_inline bool has_moved(const struct flow *flow, __u32 index, bool six)
{
	struct nexthop *nexthop = nexthop_at(index);
	union route_key key;
	struct address nat;
	struct route *route;

	if (flow->verdict != FLOW_SNAT || !nexthop)
		return false;
	if (nexthop->ifindex != flow->ifindex)
		return true;
	__builtin_memcpy(&nat, flow->nat_address, 16);
	if (!nexthop->sources && (six ? same_address(&nat, nexthop->snat6) : PLAIN(nat) == nexthop->snat4))
		return false;
	route = route_to(&nat, &key, six);
	return !route || route->action != ROUTE_STACK || route->reason != REASON_LOCAL;
}

/*
 * The flow's next hop; looked up again only after the routes have changed. MOVED: its
 * translation is of no use any more. NULL: of one that is not remembered.
 */
static __always_inline int nexthop_of_flow(struct packet *p, struct flow *flow, __u64 *way, bool six)
{
	int reason;

	if (!flow)
		return choose_nexthop(p, six, 0, false, way);
	*way = way_of(flow);
	if (is_current(*way))
		return GO_ON;
	/* to an address that rules translate since the flow began, it stays what it is, as in conntrack */
	reason = choose_nexthop(p, six, nexthop_in(*way), is_answered(p, flow, six), way);
	if (reason == GO_ON && has_moved(flow, nexthop_in(*way), six))
		return MOVED;
	if (reason == GO_ON && !p->trace)
		remember_way(flow, *way);
	return reason;
}

/* Not inlined, for the stack's sake. */
static __attribute__((noinline)) int nexthop_of_flow4(struct packet *p, struct flow *flow, __u64 *way)
{
	return p && way ? nexthop_of_flow(p, flow, way, false) : REASON_ROUTE;
}

static __attribute__((noinline)) int nexthop_of_flow6(struct packet *p, struct flow *flow, __u64 *way)
{
	return p && way ? nexthop_of_flow(p, flow, way, true) : REASON_ROUTE;
}

/*
 * A connection that is opened anew over an entry that says something old.
 */
static __always_inline bool outdated(const struct packet *p, const union tuple *tuple, const struct flow *flow,
				     bool six)
{
	union tuple key;

	if (flow->verdict != FLOW_SNAT || (flow->tcp & (SEEN_FIN | SEEN_REMOTE_FIN | SEEN_RESET)))
		return true;
	tuple_of_nat(&key, tuple, flow, six);
	return !reverse_of(&key, six);
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
	__u64 way = 0;
	int reason;

	if (p->fragment)
		reason = six ? parse_fragment6(p->skb, facts_of(p)) : parse_fragment4(p->skb, facts_of(p));
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (!p->tracked)
		return !p->fragment ? leave_untracked(p, new, six) : six ? leave_later6(p, new) : leave_later4(p, new);

	tuple_out(&tuple, p, six);
	if (is_translating() && !opens(p)) {
		reason = six ? owner_outranks6(p->skb, &tuple.six, p->device->pod_id, question_of(p, ASK_AS_SENT)) :
			       owner_outranks4(p->skb, &tuple.four, p->device->pod_id, question_of(p, ASK_AS_SENT));
		if (reason != GO_ON)
			return !p->fragment ? reason :
			       six          ? note_owner6(p->skb, facts_of(p), reason) :
					      note_owner4(p->skb, facts_of(p), reason);
	}
	flow = flow_of(&tuple, six);
	if (flow && (flow->pod_id != p->device->pod_id ||
		     (opens(p) && (six ? outdated6(p, &tuple, flow) : outdated4(p, &tuple, flow))))) {
		if (is_paused(p))
			return wait_for_tables(p);
		if (replace(p, &tuple, flow, six))
			flow = NULL;
	}
	if (flow) {
		reason = six ? nexthop_of_flow6(p, flow, &way) : nexthop_of_flow4(p, flow, &way);
		if (reason == MOVED && is_paused(p))
			return wait_for_tables(p);
		if (reason == MOVED && replace(p, &tuple, flow, six)) {
			if (!p->trace)
				count_moved();
			flow = NULL;
		} else if (reason != GO_ON) {
			join(p, flow, six);
			return reason == MOVED ? REASON_DROP_FLOWS : reason;
		}
	}
	if (!flow) {
		reason = six ? judge_unknown6(p, &tuple, &way) : judge_unknown4(p, &tuple, &way);
		if (reason == GO_ON && p->origin)
			reason = six ? judge_origin6(p, &tuple) : judge_origin4(p, &tuple);
		/* not before it is known to be the fast path's: from the detour no packet gets to the stack */
		if (reason == GO_ON && is_paused(p))
			reason = wait_for_tables(p);
		if (reason == GO_ON)
			reason = six ? new_flow6(p, &tuple, way) : new_flow4(p, &tuple, way);
		if (reason != GO_ON)
			return reason;
		flow = p->trace ? &p->trace->flow : flow_of(&tuple, six);
		/* another CPU may have been first, and know another way; an entry from outside knows none yet */
		if (flow && is_current(way_of(flow)))
			way = way_of(flow);
	}
	/* none: a plain route and no room, so it is forwarded, not remembered */
	if (flow && !join(p, flow, six))
		return REASON_DROP_FLOWS;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six)) {
		reason = six   ? too_big_to_leave6(p, nexthop) :
			 !flow ? REASON_MTU :
				 too_big_to_leave4(p, nexthop->mtu, flow->verdict);
		if (!six && reason == DETOURED)
			return note_detoured4(p, flow, way);
		if (reason != GO_ON)
			return !p->fragment ? reason :
			       six          ? note_owner6(p->skb, facts_of(p), reason) :
					      note_owner4(p->skb, facts_of(p), reason);
	}
	if (flow && flow->verdict == FLOW_SNAT) {
		new->what = NAT_SOURCE;
		__builtin_memcpy(&new->address, flow->nat_address, 16);
		new->port = flow->nat_port;
		p->nat_port = flow->nat_port;
	}
	if (p->fragment) {
		__u32 verdict = flow ? flow->verdict : FLOW_DIRECT;

		reason =
			six ? leave_first6(p, new, nexthop, way, verdict) : leave_first4(p, new, nexthop, way, verdict);
		if (reason != GO_ON)
			return reason;
	}
	return send_to_uplink(p, nexthop, new, six);
}

/*
 * Whatever becomes of the packet, if it is the pod's own. Not of IPv6 that stays
 * on the link: the kernel has no source check for that, and neighbour discovery
 * may ask from addresses that have no route yet.
 */
static __always_inline bool has_checked_source(const struct packet *p, int reason, bool six)
{
	if (reason == GO_ON)
		return true;
	return six ? reason == REASON_OPTIONS :
		     (reason == REASON_OPTIONS || reason == REASON_LINK_LOCAL) && !special4(PLAIN(p->source));
}

static __always_inline int route_from_pod(struct packet *p, bool six)
{
	struct rewrite new = {};
	struct pod *pod;
	int reason, source = GO_ON;

	reason = six ? parse6(p) : parse4(p);
	if (has_checked_source(p, reason, six))
		source = check_source(p, six);
	if (source == REASON_DROP_SPOOF)
		return source;
	if (reason == GO_ON)
		reason = source;
	else if (reason == REASON_OPTIONS && source == GO_ON)
		reason = six ? judge_options_out6(p) : judge_options_out4(p);
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
	if (p->origin) {
		reason = six ? way_back6(&p->source, pod->ifindex) : way_back4(&p->source, pod->ifindex);
		if (reason != GO_ON)
			return trace_pod(p, pod, reason);
	}
	if (is_translating() && (is_shared(p->in) || is_shared(pod->ifindex))) {
		reason = six ? owner_of_local6(p, pod) : owner_of_local4(p, pod);
		if (reason != GO_ON)
			return trace_pod(p, pod, reason);
	}
	return send_to_pod(p, pod, &new, six);
}

static __always_inline int stages_from_pod(struct __sk_buff *skb, struct device *device, bool six)
{
	struct packet p = { .skb = skb, .device = device };
	int reason;

	if (!device)
		return TC_ACT_UNSPEC;
	p.in = device->ifindex;
	p.trace = trace_of(skb);
	reason = judge_outside(skb, device);
	if (reason == GO_ON)
		reason = six || skb->protocol == bpf_htons(ETH_P_IP) ? route_from_pod(&p, six) : REASON_NOT_IP;
	return conclude(&p, reason, six);
}

/* Not inlined, so that the hot path has the registers for itself; and two, for each has less on its stack. */
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

	if (!device) {
		device = detoured_from(skb);
		if (!device)
			return TC_ACT_UNSPEC;
	} else if (hot_from_pod(skb, device, &action)) {
		return action;
	}
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? stages_from_pod6(skb, device) : stages_from_pod4(skb, device);
}

#endif
