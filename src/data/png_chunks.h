// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/image.h"

namespace diffuse {

inline constexpr uint8_t kPngSignature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

struct PngChunk {
  std::string type;  // four letters
  std::span<const uint8_t> data;
};

/// Walks the chunks of a PNG file. stb_image checks neither lengths nor CRCs, so that a truncated
/// file would pass as a picture with a black rest; this does.
class PngChunks {
 public:
  /// Throws ImageError when the signature is wrong.
  explicit PngChunks(std::span<const uint8_t> file);
  /// None after IEND. Throws ImageError for a truncated chunk or a wrong CRC.
  std::optional<PngChunk> next();

 private:
  std::span<const uint8_t> rest_;
  bool ended_ = false;
};

/// From the IHDR chunk, which must come first; nothing behind it is read. Throws ImageError.
ImageHeader read_png_header(std::span<const uint8_t> file);

struct PngInfo {
  ImageHeader header;                           // decode_bytes with what the other chunks add
  int orientation = 1;                          // EXIF
  std::vector<std::array<uint8_t, 4>> palette;  // RGBA; empty: the pixels are no numbers of colours
  bool transparent = false;                     // a tRNS chunk
};

/// Checks every chunk. Throws ImageError, for animations too.
PngInfo check_png(std::span<const uint8_t> file);

/// A checked PNG with a palette as a grey one of the colours' numbers, scaled as grey is: 0 and
/// 255, multiples of 85 or 17, or as they are. Its checksums are not set.
std::vector<uint8_t> as_grey_png(std::span<const uint8_t> file);

}  // namespace diffuse
