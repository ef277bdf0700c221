#include "netlink_dump.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace hostroute {

Napi::Value NetlinkDump::start(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "dumpNetlink");
  uint32_t type = 0;
  Bytes request;
  Napi::Function onChunk;
  if (!arguments.number(0, "type", 16, UINT16_MAX, type) || !arguments.bytes(1, "request", request) ||
      !arguments.function(2, "onChunk", onChunk))
    return {};
  uint32_t group = 0;
  uint32_t protocol = NETLINK_ROUTE;
  if (info.Length() > 3 && !info[3].IsUndefined() && !arguments.number(3, "events", 1, 1024, group))
    return {};
  if (info.Length() > 4 && !info[4].IsUndefined() &&
      !arguments.number(4, "protocol", 0, MAX_LINKS - 1, protocol))
    return {};
  return std::make_shared<NetlinkDump>(env)->begin(env, static_cast<uint16_t>(type), request, onChunk, group,
                                                   protocol);
}

Napi::Value NetlinkDump::startRoutes(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "dumpRoutes");
  Bytes request;
  Napi::Function onRoutes;
  if (!arguments.bytes(0, "request", sizeof(struct rtmsg), request) ||
      !arguments.function(1, "onRoutes", onRoutes))
    return {};
  uint32_t group = 0;
  if (info.Length() > 2 && !info[2].IsUndefined() && !arguments.number(2, "events", 1, 1024, group))
    return {};
  auto dump = std::make_shared<NetlinkDump>(env);
  dump->gatherer_.emplace(request.data[0]);
  return dump->begin(env, RTM_GETROUTE, request, onRoutes, group, NETLINK_ROUTE);
}

Napi::Value NetlinkDump::begin(Napi::Env env, uint16_t type, Bytes request, Napi::Function callback,
                               uint32_t group, uint32_t protocol) {
  Napi::Promise promise = deferred_.Promise();
  Result failure = socket_.open(4 * 1024 * 1024, static_cast<int>(protocol));
  if (!failure && group != 0) failure = events_.open(64 * 1024, static_cast<int>(protocol));
  if (!failure && group != 0) failure = events_.join(group);
  if (!failure) failure = socket_.sendDump(type, request.data, request.size);
  if (!failure) failure = CallbackThread::start(env, callback, "hr-dump", true);
  if (failure) deferred_.Reject(makeError(env, *failure).Value());
  return promise;
}

void NetlinkDump::run() {
  std::vector<uint8_t> datagram(NetlinkSocket::kDatagram);
  NetlinkSocket::DumpPart part;
  bool interrupted = false;
  while (!part.done && !stopping()) {
    if (!wait(socket_.get())) {
      wakeForRest();
      continue;
    }
    ssize_t length = recv(socket_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT);
    if (length < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (length < 0) {
      part.done = true;
      part.failure = Failure{"cannot receive a netlink dump", errno, "recv"};
      break;
    }
    part = NetlinkSocket::parseDump(datagram.data(), static_cast<size_t>(length));
    interrupted = interrupted || part.interrupted;
    take(datagram.data(), part.bytes);
  }
  if (gatherer_) gathered_ = gatherer_->take();
  if (gathered_.bytes() > 0) push(std::move(gathered_));
  interrupted = interrupted || heardEvents();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
    interrupted_ = interrupted;
    failure_ = part.failure;
  }
  wake();
  // deliver() pokes for each further wake-up it needs, and closes at the end.
  while (!stopping()) {
    wait(-1);
    if (!stopping()) wake();
  }
}

// Readable, also with the error that its buffer was too small.
bool NetlinkDump::heardEvents() const {
  if (events_.get() < 0) return false;
  struct pollfd polled = {events_.get(), POLLIN, 0};
  return poll(&polled, 1, kLateNewsMilliseconds) != 0;
}

void NetlinkDump::take(const uint8_t *messages, size_t size) {
  if (gatherer_) {
    gatherer_->add(messages, size);
    if (gatherer_->bytes() > kPart) push(gatherer_->take());
    return;
  }
  std::vector<uint8_t> &chunk = gathered_.kinds;
  if (!chunk.empty() && chunk.size() + size > kChunk) push(std::exchange(gathered_, {}));
  chunk.insert(chunk.end(), messages, messages + size);
}

void NetlinkDump::push(RoutePart chunk) {
  for (;;) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (queue_.size() < kMostQueued || stopping()) {
        queue_.push_back(std::move(chunk));
        wake();
        return;
      }
      wake();
    }
    wait(-1);
  }
}

void NetlinkDump::wakeForRest() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!queue_.empty()) wake();
}

void NetlinkDump::deliver(Napi::Env env, Napi::Function onChunk) {
  RoutePart chunk;
  bool have = false;
  bool last = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    have = !queue_.empty();
    if (have) {
      chunk = std::move(queue_.front());
      queue_.pop_front();
    }
    last = finished_ && queue_.empty();
  }
  if (have) {
    napi_status status = hand(env, onChunk, chunk);
    if (status != napi_ok) {
      close();
      napi_value thrown = nullptr;
      if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok && thrown) deferred_.Reject(thrown);
      return;
    }
  }
  if (last)
    settle(env);
  else
    poke();
}

napi_status NetlinkDump::hand(Napi::Env env, Napi::Function callback, const RoutePart &chunk) const {
  napi_value arguments[2] = {Napi::Buffer<uint8_t>::Copy(env, chunk.kinds.data(), chunk.kinds.size()),
                             nullptr};
  if (!gatherer_) return napi_call_function(env, env.Undefined(), callback, 1, arguments, nullptr);
  size_t size = chunk.records.size() * sizeof(uint32_t);
  Napi::ArrayBuffer records = Napi::ArrayBuffer::New(env, size);
  if (size > 0) memcpy(records.Data(), chunk.records.data(), size);
  arguments[1] = records;
  return napi_call_function(env, env.Undefined(), callback, 2, arguments, nullptr);
}

void NetlinkDump::settle(Napi::Env env) {
  close();
  if (failure_) {
    deferred_.Reject(makeError(env, *failure_).Value());
    return;
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("interrupted", interrupted_);
  deferred_.Resolve(result);
}

} // namespace hostroute
