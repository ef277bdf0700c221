/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XDP on an uplink, by configuration: drops what no stack would take before an
 * skb is made for it. Everything else passes, unknown things too.
 */
#ifndef HOSTROUTE_UPLINK_FILTER_H
#define HOSTROUTE_UPLINK_FILTER_H

#include "types.h"
#include "packet.h"
#include "verdict.h"

/* Sources that cannot be on a wire (RFC 1812 5.3.7); 0.0.0.0 is a DHCP client's. */
static __always_inline bool martian4(__be32 source)
{
	__u32 host = bpf_ntohl(source);

	return host >> 28 == 0xe || host == 0xffffffff || host >> 24 == 127;
}

static __always_inline bool martian6(const struct in6_addr *source)
{
	struct address address;

	__builtin_memcpy(&address, source, 16);
	return source->s6_addr[0] == 0xff || (!address.high && address.low == bpf_cpu_to_be64(1));
}

static __always_inline int judge_frame(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u64 length = end - data - sizeof(*eth);

	if ((void *)(eth + 1) > end)
		return GO_ON;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) < ip->ihl * 4 ||
		    bpf_ntohs(ip->tot_len) > length)
			return REASON_DROP_MALFORMED;
		return martian4(ip->saddr) ? REASON_DROP_MARTIAN : GO_ON;
	}
	if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->version != 6 || bpf_ntohs(ip->payload_len) + sizeof(*ip) > length)
			return REASON_DROP_MALFORMED;
		return martian6(&ip->saddr) ? REASON_DROP_MARTIAN : GO_ON;
	}
	return GO_ON;
}

SEC("xdp")
int uplink_filter(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct device *device;
	int reason;

	if (!switched_on())
		return XDP_PASS;
	reason = judge_frame(data, end);
	if (reason == GO_ON)
		return XDP_PASS;
	device = device_of(context->ingress_ifindex);
	if (!device)
		return XDP_PASS;
	count(device, reason, end - data);
	return XDP_DROP;
}

#endif
