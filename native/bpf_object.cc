#include "bpf_object.h"

#include <bpf/bpf.h>
#include <fcntl.h>

#include <cerrno>
#include <climits>
#include <memory>

#include "arguments.h"
#include "bpf_map.h"
#include "environment.h"
#include "libbpf_log.h"
#include "test_run.h"

namespace hostroute {

namespace {

bool readSizes(Napi::Env env, Napi::Object sizes, std::map<std::string, uint32_t> &out) {
  Napi::Array names = sizes.GetPropertyNames();
  if (env.IsExceptionPending()) return false;
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string name;
    Napi::Value key = names[i];
    if (!readString(env, key, "loadObject: sizes", name)) return false;
    Napi::Value size = sizes.Get(name);
    if (env.IsExceptionPending() ||
        !readNumber(env, size, "loadObject: sizes." + name, 1, UINT32_MAX, out[name]))
      return false;
  }
  return true;
}

bool readNames(Napi::Env env, Napi::Value value, const std::string &what, std::vector<std::string> &out) {
  if (!value.IsArray()) {
    throwType(env, "loadObject: " + what + " must be an array");
    return false;
  }
  Napi::Array names = value.As<Napi::Array>();
  for (uint32_t i = 0; i < names.Length(); i++) {
    std::string name;
    Napi::Value item = names[i];
    if (env.IsExceptionPending() ||
        !readString(env, item, "loadObject: " + what + "[" + std::to_string(i) + "]", name))
      return false;
    out.push_back(name);
  }
  return true;
}

// An optional property that is a string.
bool readOption(Napi::Env env, Napi::Object options, const char *name, std::string &out) {
  Napi::Value value = options.Get(name);
  if (env.IsExceptionPending()) return false;
  return value.IsUndefined() || readString(env, value, std::string("loadObject: ") + name, out);
}

bool readOptions(Napi::Env env, Napi::Object options, LoadOptions &out) {
  if (!readOption(env, options, "pinDirectory", out.pinDirectory) ||
      !readOption(env, options, "freshDirectory", out.freshDirectory) ||
      !readOption(env, options, "object", out.object) ||
      !readOption(env, options, "objectFile", out.objectFile))
    return false;
  Napi::Value sizes = options.Get("sizes");
  if (env.IsExceptionPending()) return false;
  if (!sizes.IsUndefined()) {
    if (!sizes.IsObject()) {
      throwType(env, "loadObject: sizes must be an object");
      return false;
    }
    if (!readSizes(env, sizes.As<Napi::Object>(), out.sizes)) return false;
  }
  Napi::Value fresh = options.Get("fresh");
  if (env.IsExceptionPending()) return false;
  if (!fresh.IsUndefined()) {
    std::vector<std::string> names;
    if (!readNames(env, fresh, "fresh", names)) return false;
    out.fresh.insert(names.begin(), names.end());
  }
  Napi::Value programs = options.Get("programs");
  if (env.IsExceptionPending()) return false;
  if (programs.IsUndefined()) return true;
  out.programs.emplace();
  return readNames(env, programs, "programs", *out.programs);
}

// The verifier takes a second.
class LoadWorker : public Napi::AsyncWorker {
public:
  LoadWorker(Napi::Env env, LoadOptions options)
      : Napi::AsyncWorker(env), deferred_(env), options_(std::move(options)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override { failure_ = loadObject(options_, loaded_); }

  void OnOK() override {
    Napi::Env env = Env();
    if (failure_) {
      deferred_.Reject(makeError(env, *failure_).Value());
      return;
    }
    Napi::Value object = BpfObject::wrap(env, std::move(loaded_));
    if (object.IsEmpty())
      deferred_.Reject(env.GetAndClearPendingException().Value());
    else
      deferred_.Resolve(object);
  }

private:
  Napi::Promise::Deferred deferred_;
  LoadOptions options_;
  LoadedObject loaded_;
  Result failure_;
};

} // namespace

Napi::Function BpfObject::define(Napi::Env env) {
  return DefineClass(
      env, "BpfObject",
      {InstanceMethod<&BpfObject::map>("map"), InstanceAccessor<&BpfObject::reused>("reused"),
       InstanceMethod<&BpfObject::readControl>("readControl"),
       InstanceMethod<&BpfObject::writeControl>("writeControl"),
       InstanceMethod<&BpfObject::testRun>("testRun"), InstanceMethod<&BpfObject::programId>("programId"),
       InstanceMethod<&BpfObject::attachTcx>("attachTcx"), InstanceMethod<&BpfObject::linkTcx>("linkTcx"),
       InstanceMethod<&BpfObject::updateLink>("updateLink"),
       InstanceMethod<&BpfObject::attachNetkit>("attachNetkit"),
       InstanceMethod<&BpfObject::attachClsact>("attachClsact"),
       InstanceMethod<&BpfObject::attachXdp>("attachXdp"),
       InstanceMethod<&BpfObject::attachTrace>("attachTrace"),
       InstanceMethod<&BpfObject::attachKprobe>("attachKprobe"),
       InstanceMethod<&BpfObject::attachRawTracepoint>("attachRawTracepoint"),
       InstanceMethod<&BpfObject::attachCgroup>("attachCgroup"), InstanceMethod<&BpfObject::close>("close")});
}

// An object made by JavaScript itself is a closed one.
BpfObject::BpfObject(const Napi::CallbackInfo &info) : Napi::ObjectWrap<BpfObject>(info) {}

Napi::Value BpfObject::load(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Object options;
  LoadOptions chosen;
  if (!Arguments(info, "loadObject").object(0, "options", options) || !readOptions(env, options, chosen))
    return {};
  LoadedObject loaded;
  if (Result failure = loadObject(chosen, loaded)) {
    throwFailure(env, *failure);
    return {};
  }
  return wrap(env, std::move(loaded));
}

Napi::Value BpfObject::loadLater(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Object options;
  LoadOptions chosen;
  if (!Arguments(info, "loadObjectLater").object(0, "options", options) || !readOptions(env, options, chosen))
    return {};
  auto *worker = new LoadWorker(env, std::move(chosen)); // deletes itself
  Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

Napi::Value BpfObject::wrap(Napi::Env env, LoadedObject loaded) {
  Napi::Object object = Environment::of(env).objectClass.New({});
  if (object.IsEmpty()) return {};
  BpfObject *self = Unwrap(object);
  if (loaded.control) {
    if (Result failure =
            self->control_.open(bpf_map__fd(loaded.control), bpf_map__value_size(loaded.control))) {
      throwFailure(env, *failure);
      return {};
    }
  }
  self->loaded_ = std::move(loaded);
  return object;
}

bool BpfObject::isOpen(Napi::Env env) const {
  if (loaded_.object) return true;
  throwClosed(env, "the BPF object");
  return false;
}

bool BpfObject::program(const Napi::CallbackInfo &info, const char *method, Program &out,
                        uint32_t *type) const {
  Napi::Env env = info.Env();
  if (!isOpen(env) || !Arguments(info, method).string(0, "program", out.name)) return false;
  struct bpf_program *found = bpf_object__find_program_by_name(loaded_.object.get(), out.name.c_str());
  out.descriptor = found ? bpf_program__fd(found) : -1;
  if (out.descriptor < 0) {
    throwFailure(env, {std::string(method) + ": the BPF object has no " + (found ? "loaded " : "") +
                           "program " + out.name,
                       ENOENT, method});
    return false;
  }
  out.expectedAttachType = bpf_program__expected_attach_type(found);
  if (type) *type = bpf_program__type(found);
  return true;
}

Napi::Value BpfObject::map(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string name;
  if (!isOpen(env) || !Arguments(info, "map").string(0, "name", name)) return {};
  struct bpf_map *map =
      name == "control" ? loaded_.control : bpf_object__find_map_by_name(loaded_.object.get(), name.c_str());
  int descriptor = map ? fcntl(bpf_map__fd(map), F_DUPFD_CLOEXEC, 3) : -1;
  if (descriptor < 0) {
    throwFailure(env, {"map: the BPF object has no map " + name, map ? errno : ENOENT, "fcntl"});
    return {};
  }
  return BpfMap::wrap(env, Descriptor(descriptor));
}

Napi::Value BpfObject::reused(const Napi::CallbackInfo &info) {
  Napi::Array names = Napi::Array::New(info.Env(), loaded_.reused.size());
  for (uint32_t i = 0; i < loaded_.reused.size(); i++)
    names.Set(i, loaded_.reused[i]);
  return names;
}

Napi::Value BpfObject::readControl(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  if (!isOpen(env)) return {};
  auto bytes = Napi::Buffer<uint8_t>::New(env, control_.size());
  if (control_ && bytes.Data()) control_.read(bytes.Data());
  return bytes;
}

Napi::Value BpfObject::writeControl(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "writeControl");
  uint32_t offset = 0;
  Bytes bytes;
  if (!isOpen(env) || !arguments.number(0, "offset", 0, UINT32_MAX, offset) ||
      !arguments.bytes(1, "bytes", bytes))
    return {};
  if (offset > control_.size() || bytes.size > control_.size() - offset) {
    throwType(env, "writeControl: offset and bytes must be within the " + std::to_string(control_.size()) +
                       " bytes of the section");
    return {};
  }
  if (bytes.size) control_.write(offset, bytes.data, bytes.size);
  return env.Undefined();
}

namespace {

/*
 * Not Napi::Object's Get and Set: they make an error of a failure, and Node ends
 * the process when there is none to be made, as in a worker that is being ended.
 */
Napi::Value property(Napi::Env env, const Napi::Object &object, const char *name) {
  napi_value value = nullptr;
  if (napi_get_named_property(env, object, name, &value) != napi_ok) return {};
  return {env, value};
}

void setBytes(Napi::Env env, const Napi::Object &object, const char *name,
              const std::vector<uint8_t> &bytes) {
  napi_value value = nullptr;
  if (napi_create_buffer_copy(env, bytes.size(), bytes.data(), nullptr, &value) == napi_ok)
    napi_set_named_property(env, object, name, value);
}

} // namespace

Napi::Value BpfObject::testRun(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Program chosen;
  uint32_t type = 0;
  Napi::Object options;
  if (!program(info, "testRun", chosen, &type) || !Arguments(info, "testRun").object(1, "options", options))
    return {};
  TestRun run;
  for (auto [name, target] : {std::pair{"data", &run.data}, {"context", &run.context}}) {
    Napi::Value value = property(env, options, name);
    Bytes bytes;
    if (value.IsEmpty()) return {};
    if (value.IsUndefined()) continue;
    if (!readBytes(env, value, std::string("testRun: ") + name, bytes)) return {};
    target->assign(bytes.data, bytes.data + bytes.size);
  }
  for (auto [name, target] : {std::pair{"repeat", &run.repeat}, {"ifindex", &run.ifindex}}) {
    Napi::Value value = property(env, options, name);
    if (value.IsEmpty()) return {};
    if (!value.IsUndefined() && !readNumber(env, value, std::string("testRun: ") + name, 0, INT_MAX, *target))
      return {};
  }
  Napi::Value complete = property(env, options, "checksumComplete");
  if (complete.IsEmpty()) return {};
  run.checksumComplete = complete.IsBoolean() && complete.As<Napi::Boolean>().Value();
  if (Result failure = hostroute::testRun(chosen.descriptor, type, chosen.name, run)) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Object result = Napi::Object::New(env);
  napi_set_named_property(env, result, "retval", Napi::Number::New(env, run.retval));
  setBytes(env, result, "data", run.data);
  setBytes(env, result, "context", run.context);
  napi_set_named_property(env, result, "duration", Napi::Number::New(env, run.duration));
  return result;
}

Napi::Value BpfObject::programId(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Program chosen;
  if (!program(info, "programId", chosen)) return {};
  struct bpf_prog_info details = {};
  uint32_t length = sizeof(details);
  if (int failed = bpf_prog_get_info_by_fd(chosen.descriptor, &details, &length)) {
    throwFailure(env, {"cannot read the properties of program " + chosen.name, -failed,
                       "bpf(BPF_OBJ_GET_INFO_BY_FD)"});
    return {};
  }
  return Napi::Number::New(env, details.id);
}

Napi::Value BpfObject::attached(Napi::Env env, const Result &failure, Attachment &attachment) {
  if (failure) {
    throwFailure(env, *failure);
    return {};
  }
  if (attachment.link) links_.push_back(std::move(attachment.link));
  Napi::Object result = Napi::Object::New(env);
  result.Set("replaced", attachment.replaced);
  return result;
}

Napi::Value BpfObject::attachTcx(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "attachTcx");
  Program chosen;
  uint32_t ifindex = 0;
  bool egress = false;
  std::string pinPath;
  if (!program(info, "attachTcx", chosen) || !arguments.number(1, "ifindex", 1, INT_MAX, ifindex) ||
      !arguments.optionalString(2, "pinPath", pinPath) || !arguments.optionalBoolean(3, "egress", egress))
    return {};
  Attachment attachment;
  Result failure = attachDevice(chosen, egress ? Hook::TcxEgress : Hook::TcxIngress,
                                static_cast<int>(ifindex), pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

// The link lives as long as its handle, not as this object.
Napi::Value BpfObject::linkTcx(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Program chosen;
  uint32_t ifindex = 0;
  if (!program(info, "linkTcx", chosen) ||
      !Arguments(info, "linkTcx").number(1, "ifindex", 1, INT_MAX, ifindex))
    return {};
  Attachment attachment;
  if (Result failure =
          attachDevice(chosen, Hook::TcxIngress, static_cast<int>(ifindex), std::string(), attachment)) {
    throwFailure(env, *failure);
    return {};
  }
  auto link = std::make_shared<Descriptor>(std::move(attachment.link));
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("fd", link->get());
  handle.Set("close",
             Napi::Function::New(env, [link](const Napi::CallbackInfo &) { link->reset(); }, "close"));
  return handle;
}

Napi::Value BpfObject::updateLink(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Program chosen;
  uint32_t link = 0;
  if (!program(info, "updateLink", chosen) ||
      !Arguments(info, "updateLink").number(1, "fd", 0, INT_MAX, link))
    return {};
  if (int failed = bpf_link_update(static_cast<int>(link), chosen.descriptor, nullptr))
    throwFailure(env, {"cannot put " + chosen.name + " into the link", -failed, "bpf(BPF_LINK_UPDATE)"});
  return env.Undefined();
}

Napi::Value BpfObject::attachNetkit(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "attachNetkit");
  Program chosen;
  uint32_t ifindex = 0;
  bool peer = false;
  std::string pinPath;
  if (!program(info, "attachNetkit", chosen) || !arguments.number(1, "ifindex", 1, INT_MAX, ifindex) ||
      !arguments.boolean(2, "peer", peer) || !arguments.optionalString(3, "pinPath", pinPath))
    return {};
  Attachment attachment;
  Result failure = attachDevice(chosen, peer ? Hook::NetkitPeer : Hook::NetkitPrimary,
                                static_cast<int>(ifindex), pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::attachClsact(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "attachClsact");
  Program chosen;
  uint32_t ifindex = 0;
  uint32_t priority = 0;
  bool egress = false;
  if (!program(info, "attachClsact", chosen) || !arguments.number(1, "ifindex", 1, INT_MAX, ifindex) ||
      !arguments.number(2, "priority", 1, UINT16_MAX, priority) ||
      !arguments.optionalBoolean(3, "egress", egress))
    return {};
  Attachment attachment;
  Result failure = hostroute::attachClsact(chosen, static_cast<int>(ifindex), priority, egress, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::attachXdp(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "attachXdp");
  Program chosen;
  uint32_t ifindex = 0;
  std::string mode;
  std::string pinPath;
  if (!program(info, "attachXdp", chosen) || !arguments.number(1, "ifindex", 1, INT_MAX, ifindex) ||
      !arguments.string(2, "mode", mode) || !arguments.optionalString(3, "pinPath", pinPath))
    return {};
  if (mode != "native" && mode != "generic") {
    throwType(info.Env(), "attachXdp: mode must be 'native' or 'generic'");
    return {};
  }
  Attachment attachment;
  Result failure =
      hostroute::attachXdp(chosen, static_cast<int>(ifindex), mode == "native", pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::attachTrace(const Napi::CallbackInfo &info) {
  Program chosen;
  std::string pinPath;
  if (!program(info, "attachTrace", chosen) ||
      !Arguments(info, "attachTrace").optionalString(1, "pinPath", pinPath))
    return {};
  Attachment attachment;
  Result failure = hostroute::attachTrace(chosen, pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::attachByName(const Napi::CallbackInfo &info, const char *method, const char *where,
                                    Result (*attach)(const Program &, const std::string &,
                                                     const std::string &, Attachment &)) {
  Arguments arguments(info, method);
  Program chosen;
  std::string name;
  std::string pinPath;
  if (!program(info, method, chosen) || !arguments.string(1, where, name) ||
      !arguments.optionalString(2, "pinPath", pinPath))
    return {};
  Attachment attachment;
  Result failure = attach(chosen, name, pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::attachKprobe(const Napi::CallbackInfo &info) {
  return attachByName(info, "attachKprobe", "kernelFunction", hostroute::attachKprobe);
}

Napi::Value BpfObject::attachRawTracepoint(const Napi::CallbackInfo &info) {
  return attachByName(info, "attachRawTracepoint", "tracepoint", hostroute::attachRawTracepoint);
}

Napi::Value BpfObject::attachCgroup(const Napi::CallbackInfo &info) {
  Arguments arguments(info, "attachCgroup");
  Program chosen;
  std::string cgroupPath;
  std::string pinPath;
  if (!program(info, "attachCgroup", chosen) || !arguments.path(1, "cgroupPath", cgroupPath) ||
      !arguments.optionalString(2, "pinPath", pinPath))
    return {};
  Attachment attachment;
  Result failure = hostroute::attachCgroup(chosen, cgroupPath, pinPath, attachment);
  return attached(info.Env(), failure, attachment);
}

Napi::Value BpfObject::close(const Napi::CallbackInfo &info) {
  links_.clear();
  control_.close();
  loaded_.control = nullptr;
  loaded_.object.reset();
  return info.Env().Undefined();
}

} // namespace hostroute
