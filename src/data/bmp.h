// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "data/image.h"

namespace diffuse {

/// "BM" and a known header size: text that starts with BM is no picture.
bool looks_like_bmp(std::span<const uint8_t> file);

/// From the first 26 to 54 bytes. channels: 4 when the pixels have alpha. Throws ImageError.
ImageHeader read_bmp_header(std::span<const uint8_t> file);

/// That all pixels are in the file and index their palette: stb_image reads zeros, or what was on
/// the stack, otherwise. Throws ImageError.
void check_bmp(std::span<const uint8_t> file);

}  // namespace diffuse
