// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "data/options.h"

// Pictures as 8-bit arrays. No torch.

namespace diffuse {

/// Rows of interleaved channels: pixel (y, x, c) is data[(y * width + x) * channels + c].
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;  // 1 grey, 3 RGB (decoded pictures have no alpha left)
  std::vector<uint8_t> data;
};

/// Why one picture cannot be used. The message says what is wrong, without the path.
class ImageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct DecodeOptions {
  int64_t channels = 3;
  bool exif_orientation = true;
  AlphaPolicy alpha = AlphaPolicy::white;
  int64_t max_pixels = 67'108'864;
  int64_t max_file_bytes = 67'108'864;
};

struct ImageHeader {
  std::string format;  // "png", "jpeg", "bmp"
  int64_t height = 0;  // before EXIF orientation
  int64_t width = 0;
  int64_t channels = 0;
  int64_t bits = 8;
  int64_t decode_bytes = 0;  // memory that decoding takes, the file itself apart
};

/// Size and type from the first bytes, by content. Throws ImageError for what is no supported
/// picture.
ImageHeader read_image_header(std::span<const uint8_t> file);

/// The picture format of the content ("PNG", "WebP", ...), supported or not; empty when it is none
/// known.
std::string picture_type(std::span<const uint8_t> file);

/// "a zip archive", "a pickle", ...: what may hold pictures or arrays and is never unpacked or
/// read; by content, of which 262 bytes are enough. Empty when it is none known.
std::string container_type(std::span<const uint8_t> file);

/// Throws ImageError when the size is empty or beyond the limits. Decoding may take 7 bytes for
/// each of max_pixels: room for RGB of 8 bits and for most JPEGs, while one of 16 bits with alpha,
/// an interlaced one, or a progressive JPEG without subsampling has to be smaller.
void check_image_header(const ImageHeader& header, const DecodeOptions& options);

/// Decodes PNG, BMP (stb_image) or JPEG (libjpeg-turbo), limits checked from the header before
/// decoding. Throws ImageError.
Image decode_image(std::span<const uint8_t> file, const DecodeOptions& options);

/// Antialiased separable resize with Pillow's filters and arithmetic: the result of its
/// Image.resize (up to version 12; see resize.cpp), to the bit.
Image resize_image(const Image& image, int64_t height, int64_t width, ResizeFilter filter);

/// A window; it must lie inside.
Image crop_image(const Image& image, int64_t top, int64_t left, int64_t height, int64_t width);

/// Brings a decoded picture to options.height() x width(): `center` cuts out the largest centred
/// window of that aspect ratio and resizes it, `none` resizes without regard to the aspect ratio.
/// `random` resizes to the smallest picture that covers the size; the caller cuts its window. A
/// picture of the right size is returned as it is. Throws ImageError for one too elongated to cover
/// the size within max_pixels.
Image fit_image(Image image, const DataOptions& options);

/// PNG with text chunks (key: 1 to 79 ASCII characters, value: UTF-8), written atomically. Throws
/// Error{write}.
void write_png(const std::filesystem::path& path,
               const Image& image,
               const std::vector<std::pair<std::string, std::string>>& text = {});
std::vector<uint8_t> encode_png(const Image& image,
                                const std::vector<std::pair<std::string, std::string>>& text = {});
/// The text chunks of a PNG file's bytes, less compressed ones; empty when there are none or it is
/// no PNG.
std::vector<std::pair<std::string, std::string>> read_png_text(std::span<const uint8_t> file);

/// Images of one size side by side, `columns` to a row, `gap` pixels of `background` around each.
Image make_grid(const std::vector<Image>& images,
                int64_t columns,
                int64_t gap = 2,
                uint8_t background = 255);

/// Each pixel as factor x factor pixels (factor >= 1): for looking at small pictures.
Image enlarge(const Image& image, int64_t factor);

}  // namespace diffuse
