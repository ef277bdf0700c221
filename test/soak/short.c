// SPDX-License-Identifier: Apache-2.0
/*
 * Many short TCP connections: connect, ask, get the answer, close. Of two, one is closed
 * by the client and one by the server.
 *   short ADDRESS PORT COUNT PARALLEL
 * A line of JSON each second and one at the end. Own ports that are all in TIME_WAIT
 * are waited for: they are no failure of the way.
 */
#include "soak.h"

enum { PATIENCE = 30000, LATE = 900 };

struct connection {
	int fd; /* -1: none */
	int asked;
	int answered;
	double begun;
	int number;
};

static struct sockaddr_in address;
static struct connection *connections;
static int poll_fd, count, parallel, begun, done, late, waited, live;
static double slowest;

static void end(struct connection *each, int error)
{
	double took = now() - each->begun;

	close(each->fd);
	each->fd = -1;
	live--;
	if (error)
		count_failure(error);
	else
		done++;
	if (took > slowest)
		slowest = took;
	late += took >= LATE;
}

/* False when the kernel has no port for it now. */
static int begin(struct connection *each)
{
	int fd = open_socket(SOCK_STREAM);

	if (connect(fd, (void *)&address, sizeof(address)) && errno != EINPROGRESS) {
		int error = errno;

		close(fd);
		if (error == EADDRNOTAVAIL) {
			waited++;
			return 0;
		}
		begun++;
		count_failure(error);
		return 1;
	}
	*each = (struct connection){ .fd = fd, .begun = now(), .number = begun++ };
	live++;
	watch(poll_fd, EPOLL_CTL_ADD, fd, EPOLLOUT, each - connections);
	return 1;
}

static void ask(struct connection *each)
{
	char message[MESSAGE] = { each->number & 1 ? SERVER_CLOSES : CLIENT_CLOSES };
	socklen_t size = sizeof(int);
	int error = 0;

	getsockopt(each->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (!error) {
		memcpy(message + 1, &each->number, sizeof(each->number));
		error = write(each->fd, message, MESSAGE) == MESSAGE ? 0 : errno;
	}
	if (error)
		return end(each, error);
	each->asked = 1;
	watch(poll_fd, EPOLL_CTL_MOD, each->fd, EPOLLIN, each - connections);
}

static void take(struct connection *each)
{
	char message[MESSAGE + 1];
	ssize_t length = read(each->fd, message, sizeof(message));

	if (length < 0 && errno == EAGAIN)
		return;
	if (length < 0)
		return end(each, errno);
	if (length == 0)
		return end(each, each->answered ? 0 : EPIPE);
	if (length != MESSAGE || memcmp(message + 1, &each->number, sizeof(each->number)))
		return end(each, EBADMSG);
	each->answered = 1;
	if (message[0] == CLIENT_CLOSES)
		end(each, 0);
}

static void report(double start)
{
	printf("{\"done\": %d, \"late\": %d, \"slowest\": %.0f, \"waited\": %d, \"seconds\": %.1f, ", done, late,
	       slowest, waited, (now() - start) / 1e3);
	print_failures();
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	double start = now(), told = start;
	int i, ready;

	if (argc != 5)
		return 64;
	address = address_of(argv[1], argv[2]);
	count = atoi(argv[3]);
	parallel = atoi(argv[4]);
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit(parallel + 64);
	poll_fd = epoll_create1(0);
	connections = calloc(parallel, sizeof(*connections));
	for (i = 0; i < parallel; i++)
		connections[i].fd = -1;
	while (begun < count || live > 0) {
		for (i = 0; i < parallel && begun < count; i++)
			if (connections[i].fd < 0 && !begin(&connections[i]))
				break;
		ready = epoll_wait(poll_fd, events, EVENTS, live ? 100 : 10);
		for (i = 0; i < ready; i++) {
			struct connection *each = &connections[events[i].data.u64];

			if (each->fd < 0)
				continue;
			if (each->asked)
				take(each);
			else
				ask(each);
		}
		for (i = 0; i < parallel && ready < EVENTS; i++)
			if (connections[i].fd >= 0 && now() - connections[i].begun > PATIENCE)
				end(&connections[i], ETIMEDOUT);
		if (now() - told >= 1000) {
			told = now();
			report(start);
		}
	}
	report(start);
	return failed() > 0;
}
