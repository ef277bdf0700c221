// Failures of system calls, and how they become JavaScript errors.
//
// Functions which can fail return std::optional<Failure>, empty for success.
// Nothing throws in C++: a JavaScript exception is left pending and the caller
// returns at once.
#pragma once

#include <napi.h>

#include <optional>
#include <string>

namespace hostroute {

struct Failure {
  // What could not be done, with its names: "cannot attach from_pod to device 5".
  std::string message;
  int error = 0;
  // What was tried: "bpf(BPF_LINK_CREATE)".
  const char *syscall = "";
  // Verifier log, extended ACK or path.
  std::string detail = {};
  // Instead of the errno's name.
  const char *code = nullptr;
};

using Result = std::optional<Failure>;

// The name and the text of an errno, also of ENOTSUPP (524), which leaks from
// the kernel and which libc does not know.
std::string errnoName(int error);
std::string errnoText(int error);

// NativeError of src/native.ts. The message is "<message>: <errno's text>".
Napi::Error makeError(Napi::Env env, const Failure &failure);
void throwFailure(Napi::Env env, const Failure &failure);
void throwType(Napi::Env env, const std::string &message);
// "<what> is closed", code ERR_CLOSED.
void throwClosed(Napi::Env env, const char *what);

} // namespace hostroute
