/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internet checksum by difference (RFC 1624). Differences are one's complement
 * sums of "new minus old" words as they stand in memory, not folded.
 */
#ifndef HOSTROUTE_CHECKSUM_H
#define HOSTROUTE_CHECKSUM_H

static __always_inline __u32 difference2(__u16 old, __u16 new)
{
	return (__u32)(__u16)~old + new;
}

static __always_inline __u32 difference4(__u32 old, __u32 new)
{
	return difference2(old & 0xffff, new & 0xffff) + difference2(old >> 16, new >> 16);
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* A stored checksum after its covered words changed by `difference`. */
static __always_inline __u16 checksum_after(__u16 check, __u32 difference)
{
	return ~fold((__u32)(__u16)~check + difference);
}

/* TTL one less, and the header's checksum with it (RFC 1141; as ip_decrease_ttl). */
static __always_inline void decrease_ttl4(struct iphdr *ip)
{
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

static __always_inline __u32 difference16(const struct address *old, const struct address *new)
{
	return fold(difference4(old->high, new->high) + difference4(old->high >> 32, new->high >> 32) +
		    difference4(old->low, new->low) + difference4(old->low >> 32, new->low >> 32));
}

#endif
