/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internet checksum by difference (RFC 1624). Differences are one's complement
 * sums of "new minus old" words as they stand in memory, not folded. Arithmetic
 * only: what is written to a packet is in packet_write.h and packet_store.h.
 */
#ifndef HOSTROUTE_CHECKSUM_H
#define HOSTROUTE_CHECKSUM_H

#include "flow_types.h"
#include "packet.h"

static __always_inline __u32 difference2(__u16 old, __u16 new)
{
	return (__u32)(__u16)~old + new;
}

static __always_inline __u32 difference4(__u32 old, __u32 new)
{
	return difference2(old & 0xffff, new & 0xffff) + difference2(old >> 16, new >> 16);
}

/* A header's sum with the TTL one less: the first byte of a word in memory. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TTL_LESS 0xfffeU
#else
#define TTL_LESS 0xfeffU
#endif

/* The same of IPv6's hop limit, which is the second byte. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HOP_LIMIT_LESS 0xfeffU
#else
#define HOP_LIMIT_LESS 0xfffeU
#endif

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline struct snat_difference snat_differences(__be32 old, __be32 new, __be16 old_port, __be16 new_port)
{
	const __u32 address = difference4(old, new);

	return (struct snat_difference){
		.header = fold(address + TTL_LESS),
		.transport = fold(address + difference2(old_port, new_port)),
	};
}

/* Of an address's word, as a sum of smaller ones. */
static __always_inline __u64 halves(__u64 word)
{
	return (__u32)word + (word >> 32);
}

/* Folded; never 0 for two addresses that a packet may have. */
static __always_inline __u16 difference16(const struct address *old, const struct address *new)
{
	__u64 sum = halves(new->high) + halves(new->low) + halves(~old->high) + halves(~old->low);

	sum = halves(sum);
	return fold((__u32)(sum >> 16) + (sum & 0xffff));
}

/* `address`: difference16() of the addresses. */
static __always_inline struct snat_difference snat_differences6(__u16 address, __be16 old_port, __be16 new_port)
{
	return (struct snat_difference){
		.header = address,
		.transport = fold(address + difference2(old_port, new_port)),
	};
}

/* Of the way back. 0xffff is the zero that differences have. */
static __always_inline __u16 inverse_difference(__u16 difference)
{
	return difference == 0xffff ? difference : ~difference;
}

/* A stored checksum after its covered words changed by `difference`. */
static __always_inline __u16 checksum_after(__u16 check, __u32 difference)
{
	return ~fold((__u32)(__u16)~check + difference);
}

/* The same by a folded difference, in fewer steps: what adds to the sum takes from its complement. */
static __always_inline __u16 checksum_after_folded(__u16 check, __u16 difference)
{
	const __u32 less = (__u32)check - difference;

	/* borrowed: one more */
	return less + (less >> 16);
}

/*
 * A router refuses a damaged header (RFC 1812 5.2.2); the stack counts it. The
 * sum of the words must be a multiple of 0xffff. (2^16 - 1) times the constant
 * is 2^64 - 1, that is -1: so a multiple, and nothing else, times the negative
 * of it is what it was the multiple by, at most the constant.
 */
static __always_inline bool header_checksum_ok(const struct iphdr *ip)
{
	const __u64 inverse = 0x0001000100010001ULL;
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	return -(sum * inverse) <= inverse;
}

/* The same of a header with options, with zeros behind it to `size` bytes. */
static __always_inline bool long_header_checksum_ok(void *header, __u32 size)
{
	return fold(bpf_csum_diff(NULL, 0, header, size, 0)) == 0xffff;
}

static __always_inline __u32 sum4(__u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

/* The pseudo header's sum, which the transport checksum begins with. `length`: of what it covers. */
static __always_inline __u16 pseudo_header(const struct address *source, const struct address *destination,
					   __u8 protocol, __u16 length, bool six)
{
	__u32 sum = bpf_htons(protocol) + bpf_htons(length);

	if (six)
		sum += sum4(source->high) + sum4(source->high >> 32) + sum4(destination->high) +
		       sum4(destination->high >> 32) + sum4(source->low) + sum4(destination->low);
	/* of IPv4 this is the address */
	sum += sum4(source->low >> 32) + sum4(destination->low >> 32);
	return fold(sum);
}

#endif
