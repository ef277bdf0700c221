/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef HOSTROUTE_GUARD_MAPS_H
#define HOSTROUTE_GUARD_MAPS_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "guard.h"
#include "guard_kernel.h"

/* Written by the daemon, read by the programs. */
volatile struct guard_control control SEC(".data.control") = { .layout = GUARD_LAYOUT };

/* cgroup id → allowance: the daemon writes, the programs count. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct guard_allowance);
} allowed_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct guard_executable);
	__type(value, struct guard_allowance);
} allowed_executables SEC(".maps");

/* Legacy table → mask of the hooks whose policy was not ACCEPT before the guard came. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct guard_table);
	__type(value, __u32);
} legacy_policies SEC(".maps");

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
