/* SPDX-License-Identifier: GPL-2.0-only */
/* TC ingress of the daemon's TAP device: what took a detour (detour.h) goes on. */
#ifndef HOSTROUTE_FROM_DETOUR_H
#define HOSTROUTE_FROM_DETOUR_H

#include "types.h"
#include "packet.h"
#include "verdict.h"
#include "detour.h"
#include "from_pod.h"
#include "from_uplink.h"

SEC("tc")
int from_detour(struct __sk_buff *skb)
{
	struct detour_header *header = DATA(skb);
	bool six = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct device *device;
	int action;

	if ((void *)(header + 1) > END(skb) || header->magic != DETOUR_MAGIC)
		return TC_ACT_SHOT;
	device = device_of(bpf_ntohl(header->ifindex));
	if (!device)
		return TC_ACT_SHOT;
	if (device->kind == DEVICE_POD)
		action = six ? stages_from_pod6(skb, device) : stages_from_pod4(skb, device);
	else
		action = six ? stages_from_uplink6(skb, device) : stages_from_uplink4(skb, device);
	/* the stack would see it come from the wrong device: only routes that have changed meanwhile lead there */
	return action == TC_ACT_UNSPEC ? TC_ACT_SHOT : action;
}

#endif
