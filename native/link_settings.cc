#include "link_settings.h"

#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "netlink_socket.h"

namespace hostroute {

namespace {

// RTM_NEWLINK, built from the front. A nest is open from begin() to end().
class LinkMessage {
public:
  LinkMessage(int ifindex, uint32_t flags, uint32_t change) : bytes_(NLMSG_LENGTH(sizeof(ifinfomsg))) {
    struct ifinfomsg link = {};
    link.ifi_family = AF_UNSPEC;
    link.ifi_index = ifindex;
    link.ifi_flags = flags;
    link.ifi_change = change;
    memcpy(bytes_.data() + NLMSG_HDRLEN, &link, sizeof(link));
  }

  void add(uint16_t type, const void *value, uint16_t size) {
    size_t at = begin(type);
    const auto *from = static_cast<const uint8_t *>(value);
    bytes_.insert(bytes_.end(), from, from + size);
    end(at);
  }

  size_t begin(uint16_t type) {
    size_t at = bytes_.size();
    struct rtattr attribute = {0, type};
    bytes_.resize(at + RTA_LENGTH(0));
    memcpy(bytes_.data() + at, &attribute, sizeof(attribute));
    return at;
  }

  void end(size_t at) {
    auto length = static_cast<uint16_t>(bytes_.size() - at);
    memcpy(bytes_.data() + at, &length, sizeof(length)); // rta_len is the first field
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }

  const std::vector<uint8_t> &finish() {
    struct nlmsghdr header = {};
    header.nlmsg_len = static_cast<uint32_t>(bytes_.size());
    header.nlmsg_type = RTM_NEWLINK;
    header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    header.nlmsg_seq = 1;
    memcpy(bytes_.data(), &header, sizeof(header));
    return bytes_;
  }

private:
  std::vector<uint8_t> bytes_;
};

Result ask(const char *what, LinkMessage &message) {
  NetlinkSocket socket;
  if (Result failure = socket.open(64 * 1024)) return failure;
  const std::vector<uint8_t> &bytes = message.finish();
  ssize_t sent;
  do {
    sent = send(socket.get(), bytes.data(), bytes.size(), 0);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return Failure{what, errno, "send"};
  std::vector<uint8_t> answer(4096);
  ssize_t length;
  do {
    length = recv(socket.get(), answer.data(), answer.size(), 0);
  } while (length < 0 && errno == EINTR);
  if (length < 0) return Failure{what, errno, "recv"};
  NetlinkSocket::DumpPart part = NetlinkSocket::parseDump(answer.data(), static_cast<size_t>(length));
  if (!part.failure) return std::nullopt;
  return Failure{what, part.failure->error, "RTM_NEWLINK", part.failure->detail};
}

} // namespace

Result generateNoAddresses(int ifindex) {
  LinkMessage message(ifindex, 0, 0);
  const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
  size_t families = message.begin(IFLA_AF_SPEC);
  size_t inet6 = message.begin(AF_INET6);
  message.add(IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
  message.end(inet6);
  message.end(families);
  return ask("cannot keep IPv6 addresses off the device", message);
}

Result setUp(int ifindex, uint32_t mtu, uint32_t queue) {
  LinkMessage message(ifindex, IFF_UP, IFF_UP);
  message.add(IFLA_MTU, &mtu, sizeof(mtu));
  message.add(IFLA_TXQLEN, &queue, sizeof(queue));
  return ask("cannot set the device up", message);
}

} // namespace hostroute
