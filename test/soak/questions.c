// SPDX-License-Identifier: Apache-2.0
/*
 * DNS questions to one resolver at a steady pace, each from a socket of its own and asked
 * once, as resolvers' clients do:
 *   questions ADDRESS PORT COUNT PER-SECOND
 * What comes late is not made up for by a burst. A line of JSON each second and one at the end.
 */
#include "soak.h"

enum { PATIENCE = 5000, HEADER = 12 };

struct question {
	int fd; /* 0: none */
	double asked;
};

/* By their ids, which a resolver's client may not use twice at a time. */
static struct question open_questions[65536];
static struct sockaddr_in address;
static int poll_fd, asked, answered, late, oldest, live;
static double slowest;

static size_t write_question(unsigned char *packet, uint16_t id)
{
	static const unsigned char name[] = "\3www\7example\3com\0\0\1\0";

	memset(packet, 0, HEADER);
	packet[0] = id >> 8;
	packet[1] = id & 255;
	packet[2] = 1; /* recursion desired */
	packet[5] = 1;
	memcpy(packet + HEADER, name, sizeof(name));
	packet[HEADER + sizeof(name) - 1] = 1; /* class IN, in the place of the string's own end */
	return HEADER + sizeof(name);
}

static void end(uint16_t id, int error)
{
	struct question *each = &open_questions[id];
	double took = now() - each->asked;

	close(each->fd);
	each->fd = 0;
	live--;
	if (error)
		count_failure(error);
	else
		answered++;
	if (took > slowest)
		slowest = took;
	late += took >= 1000;
}

static void ask(void)
{
	uint16_t id = asked;
	unsigned char packet[64];
	size_t length = write_question(packet, id);
	int fd;

	if (open_questions[id].fd)
		end(id, ETIMEDOUT);
	fd = open_socket(SOCK_DGRAM);
	open_questions[id] = (struct question){ .fd = fd, .asked = now() };
	asked++;
	live++;
	if (connect(fd, (void *)&address, sizeof(address)) || send(fd, packet, length, 0) != (ssize_t)length)
		return end(id, errno);
	watch(poll_fd, EPOLL_CTL_ADD, fd, EPOLLIN, id);
}

static void take(uint16_t id)
{
	unsigned char packet[512];
	ssize_t length = recv(open_questions[id].fd, packet, sizeof(packet), 0);

	if (length < 0 && errno == EAGAIN)
		return;
	if (length < 0)
		return end(id, errno);
	/* the same id, an answer, without an error, with one record */
	if (length < HEADER || (packet[0] << 8 | packet[1]) != id || !(packet[2] & 0x80) || packet[3] & 15 ||
	    packet[7] != 1)
		return end(id, EBADMSG);
	end(id, 0);
}

static void give_up(void)
{
	for (; oldest < asked; oldest++) {
		uint16_t id = oldest;

		if (open_questions[id].fd && now() - open_questions[id].asked < PATIENCE)
			return;
		if (open_questions[id].fd)
			end(id, ETIMEDOUT);
	}
}

static void report(double start)
{
	printf("{\"asked\": %d, \"done\": %d, \"late\": %d, \"slowest\": %.0f, \"seconds\": %.1f, ", asked, answered,
	       late, slowest, (now() - start) / 1e3);
	print_failures();
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	double start = now(), told = start, next = start, pause;
	int count, ready, i;

	if (argc != 5)
		return 64;
	address = address_of(argv[1], argv[2]);
	count = atoi(argv[3]);
	pause = 1000.0 / atoi(argv[4]);
	raise_file_limit(4096);
	poll_fd = epoll_create1(0);
	while (asked < count || live > 0) {
		double left = next - now();

		if (asked < count && left <= 0) {
			ask();
			/* up to ten are made up for: a timer is late by as much */
			next += pause;
			if (next < now() - 10 * pause)
				next = now() - 10 * pause;
			continue;
		}
		ready = epoll_wait(poll_fd, events, EVENTS, asked < count ? (int)left + 1 : 100);
		for (i = 0; i < ready; i++)
			if (open_questions[events[i].data.u64].fd)
				take(events[i].data.u64);
		give_up();
		if (now() - told >= 1000) {
			told = now();
			report(start);
		}
	}
	report(start);
	return failed() > 0;
}
