// SPDX-License-Identifier: MIT
// One program for each target: libFuzzer has main() and calls these.
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "base/log.h"
#include "targets.h"

namespace {

double cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  diffuse::log::set_level(diffuse::log::Level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const double start = cpu_seconds();
  diffuse::fuzz::DIFFUSE_FUZZ_TARGET({data, size});
  // libFuzzer's own limit is of the wall clock, which other processes share.
  if (cpu_seconds() - start > 1) {
    std::fprintf(stderr, "more than 1 s of processor time for %zu bytes\n", size);
    std::abort();
  }
  return 0;
}
