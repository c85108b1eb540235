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

constexpr Signature kContainers[] = {
    {0, "PK\3\4"sv, "a zip archive"},
    {0, "PK\5\6"sv, "a zip archive"},
    {257, "ustar"sv, "a tar archive"},
    {0, "\x1F\x8B"sv, "a gzip file"},
    {0, "BZh"sv, "a bzip2 file"},
    {0,
     "\xFD"
     "7zXZ\0"sv,
     "an xz file"},
    {0, "\x28\xB5\x2F\xFD"sv, "a zstd file"},
    {0, "7z\xBC\xAF\x27\x1C"sv, "a 7z archive"},
    {0, "Rar!\x1A\7"sv, "a rar archive"},
    {0, "\x93NUMPY"sv, "a NumPy array"},
    {0, "\x89HDF\r\n\x1A\n"sv, "an HDF5 file"},
    {0, "\x80\2"sv, "a pickle"},
    {0, "\x80\3"sv, "a pickle"},
    {0, "\x80\4"sv, "a pickle"},
    {0, "\x80\5"sv, "a pickle"},
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

/// stb_image takes a colour beyond the end of the palette from uninitialised memory. It therefore
/// sees the numbers of the colours, as a grey picture, and they are looked up here.
Image decode_palette(std::span<const uint8_t> file, const PngInfo& info) {
  const Image numbers = decode_with_stb(as_grey_png(file), info.header);
  DIFFUSE_CHECK(numbers.channels == 1);
  Image out{numbers.height, numbers.width, info.transparent ? 4 : 3, {}};
  const auto channels = static_cast<size_t>(out.channels);
  out.data.resize(numbers.data.size() * channels);
  const size_t scale = 255u / ((1u << info.header.bits) - 1u);  // of grey of fewer than 8 bits
  uint8_t* to = out.data.data();
  for (const uint8_t number : numbers.data) {
    if (number / scale >= info.palette.size())
      throw ImageError("damaged PNG: a pixel's colour is not in its palette");
    to = std::copy_n(info.palette[number / scale].data(), channels, to);
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

std::string container_type(std::span<const uint8_t> file) {
  for (const Signature& s : kContainers)
    if (has_at(file, s.at, s.bytes)) return std::string(s.name);
  return {};
}

ImageHeader read_image_header(std::span<const uint8_t> file) {
  if (is_png(file)) return read_png_header(file);
  if (is_jpeg(file)) return read_jpeg_info(file).header;
  if (looks_like_bmp(file)) return read_bmp_header(file);
  if (file.empty()) throw ImageError("the file is empty");
  const std::string type = picture_type(file);
  if (const std::string container = container_type(file); type.empty() && !container.empty())
    throw ImageError(container + ", which is never unpacked; put its pictures here as PNG or JPEG");
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
  constexpr int64_t kBytesPerPixel = 7;
  if (header.decode_bytes / kBytesPerPixel > options.max_pixels)
    throw ImageError("too large: " + size + " pixels of this kind take " +
                     std::to_string(header.decode_bytes >> 20) +
                     " MiB to decode, data.max_pixels " + std::to_string(options.max_pixels) +
                     " allows " + std::to_string(kBytesPerPixel * options.max_pixels >> 20) +
                     " MiB");
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
    const PngInfo info = check_png(file);
    check_image_header(info.header, options);
    orientation = info.orientation;
    image = info.palette.empty() ? decode_with_stb(file, header) : decode_palette(file, info);
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
