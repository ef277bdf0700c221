/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: what was decided for the first packet stays decided, whatever changes
 * in configuration. The hot path does one look-up here and gets verdict, SNAT
 * and next hop; the first packet of a flow goes through new_flow() (snat.h).
 *
 * Who needs an entry: a flow through SNAT; one that was opened from outside, if
 * its answers would be masqueraded; echoes. All others (FLOW_DIRECT) have one
 * for speed: it may end at any time, and they are decided again.
 *
 * Life of an entry: LIVE -> DYING (expire: idle) -> LIVE again (a packet) or
 * DEAD (expire, or a packet that replaces it). Who moves `life` to DEAD by
 * compare-and-exchange deletes the entry, nobody else does; so an entry that
 * a packet has just touched is never deleted.
 */
#ifndef HOSTROUTE_FLOW_H
#define HOSTROUTE_FLOW_H

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

/* Echo has one identifier: it is the local port; the remote port says who asks. */
static __always_inline bool is_echo(const struct packet *p, bool six)
{
	return p->protocol == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static __always_inline bool is_echo_request(const struct packet *p, bool six)
{
	return p->icmp_type == (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO);
}

/* Conntrack can be asked about nothing but TCP and UDP; errors and echoes are judged by other means. */
static __always_inline bool owner_is_unknown(const struct packet *p, bool six)
{
	return is_translating() && p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && !is_echo(p, six);
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

static __always_inline struct flow *flow_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&flows6, &tuple->six) : bpf_map_lookup_elem(&flows4, &tuple->four);
}

/* int, as in try_port(). The caller has asked has_room(). */
static __always_inline int insert_flow(const union tuple *tuple, const struct flow *flow, bool six)
{
	int error = six ? bpf_map_update_elem(&flows6, &tuple->six, flow, BPF_NOEXIST) :
			  bpf_map_update_elem(&flows4, &tuple->four, flow, BPF_NOEXIST);

	if (!error)
		charge(flow->pod_id, 1, six);
	return error;
}

/* The caller has claimed it. */
static __always_inline void delete_flow(const union tuple *tuple, __u32 pod_id, bool six)
{
	int error = six ? bpf_map_delete_elem(&flows6, &tuple->six) : bpf_map_delete_elem(&flows4, &tuple->four);

	if (!error)
		charge(pod_id, -1, six);
}

static __always_inline struct reverse *reverse_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&reverse6, &tuple->six) : bpf_map_lookup_elem(&reverse4, &tuple->four);
}

static __always_inline void delete_reverse(const union tuple *tuple, bool six)
{
	if (six)
		bpf_map_delete_elem(&reverse6, &tuple->six);
	else
		bpf_map_delete_elem(&reverse4, &tuple->four);
}

/* The key in reverse* that belongs to a SNATed flow. */
static __always_inline void tuple_of_nat(union tuple *reverse, const union tuple *tuple, const struct flow *flow,
					 bool six)
{
	struct address nat;

	__builtin_memcpy(&nat, flow->nat_address, 16);
	*reverse = *tuple;
	if (six) {
		__builtin_memcpy(reverse->six.local, &nat, 16);
		reverse->six.local_port = flow->nat_port;
	} else {
		reverse->four.local = PLAIN(nat);
		reverse->four.local_port = flow->nat_port;
	}
}

/* The other way round: the key in flows* that belongs to an entry of reverse*. */
static __always_inline void tuple_of_pod(union tuple *tuple, const union tuple *answered, const struct reverse *reverse,
					 bool six)
{
	*tuple = *answered;
	if (six) {
		__builtin_memcpy(tuple->six.local, reverse->pod, 16);
		tuple->six.local_port = reverse->pod_port;
	} else {
		tuple->four.local = *(__be32 *)(reverse->pod + 12);
		tuple->four.local_port = reverse->pod_port;
	}
}

/* true: the entry may be used. false: somebody is deleting it. */
static __always_inline bool keep_alive(__u32 *life)
{
	return *life == FLOW_LIVE || __sync_val_compare_and_swap(life, FLOW_DYING, FLOW_LIVE) != FLOW_DEAD;
}

/* keep_alive() for this packet; a traced one only looks. */
static __always_inline bool usable(const struct packet *p, __u32 *life)
{
	return p->trace ? *life != FLOW_DEAD : keep_alive(life);
}

/* true: the caller, and only the caller, deletes the entry. */
static __always_inline bool claim(__u32 *life)
{
	return __sync_val_compare_and_swap(life, FLOW_LIVE, FLOW_DEAD) == FLOW_LIVE ||
	       __sync_val_compare_and_swap(life, FLOW_DYING, FLOW_DEAD) == FLOW_DYING;
}

/* A SYN-ACK does not say that the remote is there. */
static __always_inline __u8 seen_of(__u8 tcp)
{
	return tcp & SEEN_SYN ? tcp & ~SEEN_ACK : tcp;
}

/*
 * flow.tcp within a word: the two sides may be on two CPUs, and bytes have no
 * atomic operations.
 */
static __always_inline __u32 *seen_word(struct flow *flow)
{
	_Static_assert(offsetof(struct flow, verdict) % 4 == 0 &&
			       offsetof(struct flow, tcp) == offsetof(struct flow, verdict) + 1,
		       "SEEN_BITS");
	return (void *)flow + offsetof(struct flow, verdict);
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SEEN_BITS(seen) ((__u32)(seen) << 8)
#else
#define SEEN_BITS(seen) ((__u32)(seen) << 16)
#endif

static __always_inline void see(struct flow *flow, __u8 seen)
{
	if ((flow->tcp | seen) != flow->tcp)
		__sync_fetch_and_or(seen_word(flow), SEEN_BITS(seen));
}

/* TCP's header; NULL: of another protocol, or not in reach. */
static __always_inline const struct tcphdr *tcp_of(const struct packet *p, bool six)
{
	const struct tcphdr *tcp = DATA(p->skb) + l4_of(p, six);

	return p->protocol == IPPROTO_TCP && (void *)(tcp + 1) <= END(p->skb) ? tcp : NULL;
}

#define SEEN_RESET (SEEN_RST | SEEN_REMOTE_RST)

/*
 * flow.expected after a packet of the pod's. Who goes on after a RST has not
 * taken it for one: it was out of his window, or forged.
 */
static __always_inline void expect(const struct packet *p, struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);
	__u32 now = bpf_jiffies64();

	if (!tcp)
		return;
	if (p->tcp & SEEN_RST) {
		if (!(flow->tcp & SEEN_RESET))
			flow->expected = now;
		return;
	}
	if (flow->tcp & SEEN_RESET) {
		/* what was on its way when the RST came says nothing */
		if (now - flow->expected <= control.jiffies_per_second)
			return;
		__sync_fetch_and_and(seen_word(flow), ~SEEN_BITS(SEEN_RESET));
	}
	if (p->tcp & SEEN_SYN)
		flow->expected = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	else if (p->tcp & SEEN_ACK)
		flow->expected = tcp->ack_seq;
}

/* How far beyond what the pod has acknowledged a FIN or RST may stand: what is on its way, which is less where
 * nothing was said for a second. */
#define WINDOW_BUSY (16 * 1024 * 1024)
#define WINDOW_IDLE (16 * 1024) /* within any receiver's window: what it does not take it answers */

/* The pod has not sent anything for a second. */
static __always_inline bool is_quiet(const struct flow *flow)
{
	return (__u32)bpf_jiffies64() - flow->seen > control.jiffies_per_second;
}

/* A remote's FIN or RST that the pod will take for one, as far as can be told (RFC 5961). */
static __always_inline bool is_in_sequence(const struct packet *p, const struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);

	if (!tcp || (flow->tcp & SEEN_RESET))
		return false;
	if (!(flow->tcp & SEEN_ACK))
		return (p->tcp & SEEN_ACK) && tcp->ack_seq == flow->expected;
	return bpf_ntohl(tcp->seq) - bpf_ntohl(flow->expected) <= (is_quiet(flow) ? WINDOW_IDLE : WINDOW_BUSY);
}

/* The remote's FIN, RST, or the acknowledgement of the pod's SYN-ACK. */
static __always_inline void note_remote(const struct packet *p, struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);
	__u32 now = bpf_jiffies64();
	__u8 seen = 0;

	if (flow->verdict == FLOW_INBOUND && tcp && !(flow->tcp & (SEEN_ACK | SEEN_RESET)) &&
	    (p->tcp & (SEEN_ACK | SEEN_RST | SEEN_SYN)) == SEEN_ACK && (flow->tcp & SEEN_SYN) &&
	    bpf_ntohl(tcp->ack_seq) - bpf_ntohl(flow->expected) <= WINDOW_IDLE)
		seen = SEEN_REMOTE_ACK;
	if ((p->tcp & (SEEN_FIN | SEEN_RST)) && is_in_sequence(p, flow, six)) {
		if (p->tcp & SEEN_FIN)
			seen |= SEEN_REMOTE_FIN;
		if (p->tcp & SEEN_RST) {
			seen |= SEEN_REMOTE_RST;
			/* where nothing was on its way the pod's next packet is its answer to a RST that it did not
			 * take */
			flow->expected = is_quiet(flow) ? now - 2 * control.jiffies_per_second : now;
		}
	}
	see(flow, seen);
}

static __always_inline bool is_closed(const struct flow *flow)
{
	return (flow->tcp & SEEN_RESET) || (flow->tcp & (SEEN_FIN | SEEN_REMOTE_FIN)) == (SEEN_FIN | SEEN_REMOTE_FIN);
}

/*
 * claim() of an entry that was looked up by `tuple` a moment ago: its memory may
 * be another flow's since then, which keeps its entry.
 */
static __always_inline bool claim_flow(const union tuple *tuple, struct flow *flow, bool six)
{
	if (!claim(&flow->life))
		return false;
	if (flow_of(tuple, six) == flow)
		return true;
	flow->life = FLOW_LIVE;
	return false;
}

/* Stores only what differs: the line stays shared between CPUs. */
static __always_inline void touch(struct flow *flow, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	tcp = seen_of(tcp);
	if (flow->seen != now)
		flow->seen = now;
	see(flow, tcp);
}

/* Turns of `expire` in which the ACK of a SYN-ACK is looked out for: longer than the kernel repeats one
 * (tcp_synack_retries). */
#define OPENING_TURNS 16

/* The ACKs from outside to the pod on this device are looked at: see struct shared_pod. */
static __always_inline void await_opener(__u32 ifindex)
{
	volatile struct shared_pod *shared = &control.shared[ifindex & (DEVICE_SLOTS - 1)];

	if (shared->opening != OPENING_TURNS)
		shared->opening = OPENING_TURNS;
}

static __always_inline bool awaits_opener(__u32 ifindex)
{
	return control.shared[ifindex & (DEVICE_SLOTS - 1)].opening;
}

/* The pod's packet belongs to this flow. false: somebody is deleting it. */
static __always_inline bool join(struct packet *p, struct flow *flow, bool six)
{
	if (p->trace) {
		if (!(p->trace->stages & TRACE_FLOW_NEW))
			trace_flow(p, flow, TRACE_FLOW, 0);
		return flow->life != FLOW_DEAD;
	}
	if (!keep_alive(&flow->life))
		return false;
	if (p->protocol == IPPROTO_TCP) {
		expect(p, flow, six);
		touch(flow, p->tcp);
		if (flow->verdict == FLOW_INBOUND && (p->tcp & SEEN_SYN))
			await_opener(p->skb->ifindex);
	} else {
		touch(flow, flow->verdict == FLOW_INBOUND ? SEEN_ACK : 0);
	}
	return true;
}

/* Not inlined: once a flow, and it needs stack. */
static __attribute__((noinline)) int masquerade_due(const struct address *remote)
{
	struct masquerade_key key = { .prefix_length = 160, .epoch = control.masquerade_epoch };
	struct masquerade *masquerade_entry;

	if (!remote || !(control.flags & CONTROL_SNAT))
		return false;
	__builtin_memcpy(key.address, remote, 16);
	masquerade_entry = bpf_map_lookup_elem(&masquerade, &key);
	return masquerade_entry && masquerade_entry->masquerade;
}

#define STREAM_SECONDS 2

/* UDP that is still in use some time after its first packet, as in conntrack (nf_conntrack_proto_udp.c): no mere
 * question. */
static __always_inline bool is_stream(const struct flow *flow, const struct reverse *reverse)
{
	const __u32 least = STREAM_SECONDS * control.jiffies_per_second;

	if (reverse ? !reverse->replied : flow->verdict == FLOW_INBOUND && !(flow->tcp & SEEN_ACK))
		return false;
	return flow->seen - flow->created > least || (reverse && reverse->seen - flow->created > least);
}

/* Jiffies since the last packet of either side. */
static __always_inline __u32 idle_of(const struct flow *flow, const struct reverse *reverse, __u32 now)
{
	__u32 idle = now - flow->seen;

	if (reverse && reverse->replied && now - reverse->seen < idle)
		idle = now - reverse->seen;
	return idle;
}

/* A TCP packet that does not open a connection. */
static __always_inline bool is_mid_flow(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK)) != SEEN_SYN;
}

/*
 * The first that is seen of a connection is its answer, with a source that is
 * not the pod's own: it was opened from outside and came another way, as with
 * direct server return. Who opened it knows no other address.
 */
static __always_inline bool answers_others(const struct packet *p)
{
	return p->origin && p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK)) == (SEEN_SYN | SEEN_ACK);
}

static __always_inline bool is_syn_ack(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK | SEEN_RST)) == (SEEN_SYN | SEEN_ACK);
}

static __always_inline bool opens(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK | SEEN_RST | SEEN_FIN)) == SEEN_SYN;
}

#endif
