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

/* One place on the stack for either key: the frames of from_pod and new_flow6 are nearly full. */
union route_key {
	struct route4_key four;
	struct route6_key six;
	struct class_route4_key class_four;
	struct class_route6_key class_six;
};

static __always_inline bool has_class(const struct packet *p, bool six)
{
	return p->device->flags & (six ? DEVICE_CLASS6 : DEVICE_CLASS4);
}

static __always_inline struct route *route_to(const struct address *destination, union route_key *key, bool six)
{
	__be32 four;

	if (six) {
		key->six.prefix_length = 128;
		__builtin_memcpy(key->six.address, destination, 16);
		return bpf_map_lookup_elem(&routes6, &key->six);
	}
	four = PLAIN(*destination);
	key->four.prefix_length = 32;
	__builtin_memcpy(key->four.address, &four, 4);
	return bpf_map_lookup_elem(&routes4, &key->four);
}

/* What the class of the packet's device says. */
static __always_inline struct route *class_route_to(const struct packet *p, union route_key *key, bool six)
{
	__be32 four;

	if (six) {
		key->class_six.prefix_length = 160;
		key->class_six.route_class = p->device->class6;
		__builtin_memcpy(key->class_six.address, &p->destination, 16);
		return bpf_map_lookup_elem(&class_routes6, &key->class_six);
	}
	four = PLAIN(p->destination);
	key->class_four.prefix_length = 64;
	key->class_four.route_class = p->device->class4;
	__builtin_memcpy(key->class_four.address, &four, 4);
	return bpf_map_lookup_elem(&class_routes4, &key->class_four);
}

/* Whether `pods` may answer for the destination, as far as ip rules go. */
static __always_inline bool pods_answer(const struct packet *p, bool six)
{
	union route_key key;
	struct route *route;

	if (!has_class(p, six))
		return true;
	route = class_route_to(p, &key, six);
	return route && route->action == ROUTE_MAIN;
}

/*
 * Sets *index to a row of nexthops. `kept` is the leg that the flow has used:
 * it stays as long as the group has it, whatever else changed.
 */
static __always_inline int choose_nexthop(struct packet *p, bool six, __u32 kept, __u32 *index)
{
	struct route *route = NULL;
	union route_key key;
	struct group *group;
	__u32 row;
	int i;

	if (has_class(p, six)) {
		route = class_route_to(p, &key, six);
		if (!route)
			return REASON_POLICY;
		if (route->action == ROUTE_MAIN)
			route = NULL;
	}
	if (!route)
		route = route_to(&p->destination, &key, six);
	trace_route(p, route);
	if (!route)
		return REASON_NO_ROUTE;
	if (route->action == ROUTE_STACK)
		/* bounded, so that a damaged map cannot count outside the row */
		return route->reason < REASON_FIRST_DROP ? (int)route->reason : REASON_ROUTE;
	if (route->action == ROUTE_NEXTHOP) {
		*index = route->nexthop;
		trace_nexthop(p, *index);
		return GO_ON;
	}
	row = route->nexthop;
	group = bpf_map_lookup_elem(&groups, &row);
	if (!group)
		return REASON_ROUTE;
	if (kept)
		for (i = 0; i < GROUP_LEGS; i++)
			if (group->leg[i] == kept) {
				*index = kept;
				trace_nexthop(p, kept);
				return GO_ON;
			}
	*index = group->leg[bpf_get_hash_recalc(p->skb) % GROUP_LEGS];
	trace_nexthop(p, *index);
	return GO_ON;
}

static __always_inline struct nexthop *nexthop_at(__u32 index)
{
	struct nexthop *nexthop = bpf_map_lookup_elem(&nexthops, &index);

	if (!nexthop || !nexthop->ifindex)
		return NULL;
	return nexthop;
}

#endif
