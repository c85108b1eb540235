// SPDX-License-Identifier: MIT
#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "data/image.h"
#include "data/png_chunks.h"

namespace diffuse {
namespace {

using TextChunks = std::vector<std::pair<std::string, std::string>>;

void append(png_structp png, png_bytep data, size_t size) {
  auto* out = static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
  out->insert(out->end(), data, data + size);
}

/// libpng reports errors by longjmp: only plain values live in this frame. False on an error.
bool write_all(png_structp png, png_infop info, const Image& image, png_textp text, int texts) {
  if (setjmp(png_jmpbuf(png))) return false;
  png_set_IHDR(png,
               info,
               static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height),
               8,
               image.channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
               PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (texts > 0) png_set_text(png, info, text, texts);
  png_write_info(png, info);
  for (int64_t y = 0; y < image.height; ++y)
    png_write_row(png, image.data.data() + y * image.width * image.channels);
  png_write_end(png, nullptr);
  return true;
}

bool is_ascii(const std::string& s) {
  return std::all_of(
      s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

std::string latin1_to_utf8(std::string_view latin1) {
  std::string out;
  for (const char c : latin1) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      out += c;
    } else {
      out += static_cast<char>(0xC0 | byte >> 6);
      out += static_cast<char>(0x80 | (byte & 0x3F));
    }
  }
  return out;
}

/// Splits off what precedes the next NUL; none without one.
std::optional<std::string_view> take_field(std::string_view& rest) {
  const size_t nul = rest.find('\0');
  if (nul == std::string_view::npos) return std::nullopt;
  const std::string_view field = rest.substr(0, nul);
  rest.remove_prefix(nul + 1);
  return field;
}

void read_text_chunk(const PngChunk& chunk, TextChunks& out) {
  std::string_view rest(reinterpret_cast<const char*>(chunk.data.data()), chunk.data.size());
  const auto key = take_field(rest);
  if (!key) return;
  if (chunk.type == "tEXt") {
    out.emplace_back(latin1_to_utf8(*key), latin1_to_utf8(rest));
    return;
  }
  // iTXt: compression flag and method, language, translated key.
  if (rest.size() < 2 || rest[0] != 0) return;
  rest.remove_prefix(2);
  if (take_field(rest) && take_field(rest))
    out.emplace_back(latin1_to_utf8(*key), std::string(rest));
}

}  // namespace

std::vector<uint8_t> encode_png(const Image& image, const TextChunks& text) {
  DIFFUSE_CHECK(image.channels == 1 || image.channels == 3);
  DIFFUSE_CHECK(image.height >= 1 && image.width >= 1);
  DIFFUSE_CHECK(image.data.size() ==
                static_cast<size_t>(image.height * image.width * image.channels));
  std::vector<png_text> chunks(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto& [key, value] = text[i];
    DIFFUSE_CHECK(!key.empty() && key.size() <= 79 && is_ascii(key));
    DIFFUSE_CHECK(value.find('\0') == std::string::npos);
    // tEXt is Latin-1, so that UTF-8 beyond ASCII needs iTXt.
    const bool ascii = is_ascii(value);
    chunks[i].compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunks[i].key = const_cast<char*>(key.c_str());
    chunks[i].text = const_cast<char*>(value.c_str());
    chunks[i].text_length = ascii ? value.size() : 0;
    chunks[i].itxt_length = ascii ? 0 : value.size();
  }
  std::string why;
  png_structp png = png_create_write_struct(
      PNG_LIBPNG_VER_STRING,
      &why,
      [](png_structp p, png_const_charp message) {
        *static_cast<std::string*>(png_get_error_ptr(p)) = message;
        png_longjmp(p, 1);
      },
      [](png_structp, png_const_charp) {});
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  std::vector<uint8_t> out;
  bool ok = false;
  if (info != nullptr) {
    png_set_write_fn(png, &out, append, nullptr);
    ok = write_all(png, info, image, chunks.data(), static_cast<int>(chunks.size()));
  }
  png_destroy_write_struct(&png, &info);
  if (!ok) throw Error(Exit::write, "cannot make a PNG: " + (why.empty() ? "out of memory" : why));
  return out;
}

void write_png(const std::filesystem::path& path, const Image& image, const TextChunks& text) {
  write_file_atomic(path, std::span<const uint8_t>(encode_png(image, text)), Exit::write);
}

TextChunks read_png_text(std::span<const uint8_t> file) {
  TextChunks out;
  try {
    PngChunks chunks(file);
    while (const auto chunk = chunks.next())
      if (chunk->type == "tEXt" || chunk->type == "iTXt") read_text_chunk(*chunk, out);
  } catch (const ImageError&) {
    // What stands before the damage is still worth showing.
  }
  return out;
}

Image make_grid(const std::vector<Image>& images,
                int64_t columns,
                int64_t gap,
                uint8_t background) {
  DIFFUSE_CHECK(!images.empty() && columns >= 1 && gap >= 0);
  const Image& first = images.front();
  const int64_t count = static_cast<int64_t>(images.size());
  const int64_t rows = (count + columns - 1) / columns;
  Image grid{
      rows * (first.height + gap) + gap, columns * (first.width + gap) + gap, first.channels, {}};
  grid.data.assign(static_cast<size_t>(grid.height * grid.width * grid.channels), background);
  const int64_t bytes = first.width * first.channels;
  for (int64_t i = 0; i < count; ++i) {
    const Image& image = images[static_cast<size_t>(i)];
    DIFFUSE_CHECK(image.height == first.height && image.width == first.width &&
                  image.channels == first.channels);
    const int64_t top = gap + (i / columns) * (first.height + gap);
    const int64_t left = gap + (i % columns) * (first.width + gap);
    for (int64_t y = 0; y < image.height; ++y)
      std::copy_n(image.data.data() + y * bytes,
                  bytes,
                  grid.data.data() + ((top + y) * grid.width + left) * grid.channels);
  }
  return grid;
}

Image enlarge(const Image& image, int64_t factor) {
  DIFFUSE_CHECK(factor >= 1);
  Image out{image.height * factor, image.width * factor, image.channels, {}};
  out.data.reserve(static_cast<size_t>(out.height * out.width * out.channels));
  for (int64_t y = 0; y < out.height; ++y)
    for (int64_t x = 0; x < out.width; ++x) {
      const auto* pixel =
          image.data.data() + (y / factor * image.width + x / factor) * image.channels;
      out.data.insert(out.data.end(), pixel, pixel + image.channels);
    }
  return out;
}

}  // namespace diffuse
