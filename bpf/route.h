/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Longest prefix -> next hop. Groups are resolved to one leg by the flow's hash.
 *
 * A device with a class (ip rules send its packets to other tables) asks the
 * class first. Where that says ROUTE_MAIN, the node's own pods and routes
 * answer. A class has its /0, so every address has an answer in it.
 */
#ifndef HOSTROUTE_ROUTE_H
#define HOSTROUTE_ROUTE_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "generation.h"
#include "destination.h"

/* One place on the stack for either key: the frames of from_pod and new_flow6 are nearly full. */
union route_key {
	__u32 row; /* of destinations */
	struct route4_key four;
	struct route6_key six;
	struct class_route4_key class_four;
	struct class_route6_key class_six;
};

static __always_inline bool has_class(const struct device *device, bool six)
{
	return device->flags & (six ? DEVICE_CLASS6 : DEVICE_CLASS4);
}

/* less: bits that the prefix has to be shorter by; 0: the longest prefix. */
static __always_inline struct route *route_shorter(const struct address *destination, union route_key *key, __u32 less,
						   bool six)
{
	__be32 four;

	if (six) {
		key->six.prefix_length = 128 - less;
		__builtin_memcpy(key->six.address, destination, 16);
		return bpf_map_lookup_elem(&routes6, &key->six);
	}
	four = PLAIN(*destination);
	key->four.prefix_length = 32 - less;
	__builtin_memcpy(key->four.address, &four, 4);
	return bpf_map_lookup_elem(&routes4, &key->four);
}

static __always_inline struct route *route_to(const struct address *destination, union route_key *key, bool six)
{
	return route_shorter(destination, key, 0, six);
}

/* What the device's class says. */
static __always_inline struct route *class_route_to(const struct device *device, const struct address *destination,
						    union route_key *key, bool six)
{
	__be32 four;

	if (six) {
		key->class_six.prefix_length = 160;
		key->class_six.route_class = device->class6;
		__builtin_memcpy(key->class_six.address, destination, 16);
		return bpf_map_lookup_elem(&class_routes6, &key->class_six);
	}
	four = PLAIN(*destination);
	key->class_four.prefix_length = 64;
	key->class_four.route_class = device->class4;
	__builtin_memcpy(key->class_four.address, &four, 4);
	return bpf_map_lookup_elem(&class_routes4, &key->class_four);
}

/* Whether `pods` may answer for the destination, as far as ip rules go. */
static __always_inline bool pods_answer(const struct packet *p, bool six)
{
	union route_key key;
	struct route *route;

	if (!has_class(p->device, six))
		return true;
	route = class_route_to(p->device, &p->destination, &key, six);
	return route && route->action == ROUTE_MAIN;
}

/* What find_nexthop*() returns instead of a way: under generation 0 the reason. */
static __always_inline __u64 no_way(__u32 reason)
{
	return way_by(0, 0, reason);
}

static __always_inline bool is_way(__u64 found)
{
	return (__u32)found;
}

/* `way` is without its next hop; of a group the leg `kept`, or by the flow's hash. */
static __always_inline __u64 resolve_route(struct __sk_buff *skb, __u32 action, __u32 row, __u32 kept, __u64 way)
{
	struct group *group;
	int i;

	if (action == ROUTE_NEXTHOP)
		return way | way_by(0, 0, row);
	group = bpf_map_lookup_elem(&groups, &row);
	if (!group)
		return no_way(REASON_ROUTE);
	if (kept)
		for (i = 0; i < GROUP_LEGS; i++)
			if (group->leg[i] == kept)
				return way | way_by(0, 0, kept);
	return way | way_by(0, 0, group->leg[bpf_get_hash_recalc(skb) % GROUP_LEGS]);
}

static __always_inline __u64 find_nexthop(struct __sk_buff *skb, const struct device *device,
					  const struct address *destination, __u32 kept, bool covering, bool six)
{
	const __u32 of_class = class_of(device, six);
	struct destination *known;
	struct route *route = NULL;
	union route_key key;
	__u32 action, row;
	__u64 found, way;

	key.row = destination_row(destination);
	known = bpf_map_lookup_elem(&destinations, &key.row);
	if (!known)
		return no_way(REASON_ROUTE);
	if (still_holds(known, destination) && known->of_class == of_class && known->action != ROUTE_STACK &&
	    !trace_of(skb))
		return resolve_route(skb, known->action, known->nexthop, kept,
				     way_by(known->asked_under, known->slot, 0));
	way = way_before(destination);
	read_in_order(known);
	if (of_class) {
		route = class_route_to(device, destination, &key, six);
		if (!route)
			return no_way(REASON_POLICY);
		if (route->action == ROUTE_MAIN)
			route = NULL;
		covering = false; /* the class has the same routes only in part */
	}
	if (!route)
		route = route_to(destination, &key, six);
	trace_route(trace_of(skb), route);
	if (!route)
		return no_way(REASON_NO_ROUTE);
	action = route->action;
	row = route->nexthop;
	if (action == ROUTE_STACK) {
		/* bounded, so that a damaged map cannot count outside the row */
		found = no_way(route->reason < REASON_FIRST_DROP ? (int)route->reason : REASON_ROUTE);
		if (!covering || route->reason != REASON_TRANSLATED_DESTINATION)
			return found;
		/* of longer prefixes than a host's none */
		route = route_shorter(destination, &key, 1, six);
		if (!route || route->action == ROUTE_STACK)
			return found;
		action = route->action;
		row = route->nexthop;
	} else if (!trace_of(skb)) {
		claim_row(known, destination, way);
		known->of_class = of_class;
		known->nexthop = row;
		known->action = action;
	}
	found = resolve_route(skb, action, row, kept, way);
	if (is_way(found))
		trace_nexthop(trace_of(skb), nexthop_in(found));
	return found;
}

/* `covering`: to an address that is translated, as if it were not. Global: see packet.h. */
__attribute__((noinline)) __u64 find_nexthop4(struct __sk_buff *skb, const struct device *device,
					      const struct address *destination, __u32 kept, int covering)
{
	return device && destination ? find_nexthop(skb, device, destination, kept, covering, false) :
				       no_way(REASON_ROUTE);
}

__attribute__((noinline)) __u64 find_nexthop6(struct __sk_buff *skb, const struct device *device,
					      const struct address *destination, __u32 kept, int covering)
{
	return device && destination ? find_nexthop(skb, device, destination, kept, covering, true) :
				       no_way(REASON_ROUTE);
}

/*
 * GO_ON: *way is the answer, under the generation in which it was asked for. `kept`
 * is the leg that the flow has used: it stays as long as the group has it, whatever
 * else changed.
 */
static __always_inline int choose_nexthop(struct packet *p, bool six, __u32 kept, bool covering, __u64 *way)
{
	__u64 found = six ? find_nexthop6(p->skb, p->device, &p->destination, kept, covering) :
			    find_nexthop4(p->skb, p->device, &p->destination, kept, covering);

	*way = found;
	return is_way(found) ? GO_ON : (int)(nexthop_in(found) & (REASON_MAX - 1));
}

static __always_inline struct nexthop *nexthop_at(__u32 index)
{
	struct nexthop *nexthop = bpf_map_lookup_elem(&nexthops, &index);

	if (!nexthop || !nexthop->ifindex)
		return NULL;
	return nexthop;
}

#endif
