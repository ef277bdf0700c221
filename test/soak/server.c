// SPDX-License-Identifier: Apache-2.0
/*
 * The server of the long runs, TCP and UDP on one port, until its standard input ends:
 *   server ADDRESS PORT
 * A message over TCP comes back; then the server closes if the message says so. A DNS
 * question over UDP comes back as an answer with an A record; anything else as it is.
 *
 * Several processes share the port: one may not have as many files open as there are
 * connections.
 */
#include "soak.h"
#include <sys/prctl.h>

enum { LISTENER = 1, DATAGRAMS, DNS_HEADER = 12, PROCESSES = 8, FILES = 16384 };

static int listen_on(struct sockaddr_in *address)
{
	int fd = open_socket(SOCK_STREAM);
	int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (bind(fd, (void *)address, sizeof(*address)) || listen(fd, 65535))
		fail("bind and listen");
	return fd;
}

static int datagrams_on(struct sockaddr_in *address)
{
	int fd = open_socket(SOCK_DGRAM);
	int size = 16 << 20;
	int on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (bind(fd, (void *)address, sizeof(*address)))
		fail("bind");
	return fd;
}

static void accept_all(int poll, int listener)
{
	int on = 1;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		setsockopt(fd, SOL_TCP, TCP_NODELAY, &on, sizeof(on));
		watch(poll, EPOLL_CTL_ADD, fd, EPOLLIN, (uint64_t)fd << 8);
	}
}

static void serve_connection(int fd)
{
	char buffer[4096];
	ssize_t length = read(fd, buffer, sizeof(buffer));

	if (length < 0 && errno == EAGAIN)
		return;
	if (length > 0 && write(fd, buffer, length) == length && buffer[0] != SERVER_CLOSES)
		return;
	close(fd);
}

/* One question, no more: its record names the question's name, at the header's end. */
static size_t answer(unsigned char *packet, size_t length)
{
	static const unsigned char record[] = { 0xc0, DNS_HEADER, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1 };

	if (length < DNS_HEADER + 5 || packet[2] & 0x80 || packet[5] != 1)
		return length;
	packet[2] |= 0x80;
	packet[7] = 1;
	memcpy(packet + length, record, sizeof(record));
	return length + sizeof(record);
}

static void serve_datagrams(int fd)
{
	unsigned char packet[2048];
	struct sockaddr_in from;
	ssize_t length;

	for (;;) {
		socklen_t size = sizeof(from);

		length = recvfrom(fd, packet, sizeof(packet) - 64, 0, (void *)&from, &size);
		if (length < 0)
			return;
		sendto(fd, packet, answer(packet, length), 0, (void *)&from, size);
	}
}

static _Noreturn void serve(int listener, int datagrams)
{
	struct epoll_event events[EVENTS];
	int poll = epoll_create1(0);
	int count, i;

	watch(poll, EPOLL_CTL_ADD, listener, EPOLLIN, LISTENER);
	watch(poll, EPOLL_CTL_ADD, datagrams, EPOLLIN, DATAGRAMS);
	for (;;) {
		count = epoll_wait(poll, events, EVENTS, -1);
		for (i = 0; i < count; i++) {
			uint64_t what = events[i].data.u64;

			if (what == LISTENER)
				accept_all(poll, listener);
			else if (what == DATAGRAMS)
				serve_datagrams(datagrams);
			else
				serve_connection(what >> 8);
		}
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address;
	pid_t parent = getpid();
	char byte;
	int i;

	if (argc != 3)
		return 64;
	address = address_of(argv[1], argv[2]);
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit(FILES);
	for (i = 0; i < PROCESSES; i++) {
		int listener = listen_on(&address);
		int datagrams = datagrams_on(&address);
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent)
				return 1;
			serve(listener, datagrams);
		}
		close(listener);
		close(datagrams);
	}
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
