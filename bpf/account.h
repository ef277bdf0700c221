/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who may take room from whom. Nothing takes an entry from a live flow; so what
 * counts is who gets a new one. A pod may have as many entries as are left for
 * everybody (half of it of flows opened from outside, a quarter of flows that
 * need no entry), so that n pods that take what they can leave one part in n + 1
 * (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). What comes
 * from outside is the account of the pod it is for.
 *
 * An account is exact: whoever inserts an entry, or has claimed and deletes it,
 * writes it down. Pods whose ids differ by a multiple of ACCOUNT_SLOTS share one.
 */
#ifndef HOSTROUTE_ACCOUNT_H
#define HOSTROUTE_ACCOUNT_H

static __always_inline struct account *account_of(__u32 pod_id)
{
	__u32 row = pod_id & (ACCOUNT_SLOTS - 1);

	return bpf_map_lookup_elem(&accounts, &row);
}

static __always_inline struct usage *total_usage(void)
{
	return bpf_map_lookup_elem(&usage, &(__u32){ 0 });
}

/* Whether the pod may have one more entry of this verdict. */
static __always_inline bool has_room(__u32 pod_id, __u8 verdict, bool six)
{
	struct account *account = account_of(pod_id);
	struct usage *all = total_usage();
	__u32 used, own, room;

	if (!account || !all)
		return false;
	used = six ? all->flows6 : all->flows4;
	own = six ? account->flows6 : account->flows4;
	if (used >= control.flow_limit)
		return false;
	room = control.flow_limit - used;
	return own < (verdict == FLOW_SNAT ? room : verdict == FLOW_INBOUND ? room / 2 : room / 4);
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
