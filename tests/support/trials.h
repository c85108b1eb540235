// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace diffuse {

/// How often a test of random cases repeats: `usual`, or DIFFUSE_TRIALS times (scripts/soak).
inline int trials(int usual) {
  const char* const wanted = std::getenv("DIFFUSE_TRIALS");
  return wanted != nullptr && std::atoi(wanted) > 0 ? std::atoi(wanted) : usual;
}

/// Says to scripts/soak how much of what was done: it adds up these lines. Silent without it.
inline void count_done(const char* what, int64_t count) {
  if (std::getenv("DIFFUSE_TRIALS") != nullptr)
    std::printf("done\t%lld\t%s\n", static_cast<long long>(count), what);
}

}  // namespace diffuse
