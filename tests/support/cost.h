// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <utility>

#include "support/forked.h"

namespace diffuse {

/// Sanitizers reserve terabytes of addresses, and take several times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCanLimitCost = false;
#else
inline constexpr bool kCanLimitCost = true;
#endif

struct Cost {
  int result = 0;  // of f, or minus the signal that ended it
  double cpu_seconds = 0;
  int64_t peak_mib = 0;  // of the whole process
  std::string text() const {
    return "result " + std::to_string(result) + ", " + std::to_string(cpu_seconds) + " s, " +
           std::to_string(peak_mib) + " MiB";
  }
};

/// Bytes of addresses that this process has mapped.
inline int64_t mapped_bytes() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

/// This process cannot map more than `mib` beside what it has, until destroyed.
class MappingLimit {
 public:
  explicit MappingLimit(int64_t mib) {
    ::getrlimit(RLIMIT_AS, &before_);
    const rlimit limit{static_cast<rlim_t>(mapped_bytes() + (mib << 20)), before_.rlim_max};
    ::setrlimit(RLIMIT_AS, &limit);
  }
  MappingLimit(const MappingLimit&) = delete;
  MappingLimit& operator=(const MappingLimit&) = delete;
  ~MappingLimit() { ::setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

/// Runs f() -> int in a child that the kernel ends after `seconds` of processor time (not of the
/// clock: other processes do not count), and that cannot get more than `mib` of further memory.
template <class F>
Cost limited(int seconds, int64_t mib, F&& f) {
  const pid_t pid = fork_child([&] {
    const auto bytes = static_cast<rlim_t>(mapped_bytes() + (mib << 20));
    const rlimit memory{bytes, bytes},
        time{static_cast<rlim_t>(seconds), static_cast<rlim_t>(seconds) + 1};
    const rlimit no_core{0, 0};
    if (::setrlimit(RLIMIT_AS, &memory) != 0 || ::setrlimit(RLIMIT_CPU, &time) != 0 ||
        ::setrlimit(RLIMIT_CORE, &no_core) != 0)
      return 98;
    return std::forward<F>(f)();
  });
  int status = 0;
  rusage used{};
  while (::wait4(pid, &status, 0, &used) < 0) {
  }
  const auto seconds_of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
          seconds_of(used.ru_utime) + seconds_of(used.ru_stime),
          used.ru_maxrss >> 10};
}

}  // namespace diffuse
