/* SPDX-License-Identifier: GPL-2.0-only */
/* Which pod of this node has an address, and which addresses a pod may use. */
#ifndef HOSTROUTE_PODS_H
#define HOSTROUTE_PODS_H

#include "maps.h"
#include "packet.h"
#include "verdict.h"
#include "kernel_route.h"

/* src/maps/pods.ts computes the same. IPv4: neighbours in a range never share. */
static __always_inline __u32 pod_slot_index(const struct address *address, bool six)
{
	__u64 words;
	__u32 folded;

	if (!six)
		return bpf_ntohl(PLAIN(*address)) & (POD_SLOTS - 1);
	words = address->high ^ address->low;
	folded = bpf_ntohl((__u32)words ^ (__u32)(words >> 32));
	return (folded * 0x9e3779b1U) >> 18;
}

static __always_inline struct pod *pod_of(const struct address *address, bool six)
{
	__u32 index = pod_slot_index(address, six);
	struct pod_slot *slot = bpf_map_lookup_elem(&pod_slots, &index);

	if (!slot)
		return NULL;
	if (same_address(address, slot->address))
		return &slot->pod;
	if (!slot->more)
		return NULL;
	return bpf_map_lookup_elem(&pods, address);
}

/* The pod on the device, by its first address. Off the hot path, and it needs stack. */
static __attribute__((noinline)) struct pod *pod_on4(__u32 ifindex)
{
	struct device *device = device_of(ifindex);
	struct address address = {};

	if (!device || !device->address4)
		return NULL;
	address.low = MAPPED(device->address4);
	return pod_of(&address, false);
}

static __attribute__((noinline)) struct pod *pod_on6(__u32 ifindex)
{
	struct device *device = device_of(ifindex);
	struct address address;

	if (!device)
		return NULL;
	__builtin_memcpy(&address, device->address6, 16);
	return pod_of(&address, true);
}

/*
 * The pod that has sent with `address`: its own, or one that it may use on its
 * device. NULL: it is gone, for `id` stands for one life of it.
 */
static __always_inline struct pod *sender_of(const struct address *address, __u32 ifindex, __u32 id, bool six)
{
	struct pod *pod = pod_of(address, six);

	if (pod && pod->id == id)
		return pod;
	if (!ifindex)
		return NULL;
	pod = six ? pod_on6(ifindex) : pod_on4(ifindex);
	return pod && pod->id == id ? pod : NULL;
}

/* enum source; SOURCE_OWN: it is not allowed. Off the hot path, and it needs stack. */
static __attribute__((noinline)) int allowed_source(__u32 ifindex, const struct address *source)
{
	struct pod_source_key key = { .prefix_length = 160, .ifindex = ifindex };
	struct pod_source *allowed;

	if (!source)
		return SOURCE_OWN;
	__builtin_memcpy(key.address, source, 16);
	allowed = bpf_map_lookup_elem(&pod_sources, &key);
	return allowed ? allowed->source : SOURCE_OWN;
}

/*
 * The bypassed stack's rp_filter no longer helps: a pod may send only from its
 * own addresses, and from what is configured for its device. The device row
 * holds the first of each family.
 */
static __always_inline int check_source(struct packet *p, bool six)
{
	struct pod *pod;

	if (six ? same_address(&p->source, p->device->address6) : PLAIN(p->source) == p->device->address4)
		return GO_ON;
	pod = pod_of(&p->source, six);
	if (pod && pod->ifindex == p->device->ifindex)
		return GO_ON;
	p->origin = allowed_source(p->in, &p->source);
	if (p->origin != SOURCE_OWN)
		return GO_ON;
	/* an address that the maps do not have yet is the kernel's to judge */
	return comes_from_its_device(p, six) ? REASON_UNKNOWN_DEVICE : REASON_DROP_SPOOF;
}

/*
 * What comes back to the packet's source, which is not the pod's own, gets to the
 * pod through the stack: then the packet takes it, too, or conntrack would see
 * half a flow. Not asked for what SNAT brings back.
 */
static __always_inline bool returns_by_stack(struct packet *p, bool six)
{
	return p->origin && comes_from_its_device(p, six);
}

#endif
