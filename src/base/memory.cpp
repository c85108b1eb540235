// SPDX-License-Identifier: MIT
#include "base/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace diffuse {
namespace {

constexpr int64_t kUnknown = int64_t{1} << 62;

/// The first number in a file of the kernel; none for "max" or no such file.
std::optional<int64_t> number_in(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? std::optional(value) : std::nullopt;
}

/// The number behind `name` in a file of lines "name: number [unit]".
std::optional<int64_t> number_at(const std::string& path, const std::string& name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream rest(line.substr(name.size()));
    int64_t value = 0;
    if (rest >> value) return value;
  }
  return std::nullopt;
}

/// What a control group at `folder` leaves; page cache that can be dropped counts as free.
int64_t left_in_group(const std::string& folder,
                      const char* limit,
                      const char* usage,
                      const char* droppable) {
  const auto most = number_in(folder + limit), used = number_in(folder + usage);
  if (!most || !used || *most >= kUnknown) return kUnknown;
  const int64_t cache = number_at(folder + "/memory.stat", droppable).value_or(0);
  return std::max<int64_t>(*most - std::max<int64_t>(*used - cache, 0), 0);
}

/// The least of all groups from this process's own upwards.
int64_t left_in_groups() {
  std::ifstream in("/proc/self/cgroup");
  int64_t least = kUnknown;
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string kinds = line.substr(first + 1, second - first - 1);
    const bool second_version = kinds.empty();
    if (!second_version && ("," + kinds + ",").find(",memory,") == std::string::npos) continue;
    const std::string root = second_version ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    std::string path = line.substr(second + 1);
    for (;;) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      least = std::min(
          least,
          second_version
              ? left_in_group(root + path, "/memory.max", "/memory.current", "inactive_file ")
              : left_in_group(root + path,
                              "/memory.limit_in_bytes",
                              "/memory.usage_in_bytes",
                              "total_inactive_file "));
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
  return least;
}

int64_t left_of_address_space() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnknown;
  const int64_t pages = number_in("/proc/self/statm").value_or(0);
  const auto most = static_cast<int64_t>(
      std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(std::numeric_limits<int64_t>::max())));
  return std::max<int64_t>(most - pages * ::sysconf(_SC_PAGESIZE), 0);
}

}  // namespace

int64_t memory_available() {
  const auto kib = number_at("/proc/meminfo", "MemAvailable:");
  return std::min({kib ? *kib * 1024 : kUnknown, left_in_groups(), left_of_address_space()});
}

bool mapping_is_limited() {
  constexpr int64_t kNever = 2;
  static const bool strict = number_in("/proc/sys/vm/overcommit_memory") == kNever;
  rlimit limit{};
  return strict || (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY);
}

bool has_room(int64_t bytes) {
  if (!mapping_is_limited()) return true;
  const auto size = static_cast<size_t>(bytes);
  void* const place =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return place != MAP_FAILED && ::munmap(place, size) == 0;
}

std::string format_bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(
      text, sizeof(text), unit > 0 && value < 9.95 ? "%.1f %s" : "%.0f %s", value, kUnits[unit]);
  return text;
}

}  // namespace diffuse
