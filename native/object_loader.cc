#include "object_loader.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <set>

#include "bpf_map.h"
#include "descriptor.h"
#include "embedded.h"
#include "libbpf_log.h"
#include "map_layout.h"
#include "types.h"

namespace hostroute {

namespace {

constexpr char kControlSection[] = ".data.control";
constexpr size_t kKernelNameLength = BPF_OBJ_NAME_LEN - 1;

Failure layoutFailure(const std::string &message, const std::string &path) {
  return {message + "; disable hostroute with the version that pinned it, or remove its pin directory",
          EINVAL, "bpf(BPF_OBJ_GET)", path, "ELAYOUT"};
}

constexpr const char *kStagePrograms[] = {"from_pod", "from_uplink"};

// The pin's file name, empty for maps that are not pinned.
std::string pinName(const struct bpf_map *map) {
  std::string name = bpf_map__name(map);
  if (name == kControlSection) return "control";
  // programs of one object only
  bool ownOnly = bpf_map__is_internal(map) || bpf_map__type(map) == BPF_MAP_TYPE_PROG_ARRAY;
  return ownOnly ? std::string() : name;
}

class Loader {
public:
  Loader(const LoadOptions &options, LoadedObject &out) : options_(options), out_(out) {}

  // Names of pinned maps that are of another layout.
  Result findDiffering(std::vector<std::string> &names) {
    if (Result failure = open()) return failure;
    if (Result failure = findControl()) return failure;
    struct bpf_map *map = nullptr;
    bpf_object__for_each_map(map, out_.object.get()) {
      std::string name = pinName(map);
      std::string path = options_.pinDirectory + "/" + name;
      if (name.empty() || access(path.c_str(), F_OK) != 0) continue;
      bool differs = false;
      if (Result failure = differ(map, path, differs)) return failure;
      if (differs) names.push_back(name);
    }
    return std::nullopt;
  }

  Result run() {
    if (Result failure = open()) return failure;
    if (Result failure = choosePrograms()) return failure;
    if (Result failure = setSizes()) return failure;
    if (Result failure = findControl()) return failure;
    if (!options_.pinDirectory.empty())
      if (Result failure = takePins()) return failure;
    if (int failed = bpf_object__load(out_.object.get())) return loadFailure(-failed);
    return fillStagePrograms();
  }

private:
  Result open() {
    const EmbeddedObject *embedded = nullptr;
    if (!options_.objectFile.empty()) {
      out_.object.reset(bpf_object__open_file(options_.objectFile.c_str(), nullptr));
      label_ = options_.objectFile;
    } else {
      label_ = options_.object;
      embedded = findEmbedded(options_.object.c_str());
      if (!embedded) return Failure{"no BPF object " + label_ + " is embedded in the addon", ENOENT, "open"};
      LIBBPF_OPTS(bpf_object_open_opts, open_options, .object_name = embedded->name);
      out_.object.reset(bpf_object__open_mem(
          embedded->begin, static_cast<size_t>(embedded->end - embedded->begin), &open_options));
    }
    if (!out_.object) return Failure{"cannot read the BPF object " + label_, errno, "open", log_.detail()};
    return std::nullopt;
  }

  Result choosePrograms() {
    if (!options_.programs) return std::nullopt;
    struct bpf_program *program = nullptr;
    bpf_object__for_each_program(program, out_.object.get()) bpf_program__set_autoload(program, false);
    for (const std::string &name : *options_.programs) {
      program = bpf_object__find_program_by_name(out_.object.get(), name.c_str());
      if (!program) return Failure{"no program " + name + " in the BPF object " + label_, ENOENT, "open"};
      bpf_program__set_autoload(program, true);
    }
    return std::nullopt;
  }

  Result setSizes() {
    for (const auto &[name, size] : options_.sizes) {
      struct bpf_map *map = bpf_object__find_map_by_name(out_.object.get(), name.c_str());
      if (!map) return Failure{"no map " + name + " in the BPF object " + label_, ENOENT, "open"};
      if (int failed = bpf_map__set_max_entries(map, size))
        return Failure{"cannot set the size of map " + name + " to " + std::to_string(size), -failed, "open"};
    }
    return std::nullopt;
  }

  // A control section that says no layout gets ours, so that every pinned one says it.
  Result findControl() {
    out_.control = bpf_object__find_map_by_name(out_.object.get(), kControlSection);
    if (!out_.control) return std::nullopt;
    size_t size = 0;
    auto *initial = static_cast<uint8_t *>(const_cast<void *>(bpf_map__initial_value(out_.control, &size)));
    if (!initial || size < sizeof(layout_))
      return Failure{"section .data.control is too small", EINVAL, "open"};
    memcpy(&layout_, initial, sizeof(layout_));
    if (layout_ == 0) layout_ = HR_LAYOUT;
    memcpy(initial, &layout_, sizeof(layout_));
    return std::nullopt;
  }

  Result takePins() {
    bool complete = !out_.control || access((options_.pinDirectory + "/control").c_str(), F_OK) == 0;
    struct bpf_map *map = nullptr;
    bpf_object__for_each_map(map, out_.object.get()) {
      std::string name = pinName(map);
      if (name.empty()) continue;
      const bool fresh = options_.fresh.count(name) > 0;
      std::string path = (fresh ? options_.freshDirectory : options_.pinDirectory) + "/" + name;
      if (int failed = bpf_map__set_pin_path(map, path.c_str()))
        return Failure{"cannot pin map " + name, -failed, "bpf(BPF_OBJ_PIN)", path};
      if (access(path.c_str(), F_OK) != 0) continue;
      if (!complete) {
        if (unlink(path.c_str()) != 0)
          return Failure{"cannot remove the pin of map " + name, errno, "unlink", path};
        continue;
      }
      if (Result failure = takePin(map, name, path)) return failure;
      out_.reused.push_back(name);
    }
    return std::nullopt;
  }

  Result takePin(struct bpf_map *map, const std::string &name, const std::string &path) {
    Descriptor pinned(bpf_obj_get(path.c_str()));
    if (!pinned) return Failure{"cannot open the pinned map " + name, errno, "bpf(BPF_OBJ_GET)", path};
    struct bpf_map_info info = {};
    uint32_t length = sizeof(info);
    if (int failed = bpf_map_get_info_by_fd(pinned.get(), &info, &length))
      return Failure{"cannot read the pinned map " + name, -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)", path};
    std::string difference = compare(map, info);
    if (!difference.empty())
      return layoutFailure("the pinned map " + name + " is of another layout (" + difference + ")", path);
    if (map == out_.control) {
      if (Result failure = checkLayout(pinned.get(), path)) return failure;
    }
    // Its size stays as it is: changing it would cost all entries.
    if (bpf_map__max_entries(map) != info.max_entries) {
      if (int failed = bpf_map__set_max_entries(map, info.max_entries))
        return Failure{"cannot take over the size of the pinned map " + name, -failed, "open", path};
    }
    return std::nullopt;
  }

  Result differ(struct bpf_map *map, const std::string &path, bool &differs) {
    Descriptor pinned(bpf_obj_get(path.c_str()));
    if (!pinned) return Failure{"cannot open the pinned map", errno, "bpf(BPF_OBJ_GET)", path};
    struct bpf_map_info info = {};
    uint32_t length = sizeof(info);
    if (int failed = bpf_map_get_info_by_fd(pinned.get(), &info, &length))
      return Failure{"cannot read the pinned map", -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)", path};
    std::string before;
    if (Result failure = kernelTypes_.describe(pinned.get(), before)) return failure;
    std::string now = describeTypes(bpf_object__btf(out_.object.get()), bpf_map__btf_key_type_id(map),
                                    bpf_map__btf_value_type_id(map));
    differs = before != now || !compare(map, info).empty() ||
              (map == out_.control && checkLayout(pinned.get(), path).has_value());
    return std::nullopt;
  }

  std::string compare(const struct bpf_map *map, const struct bpf_map_info &info) const {
    auto differ = [](const char *what, uint32_t pinned, uint32_t wanted) {
      return std::string(what) + " " + std::to_string(pinned) + " instead of " + std::to_string(wanted);
    };
    if (info.type != bpf_map__type(map)) return differ("type", info.type, bpf_map__type(map));
    if (info.key_size != bpf_map__key_size(map))
      return differ("key size", info.key_size, bpf_map__key_size(map));
    if (info.value_size != bpf_map__value_size(map))
      return differ("value size", info.value_size, bpf_map__value_size(map));
    if (info.map_flags != bpf_map__map_flags(map))
      return differ("flags", info.map_flags, bpf_map__map_flags(map));
    return {};
  }

  Result checkLayout(int pinned, const std::string &path) const {
    std::vector<uint8_t> value(bpf_map__value_size(out_.control));
    uint32_t zero = 0;
    if (int failed = bpf_map_lookup_elem(pinned, &zero, value.data()))
      return Failure{"cannot read the pinned map control", -failed, "bpf(BPF_MAP_LOOKUP_ELEM)", path};
    uint32_t layout = 0;
    memcpy(&layout, value.data(), sizeof(layout));
    if (layout == layout_) return std::nullopt;
    return layoutFailure("the pinned maps are of layout " + std::to_string(layout) +
                             ", this version has layout " + std::to_string(layout_),
                         path);
  }

  // For tail calls (bpf/detour.h); of what is not loaded there is none.
  Result fillStagePrograms() {
    struct bpf_map *map = bpf_object__find_map_by_name(out_.object.get(), "stage_programs");
    if (!map) return std::nullopt;
    for (uint32_t slot = 0; slot < std::size(kStagePrograms); slot++) {
      struct bpf_program *program = bpf_object__find_program_by_name(out_.object.get(), kStagePrograms[slot]);
      int descriptor = program ? bpf_program__fd(program) : -1;
      if (descriptor < 0) continue;
      if (int failed = bpf_map_update_elem(bpf_map__fd(map), &slot, &descriptor, BPF_ANY))
        return Failure{"cannot fill the map stage_programs", -failed, "bpf(BPF_MAP_UPDATE_ELEM)"};
    }
    return std::nullopt;
  }

  Failure loadFailure(int error) const {
    std::string program = log_.failedProgram();
    if (!program.empty())
      return {"cannot load program " + program, error, "bpf(BPF_PROG_LOAD)", log_.detail()};
    return {"cannot load the BPF object " + label_, error, "bpf(BPF_MAP_CREATE)", log_.detail()};
  }

  const LoadOptions &options_;
  LoadedObject &out_;
  LibbpfLog log_;
  KernelTypes kernelTypes_;
  std::string label_;
  uint32_t layout_ = 0;
};

} // namespace

Result loadObject(const LoadOptions &options, LoadedObject &out) {
  LoadedObject loaded;
  if (Result failure = Loader(options, loaded).run()) return failure;
  out = std::move(loaded);
  return std::nullopt;
}

Result findDifferingMaps(const std::string &pinDirectory, std::vector<std::string> &names) {
  LoadOptions options;
  options.pinDirectory = pinDirectory;
  LoadedObject opened;
  return Loader(options, opened).findDiffering(names);
}

bool isEmbeddedProgram(const std::string &kernelName) {
  LibbpfLog quiet;
  for (const EmbeddedObject *embedded = embeddedObjects; embedded->name; embedded++) {
    ObjectPointer object(
        bpf_object__open_mem(embedded->begin, static_cast<size_t>(embedded->end - embedded->begin), nullptr));
    struct bpf_program *program = nullptr;
    if (!object) continue;
    bpf_object__for_each_program(
        program, object.get()) if (std::string(bpf_program__name(program)).substr(0, kKernelNameLength) ==
                                   kernelName) return true;
  }
  return false;
}

} // namespace hostroute
