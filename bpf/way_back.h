/* SPDX-License-Identifier: GPL-2.0-only */
/* Where what a pod answers would go: by the fast path or by the stack, and by which uplink. */
#ifndef HOSTROUTE_WAY_BACK_H
#define HOSTROUTE_WAY_BACK_H

#include "types.h"
#include "packet.h"
#include "verdict.h"
#include "kernel_route.h"
#include "route.h"

/* What the maps say about the way from the pod on `ifindex` to `remote`. */
static __always_inline struct route *route_of_pod(const struct address *remote, const struct device *device,
						  union route_key *key, bool six)
{
	struct route *route = NULL;

	if (has_class(device, six)) {
		route = class_route_to(device, remote, key, six);
		if (route && route->action == ROUTE_MAIN)
			route = NULL;
	}
	return route ? route : route_to(remote, key, six);
}

static __always_inline int way_back(const struct address *remote, __u32 ifindex, bool six)
{
	struct device *device = device_of(ifindex);
	union route_key key;
	struct route *route;

	if (!device)
		return GO_ON;
	route = route_of_pod(remote, device, &key, six);
	if (!route || route->action != ROUTE_STACK || route->reason >= REASON_FIRST_DROP)
		return GO_ON;
	return route->reason;
}

/*
 * Strict rp_filter on an uplink, as fib_validate_source() has it for IPv4: a
 * packet comes in only where its answer would go out; `to` is the pod's address,
 * after SNAT has been undone, as routing sees it there. Asked for the first packet
 * of a flow there; where the helper cannot tell, with several ways out, or no
 * route that it knows, the packet passes.
 */
static __attribute__((noinline)) int may_come_here4(struct packet *p, const struct address *to, __u32 pod_ifindex)
{
	struct address destination = p->destination;
	struct device *device;
	struct route *route;
	union route_key key;
	__u32 ifindex;

	if (!to)
		return true;
	p->destination = *to;
	ifindex = kernel_device(p->skb, facts_of(p), WAY_OF_ANSWER, false);
	p->destination = destination;
	if (!ifindex || ifindex == p->in)
		return true;
	device = device_of(pod_ifindex);
	if (!device)
		return true;
	route = route_of_pod(&p->source, device, &key, false);
	return route && route->action == ROUTE_GROUP;
}

/*
 * What the pod on `ifindex` answers would leave by the stack: then the packet
 * takes it, too, or conntrack would see half a flow. The reason, or GO_ON.
 * Global: see packet.h.
 */
__attribute__((noinline)) int way_back4(const struct address *remote, __u32 ifindex)
{
	return remote ? way_back(remote, ifindex, false) : GO_ON;
}

__attribute__((noinline)) int way_back6(const struct address *remote, __u32 ifindex)
{
	return remote ? way_back(remote, ifindex, true) : GO_ON;
}

#endif
