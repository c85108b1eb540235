// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

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

/// Checks every chunk. Returns the EXIF orientation (1 without one). Throws ImageError, for
/// animations too.
int check_png(std::span<const uint8_t> file);

}  // namespace diffuse
