/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the stages know of a packet (struct packet) and say to each other, and
 * what is on the wire besides linux/ip.h and the like.
 *
 * Many functions are global, which means not static: the verifier looks at them
 * once, not for each state of each caller, and what their callers know of the
 * arguments does not multiply theirs. So they take plain values only (struct
 * facts): the verifier would take a pointer within a structure for a number. And
 * Linux 6.1 takes no argument for a map's key or value, so that they are copied
 * first. Those that are not inlined have two forms, one for each family: so the
 * choice between them is made once, by the compiler.
 */
#ifndef HOSTROUTE_PACKET_H
#define HOSTROUTE_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmpv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "call_types.h"

#define GO_ON (-1)
#define DETOURED (-3) /* see detour.h: not decided yet, and so not counted */

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

/* An address, v4-mapped if IPv4; two words so that a comparison is two jumps. */
struct address {
	__u64 high;
	__u64 low;
};

static __always_inline bool same_address(const struct address *a, const void *b)
{
	const struct address *other = b;

	return a->high == other->high && a->low == other->low;
}

/*
 * Of a fragment within its datagram. An IPv6 datagram in one fragment is FIRST.
 * OPTIONS: whole, behind options or extension headers.
 */
enum place { PLACE_WHOLE, PLACE_FIRST, PLACE_LATER, PLACE_OPTIONS };

/* What the stages learn of a packet: plain values, for global functions, too. */
struct facts {
	struct address source;
	struct address destination;
	__u8 protocol;
	__u8 ttl;
	__u8 fragment;      /* enum place; 0: whole */
	__u8 tracked;       /* 1: TCP, UDP or echo: ports are valid */
	__u8 tcp;           /* SEEN_* */
	__u8 icmp_type;
	__u8 related : 1;   /* ICMP error of a pod about a flow that leaves as it is */
	__u8 origin : 2;    /* enum source */
	__u8 options : 2;   /* enum options */
	__s8 action;        /* TC_ACT_* if the reason is a forwarding one, or the dropped packet became an ICMP error */
	__u16 l4;           /* offset of the transport header from the MAC header */
	__be16 source_port; /* echo: identifier in both */
	__be16 destination_port;
	__be16 nat_port;
	__u32 end;         /* of the IP packet; what follows is padding */
	__u32 fragment_id; /* as it stands in the header */
	__u32 in;          /* ifindex of where the packet came in: not always skb->ifindex, see detour.h */
	__u32 out;         /* ifindex, 0 unknown */
};

/* Pointers into the packet are never kept here. */
struct packet {
	struct __sk_buff *skb;
	struct device *device; /* where it came in */
	struct trace *trace;   /* NULL but for a packet that the daemon asks about: see trace.h */
	struct facts;          /* its members are this structure's, facts_of() the whole */
};

/* It took a detour (detour.h). */
static __always_inline bool is_detoured(const struct packet *p)
{
	return p->skb->ifindex != p->in;
}

static __always_inline struct facts *facts_of(struct packet *p)
{
	return (void *)p + offsetof(struct packet, source);
}

#define ETH ((__u32)sizeof(struct ethhdr))
/* 00:00:ff:ff before the IPv4 address of a v4-mapped one, in memory order. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MAPPED(four) (((__u64)(four) << 32) | 0xffff0000ULL)
#define PLAIN(address) ((__be32)((address).low >> 32))
#else
#define MAPPED(four) (0x0000ffff00000000ULL | (four))
#define PLAIN(address) ((__be32)(address).low)
#endif

#define DATA(skb) ((void *)(long)(skb)->data)
#define END(skb) ((void *)(long)(skb)->data_end)

#define IP_DF 0x4000
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* TCP's byte of flags */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Of both families. Not from linux/icmp.h: that pulls in libc's headers. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

struct fragment_header {
	__u8 next;
	__u8 reserved; /* of other extension headers: their length, see options.h */
	__be16 offset;
	__be32 id;
};

#define IP6_OFFSET 0xfff8
#define ICMPV6_NEIGHBOUR_FIRST 133 /* router solicitation ... */
#define ICMPV6_NEIGHBOUR_LAST 137  /* ... redirect */
#define NEXTHDR_FRAGMENT 44

/* Offset of the transport header: of IPv6 only BIG TCP has anything before it here, but for PLACE_OPTIONS. */
static __always_inline __u32 l4_of(const struct packet *p, bool six)
{
	return six ? p->l4 & 127 /* for the verifier */ : ETH + sizeof(struct iphdr);
}

/* Echo has one identifier: it is the local port; the remote port says who asks. */
static __always_inline bool is_echo(const struct packet *p, bool six)
{
	return p->protocol == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static __always_inline bool is_echo_request(const struct packet *p, bool six)
{
	return p->icmp_type == (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO);
}

#endif
