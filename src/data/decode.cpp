// SPDX-License-Identifier: MIT
#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "data/bmp.h"
#include "data/exif.h"
#include "data/image.h"
#include "data/jpeg.h"
#include "data/png_chunks.h"
#include "data/stb_reader.h"

namespace diffuse {
namespace {

using namespace std::literals;

struct Signature {
  size_t at;
  std::string_view bytes;
  std::string_view name;
};

constexpr Signature kUnsupported[] = {
    {0, "GIF87a"sv, "GIF"},
    {0, "GIF89a"sv, "GIF"},
    {8, "WEBP"sv, "WebP"},
    {0, "II*\0"sv, "TIFF"},
    {0, "MM\0*"sv, "TIFF"},
    {0, "II+\0"sv, "BigTIFF"},
    {0, "MM\0+"sv, "BigTIFF"},
    {4, "ftypavif"sv, "AVIF"},
    {4, "ftypavis"sv, "AVIF"},
    {4, "ftypheic"sv, "HEIC"},
    {4, "ftypheix"sv, "HEIC"},
    {4, "ftypmif1"sv, "HEIF"},
    {0, "\xFF\x0A"sv, "JPEG XL"},
    {0, "\0\0\0\x0CJXL \r\n\x87\n"sv, "JPEG XL"},
    {0, "\0\0\0\x0CjP  \r\n\x87\n"sv, "JPEG 2000"},
    {0, "\xFF\x4F\xFF\x51"sv, "JPEG 2000"},
    {0, "8BPS"sv, "Photoshop"},
    {0, "qoif"sv, "QOI"},
    {0, "\x76\x2F\x31\x01"sv, "OpenEXR"},
    {0, "#?RADIANCE"sv, "Radiance HDR"},
    {0, "DDS "sv, "DDS"},
    {0, "\0\0\1\0"sv, "icon"},
};

bool has_at(std::span<const uint8_t> file, size_t at, std::string_view bytes) {
  return file.size() >= at + bytes.size() &&
         std::equal(bytes.begin(),
                    bytes.end(),
                    file.begin() + static_cast<ptrdiff_t>(at),
                    [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; });
}

/// P1 to P6 and white space.
bool is_netpbm(std::span<const uint8_t> file) {
  return file.size() >= 3 && file[0] == 'P' && file[1] >= '1' && file[1] <= '6' &&
         (file[2] == '\n' || file[2] == ' ' || file[2] == '\r' || file[2] == '\t');
}

bool is_png(std::span<const uint8_t> file) {
  return file.size() >= 8 &&
         std::equal(std::begin(kPngSignature), std::end(kPngSignature), file.begin());
}

bool is_jpeg(std::span<const uint8_t> file) { return has_at(file, 0, "\xFF\xD8\xFF"); }

/// Blends on white or black, or drops the alpha channel (the last of 2 or 4).
Image remove_alpha(const Image& image, AlphaPolicy policy) {
  const size_t channels = static_cast<size_t>(image.channels);
  const uint32_t background = policy == AlphaPolicy::black ? 0 : 255;
  Image out{image.height, image.width, image.channels - 1, {}};
  out.data.resize(image.data.size() / channels * (channels - 1));
  uint8_t* to = out.data.data();
  for (size_t i = 0; i < image.data.size(); i += channels) {
    uint32_t alpha = image.data[i + channels - 1];
    if (alpha != 255 && policy == AlphaPolicy::error)
      throw ImageError("it has transparent pixels, and data.alpha is 'error'");
    if (policy == AlphaPolicy::drop) alpha = 255;
    for (size_t c = 0; c + 1 < channels; ++c)
      *to++ = static_cast<uint8_t>((image.data[i + c] * alpha + background * (255 - alpha) + 127) /
                                   255);
  }
  return out;
}

/// ITU-R BT.601 luma in 16-bit fixed point, as Pillow's convert('L').
Image to_grey(const Image& rgb) {
  Image out{rgb.height, rgb.width, 1, {}};
  out.data.resize(rgb.data.size() / 3);
  for (size_t i = 0; i < out.data.size(); ++i) {
    const uint8_t* p = rgb.data.data() + 3 * i;
    out.data[i] =
        static_cast<uint8_t>((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000u) >> 16);
  }
  return out;
}

Image to_rgb(const Image& grey) {
  Image out{grey.height, grey.width, 3, {}};
  out.data.resize(grey.data.size() * 3);
  for (size_t i = 0; i < grey.data.size(); ++i)
    std::fill_n(out.data.begin() + static_cast<ptrdiff_t>(3 * i), 3, grey.data[i]);
  return out;
}

}  // namespace

std::string picture_type(std::span<const uint8_t> file) {
  if (is_png(file)) return "PNG";
  if (is_jpeg(file)) return "JPEG";
  if (looks_like_bmp(file)) return "BMP";
  for (const Signature& s : kUnsupported)
    if (has_at(file, s.at, s.bytes)) return std::string(s.name);
  if (is_netpbm(file)) return "PNM";
  return {};
}

ImageHeader read_image_header(std::span<const uint8_t> file) {
  if (is_png(file)) return read_png_header(file);
  if (is_jpeg(file)) return read_jpeg_info(file).header;
  if (looks_like_bmp(file)) return read_bmp_header(file);
  if (file.empty()) throw ImageError("the file is empty");
  const std::string type = picture_type(file);
  if (type.empty()) throw ImageError("not a picture: its content is not PNG, JPEG or BMP");
  throw ImageError(type + " is not supported; convert it to PNG or JPEG");
}

void check_image_header(const ImageHeader& header, const DecodeOptions& options) {
  const std::string size = std::to_string(header.width) + "x" + std::to_string(header.height);
  if (header.width < 1 || header.height < 1)
    throw ImageError("damaged " + header.format + ": size " + size);
  if (header.format != "jpeg" && std::max(header.width, header.height) > kMaxSide)
    throw ImageError("too large: " + size + " pixels, a side may have " + std::to_string(kMaxSide));
  if (header.width > options.max_pixels / header.height)
    throw ImageError("too large: " + size + " pixels, data.max_pixels is " +
                     std::to_string(options.max_pixels));
}

Image decode_image(std::span<const uint8_t> file, const DecodeOptions& options) {
  DIFFUSE_CHECK(options.channels == 1 || options.channels == 3);
  if (static_cast<int64_t>(file.size()) > options.max_file_bytes)
    throw ImageError("too large: " + std::to_string(file.size()) +
                     " bytes, data.max_file_bytes is " + std::to_string(options.max_file_bytes));
  const ImageHeader header = read_image_header(file);
  check_image_header(header, options);
  int orientation = 1;
  Image image;
  if (header.format == "jpeg") {
    const JpegInfo info = read_jpeg_info(file);
    orientation = info.orientation;
    image = decode_jpeg(file, info);
  } else if (header.format == "png") {
    orientation = check_png(file);
    image = decode_with_stb(file, header);
  } else {
    check_bmp(file);
    image = decode_with_stb(file, header);
    // Only bit fields declare alpha; else the fourth byte of a pixel is unused and holds anything.
    if (image.channels == 4 && header.channels == 3) image = remove_alpha(image, AlphaPolicy::drop);
  }
  if (image.channels == 2 || image.channels == 4) image = remove_alpha(image, options.alpha);
  if (image.channels == 3 && options.channels == 1) image = to_grey(image);
  if (image.channels == 1 && options.channels == 3) image = to_rgb(image);
  return options.exif_orientation ? turn_upright(std::move(image), orientation) : image;
}

}  // namespace diffuse
