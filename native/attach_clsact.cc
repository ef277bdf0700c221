// clsact filters, for kernels before 6.6.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>

#include "attach.h"
#include "libbpf_log.h"
#include "netlink_socket.h"
#include "object_loader.h"
#include "system.h"

namespace hostroute {

namespace {

constexpr uint32_t kHandle = 1;

// Devices whose clsact qdisc this process made, by network namespace. A qdisc
// of an earlier process stays: empty, it costs nothing.
std::mutex madeMutex;
std::set<std::pair<std::string, int>> &madeQdiscs() {
  static auto *made =
      new std::set<std::pair<std::string, int>>(); // never destroyed: threads may outlive main
  return *made;
}

struct bpf_tc_hook hookOf(int ifindex, enum bpf_tc_attach_point point) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = point);
  return hook;
}

std::string programName(uint32_t id) {
  Descriptor program(bpf_prog_get_fd_by_id(id));
  struct bpf_prog_info info = {};
  uint32_t length = sizeof(info);
  if (!program || bpf_prog_get_info_by_fd(program.get(), &info, &length)) return {};
  return info.name;
}

Failure failureOf(const char *verb, int ifindex, uint32_t priority, int error, const char *syscall,
                  const std::string &detail) {
  return {std::string("cannot ") + verb + " clsact filter of priority " + std::to_string(priority) +
              " on device " + std::to_string(ifindex),
          error, syscall, detail};
}

// The program at our handle and priority, 0 none.
Result query(int ifindex, enum bpf_tc_attach_point point, uint32_t priority, uint32_t &program) {
  LibbpfLog log;
  program = 0;
  struct bpf_tc_hook hook = hookOf(ifindex, point);
  LIBBPF_OPTS(bpf_tc_opts, options, .handle = kHandle, .priority = priority);
  int failed = bpf_tc_query(&hook, &options);
  if (failed == -ENOENT || failed == -EINVAL) return std::nullopt; // EINVAL: no clsact qdisc
  if (failed) return failureOf("read the", ifindex, priority, -failed, "RTM_GETTFILTER", log.detail());
  program = options.prog_id;
  return std::nullopt;
}

Result countFilters(int ifindex, uint32_t parent, size_t &count) {
  struct tcmsg request = {};
  request.tcm_ifindex = ifindex;
  request.tcm_parent = parent;
  std::vector<uint8_t> messages;
  bool interrupted = false;
  if (Result failure =
          NetlinkSocket::dumpAll(RTM_GETTFILTER, &request, sizeof(request), messages, interrupted))
    return failure;
  count += messages.empty() ? 0 : 1;
  return std::nullopt;
}

Result removeQdiscIfOurs(int ifindex) {
  std::pair<std::string, int> key{networkNamespace(), ifindex};
  std::lock_guard<std::mutex> lock(madeMutex);
  if (!madeQdiscs().count(key)) return std::nullopt;
  size_t filters = 0;
  for (uint32_t minor : {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS})
    if (Result failure = countFilters(ifindex, TC_H_MAKE(TC_H_CLSACT, minor), filters)) return failure;
  if (filters) return std::nullopt;
  LibbpfLog log;
  struct bpf_tc_hook hook =
      hookOf(ifindex, static_cast<enum bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  if (int failed = bpf_tc_hook_destroy(&hook))
    return Failure{"cannot remove the clsact qdisc of device " + std::to_string(ifindex), -failed,
                   "RTM_DELQDISC", log.detail()};
  madeQdiscs().erase(key);
  return std::nullopt;
}

} // namespace

Result attachClsact(const Program &program, int ifindex, uint32_t priority, bool egress, Attachment &out) {
  out.replaced = false;
  const enum bpf_tc_attach_point point = egress ? BPF_TC_EGRESS : BPF_TC_INGRESS;
  struct bpf_tc_hook hook = hookOf(ifindex, point);
  {
    LibbpfLog log;
    int failed = bpf_tc_hook_create(&hook);
    if (failed && failed != -EEXIST)
      return Failure{"cannot make the clsact qdisc of device " + std::to_string(ifindex), -failed,
                     "RTM_NEWQDISC", log.detail()};
    if (!failed) {
      std::lock_guard<std::mutex> lock(madeMutex);
      madeQdiscs().insert({networkNamespace(), ifindex});
    }
  }
  uint32_t present = 0;
  if (Result failure = query(ifindex, point, priority, present)) return failure;
  if (present) {
    std::string name = programName(present);
    if (name != program.name.substr(0, BPF_OBJ_NAME_LEN - 1) && !isEmbeddedProgram(name))
      return failureOf("replace the", ifindex, priority, EEXIST, "RTM_NEWTFILTER",
                       "the program " + name + " is not ours");
  }
  LibbpfLog log;
  LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program.descriptor, .flags = BPF_TC_F_REPLACE,
              .handle = kHandle, .priority = priority);
  if (int failed = bpf_tc_attach(&hook, &options))
    return failureOf(("attach " + program.name + " as").c_str(), ifindex, priority, -failed, "RTM_NEWTFILTER",
                     log.detail());
  out.replaced = present != 0;
  return std::nullopt;
}

Result detachClsact(int ifindex, uint32_t priority, bool &found) {
  found = false;
  for (enum bpf_tc_attach_point point : {BPF_TC_INGRESS, BPF_TC_EGRESS}) {
    uint32_t present = 0;
    if (Result failure = query(ifindex, point, priority, present)) return failure;
    if (!present || !isEmbeddedProgram(programName(present))) continue;
    LibbpfLog log;
    struct bpf_tc_hook hook = hookOf(ifindex, point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = kHandle, .priority = priority);
    if (int failed = bpf_tc_detach(&hook, &options))
      return failureOf("remove the", ifindex, priority, -failed, "RTM_DELTFILTER", log.detail());
    found = true;
  }
  return found ? removeQdiscIfOurs(ifindex) : std::nullopt;
}

} // namespace hostroute
