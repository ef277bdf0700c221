/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The rest of parse4() and parse6() for IPv4 options and IPv6 extension headers:
 * whether they are well formed, and whether a router has to look into them. What
 * becomes of such a packet: options.h.
 */
#ifndef HOSTROUTE_PARSE_OPTIONS_H
#define HOSTROUTE_PARSE_OPTIONS_H

#include "packet.h"
#include "checksum.h"

/* facts.options; 0: none, or malformed, which is the stack's to judge */
enum options {
	OPTIONS_PLAIN = 1, /* they leave as they are */
	OPTIONS_READ,      /* a router has to look into them */
};

#define MOST_HEADER4 60
#define MOST_EXTENSION_HEADERS 4
#define MOST_EXTENSIONS 64 /* bytes: with all before them within what l4_of() may say */

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_RECORD_ROUTE 7
#define OPTION_TIMESTAMP 68
#define OPTION_LOOSE_SOURCE 131
#define OPTION_STRICT_SOURCE 137
#define OPTION_ROUTER_ALERT 148

struct header4 {
	__u8 bytes[64] __attribute__((aligned(8)));
	__u32 length;
	__u32 at; /* of the next option */
	int options;
};

/* One option. A call of its own: unrolled, the verifier would follow every length. */
static long read_option4(__u32 round, struct header4 *header)
{
	__u32 at = header->at;
	__u8 type, size;

	if (at >= header->length)
		return 1;
	type = header->bytes[at & 63];
	if (type == OPTION_END)
		return 1;
	header->at = at + 1;
	if (type == OPTION_NOP)
		return 0;
	size = header->bytes[(at + 1) & 63];
	if (at + 1 >= header->length || size < 2 || at + size > header->length) {
		header->options = 0;
		return 1;
	}
	if (type == OPTION_RECORD_ROUTE || type == OPTION_TIMESTAMP || type == OPTION_LOOSE_SOURCE ||
	    type == OPTION_STRICT_SOURCE || type == OPTION_ROUTER_ALERT)
		header->options = OPTIONS_READ;
	header->at = at + size;
	return 0;
}

/*
 * The rest of parse4() for a header of more than 20 bytes, addresses apart.
 * Leaves p->options 0 where it is malformed. Global: see packet.h.
 */
__attribute__((noinline)) int parse_options4(struct __sk_buff *skb, struct facts *p)
{
	struct header4 header = { .at = sizeof(struct iphdr), .options = OPTIONS_PLAIN };
	const struct iphdr *ip = (void *)header.bytes;
	__u32 length, total;

	if (!p || bpf_skb_load_bytes(skb, ETH, header.bytes, sizeof(*ip)))
		return 0;
	length = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (length <= sizeof(*ip) || length > MOST_HEADER4 || bpf_skb_load_bytes(skb, ETH, header.bytes, length))
		return 0;
	if (total > skb->len - ETH || (total < length && !(total == 0 && skb->gso_size)) ||
	    !long_header_checksum_ok(header.bytes, sizeof(header.bytes)))
		return 0;
	p->end = total ? ETH + total : skb->len;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	if (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) {
		p->fragment = ip->frag_off & bpf_htons(IP_OFFSET) ? PLACE_LATER : PLACE_FIRST;
		p->fragment_id = ip->id;
	}
	p->l4 = ETH + length;
	header.length = length;
	bpf_loop(MOST_HEADER4 - sizeof(*ip), read_option4, &header, 0);
	p->options = header.options;
	return 0;
}

/* The same for parse6(): p->protocol and p->l4 are the first extension header's. */
__attribute__((noinline)) int parse_options6(struct __sk_buff *skb, struct facts *p)
{
	struct {
		__u8 next;
		__u8 length; /* in 8 bytes, without the first 8 */
	} header;
	__u32 at;
	__u8 next;

	if (!p)
		return 0;
	at = p->l4;
	next = p->protocol;
	for (int i = 0; i < MOST_EXTENSION_HEADERS; i++) {
		if (next == IPPROTO_HOPOPTS || next == NEXTHDR_FRAGMENT || next == IPPROTO_AH || next == IPPROTO_MH) {
			p->options = OPTIONS_READ;
			return 0;
		}
		if (next != IPPROTO_DSTOPTS && next != IPPROTO_ROUTING)
			break;
		if (at + sizeof(header) > p->end || bpf_skb_load_bytes(skb, at, &header, sizeof(header)))
			return 0;
		at += (header.length + 1) * 8;
		next = header.next;
		if (at > ETH + sizeof(struct ipv6hdr) + MOST_EXTENSIONS) {
			p->options = OPTIONS_READ;
			return 0;
		}
		if (at > p->end)
			return 0;
	}
	p->protocol = next;
	p->l4 = at;
	p->options = OPTIONS_PLAIN;
	return 0;
}

#endif
