#include "error.h"

#include <cstring>

namespace hostroute {

namespace {
constexpr int kNotSupportedInKernel = 524; // ENOTSUPP of linux/errno.h
}

std::string errnoName(int error) {
  if (error == kNotSupportedInKernel) return "ENOTSUPP";
  const char *name = strerrorname_np(error);
  return name ? name : "E" + std::to_string(error);
}

std::string errnoText(int error) {
  if (error == kNotSupportedInKernel) return "not supported by this kernel";
  const char *text = strerrordesc_np(error);
  return text ? text : "error " + std::to_string(error);
}

Napi::Error makeError(Napi::Env env, const Failure &failure) {
  // A code of our own comes with a message that says it all.
  Napi::Error error = Napi::Error::New(env, failure.code ? failure.message
                                                         : failure.message + ": " + errnoText(failure.error));
  error.Set("code", Napi::String::New(env, failure.code ? failure.code : errnoName(failure.error)));
  error.Set("errno", Napi::Number::New(env, failure.error));
  error.Set("syscall", Napi::String::New(env, failure.syscall));
  if (!failure.detail.empty()) error.Set("detail", Napi::String::New(env, failure.detail));
  return error;
}

void throwFailure(Napi::Env env, const Failure &failure) {
  makeError(env, failure).ThrowAsJavaScriptException();
}

void throwType(Napi::Env env, const std::string &message) {
  Napi::TypeError::New(env, message).ThrowAsJavaScriptException();
}

void throwClosed(Napi::Env env, const char *what) {
  Napi::Error error = Napi::Error::New(env, std::string(what) + " is closed");
  error.Set("code", Napi::String::New(env, "ERR_CLOSED"));
  error.ThrowAsJavaScriptException();
}

} // namespace hostroute
