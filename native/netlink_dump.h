// One netlink dump, received on a thread and handed over in chunks. The thread
// waits when JavaScript is slow, and the kernel's dump with it.
#pragma once

#include <napi.h>

#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "callback_thread.h"
#include "netlink_socket.h"
#include "route_parts.h"

namespace hostroute {

class NetlinkDump : public CallbackThread {
public:
  // dumpNetlink(type, request, onChunk, events, protocol) of src/native.ts.
  static Napi::Value start(const Napi::CallbackInfo &info);
  // dumpRoutes(request, onRoutes, events).
  static Napi::Value startRoutes(const Napi::CallbackInfo &info);

  explicit NetlinkDump(Napi::Env env) : deferred_(env) {}

private:
  static constexpr size_t kChunk = 256 * 1024;
  static constexpr size_t kPart = 64 * 1024;
  static constexpr size_t kMostQueued = 128; // chunks
  // For the news of what changed before the end of the dump and is told after it (IPv6 multipath routes).
  static constexpr int kLateNewsMilliseconds = 2;

  // The request as it goes behind nlmsghdr.
  Napi::Value begin(Napi::Env env, uint16_t type, Bytes request, Napi::Function callback, uint32_t group,
                    uint32_t protocol);
  void run() override;
  void deliver(Napi::Env env, Napi::Function callback) override;
  void take(const uint8_t *messages, size_t size);
  void push(RoutePart chunk);
  napi_status hand(Napi::Env env, Napi::Function callback, const RoutePart &chunk) const;
  void wakeForRest();
  bool heardEvents() const;
  void settle(Napi::Env env);

  NetlinkSocket socket_;
  NetlinkSocket events_; // closed unless asked for
  Napi::Promise::Deferred deferred_;
  // Of routes. Without it a chunk is messages, in `kinds`.
  std::optional<RouteGatherer> gatherer_;
  RoutePart gathered_;

  std::mutex mutex_; // the rest
  std::deque<RoutePart> queue_;
  bool finished_ = false;
  bool interrupted_ = false;
  Result failure_;
};

} // namespace hostroute
