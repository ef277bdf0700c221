// Records of a ring buffer map. When JavaScript is slow the records stay in the
// ring, and the programs count what does not fit.
#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

#include "callback_thread.h"

namespace hostroute {

class RingReader : public CallbackThread {
public:
  // readRing(map, onRecords) of src/native.ts.
  static Napi::Value open(const Napi::CallbackInfo &info);

private:
  struct RingDeleter {
    void operator()(struct ring_buffer *ring) const { ring_buffer__free(ring); }
  };
  // Most bytes of records that wait for JavaScript.
  static constexpr size_t kMostQueued = 1024 * 1024;

  static int onRecord(void *reader, void *data, size_t size);
  void run() override;
  void deliver(Napi::Env env, Napi::Function callback) override;

  Descriptor map_;
  std::unique_ptr<struct ring_buffer, RingDeleter> ring_;

  std::mutex mutex_; // the rest
  std::vector<uint8_t> bytes_;
  std::vector<size_t> ends_; // of each record in bytes_
};

} // namespace hostroute
