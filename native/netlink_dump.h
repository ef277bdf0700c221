// One netlink dump, received on a thread and handed over in chunks. The thread
// waits when JavaScript is slow, and the kernel's dump with it.
#pragma once

#include <napi.h>

#include <deque>
#include <mutex>
#include <vector>

#include "feed.h"
#include "netlink_socket.h"

namespace hostroute {

class NetlinkDump : public Feed {
public:
  // dumpNetlink(type, request, onChunk, events, protocol) of src/native.ts.
  static Napi::Value start(const Napi::CallbackInfo &info);

  explicit NetlinkDump(Napi::Env env) : deferred_(env) {}

private:
  static constexpr size_t kChunk = 256 * 1024;
  static constexpr size_t kMostQueued = 128; // chunks
  // For the news of what changed before the end of the dump and is told after it (IPv6 multipath routes).
  static constexpr int kLateNewsMilliseconds = 2;

  void run() override;
  void deliver(Napi::Env env, Napi::Function callback) override;
  void push(std::vector<uint8_t> chunk);
  void wakeForRest();
  bool heardEvents() const;
  void settle(Napi::Env env);

  NetlinkSocket socket_;
  NetlinkSocket events_; // closed unless asked for
  Napi::Promise::Deferred deferred_;

  std::mutex mutex_; // the rest
  std::deque<std::vector<uint8_t>> queue_;
  bool finished_ = false;
  bool interrupted_ = false;
  Result failure_;
};

} // namespace hostroute
