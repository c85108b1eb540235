// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fields.h"
#include "data/points.h"

namespace diffuse {

enum class DataSource { images, points };
enum class Labels { none, subfolder };
enum class ResizeFilter { area, bilinear, bicubic, lanczos };
enum class Crop { center, random, none };
enum class AlphaPolicy { white, black, drop, error };
enum class BadImage { skip, fail };
enum class CachePolicy { automatic, ram, none };

/// What is learned: an image folder and how a picture becomes a tensor, or a distribution of points
/// in the plane. Config section `data`.
struct DataOptions {
  DataSource source = DataSource::images;
  PointSource points{point_sources(), "moons"};
  std::string path;
  Labels labels = Labels::subfolder;
  std::vector<int64_t> size{32};  // one number: square; two: height, width
  int64_t channels = 3;
  ResizeFilter resize = ResizeFilter::lanczos;
  Crop crop = Crop::center;
  bool flip = false;
  double holdout = 0;  // share of the pictures that training never sees
  bool exif_orientation = true;
  AlphaPolicy alpha = AlphaPolicy::white;
  BadImage on_bad_image = BadImage::skip;
  double max_bad_fraction = 0.01;
  int64_t max_pixels = 67'108'864;
  int64_t max_file_bytes = 67'108'864;
  std::optional<int64_t> workers;  // none: one per core, at most 8
  CachePolicy cache = CachePolicy::automatic;
  int64_t cache_mb = 2048;    // `auto` caches in memory when the decoded set is at most this
  int64_t queue_batches = 4;  // batches prepared ahead
  void fields(Fields& f);

  int64_t height() const { return size.front(); }
  int64_t width() const { return size.back(); }
  bool are_points() const { return source == DataSource::points; }
  /// Channels, height, width of what the network sees. A point is a picture of one pixel whose
  /// channels are x and y.
  std::vector<int64_t> shape() const;
};

}  // namespace diffuse
