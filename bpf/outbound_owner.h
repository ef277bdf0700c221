/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose is what a pod sends, as far as no entry in flows* says it: the fast
 * path's, or the stack's, and why (owner.h has what is known, and asks conntrack).
 * To the world outside, and to another pod of this node.
 */
#ifndef HOSTROUTE_OUTBOUND_OWNER_H
#define HOSTROUTE_OUTBOUND_OWNER_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "parse.h"
#include "kernel_route.h"
#include "pods.h"
#include "masquerade.h"
#include "route.h"
#include "tuple.h"
#include "tcp_state.h"
#include "conntrack.h"
#include "owner.h"
#include "fragment.h"
#include "icmp_error_translate.h"

/*
 * A flow without an entry, before one is made: whose it is, and its next hop.
 * GO_ON: the fast path's, by *way. The routes are asked before
 * conntrack: they cost less, and know most destinations that are translated.
 */
static __always_inline int judge_unknown(struct packet *p, const union tuple *tuple, __u64 *way, bool six)
{
	__u32 pod_id = p->device->pod_id;
	/* what is remembered of a connection before this one does not count */
	int reason = opens(p) ? GO_ON : known_owner(p->skb, tuple, pod_id, six);
	__u32 how;

	if (reason > 0) {
		if (!p->trace)
			return reason;
	} else {
		/* its request has not come through here */
		if (is_echo(p, six) && !is_echo_request(p, six))
			return trace(p, TRACE_ASKED_OWNER, REASON_UNKNOWN_OWNER);
		if (control.flags & CONTROL_HAND_OVER)
			return REASON_OFF;
		reason = choose_nexthop(p, six, 0, false, way);
		if (reason == REASON_TRANSLATED_DESTINATION && !p->trace) {
			remember_owner(tuple, pod_id, reason, six);
			if (p->protocol == IPPROTO_UDP)
				remember_port(tuple, pod_id, six);
			/* if conntrack knows it, its other face is marked by the question */
			if (is_mid_flow(p) && ask_about(p->skb, tuple, true, six) != CONNTRACK_TRANSLATES)
				share(p->in, SHARED_TAKEN);
		}
		if (reason != GO_ON)
			return reason;
		if (leads_elsewhere(p, six))
			return REASON_UNKNOWN_DEVICE;
		if (!is_translating())
			return GO_ON;
	}
	/* conntrack gives a new flow another source port where its answers would be taken for another flow's */
	how = opens(p) || p->protocol == IPPROTO_UDP ? ASK_AS_SENT | ASK_BOTH : ASK_AS_SENT;
	return six ? judge_owner6(p->skb, &tuple->six, pod_id, question_of(p, how)) :
		     judge_owner4(p->skb, &tuple->four, pod_id, question_of(p, how));
}

/* Off the hot path, and it needs stack. */
static __attribute__((noinline)) int judge_unknown4(struct packet *p, const union tuple *tuple, __u64 *way)
{
	int reason = tuple && way ? judge_unknown(p, tuple, way, false) : REASON_ROUTE;

	return p->fragment ? note_owner4(p->skb, facts_of(p), reason) : reason;
}

static __attribute__((noinline)) int judge_unknown6(struct packet *p, const union tuple *tuple, __u64 *way)
{
	int reason = tuple && way ? judge_unknown(p, tuple, way, true) : REASON_ROUTE;

	return p->fragment ? note_owner6(p->skb, facts_of(p), reason) : reason;
}

/*
 * The same for a source that is not the pod's own, after the rest: conntrack may
 * have the other direction, which comes another way, and is right about both.
 */
static __always_inline int judge_origin(struct packet *p, const union tuple *tuple, bool six)
{
	if (ask_about(p->skb, tuple, true, six) != CONNTRACK_NONE) {
		if (!p->trace)
			remember_owner(tuple, p->device->pod_id, REASON_UNKNOWN_OWNER, six);
		return REASON_UNKNOWN_OWNER;
	}
	if (p->origin == SOURCE_OTHER && !answers_others(p) && masquerade_due(&p->destination))
		return GO_ON;
	return returns_by_stack(p, six) ? REASON_UNKNOWN_DEVICE : GO_ON;
}

static __attribute__((noinline)) int judge_origin4(struct packet *p, const union tuple *tuple)
{
	int reason = p && tuple ? judge_origin(p, tuple, false) : REASON_ROUTE;

	return p->fragment ? note_owner4(p->skb, facts_of(p), reason) : reason;
}

static __attribute__((noinline)) int judge_origin6(struct packet *p, const union tuple *tuple)
{
	int reason = p && tuple ? judge_origin(p, tuple, true) : REASON_ROUTE;

	return p->fragment ? note_owner6(p->skb, facts_of(p), reason) : reason;
}

/*
 * A new flow, or UDP, to a shared pod whose answers would look like those of a
 * flow of the stack's: conntrack has to tell the two apart, by another source
 * port. So it is the stack's, too.
 */
static __always_inline int clash(struct packet *p, const union tuple *tuple, const struct pod *pod, bool six)
{
	union tuple inverse;
	int reason;

	if (!(opens(p) || p->protocol == IPPROTO_UDP) || !is_shared(pod->ifindex))
		return GO_ON;
	tuple_in(&inverse, p, six);
	reason = known_owner(p->skb, &inverse, pod->id, six);
	if (reason == 0 && p->protocol == IPPROTO_UDP)
		return GO_ON;
	if (reason <= 0 && ask_about(p->skb, &inverse, true, six) != CONNTRACK_TRANSLATES)
		return GO_ON;
	if (!p->trace) {
		remember_owner(tuple, p->device->pod_id, REASON_TRANSLATED_FLOW, six);
		share(p->in, SHARED_LOCAL);
	}
	return REASON_TRANSLATED_FLOW;
}

static __attribute__((noinline)) int clash4(struct packet *p, const union tuple *tuple, const struct pod *pod)
{
	return p && tuple && pod ? clash(p, tuple, pod, false) : GO_ON;
}

static __attribute__((noinline)) int clash6(struct packet *p, const union tuple *tuple, const struct pod *pod)
{
	return p && tuple && pod ? clash(p, tuple, pod, true) : GO_ON;
}

/*
 * Between local pods of which one is shared. Both directions of what the stack
 * has delivered are the stack's. GO_ON: the fast path's.
 */
static __always_inline int owner_of_local(struct packet *p, const struct pod *pod, bool six)
{
	union tuple tuple;
	int reason;

	if (p->fragment)
		reason = six ? parse_fragment6(p->skb, facts_of(p)) : parse_fragment4(p->skb, facts_of(p));
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (p->tracked) {
		tuple_out(&tuple, p, six);
		/* an echo whose request conntrack may have had before it was read */
		if (is_echo(p, six) && !is_echo_request(p, six) && may_have_older_echoes(p->in) &&
		    known_owner(p->skb, &tuple, p->device->pod_id, six) == GO_ON)
			return REASON_UNKNOWN_OWNER;
		reason = GO_ON;
		if (is_shared(p->in))
			reason = six ? judge_owner6(p->skb, &tuple.six, p->device->pod_id,
						    question_of(p, ASK_AS_SENT | ASK_KEEP)) :
				       judge_owner4(p->skb, &tuple.four, p->device->pod_id,
						    question_of(p, ASK_AS_SENT | ASK_KEEP));
		if (reason == GO_ON)
			reason = six ? clash6(p, &tuple, pod) : clash4(p, &tuple, pod);
		return !p->fragment ? reason :
		       six          ? note_owner6(p->skb, facts_of(p), reason) :
				      note_owner4(p->skb, facts_of(p), reason);
	}
	if (p->fragment)
		return six ? noted_owner6(p->skb, facts_of(p)) : noted_owner4(p->skb, facts_of(p));
	if (is_icmp_error(p, six))
		return six ? error_owner_from_pod6(p) : error_owner_from_pod4(p);
	portless_tuple(&tuple, p, true, six);
	reason = known_owner(p->skb, &tuple, p->device->pod_id, six);
	if (reason > 0)
		return reason;
	/* between the two one owner: of the other direction, too, if that has been the stack's */
	portless_tuple(&tuple, p, false, six);
	reason = known_owner(p->skb, &tuple, pod->id, six);
	return reason > 0 ? reason : GO_ON;
}

static __attribute__((noinline)) int owner_of_local4(struct packet *p, const struct pod *pod)
{
	return p && pod ? owner_of_local(p, pod, false) : GO_ON;
}

static __attribute__((noinline)) int owner_of_local6(struct packet *p, const struct pod *pod)
{
	return p && pod ? owner_of_local(p, pod, true) : GO_ON;
}

#endif
