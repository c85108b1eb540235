// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/image.h"
#include "data/options.h"

namespace diffuse {

struct DataEntry {
  std::string path;    // relative to the folder
  int64_t label = -1;  // -1: none
};

struct SkippedFile {
  std::string path;
  std::string reason;
};

/// What a folder holds, from names and (optionally) headers: no pixel decoded.
struct DataScan {
  std::vector<DataEntry> entries;        // byte-wise path order
  std::vector<std::string> label_names;  // index = label; class folders in byte-wise order
  std::vector<SkippedFile> skipped;
  uint64_t fingerprint = 0;  // of the entries' paths and sizes: a resume on other data is noticed
};

/// Recursive; symlinked folders followed once. With `read_headers` the type is read by content and
/// files that are no pictures, too large or damaged in the header are listed in `skipped`. Throws
/// Error{data} when the folder is missing or holds no picture.
DataScan scan_folder(const DataOptions& options, bool read_headers);

/// Images ready for training: uint8, of size height x width x channels, by index. Thread-safe to
/// read.
class Dataset {
 public:
  /// Scans; when the cache policy says so, decodes everything with `workers` threads (`progress` is
  /// called with done and total). Bad files follow options.on_bad_image and max_bad_fraction:
  /// Error{data}.
  Dataset(const DataOptions& options,
          const std::function<void(int64_t, int64_t)>& progress = nullptr);
  ~Dataset();
  Dataset(Dataset&&) noexcept;

  int64_t size() const;  // usable images
  const DataScan& scan() const;
  bool cached() const;
  int64_t label(int64_t index) const;

  /// Writes image `index`, flipped and cropped as asked, as height*width*channels interleaved
  /// bytes. `crop` in [0,1)^2 places the window of a random crop (0.5, 0.5 is the centre). False
  /// when the file turned out bad (streaming): it is recorded in bad().
  bool fetch(int64_t index, bool flip, double crop_y, double crop_x, uint8_t* out) const;

  /// Every file skipped so far, with reasons.
  std::vector<SkippedFile> bad() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffuse
