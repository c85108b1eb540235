// SPDX-License-Identifier: MIT
#include <zlib.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "data/exif.h"
#include "data/image.h"
#include "data/png_chunks.h"
#include "targets.h"

namespace diffuse::fuzz {
namespace {

void check_reason(const ImageError& e) {
  const std::string_view reason = e.what();
  DIFFUSE_CHECK(!reason.empty() && reason.size() < 300);
  for (const char c : reason) DIFFUSE_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

/// A picture may be followed by anything: its last byte chooses the options.
void decode(Bytes file) {
  const uint32_t choice = file.empty() ? 0 : file.back();
  DecodeOptions options;
  options.channels = choice & 1 ? 1 : 3;
  options.exif_orientation = (choice & 2) == 0;
  options.alpha = static_cast<AlphaPolicy>(choice >> 2 & 3);
  options.max_pixels = 1 << 18;  // more takes longer and shows no more
  picture_type(file);
  try {
    const ImageHeader header = read_image_header(file);
    const Image image = decode_image(file, options);
    DIFFUSE_CHECK(image.channels == options.channels);
    DIFFUSE_CHECK(image.height * image.width == header.height * header.width);
    DIFFUSE_CHECK(image.height == header.height || image.height == header.width);
    DIFFUSE_CHECK(image.data.size() ==
                  static_cast<size_t>(image.height * image.width * image.channels));
  } catch (const ImageError& e) {
    check_reason(e);
  }
}

uint32_t big_endian(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3];
}

void put_checksums(std::vector<uint8_t>& file) {
  size_t at = std::size(kPngSignature);
  while (file.size() >= at + 12) {
    const size_t length = big_endian(file.data() + at);
    if (length > file.size() - at - 12) return;
    const auto crc =
        static_cast<uint32_t>(::crc32(0, file.data() + at + 4, static_cast<uInt>(length + 4)));
    for (size_t i = 0; i < 4; ++i)
      file[at + 8 + length + i] = static_cast<uint8_t>(crc >> (24 - 8 * i));
    at += 12 + length;
  }
}

/// The same bytes as a file of one type.
std::vector<uint8_t> with_start(Bytes input, std::string_view start) {
  std::vector<uint8_t> out(input.begin(), input.end());
  out.resize(std::max(out.size(), start.size()));
  std::copy(start.begin(), start.end(), out.begin());
  return out;
}

}  // namespace

void png(Bytes input) {
  std::vector<uint8_t> file =
      with_start(input, {reinterpret_cast<const char*>(kPngSignature), std::size(kPngSignature)});
  put_checksums(file);
  decode(file);
  for (const auto& [key, value] : read_png_text(file)) DIFFUSE_CHECK(key.size() <= 2 * file.size());
}

void jpeg(Bytes input) { decode(with_start(input, "\xFF\xD8\xFF")); }

void bmp(Bytes input) { decode(with_start(input, "BM")); }

void exif(Bytes input) {
  const int orientation = exif_orientation(input);
  DIFFUSE_CHECK(orientation >= 1 && orientation <= 8);
  const Image image{1, 2, 1, {3, 4}};
  DIFFUSE_CHECK(turn_upright(image, orientation).data.size() == 2);
}

}  // namespace diffuse::fuzz
