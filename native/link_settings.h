// Settings of a network device in the calling thread's network namespace.
#pragma once

#include <cstdint>

#include "error.h"

namespace hostroute {

// The kernel makes no IPv6 address for the device of its own accord
// (IFLA_INET6_ADDR_GEN_MODE none). Fails with EAFNOSUPPORT where IPv6 is off.
Result generateNoAddresses(int ifindex);

// MTU in bytes, length of the queue in packets; then the device is set up.
Result setUp(int ifindex, uint32_t mtu, uint32_t queue);

} // namespace hostroute
