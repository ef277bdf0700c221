/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who may take room from whom. Nothing takes an entry from a live flow; so what
 * counts is who gets a new one. A pod may have as many entries as are left for
 * everybody (half of it of flows opened from outside, a quarter where the opener
 * has not been heard again, and of flows that need no entry), so that n pods that take what they can leave one part in
 * n + 1 (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). What comes from outside is the account of the
 * pod it is for.
 *
 * An account is exact: whoever inserts an entry, or has claimed and deletes it,
 * writes it down. Pods whose ids differ by a multiple of ACCOUNT_SLOTS share one.
 */
#ifndef HOSTROUTE_ACCOUNT_H
#define HOSTROUTE_ACCOUNT_H

#include "maps.h"

#define A_FEW 64

static __always_inline struct account *account_of(__u32 pod_id)
{
	__u32 row = pod_id & (ACCOUNT_SLOTS - 1);

	return bpf_map_lookup_elem(&accounts, &row);
}

static __always_inline struct usage *total_usage(void)
{
	return bpf_map_lookup_elem(&usage, &(__u32){ 0 });
}

/* What one more entry is for, with its part of the room. */
enum purpose {
	FOR_SNAT,    /* all */
	FOR_INBOUND, /* half: its opener has spoken twice */
	FOR_OPENING, /* a quarter: of what comes from outside whoever opens */
	FOR_SPEED,   /* a quarter: FLOW_DIRECT */
};

/* Whether the pod may have one more entry. */
static __always_inline bool has_room(__u32 pod_id, enum purpose purpose, bool six)
{
	struct account *account = account_of(pod_id);
	struct usage *all = total_usage();
	__s32 used, own, room; /* signed: if a count were ever wrong it would be by few */

	if (!account || !all)
		return false;
	used = six ? all->flows6 : all->flows4;
	own = six ? account->flows6 : account->flows4;
	room = (__s32)control.flow_limit - used;
	return room > 0 && own < (purpose == FOR_SNAT ? room : purpose == FOR_INBOUND ? room >> 1 : room >> 2);
}

/* The first pod has more than twice as many entries as the other, and more than a few. */
static __always_inline bool has_far_more(__u32 pod_id, __u32 other_id, bool six)
{
	struct account *account = account_of(pod_id), *other = account_of(other_id);

	if (!account || !other)
		return false;
	return six ? account->flows6 > 2 * other->flows6 + A_FEW : account->flows4 > 2 * other->flows4 + A_FEW;
}

static __always_inline void charge(__u32 pod_id, __s32 entries, bool six)
{
	struct account *account = account_of(pod_id);
	struct usage *all = total_usage();

	if (!account || !all)
		return;
	__sync_fetch_and_add(six ? &account->flows6 : &account->flows4, entries);
	__sync_fetch_and_add(six ? &all->flows6 : &all->flows4, entries);
}

/* Of entries that the daemon has put into flows* itself. */
SEC("syscall")
int charge_flows(struct charge_args *args)
{
	charge(args->pod_id, args->entries, args->family == 6);
	return 0;
}

static __always_inline void count_moved(void)
{
	struct usage *all = total_usage();

	if (all)
		__sync_fetch_and_add(&all->moved, 1);
}

#endif
