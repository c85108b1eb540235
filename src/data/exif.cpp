// SPDX-License-Identifier: MIT
#include "data/exif.h"

#include <algorithm>

#include "base/error.h"

namespace diffuse {

int exif_orientation(std::span<const uint8_t> tiff) {
  if (tiff.size() < 8) return 1;
  const bool little = tiff[0] == 'I' && tiff[1] == 'I';
  const bool big = tiff[0] == 'M' && tiff[1] == 'M';
  if (!little && !big) return 1;
  const auto u16 = [&](size_t at) -> uint32_t {
    return little ? tiff[at] | tiff[at + 1] << 8 : tiff[at] << 8 | tiff[at + 1];
  };
  const auto u32 = [&](size_t at) -> uint32_t {
    return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2);
  };
  if (u16(2) != 42) return 1;
  const uint64_t ifd = u32(4);
  if (ifd + 2 > tiff.size()) return 1;
  const uint64_t count = u16(ifd);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = ifd + 2 + 12 * i;
    if (at + 12 > tiff.size()) return 1;
    if (u16(at) != 0x0112) continue;
    constexpr uint32_t kShort = 3;
    if (u16(at + 2) != kShort || u32(at + 4) != 1) return 1;
    const uint32_t value = u16(at + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image turn_upright(Image image, int orientation) {
  DIFFUSE_CHECK(orientation >= 1 && orientation <= 8);
  if (orientation == 1) return image;
  // An orientation is a transposition (5..8) after mirrors of the stored rows and columns.
  const bool transpose = orientation >= 5;
  const bool mirror_rows =
      orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool mirror_columns =
      orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  Image out;
  out.height = transpose ? image.width : image.height;
  out.width = transpose ? image.height : image.width;
  out.channels = image.channels;
  out.data.resize(image.data.size());
  const int64_t n = image.channels;
  uint8_t* to = out.data.data();
  for (int64_t y = 0; y < out.height; ++y) {
    const int64_t shown_y = mirror_rows ? out.height - 1 - y : y;
    for (int64_t x = 0; x < out.width; ++x) {
      const int64_t shown_x = mirror_columns ? out.width - 1 - x : x;
      const int64_t row = transpose ? shown_x : shown_y;
      const int64_t column = transpose ? shown_y : shown_x;
      to = std::copy_n(image.data.data() + (row * image.width + column) * n, n, to);
    }
  }
  return out;
}

}  // namespace diffuse
