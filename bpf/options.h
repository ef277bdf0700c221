/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What becomes of packets with IPv4 options or IPv6 extension headers
 * (parse_options.h reads them). The stack has such packets, but for
 * those whose remote is masqueraded: it would send them with the pod's address,
 * or take an answer for its own. They go through the stages like a first
 * fragment, whose transport header does not stand where parse_l4() expects it
 * either (PLACE_OPTIONS).
 *
 * What a router has to read or to write in them (RFC 791, RFC 8200 4.3) only the
 * stack can: where SNAT is due such a packet is dropped, or the stack's if its
 * rules are said to masquerade (CONTROL_DROP_PROTOCOLS).
 */
#ifndef HOSTROUTE_OPTIONS_H
#define HOSTROUTE_OPTIONS_H

#include "maps.h"
#include "packet.h"
#include "verdict.h"
#include "parse_options.h"
#include "pods.h"
#include "masquerade.h"
#include "route.h"

/* SNAT is due, and not to be had here. */
static __always_inline int refuse_options(void)
{
	return control.flags & CONTROL_DROP_PROTOCOLS ? REASON_DROP_OPTIONS : REASON_OPTIONS;
}

/* From a pod, its source checked. GO_ON: through the stages, else who has it. */
static __always_inline int judge_options_out(struct packet *p, bool six)
{
	__u64 way = 0;
	int reason;

	if (!p->options || (p->device->flags & (six ? DEVICE_STACK6 : DEVICE_STACK4)) || is_marked(p->skb) ||
	    p->ttl <= 1 || p->origin == SOURCE_STAYS || (pod_of(&p->destination, six) && pods_answer(p, six)) ||
	    !masquerade_due(&p->destination))
		return REASON_OPTIONS;
	if (p->options == OPTIONS_READ) {
		reason = choose_nexthop(p, six, 0, false, &way);
		return reason == GO_ON || reason >= REASON_FIRST_DROP ? refuse_options() : REASON_OPTIONS;
	}
	if (!p->fragment)
		p->fragment = PLACE_OPTIONS;
	return GO_ON;
}

/* From an uplink. GO_ON: through the stages, which find out whether it is an answer. */
static __always_inline int judge_options_in(struct packet *p, bool six)
{
	if (!p->options || !(control.flags & CONTROL_SNAT) ||
	    (pod_of(&p->destination, six) && (p->options == OPTIONS_READ || !masquerade_due(&p->source))))
		return REASON_OPTIONS;
	if (!p->fragment)
		p->fragment = PLACE_OPTIONS;
	return GO_ON;
}

/* Not inlined, for the stack's sake. */
static __attribute__((noinline)) int judge_options_out4(struct packet *p)
{
	return judge_options_out(p, false);
}

static __attribute__((noinline)) int judge_options_out6(struct packet *p)
{
	return judge_options_out(p, true);
}

static __attribute__((noinline)) int judge_options_in4(struct packet *p)
{
	return judge_options_in(p, false);
}

static __attribute__((noinline)) int judge_options_in6(struct packet *p)
{
	return judge_options_in(p, true);
}

#endif
