/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef HOSTROUTE_GUARD_MAPS_H
#define HOSTROUTE_GUARD_MAPS_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "guard/types.h"
#include "guard/kernel.h"

/* Written by the daemon, read by the programs. */
volatile struct guard_control control SEC(".data.control") = { .layout = GUARD_LAYOUT };

/*
 * 0, which the verifier does not know. Before 6.7 it follows the callback of a
 * bpf_loop for one turn only: what it takes for a constant then stays one for
 * it, and branches that only a later turn takes are removed from the program.
 * So whatever a callback changes and anybody compares begins with this.
 */
static __always_inline __u32 unknown_zero(void)
{
	return control.zero;
}

/* Paths of exempt cgroups and units, as a tree: the daemon writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct guard_step);
	__type(value, struct guard_place);
} cgroup_paths SEC(".maps");

/* Executable → number of its exemption. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct guard_executable);
	__type(value, __u32);
} allowed_executables SEC(".maps");

/* Number → allowance: the daemon writes, the programs count. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, struct guard_allowance);
} exemptions SEC(".maps");

/* Legacy table → mask of the hooks whose policy was not ACCEPT before the guard came. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct guard_table);
	__type(value, __u32);
} legacy_policies SEC(".maps");

/* Tables of nf_tables that the daemon owns: the kernel refuses everybody else's changes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct guard_owned_table);
	__type(value, __u32);
} owned_tables SEC(".maps");

/* Thread → that the first of its two checks was passed; see witness.h. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} half_checked SEC(".maps");

/* The programs write, the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} guard_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GUARD_COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} guard_counts SEC(".maps");

#endif
