// Sockets for netfilter in one network namespace: nfnetlink, and raw ones for
// the legacy tables. The namespace is that of the process or a new one, which
// lives as long as its sockets.
#pragma once

#include <napi.h>

#include <cstdint>

#include "descriptor.h"
#include "error.h"

namespace hostroute {

struct NetfilterSockets {
  Descriptor netlink;
  Descriptor option4;
  Descriptor option6; // closed where IPv6 is off
  uint64_t cookie = 0;

  Result open();
  // The same in a namespace made for it; the caller's own stays.
  Result openInNewNamespace();
};

// openNetfilter(options) of src/native.ts.
Napi::Value openNetfilter(const Napi::CallbackInfo &info);
// storeDescriptor(name, fd): FDSTORE of sd_notify(3).
Napi::Value storeDescriptor(const Napi::CallbackInfo &info);

} // namespace hostroute
