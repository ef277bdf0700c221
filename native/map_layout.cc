#include "map_layout.h"

#include <bpf/bpf.h>

#include <cerrno>

namespace hostroute {

namespace {

std::string describe(const struct btf *btf, uint32_t id);

std::string describeFields(const struct btf *btf, const struct btf_type *type) {
  std::string text;
  const struct btf_member *members = btf_members(type);
  for (uint32_t i = 0; i < btf_vlen(type); i++) {
    const char *name = btf__name_by_offset(btf, members[i].name_off);
    text += text.empty() ? "{" : ",{";
    text += "\"name\":\"" + std::string(name ? name : "") +
            "\",\"offset\":" + std::to_string(btf_member_bit_offset(type, i) / 8) +
            ",\"type\":" + describe(btf, members[i].type) + "}";
  }
  return text;
}

std::string ofSize(int64_t size) {
  return "{\"size\":" + std::to_string(size);
}

std::string describe(const struct btf *btf, uint32_t id) {
  id = static_cast<uint32_t>(btf__resolve_type(btf, id)); // typedefs and qualifiers
  const struct btf_type *type = btf__type_by_id(btf, id);
  if (!type) return "null";
  switch (btf_kind(type)) {
  case BTF_KIND_STRUCT: {
    const char *name = btf__name_by_offset(btf, type->name_off);
    return ofSize(btf__resolve_size(btf, id)) + ",\"name\":\"" + (name ? name : "") + "\",\"fields\":[" +
           describeFields(btf, type) + "]}";
  }
  case BTF_KIND_ARRAY: {
    const struct btf_array *array = btf_array(type);
    std::string element = describe(btf, array->type);
    std::string text = ofSize(btf__resolve_size(btf, id));
    if (element.find("\"fields\"") == std::string::npos) return text + "}";
    return text + ",\"count\":" + std::to_string(array->nelems) + ",\"element\":" + element + "}";
  }
  case BTF_KIND_DATASEC:
    if (btf_vlen(type) != 1) return ofSize(type->size) + "}";
    return describe(btf, btf_var_secinfos(type)->type);
  case BTF_KIND_VAR:
    return describe(btf, type->type);
  default:
    return ofSize(btf__resolve_size(btf, id)) + "}";
  }
}

} // namespace

std::string describeTypes(const struct btf *btf, uint32_t key, uint32_t value) {
  return "{\"key\":" + (btf && key ? describe(btf, key) : "null") +
         ",\"value\":" + (btf && value ? describe(btf, value) : "null") + "}";
}

Result KernelTypes::describe(int map, std::string &out) {
  struct bpf_map_info info = {};
  uint32_t length = sizeof(info);
  if (int failed = bpf_map_get_info_by_fd(map, &info, &length))
    return Failure{"cannot read the properties of a BPF map", -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)"};
  auto &btf = read_[info.btf_id];
  if (info.btf_id && !btf) {
    btf.reset(btf__load_from_kernel_by_id(info.btf_id));
    if (!btf) return Failure{"cannot read the BTF of a BPF map", errno, "bpf(BPF_BTF_GET_FD_BY_ID)"};
  }
  out = describeTypes(btf.get(), info.btf_key_type_id, info.btf_value_type_id);
  return std::nullopt;
}

} // namespace hostroute
