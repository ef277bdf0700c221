/* SPDX-License-Identifier: GPL-2.0-only */
/* One map and one program of each kind that the addon handles. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef VALUE
#define VALUE 8
#endif
#ifndef LAYOUT
#define LAYOUT 7
#endif

struct key4 {
	__u32 prefix_length;
	__u8 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8[VALUE]);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 200000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key4);
	__type(value, __u32);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} records SEC(".maps");

volatile struct {
	__u32 layout;
	__u32 verdict;
	__u64 wide;
	__u32 count;
	__u32 pad;
} control SEC(".data.control") = { .layout = LAYOUT };

static __always_inline void count(void)
{
	__u32 row = 0;
	__u32 *value = bpf_map_lookup_elem(&counts, &row);

	if (value)
		(*value)++;
}

/* Named as a program of the embedded object: detachClsact() takes only those. */
SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	count();
	return control.verdict;
}

SEC("tc")
int other(struct __sk_buff *skb)
{
	skb->cb[0] = skb->ifindex;
	return 3;
}

SEC("xdp")
int pass(struct xdp_md *context)
{
	count();
	return XDP_PASS;
}

static long send(__u64 index, __u32 *sent)
{
	__u64 *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record)
		return 1;
	*record = index;
	bpf_ringbuf_submit(record, 0);
	(*sent)++;
	return 0;
}

/* context: how many records to send; how many there was room for */
SEC("syscall")
int emit(__u32 *context)
{
	__u32 sent = 0;

	bpf_loop(context[0], send, &sent, 0);
	context[1] = sent;
	return 42;
}

#ifdef BROKEN
SEC("tc")
int broken(struct __sk_buff *skb)
{
	__u32 row = 0;
	__u32 *value = bpf_map_lookup_elem(&table, &row);

	return *value;
}
#endif

char _license[] SEC("license") = "GPL";
