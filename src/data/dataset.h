// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"
#include "data/options.h"

namespace diffuse {

struct DataEntry {
  std::string path;    // relative to the folder
  int64_t label = -1;  // -1: none
  uint64_t key = 0;    // a hash of the path: an order in which new pictures move no others
};

struct SkippedFile {
  std::string path;
  std::string reason;
  bool picture =
      false;  // named like a picture or one by content: counts as bad, other files do not
};

/// What a folder holds, from names and (optionally) headers: no pixel decoded.
struct DataScan {
  // Those for training in byte-wise path order, then those held out in the order of their keys.
  std::vector<DataEntry> entries;
  int64_t held_out = 0;
  std::vector<std::string> label_names;  // index = label; class folders in byte-wise order
  std::vector<SkippedFile> skipped;      // byte-wise path order
  // Of the paths and sizes of all entries, and of those held out: other data are noticed.
  uint64_t fingerprint = 0;
  uint64_t held_out_fingerprint = 0;
};

/// Recursive; hidden files and folders are left out, symlinked folders followed once. With
/// `read_headers` the type is read by content and files that are no pictures, too large or damaged
/// in the header are listed in `skipped`; without, files are taken by their names' endings. With
/// labels: subfolder, the first folder of a path is its class; where a picture lies in no
/// subfolder, none has a label (a message says so if others do). A picture is held out where its
/// key falls into the share options.holdout: pictures that come or go change nothing for the
/// others. Throws Error{data} when the folder is missing, cannot be read or holds no picture, or
/// when options.holdout leaves none for training or holds none out.
DataScan scan_folder(const DataOptions& options, bool read_headers);

/// A hash of bytes.
uint64_t hash_of(std::span<const uint8_t> bytes);

/// "skipped N files, the first:" and a line for each of the first `most`.
std::string list_skipped(const std::vector<SkippedFile>& skipped, size_t most = 5);

/// Throws Error{data} when a picture was skipped and on_bad_image is fail. `skipped` as in
/// DataScan.
void refuse_bad(const DataOptions& options, const std::vector<SkippedFile>& skipped);
/// Throws Error{data} when `bad` of `pictures` are more than max_bad_fraction allows; `skipped` is
/// asked for the message only.
void refuse_too_many_bad(const DataOptions& options,
                         int64_t bad,
                         int64_t pictures,
                         const std::function<std::vector<SkippedFile>()>& skipped);

/// For a class-conditional model: throws Error{data} with the remedy when there are no classes.
void require_classes(const DataOptions& options, const std::vector<std::string>& label_names);

/// The part of the options that decode_image needs.
DecodeOptions decode_options(const DataOptions& options);

/// Images ready for training: uint8, of size height x width x channels, by index. Thread-safe to
/// read. Whether it is cached changes nothing but speed: an image that cannot be decoded keeps its
/// index, and fetch() says so.
class Dataset {
 public:
  /// Scans; when the cache policy says so, decodes everything with `workers` threads (`progress` is
  /// called with done and total; what it throws stops the work). Bad files follow
  /// options.on_bad_image and max_bad_fraction (a share of all files that look like pictures):
  /// Error{data}. Each is also logged.
  explicit Dataset(const DataOptions& options,
                   const std::function<void(int64_t, int64_t)>& progress = nullptr);
  ~Dataset();
  Dataset(Dataset&&) noexcept;

  int64_t size() const;      // images for training, with those that turned out bad since the scan
  int64_t held_out() const;  // images of index size() ..., which are not for training
  int64_t usable() const;    // all of both without the bad ones
  const DataScan& scan() const;
  bool cached() const;
  int64_t label(int64_t index) const;

  /// Writes image `index`, flipped and cropped as asked, as height*width*channels interleaved
  /// bytes. `crop_y`, `crop_x` in [0,1) place the window of a random crop (0.5, 0.5 is the centre).
  /// False when the file is bad: it is recorded in bad(). Throws Error{data} when a file that turns
  /// out bad now is one too many. Where pixels() has it, `out` may be null.
  bool fetch(int64_t index, bool flip, double crop_y, double crop_x, uint8_t* out) const;

  /// All of both, as fetch() writes them without flip: image `index` from index * height * width *
  /// channels on; what a bad one has is undefined. Empty unless the set is cached and cut the same
  /// way every time.
  std::span<const uint8_t> pixels() const;

  /// Every file skipped so far, with reasons, in byte-wise path order.
  std::vector<SkippedFile> bad() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffuse
