/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who writes: the calling task's executable and whether it is exempt, and the
 * event that names it. A process's name decides nothing.
 */
#ifndef HOSTROUTE_GUARD_CALLER_H
#define HOSTROUTE_GUARD_CALLER_H

#include "guard/cgroup.h"
#include "guard/maps.h"

static __always_inline struct file *caller_file(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, mm, exe_file);
}

static __always_inline void count(__u32 row)
{
	__u64 *value = bpf_map_lookup_elem(&guard_counts, &row);

	if (value)
		*value += 1;
}

/* Number of the exemption that lets the caller write, and counts this write; 0: none. */
static __always_inline __u32 exemption_of_caller(void)
{
	struct guard_executable key = {};
	__u32 found = 0, *number;
	struct file *file;

	if (control.exempt_paths)
		found = exemption_by_cgroup();
	if (found || !control.exempt_executables)
		return found;
	file = caller_file();
	key.inode = BPF_CORE_READ(file, f_inode, i_ino);
	key.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	number = bpf_map_lookup_elem(&allowed_executables, &key);
	return number && holds(*number) ? *number : 0;
}

struct path_walk {
	struct guard_event *event;
	struct dentry *dentry;
	struct mount *mount;
	__u32 part;
};

/* One step towards the root: a name, or from a mount's root to its mount point. */
static long walk_up(__u32 index, void *context)
{
	struct path_walk *walk = context;
	struct dentry *dentry = walk->dentry;
	struct mount *mount = walk->mount;
	struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
	__u32 part = walk->part;

	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root) || dentry == parent) {
		struct mount *above = BPF_CORE_READ(mount, mnt_parent);

		if (!above || above == mount)
			return 1;
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->mount = above;
		return 0;
	}
	if (part >= GUARD_PARTS)
		return 1;
	bpf_probe_read_kernel_str(walk->event->path[part], GUARD_PART, BPF_CORE_READ(dentry, d_name.name));
	walk->part = part + 1;
	walk->dentry = parent;
	return 0;
}

static __always_inline void name_executable(struct guard_event *event)
{
	struct file *file = caller_file();
	struct vfsmount *mnt = BPF_CORE_READ(file, f_path.mnt);
	struct path_walk walk = { .event = event, .part = unknown_zero() };

	event->inode = BPF_CORE_READ(file, f_inode, i_ino);
	event->device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	if (!mnt)
		return;
	walk.dentry = BPF_CORE_READ(file, f_path.dentry);
	walk.mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	bpf_loop(GUARD_PARTS + 4, walk_up, &walk, 0);
}

static __always_inline void name_arguments(struct guard_event *event)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	unsigned long start = BPF_CORE_READ(task, mm, arg_start);
	unsigned long end = BPF_CORE_READ(task, mm, arg_end);
	__u32 length = end - start;

	if (end <= start)
		return;
	if (end - start > GUARD_ARGUMENTS)
		length = GUARD_ARGUMENTS;
	if (length > GUARD_ARGUMENTS)
		return;
	if (!bpf_probe_read_user(event->arguments, length, (void *)start))
		event->arguments_length = length;
}

/* What is being written, before anything is known about the caller. */
struct attempt {
	__u32 kind;
	__u32 reason;
	__u32 message;
	__u32 family;
	__u32 position;
	__u32 entries;
	__u32 before;
	__u32 exemption;
	const void *table; /* 0: none */
	const void *chain;
	bool user;         /* both are the caller's memory */
	__u32 table_length;
	__u32 chain_length;
	const char *table_name; /* on the stack, 32 bytes; instead of table */
};

static __always_inline void copy_name(char *to, const void *from, __u32 length, bool user)
{
	if (!from || !length)
		return;
	if (user)
		bpf_probe_read_user_str(to, GUARD_NAME, from);
	else
		bpf_probe_read_kernel_str(to, GUARD_NAME, from);
	/* A name need not end with NUL. The mask is for verifiers that forget a bound once it is spilled. */
	if (length < GUARD_NAME) {
		barrier_var(length);
		to[length & (GUARD_NAME - 1)] = '\0';
	}
}

static __always_inline void report(const struct attempt *attempt, __u32 backend, __u32 verdict)
{
	struct guard_event *event = bpf_ringbuf_reserve(&guard_events, sizeof(*event), 0);
	__u64 ids = bpf_get_current_pid_tgid();

	if (!event) {
		count(GUARD_COUNT_LOST);
		return;
	}
	/* A read that fails leaves zeroes; memset of that many bytes is no instruction. */
	bpf_probe_read_kernel(event, sizeof(*event), 0);
	event->time = bpf_ktime_get_boot_ns();
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = ids >> 32;
	event->thread = (__u32)ids;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->verdict = verdict;
	event->backend = backend;
	event->reason = attempt->reason;
	event->kind = attempt->kind;
	event->message = attempt->message;
	event->family = attempt->family;
	event->position = attempt->position;
	event->entries = attempt->entries;
	event->before = attempt->before;
	event->exemption = attempt->exemption;
	bpf_get_current_comm(event->command, sizeof(event->command));
	if (attempt->table_name)
		__builtin_memcpy(event->table, attempt->table_name, 32);
	else
		copy_name(event->table, attempt->table, attempt->table_length, attempt->user);
	copy_name(event->chain, attempt->chain, attempt->chain_length, attempt->user);
	name_executable(event);
	name_arguments(event);
	bpf_ringbuf_submit(event, 0);
}

/* A write was found: reports it and says whether it is to be refused. */
static __always_inline bool refuse(struct attempt *attempt, __u32 backend, bool probe)
{
	if (probe)
		return true;
	attempt->exemption = exemption_of_caller();
	if (attempt->exemption) {
		count(GUARD_COUNT_EXEMPT);
		report(attempt, backend, GUARD_EXEMPT);
		return false;
	}
	if (control.mode == GUARD_AUDIT) {
		count(GUARD_COUNT_AUDITED);
		report(attempt, backend, GUARD_AUDITED);
		return false;
	}
	count(GUARD_COUNT_REFUSED);
	report(attempt, backend, GUARD_REFUSED);
	return true;
}

#endif
