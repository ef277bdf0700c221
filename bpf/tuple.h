/* SPDX-License-Identifier: GPL-2.0-only */
/* The keys of flows*, reverse* and owners*: from a packet, and from one to the other. */
#ifndef HOSTROUTE_TUPLE_H
#define HOSTROUTE_TUPLE_H

#include "flow_types.h"
#include "packet.h"

union tuple {
	struct tuple4 four;
	struct tuple6 six;
};

static __always_inline void make_tuple(union tuple *tuple, const struct address *local, const struct address *remote,
				       __be16 local_port, __be16 remote_port, __u8 protocol, bool six)
{
	if (six) {
		__builtin_memset(&tuple->six, 0, sizeof(tuple->six));
		__builtin_memcpy(tuple->six.local, local, 16);
		__builtin_memcpy(tuple->six.remote, remote, 16);
		tuple->six.local_port = local_port;
		tuple->six.remote_port = remote_port;
		tuple->six.protocol = protocol;
	} else {
		__builtin_memset(&tuple->four, 0, sizeof(tuple->four));
		tuple->four.local = PLAIN(*local);
		tuple->four.remote = PLAIN(*remote);
		tuple->four.local_port = local_port;
		tuple->four.remote_port = remote_port;
		tuple->four.protocol = protocol;
	}
}

/* An echo's remote port in its tuple. */
static __always_inline __be16 echo_port(bool remote_asks)
{
	return remote_asks ? bpf_htons(ECHO_ASKED) : 0;
}

/* The tuple of a packet that leaves a pod. */
static __always_inline void tuple_out(union tuple *tuple, const struct packet *p, bool six)
{
	make_tuple(tuple, &p->source, &p->destination, p->source_port,
		   is_echo(p, six) ? echo_port(!is_echo_request(p, six)) : p->destination_port, p->protocol, six);
}

/* The tuple of a packet that arrives: local is its destination. */
static __always_inline void tuple_in(union tuple *tuple, const struct packet *p, bool six)
{
	make_tuple(tuple, &p->destination, &p->source, p->destination_port,
		   is_echo(p, six) ? echo_port(is_echo_request(p, six)) : p->source_port, p->protocol, six);
}

/* A protocol without ports, as owners* knows it. */
static __always_inline void portless_tuple(union tuple *tuple, const struct packet *p, bool out, bool six)
{
	make_tuple(tuple, out ? &p->source : &p->destination, out ? &p->destination : &p->source, 0, 0, p->protocol,
		   six);
}

/* The key in reverse* that belongs to a SNATed flow. */
static __always_inline void tuple_of_nat(union tuple *reverse, const union tuple *tuple, const struct flow *flow,
					 bool six)
{
	struct address nat;

	__builtin_memcpy(&nat, flow->nat_address, 16);
	if (six) {
		reverse->six = tuple->six;
		__builtin_memcpy(reverse->six.local, &nat, 16);
		reverse->six.local_port = flow->nat_port;
	} else {
		reverse->four = tuple->four;
		reverse->four.local = PLAIN(nat);
		reverse->four.local_port = flow->nat_port;
	}
}

/* The other way round: the key in flows* that belongs to an entry of reverse*. */
static __always_inline void tuple_of_pod(union tuple *tuple, const union tuple *answered, const struct reverse *reverse,
					 bool six)
{
	if (six) {
		tuple->six = answered->six;
		__builtin_memcpy(tuple->six.local, reverse->pod, 16);
		tuple->six.local_port = reverse->pod_port;
	} else {
		tuple->four = answered->four;
		tuple->four.local = *(__be32 *)(reverse->pod + 12);
		tuple->four.local_port = reverse->pod_port;
	}
}

#endif
