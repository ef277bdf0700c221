#include "test_run.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstring>

namespace hostroute {

namespace {

// Room for headers that a program puts before the packet.
constexpr size_t kGrowth = 512;

// BPF_F_TEST_SKB_CHECKSUM_COMPLETE, which older headers do not have.
constexpr uint32_t kChecksumComplete = 1U << 2;

template <typename T> void setContext(std::vector<uint8_t> &bytes, const T &context) {
  bytes.resize(sizeof(context));
  memcpy(bytes.data(), &context, sizeof(context));
}

void makeContext(uint32_t type, TestRun &run) {
  if (!run.context.empty()) return;
  if (type == BPF_PROG_TYPE_SCHED_CLS) {
    struct __sk_buff skb = {};
    skb.ifindex = run.ifindex;
    skb.ingress_ifindex = run.ifindex;
    setContext(run.context, skb);
  } else if (type == BPF_PROG_TYPE_XDP) {
    struct xdp_md xdp = {};
    xdp.data_end = static_cast<uint32_t>(run.data.size());
    xdp.ingress_ifindex = run.ifindex;
    setContext(run.context, xdp);
  }
}

} // namespace

Result testRun(int program, uint32_t type, const std::string &name, TestRun &run) {
  makeContext(type, run);
  // A syscall program's context is written back in place, and nothing else is allowed.
  bool onlyContext = type == BPF_PROG_TYPE_SYSCALL;
  std::vector<uint8_t> dataOut(onlyContext ? 0 : run.data.size() + kGrowth);
  std::vector<uint8_t> contextOut(onlyContext ? 0 : run.context.size());
  LIBBPF_OPTS(bpf_test_run_opts, options);
  options.data_in = run.data.empty() ? nullptr : run.data.data();
  options.data_size_in = static_cast<uint32_t>(run.data.size());
  options.data_out = dataOut.empty() ? nullptr : dataOut.data();
  options.data_size_out = static_cast<uint32_t>(dataOut.size());
  options.ctx_in = run.context.empty() ? nullptr : run.context.data();
  options.ctx_size_in = static_cast<uint32_t>(run.context.size());
  options.ctx_out = contextOut.empty() ? nullptr : contextOut.data();
  options.ctx_size_out = static_cast<uint32_t>(contextOut.size());
  options.flags = run.checksumComplete ? kChecksumComplete : 0;
  options.repeat = onlyContext ? 0 : static_cast<int>(run.repeat);
  if (int failed = bpf_prog_test_run_opts(program, &options))
    return Failure{"cannot run " + name + " on a made packet", -failed, "bpf(BPF_PROG_TEST_RUN)"};
  run.retval = static_cast<int32_t>(options.retval);
  run.duration = options.duration;
  if (onlyContext) return std::nullopt;
  dataOut.resize(options.data_size_out);
  contextOut.resize(options.ctx_size_out);
  run.data = std::move(dataOut);
  run.context = std::move(contextOut);
  return std::nullopt;
}

} // namespace hostroute
