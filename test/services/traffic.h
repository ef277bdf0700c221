// SPDX-License-Identifier: Apache-2.0
// Hosts, channels and buffers of traffic.c: made, watched, given up.

#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_HOSTS = 32, MAX_SERVERS = 16, CHUNK = 65536, SCAN_MS = 5 };

struct host {
	char name[32];
	int netns;
};

struct bytes {
	char *data;
	size_t length, room;
};

/** Outcomes of the asks of one `rate`. */
struct tally {
	char id[64];
	int wanted, begun, done, answered, refused, timeout, other;
	double per_second, start;
	char servers[MAX_SERVERS][96];
	int counts[MAX_SERVERS], server_count;
	char error[64];
	struct host *host;
	char protocol[8], address[64];
	int port, patience;
	struct tally *next;
};

enum kind { TCP_LISTENER, UDP_SERVER, SERVED, ASK, FLOW };

struct channel {
	enum kind kind;
	int fd;
	struct host *host;
	int udp, connected, closing, dead;
	struct bytes in, out;
	/* clients */
	char id[64], server[32], peer[64], error[64];
	int peer_port, local_port, port_changes;
	size_t size;
	double start, deadline;
	struct tally *tally;
	/* flows */
	long sent, received;
	double interval, next_send, last_heard, longest_gap;
	struct channel *before, *after;
};

static struct host hosts[MAX_HOSTS];
static int host_count;
static int epoll_fd;
static struct channel *channels;
static struct channel *graves;
static struct tally *tallies;
static char payload[CHUNK];

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void fail(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void append(struct bytes *bytes, const void *data, size_t length)
{
	if (bytes->length + length > bytes->room) {
		bytes->room = (bytes->length + length) * 2;
		bytes->data = realloc(bytes->data, bytes->room);
		if (!bytes->data) fail("memory");
	}
	memcpy(bytes->data + bytes->length, data, length);
	bytes->length += length;
}

static void take(struct bytes *bytes, size_t length)
{
	bytes->length -= length;
	memmove(bytes->data, bytes->data + length, bytes->length);
}

static struct host *host_named(const char *name)
{
	for (int i = 0; i < host_count; i++)
		if (!strcmp(hosts[i].name, name)) return &hosts[i];
	fprintf(stderr, "traffic: no host %s\n", name);
	exit(1);
}

static int open_socket(struct host *host, int family, int type)
{
	static int current = -1;
	int fd;

	if (current != host->netns && setns(host->netns, CLONE_NEWNET)) fail("setns");
	current = host->netns;
	fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) fail("socket");
	return fd;
}

static struct channel *add_channel(enum kind kind, struct host *host, int fd, int udp)
{
	struct channel *channel = calloc(1, sizeof(*channel));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};

	if (!channel) fail("memory");
	channel->kind = kind;
	channel->host = host;
	channel->fd = fd;
	channel->udp = udp;
	channel->after = channels;
	if (channels) channels->before = channel;
	channels = channel;
	if (kind == ASK || kind == FLOW) event.events |= EPOLLOUT;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
	return channel;
}

static void watch(struct channel *channel)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};
	if (!channel->connected || channel->out.length) event.events |= EPOLLOUT;
	epoll_ctl(epoll_fd, EPOLL_CTL_MOD, channel->fd, &event);
}

/** Events for it may still be in hand: it is freed after the round. */
static void bury(struct channel *channel)
{
	if (channel->dead) return;
	channel->dead = 1;
	close(channel->fd);
	if (channel->before) channel->before->after = channel->after;
	else channels = channel->after;
	if (channel->after) channel->after->before = channel->before;
	channel->after = graves;
	graves = channel;
}

static void sweep(void)
{
	while (graves) {
		struct channel *channel = graves;
		graves = channel->after;
		free(channel->in.data);
		free(channel->out.data);
		free(channel);
	}
}
