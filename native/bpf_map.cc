#include "bpf_map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <cerrno>
#include <vector>

#include "arguments.h"
#include "environment.h"
#include "map_batch.h"
#include "map_layout.h"

namespace hostroute {

namespace {

constexpr uint32_t kMostOfBatch = 1 << 20;

constexpr napi_type_tag kTag = {0x5d0f7f0b3c2e4a11, 0x9a6c1e8824b70f35};

bool isPerCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY ||
         type == BPF_MAP_TYPE_LRU_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

} // namespace

Result MapShape::read(int map, MapShape &out) {
  struct bpf_map_info info = {};
  uint32_t length = sizeof(info);
  if (int failed = bpf_map_get_info_by_fd(map, &info, &length))
    return Failure{"cannot read the properties of a BPF map", -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)"};
  out.name = info.name;
  out.type = info.type;
  out.keySize = info.key_size;
  out.valueSize = info.value_size;
  out.valueBytes = info.value_size;
  out.maxEntries = info.max_entries;
  out.flags = info.map_flags;
  out.id = info.id;
  if (!isPerCpu(info.type)) return std::nullopt;
  int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return Failure{"cannot count the possible CPUs", -cpus, "read"};
  out.valueSize = (info.value_size + 7) / 8 * 8;
  out.valueBytes = size_t{out.valueSize} * static_cast<size_t>(cpus);
  return std::nullopt;
}

Napi::Function BpfMap::define(Napi::Env env) {
  return DefineClass(env, "BpfMap",
                     {InstanceAccessor<&BpfMap::info>("info"), InstanceMethod<&BpfMap::lookup>("lookup"),
                      InstanceMethod<&BpfMap::update>("update"), InstanceMethod<&BpfMap::remove>("delete"),
                      InstanceMethod<&BpfMap::updateBatch>("updateBatch"),
                      InstanceMethod<&BpfMap::deleteBatch>("deleteBatch"),
                      InstanceMethod<&BpfMap::readBatch>("readBatch"), InstanceMethod<&BpfMap::dump>("dump"),
                      InstanceMethod<&BpfMap::dumpPresent>("dumpPresent"),
                      InstanceMethod<&BpfMap::layout>("layout"), InstanceMethod<&BpfMap::pin>("pin"),
                      InstanceMethod<&BpfMap::become>("become"), InstanceMethod<&BpfMap::close>("close")});
}

// An object made by JavaScript itself is a closed map.
BpfMap::BpfMap(const Napi::CallbackInfo &info) : Napi::ObjectWrap<BpfMap>(info) {
  info.This().As<Napi::Object>().TypeTag(&kTag);
}

Napi::Value BpfMap::wrap(Napi::Env env, Descriptor map) {
  MapShape shape;
  if (Result failure = MapShape::read(map.get(), shape)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Object object = Environment::of(env).mapClass.New({});
  if (object.IsEmpty()) return {};
  BpfMap *self = Unwrap(object);
  self->map_ = std::move(map);
  self->shape_ = shape;
  return object;
}

BpfMap *BpfMap::unwrap(Napi::Value value, const std::string &what) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) {
    throwType(value.Env(), what + " must be a BpfMap");
    return nullptr;
  }
  BpfMap *map = Unwrap(value.As<Napi::Object>());
  return map && map->isOpen(value.Env()) ? map : nullptr;
}

bool BpfMap::isOpen(Napi::Env env) const {
  if (map_) return true;
  throwClosed(env, shape_.name.empty() ? "the BPF map" : ("the BPF map " + shape_.name).c_str());
  return false;
}

Failure BpfMap::failure(const char *verb, int error, const char *syscall) const {
  return {std::string("cannot ") + verb + " map " + shape_.name, error, syscall};
}

Napi::Value BpfMap::info(const Napi::CallbackInfo &info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("name", shape_.name);
  result.Set("type", shape_.type);
  result.Set("keySize", shape_.keySize);
  result.Set("valueSize", shape_.valueSize);
  result.Set("maxEntries", shape_.maxEntries);
  result.Set("id", shape_.id);
  return result;
}

Napi::Value BpfMap::lookup(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Bytes key;
  if (!isOpen(env) || !Arguments(info, "lookup").bytes(0, "key", shape_.keySize, key)) return {};
  std::vector<uint8_t> value(shape_.valueBytes);
  int failed = bpf_map_lookup_elem(map_.get(), key.data, value.data());
  if (failed == -ENOENT) return env.Null();
  if (failed) {
    throwFailure(env, failure("look up a key in", -failed, "bpf(BPF_MAP_LOOKUP_ELEM)"));
    return {};
  }
  return Napi::Buffer<uint8_t>::Copy(env, value.data(), value.size());
}

Napi::Value BpfMap::update(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "update");
  Bytes key;
  Bytes value;
  uint32_t flags = BPF_ANY;
  if (!isOpen(env) || !arguments.bytes(0, "key", shape_.keySize, key) ||
      !arguments.bytes(1, "value", shape_.valueBytes, value))
    return {};
  if (!info[2].IsUndefined() && !arguments.number(2, "flags", BPF_ANY, BPF_EXIST, flags)) return {};
  if (int failed = bpf_map_update_elem(map_.get(), key.data, value.data, flags))
    throwFailure(env, failure("write to", -failed, "bpf(BPF_MAP_UPDATE_ELEM)"));
  return env.Undefined();
}

Napi::Value BpfMap::remove(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Bytes key;
  if (!isOpen(env) || !Arguments(info, "delete").bytes(0, "key", shape_.keySize, key)) return {};
  int failed = bpf_map_delete_elem(map_.get(), key.data);
  if (failed && failed != -ENOENT) {
    throwFailure(env, failure("delete from", -failed, "bpf(BPF_MAP_DELETE_ELEM)"));
    return {};
  }
  return Napi::Boolean::New(env, !failed);
}

Napi::Value BpfMap::updateBatch(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "updateBatch");
  Bytes keys;
  Bytes values;
  uint32_t count = 0;
  if (!isOpen(env) || !arguments.number(2, "count", 0, UINT32_MAX, count) ||
      !arguments.bytes(0, "keys", size_t{count} * shape_.keySize, keys) ||
      !arguments.bytes(1, "values", count * shape_.valueBytes, values))
    return {};
  uint32_t written = 0;
  if (int error = updateEntries(map_.get(), shape_, keys.data, values.data, count, written)) {
    Napi::Error thrown = makeError(env, failure("write to", error, "bpf(BPF_MAP_UPDATE_BATCH)"));
    thrown.Set("written", Napi::Number::New(env, written));
    thrown.ThrowAsJavaScriptException();
    return {};
  }
  return Napi::Number::New(env, written);
}

Napi::Value BpfMap::deleteBatch(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "deleteBatch");
  Bytes keys;
  uint32_t count = 0;
  if (!isOpen(env) || !arguments.number(1, "count", 0, UINT32_MAX, count) ||
      !arguments.bytes(0, "keys", size_t{count} * shape_.keySize, keys))
    return {};
  uint32_t deleted = 0;
  if (int error = deleteEntries(map_.get(), shape_, keys.data, count, deleted)) {
    throwFailure(env, failure("delete from", error, "bpf(BPF_MAP_DELETE_BATCH)"));
    return {};
  }
  return Napi::Number::New(env, deleted);
}

Napi::Value BpfMap::readBatch(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "readBatch");
  uint32_t most = 0;
  std::vector<uint8_t> position;
  if (!isOpen(env) || !arguments.number(1, "most", 1, kMostOfBatch, most)) return {};
  bool readable = isHash(shape_.type) || shape_.type == BPF_MAP_TYPE_LPM_TRIE;
  if (!info[0].IsNull()) {
    Bytes bytes;
    size_t size = isHash(shape_.type) ? sizeof(uint32_t) : shape_.keySize;
    if (!arguments.bytes(0, "position", size, bytes)) return {};
    position.assign(bytes.data, bytes.data + bytes.size);
  }
  std::vector<uint8_t> keys;
  std::vector<uint8_t> values;
  int error = readable ? readNextEntries(map_.get(), shape_, position, most, keys, values) : EINVAL;
  if (error) {
    throwFailure(env, failure("read", error, "bpf(BPF_MAP_LOOKUP_BATCH)"));
    return {};
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("keys", Napi::Buffer<uint8_t>::Copy(env, keys.data(), keys.size()));
  result.Set("values", Napi::Buffer<uint8_t>::Copy(env, values.data(), values.size()));
  result.Set("count", static_cast<uint32_t>(keys.size() / shape_.keySize));
  result.Set("next", position.empty()
                         ? env.Null()
                         : Napi::Value(Napi::Buffer<uint8_t>::Copy(env, position.data(), position.size())));
  return result;
}

Napi::Value BpfMap::dump(const Napi::CallbackInfo &info) {
  return dumpBy(info.Env(), readEntries);
}

Napi::Value BpfMap::dumpPresent(const Napi::CallbackInfo &info) {
  return dumpBy(info.Env(), readPresentEntries);
}

Napi::Value BpfMap::dumpBy(Napi::Env env, Reader read) const {
  if (!isOpen(env)) return {};
  std::vector<uint8_t> keys;
  std::vector<uint8_t> values;
  if (int error = read(map_.get(), shape_, keys, values)) {
    throwFailure(env, failure("dump", error, "bpf(BPF_MAP_LOOKUP_BATCH)"));
    return {};
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("keys", Napi::Buffer<uint8_t>::Copy(env, keys.data(), keys.size()));
  result.Set("values", Napi::Buffer<uint8_t>::Copy(env, values.data(), values.size()));
  result.Set("count", static_cast<uint32_t>(keys.size() / shape_.keySize));
  return result;
}

Napi::Value BpfMap::layout(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  if (!isOpen(env)) return {};
  std::string text;
  if (Result failed = KernelTypes().describe(map_.get(), text)) {
    throwFailure(env, *failed);
    return {};
  }
  return Napi::String::New(env, text);
}

Napi::Value BpfMap::pin(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!isOpen(env) || !Arguments(info, "pin").path(0, "path", path)) return {};
  if (bpf_obj_pin(map_.get(), path.c_str()) != 0)
    throwFailure(env, {"cannot pin map " + shape_.name, errno, "bpf(BPF_OBJ_PIN)", path});
  return env.Undefined();
}

Napi::Value BpfMap::become(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  BpfMap *other = unwrap(info[0], "become: map");
  if (!other || !isOpen(env)) return {};
  if (other == this) return env.Undefined();
  map_ = std::move(other->map_);
  shape_ = other->shape_;
  return env.Undefined();
}

Napi::Value BpfMap::close(const Napi::CallbackInfo &info) {
  map_.reset();
  return info.Env().Undefined();
}

} // namespace hostroute
