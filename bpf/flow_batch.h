/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Work on all flows in slices. A walk by bpf_for_each_map_elem cannot be
 * interrupted, and with a million flows it would keep a CPU for half a second.
 * So the daemon reads the keys of flows*, which the kernel hands out from a
 * position on, writes some hundreds of them into flow_keys* and runs a program
 * on these. The program looks each up again: what has gone meanwhile is passed
 * over, and what it does to an entry is as exact as if it had met it by itself.
 */
#ifndef HOSTROUTE_FLOW_BATCH_H
#define HOSTROUTE_FLOW_BATCH_H

#include "maps.h"
#include "tuple.h"
#include "flow.h"

/* The flow with the key at `index`. NULL: it has gone, or there is no such key. */
static __always_inline struct flow *flow_of_batch(__u32 index, union tuple *tuple, bool six)
{
	const __u32 row = 0;

	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (index >= FLOW_BATCH)
		return NULL;
	if (six) {
		struct tuple6 *keys = bpf_map_lookup_elem(&flow_keys6, &row);

		if (!keys)
			return NULL;
		tuple->six = keys[index];
	} else {
		struct tuple4 *keys = bpf_map_lookup_elem(&flow_keys4, &row);

		if (!keys)
			return NULL;
		tuple->four = keys[index];
	}
	return flow_of(tuple, six);
}

#endif
