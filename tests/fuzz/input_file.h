// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "base/error.h"
#include "support/temp_folder.h"
#include "targets.h"

namespace diffuse::fuzz {

/// A file in memory that is written anew for each input; no disk takes part.
class InputFile {
 public:
  InputFile() : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) { DIFFUSE_CHECK(fd_ >= 0); }
  ~InputFile() { ::close(fd_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  void write(Bytes bytes) const {
    DIFFUSE_CHECK(::ftruncate(fd_, 0) == 0);
    DIFFUSE_CHECK(::pwrite(fd_, bytes.data(), bytes.size(), 0) ==
                  static_cast<ssize_t>(bytes.size()));
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// Files of given names, in memory where that is possible.
class InputFolder {
 public:
  void write(const char* name, std::string_view text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TempFolder folder_{memory_folder()};
};

/// While fuzzing one input in 16, chosen by its bytes: for what would take most of the time.
inline bool is_drawn([[maybe_unused]] Bytes input) {
#ifdef DIFFUSE_FUZZ
  return std::accumulate(input.begin(), input.end(), 0u) % 16 == 0;
#else
  return true;
#endif
}

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace diffuse::fuzz
