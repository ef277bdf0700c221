/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The first packet of a flow: which verdict it has, is SNAT due (then snat_port.h),
 * and is there room for its entry (account.h). And the end of an entry that no
 * longer counts.
 */
#ifndef HOSTROUTE_NEW_FLOW_H
#define HOSTROUTE_NEW_FLOW_H

#include "maps.h"
#include "packet.h"
#include "event.h"
#include "trace.h"
#include "generation.h"
#include "masquerade.h"
#include "route.h"
#include "account.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "new_entries.h"
#include "snat_port.h"

/* Removes an entry that no longer counts. false: somebody else is at it. */
static __always_inline bool forget(const union tuple *tuple, struct flow *flow, bool six)
{
	union tuple reverse;

	if (!claim_flow(tuple, flow, six))
		return false;
	if (flow->verdict == FLOW_SNAT) {
		tuple_of_nat(&reverse, tuple, flow, six);
		delete_reverse(&reverse, six);
	}
	delete_flow(tuple, flow->pod_id, six);
	return true;
}

/* Off the hot path, and it needs stack. */
static __attribute__((noinline)) int forget4(const union tuple *tuple, struct flow *flow)
{
	return flow && forget(tuple, flow, false);
}

static __attribute__((noinline)) int forget6(const union tuple *tuple, struct flow *flow)
{
	return flow && forget(tuple, flow, true);
}

/* forget() for this packet; a traced one only says that it would. */
static __always_inline bool replace(struct packet *p, const union tuple *tuple, struct flow *flow, bool six)
{
	if (!p->trace)
		return six ? forget6(tuple, flow) : forget4(tuple, flow);
	trace_flow(p, flow, TRACE_FLOW_OUTDATED, 0);
	return flow->life != FLOW_DEAD;
}

/*
 * Decides for a packet without a usable flow that leaves by `way`. After GO_ON the flow's entry
 * exists, and the packet has joined it if this made it; or its verdict is plain routing and the pod gets no
 * more room.
 */
static __always_inline int new_flow(struct packet *p, const union tuple *tuple, __u64 way, bool six)
{
	struct new_entries *new;
	struct nexthop *nexthop;
	struct flow *flow;
	int error, reason;

	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return REASON_ROUTE;
	new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });
	if (!new)
		return REASON_DROP_FLOWS;
	new->made = false;
	flow = &new->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	remember_way(flow, way);
	flow->seen = flow->created = bpf_jiffies64();
	flow->pod_id = p->device->pod_id;
	flow->tcp = seen_of(p->tcp);
	flow->verdict = FLOW_DIRECT;
	if (answers_others(p)) {
		flow->verdict = FLOW_INBOUND;
		flow->ifindex = p->in;
		if (!has_room(flow->pod_id, FOR_OPENING, six))
			return REASON_DROP_FLOWS;
	} else if (is_syn_ack(p)) {
		/* opened from outside, whatever is known of it */
		if (trace_masquerade(p, masquerade_due(&p->destination)))
			flow->verdict = FLOW_INBOUND;
	} else if (p->origin != SOURCE_STAYS && trace_masquerade(p, masquerade_due(&p->destination))) {
		reason = choose_source(p, nexthop, (struct address *)flow->nat_address, six);
		if (reason != GO_ON)
			return reason;
		flow->verdict = FLOW_SNAT;
		flow->ifindex = nexthop->ifindex;
		if (!has_room(flow->pod_id, FOR_SNAT, six))
			return REASON_DROP_FLOWS;
		reason = take_port(p, tuple, new, six);
		if (reason != GO_ON)
			return reason;
	}
	if (p->trace) {
		if (flow->verdict == FLOW_SNAT && !new->borrowed)
			delete_reverse(&new->tuple, six); /* gives the port back */
		return trace_flow(p, flow, TRACE_FLOW_NEW, GO_ON);
	}
	/* for speed only: of what ends nothing follows */
	if (flow->verdict == FLOW_DIRECT && ((p->tcp & SEEN_RST) || !has_room(flow->pod_id, FOR_SPEED, six)))
		return GO_ON;
	/* when the opener speaks again there is more room for it: see note_opener() */
	if (flow->verdict == FLOW_INBOUND && !has_room(flow->pod_id, FOR_OPENING, six)) {
		await_opener(p->in);
		return GO_ON;
	}
	/* in the entry from its first moment on, and for who goes on with what stands here */
	join(p, flow, six);
	error = insert_flow(tuple, flow, six);
	new->made = !error;
	if (error && flow->verdict == FLOW_SNAT) {
		delete_reverse(&new->tuple, six);
		if (error != -17 /* EEXIST: another CPU was first, use its port */)
			return REASON_DROP_FLOWS;
	}
	if (!error && (control.flags & CONTROL_MONITOR)) {
		p->out = nexthop->ifindex;
		tell(p->skb, facts_of(p), REASON_TO_UPLINK, six, flow);
	}
	return GO_ON;
}

/* Subprograms, not inlined: they are off the hot path. */
static __attribute__((noinline)) int new_flow4(struct packet *p, const union tuple *tuple, __u64 way)
{
	return tuple ? new_flow(p, tuple, way, false) : REASON_DROP_FLOWS;
}

static __attribute__((noinline)) int new_flow6(struct packet *p, const union tuple *tuple, __u64 way)
{
	return tuple ? new_flow(p, tuple, way, true) : REASON_DROP_FLOWS;
}

#endif
