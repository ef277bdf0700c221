/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Questions to conntrack: does it translate this flow? It can be asked about TCP
 * and UDP only.
 *
 * nf_conntrack may be a module that is not loaded: then nothing is translated.
 * Its symbols are weak and its types are found in its own BTF, so the daemon
 * loads the programs again when the module comes.
 */
#ifndef HOSTROUTE_CONNTRACK_H
#define HOSTROUTE_CONNTRACK_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "tuple.h"

/* Of the kernel's nf_conntrack_bpf.c, since 5.18; later ones are longer and take this, too. */
struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

struct nf_conntrack_tuple_hash {
	__u8 node[16];
	struct conntrack_tuple tuple; /* as it has been since 2.6.28 */
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
} __attribute__((preserve_access_index));

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
					 struct bpf_ct_opts *options, __u32 options_size) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *entry) __ksym __weak;

enum conntrack_answer {
	CONNTRACK_NONE,  /* it knows no such flow */
	CONNTRACK_PLAIN, /* it does, and leaves it as it is */
	CONNTRACK_TRANSLATES,
};

/* A question and its answer, and a key of owners*. Not on the stack, as new_entries. */
struct conntrack_scratch {
	struct bpf_sock_tuple tuple;
	struct bpf_ct_opts options;
	struct nf_conntrack_tuple_hash hash[2];
	union tuple key;
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct conntrack_scratch);
} conntrack_scratch SEC(".maps");

/* nf_conntrack is there: a constant by the time the program is loaded. */
static __always_inline bool has_conntrack(void)
{
	return bpf_core_type_exists(struct bpf_ct_opts);
}

/* The reply's tuple is not the original's inverse. IPVS sets no NAT status, so only this tells. */
static __always_inline bool is_translated(const struct conntrack_tuple *original, const struct conntrack_tuple *reply)
{
	const __u64 *a = (const void *)original->source, *b = (const void *)reply->destination;
	const __u64 *c = (const void *)original->destination, *d = (const void *)reply->source;

	return original->source_port != reply->destination_port || original->destination_port != reply->source_port ||
	       a[0] != b[0] || a[1] != b[1] || __builtin_memcmp(c, d, 16);
}

/* src/maps/stack-pairs.ts computes the same. The order of the two is of no matter. NULL never happens. */
static __always_inline __u8 *pair_of(__be32 one, __be32 other)
{
	__u32 row = (bpf_ntohl(one) * 0x9e3779b1U ^ bpf_ntohl(other) * 0x9e3779b1U) >> 16;

	return bpf_map_lookup_elem(&stack_pairs, &row);
}

static __always_inline void mark_pair(__be32 one, __be32 other)
{
	__u8 *pair = pair_of(one, other);

	if (pair && *pair != PAIR_STACKS)
		*pair = PAIR_STACKS;
}

/* The addresses on one side of the translation. */
static __always_inline void mark_tuple(const struct conntrack_tuple *tuple)
{
	__be32 source, destination;

	__builtin_memcpy(&source, tuple->source, 4);
	__builtin_memcpy(&destination, tuple->destination, 4);
	mark_pair(source, destination);
}

/* About the question in `scratch`, as it stands in a packet that comes to conntrack. */
static __always_inline int ask_conntrack(struct __sk_buff *skb, struct conntrack_scratch *scratch, __u8 protocol,
					 __u32 size)
{
	struct nf_conntrack_tuple_hash *hash = scratch->hash;
	struct trace *trace;
	struct nf_conn *entry;
	long error;

	__builtin_memset(&scratch->options, 0, sizeof(scratch->options));
	scratch->options.netns_id = BPF_F_CURRENT_NETNS;
	scratch->options.l4proto = protocol;
	entry = bpf_skb_ct_lookup(skb, &scratch->tuple, size, &scratch->options, sizeof(scratch->options));
	if (!entry)
		return CONNTRACK_NONE;
	error = bpf_probe_read_kernel(hash, sizeof(scratch->hash), entry->tuplehash);
	bpf_ct_release(entry);
	if (error || !is_translated(&hash[0].tuple, &hash[1].tuple))
		return CONNTRACK_PLAIN;
	trace = trace_of(skb);
	if (trace) {
		trace->stages |= TRACE_CONNTRACK;
		__builtin_memcpy(&trace->original, &hash[0].tuple, sizeof(hash[0].tuple));
		__builtin_memcpy(&trace->reply, &hash[1].tuple, sizeof(hash[1].tuple));
	}
	/* Here the flow is seen on one side; what comes next may be seen on the other. */
	if (size == sizeof(scratch->tuple.ipv4)) {
		mark_tuple(&hash[0].tuple);
		mark_tuple(&hash[1].tuple);
	}
	return CONNTRACK_TRANSLATES;
}

static __always_inline bool may_be_asked(__u8 protocol)
{
	return has_conntrack() && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP);
}

/* enum conntrack_answer. out: as a packet from the local side, else as one to it. */
__attribute__((noinline)) int ask_about4(struct __sk_buff *skb, const struct tuple4 *tuple, int out)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });

	if (!scratch || !tuple || !may_be_asked(tuple->protocol))
		return CONNTRACK_NONE;
	scratch->tuple.ipv4.saddr = out ? tuple->local : tuple->remote;
	scratch->tuple.ipv4.daddr = out ? tuple->remote : tuple->local;
	scratch->tuple.ipv4.sport = out ? tuple->local_port : tuple->remote_port;
	scratch->tuple.ipv4.dport = out ? tuple->remote_port : tuple->local_port;
	return ask_conntrack(skb, scratch, tuple->protocol, sizeof(scratch->tuple.ipv4));
}

__attribute__((noinline)) int ask_about6(struct __sk_buff *skb, const struct tuple6 *tuple, int out)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });

	if (!scratch || !tuple || !may_be_asked(tuple->protocol))
		return CONNTRACK_NONE;
	__builtin_memcpy(scratch->tuple.ipv6.saddr, out ? tuple->local : tuple->remote, 16);
	__builtin_memcpy(scratch->tuple.ipv6.daddr, out ? tuple->remote : tuple->local, 16);
	scratch->tuple.ipv6.sport = out ? tuple->local_port : tuple->remote_port;
	scratch->tuple.ipv6.dport = out ? tuple->remote_port : tuple->local_port;
	return ask_conntrack(skb, scratch, tuple->protocol, sizeof(scratch->tuple.ipv6));
}

static __always_inline int ask_about(struct __sk_buff *skb, const union tuple *tuple, bool out, bool six)
{
	return six ? ask_about6(skb, &tuple->six, out) : ask_about4(skb, &tuple->four, out);
}

#endif
