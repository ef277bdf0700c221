// A TAP device of this process's, in the network namespace of the thread that
// opens it. It is gone with its descriptor, however the process ends. What the
// kernel sends to it comes to JavaScript in small portions, so that no turn of
// the event loop takes long; what is too much for that stays in the device's
// queue, which the kernel bounds.
#pragma once

#include <napi.h>

#include <mutex>
#include <string>
#include <vector>

#include "callback_thread.h"

namespace hostroute {

class TapDevice : public CallbackThread {
public:
  // openTap(name, onFrames) of src/native.ts.
  static Napi::Value open(const Napi::CallbackInfo &info);

private:
  // A portion is full when it has so many frames, or bytes (the last frame goes beyond).
  static constexpr size_t kMostFrames = 64;
  static constexpr size_t kMostBytes = 32 * 1024;
  static constexpr size_t kFrame = 64 * 1024 + 64; // what a packet of 65,535 bytes needs, and more

  Result create(const std::string &name);
  void run() override;
  void deliver(Napi::Env env, Napi::Function callback) override;
  // Reads one frame. False: none was there, or the portion is full.
  bool receive();
  // With mutex_ held.
  bool full() const { return ends_.size() >= kMostFrames || bytes_.size() >= kMostBytes; }
  // False: the device does not take it.
  bool write(const uint8_t *frame, size_t size) const;

  Descriptor device_;
  std::string name_;
  uint32_t ifindex_ = 0;
  std::vector<uint8_t> frame_; // of the own thread

  std::mutex mutex_; // the rest
  std::vector<uint8_t> bytes_;
  std::vector<size_t> ends_; // of each frame in bytes_
  bool waiting_ = false;     // a portion waits for JavaScript, or is with it: nothing is read meanwhile
  bool gone_ = false;        // somebody deleted the device
  bool told_ = false;        // and JavaScript knows
};

} // namespace hostroute
