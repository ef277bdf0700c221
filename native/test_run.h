// One run of a loaded program on a made packet, through BPF_PROG_TEST_RUN.
#pragma once

#include <cstdint>
#include <vector>

#include "error.h"

namespace hostroute {

struct TestRun {
  // In. Empty data: the program takes only a context (SEC("syscall")).
  std::vector<uint8_t> data;
  std::vector<uint8_t> context;
  uint32_t repeat = 0;
  uint32_t ifindex = 0; // where the packet comes in, when no context is given
  bool checksumComplete =
      false; // the packet has a CHECKSUM_COMPLETE sum, which must be right after the run, too
  // Out: data and context after the program.
  int32_t retval = 0;
  uint32_t duration = 0; // mean nanoseconds of one run
};

// `type` is enum bpf_prog_type.
Result testRun(int program, uint32_t type, const std::string &name, TestRun &run);

} // namespace hostroute
