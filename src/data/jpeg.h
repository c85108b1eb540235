// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "data/image.h"

namespace diffuse {

struct JpegInfo {
  ImageHeader header;   // channels: components of the file
  int orientation = 1;  // EXIF
};

/// Reads the markers up to the first scan. Throws ImageError; the message of a header that the
/// bytes given do not reach to the end of is kJpegHeaderCut.
JpegInfo read_jpeg_info(std::span<const uint8_t> file);
inline constexpr char kJpegHeaderCut[] = "truncated JPEG: it ends within its header";

/// Grey or RGB, exact (no scaled or fast decoding); CMYK and YCCK are converted to RGB. Throws
/// ImageError, also for what libjpeg only warns of and then fills with grey.
Image decode_jpeg(std::span<const uint8_t> file, const JpegInfo& info);

}  // namespace diffuse
