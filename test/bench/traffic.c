// SPDX-License-Identifier: Apache-2.0
/*
 * The benchmark's traffic. `serve` answers; the other words are clients that do
 * a fixed amount of work and print what a unit of it took in nanoseconds, so
 * that a run is as short as the caller likes and repeats exactly on an exact
 * clock. IPv4, 64 bytes, blocking sockets, one connection at a time.
 *
 *   traffic serve ADDRESS PORT            until its standard input ends
 *   traffic tcp ADDRESS PORT COUNT        half a round trip, median of COUNT
 *   traffic udp ADDRESS PORT COUNT        the same over UDP
 *   traffic connect ADDRESS PORT COUNT    connection opened and closed, median
 *   traffic packets ADDRESS PORT COUNT    one datagram that arrives, mean
 *   traffic stream ADDRESS PORT MEGABYTES one megabyte, mean
 *
 * Datagrams are sent BURST at a time and then answered once: none is lost, and
 * the answer's share is small.
 *
 * Both ends share core 0, so that a packet's work is measured and not wake-ups
 * between cores, and run in the real-time class: whoever is woken waits until
 * the other sleeps. In the normal class it preempts at the scheduler's
 * pleasure, and a round trip has two lengths that are 2,800 instructions apart.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, BURST = 64, MEGABYTE = 1 << 20, CHUNK = 1 << 16, WARM_UP = 20 };

/* First byte of a TCP connection or a datagram: what the client wants. */
enum { ECHO = 'e', SINK = 's', CLOSE = 'c', COUNT = 'n' };

static char buffer[CHUNK];

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void take_core(void)
{
	struct sched_param parameter = { .sched_priority = 10 };
	cpu_set_t cores;

	CPU_ZERO(&cores);
	CPU_SET(0, &cores);
	if (sched_setaffinity(0, sizeof(cores), &cores))
		fail("sched_setaffinity to core 0");
	if (sched_setscheduler(0, SCHED_FIFO, &parameter))
		fail("sched_setscheduler SCHED_FIFO");
}

static struct sockaddr_in address_of(const char *address, const char *port)
{
	struct sockaddr_in result = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	if (inet_pton(AF_INET, address, &result.sin_addr) != 1) {
		fprintf(stderr, "traffic: %s is no IPv4 address\n", address);
		exit(64);
	}
	return result;
}

static long nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static int open_socket(int type)
{
	/* A lost packet must end a run, not hang it. */
	struct timeval patience = { .tv_sec = 10 };
	int on = 1;
	int fd = socket(AF_INET, type, 0);

	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static int bound_socket(int type, struct sockaddr_in *address)
{
	struct timeval for_ever = {};
	int fd = open_socket(type);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &for_ever, sizeof(for_ever));
	if (bind(fd, (void *)address, sizeof(*address)))
		fail("bind");
	return fd;
}

/* All of `size` bytes; false when the other side has closed. */
static int read_all(int fd, char *to, size_t size)
{
	size_t got = 0;

	while (got < size) {
		ssize_t length = read(fd, to + got, size - got);

		if (length <= 0)
			return 0;
		got += length;
	}
	return 1;
}

static void serve_connection(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (read(fd, buffer, SIZE) <= 0 || buffer[0] == CLOSE)
		return;
	if (buffer[0] == SINK) {
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
		return;
	}
	do {
		if (write(fd, buffer, SIZE) != SIZE)
			return;
	} while (read_all(fd, buffer, SIZE));
}

static _Noreturn void serve_tcp(struct sockaddr_in *address)
{
	int listener = bound_socket(SOCK_STREAM, address);

	if (listen(listener, 128))
		fail("listen");
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		serve_connection(fd);
		close(fd);
	}
}

static _Noreturn void serve_udp(struct sockaddr_in *address)
{
	int fd = bound_socket(SOCK_DGRAM, address);
	int large = 1 << 20;
	int counted = 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof(large));
	for (;;) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);

		if (recvfrom(fd, buffer, SIZE, 0, (void *)&from, &length) < 0)
			continue;
		if (buffer[0] == COUNT && ++counted % BURST)
			continue;
		sendto(fd, buffer, SIZE, 0, (void *)&from, length);
	}
}

static void serve(struct sockaddr_in *address)
{
	pid_t parent = getpid();
	int kind;

	for (kind = 0; kind < 2; kind++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			exit(1);
		if (kind == 0)
			serve_tcp(address);
		serve_udp(address);
	}
	while (read(0, buffer, 1) > 0)
		;
}

static int compare(const void *left, const void *right)
{
	long difference = *(const long *)left - *(const long *)right;

	return (difference > 0) - (difference < 0);
}

static double median(long *values, int count)
{
	qsort(values, count, sizeof(*values), compare);
	return (values[(count - 1) / 2] + values[count / 2]) / 2.0;
}

static int connected(int type, struct sockaddr_in *to)
{
	int fd = open_socket(type);

	if (connect(fd, (void *)to, sizeof(*to)))
		fail("connect");
	return fd;
}

static double round_trips(int type, struct sockaddr_in *to, int count)
{
	long *times = calloc(count, sizeof(*times));
	int fd = connected(type, to);
	int i;

	buffer[0] = ECHO;
	for (i = -WARM_UP; i < count; i++) {
		long start = nanoseconds();

		if (write(fd, buffer, SIZE) != SIZE)
			fail("write");
		if (type == SOCK_STREAM ? !read_all(fd, buffer, SIZE) : read(fd, buffer, SIZE) != SIZE)
			fail("no answer");
		if (i >= 0)
			times[i] = nanoseconds() - start;
	}
	close(fd);
	return median(times, count) / 2;
}

/* The server closes first: its TIME_WAIT costs the client no port. */
static double connections(struct sockaddr_in *to, int count)
{
	long *times = calloc(count, sizeof(*times));
	int i;

	for (i = -WARM_UP; i < count; i++) {
		char request[SIZE] = { CLOSE };
		long start = nanoseconds();
		int fd = connected(SOCK_STREAM, to);

		if (write(fd, request, SIZE) != SIZE)
			fail("write");
		if (read(fd, buffer, SIZE) != 0)
			fail("the server did not close");
		close(fd);
		if (i >= 0)
			times[i] = nanoseconds() - start;
	}
	return median(times, count);
}

static void burst(int fd)
{
	int i;

	for (i = 0; i < BURST; i++)
		if (write(fd, buffer, SIZE) != SIZE)
			fail("write");
	if (read(fd, buffer, SIZE) != SIZE)
		fail("datagrams were lost");
}

static double packets(struct sockaddr_in *to, int count)
{
	int bursts = (count + BURST - 1) / BURST;
	int fd = connected(SOCK_DGRAM, to);
	long start;
	int i;

	buffer[0] = COUNT;
	burst(fd);
	start = nanoseconds();
	for (i = 0; i < bursts; i++)
		burst(fd);
	return (double)(nanoseconds() - start) / (bursts * BURST);
}

static double stream(struct sockaddr_in *to, int megabytes)
{
	int fd = connected(SOCK_STREAM, to);
	long left = (long)megabytes * MEGABYTE;
	long start = nanoseconds();

	buffer[0] = SINK;
	while (left > 0) {
		ssize_t written = write(fd, buffer, sizeof(buffer));

		if (written <= 0)
			fail("write");
		left -= written;
	}
	shutdown(fd, SHUT_WR);
	if (read(fd, buffer, SIZE) != 0)
		fail("the server did not close");
	return (double)(nanoseconds() - start) / megabytes;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address;
	double result;
	int count;

	if (argc < 4) {
		fprintf(stderr, "usage: traffic serve|tcp|udp|connect|packets|stream ADDRESS PORT [COUNT]\n");
		return 64;
	}
	address = address_of(argv[2], argv[3]);
	signal(SIGPIPE, SIG_IGN);
	take_core();
	if (!strcmp(argv[1], "serve")) {
		serve(&address);
		return 0;
	}
	count = argc > 4 ? atoi(argv[4]) : 1000;
	if (count < 1)
		return 64;
	if (!strcmp(argv[1], "tcp"))
		result = round_trips(SOCK_STREAM, &address, count);
	else if (!strcmp(argv[1], "udp"))
		result = round_trips(SOCK_DGRAM, &address, count);
	else if (!strcmp(argv[1], "connect"))
		result = connections(&address, count);
	else if (!strcmp(argv[1], "packets"))
		result = packets(&address, count);
	else if (!strcmp(argv[1], "stream"))
		result = stream(&address, count);
	else
		return 64;
	printf("%.1f\n", result);
	return 0;
}
