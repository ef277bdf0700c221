/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From reason to action. Every packet that reaches a program ends in
 * conclude() once: it is counted there and, if somebody listens, told.
 */
#ifndef HOSTROUTE_VERDICT_H
#define HOSTROUTE_VERDICT_H

#include "maps.h"
#include "packet.h"
#include "event.h"

static __always_inline void count(const struct device *device, __u32 reason, __u32 bytes)
{
	__u32 row = device->counters + reason;
	struct counter *counter = bpf_map_lookup_elem(&counters, &row);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += bytes;
}

static __always_inline int conclude(struct packet *p, int reason, bool six)
{
	if (p->trace) {
		p->trace->reason = reason;
		return TC_ACT_UNSPEC;
	}
	if (reason == DETOURED)
		return p->action;
	count(p->device, reason, p->skb->len);
	if (reason >= REASON_FIRST_DROP) {
		tell(p->skb, facts_of(p), reason, six, NULL);
		return p->action ? p->action : TC_ACT_SHOT;
	}
	if (control.flags & CONTROL_MONITOR)
		tell(p->skb, facts_of(p), reason, six, NULL);
	if (reason < REASON_FIRST_STACK)
		return p->action;
	/* the stack would see it come from the wrong device: only routes that have changed meanwhile lead there */
	if (is_detoured(p))
		return TC_ACT_SHOT;
	/* not OK: that would keep the packet from programs attached after ours */
	return TC_ACT_UNSPEC;
}

/* The row of the device a packet came in by; NULL: not one of ours (yet). */
static __always_inline struct device *device_of(__u32 ifindex)
{
	__u32 slot = ifindex & (DEVICE_SLOTS - 1);
	struct device *device = bpf_map_lookup_elem(&devices, &slot);

	if (!device || device->ifindex != ifindex)
		return NULL;
	return device;
}

static __always_inline bool switched_on(void)
{
	return (control.flags & CONTROL_ON) && bpf_jiffies64() < control.lease;
}

/* Id 0 is a priority and no VLAN (802.1Q): the kernel takes such a tag off, too, and there may be another below. */
static __always_inline bool is_in_vlan(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return false;
	return (skb->vlan_tci & 0xfff) || bpf_skb_vlan_pop(skb) || skb->vlan_present;
}

/* What can be said before looking into the packet. */
static __always_inline int judge_outside(struct __sk_buff *skb, const struct device *device)
{
	if (!switched_on())
		return REASON_OFF;
	if (is_in_vlan(skb))
		return REASON_VLAN;
	/* after a detour its MACs are none */
	if (skb->pkt_type != 0 /* PACKET_HOST */ && skb->ifindex == device->ifindex)
		return REASON_NOT_FOR_ROUTER;
	return GO_ON;
}

/* A mark that ip rules may ask for; none of a trace's. */
static __always_inline bool is_marked(const struct __sk_buff *skb)
{
	return skb->mark && (control.flags & CONTROL_MARKS) && skb->mark != control.trace_mark;
}

#endif
