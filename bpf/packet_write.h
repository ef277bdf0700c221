/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writes to a packet in place, of addresses, ports, TTL and MACs, with the
 * checksums they change: by the stages (rewrite(), fix_l4()), and by the
 * hot path, which does by direct write what the helpers would do. What stands
 * behind options or in a fragment is written by packet_store.h. Nobody else
 * writes to a packet that goes on; detour.h and icmp_error_send.h make new ones of it.
 *
 * The caller has checked that what is written is in reach, unless it says
 * otherwise. After the first write nothing may return to the stack.
 */
#ifndef HOSTROUTE_PACKET_WRITE_H
#define HOSTROUTE_PACKET_WRITE_H

#include "types.h"
#include "packet.h"
#include "checksum.h"
#include "kernel_skb.h"

/* Between a map's value and a packet. Not memcpy: clang would copy single bytes. */
static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(__u32 *)to = *(const __u32 *)from;
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

static __always_inline bool no_mac(const __u8 *mac)
{
	return !(*(const __u32 *)mac | *(const __u16 *)(mac + 4));
}

/* Destination and source, from where they stand side by side. Not memcpy: see copy_mac(). */
static __always_inline void copy_macs(__u8 *to, const __u8 *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u32 *)(to + 8) = *(const __u32 *)(from + 8);
}

/* `to` is the packet's destination, where the source follows; after `mac` there are two bytes more. */
static __always_inline void copy_both_macs(__u8 *to, const __u8 *mac, const __u8 *source)
{
	*(__u64 *)to = *(const __u64 *)mac;
	copy_mac(to + 6, source);
}

/* Not memcpy: see copy_mac(). */
static __always_inline void copy_address(void *to, const void *from)
{
	((__u64 *)to)[0] = ((const __u64 *)from)[0];
	((__u64 *)to)[1] = ((const __u64 *)from)[1];
}

/* TTL one less, and the header's checksum with it (RFC 1141; as ip_decrease_ttl). */
static __always_inline void decrease_ttl4(struct iphdr *ip)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	/* TTL, protocol and checksum in one word: 1 off the lowest byte, 1 and a carry to the upper half */
	__u32 *word = (__u32 *)&ip->ttl;
	__u32 old = *word, new = old + 0xffff;

	if (old >= 0xfffe0000) {
		/* a jump that is hardly ever taken; clang would compute both */
		asm volatile("" : "+r"(new));
		new += 0x10000;
	}
	*word = new;
#else
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
#endif
}

/* Of a packet from a pod: no device has made a sum over it that this would have to keep right. */
static __always_inline void decrease_hop_limit(struct ipv6hdr *ip)
{
	ip->hop_limit--;
}

static __always_inline void decrease_hop_limit_from_outside(struct __sk_buff *skb, struct ipv6hdr *ip)
{
	decrease_hop_limit(ip);
	/* no header checksum balances this in a CHECKSUM_COMPLETE sum */
	if (!tells_checksum_state() || checksum_state(skb) == CHECKSUM_COMPLETE)
		bpf_csum_update(skb, HOP_LIMIT_LESS);
}

/* What NAT changes in the headers; nothing if `what` is NAT_NONE. */
enum nat { NAT_NONE, NAT_SOURCE, NAT_DESTINATION };

struct rewrite {
	enum nat what;
	struct address address;
	__be16 port;
	bool by_stack; /* a fragment, and the stack has the first */
};

/*
 * Rewrites the transport checksum for a changed address and port, and leaves
 * the port itself and the IP header to the caller. The helper knows the states
 * of ip_summed; a direct write would break CHECKSUM_PARTIAL.
 */
static __always_inline int fix_l4_at(struct packet *p, __u32 l4, const struct address *old, const struct address *new,
				     __be16 old_port, __be16 new_port, bool six)
{
	struct __sk_buff *skb = p->skb;
	__u64 mangled = 0;
	__u32 offset;
	int error;

	switch (p->protocol) {
	case IPPROTO_TCP:
		offset = l4 + offsetof(struct tcphdr, check);
		break;
	case IPPROTO_UDP:
		offset = l4 + offsetof(struct udphdr, check);
		mangled = BPF_F_MARK_MANGLED_0;
		break;
	default:
		offset = l4 + offsetof(struct icmp_header, checksum);
		break;
	}
	if (six)
		error = bpf_l4_csum_replace(skb, offset, 0, difference16(old, new), BPF_F_PSEUDO_HDR | mangled);
	else if (p->protocol == IPPROTO_ICMP)
		error = 0; /* no pseudo header */
	else
		error = bpf_l4_csum_replace(skb, offset, PLAIN(*old), PLAIN(*new), BPF_F_PSEUDO_HDR | mangled | 4);
	if (!error && old_port != new_port)
		error = bpf_l4_csum_replace(skb, offset, old_port, new_port, mangled | 2);
	return error;
}

/* The same for an address that is written without telling the skb. */
static __always_inline int fix_l4(struct packet *p, const struct address *old, const struct address *new,
				  __be16 old_port, __be16 new_port, bool six)
{
	/*
	 * The helper takes a CHECKSUM_COMPLETE sum for IPv4's, whose header
	 * checksum balances the address. IPv6 has none: undo that part.
	 */
	if (six)
		bpf_csum_update(p->skb, difference16(old, new));
	return fix_l4_at(p, l4_of(p, six), old, new, old_port, new_port, six);
}

static __always_inline void write_port(struct packet *p, void *l4, __be16 port, bool source)
{
	__be16 *at = l4;

	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		at += 2; /* the echo identifier */
	else if (!source)
		at += 1;
	*at = port;
}

/* Checks that all is writable before the first write. false: nothing was changed. */
static __always_inline bool rewrite(struct packet *p, const struct rewrite *new, bool six)
{
	struct __sk_buff *skb = p->skb;
	const __u32 l4 = l4_of(p, six);
	const bool source = new->what == NAT_SOURCE;
	struct ethhdr *eth;
	void *port;

	if (new->what != NAT_NONE && fix_l4(p, source ? &p->source : &p->destination, &new->address,
					    source ? p->source_port : p->destination_port, new->port, six))
		return false;
	eth = DATA(skb);
	port = DATA(skb) + l4;
	if ((void *)(eth + 1) + (six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > END(skb) ||
	    (new->what != NAT_NONE &&port + 8 > END(skb)))
		return false;
	if (six) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		__u16 *word = (__u16 *)&ip->nexthdr;
		__u16 old = *word;

		decrease_hop_limit(ip);
		/* No header checksum balances this in a CHECKSUM_COMPLETE sum. */
		if (new->what == NAT_SOURCE)
			__builtin_memcpy(&ip->saddr, &new->address, 16);
		else if (new->what == NAT_DESTINATION)
			__builtin_memcpy(&ip->daddr, &new->address, 16);
		if (p->device->kind == DEVICE_UPLINK)
			bpf_csum_update(skb, fold(difference2(old, *word)));
	} else {
		struct iphdr *ip = (void *)(eth + 1);

		decrease_ttl4(ip);
		if (new->what == NAT_SOURCE) {
			ip->check = checksum_after(ip->check, difference4(ip->saddr, PLAIN(new->address)));
			ip->saddr = PLAIN(new->address);
		} else if (new->what == NAT_DESTINATION) {
			ip->check = checksum_after(ip->check, difference4(ip->daddr, PLAIN(new->address)));
			ip->daddr = PLAIN(new->address);
		}
	}
	if (new->what != NAT_NONE)
		write_port(p, port, new->port, source);
	return true;
}

/* After rewrite(): the header is in reach. */
static __always_inline void write_macs(struct packet *p, const __u8 *to, const __u8 *from)
{
	struct ethhdr *eth = DATA(p->skb);

	if ((void *)(eth + 1) > END(p->skb))
		return;
	copy_mac(eth->h_dest, to);
	copy_mac(eth->h_source, from);
}

/*
 * All checksums after a change of address, port and TTL, as fix_l4() does by
 * helper, by direct write. Only where the kernel tells_checksum_state().
 */
static __always_inline void fix_checksums4(struct __sk_buff *skb, struct iphdr *ip,
					   const struct snat_difference *difference, bool tcp)
{
	__u16 *check = (void *)(ip + 1) + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	/* before all else, and the difference where it is needed: what is read earlier would be spilled */
	const int state = checksum_state(skb);
	__u16 value = *check;

	if (tcp || value) {
		/* the TTL is in no transport checksum */
		if (state == CHECKSUM_PARTIAL) {
			/* so far the pseudo header's sum, not inverted; whoever completes it sees the new port */
			value = fold((__u32)value + difference->header + (__u16)~TTL_LESS);
		} else {
			value = checksum_after_folded(value, difference->transport);
			/* the header's checksum balances the address, and a port this one; the address in this one
			 * nothing */
			if (state == CHECKSUM_COMPLETE)
				bpf_csum_update(skb, (__u16)~fold((__u32)difference->header + (__u16)~TTL_LESS));
		}
		*check = !tcp && !value ? 0xffff : value;
	}
	ip->check = checksum_after_folded(ip->check, difference->header);
	ip->ttl--;
}

/*
 * The transport's checksum after a change of address and port, as
 * fix_checksums4(). With both and itself the sum over a CHECKSUM_COMPLETE packet
 * stays what it was.
 */
static __always_inline void fix_checksum6(struct __sk_buff *skb, void *l4, const struct snat_difference *difference,
					  bool tcp)
{
	__u16 *check = l4 + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	const int state = checksum_state(skb);
	__u16 value = *check;

	if (state == CHECKSUM_PARTIAL)
		value = fold((__u32)value + difference->header);
	else
		value = checksum_after_folded(value, difference->transport);
	*check = !tcp && !value ? 0xffff : value;
}

/*
 * SNAT on the hot path: address, port, checksums and, of IPv4, the TTL. The
 * packet has the ports behind a header without options, both in reach. Not for
 * UDP over IPv6 without_checksum6().
 */
static __always_inline void write_source4(struct __sk_buff *skb, struct iphdr *ip, const struct flow *flow, bool tcp)
{
	__be16 *port = (void *)(ip + 1);

	fix_checksums4(skb, ip, &flow->difference, tcp);
	port[0] = flow->nat_port;
	ip->saddr = *(const __be32 *)(flow->nat_address + 12);
}

/* The other way round, for an answer. */
static __always_inline void write_destination4(struct __sk_buff *skb, struct iphdr *ip, const struct reverse *reverse,
					       bool tcp)
{
	__be16 *port = (void *)(ip + 1);

	fix_checksums4(skb, ip, &reverse->difference, tcp);
	port[1] = reverse->pod_port;
	ip->daddr = *(const volatile __be32 *)(reverse->pod + 12); /* again: kept, it would be spilled */
}

static __always_inline void write_source6(struct __sk_buff *skb, struct ipv6hdr *ip, const struct flow *flow, bool tcp)
{
	__be16 *port = (void *)(ip + 1);

	fix_checksum6(skb, port, &flow->difference, tcp);
	port[0] = flow->nat_port;
	copy_address(&ip->saddr, flow->nat_address);
}

static __always_inline void write_destination6(struct __sk_buff *skb, struct ipv6hdr *ip, const struct reverse *reverse,
					       bool tcp)
{
	__be16 *port = (void *)(ip + 1);

	fix_checksum6(skb, port, &reverse->difference, tcp);
	port[1] = reverse->pod_port;
	copy_address(&ip->daddr, reverse->pod);
}

#endif
