/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ends old flows: a program that the daemon runs now and then on all flows, a
 * batch at a time (flow_batch.h). It works inside the kernel because only there
 * "idle, so delete" can be made exact: a flow is first marked DYING and deleted
 * by a later round unless a packet has revived it.
 * Clock: jiffies, which never jump (low 32 bits; differences wrap rightly).
 */
#ifndef HOSTROUTE_EXPIRE_H
#define HOSTROUTE_EXPIRE_H

#include "maps.h"
#include "packet.h"
#include "pods.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "flow_batch.h"

/* What loses nothing by its end stays for so long at most: connections that are over, of all kinds but SNATed ones
 * (those only if room is short); and flows that are decided again. */
#define CLOSED_SECONDS 10
#define ANSWERED_SECONDS 5
#define DIRECT_SECONDS 300

static __always_inline bool is_established(const struct flow *flow, const struct reverse *reverse)
{
	if (flow->verdict == FLOW_SNAT)
		return (flow->tcp & SEEN_ACK) && reverse && reverse->replied;
	if (flow->verdict == FLOW_INBOUND)
		/* the opener's ACK may have taken another way; no half-open connection is that old */
		return (flow->tcp & SEEN_REMOTE_ACK) ||
		       ((flow->tcp & SEEN_ACK) &&
			(flow->ifindex || flow->seen - flow->created > control.timeout[TIMEOUT_TCP_OPENING]));
	return flow->tcp & SEEN_ACK;
}

/* Its pod is gone, or has become another: nobody can use it. */
static __always_inline bool is_orphan(const union tuple *tuple, const struct flow *flow, const struct reverse *reverse,
				      bool six)
{
	__u32 ifindex = reverse ? reverse->ifindex : flow->verdict == FLOW_INBOUND ? flow->ifindex : 0;
	struct address local = {};

	if (six)
		__builtin_memcpy(&local, tuple->six.local, 16);
	else
		local.low = MAPPED(tuple->four.local);
	return !sender_of(&local, ifindex, flow->pod_id, six);
}

static __always_inline __u32 at_most(__u32 timeout, __u32 seconds)
{
	const __u32 most = seconds * control.jiffies_per_second;

	return timeout < most ? timeout : most;
}

static __always_inline __u32 closed_timeout(bool soon)
{
	const __u32 timeout = control.timeout[TIMEOUT_TCP_CLOSING];

	return soon ? at_most(timeout, CLOSED_SECONDS) : timeout;
}

static __always_inline __u32 tcp_timeout(const struct flow *flow, const struct reverse *reverse, __u32 pressure)
{
	__u32 timeout;

	if (is_closed(flow))
		return closed_timeout(flow->verdict != FLOW_SNAT || pressure);
	if (!is_established(flow, reverse))
		return control.timeout[TIMEOUT_TCP_OPENING] >> !!pressure;
	timeout = control.timeout[TIMEOUT_TCP_ESTABLISHED];
	return flow->verdict == FLOW_DIRECT ? at_most(timeout, DIRECT_SECONDS) : timeout;
}

static __always_inline __u32 timeout_of(const struct flow *flow, const struct reverse *reverse, __u8 protocol,
					__u32 pressure)
{
	__u32 timeout;

	if (protocol == IPPROTO_TCP)
		return tcp_timeout(flow, reverse, pressure);
	if (protocol != IPPROTO_UDP)
		return control.timeout[TIMEOUT_ICMP];
	if (is_stream(flow, reverse))
		return control.timeout[TIMEOUT_UDP_REPLIED];
	timeout = control.timeout[TIMEOUT_UDP_ONE_WAY];
	if (!pressure)
		return timeout;
	/* a question that was answered: nothing more comes */
	return reverse && reverse->replied ? at_most(timeout, ANSWERED_SECONDS) : timeout >> 1;
}

static __always_inline long judge_flow(const union tuple *tuple, struct flow *flow, __u8 protocol,
				       struct expire_args *args, bool six)
{
	struct reverse *reverse = NULL;
	union tuple key;
	__u32 timeout;

	if (flow->verdict == FLOW_SNAT) {
		tuple_of_nat(&key, tuple, flow, six);
		reverse = reverse_of(&key, six);
	}
	timeout = timeout_of(flow, reverse, protocol, args->pressure);
	if (is_orphan(tuple, flow, reverse, six) && timeout > closed_timeout(args->pressure))
		timeout = closed_timeout(args->pressure);
	if (idle_of(flow, reverse, args->jiffies) <= timeout) {
		keep_alive(&flow->life);
		if (reverse)
			keep_alive(&reverse->life);
		goto keep;
	}
	if (flow->life == FLOW_LIVE) {
		if (reverse)
			__sync_val_compare_and_swap(&reverse->life, FLOW_LIVE, FLOW_DYING);
		__sync_val_compare_and_swap(&flow->life, FLOW_LIVE, FLOW_DYING);
		args->dying++;
		goto keep;
	}
	if (reverse && __sync_val_compare_and_swap(&reverse->life, FLOW_DYING, FLOW_DEAD) != FLOW_DYING) {
		/* an answer has come in between: start again, or it would never end */
		__sync_val_compare_and_swap(&flow->life, FLOW_DYING, FLOW_LIVE);
		goto keep;
	}
	if (__sync_val_compare_and_swap(&flow->life, FLOW_DYING, FLOW_DEAD) != FLOW_DYING) {
		if (reverse)
			reverse->life = FLOW_LIVE;
		goto keep;
	}
	/* see claim_flow() */
	if (flow_of(tuple, six) != flow) {
		flow->life = FLOW_LIVE;
		return 0;
	}
	if (reverse)
		delete_reverse(&key, six);
	delete_flow(tuple, flow->pod_id, six);
	args->deleted++;
	return 0;
keep:
	args->live++;
	if (flow->verdict == FLOW_SNAT)
		args->live_snat++;
	return 0;
}

static long judge_next4(__u32 index, struct expire_args *args)
{
	union tuple tuple;
	struct flow *flow = flow_of_batch(index, &tuple, false);

	return flow ? judge_flow(&tuple, flow, tuple.four.protocol, args, false) : 0;
}

static long judge_next6(__u32 index, struct expire_args *args)
{
	union tuple tuple;
	struct flow *flow = flow_of_batch(index, &tuple, true);

	return flow ? judge_flow(&tuple, flow, tuple.six.protocol, args, true) : 0;
}

SEC("syscall")
int expire(struct expire_args *context)
{
	struct expire_args args = {
		.family = context->family,
		.pressure = context->pressure,
		.count = context->count,
		.live = context->live,
		.live_snat = context->live_snat,
		.dying = context->dying,
		.deleted = context->deleted,
	};

	args.jiffies = bpf_jiffies64();
	args.time = bpf_ktime_get_ns();
	if (args.family == 4)
		bpf_loop(args.count, judge_next4, &args, 0);
	else if (args.family == 6)
		bpf_loop(args.count, judge_next6, &args, 0);
	*context = args;
	return 0;
}

/* See struct shared_pod. */
static long count_down(__u32 row, void *nothing)
{
	volatile struct shared_pod *shared = &control.shared[row & (DEVICE_SLOTS - 1)];

	if (shared->opening)
		shared->opening--;
	return 0;
}

/* Once a round of expiry. */
SEC("syscall")
int count_down_openings(void *context)
{
	bpf_loop(DEVICE_SLOTS, count_down, NULL, 0);
	return 0;
}

#endif
