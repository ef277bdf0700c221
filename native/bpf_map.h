// A BPF map held by a descriptor of its own: it outlives the object it came
// from. Keys and values are raw bytes as in bpf/types.h.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "descriptor.h"
#include "error.h"

namespace hostroute {

struct MapShape {
  std::string name;
  uint32_t type = 0;
  uint32_t keySize = 0;
  // Bytes of one value in user space; of one CPU's value for per-CPU maps.
  uint32_t valueSize = 0;
  // valueSize, times the possible CPUs for per-CPU maps.
  size_t valueBytes = 0;
  uint32_t maxEntries = 0;
  uint32_t flags = 0;
  uint32_t id = 0;

  static Result read(int map, MapShape &out);
};

class BpfMap : public Napi::ObjectWrap<BpfMap> {
public:
  static Napi::Function define(Napi::Env env);
  // The JavaScript object of a map; empty with an exception pending on failure.
  static Napi::Value wrap(Napi::Env env, Descriptor map);
  // The map behind a JavaScript value; nullptr with a TypeError pending if it is not an open map.
  static BpfMap *unwrap(Napi::Value value, const std::string &what);

  explicit BpfMap(const Napi::CallbackInfo &info);

  int descriptor() const { return map_.get(); }
  const MapShape &shape() const { return shape_; }

private:
  using Reader = int (*)(int map, const MapShape &, std::vector<uint8_t> &keys, std::vector<uint8_t> &values);

  Napi::Value info(const Napi::CallbackInfo &info);
  Napi::Value lookup(const Napi::CallbackInfo &info);
  Napi::Value update(const Napi::CallbackInfo &info);
  Napi::Value remove(const Napi::CallbackInfo &info);
  Napi::Value updateBatch(const Napi::CallbackInfo &info);
  Napi::Value deleteBatch(const Napi::CallbackInfo &info);
  Napi::Value readBatch(const Napi::CallbackInfo &info);
  Napi::Value dump(const Napi::CallbackInfo &info);
  Napi::Value dumpPresent(const Napi::CallbackInfo &info);
  Napi::Value layout(const Napi::CallbackInfo &info);
  Napi::Value pin(const Napi::CallbackInfo &info);
  Napi::Value become(const Napi::CallbackInfo &info);
  Napi::Value close(const Napi::CallbackInfo &info);

  Napi::Value dumpBy(Napi::Env env, Reader read) const;
  bool isOpen(Napi::Env env) const;
  Failure failure(const char *verb, int error, const char *syscall) const;

  Descriptor map_;
  MapShape shape_;
};

} // namespace hostroute
