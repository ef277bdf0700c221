// The section .data.control, mapped: what is written here the programs see at
// once. Aligned fields of 4 and 8 bytes are stored in one piece.
#pragma once

#include <cstddef>
#include <cstdint>

#include "error.h"

namespace hostroute {

class ControlSection {
public:
  ControlSection() = default;
  ~ControlSection() { close(); }
  ControlSection(const ControlSection &) = delete;
  ControlSection &operator=(const ControlSection &) = delete;

  Result open(int map, size_t size);
  void close();
  explicit operator bool() const { return memory_ != nullptr; }
  size_t size() const { return size_; }

  void read(uint8_t *out) const;
  // offset + size must be within size().
  void write(size_t offset, const uint8_t *bytes, size_t size);

private:
  uint8_t *memory_ = nullptr;
  size_t size_ = 0;
};

} // namespace hostroute
