// SPDX-License-Identifier: MIT
#include "base/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "support/forked.h"

namespace diffuse {
namespace {

TEST(Memory, AvailableIsAPartOfTheMachine) {
  const int64_t available = memory_available();
  EXPECT_GT(available, 0);
  EXPECT_LT(available, int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE));
}

TEST(Memory, ALimitOfAddressSpaceCounts) {
  EXPECT_EQ(wait_for(fork_child([] {
              const int64_t before = memory_available();
              rlimit limit{};
              getrlimit(RLIMIT_AS, &limit);
              // All that is in use now, and 64 MiB.
              int64_t in_use = 0;
              std::FILE* const statm = std::fopen("/proc/self/statm", "r");
              if (statm == nullptr || std::fscanf(statm, "%ld", &in_use) != 1) return 1;
              std::fclose(statm);
              const int64_t room = int64_t{64} << 20;
              limit.rlim_cur = static_cast<rlim_t>(in_use * ::sysconf(_SC_PAGESIZE) + room);
              if (setrlimit(RLIMIT_AS, &limit) != 0) return 2;
              const int64_t left = memory_available();
              // The file's buffer may have come or gone.
              return left <= room + (1 << 20) && left >= room - (1 << 20) && left <= before ? 0 : 3;
            })),
            0);
}

TEST(Memory, Formatted) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(9949), "9.9 kB");
  EXPECT_EQ(format_bytes(9950), "10 kB");
  EXPECT_EQ(format_bytes(999'499), "999 kB");
  EXPECT_EQ(format_bytes(999'500), "1.0 MB");
  EXPECT_EQ(format_bytes(12'000'000'000), "12 GB");
}

}  // namespace
}  // namespace diffuse
