// Links: TCX, netkit, XDP, LSM, tracing, kprobe, cgroup.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/perf_event.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <functional>

#include "attach.h"

namespace hostroute {

namespace {

// Numbers of linux/bpf.h, which older headers lack: 6.6 TCX, 6.7 netkit.
constexpr uint32_t kTcxIngress = 46;
constexpr uint32_t kTcxEgress = 47;
constexpr uint32_t kNetkitPrimary = 54;
constexpr uint32_t kNetkitPeer = 55;
constexpr uint32_t kLinkTcx = 11;
constexpr uint32_t kLinkNetkit = 13;

// struct bpf_link_info up to the union's first words, which is where every
// kind of link that matters here says its target.
struct LinkInfo {
  uint32_t type = 0;
  uint32_t first = 0;
  uint32_t second = 0;
  uint64_t cgroup = 0;
};

Result readLink(int link, const std::string &path, LinkInfo &out) {
  struct bpf_link_info info = {};
  uint32_t length = sizeof(info);
  if (int failed = bpf_link_get_info_by_fd(link, &info, &length))
    return Failure{"cannot read the pinned link", -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)", path};
  out.type = info.type;
  out.first = info.xdp.ifindex; // the same place in tcx and netkit; tracing: attach type
  out.second = info.netns.attach_type;
  out.cgroup = info.type == BPF_LINK_TYPE_CGROUP ? info.cgroup.cgroup_id : 0;
  return std::nullopt;
}

// The target of a link, and how to make a new one.
struct Target {
  std::string name; // "device 5"
  std::function<bool(const LinkInfo &)> matches;
  std::function<int()> create; // descriptor or -errno
};

Result attachLink(const Program &program, const Target &target, const std::string &pinPath, Attachment &out) {
  out.replaced = false;
  std::string message = "cannot attach " + program.name + " to " + target.name;
  if (!pinPath.empty()) {
    Descriptor pinned(bpf_obj_get(pinPath.c_str()));
    if (!pinned && errno != ENOENT)
      return Failure{"cannot open the pinned link", errno, "bpf(BPF_OBJ_GET)", pinPath};
    if (pinned) {
      LinkInfo info;
      if (Result failure = readLink(pinned.get(), pinPath, info)) return failure;
      // A link whose device is gone says 0 and cannot be updated (ENOLINK).
      if (target.matches(info)) {
        int failed = bpf_link_update(pinned.get(), program.descriptor, nullptr);
        if (failed) return Failure{message, -failed, "bpf(BPF_LINK_UPDATE)", pinPath};
        out.replaced = true;
        return std::nullopt;
      }
      // Without this the old link would go only after a while: bpffs lets go late.
      bpf_link_detach(pinned.get());
      pinned.reset();
      if (unlink(pinPath.c_str()) != 0)
        return Failure{"cannot remove the pinned link", errno, "unlink", pinPath};
    }
  }
  int made = target.create();
  if (made < 0) return Failure{message, -made, "bpf(BPF_LINK_CREATE)"};
  Descriptor link(made);
  if (pinPath.empty()) {
    out.link = std::move(link);
    return std::nullopt;
  }
  if (int failed = bpf_obj_pin(link.get(), pinPath.c_str()))
    return Failure{"cannot pin the link of " + program.name + " at " + pinPath, -failed, "bpf(BPF_OBJ_PIN)",
                   pinPath};
  return std::nullopt;
}

std::string deviceName(int ifindex) {
  return "device " + std::to_string(ifindex);
}

// libbpf returns -1 with errno or -errno, by its mode: both are errno here.
int created(int descriptor) {
  return descriptor < 0 ? -errno : descriptor;
}

// Links that take no other program: the pin is made anew, the new link before
// the old one goes, so that there is no gap.
Result attachAnew(const Program &program, const std::string &target, const std::function<int()> &create,
                  const std::string &pinPath, Attachment &out) {
  Descriptor before;
  if (!pinPath.empty()) before = Descriptor(bpf_obj_get(pinPath.c_str()));
  Result failure =
      attachLink(program, {target, [](const LinkInfo &) { return false; }, create}, pinPath, out);
  if (!failure)
    out.replaced = static_cast<bool>(before);
  else if (before)
    bpf_obj_pin(before.get(), pinPath.c_str());
  return failure;
}

uint32_t attachedXdpMode(int ifindex) {
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  return bpf_xdp_query(ifindex, 0, &query) ? 0U : query.attach_mode;
}

} // namespace

Result attachDevice(const Program &program, Hook hook, int ifindex, const std::string &pinPath,
                    Attachment &out) {
  const bool tcx = hook == Hook::TcxIngress || hook == Hook::TcxEgress;
  uint32_t type = hook == Hook::TcxIngress      ? kTcxIngress
                  : hook == Hook::TcxEgress     ? kTcxEgress
                  : hook == Hook::NetkitPrimary ? kNetkitPrimary
                                                : kNetkitPeer;
  uint32_t linkType = tcx ? kLinkTcx : kLinkNetkit;
  Target target{deviceName(ifindex),
                [&](const LinkInfo &info) {
                  return info.type == linkType && info.first == static_cast<uint32_t>(ifindex) &&
                         info.second == type;
                },
                [&] {
                  return created(bpf_link_create(program.descriptor, ifindex,
                                                 static_cast<bpf_attach_type>(type), nullptr));
                }};
  return attachLink(program, target, pinPath, out);
}

Result attachXdp(const Program &program, int ifindex, bool native, const std::string &pinPath,
                 Attachment &out) {
  uint32_t mode = native ? XDP_ATTACHED_DRV : XDP_ATTACHED_SKB;
  Target target{deviceName(ifindex),
                [&](const LinkInfo &info) {
                  return info.type == BPF_LINK_TYPE_XDP && info.first == static_cast<uint32_t>(ifindex) &&
                         attachedXdpMode(ifindex) == mode;
                },
                [&] {
                  LIBBPF_OPTS(bpf_link_create_opts, options,
                              .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
                  return created(bpf_link_create(program.descriptor, ifindex, BPF_XDP, &options));
                }};
  return attachLink(program, target, pinPath, out);
}

Result attachTrace(const Program &program, const std::string &pinPath, Attachment &out) {
  auto type = static_cast<bpf_attach_type>(program.expectedAttachType);
  auto create = [&] {
    int link = bpf_link_create(program.descriptor, 0, type, nullptr);
    return created(link < 0 && errno == EINVAL ? bpf_raw_tracepoint_open(nullptr, program.descriptor) : link);
  };
  return attachAnew(program, "its kernel function", create, pinPath, out);
}

Result attachKprobe(const Program &program, const std::string &function, const std::string &pinPath,
                    Attachment &out) {
  uint32_t type = 0;
  if (!(std::ifstream("/sys/bus/event_source/devices/kprobe/type") >> type))
    return Failure{"this kernel has no kprobes", ENOENT, "perf_event_open"};
  struct perf_event_attr event = {};
  event.size = sizeof(event);
  event.type = type;
  event.kprobe_func = reinterpret_cast<uintptr_t>(function.c_str());
  // Of all processes; the number of the CPU means nothing here.
  Descriptor opened(static_cast<int>(syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!opened) return Failure{"cannot probe " + function, errno, "perf_event_open"};
  auto create = [&] {
    return created(bpf_link_create(program.descriptor, opened.get(), BPF_PERF_EVENT, nullptr));
  };
  return attachAnew(program, function, create, pinPath, out);
}

Result attachRawTracepoint(const Program &program, const std::string &name, const std::string &pinPath,
                           Attachment &out) {
  auto create = [&] { return created(bpf_raw_tracepoint_open(name.c_str(), program.descriptor)); };
  return attachAnew(program, "tracepoint " + name, create, pinPath, out);
}

Result attachCgroup(const Program &program, const std::string &cgroupPath, const std::string &pinPath,
                    Attachment &out) {
  Descriptor cgroup(open(cgroupPath.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat status = {};
  if (!cgroup || fstat(cgroup.get(), &status) != 0)
    return Failure{"cannot open the cgroup " + cgroupPath, errno, "open", cgroupPath};
  auto type = static_cast<bpf_attach_type>(program.expectedAttachType);
  Target target{
      "cgroup " + cgroupPath,
      // A cgroup's id is its inode number on 64-bit machines.
      [&](const LinkInfo &info) { return info.type == BPF_LINK_TYPE_CGROUP && info.cgroup == status.st_ino; },
      [&] { return created(bpf_link_create(program.descriptor, cgroup.get(), type, nullptr)); }};
  return attachLink(program, target, pinPath, out);
}

Result openLinkedProgram(const std::string &path, Descriptor &out) {
  Descriptor link(bpf_obj_get(path.c_str()));
  if (!link) return Failure{"cannot open the pinned link", errno, "bpf(BPF_OBJ_GET)", path};
  struct bpf_link_info info = {};
  uint32_t length = sizeof(info);
  if (int failed = bpf_link_get_info_by_fd(link.get(), &info, &length))
    return Failure{"cannot read the pinned link", -failed, "bpf(BPF_OBJ_GET_INFO_BY_FD)", path};
  out = Descriptor(bpf_prog_get_fd_by_id(info.prog_id));
  if (!out)
    return Failure{"cannot open the program of the pinned link", errno, "bpf(BPF_PROG_GET_FD_BY_ID)", path};
  return std::nullopt;
}

Result updatePinned(const std::string &path, int program) {
  Descriptor link(bpf_obj_get(path.c_str()));
  if (!link) return Failure{"cannot open the pinned link", errno, "bpf(BPF_OBJ_GET)", path};
  if (int failed = bpf_link_update(link.get(), program, nullptr))
    return Failure{"cannot put a program into the pinned link", -failed, "bpf(BPF_LINK_UPDATE)", path};
  return std::nullopt;
}

Result detachPinned(const std::string &path, bool &found) {
  found = false;
  Descriptor link(bpf_obj_get(path.c_str()));
  if (!link) {
    if (errno == ENOENT) return std::nullopt;
    return Failure{"cannot open the pinned link", errno, "bpf(BPF_OBJ_GET)", path};
  }
  LinkInfo info;
  // Whatever is pinned there must be a link before its pin is removed.
  if (Result failure = readLink(link.get(), path, info)) return failure;
  found = true;
  // EOPNOTSUPP: LSM and tracing links detach with their last descriptor.
  // ENOLINK: the device is gone already.
  int failed = bpf_link_detach(link.get());
  if (failed && failed != -EOPNOTSUPP && failed != -ENOLINK)
    return Failure{"cannot detach the pinned link", -failed, "bpf(BPF_LINK_DETACH)", path};
  if (unlink(path.c_str()) != 0 && errno != ENOENT)
    return Failure{"cannot remove the pinned link", errno, "unlink", path};
  return std::nullopt;
}

} // namespace hostroute
