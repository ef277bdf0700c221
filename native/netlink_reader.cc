#include "netlink_reader.h"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "arguments.h"

namespace hostroute {

namespace {

constexpr size_t kAtOnce = 32;
constexpr size_t kEvent = 64 * 1024; // an event of a link with many VFs is some 20 KB

struct ReaderOptions {
  std::vector<uint32_t> groups;
  uint32_t receiveBuffer = 0;
  uint32_t batchBytes = 1024 * 1024;
  uint32_t protocol = NETLINK_ROUTE;
};

bool readOptions(Napi::Env env, Napi::Object options, ReaderOptions &out) {
  Napi::Value groups = options.Get("groups");
  if (env.IsExceptionPending()) return false;
  if (!groups.IsArray()) {
    throwType(env, "openNetlinkReader: groups must be an array of numbers");
    return false;
  }
  auto list = groups.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    Napi::Value item = list[i];
    uint32_t group = 0;
    if (env.IsExceptionPending() ||
        !readNumber(env, item, "openNetlinkReader: groups[" + std::to_string(i) + "]", 1, 1024, group))
      return false;
    out.groups.push_back(group);
  }
  Napi::Value size = options.Get("receiveBuffer");
  if (env.IsExceptionPending() ||
      !readNumber(env, size, "openNetlinkReader: receiveBuffer", 1, INT_MAX / 2, out.receiveBuffer))
    return false;
  Napi::Value protocol = options.Get("protocol");
  if (env.IsExceptionPending() ||
      (!protocol.IsUndefined() &&
       !readNumber(env, protocol, "openNetlinkReader: protocol", 0, MAX_LINKS - 1, out.protocol)))
    return false;
  Napi::Value batch = options.Get("batchBytes");
  if (env.IsExceptionPending()) return false;
  return batch.IsUndefined() ||
         readNumber(env, batch, "openNetlinkReader: batchBytes", 1, INT_MAX, out.batchBytes);
}

} // namespace

Napi::Value NetlinkReader::open(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "openNetlinkReader");
  Napi::Object options;
  Napi::Function callback;
  ReaderOptions chosen;
  if (!arguments.object(0, "options", options) || !readOptions(env, options, chosen) ||
      !arguments.function(1, "onMessages", callback))
    return {};
  auto reader = std::make_shared<NetlinkReader>();
  reader->batchBytes_ = chosen.batchBytes;
  Result failure = reader->socket_.open(chosen.receiveBuffer, static_cast<int>(chosen.protocol));
  for (uint32_t group : chosen.groups)
    if (!failure) failure = reader->socket_.join(group);
  if (!failure) failure = reader->start(env, callback, "hr-netlink", false);
  if (failure) {
    throwFailure(env, *failure);
    return {};
  }
  return closeHandle(env, reader);
}

void NetlinkReader::run() {
  buffers_.resize(kAtOnce * kEvent);
  while (!stopping()) {
    bool readable = wait(socket_.get());
    while (readable && !stopping() && receive())
      continue;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!queue_.empty() || overrun_) wake();
  }
}

// ENOBUFS comes before what is still in the socket, and until that is all read
// the kernel drops everything else without another word. So the gap ends when
// the socket is empty: only a dump after that, and after the portions that
// wait, holds all that was lost.
void NetlinkReader::endGap() {
  if (!gap_) return;
  gap_ = false;
  overrun_ = true;
  before_ = queue_.size();
}

// False when nothing was there.
bool NetlinkReader::receive() {
  struct mmsghdr headers[kAtOnce] = {};
  struct iovec vectors[kAtOnce];
  struct sockaddr_nl senders[kAtOnce] = {};
  for (size_t i = 0; i < kAtOnce; i++) {
    vectors[i] = {&buffers_[i * kEvent], kEvent};
    headers[i].msg_hdr.msg_iov = &vectors[i];
    headers[i].msg_hdr.msg_iovlen = 1;
    headers[i].msg_hdr.msg_name = &senders[i];
    headers[i].msg_hdr.msg_namelen = sizeof(senders[i]);
  }
  int count = recvmmsg(socket_.get(), headers, kAtOnce, MSG_DONTWAIT, nullptr);
  std::lock_guard<std::mutex> lock(mutex_);
  if (count < 0) {
    if (errno == ENOBUFS) gap_ = true;
    if (errno == ENOBUFS || errno == EINTR) return true;
    endGap();
    return false;
  }
  for (int i = 0; i < count; i++) {
    if (senders[i].nl_pid != 0) continue; // only the kernel is believed
    if (headers[i].msg_hdr.msg_flags & MSG_TRUNC)
      gap_ = true;
    else
      enqueue(&buffers_[static_cast<size_t>(i) * kEvent], headers[i].msg_len);
  }
  if (!queue_.empty() || overrun_) wake();
  return count == kAtOnce || gap_; // a gap ends with EAGAIN
}

void NetlinkReader::enqueue(const uint8_t *messages, size_t size) {
  if (queued_ + size > kMostQueued) {
    gap_ = true;
    return;
  }
  if (queue_.empty() || queue_.back().size() + size > batchBytes_) queue_.emplace_back();
  queue_.back().insert(queue_.back().end(), messages, messages + size);
  queued_ += size;
}

void NetlinkReader::deliver(Napi::Env env, Napi::Function callback) {
  std::vector<uint8_t> messages;
  bool overrun = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (queue_.empty() && !overrun_) return;
    if (!queue_.empty()) {
      messages = std::move(queue_.front());
      queue_.pop_front();
      queued_ -= messages.size();
      if (before_ > 0) before_--;
    }
    if (before_ == 0) overrun = std::exchange(overrun_, false);
    if (!queue_.empty()) poke();
  }
  call(
      env, callback,
      {Napi::Buffer<uint8_t>::Copy(env, messages.data(), messages.size()), Napi::Boolean::New(env, overrun)});
}

} // namespace hostroute
