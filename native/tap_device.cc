#include "tap_device.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "arguments.h"
#include "link_settings.h"

namespace hostroute {

namespace {

constexpr const char *kControl = "/dev/net/tun";
constexpr uint32_t kMtu = 65521; // the most that drivers/net/tun.c allows: 65,535 with the Ethernet header
constexpr uint32_t kQueue = 1000;

} // namespace

// Without IFF_VNET_HDR and TUNSETOFFLOAD the kernel segments packets and
// finishes their checksums before it queues them.
Result TapDevice::create(const std::string &name) {
  struct ifreq request = {};
  if (name.empty() || name.size() >= sizeof(request.ifr_name))
    return Failure{"no device can have the name " + name, EINVAL, "ioctl(TUNSETIFF)"};
  device_ = Descriptor(::open(kControl, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!device_) return Failure{std::string("cannot open ") + kControl, errno, "open", kControl};
  memcpy(request.ifr_name, name.data(), name.size());
  // EXCL: not somebody else's persistent device of this name.
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL);
  if (ioctl(device_.get(), TUNSETIFF, &request) != 0)
    return Failure{"cannot make the TAP device " + name, errno, "ioctl(TUNSETIFF)"};
  name_ = name;
  ifindex_ = if_nametoindex(name.c_str());
  if (ifindex_ == 0) return Failure{"cannot find the TAP device " + name, errno, "if_nametoindex"};
  // Not needed: what the kernel sends of its own is ignored. It would only be in the way.
  generateNoAddresses(static_cast<int>(ifindex_));
  return setUp(static_cast<int>(ifindex_), kMtu, kQueue);
}

Napi::Value TapDevice::open(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Arguments arguments(info, "openTap");
  std::string name;
  Napi::Function callback;
  if (!arguments.string(0, "name", name) || !arguments.function(1, "onFrames", callback)) return {};
  auto device = std::make_shared<TapDevice>();
  Result failure = device->create(name);
  if (!failure) failure = device->start(env, callback, "hr-tap", false);
  if (failure) {
    throwFailure(env, *failure);
    return {};
  }
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("name", device->name_);
  handle.Set("ifindex", device->ifindex_);
  handle.Set("write", Napi::Function::New(
                          env,
                          [device](const Napi::CallbackInfo &call) -> Napi::Value {
                            Bytes frame;
                            if (!Arguments(call, "write").bytes(0, "frame", frame)) return {};
                            return Napi::Boolean::New(call.Env(), device->write(frame.data, frame.size));
                          },
                          "write"));
  handle.Set("close", Napi::Function::New(
                          env,
                          [device](const Napi::CallbackInfo &) {
                            device->close();
                            device->device_.reset();
                          },
                          "close"));
  return handle;
}

bool TapDevice::write(const uint8_t *frame, size_t size) const {
  ssize_t written;
  do {
    written = ::write(device_.get(), frame, size); // closed: EBADF
  } while (written < 0 && errno == EINTR);
  return written >= 0;
}

void TapDevice::run() {
  frame_.resize(kFrame);
  bool idle = false;
  while (!stopping()) {
    bool readable = wait(idle ? -1 : device_.get());
    while (readable && !stopping() && receive())
      continue;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!waiting_ && (!ends_.empty() || (gone_ && !told_))) {
      waiting_ = true;
      wake();
    }
    idle = waiting_ || gone_;
  }
}

bool TapDevice::receive() {
  ssize_t length = read(device_.get(), frame_.data(), frame_.size());
  std::lock_guard<std::mutex> lock(mutex_);
  if (length < 0) {
    if (errno == EINTR) return true;
    if (errno != EAGAIN) gone_ = true; // EBADFD
    return false;
  }
  bytes_.insert(bytes_.end(), frame_.begin(), frame_.begin() + length);
  ends_.push_back(bytes_.size());
  return !full();
}

void TapDevice::deliver(Napi::Env env, Napi::Function callback) {
  std::vector<uint8_t> bytes;
  std::vector<size_t> ends;
  bool gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes.swap(bytes_);
    ends.swap(ends_);
    gone = gone_ && !told_;
    told_ = gone_;
  }
  if (!ends.empty()) {
    Napi::Array frames = Napi::Array::New(env, ends.size());
    size_t begin = 0;
    for (uint32_t i = 0; i < ends.size(); i++) {
      frames.Set(i, Napi::Buffer<uint8_t>::Copy(env, bytes.data() + begin, ends[i] - begin));
      begin = ends[i];
    }
    call(env, callback, {frames});
  }
  if (gone && !closed()) call(env, callback, {env.Null()});
  // Not before: the next portion would be delivered in the same turn of the event loop.
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_ = false;
  }
  poke();
}

} // namespace hostroute
