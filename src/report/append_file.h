// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace diffuse {

/// A file that grows by whole records. A record that does not fit (disk full) is taken back, so
/// that the file never holds half of one; the first failure warns, none throws.
class AppendFile {
 public:
  /// Created if missing. Throws Error{run_folder}.
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view record);

 private:
  std::string path_;
  int fd_ = -1;
  bool warned_ = false;
};

}  // namespace diffuse
