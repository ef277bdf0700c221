/* SPDX-License-Identifier: GPL-2.0-only */
/* An answer from outside to a SNATed flow: which pod's, and what it gets to see. */
#ifndef HOSTROUTE_ANSWER_H
#define HOSTROUTE_ANSWER_H

#include "call_types.h"
#include "packet.h"
#include "trace.h"
#include "packet_write.h"
#include "pods.h"
#include "tuple.h"
#include "flow.h"
#include "conntrack.h"
#include "new_flow.h"
#include "way_back.h"

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
	if (!six && p->device->reply_tag && reverse->replied != p->device->reply_tag) {
		if (!may_come_here4(p, &new->address, pod->ifindex))
			return REASON_DROP_MARTIAN;
		if (!p->trace)
			reverse->replied = p->device->reply_tag;
	}
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

#endif
