#include "control_section.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace hostroute {

namespace {

template <typename T> size_t storeOnce(uint8_t *to, const uint8_t *from) {
  T value;
  memcpy(&value, from, sizeof(value));
  __atomic_store_n(reinterpret_cast<T *>(to), value, __ATOMIC_RELEASE);
  return sizeof(T);
}

template <typename T> size_t loadOnce(uint8_t *to, const uint8_t *from) {
  T value = __atomic_load_n(reinterpret_cast<const T *>(from), __ATOMIC_ACQUIRE);
  memcpy(to, &value, sizeof(value));
  return sizeof(T);
}

// The widest field that can begin at `position` and fits into `rest`.
size_t width(size_t position, size_t rest) {
  if (position % 8 == 0 && rest >= 8) return 8;
  if (position % 4 == 0 && rest >= 4) return 4;
  return 1;
}

size_t pageRounded(size_t size) {
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (size + page - 1) / page * page;
}

} // namespace

Result ControlSection::open(int map, size_t size) {
  void *memory = mmap(nullptr, pageRounded(size), PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  if (memory == MAP_FAILED) return Failure{"cannot map the section .data.control", errno, "mmap"};
  memory_ = static_cast<uint8_t *>(memory);
  size_ = size;
  return std::nullopt;
}

void ControlSection::close() {
  if (memory_) munmap(memory_, pageRounded(size_));
  memory_ = nullptr;
  size_ = 0;
}

void ControlSection::read(uint8_t *out) const {
  for (size_t at = 0; at < size_;) {
    switch (width(at, size_ - at)) {
    case 8:
      at += loadOnce<uint64_t>(out + at, memory_ + at);
      break;
    case 4:
      at += loadOnce<uint32_t>(out + at, memory_ + at);
      break;
    default:
      at += loadOnce<uint8_t>(out + at, memory_ + at);
    }
  }
}

void ControlSection::write(size_t offset, const uint8_t *bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    uint8_t *to = memory_ + offset + done;
    switch (width(offset + done, size - done)) {
    case 8:
      done += storeOnce<uint64_t>(to, bytes + done);
      break;
    case 4:
      done += storeOnce<uint32_t>(to, bytes + done);
      break;
    default:
      done += storeOnce<uint8_t>(to, bytes + done);
    }
  }
}

} // namespace hostroute
