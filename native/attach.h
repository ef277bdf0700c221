// Attaching and detaching programs. A link is pinned at a path so that it
// outlives the process; one that is pinned there already for the same target
// has its program replaced in one step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "descriptor.h"
#include "error.h"

namespace hostroute {

struct Attachment {
  // Open when the link is not pinned: it detaches when this closes.
  Descriptor link;
  bool replaced = false;
};

enum class Hook { TcxIngress, TcxEgress, NetkitPrimary, NetkitPeer };

struct Program {
  int descriptor = -1;
  std::string name;
  uint32_t expectedAttachType = 0; // enum bpf_attach_type
};

// After failure of any of these the target and the pin are as before, except
// where a link of another target was pinned at the path: that one is gone.
Result attachDevice(const Program &program, Hook hook, int ifindex, const std::string &pinPath,
                    Attachment &out);
Result attachXdp(const Program &program, int ifindex, bool native, const std::string &pinPath,
                 Attachment &out);
// LSM and tracing programs: the target is in the program.
Result attachTrace(const Program &program, const std::string &pinPath, Attachment &out);
// Entry of a kernel function, in a module too. ENOENT without kprobes.
Result attachKprobe(const Program &program, const std::string &function, const std::string &pinPath,
                    Attachment &out);
// ENOENT where the kernel has no such tracepoint.
Result attachRawTracepoint(const Program &program, const std::string &name, const std::string &pinPath,
                           Attachment &out);
Result attachCgroup(const Program &program, const std::string &cgroupPath, const std::string &pinPath,
                    Attachment &out);
// EEXIST when another program than ours stands at this priority.
Result attachClsact(const Program &program, int ifindex, uint32_t priority, bool egress, Attachment &out);

// The program that the link pinned at path holds, and back: into the link goes another one, without a gap.
Result openLinkedProgram(const std::string &path, Descriptor &out);
Result updatePinned(const std::string &path, int program);

// The kernel's ids of the maps that the program uses which the link pinned at path holds.
Result readLinkedMaps(const std::string &path, std::vector<uint32_t> &out);

struct AttachedProgram {
  std::string how;   // "tcx", "netkit"
  std::string where; // "ingress", "egress"
  uint32_t id = 0;
};

// Appends what hangs on the device by TCX or netkit links; nothing where the kernel has neither, or no such
// device.
Result readAttached(int ifindex, std::vector<AttachedProgram> &out);
// As the kernel cuts it, 15 bytes. ENOENT: it has gone.
Result readProgramName(uint32_t id, std::string &out);

Result detachPinned(const std::string &path, bool &found);
// At both hooks; only removes filters whose program is one of the embedded objects'.
Result detachClsact(int ifindex, uint32_t priority, bool &found);

} // namespace hostroute
