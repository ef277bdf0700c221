#include "system.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "arguments.h"
#include "descriptor.h"
#include "error.h"

namespace hostroute {

namespace {

// By bit; a kernel's newer ones are named by number.
const char *const kCapabilities[] = {
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
};
constexpr size_t kKnownCapabilities = sizeof(kCapabilities) / sizeof(kCapabilities[0]);

// MEMBARRIER_CMD_GLOBAL is a synchronize_rcu(); kernels with nohz_full CPUs refuse it.
Napi::Value gracePeriod(const Napi::CallbackInfo &info) {
  return Napi::Boolean::New(info.Env(), syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0);
}

Napi::Value notify(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string state;
  if (!Arguments(info, "notify").string(0, "state", state)) return {};
  // From the process's environment, not node's copy: it cannot be changed by JavaScript of a worker.
  const char *path = getenv("NOTIFY_SOCKET");
  if (!path || !*path) return Napi::Boolean::New(env, false);
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  size_t length = strlen(path);
  if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path)) {
    throwFailure(
        env, {"cannot notify systemd: NOTIFY_SOCKET is no path of a unix socket", EINVAL, "sendto", path});
    return {};
  }
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0'; // abstract
  Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto size = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + length);
  if (!socket || sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL,
                        reinterpret_cast<struct sockaddr *>(&address), size) < 0) {
    throwFailure(env, {"cannot notify systemd", errno, "sendto", path});
    return {};
  }
  return Napi::Boolean::New(env, true);
}

Napi::Value peerCredentials(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  uint32_t descriptor = 0;
  if (!Arguments(info, "peerCredentials").number(0, "fd", 0, INT_MAX, descriptor)) return {};
  struct ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(static_cast<int>(descriptor), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    throwFailure(env, {"cannot read the peer's credentials of descriptor " + std::to_string(descriptor),
                       errno, "getsockopt(SO_PEERCRED)"});
    return {};
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("pid", credentials.pid);
  result.Set("uid", credentials.uid);
  result.Set("gid", credentials.gid);
  return result;
}

Napi::Value readNetworkNamespace(const Napi::CallbackInfo &info) {
  std::string name = networkNamespace();
  if (name.empty()) {
    throwFailure(info.Env(), {"cannot identify the network namespace", errno, "stat", "/proc/self/ns/net"});
    return {};
  }
  return Napi::String::New(info.Env(), name);
}

Napi::Value isBpffs(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!Arguments(info, "isBpffs").path(0, "path", path)) return {};
  struct statfs status = {};
  if (statfs(path.c_str(), &status) == 0)
    return Napi::Boolean::New(env, static_cast<uint32_t>(status.f_type) == BPF_FS_MAGIC);
  if (errno == ENOENT || errno == ENOTDIR) return Napi::Boolean::New(env, false);
  throwFailure(env, {"cannot read the file system of " + path, errno, "statfs", path});
  return {};
}

Napi::Value mountBpffs(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!Arguments(info, "mountBpffs").path(0, "path", path)) return {};
  if (mount("bpf", path.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0)
    throwFailure(env, {"cannot mount a bpffs at " + path, errno, "mount", path});
  return env.Undefined();
}

// The lock is held until close() or the end of the environment, whatever
// becomes of the JavaScript object.
Napi::Value lockFile(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string path;
  if (!Arguments(info, "lockFile").path(0, "path", path)) return {};
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    throwFailure(env, {"cannot open the lock file " + path, errno, "open", path});
    return {};
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return env.Null();
    throwFailure(env, {"cannot lock " + path, errno, "flock", path});
    return {};
  }
  auto *held = new std::shared_ptr<Descriptor>(std::make_shared<Descriptor>(std::move(file)));
  std::shared_ptr<Descriptor> lock = *held;
  env.AddCleanupHook([held] { delete held; });
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("close",
             Napi::Function::New(env, [lock](const Napi::CallbackInfo &) { lock->reset(); }, "close"));
  return handle;
}

Napi::Value capabilities(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) {
    throwFailure(env, {"cannot read the capabilities of this process", errno, "capget"});
    return {};
  }
  Napi::Array names = Napi::Array::New(env);
  for (size_t bit = 0; bit < 64; bit++) {
    if (!(data[bit / 32].effective >> (bit % 32) & 1)) continue;
    names.Set(names.Length(),
              "CAP_" + (bit < kKnownCapabilities ? std::string(kCapabilities[bit]) : std::to_string(bit)));
  }
  return names;
}

Napi::Value groupId(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  std::string name;
  if (!Arguments(info, "groupId").string(0, "name", name)) return {};
  std::vector<char> buffer(4096);
  struct group group = {};
  struct group *found = nullptr;
  int error;
  while ((error = getgrnam_r(name.c_str(), &group, buffer.data(), buffer.size(), &found)) == ERANGE)
    buffer.resize(buffer.size() * 2);
  if (found) return Napi::Number::New(env, group.gr_gid);
  // Some sources of groups report an unknown name as an error.
  if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) return env.Null();
  throwFailure(env, {"cannot look up the group " + name, error, "getgrnam"});
  return {};
}

} // namespace

std::string networkNamespace() {
  struct stat status = {};
  if (stat("/proc/self/ns/net", &status) != 0) return {};
  return std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
}

void defineSystem(Napi::Env env, Napi::Object exports) {
  exports.Set("notify", Napi::Function::New<notify>(env, "notify"));
  exports.Set("gracePeriod", Napi::Function::New<gracePeriod>(env, "gracePeriod"));
  exports.Set("peerCredentials", Napi::Function::New<peerCredentials>(env, "peerCredentials"));
  exports.Set("networkNamespace", Napi::Function::New<readNetworkNamespace>(env, "networkNamespace"));
  exports.Set("isBpffs", Napi::Function::New<isBpffs>(env, "isBpffs"));
  exports.Set("mountBpffs", Napi::Function::New<mountBpffs>(env, "mountBpffs"));
  exports.Set("lockFile", Napi::Function::New<lockFile>(env, "lockFile"));
  exports.Set("capabilities", Napi::Function::New<capabilities>(env, "capabilities"));
  exports.Set("groupId", Napi::Function::New<groupId>(env, "groupId"));
}

} // namespace hostroute
