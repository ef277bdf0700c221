#include "netfilter_socket.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "arguments.h"

namespace hostroute {

namespace {

constexpr int kNamespaceCookie = 71; // SO_NETNS_COOKIE, Linux 5.14
constexpr size_t kDatagram = 256 * 1024;
constexpr int kReceiveBuffer = 8 * 1024 * 1024;

using Shared = std::shared_ptr<NetfilterSockets>;
using Call = Napi::Value (*)(const Napi::CallbackInfo &, NetfilterSockets &);

Result closedFailure() {
  return Failure{"the netfilter socket is closed", EBADF, "socket", {}, "ERR_CLOSED"};
}

// Sends and gathers what is answered. nfnetlink answers while it is being
// written to; a dump goes on as its parts are received.
Napi::Value request(const Napi::CallbackInfo &info, NetfilterSockets &sockets) {
  Napi::Env env = info.Env();
  Bytes messages;
  if (!Arguments(info, "request").bytes(0, "messages", messages)) return {};
  ssize_t sent;
  do {
    sent = send(sockets.netlink.get(), messages.data, messages.size, 0);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    throwFailure(env, {"cannot write to nfnetlink", errno, "send"});
    return {};
  }
  std::vector<uint8_t> answers;
  static thread_local std::vector<uint8_t> datagram(kDatagram);
  for (;;) {
    ssize_t length = recv(sockets.netlink.get(), datagram.data(), datagram.size(), MSG_DONTWAIT);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == EAGAIN) break;
    if (length < 0) {
      throwFailure(env, {"cannot receive from nfnetlink", errno, "recv"});
      return {};
    }
    answers.insert(answers.end(), datagram.begin(), datagram.begin() + length);
  }
  return Napi::Buffer<uint8_t>::Copy(env, answers.data(), answers.size());
}

struct Option {
  int socket = -1;
  uint32_t level = 0;
  uint32_t name = 0;
  Bytes value;
};

bool readOption(const Napi::CallbackInfo &info, const char *method, const NetfilterSockets &sockets,
                Option &out) {
  Arguments arguments(info, method);
  if (!arguments.number(0, "level", 0, INT_MAX, out.level) ||
      !arguments.number(1, "name", 0, INT_MAX, out.name) || !arguments.bytes(2, "value", out.value))
    return false;
  out.socket = out.level == IPPROTO_IPV6 ? sockets.option6.get() : sockets.option4.get();
  if (out.socket >= 0) return true;
  throwFailure(info.Env(), {"there is no IPv6 here", EAFNOSUPPORT, "socket"});
  return false;
}

Napi::Value setOption(const Napi::CallbackInfo &info, NetfilterSockets &sockets) {
  Option option;
  if (!readOption(info, "setOption", sockets, option)) return {};
  if (setsockopt(option.socket, static_cast<int>(option.level), static_cast<int>(option.name),
                 option.value.data, static_cast<socklen_t>(option.value.size)) != 0)
    throwFailure(info.Env(), {"cannot write a legacy table", errno, "setsockopt"});
  return info.Env().Undefined();
}

// The value goes in as the question and comes out as the answer.
Napi::Value getOption(const Napi::CallbackInfo &info, NetfilterSockets &sockets) {
  Option option;
  if (!readOption(info, "getOption", sockets, option)) return {};
  std::vector<uint8_t> answer(option.value.data, option.value.data + option.value.size);
  auto size = static_cast<socklen_t>(answer.size());
  if (getsockopt(option.socket, static_cast<int>(option.level), static_cast<int>(option.name), answer.data(),
                 &size) != 0) {
    throwFailure(info.Env(), {"cannot read a legacy table", errno, "getsockopt"});
    return {};
  }
  return Napi::Buffer<uint8_t>::Copy(info.Env(), answer.data(), size);
}

// getsockopt of a large table takes the kernel 100 ms and more: it copies, and
// sums up each rule's counters.
class OptionReader : public Napi::AsyncWorker {
public:
  // Takes option.socket over.
  OptionReader(Napi::Env env, const Option &option)
      : Napi::AsyncWorker(env), deferred_(env), socket_(option.socket), option_(option),
        answer_(option.value.data, option.value.data + option.value.size) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

protected:
  void Execute() override {
    size_ = static_cast<socklen_t>(answer_.size());
    if (getsockopt(option_.socket, static_cast<int>(option_.level), static_cast<int>(option_.name),
                   answer_.data(), &size_) != 0)
      failure_ = Failure{"cannot read a legacy table", errno, "getsockopt"};
  }

  void OnOK() override {
    if (failure_) {
      deferred_.Reject(makeError(Env(), *failure_).Value());
      return;
    }
    auto *bytes = new std::vector<uint8_t>(std::move(answer_));
    deferred_.Resolve(Napi::Buffer<uint8_t>::New(Env(), bytes->data(), size_,
                                                 [bytes](Napi::Env, uint8_t *) { delete bytes; }));
  }

private:
  Napi::Promise::Deferred deferred_;
  Descriptor socket_;
  Option option_;
  std::vector<uint8_t> answer_;
  socklen_t size_ = 0;
  Result failure_;
};

void addMethod(Napi::Env env, Napi::Object handle, const Shared &sockets, const char *name, Call call) {
  auto run = [sockets, call](const Napi::CallbackInfo &info) -> Napi::Value {
    if (sockets->netlink) return call(info, *sockets);
    throwFailure(info.Env(), *closedFailure());
    return {};
  };
  handle.Set(name, Napi::Function::New(env, run, name));
}

Napi::Object makeHandle(Napi::Env env, const Shared &sockets) {
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("cookie", Napi::BigInt::New(env, sockets->cookie));
  handle.Set("fd", sockets->netlink.get());
  addMethod(env, handle, sockets, "request", request);
  addMethod(env, handle, sockets, "setOption", setOption);
  addMethod(env, handle, sockets, "getOption", getOption);
  auto read = [sockets](const Napi::CallbackInfo &info) -> Napi::Value {
    Napi::Env env = info.Env();
    Option option;
    if (!sockets->netlink) throwFailure(env, *closedFailure());
    if (env.IsExceptionPending() || !readOption(info, "readOption", *sockets, option)) return {};
    option.socket = fcntl(option.socket, F_DUPFD_CLOEXEC, 0);
    if (option.socket < 0) {
      throwFailure(env, {"cannot duplicate a raw socket", errno, "fcntl"});
      return {};
    }
    auto *reader = new OptionReader(env, option);
    reader->Queue();
    return reader->promise();
  };
  handle.Set("readOption", Napi::Function::New(env, read, "readOption"));
  auto close = [sockets](const Napi::CallbackInfo &) { *sockets = NetfilterSockets(); };
  handle.Set("close", Napi::Function::New(env, close, "close"));
  return handle;
}

} // namespace

Result NetfilterSockets::open() {
  netlink = Descriptor(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!netlink) return Failure{"cannot open an nfnetlink socket", errno, "socket"};
  // Not raw: the kernel hands packets of a raw socket's protocol to it, and tells their sender nothing.
  option4 = Descriptor(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!option4) return Failure{"cannot open a socket for legacy tables", errno, "socket"};
  option6 = Descriptor(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (bind(netlink.get(), reinterpret_cast<struct sockaddr *>(&address), sizeof(address)) != 0)
    return Failure{"cannot bind an nfnetlink socket", errno, "bind"};
  int on = 1;
  setsockopt(netlink.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  // Written to in one piece however long; small is the default.
  setsockopt(netlink.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kReceiveBuffer, sizeof(kReceiveBuffer));
  setsockopt(netlink.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof(kReceiveBuffer));
  socklen_t size = sizeof(cookie);
  if (getsockopt(netlink.get(), SOL_SOCKET, kNamespaceCookie, &cookie, &size) != 0)
    return Failure{"cannot identify the network namespace", errno, "getsockopt(SO_NETNS_COOKIE)"};
  return std::nullopt;
}

Result NetfilterSockets::openInNewNamespace() {
  Result failure;
  // A thread of its own: its namespace ends with it, the sockets keep theirs.
  std::thread([&] {
    if (unshare(CLONE_NEWNET) != 0)
      failure = Failure{"cannot make a network namespace", errno, "unshare"};
    else
      failure = open();
  }).join();
  return failure;
}

Napi::Value openNetfilter(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  bool fresh = false;
  if (!Arguments(info, "openNetfilter").boolean(0, "newNamespace", fresh)) return {};
  auto sockets = std::make_shared<NetfilterSockets>();
  Result failure = fresh ? sockets->openInNewNamespace() : sockets->open();
  if (!failure) return makeHandle(env, sockets);
  throwFailure(env, *failure);
  return {};
}

Napi::Value storeDescriptor(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "storeDescriptor");
  std::string name;
  uint32_t descriptor = 0;
  if (!arguments.string(0, "name", name) || !arguments.number(1, "fd", 0, INT_MAX, descriptor)) return {};
  const char *path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {};
  if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
    return Napi::Boolean::New(env, false);
  size_t length = strlen(path);
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  std::string state = "FDSTORE=1\nFDNAME=" + name;
  struct iovec vector = {state.data(), state.size()};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct msghdr message = {};
  message.msg_name = &address;
  message.msg_namelen = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + length);
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  int passed = static_cast<int>(descriptor);
  memcpy(CMSG_DATA(header), &passed, sizeof(passed));
  Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket || sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0) {
    throwFailure(env, {"cannot hand a descriptor to systemd", errno, "sendmsg", path});
    return {};
  }
  return Napi::Boolean::New(env, true);
}

} // namespace hostroute
