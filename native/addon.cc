// The addon: what src/native.ts calls Native.
#include <malloc.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <napi.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <vector>

#include "arguments.h"
#include "attach.h"
#include "bpf_map.h"
#include "bpf_object.h"
#include "environment.h"
#include "libbpf_log.h"
#include "netfilter_socket.h"
#include "netlink_dump.h"
#include "netlink_reader.h"
#include "object_loader.h"
#include "ring_reader.h"
#include "system.h"
#include "tap_device.h"

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

Napi::Value openMap(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t id = 0;
  if (!Arguments(info, "openMap").number(0, "id", 1, UINT32_MAX, id)) return {};
  Descriptor map(bpf_map_get_fd_by_id(id));
  if (!map) {
    throwFailure(env, {"cannot open map " + std::to_string(id), errno, "bpf(BPF_MAP_GET_FD_BY_ID)"});
    return {};
  }
  return BpfMap::wrap(env, std::move(map));
}

Napi::Value differingMaps(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string directory;
  std::vector<std::string> names;
  if (!Arguments(info, "differingMaps").path(0, "pinDirectory", directory)) return {};
  if (Result failure = findDifferingMaps(directory, names)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Array list = Napi::Array::New(env, names.size());
  for (uint32_t i = 0; i < names.size(); i++)
    list.Set(i, names[i]);
  return list;
}

// Rows of a map as another one has them: pieces are triples of where from, where to and how many bytes.
Napi::Value rearrange(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "rearrange");
  Bytes rows;
  Bytes pieces;
  uint32_t from = 0;
  uint32_t to = 0;
  if (!arguments.bytes(0, "rows", rows) || !arguments.number(1, "from", 1, INT_MAX, from) ||
      !arguments.number(2, "to", 1, INT_MAX, to) || !arguments.bytes(3, "pieces", pieces))
    return {};
  std::vector<uint32_t> words(pieces.size / sizeof(uint32_t));
  memcpy(words.data(), pieces.data, words.size() * sizeof(uint32_t));
  size_t count = rows.size / from;
  for (size_t at = 0; at + 2 < words.size(); at += 3) {
    if (uint64_t{words[at]} + words[at + 2] > from || uint64_t{words[at + 1]} + words[at + 2] > to) {
      throwType(env, "rearrange: pieces must be within the rows");
      return {};
    }
  }
  std::vector<uint8_t> made(count * to);
  for (size_t row = 0; row < count; row++)
    for (size_t at = 0; at + 2 < words.size(); at += 3)
      memcpy(&made[row * to + words[at + 1]], rows.data + row * from + words[at], words[at + 2]);
  return Napi::Buffer<uint8_t>::Copy(env, made.data(), made.size());
}

Napi::Value holdProgram(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!Arguments(info, "holdProgram").path(0, "path", path)) return {};
  auto program = std::make_shared<Descriptor>();
  if (Result failure = openLinkedProgram(path, *program)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("fd", program->get());
  handle.Set("close",
             Napi::Function::New(env, [program](const Napi::CallbackInfo &) { program->reset(); }, "close"));
  return handle;
}

Napi::Value putProgram(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "putProgram");
  std::string path;
  uint32_t program = 0;
  if (!arguments.path(0, "path", path) || !arguments.number(1, "fd", 0, INT_MAX, program)) return {};
  if (Result failure = updatePinned(path, static_cast<int>(program))) throwFailure(env, *failure);
  return env.Undefined();
}

Napi::Value linkedMaps(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  std::vector<uint32_t> ids;
  if (!Arguments(info, "linkedMaps").path(0, "path", path)) return {};
  if (Result failure = readLinkedMaps(path, ids)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Array list = Napi::Array::New(env, ids.size());
  for (uint32_t i = 0; i < ids.size(); i++)
    list.Set(i, ids[i]);
  return list;
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

Napi::Value attachedPrograms(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t ifindex = 0;
  std::vector<AttachedProgram> programs;
  if (!Arguments(info, "attachedPrograms").number(0, "ifindex", 1, INT32_MAX, ifindex)) return {};
  if (Result failure = readAttached(static_cast<int>(ifindex), programs)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Array list = Napi::Array::New(env, programs.size());
  for (uint32_t i = 0; i < programs.size(); i++) {
    Napi::Object program = Napi::Object::New(env);
    program.Set("how", programs[i].how);
    program.Set("where", programs[i].where);
    program.Set("id", programs[i].id);
    list.Set(i, program);
  }
  return list;
}

Napi::Value programName(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t id = 0;
  std::string name;
  if (!Arguments(info, "programName").number(0, "id", 1, UINT32_MAX, id)) return {};
  Result failure = readProgramName(id, name);
  if (!failure) return Napi::String::New(env, name);
  if (failure->error == ENOENT) return env.Null();
  throwFailure(env, *failure);
  return {};
}

// One heap for all threads, also where MALLOC_ARENA_MAX does not say so (src/daemon/main.ts): those of
// readers, whose pages come and go, hold the event loop up for tens of milliseconds.
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
  exports.Set("loadObjectLater", Napi::Function::New<BpfObject::loadLater>(env, "loadObjectLater"));
  exports.Set("openPinnedMap", Napi::Function::New<openPinnedMap>(env, "openPinnedMap"));
  exports.Set("openMap", Napi::Function::New<openMap>(env, "openMap"));
  exports.Set("differingMaps", Napi::Function::New<differingMaps>(env, "differingMaps"));
  exports.Set("rearrange", Napi::Function::New<rearrange>(env, "rearrange"));
  exports.Set("holdProgram", Napi::Function::New<holdProgram>(env, "holdProgram"));
  exports.Set("putProgram", Napi::Function::New<putProgram>(env, "putProgram"));
  exports.Set("linkedMaps", Napi::Function::New<linkedMaps>(env, "linkedMaps"));
  exports.Set("detachPinned", Napi::Function::New<callDetachPinned>(env, "detachPinned"));
  exports.Set("detachClsact", Napi::Function::New<callDetachClsact>(env, "detachClsact"));
  exports.Set("attachedPrograms", Napi::Function::New<attachedPrograms>(env, "attachedPrograms"));
  exports.Set("programName", Napi::Function::New<programName>(env, "programName"));
  exports.Set("readRing", Napi::Function::New<RingReader::open>(env, "readRing"));
  exports.Set("openNetlinkReader", Napi::Function::New<NetlinkReader::open>(env, "openNetlinkReader"));
  exports.Set("openTap", Napi::Function::New<TapDevice::open>(env, "openTap"));
  exports.Set("dumpNetlink", Napi::Function::New<NetlinkDump::start>(env, "dumpNetlink"));
  exports.Set("dumpRoutes", Napi::Function::New<NetlinkDump::startRoutes>(env, "dumpRoutes"));
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
