// What libbpf has to say, kept instead of printed: nothing reaches stderr.
#pragma once

#include <string>

namespace hostroute {

// Sends libbpf's output to the LibbpfLog of the thread that caused it. Once per process.
void captureLibbpfLog();

// Collects libbpf's warnings of this thread while it lives. Does not nest.
class LibbpfLog {
public:
  LibbpfLog();
  ~LibbpfLog();
  LibbpfLog(const LibbpfLog &) = delete;
  LibbpfLog &operator=(const LibbpfLog &) = delete;

  // The program whose load failed, empty when that was not the trouble.
  const std::string &failedProgram() const { return failedProgram_; }
  // The verifier's last words, or libbpf's own when there was no verifier log; at most 4 KB.
  std::string detail() const;
  void append(const char *text, size_t size);

private:
  std::string text_;
  std::string failedProgram_;
};

} // namespace hostroute
