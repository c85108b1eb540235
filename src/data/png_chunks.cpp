// SPDX-License-Identifier: MIT
#include "data/png_chunks.h"

#include <zlib.h>

#include <algorithm>

#include "data/exif.h"

namespace diffuse {
namespace {

uint32_t big_endian(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3];
}

}  // namespace

PngChunks::PngChunks(std::span<const uint8_t> file) {
  if (file.size() < 8 ||
      !std::equal(std::begin(kPngSignature), std::end(kPngSignature), file.begin()))
    throw ImageError("no PNG signature");
  rest_ = file.subspan(8);
}

std::optional<PngChunk> PngChunks::next() {
  if (ended_) return std::nullopt;
  if (rest_.size() < 12) throw ImageError("truncated PNG: it ends before its IEND chunk");
  const uint64_t length = big_endian(rest_.data());
  PngChunk chunk{std::string(reinterpret_cast<const char*>(rest_.data()) + 4, 4), {}};
  for (const char c : chunk.type)
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
      throw ImageError("damaged PNG: a chunk's type is not four letters");
  if (length > rest_.size() - 12)
    throw ImageError("truncated PNG: its " + chunk.type + " chunk claims " +
                     std::to_string(length) + " bytes, the file has " +
                     std::to_string(rest_.size() - 12));
  const uint32_t crc =
      static_cast<uint32_t>(::crc32(0, rest_.data() + 4, static_cast<uInt>(length + 4)));
  if (crc != big_endian(rest_.data() + 8 + length))
    throw ImageError("damaged PNG: wrong checksum in its " + chunk.type + " chunk");
  chunk.data = rest_.subspan(8, length);
  rest_ = rest_.subspan(12 + length);
  ended_ = chunk.type == "IEND";
  return chunk;
}

ImageHeader read_png_header(std::span<const uint8_t> file) {
  PngChunks chunks(file);
  const auto ihdr = chunks.next();
  if (ihdr->type == "CgBI")
    throw ImageError("Apple's CgBI variant of PNG is not supported; convert it to a standard PNG");
  if (ihdr->type != "IHDR" || ihdr->data.size() != 13)
    throw ImageError("damaged PNG: it does not start with an IHDR chunk");
  const uint8_t* p = ihdr->data.data();
  ImageHeader header;
  header.format = "png";
  header.width = big_endian(p);
  header.height = big_endian(p + 4);
  header.bits = p[8];
  switch (p[9]) {
    case 0:
      header.channels = 1;
      break;
    case 2:
    case 3:
      header.channels = 3;
      break;
    case 4:
      header.channels = 2;
      break;
    case 6:
      header.channels = 4;
      break;
    default:
      throw ImageError("damaged PNG: unknown colour type " + std::to_string(p[9]));
  }
  return header;
}

int check_png(std::span<const uint8_t> file) {
  PngChunks chunks(file);
  int orientation = 1;
  bool pixels = false;
  while (const auto chunk = chunks.next()) {
    if (chunk->type == "IDAT") pixels = true;
    if (chunk->type == "eXIf") orientation = exif_orientation(chunk->data);
    if (chunk->type == "acTL")
      throw ImageError("animated PNG is not supported; save one frame as a plain PNG");
  }
  if (!pixels) throw ImageError("damaged PNG: it has no pixel data");
  return orientation;
}

}  // namespace diffuse
