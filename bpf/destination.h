/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the routes and the masquerade policy have said of a remote address a
 * moment ago: the first packet of a flow most often goes where another flow has
 * gone before, and two look-ups by longest prefix are dear.
 *
 * Invariants
 * - An answer counts only under the generation (generation.h), and the policy's
 *   under the epoch, that was read before the question was asked: the daemon raises
 *   them after its last write, so none of before the change is taken for one of
 *   after it.
 * - Only what leads to a next hop, or to a group of them, is remembered. The
 *   answer of a class is kept with the class it is for.
 * - One row for an address, none for a second one: who sends to many addresses
 *   only makes the others ask again.
 * - A traced packet neither asks here for its route nor leaves one behind.
 */
#ifndef HOSTROUTE_DESTINATION_H
#define HOSTROUTE_DESTINATION_H

#include "types.h"
#include "packet.h"
#include "generation.h"

#define DESTINATION_BITS 9

/* destination.due; 0: not asked yet */
enum due {
	DUE_NOT = 1,
	DUE,
};

struct destination {
	struct address address;
	__u32 asked_under; /* generation: for both, so that the daemon can end all that stands here */
	__u32 of_class;    /* see class_of() */
	__u32 action;      /* enum route_action; ROUTE_STACK: not asked yet */
	__u32 nexthop;     /* as route.nexthop */
	__u32 epoch;       /* control.masquerade_epoch */
	__u16 due;         /* enum due */
	__u16 slot;        /* of the address */
}; /* 40 */

/* The programs write and read. Of each CPU its own, so that no row is seen half written. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << DESTINATION_BITS);
	__type(key, __u32);
	__type(value, struct destination);
} destinations SEC(".maps");

static __always_inline __u32 destination_row(const struct address *address)
{
	__u64 word = address->high ^ address->low;

	return ((__u32)word ^ (__u32)(word >> 32)) * 0x9e3779b1U >> (32 - DESTINATION_BITS);
}

/* What the row says is of this address, and of the generation of now. */
static __always_inline bool still_holds(const struct destination *known, const struct address *address)
{
	return same_address(&known->address, address) && known->asked_under == generation_at(known->slot);
}

/* The row is this address's from now on; what it says, as asked under the generation of `way`, is to be written. */
static __always_inline void claim_row(struct destination *known, const struct address *address, __u64 way)
{
	if (same_address(&known->address, address) && known->asked_under == (__u32)way)
		return;
	known->address.high = address->high;
	known->address.low = address->low;
	known->slot = way >> 32;
	known->asked_under = way;
	known->action = ROUTE_STACK;
	known->due = 0;
}

/*
 * What was read before stays before what is read next: on some processors only
 * a full barrier orders two reads, which an atomic operation with a result is.
 */
static __always_inline void read_in_order(struct destination *known)
{
	__sync_fetch_and_or(&known->epoch, 0);
}

/* In destination.of_class: of a device without one it is 0. */
static __always_inline __u32 class_of(const struct device *device, bool six)
{
	if (!(device->flags & (six ? DEVICE_CLASS6 : DEVICE_CLASS4)))
		return 0;
	return 0x10000 | (six ? device->class6 : device->class4);
}

#endif
