// From the bytes of a BPF object to loaded programs and maps: sizes, choice of
// programs, and pinned maps of an earlier daemon that are taken over.
//
// A pinned set is taken over as a whole or not at all: the map "control" is
// pinned last, so a set without it was never complete and is made anew.
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "error.h"

namespace hostroute {

struct ObjectDeleter {
  void operator()(struct bpf_object *object) const { bpf_object__close(object); }
};
using ObjectPointer = std::unique_ptr<struct bpf_object, ObjectDeleter>;

struct LoadOptions {
  std::string object = "hostroute"; // embedded object
  std::string objectFile;           // instead: a file
  std::map<std::string, uint32_t> sizes;
  std::string pinDirectory;
  std::optional<std::vector<std::string>> programs;
  // Maps that have their pins in freshDirectory instead: made anew unless they are there.
  std::set<std::string> fresh;
  std::string freshDirectory;
};

struct LoadedObject {
  ObjectPointer object;
  std::vector<std::string> reused;
  struct bpf_map *control = nullptr; // section .data.control, may be absent
};

// After failure nothing is loaded, and nothing is pinned that was not before.
Result loadObject(const LoadOptions &options, LoadedObject &out);

// Maps pinned in the directory whose keys or values are of another layout than the object hostroute has, by
// name.
Result findDifferingMaps(const std::string &pinDirectory, std::vector<std::string> &names);

// True when an embedded object holds a program of this name, as the kernel shows names (15 characters).
bool isEmbeddedProgram(const std::string &kernelName);

} // namespace hostroute
