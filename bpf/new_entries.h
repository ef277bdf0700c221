/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the entries of a new flow are made, before they are inserted. */
#ifndef HOSTROUTE_NEW_ENTRIES_H
#define HOSTROUTE_NEW_ENTRIES_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "flow_types.h"
#include "tuple.h"

/*
 * Entries in the making. Not on the stack: from 512 bytes for all calls in a
 * row, as Linux 6.1 counts them, nothing is left for these.
 */
struct new_entries {
	struct flow flow;
	struct reverse reverse;
	union tuple tuple;    /* of `reverse`; after a successful search tuple.local_port is taken */
	__u32 next;           /* row of snat_ports */
	__u32 step;
	__s32 found;          /* GO_ON: a port; or the reason for none */
	bool traced;
	bool made;            /* `flow` was inserted as it stands here */
	bool borrowed;        /* traced, and the port is that of a flow that would be ended */
	union tuple finished; /* of the flow that has the port: see recycle() */
	union tuple opened;   /* of `flow`, in open4() and open6() */
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct new_entries);
} new_entries SEC(".maps");

#endif
