#include "netlink_dump.h"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "arguments.h"

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
  auto dump = std::make_shared<NetlinkDump>(env);
  Napi::Promise promise = dump->deferred_.Promise();
  Result failure = dump->socket_.open(4 * 1024 * 1024, static_cast<int>(protocol));
  if (!failure && group != 0) failure = dump->events_.open(64 * 1024, static_cast<int>(protocol));
  if (!failure && group != 0) failure = dump->events_.join(group);
  if (!failure) failure = dump->socket_.sendDump(static_cast<uint16_t>(type), request.data, request.size);
  if (!failure) failure = dump->Feed::start(env, onChunk, "hr-dump", true);
  if (failure) dump->deferred_.Reject(makeError(env, *failure).Value());
  return promise;
}

void NetlinkDump::run() {
  std::vector<uint8_t> datagram(NetlinkSocket::kDatagram);
  std::vector<uint8_t> chunk;
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
    if (!chunk.empty() && chunk.size() + part.bytes > kChunk) push(std::exchange(chunk, {}));
    chunk.insert(chunk.end(), datagram.begin(), datagram.begin() + static_cast<ptrdiff_t>(part.bytes));
  }
  if (!chunk.empty()) push(std::move(chunk));
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

void NetlinkDump::push(std::vector<uint8_t> chunk) {
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
  std::vector<uint8_t> chunk;
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
    napi_value argument = Napi::Buffer<uint8_t>::Copy(env, chunk.data(), chunk.size());
    napi_status status = napi_call_function(env, env.Undefined(), onChunk, 1, &argument, nullptr);
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
