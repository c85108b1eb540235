// SPDX-License-Identifier: MIT
#include "data/stb_reader.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <limits>
#include <memory>

namespace {

// stb_image grows its inflate buffer for as long as the stream goes on: a file of kilobytes could
// ask for gigabytes. No single allocation may pass what the header and the file's size explain.
thread_local size_t allocation_limit = std::numeric_limits<size_t>::max();

void* limited_malloc(size_t size) { return size > allocation_limit ? nullptr : std::malloc(size); }
void* limited_realloc(void* p, size_t size) {
  return size > allocation_limit ? nullptr : std::realloc(p, size);
}

}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS 16384
#define STBI_MALLOC(size) limited_malloc(size)
#define STBI_REALLOC(p, size) limited_realloc(p, size)
#define STBI_FREE(p) std::free(p)
#include <stb/stb_image.h>

namespace diffuse {

static_assert(kMaxSide == STBI_MAX_DIMENSIONS);

Image decode_with_stb(std::span<const uint8_t> file, const ImageHeader& header) {
  if (file.size() > static_cast<size_t>(INT_MAX)) throw ImageError("the file is too large");
  const bool wide = header.format == "png" && header.bits == 16;
  const size_t pixels = static_cast<size_t>(header.height) * static_cast<size_t>(header.width);
  // Up to four channels (a transparent colour adds one) and the rows' filter bytes, twice: the
  // inflate buffer doubles once for every interlaced PNG, as do the gathered compressed bytes.
  allocation_limit =
      2 * std::max<size_t>((pixels * 4 + static_cast<size_t>(header.height) * 8) * (wide ? 2 : 1),
                           file.size()) +
      65536;
  int width = 0, height = 0, channels = 0;
  const int size = static_cast<int>(file.size());
  const std::unique_ptr<void, void (*)(void*)> raw(
      wide ? static_cast<void*>(
                 stbi_load_16_from_memory(file.data(), size, &width, &height, &channels, 0))
           : stbi_load_from_memory(file.data(), size, &width, &height, &channels, 0),
      stbi_image_free);
  if (!raw) {
    const std::string why = stbi_failure_reason();
    if (why == "outofmem")
      throw ImageError("damaged " + header.format + ": its data is larger than its size explains");
    throw ImageError("damaged or unsupported " + header.format + ": " + why);
  }
  Image image{height, width, channels, {}};
  const size_t count = pixels * static_cast<size_t>(channels);
  if (wide) {
    const auto* from = static_cast<const stbi_us*>(raw.get());
    image.data.resize(count);
    for (size_t i = 0; i < count; ++i)
      image.data[i] = static_cast<uint8_t>((from[i] + 128u) / 257u);
  } else {
    const auto* from = static_cast<const stbi_uc*>(raw.get());
    image.data.assign(from, from + count);
  }
  return image;
}

}  // namespace diffuse
