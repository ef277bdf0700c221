// SPDX-License-Identifier: Apache-2.0
/*
 * Sends made frames out of one device, as they are, in order and from one CPU.
 *
 *   frames DEVICE < RECORDS
 *
 * A record: length of the frame (32 bits, host order), struct virtio_net_hdr,
 * the frame. The header says checksum and segmentation to be done by the
 * device, so that GSO packets can be made; all zero for a plain frame. A frame
 * the kernel refuses to send is told on stderr with its number, and left out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAUSE_EVERY 64

static unsigned char frame[1 << 17];

static int fail(const char *what)
{
	fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET };
	int fd, on = 1;
	uint32_t length;
	unsigned long number = 0;
	cpu_set_t cpu;

	if (argc != 2)
		return fprintf(stderr, "usage: frames DEVICE < RECORDS\n"), 64;
	CPU_ZERO(&cpu);
	CPU_SET(sched_getcpu(), &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu);
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0)
		return fail("socket");
	if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)))
		return fail("PACKET_VNET_HDR");
	address.sll_ifindex = (int)if_nametoindex(argv[1]);
	if (!address.sll_ifindex || bind(fd, (struct sockaddr *)&address, sizeof(address)))
		return fail(argv[1]);
	while (fread(&length, sizeof(length), 1, stdin) == 1) {
		struct virtio_net_hdr header;
		struct iovec parts[2] = { { &header, sizeof(header) }, { frame, length } };
		struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

		if (length > sizeof(frame) || fread(&header, sizeof(header), 1, stdin) != 1 ||
		    fread(frame, 1, length, stdin) != length)
			return fprintf(stderr, "frames: record %lu is cut short\n", number), 1;
		while (sendmsg(fd, &message, 0) < 0) {
			if (errno != ENOBUFS && errno != EAGAIN) {
				fprintf(stderr, "refused %lu: %s\n", number, strerror(errno));
				break;
			}
			usleep(1000);
		}
		/* a backlog of the receiving CPU takes 1000 packets */
		if (++number % PAUSE_EVERY == 0)
			usleep(2000);
	}
	return 0;
}
