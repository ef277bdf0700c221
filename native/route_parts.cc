#include "route_parts.h"

#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace hostroute {

void RouteGatherer::add(const uint8_t *messages, size_t size) {
  struct nlmsghdr header = {};
  for (size_t at = 0; at + sizeof(header) <= size;) {
    memcpy(&header, messages + at, sizeof(header));
    addMessage(messages + at, header.nlmsg_len);
    at += std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), size - at);
  }
}

void RouteGatherer::addMessage(const uint8_t *message, size_t size) {
  Destination destination;
  bool apart = takeApart(message, size, destination);
  if (!apart) kind_.assign(reinterpret_cast<const char *>(message), size);
  kind_.resize(NLMSG_ALIGN(kind_.size()));
  part_.records.push_back(numberOf(kind_) << 8 | (apart ? destination.length : kWholeKind));
  for (size_t at = 0; at < addressBytes(); at += sizeof(uint32_t)) {
    uint32_t word = 0;
    memcpy(&word, destination.bytes + at, sizeof(word));
    part_.records.push_back(ntohl(word));
  }
}

// A cache entry's times (RTA_CACHEINFO) say nothing of where packets go, and would make each IPv6 route
// that ends some day one of its own kind.
bool RouteGatherer::takeApart(const uint8_t *message, size_t size, Destination &destination) {
  constexpr size_t kFirst = NLMSG_ALIGN(sizeof(struct nlmsghdr)) + NLMSG_ALIGN(sizeof(struct rtmsg));
  struct nlmsghdr header = {};
  struct rtmsg route = {};
  if (size < kFirst) return false;
  memcpy(&header, message, sizeof(header));
  memcpy(&route, message + NLMSG_HDRLEN, sizeof(route));
  if (header.nlmsg_type != RTM_NEWROUTE || route.rtm_family != family_ ||
      route.rtm_dst_len > addressBytes() * 8)
    return false;
  destination.length = std::exchange(route.rtm_dst_len, uint8_t{0});
  kind_.assign(kFirst, '\0');
  bool found = false;
  for (size_t at = kFirst; at < size;) {
    struct rtattr attribute = {};
    if (size - at < sizeof(attribute)) return false;
    memcpy(&attribute, message + at, sizeof(attribute));
    if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > size - at) return false;
    size_t step = std::min<size_t>(RTA_ALIGN(attribute.rta_len), size - at);
    if (attribute.rta_type == RTA_DST) {
      if (found || attribute.rta_len != RTA_LENGTH(addressBytes())) return false;
      memcpy(destination.bytes, message + at + RTA_LENGTH(0), addressBytes());
      found = true;
    } else if (attribute.rta_type != RTA_CACHEINFO) {
      kind_.append(reinterpret_cast<const char *>(message + at), step);
    }
    at += step;
  }
  header.nlmsg_len = static_cast<uint32_t>(kind_.size());
  memcpy(&kind_[0], &header, sizeof(header));
  memcpy(&kind_[NLMSG_HDRLEN], &route, sizeof(route));
  return true;
}

uint32_t RouteGatherer::numberOf(const std::string &kind) {
  if (count_ > 0 && kind == last_) return lastNumber_;
  auto [entry, isNew] = numbers_.try_emplace(kind, count_);
  if (isNew) {
    part_.kinds.insert(part_.kinds.end(), kind.begin(), kind.end());
    count_++;
  }
  last_ = kind;
  lastNumber_ = entry->second;
  return lastNumber_;
}

RoutePart RouteGatherer::take() {
  numbers_.clear();
  count_ = 0;
  return std::exchange(part_, {});
}

size_t RouteGatherer::addressBytes() const {
  return family_ == AF_INET ? 4 : 16;
}

} // namespace hostroute
