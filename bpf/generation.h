/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which answers of the routes still hold. The daemon cannot reach what is
 * remembered of them (flows, notes of fragments, destinations), so each says
 * under which generation it was given, and that counts while control says the
 * same. There is a generation for each slot, and an address has one slot: a hash
 * of what lies in front of bit 24, or 64 (IPv6). So a route that changes ends
 * the answers of few other addresses. Each part of the address makes bits of its
 * own in the slot, so that a shorter prefix has few slots, too
 * (src/maps/generations.ts, which raises all slots of what has changed).
 *
 * Invariants
 * - The generation is read before the maps are asked, and kept with the answer:
 *   the daemon raises it after its last write, so what was asked before a change
 *   is never taken for an answer of after it.
 * - 0 is no generation: what says it has no answer yet.
 */
#ifndef HOSTROUTE_GENERATION_H
#define HOSTROUTE_GENERATION_H

#include "maps.h"
#include "packet.h"

/*
 * An answer in one word, so that its parts always belong together: struct
 * flow's generation, slot and nexthop as they stand there (little endian).
 */
_Static_assert(offsetof(struct flow, generation) == 0 && offsetof(struct flow, slot) == 4 &&
		       offsetof(struct flow, nexthop) == 6 && _Alignof(struct flow) == 8,
	       "three fields of struct flow in one word");
_Static_assert(MAX_NEXTHOPS <= 65536, "a row of nexthops in 16 bits");

static __always_inline __u64 way_by(__u32 generation, __u16 slot, __u32 nexthop)
{
	return (__u64)nexthop << 48 | (__u64)slot << 32 | generation;
}

static __always_inline __u32 nexthop_in(__u64 way)
{
	return way >> 48;
}

static __always_inline __u64 way_of(const struct flow *flow)
{
	return *(const volatile __u64 *)&flow->generation;
}

static __always_inline void remember_way(struct flow *flow, __u64 way)
{
	*(volatile __u64 *)&flow->generation = way;
}

/* No slot leads out of control, whatever number it is: so nothing has to be asked about it. */
_Static_assert(offsetof(struct control, route_generations) + 65535 + sizeof(__u32) <= sizeof(struct control),
	       "route_generations and 16 bits of offset");

/* `slot` counts bytes of route_generations. */
static __always_inline __u32 generation_at(__u16 slot)
{
	return *(const volatile __u32 *)((const volatile void *)control.route_generations + slot);
}

static __always_inline bool is_current(__u64 way)
{
	return (__u32)way == generation_at(way >> 32);
}

/* As is_current(way), which was read from the flow: to read the slot once more costs less than to take it out. */
static __always_inline bool is_current_way_of(const struct flow *flow, __u64 way)
{
	return (__u32)way == generation_at(*(const volatile __u16 *)&flow->slot);
}

static __always_inline __u32 slot_bits(__u32 part, __u32 bits)
{
	return part * 0x9e3779b1U >> (32 - bits);
}

/* Of a remote address. */
static __always_inline __u16 slot_of(const struct address *address)
{
	__u32 first, second;

	if (!address->high) {
		first = bpf_ntohl(PLAIN(*address));
		first = slot_bits(first >> 16, 5) << 5 | slot_bits(first >> 8 & 0xff, 5);
	} else {
		second = bpf_be64_to_cpu(address->high);
		first = bpf_be64_to_cpu(address->high) >> 32;
		first = slot_bits(first, 4) << 6 | slot_bits(second >> 16, 3) << 3 | slot_bits(second & 0xffff, 3);
	}
	/* Linux 6.1 does not see that the bits of `|` stay within those of both, clang does */
	asm volatile("" : "+r"(first));
	return (first & (ROUTE_SLOTS - 1)) * sizeof(__u32);
}

/*
 * Of a remote address, before the maps are asked: the answer's way, without its
 * next hop. Not inlined: once a flow, and it needs registers. Global: see packet.h.
 */
__attribute__((noinline)) __u64 way_before(const struct address *remote)
{
	__u16 slot = remote ? slot_of(remote) : 0;

	return way_by(generation_at(slot), slot, 0);
}

#endif
