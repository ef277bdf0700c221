/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Deletes flows that an operator has chosen, a batch at a time (flow_batch.h).
 * A flow that is younger than the command stays: it was decided anew already.
 */
#ifndef HOSTROUTE_DELETE_FLOWS_H
#define HOSTROUTE_DELETE_FLOWS_H

#include "call_types.h"
#include "packet.h"
#include "tuple.h"
#include "flow.h"
#include "flow_batch.h"

/* The address lies in the prefix; both v4-mapped or IPv6. */
static __always_inline bool within(const struct address *address, const struct delete_args *args)
{
	struct address prefix, mask;

	__builtin_memcpy(&prefix, args->remote, 16);
	__builtin_memcpy(&mask, args->remote_mask, 16);
	return !((address->high ^ prefix.high) & mask.high) && !((address->low ^ prefix.low) & mask.low);
}

static __always_inline bool is_chosen(const struct address *local, const struct address *remote, __be16 remote_port,
				      const struct flow *flow, const struct delete_args *args)
{
	__u32 created = flow->created;
	__u32 now = bpf_jiffies64(); /* after `created` was read: no flow is of the future */
	__u32 passed = now - args->started;
	struct address pod;

	/* ages are compared, not moments: within months a flow is 2^31 jiffies older than the command */
	if ((__s32)passed > 0 && now - created < passed)
		return false;
	if (args->filters & DELETE_POD_ADDRESS) {
		__builtin_memcpy(&pod, args->pod, 16);
		if (pod.high != local->high || pod.low != local->low)
			return false;
	}
	if ((args->filters & DELETE_POD_ID) && flow->pod_id != args->pod_id)
		return false;
	if ((args->filters & DELETE_REMOTE) && !within(remote, args))
		return false;
	if ((args->filters & DELETE_REMOTE_PORT) && remote_port != args->remote_port)
		return false;
	if ((args->filters & DELETE_VERDICT) && flow->verdict != args->verdict)
		return false;
	if ((args->filters & DELETE_OLDER) && args->started - created < args->age)
		return false;
	return true;
}

static __always_inline long delete_chosen(const union tuple *tuple, struct flow *flow, struct delete_args *args,
					  bool six)
{
	struct reverse *reverse = NULL;
	union tuple outside;

	if (flow->verdict == FLOW_SNAT) {
		tuple_of_nat(&outside, tuple, flow, six);
		reverse = reverse_of(&outside, six);
	}
	if ((args->filters & DELETE_IDLE) && idle_of(flow, reverse, bpf_jiffies64()) < args->idle)
		return 0;
	args->chosen++;
	if ((args->filters & DELETE_DRY_RUN) || !claim(&flow->life))
		return 0;
	/* its memory may be another flow's since it was looked up */
	if (flow_of(tuple, six) != flow) {
		flow->life = FLOW_LIVE;
		return 0;
	}
	if (reverse)
		delete_reverse(&outside, six);
	delete_flow(tuple, flow->pod_id, six);
	args->deleted++;
	return 0;
}

static long delete_next4(__u32 index, struct delete_args *args)
{
	struct address local = {}, remote = {};
	union tuple tuple;
	struct flow *flow = flow_of_batch(index, &tuple, false);

	if (!flow)
		return 0;
	local.low = MAPPED(tuple.four.local);
	remote.low = MAPPED(tuple.four.remote);
	if (!is_chosen(&local, &remote, tuple.four.remote_port, flow, args))
		return 0;
	return delete_chosen(&tuple, flow, args, false);
}

static long delete_next6(__u32 index, struct delete_args *args)
{
	struct address local, remote;
	union tuple tuple;
	struct flow *flow = flow_of_batch(index, &tuple, true);

	if (!flow)
		return 0;
	__builtin_memcpy(&local, tuple.six.local, 16);
	__builtin_memcpy(&remote, tuple.six.remote, 16);
	if (!is_chosen(&local, &remote, tuple.six.remote_port, flow, args))
		return 0;
	return delete_chosen(&tuple, flow, args, true);
}

SEC("syscall")
int delete_flows(struct delete_args *context)
{
	struct delete_args args;

	__builtin_memcpy(&args, context, sizeof(args));
	if (args.family == 4)
		bpf_loop(args.count, delete_next4, &args, 0);
	else if (args.family == 6)
		bpf_loop(args.count, delete_next6, &args, 0);
	context->chosen = args.chosen;
	context->deleted = args.deleted;
	return 0;
}

#endif
