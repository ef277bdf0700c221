/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program cannot finish in one go takes a detour: it goes out by a TAP
 * device of the daemon's, which cuts it (the kernel's stack would do it, but
 * send it with the pod's address) or holds it for a moment, and comes back by
 * the same device, to from_detour. There it goes through the stages once more,
 * as if it came in where it did at first.
 *
 * The MAC addresses, which are written again when the packet is sent, say in the
 * meantime where that was and what is to be done (struct detour_header). Besides
 * the daemon only root can write to the device, and sources are checked again.
 *
 * What comes too fast for the daemon is judged as if there were no detour.
 */
#ifndef HOSTROUTE_DETOUR_H
#define HOSTROUTE_DETOUR_H

#include "maps.h"
#include "packet.h"
#include "event.h"
#include "verdict.h"

#define DETOUR_MAGIC bpf_htonl(0x02687264) /* a local address, 'h' 'r' 'd' */
#define MOST_DETOURS 8                     /* the n-th takes 2^n ms: a quarter of a second in all */

/* In the place of both MAC addresses; src/datapath/detour.ts reads and writes it. */
struct detour_header {
	__be32 magic;
	__u8 tries; /* how often it has come back */
	__u8 pad;
	__be16 mtu; /* not 0: to be cut into fragments of so many bytes of L3; 0: to be held */
	__be32 ifindex;
}; /* 12 */

/* Rows of detour_budgets; packets that a CPU may send in a second. From DETOUR_PODS on a row for each pod, by its id.
 */
enum detour { DETOUR_CUT, DETOUR_HOLD_POD, DETOUR_HOLD_UPLINK, DETOUR_PODS, DETOUR_PAUSED };
#define POD_BUDGETS 1024
#define CUTS_PER_SECOND 4000
#define HOLDS_PER_SECOND 250
#define POD_SHARE 8 /* of each */

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DETOUR_PODS + POD_BUDGETS);
	__type(key, __u32);
	__type(value, struct event_budget);
} detour_budgets SEC(".maps");

/* What goes on with a packet after its detour: from_pod, from_uplink. Filled when they are loaded, and not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} stage_programs SEC(".maps");

/* Where a packet that comes back by the detour came in at first; NULL: it does not, or the device has gone. */
static __attribute__((noinline)) struct device *detoured_from(struct __sk_buff *skb)
{
	struct detour_header *header = DATA(skb);

	if (skb->ifindex != control.detour || (void *)(header + 1) > END(skb) || header->magic != DETOUR_MAGIC)
		return NULL;
	return device_of(bpf_ntohl(header->ifindex));
}

static __always_inline bool spend_row(__u32 row, __u32 most)
{
	struct event_budget *budget = bpf_map_lookup_elem(&detour_budgets, &row);

	return budget && spend(budget, most);
}

/* No pod, and no flood from outside, takes it all. */
static __always_inline bool may_detour(const struct packet *p, enum detour why)
{
	const __u32 most = why == DETOUR_CUT ? CUTS_PER_SECOND : HOLDS_PER_SECOND;

	/* lasts for milliseconds only, and the device's queue is short */
	if (why == DETOUR_PAUSED)
		return true;
	if (why != DETOUR_HOLD_UPLINK &&
	    !spend_row(DETOUR_PODS + (p->device->pod_id & (POD_BUDGETS - 1)), most / POD_SHARE))
		return false;
	return spend_row(why, most);
}

/* false: there is no detour for the packet, or not another one. */
static __always_inline bool make_header(struct packet *p, struct detour_header *header, enum detour why, __u32 mtu)
{
	__u32 length = 0;

	__builtin_memset(header, 0, sizeof(*header));
	if (!control.detour || mtu > 0xffff)
		return false;
	/* the daemon was killed, and the device went with it */
	if (bpf_check_mtu(p->skb, control.detour, &length, 0, 0) == -19 /* ENODEV */)
		return false;
	if (is_detoured(p)) {
		if (bpf_skb_load_bytes(p->skb, 0, header, sizeof(*header)) || header->tries >= MOST_DETOURS)
			return false;
	} else if (!may_detour(p, why)) {
		return false;
	}
	header->magic = DETOUR_MAGIC;
	header->mtu = bpf_htons(mtu);
	header->ifindex = bpf_htonl(p->in);
	return true;
}

/* DETOURED, or `otherwise`. `mtu`: see struct detour_header. */
static __attribute__((noinline)) int detour(struct packet *p, __u32 mtu, int otherwise)
{
	struct detour_header header;

	if (p->trace || !make_header(p, &header, mtu ? DETOUR_CUT : DETOUR_HOLD_POD, mtu) ||
	    bpf_skb_store_bytes(p->skb, 0, &header, sizeof(header), 0))
		return otherwise;
	p->action = bpf_redirect(control.detour, 0);
	return DETOURED;
}

/* The device went with the daemon. */
static __attribute__((noinline)) int daemon_is_gone(struct __sk_buff *skb)
{
	__u32 length = 0;

	return control.detour && bpf_check_mtu(skb, control.detour, &length, 0, 0) == -19 /* ENODEV */;
}

/*
 * The packet would make or end an entry while the flow tables are being replaced:
 * one generation of the programs would not see what another does. Of fragments
 * the first must not come after the others. If the daemon dies meanwhile flows go
 * on to begin: most likely all programs are of one generation.
 */
static __always_inline bool is_paused(const struct packet *p)
{
	return (control.flags & CONTROL_PAUSED) && !p->trace && !p->fragment && !daemon_is_gone(p->skb);
}

/* It comes again when they have been. */
static __attribute__((noinline)) int wait_for_tables(struct packet *p)
{
	struct detour_header header;

	if (!make_header(p, &header, DETOUR_PAUSED, 0) || bpf_skb_store_bytes(p->skb, 0, &header, sizeof(header), 0))
		return REASON_DROP_FLOWS;
	p->action = bpf_redirect(control.detour, 0);
	return DETOURED;
}

/* Of a fragment from an uplink that may be an answer's: only a copy is held, for it may be the node's own. */
static __attribute__((noinline)) int detour_copy(struct packet *p)
{
	struct detour_header header;
	__u8 macs[sizeof(header)];

	if (p->trace)
		return REASON_FRAGMENT;
	if (is_detoured(p)) {
		/* the packet was counted when it came */
		p->action = TC_ACT_SHOT;
		return detour(p, 0, DETOURED);
	}
	if (!(control.flags & CONTROL_SNAT) || !make_header(p, &header, DETOUR_HOLD_UPLINK, 0) ||
	    bpf_skb_load_bytes(p->skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_store_bytes(p->skb, 0, &header, sizeof(header), 0))
		return REASON_FRAGMENT;
	bpf_clone_redirect(p->skb, control.detour, 0);
	bpf_skb_store_bytes(p->skb, 0, macs, sizeof(macs), 0);
	return REASON_FRAGMENT;
}

#endif
