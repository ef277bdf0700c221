/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For how long the programs go on without the daemon. The stages compare the
 * clock with control.lease for each packet. The hot path has no
 * instructions for that: it looks at control.straight alone, and a timer takes
 * that away when the lease is over. The daemon sets it, and arms the timer, with
 * each renewal; the timer lives as long as the pinned map.
 */
#ifndef HOSTROUTE_LEASE_H
#define HOSTROUTE_LEASE_H

#include "maps.h"

#define CLOCK_MONOTONIC 1 /* stands still while the machine sleeps, as jiffies do */
#define MOST_SECONDS 3600 /* a timer that is early starts again */

struct lease_timer {
	struct bpf_timer timer;
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lease_timer);
} lease_timers SEC(".maps");

static int lease_over(void *map, __u32 *key, struct lease_timer *row)
{
	__u64 now = bpf_jiffies64(), lease = control.lease, rate = control.jiffies_per_second, left;

	if (now >= lease || !rate) {
		control.straight = 0;
		return 0;
	}
	left = lease - now;
	if (left > MOST_SECONDS * rate)
		left = MOST_SECONDS * rate;
	bpf_timer_start(&row->timer, left * (1000000000 / rate), 0);
	return 0;
}

/* Run by the daemon after it has written control.lease. 0, or a negative error: then the hot path must stay off.
 */
SEC("syscall")
int arm_lease(void *context)
{
	__u32 zero = 0;
	struct lease_timer *row = bpf_map_lookup_elem(&lease_timers, &zero);
	long error;

	if (!row)
		return -2;
	error = bpf_timer_init(&row->timer, &lease_timers, CLOCK_MONOTONIC);
	if (error && error != -16 /* EBUSY: it has been made before */)
		return error;
	error = bpf_timer_set_callback(&row->timer, lease_over);
	/* at once: the callback knows how long */
	return error ? error : bpf_timer_start(&row->timer, 0, 0);
}

#endif
