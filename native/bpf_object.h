// A loaded BPF object: its programs, maps and control section, and the links
// that are not pinned, which live as long as it is open.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "attach.h"
#include "control_section.h"
#include "object_loader.h"

namespace hostroute {

class BpfObject : public Napi::ObjectWrap<BpfObject> {
public:
  static Napi::Function define(Napi::Env env);
  // loadObject(options) of src/native.ts.
  static Napi::Value load(const Napi::CallbackInfo &info);

  // The same on another thread: a promise.
  static Napi::Value loadLater(const Napi::CallbackInfo &info);
  static Napi::Value wrap(Napi::Env env, LoadedObject loaded);

  explicit BpfObject(const Napi::CallbackInfo &info);

private:
  Napi::Value map(const Napi::CallbackInfo &info);
  Napi::Value reused(const Napi::CallbackInfo &info);
  Napi::Value readControl(const Napi::CallbackInfo &info);
  Napi::Value writeControl(const Napi::CallbackInfo &info);
  Napi::Value testRun(const Napi::CallbackInfo &info);
  Napi::Value programId(const Napi::CallbackInfo &info);
  Napi::Value attachTcx(const Napi::CallbackInfo &info);
  Napi::Value linkTcx(const Napi::CallbackInfo &info);
  Napi::Value updateLink(const Napi::CallbackInfo &info);
  Napi::Value attachNetkit(const Napi::CallbackInfo &info);
  Napi::Value attachClsact(const Napi::CallbackInfo &info);
  Napi::Value attachXdp(const Napi::CallbackInfo &info);
  Napi::Value attachTrace(const Napi::CallbackInfo &info);
  Napi::Value attachKprobe(const Napi::CallbackInfo &info);
  Napi::Value attachRawTracepoint(const Napi::CallbackInfo &info);
  Napi::Value attachCgroup(const Napi::CallbackInfo &info);
  Napi::Value close(const Napi::CallbackInfo &info);

  // Arguments: program, where, pin path.
  Napi::Value attachByName(const Napi::CallbackInfo &info, const char *method, const char *where,
                           Result (*attach)(const Program &, const std::string &, const std::string &,
                                            Attachment &));
  bool isOpen(Napi::Env env) const;
  // The loaded program that argument 0 names.
  bool program(const Napi::CallbackInfo &info, const char *method, Program &out,
               uint32_t *type = nullptr) const;
  Napi::Value attached(Napi::Env env, const Result &failure, Attachment &attachment);

  LoadedObject loaded_;
  ControlSection control_;
  std::vector<Descriptor> links_;
};

} // namespace hostroute
