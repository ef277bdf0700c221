/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments from a pod, away from the node, on the way of the first one. Without
 * a note, since the first was lost, is late, or 10 s ago:
 * - SNAT due: held for a moment (detour.h), then dropped. The stack would send
 *   it with the pod's address; with conntrack it would wait there for a first
 *   fragment in vain.
 * - SNAT not due: routed, no ports are needed.
 */
#ifndef HOSTROUTE_FRAGMENT_OUT_H
#define HOSTROUTE_FRAGMENT_OUT_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "packet_write.h"
#include "packet_store.h"
#include "parse.h"
#include "pods.h"
#include "generation.h"
#include "masquerade.h"
#include "route.h"
#include "owner.h"
#include "options.h"
#include "send.h"
#include "detour.h"
#include "fragment.h"
#include "undeliverable.h"

/* Away from the node with `new`; by the neighbour entry, which knows all that the maps know. */
static __always_inline int send_translated(struct packet *p, struct nexthop *nexthop, struct rewrite *new, bool six)
{
	if (p->trace)
		return trace_sent(p, nexthop->ifindex, NULL, NULL, &new->address, new->port, REASON_TO_NEIGHBOUR);
	if (rewrite_fragment(p, &new->address, new->port, true, 1, six))
		return REASON_DROP_MALFORMED;
	p->skb->mark = 0;
	p->out = nexthop->ifindex;
	return send_to_neighbour(p, nexthop, six);
}

/*
 * The first one, from a pod and away from the node, after it was judged like a
 * whole packet: `verdict` is its flow's, `new` has the SNAT that is due. GO_ON: none, send it as it is.
 */
static __always_inline int leave_first(struct packet *p, struct rewrite *new, struct nexthop *nexthop, __u64 way,
				       __u32 verdict, bool six)
{
	if (!note_way(p, &new->address, way, verdict, six))
		return REASON_DROP_FLOWS;
	if (new->what != NAT_SOURCE)
		return GO_ON;
	return send_translated(p, nexthop, new, six);
}

/* One that says no ports: on the way of the first. */
static __always_inline int leave_later(struct packet *p, struct rewrite *new, bool six)
{
	struct fragment_scratch *scratch = begin_note(facts_of(p), six);
	struct nexthop *nexthop;
	bool current = false;
	__u64 way = 0;
	int reason;

	if (p->fragment == PLACE_OPTIONS)
		return refuse_options();
	if (!scratch)
		return REASON_DROP_FLOWS;
	if (read_note(p->skb, facts_of(p), scratch, six) && scratch->note.verdict == FLOW_STACK)
		return scratch->note.way & (REASON_MAX - 1);
	if (scratch->note.verdict && scratch->note.pod_id == p->device->pod_id) {
		way = scratch->note.way;
		current = is_current(way);
	} else if (p->origin == SOURCE_STAYS || !trace_masquerade(p, masquerade_due(&p->destination))) {
		if (owner_is_unknown(p, six))
			return REASON_UNKNOWN_OWNER;
		if (returns_by_stack(p, six))
			return REASON_UNKNOWN_DEVICE;
		scratch->note.verdict = FLOW_DIRECT;
	} else if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || is_echo(p, six)) {
		reason = choose_nexthop(p, six, 0, false, &way);
		if (reason != GO_ON)
			return reason;
		return p->fragment == PLACE_LATER ? detour(p, 0, REASON_DROP_FRAGMENT) : REASON_DROP_FRAGMENT;
	} else {
		return control.flags & CONTROL_DROP_PROTOCOLS ? REASON_DROP_PROTOCOL : REASON_PROTOCOL;
	}
	if (!current) {
		reason = choose_nexthop(p, six, nexthop_in(way), false, &way);
		if (reason != GO_ON)
			return reason;
	}
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return REASON_ROUTE;
	trace_nexthop(p->trace, nexthop_in(way));
	if (too_big(p, nexthop->mtu, six)) {
		/* IPv6: the first was as large, see too_big_to_leave6() */
		reason = six ? REASON_DROP_MTU : too_big_to_leave4(p, nexthop->mtu, scratch->note.verdict);
		if (reason != GO_ON)
			return reason;
	}
	if (scratch->note.verdict != FLOW_SNAT)
		return send_to_uplink(p, nexthop, new, six);
	__builtin_memcpy(&new->address, scratch->note.address, 16);
	return send_translated(p, nexthop, new, six);
}

static __attribute__((noinline)) int leave_first4(struct packet *p, struct rewrite *new, struct nexthop *nexthop,
						  __u64 way, __u32 verdict)
{
	return leave_first(p, new, nexthop, way, verdict, false);
}

static __attribute__((noinline)) int leave_first6(struct packet *p, struct rewrite *new, struct nexthop *nexthop,
						  __u64 way, __u32 verdict)
{
	return leave_first(p, new, nexthop, way, verdict, true);
}

static __attribute__((noinline)) int leave_later4(struct packet *p, struct rewrite *new)
{
	return leave_later(p, new, false);
}

static __attribute__((noinline)) int leave_later6(struct packet *p, struct rewrite *new)
{
	return leave_later(p, new, true);
}

#endif
