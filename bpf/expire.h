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

#define STREAM_SECONDS 2

/* UDP that is still in use some time after its first packet, as in conntrack (nf_conntrack_proto_udp.c): no mere
 * question. */
static __always_inline bool is_stream(const struct flow *flow, const struct reverse *reverse)
{
	const __u32 least = STREAM_SECONDS * control.jiffies_per_second;

	if (reverse && !reverse->replied)
		return false;
	return flow->seen - flow->created > least || (reverse && reverse->seen - flow->created > least);
}

static __always_inline __u32 timeout_of(const struct flow *flow, const struct reverse *reverse, __u8 protocol,
					__u32 pressure)
{
	bool closed, answered;
	__u32 row;

	if (protocol == IPPROTO_TCP) {
		closed = (flow->tcp & SEEN_RST) || (reverse && (reverse->tcp & SEEN_RST)) ||
			 ((flow->tcp & SEEN_FIN) && (!reverse || (reverse->tcp & SEEN_FIN)));
		answered = (flow->tcp & SEEN_ACK) && (!reverse || reverse->replied);
		/* inbound, SYN-ACK sent, then only the remote spoke, or nobody: kept unless it is a flood */
		if (flow->verdict == FLOW_INBOUND && (flow->tcp & SEEN_SYN) && !pressure)
			answered = true;
		row = closed ? TIMEOUT_TCP_CLOSING : answered ? TIMEOUT_TCP_ESTABLISHED : TIMEOUT_TCP_OPENING;
	} else if (protocol == IPPROTO_UDP) {
		row = is_stream(flow, reverse) ? TIMEOUT_UDP_REPLIED : TIMEOUT_UDP_ONE_WAY;
	} else {
		return control.timeout[TIMEOUT_ICMP];
	}
	if (pressure && (row == TIMEOUT_TCP_OPENING || row == TIMEOUT_UDP_ONE_WAY))
		return control.timeout[row] / 2;
	return control.timeout[row];
}

static __always_inline bool is_idle(const struct flow *flow, const struct reverse *reverse, __u32 now, __u32 timeout)
{
	__u32 idle = now - flow->seen;

	if (reverse && reverse->replied && now - reverse->seen < idle)
		idle = now - reverse->seen;
	return idle > timeout;
}

static __always_inline long judge_flow(const union tuple *tuple, struct flow *flow, __u8 protocol,
				       struct expire_args *args, bool six)
{
	struct reverse *reverse = NULL;
	union tuple key;

	if (flow->verdict == FLOW_SNAT) {
		tuple_of_nat(&key, tuple, flow, six);
		reverse = reverse_of(&key, six);
	}
	if (!is_idle(flow, reverse, args->jiffies, timeout_of(flow, reverse, protocol, args->pressure))) {
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
	if (reverse)
		delete_reverse(&key, six);
	delete_flow(tuple, six);
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

#endif
