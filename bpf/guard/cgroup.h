/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Whether the calling task's cgroup is exempt, decided by its path at the
 * moment of the write: a cgroup that was made a moment ago is known, whether
 * or not the daemon runs.
 *
 *   a path   /kubepods, /kubelet/kubepods: that directory and all below it
 *   a unit   kubelet.service: a directory with nothing but slices above it, as
 *            systemd makes them; one that a user makes in a session of theirs
 *            is not such a directory
 *
 * Paths begin at the root that the daemon sees. Where version 1 hierarchies
 * are mounted a container may have a directory of its own only there: then the
 * task's directories in all of them are looked at.
 */
#ifndef HOSTROUTE_GUARD_CGROUP_H
#define HOSTROUTE_GUARD_CGROUP_H

#include "guard/maps.h"

#define CGROUP_DEPTH 32
#define MOST_HIERARCHIES 16
#define NOWHERE 0xfffffffe /* node: no path leads here */

static const char slice_suffix[] = ".slice";

struct cgroup_walk {
	struct cgroup *cgroup;
	__u64 root; /* id of the directory where paths begin; 0: at the hierarchy's own root */
	__u32 level;
	__u32 node;
	__u32 exemption;
	bool below; /* the root was passed */
	bool slices;
};

/* Whether the exemption is still in force; counts its use. */
static __always_inline bool holds(__u32 exemption)
{
	struct guard_allowance *allowance = bpf_map_lookup_elem(&exemptions, &exemption);

	if (!allowance || (allowance->until && allowance->until < bpf_ktime_get_boot_ns()))
		return false;
	__sync_fetch_and_add(&allowance->used, 1);
	return true;
}

/* length: with the NUL. */
static __always_inline bool is_slice(const char *name, long length)
{
	char end[sizeof(slice_suffix)] = {};

	if (length < (long)sizeof(end) || bpf_probe_read_kernel(end, sizeof(end), name + length - sizeof(end)))
		return false;
#pragma unroll
	for (__u32 at = 0; at < sizeof(end); at++) {
		if (end[at] != slice_suffix[at])
			return false;
	}
	return true;
}

static __always_inline bool step_to(struct cgroup_walk *walk, const struct guard_step *step, bool unit)
{
	struct guard_place *place = bpf_map_lookup_elem(&cgroup_paths, step);

	if (!unit)
		walk->node = place && place->node ? place->node : NOWHERE;
	if (!place || !place->exemption || !holds(place->exemption))
		return false;
	walk->exemption = place->exemption;
	return true;
}

/* One directory, from the root down. */
static long walk_down(__u32 level, void *context)
{
	struct cgroup_walk *walk = context;
	struct cgroup *cgroup = walk->cgroup, *ancestor = 0;
	struct guard_step step = {};
	struct kernfs_node *node;
	const char *name;
	long length;

	if (level > walk->level)
		return 1;
	bpf_core_read(&ancestor, sizeof(ancestor), &cgroup->ancestors[level]);
	node = BPF_CORE_READ(ancestor, kn);
	if (!walk->below) {
		walk->below = !walk->root || BPF_CORE_READ(node, id) == walk->root;
		return 0;
	}
	name = BPF_CORE_READ(node, name);
	length = bpf_probe_read_kernel_str(step.name, sizeof(step.name), name);
	if (length <= 0)
		return 1;
	if (walk->node != NOWHERE) {
		step.node = walk->node;
		if (step_to(walk, &step, false))
			return 1;
	}
	if (walk->slices) {
		step.node = GUARD_UNITS;
		if (step_to(walk, &step, true))
			return 1;
		walk->slices = is_slice(name, length);
	}
	return 0;
}

/* Not static: the verifier looks at it once, not with each state of its callers. */
__noinline __u32 exemption_of_cgroup(__u64 address, __u64 root)
{
	struct cgroup *cgroup = (void *)address;
	struct cgroup_walk walk = {
		.cgroup = cgroup,
		.root = root,
		.node = GUARD_ROOT + unknown_zero(),
		.exemption = unknown_zero(),
		.below = unknown_zero(),
		.slices = !unknown_zero(),
	};

	walk.level = BPF_CORE_READ(cgroup, level);
	bpf_loop(CGROUP_DEPTH, walk_down, &walk, 0);
	return walk.exemption;
}

/* Number of the exemption, 0: none. */
static __always_inline __u32 exemption_by_cgroup(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup *unified = BPF_CORE_READ(set, dfl_cgrp);
	struct cgroup_root *root = BPF_CORE_READ(unified, root);
	__u32 hierarchies = bpf_core_field_size(set->subsys) / sizeof(void *);
	__u32 found = 0;

	if (control.cgroup_root)
		found = exemption_of_cgroup((__u64)unified, control.cgroup_root);
	if (found || !control.version1)
		return found;
	for (__u32 at = 0; at < MOST_HIERARCHIES && !found; at++) {
		struct cgroup_subsys_state *state = 0;
		struct cgroup *cgroup;

		if (at >= hierarchies)
			break;
		bpf_core_read(&state, sizeof(state), &set->subsys[at]);
		cgroup = BPF_CORE_READ(state, cgroup);
		if (cgroup && BPF_CORE_READ(cgroup, root) != root)
			found = exemption_of_cgroup((__u64)cgroup, 0);
	}
	return found;
}

#endif
