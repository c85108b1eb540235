// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "data/image.h"

namespace diffuse {

/// The orientation tag (1..8) of an EXIF block that starts at its TIFF header. 1 (upright) when the
/// block is malformed or has none: a damaged EXIF block says nothing about the pixels.
int exif_orientation(std::span<const uint8_t> tiff);

/// The picture as a viewer shows it; orientation 1..8.
Image turn_upright(Image image, int orientation);

}  // namespace diffuse
