/* SPDX-License-Identifier: GPL-2.0-only */
/* Whether SNAT is due towards a remote address, by the masquerade policy. */
#ifndef HOSTROUTE_MASQUERADE_H
#define HOSTROUTE_MASQUERADE_H

#include "maps.h"
#include "packet.h"
#include "generation.h"
#include "destination.h"

/* Not inlined: once a flow, and it needs stack. Global: see packet.h. */
__attribute__((noinline)) int masquerade_due(const struct address *remote)
{
	const __u32 epoch = control.masquerade_epoch;
	__u64 way;
	union {
		struct masquerade_key policy;
		__u32 row; /* of destinations */
	} key;
	struct masquerade *masquerade_entry;
	struct destination *known;
	bool due;

	if (!remote || !(control.flags & CONTROL_SNAT))
		return false;
	key.row = destination_row(remote);
	known = bpf_map_lookup_elem(&destinations, &key.row);
	if (!known)
		return false;
	if (still_holds(known, remote) && known->epoch == epoch && known->due)
		return known->due == DUE;
	way = way_before(remote);
	read_in_order(known);
	key.policy.prefix_length = 160;
	key.policy.epoch = epoch;
	__builtin_memcpy(key.policy.address, remote, 16);
	masquerade_entry = bpf_map_lookup_elem(&masquerade, &key.policy);
	due = masquerade_entry && masquerade_entry->masquerade;
	claim_row(known, remote, way);
	known->epoch = epoch;
	known->due = due ? DUE : DUE_NOT;
	return due;
}

#endif
