/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From reason to action. Every packet that reaches a program ends in
 * conclude() once: it is counted there and, if somebody listens, told.
 */
#ifndef HOSTROUTE_VERDICT_H
#define HOSTROUTE_VERDICT_H

#define GO_ON (-1)

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

/* An address, v4-mapped if IPv4; two words so that a comparison is two jumps. */
struct address {
	__u64 high;
	__u64 low;
};

/* Of a fragment within its datagram. An IPv6 datagram in one fragment is FIRST. */
enum place { PLACE_WHOLE, PLACE_FIRST, PLACE_LATER };

/* What the stages learn of a packet: plain values, for global functions, too (owner.h says what these are). */
struct facts {
	struct address source;
	struct address destination;
	__u8 protocol;
	__u8 ttl;
	__u8 fragment;      /* enum place; 0: whole */
	__u8 tracked;       /* 1: TCP, UDP or echo: ports are valid */
	__u8 tcp;           /* SEEN_* */
	__u8 icmp_type;
	__u16 l4;           /* offset of the transport header from the MAC header */
	__u32 end;          /* of the IP packet; what follows is padding */
	__u32 fragment_id;  /* as it stands in the header */
	__be16 source_port; /* echo: identifier in both */
	__be16 destination_port;
	__be16 nat_port;
	__u8 related; /* 1: ICMP error of a pod about a flow that leaves as it is */
	__u8 origin;  /* enum source */
	__u32 out;    /* ifindex, 0 unknown */
	int action;   /* TC_ACT_* if the reason is a forwarding one, or the dropped packet became an ICMP error */
};

/* Pointers into the packet are never kept here. */
struct packet {
	struct __sk_buff *skb;
	struct device *device; /* where it came in */
	struct trace *trace;   /* NULL but for a packet that the daemon asks about: see trace.h */
	struct facts;          /* its members are this structure's, facts_of() the whole */
};

static __always_inline struct facts *facts_of(struct packet *p)
{
	return (void *)p + offsetof(struct packet, source);
}

static __always_inline void count(const struct device *device, __u32 reason, __u32 bytes)
{
	__u32 row = device->counters + reason;
	struct counter *counter = bpf_map_lookup_elem(&counters, &row);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += bytes;
}

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
	event->ifindex = skb->ifindex;
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

static __always_inline int conclude(struct packet *p, int reason, bool six)
{
	if (p->trace) {
		p->trace->reason = reason;
		return TC_ACT_UNSPEC;
	}
	count(p->device, reason, p->skb->len);
	if (reason >= REASON_FIRST_DROP) {
		tell(p->skb, facts_of(p), reason, six, NULL);
		return p->action ? p->action : TC_ACT_SHOT;
	}
	if (control.flags & CONTROL_MONITOR)
		tell(p->skb, facts_of(p), reason, six, NULL);
	if (reason < REASON_FIRST_STACK)
		return p->action;
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
static __always_inline int judge_outside(struct __sk_buff *skb)
{
	if (!switched_on())
		return REASON_OFF;
	if (is_in_vlan(skb))
		return REASON_VLAN;
	if (skb->pkt_type != 0 /* PACKET_HOST */)
		return REASON_NOT_FOR_ROUTER;
	return GO_ON;
}

/* A mark that ip rules may ask for; none of a trace's. */
static __always_inline bool is_marked(const struct __sk_buff *skb)
{
	return skb->mark && (control.flags & CONTROL_MARKS) && skb->mark != control.trace_mark;
}

#endif
