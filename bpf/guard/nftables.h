/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Walks one datagram to nfnetlink as the kernel will, message by message to
 * its end, and finds the first one that adds or changes something in nf_tables.
 *
 * What only reads, resets or removes passes, as does every other subsystem
 * (conntrack, log, queue, ipset). iptables-nft sends nothing but gets and
 * deletes to list, delete and flush. The one addition that passes is the
 * chain message of `iptables-nft -Z`: it carries counters, and a policy that
 * is absent or ACCEPT, and so adds no rule and drops nothing.
 */
#ifndef HOSTROUTE_GUARD_NFTABLES_H
#define HOSTROUTE_GUARD_NFTABLES_H

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "guard/maps.h"

#include <bpf/bpf_endian.h>

#define MOST_MESSAGES (1 << 20)
#define MOST_ATTRIBUTES 64
/* linux/netfilter/nf_tables.h of Debian 12 ends before these. */
#define MSG_DESTROYTABLE 26
#define MSG_GETSETELEM_RESET 33

#ifndef NF_ACCEPT
#define NF_ACCEPT 1
#endif

struct batch_walk {
	const unsigned char *data;
	__u32 length;
	__u32 offset;
	__u32 messages;
	__u32 message;    /* of the forbidden one */
	__u32 family;
	__u32 found;      /* enum guard_reason, 0: nothing */
	__u32 attributes; /* offset of the forbidden one's attributes */
	__u32 end;        /* of its message */
	bool done;
};

/* Attributes of one message that matter. */
struct message_attributes {
	const unsigned char *data;
	bool user; /* data is the caller's memory */
	__u32 offset;
	__u32 end;
	__u32 chain_type; /* which attribute names the chain or set */
	__u32 table;      /* offsets and lengths of the names, 0: absent */
	__u32 table_length;
	__u32 chain;
	__u32 chain_length;
	__u32 policy;
	bool counters;
	bool broken;
	bool done;
};

static __always_inline long read_memory(void *to, __u32 size, const void *from, bool user)
{
	return user ? bpf_probe_read_user(to, size, from) : bpf_probe_read_kernel(to, size, from);
}

static long walk_attribute(__u32 index, void *context)
{
	struct message_attributes *found = context;
	struct nlattr attribute = {};
	__u32 type;

	if (found->offset + sizeof(attribute) > found->end) {
		found->done = true;
		return 1;
	}
	if (read_memory(&attribute, sizeof(attribute), found->data + found->offset, found->user) ||
	    attribute.nla_len < sizeof(attribute) || attribute.nla_len > found->end - found->offset) {
		found->broken = true;
		return 1;
	}
	type = attribute.nla_type & NLA_TYPE_MASK;
	if (type == NFTA_TABLE_NAME) {
		found->table = found->offset + sizeof(attribute);
		found->table_length = attribute.nla_len - sizeof(attribute);
	} else if (type == found->chain_type) {
		found->chain = found->offset + sizeof(attribute);
		found->chain_length = attribute.nla_len - sizeof(attribute);
	} else if (type == NFTA_CHAIN_POLICY && attribute.nla_len >= sizeof(attribute) + 4) {
		__be32 policy = 0;

		read_memory(&policy, sizeof(policy), found->data + found->offset + sizeof(attribute), found->user);
		found->policy = bpf_ntohl(policy);
	} else if (type == NFTA_CHAIN_COUNTERS) {
		found->counters = true;
	}
	found->offset += (attribute.nla_len + 3) & ~3U;
	return 0;
}

static __always_inline void read_attributes(struct message_attributes *found, const unsigned char *data, __u32 offset,
					    __u32 end, __u32 message)
{
	found->data = data;
	found->offset = offset;
	found->end = end;
	found->chain_type = message == NFT_MSG_NEWCHAIN ? NFTA_CHAIN_NAME : 2;
	found->policy = NF_ACCEPT + unknown_zero();
	found->counters = found->broken = found->done = unknown_zero();
	bpf_loop(MOST_ATTRIBUTES, walk_attribute, found, 0);
}

/* Of a chain message. */
static __always_inline bool only_zeroes(const struct message_attributes *found)
{
	return found->done && !found->broken && found->counters && found->policy == NF_ACCEPT;
}

/* As masks: the verifier would follow each case of a switch on its own. */
#define MESSAGE(type) (1ULL << NFT_MSG_##type)
#define ADDING_MESSAGES                                                                                                \
	(MESSAGE(NEWTABLE) | MESSAGE(NEWCHAIN) | MESSAGE(NEWRULE) | MESSAGE(NEWSET) | MESSAGE(NEWSETELEM) |            \
	 MESSAGE(NEWOBJ) | MESSAGE(NEWFLOWTABLE))

static __always_inline __u32 judge_message(__u32 message)
{
	if (message < 64 && ADDING_MESSAGES >> message & 1)
		return GUARD_WRITE;
	/* A message from a newer kernel that nobody here knows. */
	return message > MSG_GETSETELEM_RESET ? GUARD_UNINSPECTABLE : 0;
}

static long walk_message(__u32 index, void *context)
{
	struct batch_walk *walk = context;
	struct {
		struct nlmsghdr header;
		struct nfgenmsg nfgen;
	} read = {};
	__u32 rest, message, step;

	if (walk->offset >= walk->length || walk->length - walk->offset < sizeof(read.header)) {
		walk->done = true;
		return 1;
	}
	rest = walk->length - walk->offset;
	if (bpf_probe_read_kernel(&read, rest < sizeof(read) ? sizeof(read.header) : sizeof(read),
				  walk->data + walk->offset) ||
	    read.header.nlmsg_len < sizeof(read.header) || read.header.nlmsg_len > rest) {
		walk->found = GUARD_UNINSPECTABLE;
		return 1;
	}
	walk->messages = index;
	if (NFNL_SUBSYS_ID(read.header.nlmsg_type) == NFNL_SUBSYS_NFTABLES) {
		message = NFNL_MSG_TYPE(read.header.nlmsg_type);
		walk->found = judge_message(message);
		walk->attributes = walk->offset + sizeof(read);
		walk->end = walk->offset + read.header.nlmsg_len;
		if (walk->found && message == NFT_MSG_NEWCHAIN) {
			struct message_attributes chain = {};

			read_attributes(&chain, walk->data, walk->attributes, walk->end, message);
			if (only_zeroes(&chain))
				walk->found = 0;
		}
		if (walk->found) {
			walk->message = message;
			walk->family = read.nfgen.nfgen_family;
			return 1;
		}
	}
	step = (read.header.nlmsg_len + 3) & ~3U;
	walk->offset += step < rest ? step : rest;
	return 0;
}

#endif
