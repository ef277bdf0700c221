/* SPDX-License-Identifier: GPL-2.0-only */
/* Tells the daemon of a packet, within a rate; and other things that a CPU may do so often in a second. */
#ifndef HOSTROUTE_EVENT_H
#define HOSTROUTE_EVENT_H

#include "maps.h"
#include "packet.h"

/* Events a CPU has sent in the current second, and those it has not. */
struct event_budget {
	__u64 second;
	__u32 sent;
	__u32 lost;
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event_budget);
} event_budgets SEC(".maps");

static __always_inline bool spend(struct event_budget *budget, __u32 most_per_second)
{
	__u64 second = bpf_ktime_get_ns() / 1000000000;

	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	return budget->sent++ < most_per_second;
}

/* `made`: the flow that EVENT_FLOW_NEW tells of, else NULL and type EVENT_PACKET. */
__attribute__((noinline)) int tell(struct __sk_buff *skb, const struct facts *p, __u32 reason, int six,
				   const struct flow *made)
{
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_ns();
	__u64 second = now / 1000000000;
	struct event_budget *budget = bpf_map_lookup_elem(&event_budgets, &zero);
	struct event *event;

	if (!budget || !p)
		return 0;
	if (budget->second != second) {
		budget->second = second;
		budget->sent = 0;
	}
	if (budget->sent >= control.event_rate) {
		budget->lost++;
		return 0;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		budget->lost++;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->type = made ? EVENT_FLOW_NEW : EVENT_PACKET;
	event->reason = reason;
	event->ifindex = p->in;
	event->out = p->out;
	event->length = skb->len;
	if (p->source.high | p->source.low | p->destination.high | p->destination.low)
		event->family = six ? 6 : 4;
	event->protocol = p->protocol;
	event->source_port = p->source_port;
	event->destination_port = p->destination_port;
	event->nat_port = p->nat_port;
	__builtin_memcpy(event->source, &p->source, 16);
	__builtin_memcpy(event->destination, &p->destination, 16);
	if (made) {
		event->nat_port = made->nat_port;
		__builtin_memcpy(event->nat_address, made->nat_address, 16);
	}
	event->lost = budget->lost;
	budget->lost = 0;
	budget->sent++;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
