// What hangs on a device by TCX or netkit links, whoever put it there.
#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>

#include "attach.h"

namespace hostroute {

namespace {

// Numbers of linux/bpf.h, which older headers lack: 6.6 TCX, 6.7 netkit (primary: on the way
// to the pod, peer: from it).
struct Place {
  uint32_t type;
  const char *how;
  const char *where;
};
constexpr Place kPlaces[] = {
    {46, "tcx", "ingress"},
    {47, "tcx", "egress"},
    {54, "netkit", "egress"},
    {55, "netkit", "ingress"},
};

// The kernel's own limit for one hook (BPF_MPROG_MAX, include/linux/bpf_mprog.h).
constexpr uint32_t kMostPrograms = 64;

// EINVAL: an older kernel; ENXIO: not a netkit; ENODEV: the device has gone; EACCES: a netkit's pod side.
bool meansNone(int code) {
  return code == EINVAL || code == ENXIO || code == ENODEV || code == EACCES;
}

} // namespace

Result readAttached(int ifindex, std::vector<AttachedProgram> &out) {
  for (const Place &place : kPlaces) {
    uint32_t ids[kMostPrograms] = {};
    uint32_t count = kMostPrograms;
    if (bpf_prog_query(ifindex, static_cast<bpf_attach_type>(place.type), 0, nullptr, ids, &count)) {
      if (meansNone(errno)) continue;
      return Failure{"cannot read the programs of device " + std::to_string(ifindex), errno,
                     "bpf(BPF_PROG_QUERY)"};
    }
    for (uint32_t i = 0; i < count; i++)
      out.push_back({place.how, place.where, ids[i]});
  }
  return std::nullopt;
}

Result readProgramName(uint32_t id, std::string &out) {
  Descriptor program(bpf_prog_get_fd_by_id(id));
  bpf_prog_info info = {};
  uint32_t length = sizeof(info);
  if (!program || bpf_obj_get_info_by_fd(program.get(), &info, &length))
    return Failure{"cannot read program " + std::to_string(id), errno, "bpf(BPF_PROG_GET_FD_BY_ID)"};
  out = info.name;
  return std::nullopt;
}

Result readLinkedMaps(const std::string &path, std::vector<uint32_t> &out) {
  Descriptor program;
  if (Result failure = openLinkedProgram(path, program)) return failure;
  // twice: how many, then which
  for (int turn = 0; turn < 2; turn++) {
    bpf_prog_info info = {};
    uint32_t length = sizeof(info);
    info.nr_map_ids = static_cast<uint32_t>(out.size());
    info.map_ids = reinterpret_cast<uintptr_t>(out.data());
    if (bpf_obj_get_info_by_fd(program.get(), &info, &length))
      return Failure{"cannot read the program of the pinned link", errno, "bpf(BPF_OBJ_GET_INFO_BY_FD)",
                     path};
    out.resize(info.nr_map_ids);
  }
  return std::nullopt;
}

} // namespace hostroute
