/* SPDX-License-Identifier: GPL-2.0-only */
/* Which pod of this node has an address, and which addresses a pod may use. */
#ifndef HOSTROUTE_PODS_H
#define HOSTROUTE_PODS_H

static __always_inline bool same_address(const struct address *a, const void *b)
{
	const struct address *other = b;

	return a->high == other->high && a->low == other->low;
}

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

/*
 * The bypassed stack's rp_filter no longer helps: a pod may send only from its
 * own addresses. The device row holds the first of each family.
 */
static __always_inline int check_source(struct packet *p, bool six)
{
	struct pod *pod;

	if (six ? same_address(&p->source, p->device->address6) : PLAIN(p->source) == p->device->address4)
		return GO_ON;
	pod = pod_of(&p->source, six);
	if (pod && pod->ifindex == p->device->ifindex)
		return GO_ON;
	/* an address that the maps do not have yet is the kernel's to judge */
	return comes_from_its_device(p, six) ? REASON_UNKNOWN_DEVICE : REASON_DROP_SPOOF;
}

#endif
