/* SPDX-License-Identifier: GPL-2.0-only */
/* Longest prefix -> next hop. Groups are resolved to one leg by the flow's hash. */
#ifndef HOSTROUTE_ROUTE_H
#define HOSTROUTE_ROUTE_H

static __always_inline struct route *route_to(const struct address *destination, bool six)
{
	if (six) {
		struct route6_key key = { .prefix_length = 128 };

		__builtin_memcpy(key.address, destination, 16);
		return bpf_map_lookup_elem(&routes6, &key);
	} else {
		struct route4_key key = { .prefix_length = 32 };
		__be32 four = PLAIN(*destination);

		__builtin_memcpy(key.address, &four, 4);
		return bpf_map_lookup_elem(&routes4, &key);
	}
}

/*
 * Sets *index to a row of nexthops. `kept` is the leg that the flow has used:
 * it stays as long as the group has it, whatever else changed.
 */
static __always_inline int choose_nexthop(struct packet *p, bool six, __u32 kept, __u32 *index)
{
	struct route *route = route_to(&p->destination, six);
	struct group *group;
	__u32 row;
	int i;

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
