/* SPDX-License-Identifier: GPL-2.0-only */
/* Somebody else's programs: they count and let everything through to whoever comes next. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline void note(void)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&seen, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

SEC("tc")
int foreign_tc(struct __sk_buff *skb)
{
	note();
	return TC_ACT_UNSPEC;
}

SEC("xdp")
int foreign_xdp(struct xdp_md *context)
{
	note();
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
