// Checked access to the arguments of a JavaScript call. Each reader returns
// false with a TypeError pending that names the method, the argument and what
// it must be; the first failure ends the call.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hostroute {

struct Bytes {
  const uint8_t *data = nullptr;
  size_t size = 0;
};

// Type and range of one value. `what` begins the sentence: "lookup: key".
bool readString(Napi::Env env, Napi::Value value, const std::string &what, std::string &out);
bool readNumber(Napi::Env env, Napi::Value value, const std::string &what, uint32_t least, uint32_t most,
                uint32_t &out);
bool readBytes(Napi::Env env, Napi::Value value, const std::string &what, Bytes &out);

class Arguments {
public:
  Arguments(const Napi::CallbackInfo &info, const char *method) : info_(info), method_(method) {}

  bool string(size_t index, const char *name, std::string &out) const;
  // undefined leaves `out` empty.
  bool optionalString(size_t index, const char *name, std::string &out) const;
  // An absolute or relative path: a string that is not empty and holds no NUL.
  bool path(size_t index, const char *name, std::string &out) const;
  bool number(size_t index, const char *name, uint32_t least, uint32_t most, uint32_t &out) const;
  bool boolean(size_t index, const char *name, bool &out) const;
  // undefined leaves `out` as it is.
  bool optionalBoolean(size_t index, const char *name, bool &out) const;
  bool bytes(size_t index, const char *name, Bytes &out) const;
  // A buffer of exactly `size` bytes.
  bool bytes(size_t index, const char *name, size_t size, Bytes &out) const;
  bool function(size_t index, const char *name, Napi::Function &out) const;
  bool object(size_t index, const char *name, Napi::Object &out) const;

private:
  std::string what(const char *name) const { return std::string(method_) + ": " + name; }

  const Napi::CallbackInfo &info_;
  const char *method_;
};

} // namespace hostroute
