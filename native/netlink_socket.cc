#include "netlink_socket.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace hostroute {

namespace {

// NLMSGERR_ATTR_MSG: the kernel's own words after a refused request.
std::string extendedAck(const uint8_t *attributes, size_t size) {
  struct nlattr attribute = {};
  while (size >= sizeof(attribute)) {
    memcpy(&attribute, attributes, sizeof(attribute));
    if (attribute.nla_len < sizeof(attribute) || attribute.nla_len > size) break;
    if ((attribute.nla_type & NLA_TYPE_MASK) == NLMSGERR_ATTR_MSG) {
      const char *text = reinterpret_cast<const char *>(attributes) + sizeof(attribute);
      return std::string(text, strnlen(text, attribute.nla_len - sizeof(attribute)));
    }
    size_t step = NLA_ALIGN(attribute.nla_len);
    if (step >= size) break;
    attributes += step;
    size -= step;
  }
  return {};
}

// The extended ACK of NLMSG_ERROR stands after the echo of the request, which
// is only its header when the kernel capped it; of NLMSG_DONE after the errno.
Result answer(const struct nlmsghdr &header, const uint8_t *payload, size_t size) {
  int32_t error = 0;
  if (size < sizeof(error)) return std::nullopt;
  memcpy(&error, payload, sizeof(error));
  if (error >= 0) return std::nullopt;
  size_t skip = sizeof(error);
  struct nlmsghdr echoed = {};
  if (header.nlmsg_type == NLMSG_ERROR && size >= sizeof(error) + sizeof(echoed)) {
    memcpy(&echoed, payload + sizeof(error), sizeof(echoed));
    skip += header.nlmsg_flags & NLM_F_CAPPED ? sizeof(echoed) : NLMSG_ALIGN(echoed.nlmsg_len);
  }
  std::string detail;
  if (header.nlmsg_flags & NLM_F_ACK_TLVS && skip < size) detail = extendedAck(payload + skip, size - skip);
  return Failure{"the kernel refused a netlink dump", -error, "recv", detail};
}

} // namespace

Result NetlinkSocket::open(uint32_t receiveBuffer, int protocol) {
  Descriptor made(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!made) return Failure{"cannot open a netlink socket", errno, "socket"};
  int size = static_cast<int>(receiveBuffer);
  if (setsockopt(made.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0 &&
      setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) != 0)
    return Failure{"cannot set the receive buffer of a netlink socket", errno, "setsockopt(SO_RCVBUF)"};
  int on = 1;
  if (setsockopt(made.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on)) != 0)
    return Failure{"cannot ask for extended ACKs", errno, "setsockopt(NETLINK_EXT_ACK)"};
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (bind(made.get(), reinterpret_cast<struct sockaddr *>(&address), sizeof(address)) != 0)
    return Failure{"cannot bind a netlink socket", errno, "bind"};
  socket_ = std::move(made);
  return std::nullopt;
}

Result NetlinkSocket::join(uint32_t group) {
  if (setsockopt(socket_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) == 0)
    return std::nullopt;
  return Failure{"cannot join netlink group " + std::to_string(group), errno,
                 "setsockopt(NETLINK_ADD_MEMBERSHIP)"};
}

Result NetlinkSocket::sendDump(uint16_t type, const void *request, size_t size) {
  int on = 1;
  if (setsockopt(socket_.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on)) != 0)
    return Failure{"cannot ask for strict checking", errno, "setsockopt(NETLINK_GET_STRICT_CHK)"};
  struct nlmsghdr header = {};
  header.nlmsg_len = static_cast<uint32_t>(NLMSG_HDRLEN + size);
  header.nlmsg_type = type;
  header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  header.nlmsg_seq = 1;
  std::vector<uint8_t> message(header.nlmsg_len);
  memcpy(message.data(), &header, sizeof(header));
  if (size) memcpy(message.data() + NLMSG_HDRLEN, request, size);
  ssize_t sent;
  do {
    sent = send(socket_.get(), message.data(), message.size(), 0);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return Failure{"cannot send a netlink request", errno, "send"};
  return std::nullopt;
}

NetlinkSocket::DumpPart NetlinkSocket::parseDump(const uint8_t *datagram, size_t size) {
  DumpPart part;
  struct nlmsghdr header = {};
  while (part.bytes + sizeof(header) <= size) {
    memcpy(&header, datagram + part.bytes, sizeof(header));
    if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > size - part.bytes) {
      part.done = true;
      part.failure = Failure{"a netlink message contradicts its own length", EBADMSG, "recv"};
      return part;
    }
    if (header.nlmsg_flags & NLM_F_DUMP_INTR) part.interrupted = true;
    if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR) {
      part.done = true;
      part.failure = answer(header, datagram + part.bytes + NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
      return part;
    }
    part.bytes += std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), size - part.bytes);
  }
  return part;
}

Result NetlinkSocket::dumpAll(uint16_t type, const void *request, size_t size, std::vector<uint8_t> &messages,
                              bool &interrupted) {
  NetlinkSocket socket;
  if (Result failure = socket.open(1024 * 1024)) return failure;
  if (Result failure = socket.sendDump(type, request, size)) return failure;
  std::vector<uint8_t> datagram(kDatagram);
  for (;;) {
    ssize_t length = recv(socket.get(), datagram.data(), datagram.size(), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return Failure{"cannot receive a netlink dump", errno, "recv"};
    DumpPart part = parseDump(datagram.data(), static_cast<size_t>(length));
    messages.insert(messages.end(), datagram.begin(), datagram.begin() + static_cast<ptrdiff_t>(part.bytes));
    interrupted = interrupted || part.interrupted;
    if (part.done) return part.failure;
  }
}

} // namespace hostroute
