// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/log.h"

namespace diffuse {

/// A file that grows by whole records. Records that do not fit (disk full) are taken back, so that
/// the file never holds half of one, and are written with the next one that does: a few MB are kept
/// in memory, later ones are lost. A failure warns, now and then; none throws. A file that is
/// removed meanwhile is made anew.
class AppendFile {
 public:
  /// Created if missing. Throws Error{run_folder}.
  explicit AppendFile(const std::filesystem::path& path);
  /// Tries once more to write what is kept.
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view record);
  /// The records that the file has not taken yet, which this forgets.
  std::string take_kept();
  /// Waits until what was appended is on the disk, as far as the file can do that.
  void sync();

 private:
  void write_kept();

  std::string path_;
  int fd_ = -1;
  std::string kept_;   // whole records
  bool lost_ = false;  // some that were too many to keep
  log::RareWarning warning_;
};

}  // namespace diffuse
