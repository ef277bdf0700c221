// Events of rtnetlink, received on a thread of their own so that the kernel's
// buffer is emptied also while JavaScript is busy.
#pragma once

#include <napi.h>

#include <deque>
#include <mutex>
#include <vector>

#include "callback_thread.h"
#include "netlink_socket.h"

namespace hostroute {

class NetlinkReader : public CallbackThread {
public:
  // openNetlinkReader(options, onMessages) of src/native.ts.
  static Napi::Value open(const Napi::CallbackInfo &info);

private:
  // Most bytes that wait for JavaScript; past that messages are dropped and an overrun is reported.
  static constexpr size_t kMostQueued = 256 * 1024 * 1024;

  void run() override;
  void deliver(Napi::Env env, Napi::Function callback) override;
  bool receive();
  void endGap();
  void enqueue(const uint8_t *messages, size_t size);

  NetlinkSocket socket_;
  size_t batchBytes_ = 1024 * 1024;
  std::vector<uint8_t> buffers_; // run() only

  std::mutex mutex_; // the rest
  std::deque<std::vector<uint8_t>> queue_;
  size_t queued_ = 0;
  bool gap_ = false;     // messages were lost, and some may still be
  bool overrun_ = false; // told after the next `before_` portions of queue_
  size_t before_ = 0;
};

} // namespace hostroute
