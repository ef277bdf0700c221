// A netlink socket of the network namespace of the thread that opens it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "descriptor.h"
#include "error.h"

namespace hostroute {

class NetlinkSocket {
public:
  // What came of one datagram of a dump.
  struct DumpPart {
    size_t bytes = 0; // messages at the front of the datagram, whole ones
    bool done = false;
    bool interrupted = false; // NLM_F_DUMP_INTR
    Result failure;           // the kernel's answer, with its extended ACK
  };

  // Largest datagram that the kernel makes: 32 KB, for links with many VFs more.
  static constexpr size_t kDatagram = 256 * 1024;

  // receiveBuffer: bytes, forced past the limit where we may.
  Result open(uint32_t receiveBuffer, int protocol = 0 /* NETLINK_ROUTE */);
  Result join(uint32_t group);
  // Strict checking on; `request` is the message after nlmsghdr.
  Result sendDump(uint16_t type, const void *request, size_t size);
  static DumpPart parseDump(const uint8_t *datagram, size_t size);

  // A whole dump at once, for short ones.
  static Result dumpAll(uint16_t type, const void *request, size_t size, std::vector<uint8_t> &messages,
                        bool &interrupted);

  int get() const { return socket_.get(); }

private:
  Descriptor socket_;
};

} // namespace hostroute
