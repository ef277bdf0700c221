/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Entries of flow tables that others have taken the place of, as far as programs
 * have written them since these were copied: the daemon reads them, and gives
 * them to a program a batch at a time (src/datapath/migration.ts).
 *
 * In the kernel, because other programs write the new entries at the same time:
 * what is added to one is added where it stands. An entry that the daemon wrote
 * anew would lose what a program has seen meanwhile, or get what one writes into
 * the memory that had been another's.
 */
#ifndef HOSTROUTE_MERGE_H
#define HOSTROUTE_MERGE_H

#include "maps.h"
#include "call_types.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"

/* daemon writes, then runs `merge` */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct merge_rows);
} merge_rows SEC(".maps");

static __always_inline bool is_before(__u32 jiffies, __u32 than)
{
	return (__s32)(jiffies - than) < 0;
}

/* Nothing of the pod's, or of the remote's in `reverse`, has come since the copy was made. */
static __always_inline bool is_older(const struct merge_args *args, __u32 seen)
{
	return args->knows_since && is_before(seen, args->since);
}

static __always_inline void merge_into_flow(const struct merge_args *args, const struct flow *old, struct flow *flow)
{
	const bool was_reset = old->tcp & SEEN_RESET, later = is_before(flow->seen, old->seen);
	const bool spoken = is_before(old->seen, flow->seen);
	/* a RST that was copied may have turned out to be none */
	const bool is_reset = was_reset && (!spoken || (args->knows_since && !is_before(old->expected, args->since)));
	const __u8 seen = was_reset && !is_reset ? old->tcp & ~SEEN_RESET : old->tcp;

	if (!is_older(args, old->seen) || (flow->tcp | seen) != flow->tcp)
		keep_alive(&flow->life);
	if (!(flow->tcp & SEEN_RESET) && (was_reset ? is_reset : later))
		flow->expected = old->expected;
	see(flow, seen);
	if (later)
		flow->seen = old->seen;
}

static __always_inline void merge_into_reverse(const struct reverse *old, struct reverse *reverse)
{
	const bool later = is_before(reverse->seen, old->seen);

	keep_alive(&reverse->life);
	if ((reverse->tcp | old->tcp) != reverse->tcp)
		reverse->tcp |= old->tcp;
	if (!reverse->replied || (later && old->replied))
		reverse->replied = old->replied;
	if (later)
		reverse->seen = old->seen;
}

/* What is missing is inserted, unless it is older: that has ended since it was copied. 0, or the error. */
static __always_inline int merge_flow(const struct merge_args *args, const union tuple *tuple, const struct flow *old,
				      bool six)
{
	struct flow *flow = flow_of(tuple, six);
	int error;

	if (flow) {
		merge_into_flow(args, old, flow);
		return 0;
	}
	if (is_older(args, old->seen))
		return 0;
	error = six ? bpf_map_update_elem(&flows6, &tuple->six, old, BPF_NOEXIST) :
		      bpf_map_update_elem(&flows4, &tuple->four, old, BPF_NOEXIST);
	return error == -17 /* EEXIST: a program was first */ ? 0 : error;
}

static __always_inline int merge_reverse(const union tuple *tuple, const struct reverse *old, bool six)
{
	struct reverse *reverse = reverse_of(tuple, six);
	int error;

	if (reverse) {
		merge_into_reverse(old, reverse);
		return 0;
	}
	error = six ? bpf_map_update_elem(&reverse6, &tuple->six, old, BPF_NOEXIST) :
		      bpf_map_update_elem(&reverse4, &tuple->four, old, BPF_NOEXIST);
	return error == -17 ? 0 : error;
}

static __always_inline long merge_next(__u32 index, struct merge_args *args, bool six)
{
	const __u32 row = 0;
	struct merge_rows *rows = bpf_map_lookup_elem(&merge_rows, &row);
	union tuple tuple = {};
	int error;

	if (!rows || index >= FLOW_BATCH)
		return 1;
	if (six)
		tuple.six = rows->key[index].six;
	else
		tuple.four = rows->key[index].four;
	error = args->reverse ? merge_reverse(&tuple, &rows->value[index].reverse, six) :
				merge_flow(args, &tuple, &rows->value[index].flow, six);
	if (error)
		args->error = error;
	return 0;
}

static long merge_next4(__u32 index, struct merge_args *args)
{
	return merge_next(index, args, false);
}

static long merge_next6(__u32 index, struct merge_args *args)
{
	return merge_next(index, args, true);
}

SEC("syscall")
int merge(struct merge_args *context)
{
	struct merge_args args;

	__builtin_memcpy(&args, context, sizeof(args));
	if (args.family == 4)
		bpf_loop(args.count, merge_next4, &args, 0);
	else if (args.family == 6)
		bpf_loop(args.count, merge_next6, &args, 0);
	context->error = args.error;
	return 0;
}

#endif
