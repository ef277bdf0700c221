/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs of the long runs share. IPv4; one thread and epoll each. */
#ifndef SOAK_H
#define SOAK_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 32, EVENTS = 512 };

/* First byte of a message over TCP: who closes after the answer. */
enum { CLIENT_CLOSES = 'c', SERVER_CLOSES = 's' };

static inline _Noreturn void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* Milliseconds. */
static inline double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static inline struct sockaddr_in address_of(const char *address, const char *port)
{
	struct sockaddr_in result = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	if (inet_pton(AF_INET, address, &result.sin_addr) != 1) {
		fprintf(stderr, "%s is no IPv4 address\n", address);
		exit(64);
	}
	return result;
}

/* As far as it goes without privilege. */
static inline void raise_file_limit(rlim_t files)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail("getrlimit RLIMIT_NOFILE");
	if (limit.rlim_max < files) {
		fprintf(stderr, "%ld open files are allowed, %ld are needed: see ulimit -Hn\n", (long)limit.rlim_max,
			(long)files);
		exit(1);
	}
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		fail("setrlimit RLIMIT_NOFILE");
}

static inline int open_socket(int type)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
	int on = 1;

	if (fd < 0)
		fail("socket");
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static inline void watch(int poll, int operation, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	if (epoll_ctl(poll, operation, fd, &event))
		fail("epoll_ctl");
}

/* Errors of sockets by their number, printed by name. */
static int failures[256];

static inline void count_failure(int error)
{
	failures[error & 255]++;
}

static inline int failed(void)
{
	int sum = 0;
	int error;

	for (error = 0; error < 256; error++)
		sum += failures[error];
	return sum;
}

/* "failed": N, "errors": "3 × Connection reset by peer": the end of a line of JSON. */
static inline void print_failures(void)
{
	int error;
	const char *gap = "";

	printf("\"failed\": %d, \"errors\": \"", failed());
	for (error = 0; error < 256; error++) {
		if (!failures[error])
			continue;
		printf("%s%d x %s", gap, failures[error], strerror(error));
		gap = ", ";
	}
	printf("\"}\n");
	fflush(stdout);
}

#endif
