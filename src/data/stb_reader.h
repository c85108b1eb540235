// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "data/image.h"

namespace diffuse {

/// Larger sides are refused.
inline constexpr int64_t kMaxSide = 16384;

/// PNG or BMP by stb_image: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; 16-bit samples scaled to 8 by
/// rounding v / 257. The caller has checked the header against the limits and the file's structure.
/// Throws ImageError.
Image decode_with_stb(std::span<const uint8_t> file, const ImageHeader& header);

}  // namespace diffuse
