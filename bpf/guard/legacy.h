/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The legacy tools replace a whole table in one setsockopt, to add as well as
 * to delete. What tells them apart is in the head of the new table: its own
 * number of rows, and num_counters, which the kernel compares with the number
 * of rows of the table it replaces (EAGAIN or EINVAL when it differs).
 *
 *   fewer rows than before                         a removal: passes
 *   an empty table (`-F` of what is empty already) passes
 *   as many or more                                refused: added, replaced,
 *                                                  policy changed, or zeroed (-Z)
 *
 * A removal may carry no policy other than ACCEPT, except one that stood
 * before the guard came. A removal that takes two rows away and brings one in
 * passes here; user space compares the tables and reports it.
 *
 * LSM hooks do not see the value. They read it where the system call's
 * registers point; who changes it from another thread in between fools them.
 */
#ifndef HOSTROUTE_GUARD_LEGACY_H
#define HOSTROUTE_GUARD_LEGACY_H

#include "guard/caller.h"
#include "guard/maps.h"

#define LEVEL_IP 0
#define LEVEL_IPV6 41
#define IPT_REPLACE 64
#define ARPT_REPLACE 96
#define EBT_REPLACE 128

#define IPT_HOOKS 5
#define EBT_HOOKS 6
#define STANDARD_ACCEPT (-2) /* -NF_ACCEPT - 1 */
#define EBT_POLICY_ACCEPT (-1)
#define EBT_POLICY_OFFSET 40 /* struct ebt_entries */

/* struct ipt_replace; ip6t_replace is the same. */
struct ipt_head {
	char name[32];
	__u32 hooks;
	__u32 entries;
	__u32 size;
	__u32 hook_entry[IPT_HOOKS];
	__u32 underflow[IPT_HOOKS];
	__u32 counters;
	__u64 pointer;
};

struct arpt_head {
	char name[32];
	__u32 hooks;
	__u32 entries;
	__u32 size;
	__u32 hook_entry[3];
	__u32 underflow[3];
	__u32 counters;
};

struct ebt_head {
	char name[32];
	__u32 hooks;
	__u32 entries;
	__u32 size;
	__u32 pad;
	__u64 hook_entry[EBT_HOOKS];
	__u32 counters;
	__u32 pad1;
};

/* Where the new table is: in user memory (LSM), or its first page in the kernel's (cgroup). */
struct table_source {
	const void *start;
	__u32 available;
	bool user;
};

static __always_inline int read_source(void *to, __u32 size, const struct table_source *source, __u32 offset)
{
	if (offset > source->available || source->available - offset < size)
		return -1;
	if (source->user)
		return bpf_probe_read_user(to, size, source->start + offset);
	return bpf_probe_read_kernel(to, size, source->start + offset);
}

static __always_inline __u32 known_policies(__u32 kind, const char *name)
{
	struct guard_table key = { .kind = kind };
	__u32 *mask;

	__builtin_memcpy(key.name, name, sizeof(key.name));
	mask = bpf_map_lookup_elem(&legacy_policies, &key);
	return mask ? *mask : 0;
}

/* Hooks whose policy in the new table is something else than ACCEPT. */
static __always_inline __u32 ipt_policies(const struct ipt_head *head, const struct table_source *source,
					  __u32 entry_size)
{
	__u32 other = 0;

#pragma unroll
	for (int hook = 0; hook < IPT_HOOKS; hook++) {
		/* The standard target stands behind the row, its verdict behind 32 bytes of header. */
		__u32 offset = sizeof(*head) + head->underflow[hook] + entry_size + 32;
		__s32 verdict = 0;

		if (!(head->hooks & (1U << hook)) || head->underflow[hook] > (1U << 30))
			continue;
		/* Past the first page a cgroup program sees nothing: user space compares. */
		if (!source->user && offset > source->available - sizeof(verdict))
			continue;
		if (read_source(&verdict, sizeof(verdict), source, offset) || verdict != STANDARD_ACCEPT)
			other |= 1U << hook;
	}
	return other;
}

static __always_inline __u32 bits(__u32 mask, __u32 width)
{
	__u32 number = 0;

#pragma unroll
	for (__u32 bit = 0; bit < width; bit++)
		number += mask >> bit & 1;
	return number;
}

/* name: 32 bytes for the table's name. Returns enum guard_reason, 0: let it through. */
static __always_inline __u32 judge_ipt(const struct table_source *source, struct attempt *attempt, char *name)
{
	struct ipt_head head = {};
	__u32 other;

	if (read_source(&head, sizeof(head), source, 0))
		return GUARD_UNINSPECTABLE;
	__builtin_memcpy(name, head.name, sizeof(head.name));
	attempt->entries = head.entries;
	attempt->before = head.counters;
	other = ipt_policies(&head, source, attempt->kind == GUARD_IPTABLES ? 112 : 168);
	other &= ~known_policies(attempt->kind, head.name);
	if (head.entries == bits(head.hooks, IPT_HOOKS) + 1)
		return other ? GUARD_POLICY : 0;
	if (head.entries >= head.counters)
		return GUARD_WRITE;
	return other ? GUARD_POLICY : 0;
}

static __always_inline __u32 judge_arpt(const struct table_source *source, struct attempt *attempt, char *name)
{
	struct arpt_head head = {};

	if (read_source(&head, sizeof(head), source, 0))
		return GUARD_UNINSPECTABLE;
	__builtin_memcpy(name, head.name, sizeof(head.name));
	attempt->entries = head.entries;
	attempt->before = head.counters;
	return head.entries >= head.counters ? GUARD_WRITE : 0;
}

static __always_inline __u32 judge_ebt(const struct table_source *source, struct attempt *attempt, char *name)
{
	struct ebt_head head = {};
	__u32 other = 0;

	if (read_source(&head, sizeof(head), source, 0))
		return GUARD_UNINSPECTABLE;
	__builtin_memcpy(name, head.name, sizeof(head.name));
	attempt->entries = head.entries;
	attempt->before = head.counters;
	if (head.entries >= head.counters && head.entries)
		return GUARD_WRITE;
#pragma unroll
	for (int hook = 0; hook < EBT_HOOKS; hook++) {
		__s32 policy = 0;

		if (!(head.hooks & (1U << hook)) || !head.hook_entry[hook])
			continue;
		/* The chains are the caller's memory whoever asks. */
		if (bpf_probe_read_user(&policy, sizeof(policy), (void *)head.hook_entry[hook] + EBT_POLICY_OFFSET) ||
		    policy != EBT_POLICY_ACCEPT)
			other |= 1U << hook;
	}
	return other & ~known_policies(GUARD_EBTABLES, head.name) ? GUARD_POLICY : 0;
}

/* enum guard_kind of a setsockopt; 0: nothing of ours. */
static __always_inline __u32 legacy_kind(int level, int optname)
{
	if (level == LEVEL_IPV6)
		return optname == IPT_REPLACE ? GUARD_IP6TABLES : 0;
	if (level != LEVEL_IP)
		return 0;
	if (optname == IPT_REPLACE)
		return GUARD_IPTABLES;
	if (optname == ARPT_REPLACE)
		return GUARD_ARPTABLES;
	return optname == EBT_REPLACE ? GUARD_EBTABLES : 0;
}

static __always_inline __u32 family_of(__u32 kind)
{
	switch (kind) {
	case GUARD_IPTABLES:
		return 2; /* NFPROTO_IPV4 */
	case GUARD_IP6TABLES:
		return 10;
	case GUARD_ARPTABLES:
		return 3;
	}
	return 7; /* NFPROTO_BRIDGE */
}

#endif
