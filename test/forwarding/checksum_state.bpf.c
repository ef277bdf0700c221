// SPDX-License-Identifier: GPL-2.0-only
/* Before hostroute's programs: counts the kinds of transport checksum that packets come with (enum checksum_state). */
#include "hostroute.bpf.c"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} states SEC(".maps");

SEC("tc")
int count_states(struct __sk_buff *skb)
{
	__u32 state = checksum_state(skb);
	__u32 *packets = bpf_map_lookup_elem(&states, &state);

	if (packets)
		__sync_fetch_and_add(packets, 1);
	return TC_ACT_UNSPEC;
}
