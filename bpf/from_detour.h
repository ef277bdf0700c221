/* SPDX-License-Identifier: GPL-2.0-only */
/* TC ingress of the daemon's TAP device: what took a detour (detour.h) goes on. */
#ifndef HOSTROUTE_FROM_DETOUR_H
#define HOSTROUTE_FROM_DETOUR_H

#include "types.h"
#include "packet.h"
#include "verdict.h"
#include "detour.h"

/*
 * A call of the other program, which finds out in detoured_from() where the packet
 * came in: with the stages in here, too, this would be half of what is loaded.
 */
SEC("tc")
int from_detour(struct __sk_buff *skb)
{
	struct device *device = detoured_from(skb);

	if (device)
		bpf_tail_call(skb, &stage_programs, device->kind == DEVICE_POD ? 0 : 1);
	return TC_ACT_SHOT;
}

#endif
