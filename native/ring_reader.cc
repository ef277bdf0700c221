#include "ring_reader.h"

#include <fcntl.h>

#include <cerrno>

#include "arguments.h"
#include "bpf_map.h"
#include "libbpf_log.h"

namespace hostroute {

Napi::Value RingReader::open(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Function callback;
  BpfMap *map = BpfMap::unwrap(info[0], "readRing: map");
  if (!map || !Arguments(info, "readRing").function(1, "onRecords", callback)) return {};
  if (map->shape().type != BPF_MAP_TYPE_RINGBUF) {
    throwType(env, "readRing: map " + map->shape().name + " is no ring buffer");
    return {};
  }
  auto reader = std::make_shared<RingReader>();
  LibbpfLog log;
  reader->map_ = Descriptor(fcntl(map->descriptor(), F_DUPFD_CLOEXEC, 3));
  reader->ring_.reset(ring_buffer__new(reader->map_.get(), onRecord, reader.get(), nullptr));
  Result failure;
  if (!reader->ring_)
    failure = Failure{"cannot read the ring buffer " + map->shape().name, errno, "mmap", log.detail()};
  else
    failure = reader->start(env, callback, "hr-ring", false);
  if (failure) {
    throwFailure(env, *failure);
    return {};
  }
  return closeHandle(env, reader);
}

int RingReader::onRecord(void *reader, void *data, size_t size) {
  auto *self = static_cast<RingReader *>(reader);
  auto *bytes = static_cast<uint8_t *>(data);
  std::lock_guard<std::mutex> lock(self->mutex_);
  self->bytes_.insert(self->bytes_.end(), bytes, bytes + size);
  self->ends_.push_back(self->bytes_.size());
  return self->bytes_.size() < kMostQueued ? 0 : -ENOSPC; // ends this round, the record is taken
}

void RingReader::run() {
  while (!stopping()) {
    size_t queued;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queued = bytes_.size();
    }
    bool readable = wait(queued < kMostQueued ? ring_buffer__epoll_fd(ring_.get()) : -1);
    if (readable && !stopping()) ring_buffer__consume(ring_.get());
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ends_.empty()) wake();
  }
}

void RingReader::deliver(Napi::Env env, Napi::Function callback) {
  std::vector<uint8_t> bytes;
  std::vector<size_t> ends;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    bytes.swap(bytes_);
    ends.swap(ends_);
  }
  if (ends.empty()) return;
  if (bytes.size() >= kMostQueued) poke(); // run() had stopped reading
  Napi::Array records = Napi::Array::New(env, ends.size());
  size_t begin = 0;
  for (uint32_t i = 0; i < ends.size(); i++) {
    records.Set(i, Napi::Buffer<uint8_t>::Copy(env, bytes.data() + begin, ends[i] - begin));
    begin = ends[i];
  }
  call(env, callback, {records});
}

} // namespace hostroute
