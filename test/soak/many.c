// SPDX-License-Identifier: Apache-2.0
/*
 * Many flows to one remote socket, all open at a time:
 *   many tcp|udp ADDRESS PORT COUNT
 * For each line on its standard input every flow sends a message and waits for the answer to
 * just that; a line of JSON tells how many were answered. The first round also connects.
 */
#include "soak.h"

/* No more than this many answers are awaited at a time, so that no queue runs over. */
enum { AT_ONCE = 128, TCP_PATIENCE = 30000, UDP_PATIENCE = 5000 };

/* In the place of DNS's flags: comes back as it is. */
#define NO_QUESTION 0xffffffff

struct flow {
	int fd;	     /* -1: failed */
	int waiting; /* for its connection or its answer */
	double since;
};

static struct sockaddr_in address;
static struct flow *flows;
static int poll_fd, type, count, waiting, answered;
static uint32_t round_number;

static void end(struct flow *each, int error)
{
	each->waiting = 0;
	waiting--;
	if (!error) {
		answered++;
		return;
	}
	count_failure(error);
	close(each->fd);
	each->fd = -1;
}

static void speak(struct flow *each)
{
	uint32_t message[MESSAGE / 4] = { NO_QUESTION, each - flows, round_number };

	if (send(each->fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
		end(each, errno);
}

static void open_flow(struct flow *each)
{
	each->fd = open_socket(type);
	if (connect(each->fd, (void *)&address, sizeof(address)) && errno != EINPROGRESS)
		return end(each, errno);
	watch(poll_fd, EPOLL_CTL_ADD, each->fd, type == SOCK_STREAM ? EPOLLOUT : EPOLLIN, each - flows);
	if (type == SOCK_DGRAM)
		speak(each);
}

static void start(struct flow *each)
{
	each->waiting = 1;
	each->since = now();
	waiting++;
	if (round_number == 0)
		open_flow(each);
	else
		speak(each);
}

static void connected(struct flow *each)
{
	socklen_t size = sizeof(int);
	int error = 0;

	getsockopt(each->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		return end(each, error);
	watch(poll_fd, EPOLL_CTL_MOD, each->fd, EPOLLIN, each - flows);
	speak(each);
}

static void take(struct flow *each)
{
	uint32_t message[MESSAGE / 4];
	ssize_t length = recv(each->fd, message, MESSAGE, 0);

	if (length < 0 && errno == EAGAIN)
		return;
	if (length < 0)
		return end(each, errno);
	if (length != MESSAGE || message[1] != each - flows || message[2] != round_number)
		return end(each, length ? EBADMSG : EPIPE);
	end(each, 0);
}

static void all_speak(void)
{
	struct epoll_event events[EVENTS];
	double patience = type == SOCK_STREAM ? TCP_PATIENCE : UDP_PATIENCE, told = now();
	int next = 0, ready, i;

	answered = 0;
	while (next < count || waiting > 0) {
		for (; next < count && waiting < AT_ONCE; next++)
			if (round_number == 0 || flows[next].fd >= 0)
				start(&flows[next]);
		ready = epoll_wait(poll_fd, events, EVENTS, 100);
		for (i = 0; i < ready; i++) {
			struct flow *each = &flows[events[i].data.u64];

			if (!each->waiting)
				continue;
			if (events[i].events & EPOLLOUT)
				connected(each);
			else
				take(each);
		}
		if (now() - told < 1000 && ready > 0)
			continue;
		told = now();
		for (i = 0; i < next; i++)
			if (flows[i].waiting && now() - flows[i].since > patience)
				end(&flows[i], ETIMEDOUT);
	}
	printf("{\"done\": %d, ", answered);
	print_failures();
	round_number++;
}

int main(int argc, char **argv)
{
	char line[16];

	if (argc != 5)
		return 64;
	type = strcmp(argv[1], "tcp") ? SOCK_DGRAM : SOCK_STREAM;
	address = address_of(argv[2], argv[3]);
	count = atoi(argv[4]);
	raise_file_limit(count + 64);
	poll_fd = epoll_create1(0);
	flows = calloc(count, sizeof(*flows));
	while (fgets(line, sizeof(line), stdin))
		all_speak();
	return 0;
}
