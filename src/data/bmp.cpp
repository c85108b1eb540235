// SPDX-License-Identifier: MIT
#include "data/bmp.h"

#include <cstdlib>

namespace diffuse {
namespace {

constexpr uint32_t kOs2HeaderSize = 12;

struct BmpFields {
  uint64_t data_offset = 0;
  uint32_t header_size = 0;
  int64_t width = 0;
  int64_t height = 0;  // negative: rows from the top
  uint32_t bits = 0;   // a pixel
  uint32_t compression = 0;
};

uint32_t u16(std::span<const uint8_t> file, size_t at) { return file[at] | file[at + 1] << 8; }
uint32_t u32(std::span<const uint8_t> file, size_t at) {
  return u16(file, at) | u16(file, at + 2) << 16;
}

BmpFields read_fields(std::span<const uint8_t> file) {
  BmpFields f;
  f.data_offset = u32(file, 10);
  f.header_size = u32(file, 14);
  if (file.size() < 14 + uint64_t{f.header_size})
    throw ImageError("truncated BMP: it ends within its header");
  if (f.header_size == kOs2HeaderSize) {
    f.width = u16(file, 18);
    f.height = u16(file, 20);
    f.bits = u16(file, 24);
  } else {
    f.width = static_cast<int32_t>(u32(file, 18));
    f.height = static_cast<int32_t>(u32(file, 22));
    f.bits = u16(file, 28);
    f.compression = u32(file, 30);
  }
  return f;
}

}  // namespace

bool looks_like_bmp(std::span<const uint8_t> file) {
  if (file.size() < 26 || file[0] != 'B' || file[1] != 'M') return false;
  for (const uint32_t size : {12, 40, 52, 56, 64, 108, 124})
    if (u32(file, 14) == size) return true;
  return false;
}

ImageHeader read_bmp_header(std::span<const uint8_t> file) {
  const BmpFields f = read_fields(file);
  ImageHeader header;
  header.format = "bmp";
  header.width = f.width;
  header.height = std::abs(f.height);
  constexpr uint32_t kBitFields = 3;
  header.channels = f.bits == 32 && f.compression == kBitFields ? 4 : 3;
  header.bits = f.bits < 8 ? f.bits : 8;
  // stb_image's pixels and ours. Sides that are lies are refused for themselves.
  constexpr int64_t kAnySide = 1 << 20;
  if (header.width < kAnySide && header.height < kAnySide)
    header.decode_bytes = (f.bits == 32 ? 8 : 6) * header.width * header.height;
  return header;
}

void check_bmp(std::span<const uint8_t> file) {
  const BmpFields f = read_fields(file);
  if (f.bits != 1 && f.bits != 4 && f.bits != 8 && f.bits != 16 && f.bits != 24 && f.bits != 32)
    throw ImageError("damaged BMP: " + std::to_string(f.bits) + " bits a pixel");
  if (f.compression == 1 || f.compression == 2)
    throw ImageError("run-length coded BMP is not supported; convert it to PNG");
  // stb_image 2.27 misplaces the palette of this header.
  if (f.header_size == kOs2HeaderSize && f.bits < 24)
    throw ImageError("OS/2 BMP with a palette is not supported; convert it to PNG");
  const auto width = static_cast<uint64_t>(f.width);
  const auto height = static_cast<uint64_t>(std::abs(f.height));
  const uint64_t row = (width * f.bits + 7) / 8;
  const uint64_t stride = (row + 3) / 4 * 4;
  const uint64_t end = f.data_offset + stride * (height - 1) + row;
  if (f.data_offset < 14 + uint64_t{f.header_size})
    throw ImageError("damaged BMP: its pixels start within its header");
  if (end > file.size())
    throw ImageError("truncated BMP: its pixels need " + std::to_string(end) +
                     " bytes, the file has " + std::to_string(file.size()));
  if (f.bits > 8) return;
  const uint64_t colours = (f.data_offset - 14 - f.header_size) / 4;
  if (colours >= uint64_t{1} << f.bits) return;
  const uint32_t mask = (1u << f.bits) - 1;
  for (uint64_t y = 0; y < height; ++y)
    for (uint64_t x = 0; x < width; ++x) {
      const uint64_t bit = x * f.bits;
      const uint32_t byte = file[f.data_offset + y * stride + bit / 8];
      if (((byte >> (8 - f.bits - bit % 8)) & mask) >= colours)
        throw ImageError("damaged BMP: a pixel's colour is not in its palette");
    }
}

}  // namespace diffuse
