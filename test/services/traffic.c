// SPDX-License-Identifier: Apache-2.0
// All hosts' servers and clients in one process: a socket belongs to the network
// namespace in which it was made, so one thread that enters them in turn can
// hold thousands of connections between a dozen hosts and drive them by one
// epoll loop. Driven by traffic.ts; one command a line on stdin:
//
//   host NAME PATH                  a network namespace
//   listen HOST PORT                TCP and UDP echo servers, both families
//   ask ID HOST PROTO ADDRESS PORT LOCAL TIMEOUT BYTES
//   rate ID HOST PROTO ADDRESS PORT TIMEOUT COUNT PER_SECOND
//   open ID HOST PROTO ADDRESS PORT LOCAL INTERVAL BYTES BUFFER
//   close ID PATIENCE               ends what open began
//   look ID                         the same report, and it goes on
//
// Times in ms. A server greets with "SERVER PEER PORT\n": who it is, and the
// address it saw; then it echoes. Over UDP each answer has that line in front.
// Each ask, rate, close and look is answered by one JSON object a line.

#include "traffic.h"

/** "SERVER PEER PORT\n" */
static int greeting(char *line, size_t room, struct host *host, const struct sockaddr_in6 *peer)
{
	char address[INET6_ADDRSTRLEN];
	const char *plain = address;

	inet_ntop(AF_INET6, &peer->sin6_addr, address, sizeof(address));
	if (!strncmp(address, "::ffff:", 7)) plain += 7;
	return snprintf(line, room, "%s %s %d\n", host->name, plain, ntohs(peer->sin6_port));
}

static void listen_on(struct host *host, int port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int tcp = open_socket(host, AF_INET6, SOCK_STREAM), udp = open_socket(host, AF_INET6, SOCK_DGRAM);
	int yes = 1, no = 0, room = 4 << 20;

	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	setsockopt(tcp, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
	setsockopt(udp, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
	setsockopt(udp, IPPROTO_IPV6, IPV6_RECVPKTINFO, &yes, sizeof(yes));
	setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(tcp, (void *)&any, sizeof(any)) || bind(udp, (void *)&any, sizeof(any))) fail("bind");
	if (listen(tcp, 4096)) fail("listen");
	add_channel(TCP_LISTENER, host, tcp, 0);
	add_channel(UDP_SERVER, host, udp, 1);
}

static void flush(struct channel *channel)
{
	while (channel->out.length) {
		ssize_t sent = send(channel->fd, channel->out.data, channel->out.length, MSG_NOSIGNAL);
		if (sent <= 0) break;
		take(&channel->out, sent);
	}
	watch(channel);
}

static void accept_all(struct channel *listener)
{
	for (;;) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof(peer);
		char line[128];
		int yes = 1, fd = accept4(listener->fd, (void *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct channel *served;

		if (fd < 0) return;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		served = add_channel(SERVED, listener->host, fd, 0);
		served->connected = 1;
		append(&served->out, line, greeting(line, sizeof(line), listener->host, &peer));
		flush(served);
	}
}

/** Answers from the address that was asked: a node has several. */
static void answer_datagrams(struct channel *server)
{
	static char buffer[CHUNK + 128];

	for (;;) {
		struct sockaddr_in6 peer;
		char control[256], line[128];
		struct iovec iov = {buffer, CHUNK};
		struct msghdr message = {&peer, sizeof(peer), &iov, 1, control, sizeof(control), 0};
		ssize_t length = recvmsg(server->fd, &message, 0);
		struct iovec parts[2];

		if (length < 0 && errno == EAGAIN) return;
		if (length < 0) continue; /* an ICMP error about an earlier answer */
		for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
			if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_PKTINFO)
				((struct in6_pktinfo *)CMSG_DATA(each))->ipi6_ifindex = 0;
		}
		parts[0] = (struct iovec){line, greeting(line, sizeof(line), server->host, &peer)};
		parts[1] = (struct iovec){buffer, length};
		message.msg_iov = parts;
		message.msg_iovlen = 2;
		message.msg_flags = 0;
		sendmsg(server->fd, &message, MSG_NOSIGNAL);
	}
}

static const char *word_for(int error)
{
	switch (error) {
	case ECONNREFUSED: return "refused";
	case EPERM: return "refused"; /* a datagram of the node itself, by a rule in its output hook */
	case ECONNRESET: return "reset";
	case EPIPE: return "reset";
	case ETIMEDOUT: return "timeout";
	default: return strerror(error);
	}
}

static void count_server(struct tally *tally, const char *server, const char *peer)
{
	char words[96];
	int i;

	snprintf(words, sizeof(words), "%.31s %.63s", server, peer);
	for (i = 0; i < tally->server_count && strcmp(tally->servers[i], words); i++)
		;
	if (i == MAX_SERVERS) return;
	if (i == tally->server_count) strcpy(tally->servers[tally->server_count++], words);
	tally->counts[i]++;
}

static void end_ask(struct channel *channel, const char *outcome)
{
	struct tally *tally = channel->tally;

	if (channel->dead) return;
	if (tally) {
		tally->done++;
		if (!strcmp(outcome, "answered")) {
			tally->answered++;
			count_server(tally, channel->server, channel->peer);
		} else if (!strcmp(outcome, "refused")) tally->refused++;
		else if (!strcmp(outcome, "timeout")) tally->timeout++;
		else {
			tally->other++;
			snprintf(tally->error, sizeof(tally->error), "%s", outcome);
		}
	} else {
		printf("{\"id\":\"%s\",\"outcome\":\"%s\",\"server\":\"%s\",\"peer\":\"%s\",\"peerPort\":%d,"
		       "\"localPort\":%d,\"milliseconds\":%.1f}\n",
		       channel->id, outcome, channel->server, channel->peer, channel->peer_port, channel->local_port,
		       now() - channel->start);
	}
	bury(channel);
}

static void report_flow(struct channel *channel)
{
	double gap = channel->longest_gap, silent = now() - channel->last_heard;

	if (channel->received < channel->sent && silent > gap) gap = silent;
	printf("{\"id\":\"%s\",\"server\":\"%s\",\"peer\":\"%s\",\"peerPort\":%d,\"localPort\":%d,\"sent\":%ld,"
	       "\"received\":%ld,\"longestGap\":%.1f,\"portChanges\":%d,\"error\":\"%s\"}\n",
	       channel->id, channel->server, channel->peer, channel->peer_port, channel->local_port, channel->sent,
	       channel->received, gap, channel->port_changes, channel->error);
}

/** Takes the greeting off `data`; its length, 0 while it is not complete. */
static size_t read_greeting(struct channel *channel, const char *data, size_t length)
{
	const char *end = memchr(data, '\n', length);
	char line[128], server[32], peer[64];
	int port;

	if (!end || end - data >= (long)sizeof(line)) return 0;
	memcpy(line, data, end - data);
	line[end - data] = 0;
	if (sscanf(line, "%31s %63s %d", server, peer, &port) != 3) return 0;
	if (channel->server[0] && (port != channel->peer_port || strcmp(peer, channel->peer) || strcmp(server, channel->server)))
		channel->port_changes++;
	strcpy(channel->server, server);
	strcpy(channel->peer, peer);
	channel->peer_port = port;
	return end - data + 1;
}

static void heard(struct channel *channel)
{
	double time = now();
	if (channel->received > 0 && time - channel->last_heard > channel->longest_gap)
		channel->longest_gap = time - channel->last_heard;
	channel->last_heard = time;
}

static void read_flow(struct channel *channel)
{
	while (channel->in.length) {
		size_t skip;
		if (channel->server[0]) {
			char *end = memchr(channel->in.data, '\n', channel->in.length);
			if (!end) return;
			skip = end - channel->in.data + 1;
			if (atol(channel->in.data) != channel->received) snprintf(channel->error, sizeof(channel->error), "the echo differs");
			heard(channel);
			channel->received++;
		} else skip = read_greeting(channel, channel->in.data, channel->in.length);
		if (!skip) return;
		take(&channel->in, skip);
	}
}

static void read_ask(struct channel *channel)
{
	size_t skip = channel->server[0] ? 0 : read_greeting(channel, channel->in.data, channel->in.length);

	if (skip) take(&channel->in, skip);
	if (!channel->server[0] || channel->in.length < channel->size) return;
	end_ask(channel, memcmp(channel->in.data, payload, channel->size) ? "the echo differs" : "answered");
}

static void ended(struct channel *channel, const char *why)
{
	if (channel->kind == ASK) end_ask(channel, why);
	else if (channel->kind == SERVED) bury(channel);
	else if (channel->kind == FLOW) {
		if (!channel->error[0]) snprintf(channel->error, sizeof(channel->error), "%s", why);
		if (channel->closing) report_flow(channel), bury(channel);
		else if (!channel->udp) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, channel->fd, NULL);
	}
}

static void read_datagram(struct channel *channel, const char *data, size_t length)
{
	size_t skip = read_greeting(channel, data, length);

	if (channel->kind == ASK) {
		int same = length - skip == channel->size && !memcmp(data + skip, payload, channel->size);
		end_ask(channel, same ? "answered" : "the echo differs");
		return;
	}
	heard(channel);
	channel->received++;
}

static void read_from(struct channel *channel)
{
	static char buffer[CHUNK];

	while (!channel->dead) {
		ssize_t length = recv(channel->fd, buffer, sizeof(buffer), 0);
		if (length < 0 && errno == EAGAIN) return;
		if (length < 0) {
			ended(channel, word_for(errno));
			if (channel->udp) continue;
			return;
		}
		if (channel->udp) {
			read_datagram(channel, buffer, length);
			continue;
		}
		if (length == 0) return ended(channel, "closed by the server");
		if (channel->kind == SERVED) {
			append(&channel->out, buffer, length);
			flush(channel);
			continue;
		}
		append(&channel->in, buffer, length);
		if (channel->kind == ASK) read_ask(channel);
		else read_flow(channel);
	}
}

static void writable(struct channel *channel)
{
	int error = 0;
	socklen_t length = sizeof(error);

	if (!channel->connected) {
		getsockopt(channel->fd, SOL_SOCKET, SO_ERROR, &error, &length);
		if (error) return ended(channel, word_for(error));
		channel->connected = 1;
		channel->last_heard = now();
	}
	flush(channel);
}

static struct channel *connect_from(enum kind kind, struct host *host, const char *protocol, const char *address, int port,
				    int local, int buffer)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)}, own4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}, own6 = {.sin6_family = AF_INET6};
	int six = strchr(address, ':') != NULL, udp = !strcmp(protocol, "udp"), yes = 1, error = 0;
	int fd = open_socket(host, six ? AF_INET6 : AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM);
	struct channel *channel = add_channel(kind, host, fd, udp);
	socklen_t length = sizeof(own6);

	inet_pton(six ? AF_INET6 : AF_INET, address, six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
	own4.sin_port = own6.sin6_port = htons(local);
	/* not for UDP without a port of its own: two such sockets would be given the same one */
	if (!udp || local) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (local && bind(fd, six ? (void *)&own6 : (void *)&own4, six ? sizeof(own6) : sizeof(own4))) error = errno;
	if (buffer) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	if (!udp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (!error && connect(fd, six ? (void *)&v6 : (void *)&v4, six ? sizeof(v6) : sizeof(v4)) && errno != EINPROGRESS)
		error = errno;
	if (!getsockname(fd, (void *)&own6, &length)) channel->local_port = ntohs(own6.sin6_port);
	channel->start = channel->last_heard = now();
	if (udp) channel->connected = 1;
	if (error) snprintf(channel->error, sizeof(channel->error), "%s", word_for(error));
	return channel;
}

static void ask(const char *id, struct tally *tally, struct host *host, const char *protocol, const char *address, int port,
		int local, int timeout, size_t size)
{
	struct channel *channel = connect_from(ASK, host, protocol, address, port, local, 0);

	snprintf(channel->id, sizeof(channel->id), "%s", id);
	channel->tally = tally;
	channel->size = size;
	channel->deadline = channel->start + timeout;
	if (channel->error[0]) return end_ask(channel, channel->error);
	if (channel->udp) {
		if (send(channel->fd, payload, size, MSG_NOSIGNAL) < 0) end_ask(channel, word_for(errno));
		else watch(channel);
	} else append(&channel->out, payload, size);
}

static void send_on_flow(struct channel *channel)
{
	static char message[CHUNK];
	int length = snprintf(message, sizeof(message), "%ld", channel->sent);

	if (!channel->connected || channel->closing || (channel->error[0] && !channel->udp)) return;
	memset(message + length, '.', channel->size);
	message[length + channel->size] = '\n';
	if (channel->udp) {
		/* a pending error about an earlier message is reported instead of sending */
		if (send(channel->fd, message, length + channel->size + 1, MSG_NOSIGNAL) < 0)
			send(channel->fd, message, length + channel->size + 1, MSG_NOSIGNAL);
	} else {
		append(&channel->out, message, length + channel->size + 1);
		flush(channel);
	}
	channel->sent++;
}

static void begin_asks(struct tally *tally)
{
	double due = (now() - tally->start) * tally->per_second / 1e3 + 1;

	/* after a pause not all at once: a listener's queue is 4,096 long */
	for (int burst = 0; tally->begun < tally->wanted && tally->begun < due && burst < 64; burst++) {
		tally->begun++;
		ask(tally->id, tally, tally->host, tally->protocol, tally->address, tally->port, 0, tally->patience, 32);
	}
}

static void report_tally(struct tally *tally)
{
	printf("{\"id\":\"%s\",\"answered\":%d,\"refused\":%d,\"timeout\":%d,\"other\":%d,\"error\":\"%s\","
	       "\"milliseconds\":%.1f,\"servers\":{",
	       tally->id, tally->answered, tally->refused, tally->timeout, tally->other, tally->error,
	       now() - tally->start);
	for (int i = 0; i < tally->server_count; i++)
		printf("%s\"%s\":%d", i ? "," : "", tally->servers[i], tally->counts[i]);
	printf("}}\n");
}

static void run_tallies(void)
{
	for (struct tally **link = &tallies; *link;) {
		struct tally *tally = *link;
		begin_asks(tally);
		if (tally->done < tally->wanted) {
			link = &tally->next;
			continue;
		}
		report_tally(tally);
		*link = tally->next;
		free(tally);
	}
}

/* All servers are in this process, too: while it could not run nobody could answer. */
static void forgive(double passed)
{
	for (struct channel *channel = channels; channel; channel = channel->after)
		if (channel->kind == ASK) channel->deadline += passed;
}

static void run_timers(void)
{
	double time = now();

	for (struct channel *channel = channels, *next; channel; channel = next) {
		next = channel->after;
		if (channel->kind == ASK && time >= channel->deadline) end_ask(channel, "timeout");
		if (channel->kind != FLOW) continue;
		if (channel->closing &&
		    (channel->received >= channel->sent || time >= channel->deadline || (channel->error[0] && !channel->udp))) {
			report_flow(channel);
			bury(channel);
		} else if (!channel->closing && time >= channel->next_send) {
			send_on_flow(channel);
			channel->next_send = time + channel->interval;
		}
	}
}

static struct channel *flow_named(const char *id)
{
	for (struct channel *channel = channels; channel; channel = channel->after)
		if (channel->kind == FLOW && !strcmp(channel->id, id)) return channel;
	fprintf(stderr, "traffic: no flow %s\n", id);
	exit(1);
}

static void command(char *line)
{
	char verb[16], id[64], name[32], protocol[8], address[128];
	int port, local, timeout, count, size, buffer;
	double interval, rate;

	if (sscanf(line, "%15s", verb) != 1) return;
	if (!strcmp(verb, "host") && sscanf(line, "%*s %31s %127s", name, address) == 2) {
		if (host_count == MAX_HOSTS) fail("too many hosts");
		hosts[host_count].netns = open(address, O_RDONLY | O_CLOEXEC);
		if (hosts[host_count].netns < 0) fail(address);
		strcpy(hosts[host_count++].name, name);
	} else if (!strcmp(verb, "listen") && sscanf(line, "%*s %31s %d", name, &port) == 2) {
		listen_on(host_named(name), port);
		printf("{\"id\":\"listen %s %d\"}\n", name, port);
	} else if (sscanf(line, "ask %63s %31s %7s %63s %d %d %d %d", id, name, protocol, address, &port, &local, &timeout,
			  &size) == 8) {
		ask(id, NULL, host_named(name), protocol, address, port, local, timeout, size);
	} else if (sscanf(line, "rate %63s %31s %7s %63s %d %d %d %lf", id, name, protocol, address, &port, &timeout, &count,
			  &rate) == 8) {
		struct tally *tally = calloc(1, sizeof(*tally));
		if (!tally) fail("memory");
		strcpy(tally->id, id);
		strcpy(tally->protocol, protocol);
		snprintf(tally->address, sizeof(tally->address), "%.63s", address);
		tally->host = host_named(name);
		tally->port = port;
		tally->patience = timeout;
		tally->wanted = count;
		tally->per_second = rate;
		tally->start = now();
		tally->next = tallies;
		tallies = tally;
	} else if (sscanf(line, "open %63s %31s %7s %63s %d %d %lf %d %d", id, name, protocol, address, &port, &local,
			  &interval, &size, &buffer) == 9) {
		struct channel *flow = connect_from(FLOW, host_named(name), protocol, address, port, local, buffer);
		strcpy(flow->id, id);
		flow->interval = interval;
		flow->size = size;
	} else if (sscanf(line, "close %63s %d", id, &timeout) == 2) {
		struct channel *flow = flow_named(id);
		flow->closing = 1;
		flow->deadline = now() + timeout;
	} else if (sscanf(line, "look %63s", id) == 1) {
		report_flow(flow_named(id));
	} else {
		fprintf(stderr, "traffic: cannot read: %s\n", line);
		exit(1);
	}
}

static void read_commands(void)
{
	static struct bytes input;
	char buffer[CHUNK];
	ssize_t length = read(STDIN_FILENO, buffer, sizeof(buffer));
	char *end;
	size_t begin = 0;

	if (length == 0) exit(0);
	if (length < 0) return;
	append(&input, buffer, length);
	while ((end = memchr(input.data + begin, '\n', input.length - begin))) {
		*end = 0;
		command(input.data + begin);
		begin = end + 1 - input.data;
	}
	take(&input, begin);
}

int main(void)
{
	struct epoll_event events[256], standard_input = {.events = EPOLLIN, .data.ptr = NULL};
	struct rlimit files = {200000, 200000};
	double scanned = 0;

	setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < sizeof(payload); i++) payload[i] = 'a' + i % 23;
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &standard_input)) fail("stdin");
	for (;;) {
		int count = epoll_wait(epoll_fd, events, 256, tallies ? 1 : SCAN_MS);
		for (int i = 0; i < count; i++) {
			struct channel *channel = events[i].data.ptr;
			if (!channel) read_commands();
			else if (channel->dead) continue;
			else if (channel->kind == TCP_LISTENER) accept_all(channel);
			else if (channel->kind == UDP_SERVER) answer_datagrams(channel);
			else {
				if (events[i].events & EPOLLOUT) writable(channel);
				if (!channel->dead && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_from(channel);
			}
		}
		if (tallies) run_tallies();
		double passed = now() - scanned;
		if (passed >= SCAN_MS) {
			if (scanned && passed > 10 * SCAN_MS) forgive(passed);
			run_timers();
			scanned = now();
		}
		sweep();
		fflush(stdout);
	}
}
