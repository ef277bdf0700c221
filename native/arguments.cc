#include "arguments.h"

#include <cmath>

#include "error.h"

namespace hostroute {

bool readString(Napi::Env env, Napi::Value value, const std::string &what, std::string &out) {
  if (!value.IsString()) {
    throwType(env, what + " must be a string");
    return false;
  }
  out = value.As<Napi::String>().Utf8Value();
  if (out.find('\0') == std::string::npos) return true;
  throwType(env, what + " must not hold a NUL character");
  return false;
}

bool readNumber(Napi::Env env, Napi::Value value, const std::string &what, uint32_t least, uint32_t most,
                uint32_t &out) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= least && number <= most) || number != std::floor(number)) {
    throwType(env,
              what + " must be an integer from " + std::to_string(least) + " to " + std::to_string(most));
    return false;
  }
  out = static_cast<uint32_t>(number);
  return true;
}

bool readBytes(Napi::Env env, Napi::Value value, const std::string &what, Bytes &out) {
  if (!value.IsBuffer()) {
    throwType(env, what + " must be a Buffer");
    return false;
  }
  auto buffer = value.As<Napi::Buffer<uint8_t>>();
  out = {buffer.Data(), buffer.Length()};
  return true;
}

bool Arguments::string(size_t index, const char *name, std::string &out) const {
  return readString(info_.Env(), info_[index], what(name), out);
}

bool Arguments::optionalString(size_t index, const char *name, std::string &out) const {
  out.clear();
  if (info_[index].IsUndefined()) return true;
  return path(index, name, out);
}

bool Arguments::path(size_t index, const char *name, std::string &out) const {
  if (!string(index, name, out)) return false;
  if (!out.empty()) return true;
  throwType(info_.Env(), what(name) + " must not be empty");
  return false;
}

bool Arguments::number(size_t index, const char *name, uint32_t least, uint32_t most, uint32_t &out) const {
  return readNumber(info_.Env(), info_[index], what(name), least, most, out);
}

bool Arguments::boolean(size_t index, const char *name, bool &out) const {
  if (!info_[index].IsBoolean()) {
    throwType(info_.Env(), what(name) + " must be a boolean");
    return false;
  }
  out = info_[index].As<Napi::Boolean>().Value();
  return true;
}

bool Arguments::optionalBoolean(size_t index, const char *name, bool &out) const {
  return info_[index].IsUndefined() || boolean(index, name, out);
}

bool Arguments::bytes(size_t index, const char *name, Bytes &out) const {
  return readBytes(info_.Env(), info_[index], what(name), out);
}

bool Arguments::bytes(size_t index, const char *name, size_t size, Bytes &out) const {
  if (!bytes(index, name, out)) return false;
  if (out.size == size) return true;
  throwType(info_.Env(),
            what(name) + " must be " + std::to_string(size) + " bytes, not " + std::to_string(out.size));
  return false;
}

bool Arguments::function(size_t index, const char *name, Napi::Function &out) const {
  if (!info_[index].IsFunction()) {
    throwType(info_.Env(), what(name) + " must be a function");
    return false;
  }
  out = info_[index].As<Napi::Function>();
  return true;
}

bool Arguments::object(size_t index, const char *name, Napi::Object &out) const {
  if (!info_[index].IsObject() || info_[index].IsFunction()) {
    throwType(info_.Env(), what(name) + " must be an object");
    return false;
  }
  out = info_[index].As<Napi::Object>();
  return true;
}

} // namespace hostroute
