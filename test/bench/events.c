// Changes routes at a given rate and looks how long each hundredth change takes
// from the kernel to the map: events PINNED-MAP RATE SECONDS GATEWAY DEVICE.
// Prints microseconds, one a line; -1: not within a quarter of a second.
// Runs in the node's namespace. GATEWAY is a neighbour on DEVICE and not the
// default route's.

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const uint64_t second = 1000000000;
static const uint64_t longest = 250000000;

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * second + time.tv_nsec;
}

static int socket_fd;
static uint32_t gateway, device;

struct request {
	struct nlmsghdr header;
	struct rtmsg route;
	char attributes[64];
};

static void put(struct request *request, uint16_t type, uint32_t value)
{
	struct rtattr *at = (void *)((char *)request + request->header.nlmsg_len);
	at->rta_type = type;
	at->rta_len = RTA_LENGTH(4);
	memcpy(RTA_DATA(at), &value, 4);
	request->header.nlmsg_len += at->rta_len;
}

static void change(uint16_t type, uint32_t destination)
{
	struct request request = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
			    .nlmsg_type = type,
			    .nlmsg_flags = NLM_F_REQUEST | (type == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_REPLACE : 0) },
		.route = { .rtm_family = AF_INET,
			   .rtm_dst_len = 32,
			   .rtm_table = RT_TABLE_MAIN,
			   .rtm_protocol = RTPROT_STATIC,
			   .rtm_scope = RT_SCOPE_UNIVERSE,
			   .rtm_type = RTN_UNICAST },
	};
	put(&request, RTA_DST, destination);
	put(&request, RTA_GATEWAY, gateway);
	put(&request, RTA_OIF, device);
	if (send(socket_fd, &request, request.header.nlmsg_len, 0) < 0)
		perror("send");
}

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(__NR_bpf, command, attr, sizeof(*attr));
}

struct value {
	char bytes[64];
};

static struct value look(int map, uint32_t destination)
{
	struct {
		uint32_t length, address;
	} key = { 32, destination };
	struct value value = { 0 };
	union bpf_attr attr = { .map_fd = map };
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)&value;
	bpf(BPF_MAP_LOOKUP_ELEM, &attr);
	return value;
}

int main(int count, char **words)
{
	if (count != 6)
		return 2;
	union bpf_attr attr = { .pathname = (uintptr_t)words[1] };
	int map = bpf(BPF_OBJ_GET, &attr);
	uint64_t rate = atoi(words[2]);
	uint64_t total = rate * atoi(words[3]);
	inet_pton(AF_INET, words[4], &gateway);
	device = if_nametoindex(words[5]);
	socket_fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	if (map < 0 || device == 0 || socket_fd < 0) {
		perror("events");
		return 1;
	}
	uint64_t begin = now(), probed = 0;
	uint32_t probe = 0;
	struct value before = { 0 };
	for (uint64_t sent = 0; sent < total || probed;) {
		uint64_t time = now();
		if (sent < total && time >= begin + sent * second / rate) {
			// 10.99.x.y come and go by turns
			uint32_t destination = htonl(0x0a630000 + (sent / 2) % 60000);
			int adds = sent % 2 == 0;
			int probes = adds && sent % 100 == 0 && !probed;
			if (probes) {
				probe = htonl(0x0a640000 + (sent / 100) % 60000);
				before = look(map, probe);
				probed = now();
				change(RTM_NEWROUTE, probe);
			} else {
				change(adds ? RTM_NEWROUTE : RTM_DELROUTE, destination);
			}
			sent++;
		}
		if (!probed) {
			struct timespec nap = { .tv_nsec = 20000 };
			nanosleep(&nap, NULL);
			continue;
		}
		struct value after = look(map, probe);
		if (memcmp(&before, &after, sizeof(after)) != 0) {
			printf("%ld\n", (long)((now() - probed) / 1000));
			change(RTM_DELROUTE, probe);
			probed = 0;
		} else if (now() > probed + longest) {
			puts("-1");
			change(RTM_DELROUTE, probe);
			probed = 0;
		} else {
			struct timespec nap = { .tv_nsec = 50000 };
			nanosleep(&nap, NULL);
		}
	}
	return 0;
}
