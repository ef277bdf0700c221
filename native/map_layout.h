// What the keys and values of a map look like, from BTF: as JSON, for
// src/maps/convert.ts, and so that two of them can be compared.
//
//   {"size":4}                                         a number, or bytes
//   {"size":8,"name":"flow","fields":[{"name":"seen","offset":4,"type":{…}},…]}
//   {"size":64,"count":16,"element":{…}}               an array of structs
//
// A section has the type of its only variable.
#pragma once

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <map>
#include <memory>
#include <string>

#include "error.h"

namespace hostroute {

// {"key":…,"value":…}; null where there is none.
std::string describeTypes(const struct btf *btf, uint32_t key, uint32_t value);

// Of maps in the kernel. What it has read it keeps: the maps of an object have one BTF.
class KernelTypes {
public:
  // Without BTF: both null.
  Result describe(int map, std::string &out);

private:
  struct Deleter {
    void operator()(struct btf *btf) const { btf__free(btf); }
  };
  std::map<uint32_t, std::unique_ptr<struct btf, Deleter>> read_;
};

} // namespace hostroute
