#include "libbpf_log.h"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <vector>

namespace hostroute {

namespace {

constexpr size_t kKept = 256 * 1024;
constexpr size_t kDetail = 4096;
constexpr char kLogBegin[] = "-- BEGIN PROG LOAD LOG --\n";
constexpr char kLogEnd[] = "-- END PROG LOAD LOG --";

thread_local LibbpfLog *current = nullptr;

int print(enum libbpf_print_level level, const char *format, va_list arguments) {
  if (!current || level == LIBBPF_DEBUG) return 0;
  va_list again;
  va_copy(again, arguments);
  int size = vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (size <= 0) return 0;
  std::vector<char> text(static_cast<size_t>(size) + 1);
  vsnprintf(text.data(), text.size(), format, arguments);
  current->append(text.data(), static_cast<size_t>(size));
  return size;
}

} // namespace

void captureLibbpfLog() {
  libbpf_set_print(print);
}

LibbpfLog::LibbpfLog() {
  current = this;
}

LibbpfLog::~LibbpfLog() {
  current = nullptr;
}

// Messages come one by one: the program's name before its log, which can be megabytes.
void LibbpfLog::append(const char *text, size_t size) {
  std::string message(text, size);
  size_t failed = message.find("': BPF program load failed");
  size_t quote = failed ? message.rfind('\'', failed - 1) : std::string::npos;
  if (failed != std::string::npos && quote != std::string::npos)
    failedProgram_ = message.substr(quote + 1, failed - quote - 1);
  text_ += message;
  if (text_.size() > 2 * kKept) text_.erase(0, text_.size() - kKept);
}

std::string LibbpfLog::detail() const {
  std::string text = text_;
  size_t end = text.rfind(kLogEnd);
  if (end != std::string::npos) {
    size_t begin = text.rfind(kLogBegin, end);
    size_t from = begin == std::string::npos ? 0 : begin + sizeof(kLogBegin) - 1;
    end = text.find_last_of('\n', end); // the end of the line before
    text = text.substr(from, end == std::string::npos || end < from ? std::string::npos : end - from);
  }
  if (text.size() > kDetail) text.erase(0, text.size() - kDetail);
  while (!text.empty() && text.back() == '\n')
    text.pop_back();
  return text;
}

} // namespace hostroute
