/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Routes that the maps do not have yet. Netlink tells of a new pod some
 * milliseconds after the kernel has its routes, IPv4 and IPv6 one after the
 * other. Till then a shorter prefix would take the first answer to the pod out
 * by an uplink, and the source check would take its own packets for spoofed. So
 * the kernel is asked where a mistake would lose a packet: for the first packet
 * of a flow, and before a drop.
 */
#ifndef HOSTROUTE_KERNEL_ROUTE_H
#define HOSTROUTE_KERNEL_ROUTE_H

#include "types.h"
#include "packet.h"
#include "verdict.h"

#define LOOPBACK_IFINDEX 1

/* Which way, in kernel_device(). */
enum way {
	WAY_ON,
	WAY_BACK,
	WAY_OF_ANSWER, /* as fib_validate_source() asks: from its destination, as if sent by the node */
};

/* The device that the kernel's routes name for the packet, or back to its source. 0: none, or not to be forwarded. */
__attribute__((noinline)) __u32 kernel_device(struct __sk_buff *skb, const struct facts *p, int which, int six)
{
	struct bpf_fib_lookup way = {
		.family = six ? AF_INET6 : AF_INET,
		.ifindex = which == WAY_OF_ANSWER ? LOOPBACK_IFINDEX :
			   p                      ? p->in :
						    0,
	};
	const struct address *to, *from;
	long result;

	if (!p)
		return 0;
	to = which == WAY_ON ? &p->destination : &p->source;
	from = which == WAY_ON ? &p->source : &p->destination;
	if (six) {
		__builtin_memcpy(way.ipv6_dst, to, 16);
		if (which != WAY_BACK)
			__builtin_memcpy(way.ipv6_src, from, 16);
	} else {
		way.ipv4_dst = PLAIN(*to);
		way.ipv4_src = which == WAY_BACK ? 0 : PLAIN(*from);
	}
	result = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH ? way.ifindex : 0;
}

/*
 * The kernel would send to a device that is no uplink of ours. Gateways and the
 * legs of a group are not compared: the maps know these better than the helper.
 */
static __always_inline bool leads_elsewhere(struct packet *p, bool six)
{
	__u32 ifindex = kernel_device(p->skb, facts_of(p), WAY_ON, six);
	struct device *device;

	if (!ifindex)
		return false;
	device = device_of(ifindex);
	return !device || device->kind != DEVICE_UPLINK;
}

/* The way back to the source leads to the device it came by, as strict rp_filter asks. */
static __always_inline bool comes_from_its_device(struct packet *p, bool six)
{
	return kernel_device(p->skb, facts_of(p), WAY_BACK, six) == p->in;
}

#endif
