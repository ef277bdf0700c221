// The addon: what src/native.ts calls Native.
#include <malloc.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <napi.h>

#include <cerrno>

#include "arguments.h"
#include "attach.h"
#include "bpf_map.h"
#include "bpf_object.h"
#include "environment.h"
#include "libbpf_log.h"
#include "netfilter_socket.h"
#include "netlink_dump.h"
#include "netlink_reader.h"
#include "ring_reader.h"
#include "system.h"

namespace hostroute {

namespace {

Napi::Value openPinnedMap(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!Arguments(info, "openPinnedMap").path(0, "path", path)) return {};
  Descriptor map(bpf_obj_get(path.c_str()));
  if (!map) {
    throwFailure(env, {"cannot open the pinned map " + path, errno, "bpf(BPF_OBJ_GET)", path});
    return {};
  }
  return BpfMap::wrap(env, std::move(map));
}

Napi::Value detached(Napi::Env env, const Result &failure, bool found) {
  if (!failure) return Napi::Boolean::New(env, found);
  throwFailure(env, *failure);
  return {};
}

Napi::Value callDetachPinned(const Napi::CallbackInfo &info) {
  std::string path;
  bool found = false;
  if (!Arguments(info, "detachPinned").path(0, "path", path)) return {};
  Result failure = detachPinned(path, found);
  return detached(info.Env(), failure, found);
}

Napi::Value callDetachClsact(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "detachClsact");
  uint32_t ifindex = 0;
  uint32_t priority = 0;
  bool found = false;
  if (!arguments.number(0, "ifindex", 1, INT32_MAX, ifindex) ||
      !arguments.number(1, "priority", 1, UINT16_MAX, priority))
    return {};
  Result failure = detachClsact(static_cast<int>(ifindex), priority, found);
  return detached(info.Env(), failure, found);
}

// One heap for all threads: they are few and mostly asleep, and each arena of
// its own would hold megabytes that only the start needed.
void shareHeap() {
#ifdef __GLIBC__
  mallopt(M_ARENA_MAX, 1);
#endif
}

// What loading has freed goes back to the kernel; malloc would keep it.
void trimMemory(const Napi::CallbackInfo &) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Napi::Value libbpfVersion(const Napi::CallbackInfo &info) {
  return Napi::String::New(info.Env(), libbpf_version_string() + (*libbpf_version_string() == 'v' ? 1 : 0));
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  shareHeap();
  captureLibbpfLog();
  auto *environment = new Environment();
  environment->mapClass = Napi::Persistent(BpfMap::define(env));
  environment->objectClass = Napi::Persistent(BpfObject::define(env));
  env.SetInstanceData(environment);
  exports.Set("loadObject", Napi::Function::New<BpfObject::load>(env, "loadObject"));
  exports.Set("openPinnedMap", Napi::Function::New<openPinnedMap>(env, "openPinnedMap"));
  exports.Set("detachPinned", Napi::Function::New<callDetachPinned>(env, "detachPinned"));
  exports.Set("detachClsact", Napi::Function::New<callDetachClsact>(env, "detachClsact"));
  exports.Set("readRing", Napi::Function::New<RingReader::open>(env, "readRing"));
  exports.Set("openNetlinkReader", Napi::Function::New<NetlinkReader::open>(env, "openNetlinkReader"));
  exports.Set("dumpNetlink", Napi::Function::New<NetlinkDump::start>(env, "dumpNetlink"));
  exports.Set("openNetfilter", Napi::Function::New<openNetfilter>(env, "openNetfilter"));
  exports.Set("storeDescriptor", Napi::Function::New<storeDescriptor>(env, "storeDescriptor"));
  exports.Set("trimMemory", Napi::Function::New<trimMemory>(env, "trimMemory"));
  exports.Set("libbpfVersion", Napi::Function::New<libbpfVersion>(env, "libbpfVersion"));
  defineSystem(env, exports);
  return exports;
}

} // namespace

NODE_API_MODULE(hostroute, initialize)

} // namespace hostroute
