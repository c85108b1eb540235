// SPDX-License-Identifier: MIT
#include "data/jpeg.h"

#include <turbojpeg.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "data/exif.h"

namespace diffuse {
namespace {

/// What libjpeg warns of although every pixel is there: stray bytes between markers, odd version
/// numbers.
bool is_harmless(std::string_view warning) {
  for (const std::string_view known : {"extraneous bytes before marker",
                                       "Unknown Adobe color transform code",
                                       "Warning: unknown JFIF revision number"})
    if (warning.find(known) != std::string_view::npos) return true;
  return false;
}

constexpr uint8_t kStartOfScan = 0xDA;

/// A file of kilobytes can have hundreds of scans, each a pass over the whole picture. Published
/// encoders write at most 18 for four components; this allows 16 of the largest picture and 500
/// (TJFLAG_LIMITSCANS) of one of 2 megapixels.
void check_scans(std::span<const uint8_t> file, const ImageHeader& header) {
  constexpr int64_t kMaxPixelPasses = int64_t{1} << 30;
  int64_t scans = 0;
  for (auto at = file.begin(); (at = std::find(at, file.end(), 0xFF)) != file.end();)
    if (++at != file.end() && *at == kStartOfScan) ++scans;
  if (scans > kMaxPixelPasses / (header.width * header.height))
    throw ImageError("too large: " + std::to_string(scans) + " scans over " +
                     std::to_string(header.width) + "x" + std::to_string(header.height) +
                     " pixels; save it with fewer");
}

/// The decoded samples and, where the picture comes in several scans, the coefficients of all.
int64_t decode_bytes(const ImageHeader& header,
                     std::span<const uint8_t> frame,
                     bool several_scans) {
  const int64_t pixels = header.width * header.height;
  int64_t bytes = pixels * header.channels;
  if (!several_scans) return bytes;
  // A component has 1 / (h v) of the pixels of the one that is sampled most.
  int64_t most_h = 1, most_v = 1, blocks = 0;
  for (size_t at = 6; at + 3 <= frame.size(); at += 3) {
    most_h = std::max<int64_t>(most_h, frame[at + 1] >> 4);
    most_v = std::max<int64_t>(most_v, frame[at + 1] & 15);
    blocks += int64_t{frame[at + 1] >> 4} * (frame[at + 1] & 15);
  }
  return bytes + 2 * pixels * blocks / (most_h * most_v);
}

/// TurboJPEG keeps the first warning only; a file cut off behind a harmless one lacks its end
/// marker.
bool has_end_marker(std::span<const uint8_t> file) {
  static constexpr uint8_t kEnd[] = {0xFF, 0xD9};
  return std::find_end(file.begin(), file.end(), std::begin(kEnd), std::end(kEnd)) != file.end();
}

/// a * b / 255, rounded.
uint32_t multiply_255(uint32_t a, uint32_t b) {
  const uint32_t t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}

/// Inks are stored inverted (255 is no ink), Adobe's convention, which files without its marker
/// share.
Image from_inverted_cmyk(const Image& cmyk) {
  Image rgb{cmyk.height, cmyk.width, 3, {}};
  rgb.data.resize(static_cast<size_t>(cmyk.height * cmyk.width * 3));
  uint8_t* to = rgb.data.data();
  for (size_t i = 0; i < cmyk.data.size(); i += 4) {
    const uint32_t light = cmyk.data[i + 3];
    for (size_t c = 0; c < 3; ++c)
      *to++ = static_cast<uint8_t>(light - multiply_255(255u - cmyk.data[i + c], light));
  }
  return rgb;
}

}  // namespace

JpegInfo read_jpeg_info(std::span<const uint8_t> file) {
  JpegInfo info;
  info.header.format = "jpeg";
  bool exif_seen = false, frame_seen = false, progressive = false;
  std::span<const uint8_t> frame_segment;
  size_t at = 2;  // behind SOI
  const auto need = [&](size_t n) {
    if (file.size() < n || at > file.size() - n) throw ImageError(kJpegHeaderCut);
  };
  for (;;) {
    need(2);
    if (file[at] != 0xFF || file[at + 1] == 0xFF || file[at + 1] == 0) {
      ++at;  // a fill byte or a stray one
      continue;
    }
    const uint8_t marker = file[at + 1];
    at += 2;
    if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;  // no content
    if (marker == 0xD9 || marker == kStartOfScan) {                      // EOI, SOS
      if (!frame_seen) throw ImageError("damaged JPEG: no frame header before its first scan");
      if (marker == 0xD9) throw ImageError("damaged JPEG: it has no scan");
      need(3);  // its length and the number of components in it
      info.header.decode_bytes = decode_bytes(
          info.header, frame_segment, progressive || file[at + 2] < info.header.channels);
      return info;
    }
    need(2);
    const size_t length = static_cast<size_t>(file[at]) << 8 | file[at + 1];
    if (length < 2) throw ImageError("damaged JPEG: a segment of length " + std::to_string(length));
    need(length);
    const auto segment = file.subspan(at + 2, length - 2);
    at += length;
    const bool frame =
        marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (frame && !frame_seen) {
      if (segment.size() < 6) throw ImageError("damaged JPEG: its frame header is too short");
      frame_seen = true;
      frame_segment = segment;
      progressive = (marker & 3) == 2;
      info.header.bits = segment[0];
      info.header.height = segment[1] << 8 | segment[2];
      info.header.width = segment[3] << 8 | segment[4];
      info.header.channels = segment[5];
    }
    static constexpr uint8_t kExif[] = {'E', 'x', 'i', 'f', 0, 0};
    if (marker == 0xE1 && !exif_seen && segment.size() >= 6 &&
        std::equal(std::begin(kExif), std::end(kExif), segment.begin())) {
      exif_seen = true;
      info.orientation = exif_orientation(segment.subspan(6));
    }
  }
}

Image decode_jpeg(std::span<const uint8_t> file, const JpegInfo& info) {
  const int64_t components = info.header.channels;
  if (components != 1 && components != 3 && components != 4)
    throw ImageError("JPEG with " + std::to_string(components) + " components is not supported");
  if (info.header.bits != 8)
    throw ImageError("JPEG with " + std::to_string(info.header.bits) +
                     " bits a sample is not supported");
  check_scans(file, info.header);
  const std::unique_ptr<void, int (*)(tjhandle)> turbo(tjInitDecompress(), tjDestroy);
  if (!turbo) throw ImageError("cannot start the JPEG decoder: out of memory");
  Image image{info.header.height, info.header.width, components, {}};
  image.data.resize(static_cast<size_t>(image.height * image.width * components));
  const int format = components == 1 ? TJPF_GRAY : components == 3 ? TJPF_RGB : TJPF_CMYK;
  // LIMITSCANS: a small progressive file can hold thousands of scans, each a pass over the whole
  // picture.
  if (tjDecompress2(turbo.get(),
                    file.data(),
                    file.size(),
                    image.data.data(),
                    static_cast<int>(image.width),
                    0,
                    static_cast<int>(image.height),
                    format,
                    TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS) != 0) {
    const std::string why = tjGetErrorStr2(turbo.get());
    const bool warning = tjGetErrorCode(turbo.get()) == TJERR_WARNING;
    if (!warning || !is_harmless(why) || !has_end_marker(file)) {
      const size_t colon = why.find("(): ");
      throw ImageError("damaged JPEG: " +
                       (colon == std::string::npos ? why : why.substr(colon + 4)));
    }
  }
  return components == 4 ? from_inverted_cmyk(image) : image;
}

}  // namespace diffuse
