// SPDX-License-Identifier: Apache-2.0
/*
 * Packets as fast as they go, from random ports to random ports, until its standard input
 * ends; then prints how many:
 *   flood syn|ack|udp SOURCE DESTINATION
 */
#include "soak.h"
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>

enum { BETWEEN_LOOKS = 512 };

struct packet {
	struct iphdr ip;
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	};
} __attribute__((packed));

static uint32_t draw(void)
{
	static uint32_t state = 2463534242u;

	state ^= state << 13;
	state ^= state >> 17;
	return state ^= state << 5;
}

static uint32_t sum(const void *bytes, size_t length)
{
	const uint8_t *byte = bytes;
	uint32_t result = 0;
	size_t i;

	for (i = 0; i + 1 < length; i += 2)
		result += byte[i] << 8 | byte[i + 1];
	return result;
}

static uint16_t folded(uint32_t value)
{
	while (value >> 16)
		value = (value & 0xffff) + (value >> 16);
	return htons(~value & 0xffff);
}

static size_t fill(struct packet *packet, const char *kind)
{
	int udp = packet->ip.protocol == IPPROTO_UDP;
	size_t length = udp ? sizeof(packet->udp) : sizeof(packet->tcp);
	uint32_t pseudo = sum(&packet->ip.saddr, 8) + packet->ip.protocol + length;
	uint32_t ports = draw();

	memset(&packet->tcp, 0, sizeof(packet->tcp));
	packet->udp.source = htons(1024 + (ports & 0xffff) % 64512);
	packet->udp.dest = htons(1024 + (ports >> 16) % 64512);
	if (udp) {
		packet->udp.len = htons(length);
		packet->udp.check = folded(pseudo + sum(&packet->udp, length));
	} else {
		packet->tcp.seq = draw();
		packet->tcp.doff = 5;
		packet->tcp.window = htons(65535);
		packet->tcp.syn = *kind == 's';
		packet->tcp.ack = *kind == 'a';
		packet->tcp.ack_seq = packet->tcp.ack ? draw() : 0;
		packet->tcp.check = folded(pseudo + sum(&packet->tcp, length));
	}
	return sizeof(packet->ip) + length;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	struct packet packet = { .ip = { .version = 4, .ihl = 5, .ttl = 64 } };
	struct sockaddr_in source, destination;
	long sent = 0, refused = 0, i;
	int fd;

	if (argc != 4)
		return 64;
	source = address_of(argv[2], "0");
	destination = address_of(argv[3], "0");
	packet.ip.saddr = source.sin_addr.s_addr;
	packet.ip.daddr = destination.sin_addr.s_addr;
	packet.ip.protocol = *argv[1] == 'u' ? IPPROTO_UDP : IPPROTO_TCP;
	fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	if (fd < 0)
		fail("socket");
	printf("ready\n");
	fflush(stdout);
	for (i = 0; i % BETWEEN_LOOKS || poll(&input, 1, 0) == 0; i++) {
		size_t length = fill(&packet, argv[1]);

		if (sendto(fd, &packet, length, 0, (void *)&destination, sizeof(destination)) == (ssize_t)length)
			sent++;
		else
			refused++;
	}
	printf("{\"sent\": %ld, \"refused\": %ld}\n", sent, refused);
	return 0;
}
