// Small system calls that node has no functions for.
#pragma once

#include <napi.h>

#include <string>

namespace hostroute {

// "dev:inode" of this process's network namespace.
std::string networkNamespace();

// Adds notify, peerCredentials, networkNamespace, isBpffs, mountBpffs,
// lockFile, capabilities and groupId of src/native.ts.
void defineSystem(Napi::Env env, Napi::Object exports);

} // namespace hostroute
