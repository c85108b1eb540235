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

constexpr size_t kColourType = 9;  // its place in an IHDR chunk
constexpr uint8_t kPaletteType = 3;

/// What stb_image holds at one time, and the picture made from it. Every number fits: sides have 32
/// bits.
int64_t decode_bytes(const PngChunk& ihdr, bool transparent) {
  const uint8_t* p = ihdr.data.data();
  const double width = big_endian(p), height = big_endian(p + 4);
  const double bits = p[8];
  const uint8_t type = p[kColourType];
  const bool interlaced = p[12] != 0;
  const double stored = type == 2 ? 3 : type == 4 ? 2 : type == 6 ? 4 : 1;  // channels
  const double shown =
      type == kPaletteType ? (transparent ? 4 : 3) : stored + (transparent ? 1 : 0);
  const double decoded = type == kPaletteType ? 1 : shown;
  // Its buffer for inflating doubles once for an interlaced picture, which is put together from
  // pictures of up to half the size.
  const double inflated = height * (width * stored * bits / 8 + 2) * (interlaced ? 2 : 1);
  const double samples = width * height * decoded * (bits > 8 ? 2 : 1);
  const double bytes =
      std::max(inflated + samples * (interlaced ? 1.5 : 1), samples + width * height * shown);
  return bytes < 0x1p62 ? static_cast<int64_t>(bytes) : int64_t{1} << 62;
}

void read_palette(const PngChunk& chunk, bool pixels_seen, PngInfo& info) {
  const size_t colours = chunk.data.size() / 3;
  if (chunk.data.size() % 3 != 0 || colours < 1 || colours > 256 || pixels_seen ||
      !info.palette.empty())
    throw ImageError("damaged PNG: wrong length or place of its palette");
  for (size_t i = 0; i < colours; ++i)
    info.palette.push_back({chunk.data[3 * i], chunk.data[3 * i + 1], chunk.data[3 * i + 2], 255});
}

void read_palette_alpha(const PngChunk& chunk, bool pixels_seen, PngInfo& info) {
  if (chunk.data.size() > info.palette.size() || pixels_seen)
    throw ImageError("damaged PNG: wrong length or place of its transparency");
  for (size_t i = 0; i < chunk.data.size(); ++i) info.palette[i][3] = chunk.data[i];
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
    case kPaletteType:
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
  header.decode_bytes = decode_bytes(*ihdr, false);
  return header;
}

PngInfo check_png(std::span<const uint8_t> file) {
  PngInfo info;
  info.header = read_png_header(file);
  PngChunks chunks(file);
  const PngChunk ihdr = *chunks.next();
  const bool has_palette = ihdr.data[kColourType] == kPaletteType;
  const int64_t bits = info.header.bits;
  if (has_palette && bits != 1 && bits != 2 && bits != 4 && bits != 8)
    throw ImageError("damaged PNG: a palette of " + std::to_string(bits) + " bits a pixel");
  bool pixels = false;
  while (const auto chunk = chunks.next()) {
    if (chunk->type == "IDAT") pixels = true;
    if (chunk->type == "PLTE" && has_palette) read_palette(*chunk, pixels, info);
    if (chunk->type == "tRNS") {
      info.transparent = true;
      if (has_palette) read_palette_alpha(*chunk, pixels, info);
    }
    if (chunk->type == "eXIf") info.orientation = exif_orientation(chunk->data);
    if (chunk->type == "acTL")
      throw ImageError("animated PNG is not supported; save one frame as a plain PNG");
  }
  if (!pixels) throw ImageError("damaged PNG: it has no pixel data");
  if (has_palette && info.palette.empty()) throw ImageError("damaged PNG: it has no palette");
  info.header.decode_bytes = decode_bytes(ihdr, info.transparent);
  return info;
}

std::vector<uint8_t> as_grey_png(std::span<const uint8_t> file) {
  std::vector<uint8_t> out(std::begin(kPngSignature), std::end(kPngSignature));
  out.reserve(file.size());
  PngChunks chunks(file);
  while (const auto chunk = chunks.next()) {
    if (chunk->type != "IHDR" && chunk->type != "IDAT" && chunk->type != "IEND") continue;
    // Type and length stand before the data, the checksum behind it.
    const uint8_t* const begin = chunk->data.data() - 8;
    out.insert(out.end(), begin, chunk->data.data() + chunk->data.size() + 4);
    if (chunk->type == "IHDR") out[out.size() - 4 - chunk->data.size() + kColourType] = 0;
  }
  return out;
}

}  // namespace diffuse
