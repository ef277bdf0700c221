/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All maps. Above each: who writes, who reads. "daemon" writes from user space
 * through src/maps; sizes marked * are set by the daemon before loading.
 */
#ifndef HOSTROUTE_MAPS_H
#define HOSTROUTE_MAPS_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>

#include "types.h"
#include "call_types.h"

/* daemon writes, every program reads, for every packet */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEVICE_SLOTS);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/* daemon writes, from_pod and from_uplink read, for every packet */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_SLOTS);
	__type(key, __u32);
	__type(value, struct pod_slot);
} pod_slots SEC(".maps");

/* daemon writes; read when a slot of pod_slots is shared */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u8[16]);
	__type(value, struct pod);
} pods SEC(".maps");

/* daemon writes, from_pod reads for packets whose source is not the pod's own */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_source_key);
	__type(value, struct pod_source);
} pod_sources SEC(".maps");

/* daemon writes; read for the first packet of a flow and after route changes */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route4_key);
	__type(value, struct route);
} routes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct route6_key);
	__type(value, struct route);
} routes6 SEC(".maps");

/* daemon writes; read where routes4 and routes6 are, for devices with a class, and for their packets to pods */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, CLASS_ROUTES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct class_route4_key);
	__type(value, struct route);
} class_routes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, CLASS_ROUTES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct class_route6_key);
	__type(value, struct route);
} class_routes6 SEC(".maps");

/* daemon writes, from_pod reads for every packet that leaves the node */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_NEXTHOPS);
	__type(key, __u32);
	__type(value, struct nexthop);
} nexthops SEC(".maps");

/* daemon writes; read for new SNAT flows. Row 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct snat_sources);
} snat_sources SEC(".maps");

/* daemon writes; read where nexthops is chosen */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct group);
} groups SEC(".maps");

/* daemon writes; read for destinations that are on-link */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct neighbour_key);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

/* daemon writes a whole new epoch, then switches; read for new flows */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 32768); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct masquerade_key);
	__type(value, struct masquerade);
} masquerade SEC(".maps");

/* daemon writes: row -> port that SNAT may take; read for new SNAT flows */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct snat_port);
} snat_ports SEC(".maps");

/*
 * The programs write, `expire` and `delete_flows` delete. Hash, not LRU: what must not vanish
 * does not. Not preallocated: a full-size table costs memory only when used.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple4);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple6);
	__type(value, struct flow);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple4);
	__type(value, struct reverse);
} reverse4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tuple6);
	__type(value, struct reverse);
} reverse6 SEC(".maps");

/* The programs write, the daemon reads, and writes what it has put into flows* itself */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ACCOUNT_SLOTS);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct usage);
} usage SEC(".maps");

/*
 * The programs write and read; the daemon writes what conntrack translates
 * when it enables. LRU: what is lost is asked for again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536); /* * */
	__type(key, struct tuple4);
	__type(value, struct owner);
} owners4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536); /* * */
	__type(key, struct tuple6);
	__type(value, struct owner);
} owners6 SEC(".maps");

/*
 * The programs write, the daemon too for what it read from conntrack; the
 * hot path reads. PAIR_STACKS: a flow between two IPv4 addresses of this
 * row is, or was, the stack's, so that owners4 has to be asked; stays for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STACK_PAIRS);
	__type(key, __u32);
	__type(value, __u8);
} stack_pairs SEC(".maps");

/*
 * The programs write and read. LRU: a note serves the few packets of one
 * datagram, which come one after the other; what is lost is that datagram.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

/* The programs write, the daemon reads: row device.row * REASON_MAX + reason */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024 * REASON_MAX); /* * */
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

/*
 * daemon writes and reads: what `counters` had counted when it was replaced by one of another size. Not added to its
 * rows, which the programs raise without locks: packets would be lost from the counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024 * REASON_MAX); /* * */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct counter);
} counted_before SEC(".maps");

/* daemon clears, from_pod and from_uplink write for a traced packet, daemon reads */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace);
} traces SEC(".maps");

/* daemon writes keys of flows*, then runs `expire` or `delete_flows` on them */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tuple4[FLOW_BATCH]);
} flow_keys4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tuple6[FLOW_BATCH]);
} flow_keys6 SEC(".maps");

/* The programs write, the daemon reads */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

/* A global because reading it costs no look-up. */
volatile struct control control SEC(".data.control") = {
	.route_generations = { [0 ... ROUTE_SLOTS - 1] = 1 },
};

/* The stack owns some flows that look like the fast path's: one word, whatever the cause. */
static __always_inline bool is_translating(void)
{
	return *(const volatile __u32 *)&control.translating;
}

#endif
