// What the addon keeps for each JavaScript environment (main thread or worker).
#pragma once

#include <napi.h>

namespace hostroute {

struct Environment {
  Napi::FunctionReference mapClass;
  Napi::FunctionReference objectClass;

  static Environment &of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }
};

} // namespace hostroute
