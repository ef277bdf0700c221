/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A traced packet: one that the daemon makes and runs through the loaded
 * programs (BPF_PROG_TEST_RUN) to learn what they would do, and why. It has the
 * mark that control.trace_mark holds for the time of that run only.
 *
 * Invariants
 * - It takes the same stages as every packet, and each writes down what it has
 *   found. It is never counted or told, changes no flow, leaves none behind and
 *   holds no port.
 * - Other packets pay for four or five comparisons. So a stage that is passed by
 *   every packet says nothing of its own: what later stages say implies it.
 * - It is not written to and not sent: it ends as TC_ACT_UNSPEC. So whatever
 *   comes with this mark from elsewhere goes to the stack as it came.
 */
#ifndef HOSTROUTE_TRACE_H
#define HOSTROUTE_TRACE_H

#include "maps.h"
#include "packet.h"

/* Two instructions for a packet without a mark. */
static __always_inline struct trace *trace_of(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	if (!mark || mark != control.trace_mark)
		return NULL;
	return bpf_map_lookup_elem(&traces, &(__u32){ 0 });
}

/* What the packet ends with is passed on. */
static __always_inline int trace(struct packet *p, __u32 stages, int reason)
{
	if (p->trace)
		p->trace->stages |= stages;
	return reason;
}

/* On the way out: the packet is for this pod, and does not get there. */
static __always_inline int trace_pod(struct packet *p, const struct pod *pod, int reason)
{
	if (p->trace) {
		p->trace->stages |= TRACE_POD;
		p->trace->pod = pod->ifindex;
	}
	return reason;
}

static __always_inline int trace_flow(struct packet *p, const struct flow *flow, __u32 stages, int reason)
{
	if (p->trace) {
		p->trace->stages |= stages;
		__builtin_memcpy(&p->trace->flow, flow, sizeof(*flow));
	}
	return reason;
}

static __always_inline void trace_route(struct trace *trace, const struct route *route)
{
	if (!trace)
		return;
	trace->stages |= TRACE_ASKED_ROUTE;
	if (route) {
		trace->stages |= TRACE_ROUTE;
		__builtin_memcpy(&trace->route, route, sizeof(*route));
	}
}

static __always_inline void trace_nexthop(struct trace *trace, __u32 index)
{
	if (!trace)
		return;
	trace->stages |= TRACE_NEXTHOP;
	trace->nexthop = index;
}

/* Says what the answer is, and passes it on. */
static __always_inline bool trace_masquerade(struct packet *p, bool due)
{
	return trace(p, due ? TRACE_ASKED_MASQUERADE | TRACE_MASQUERADE : TRACE_ASKED_MASQUERADE, due);
}

/* In place of rewriting and sending; `to` and `from` are MACs or NULL, `nat` too. */
static __always_inline int trace_sent(struct packet *p, __u32 out, const __u8 *to, const __u8 *from,
				      const struct address *nat, __be16 nat_port, int reason)
{
	struct trace *trace = p->trace;

	if (!trace)
		return reason;
	trace->stages |= TRACE_SENT;
	trace->out = out;
	if (to)
		__builtin_memcpy(trace->to, to, 6);
	if (from)
		__builtin_memcpy(trace->from, from, 6);
	if (nat) {
		__builtin_memcpy(trace->nat_address, nat, 16);
		trace->nat_port = nat_port;
	}
	return reason;
}

#endif
