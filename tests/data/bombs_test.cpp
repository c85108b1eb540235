// SPDX-License-Identifier: MIT
// Small files that ask for much: any of at most 10 MB costs at most 2 s of processor time and 512
// MiB.
#include <gtest/gtest.h>
#include <turbojpeg.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/exif.h"
#include "data/image.h"
#include "data/support.h"
#include "support/cost.h"

namespace diffuse {
namespace {

using File = std::vector<uint8_t>;

constexpr size_t kLargest = 10'000'000;

void append(File& out, std::string_view text) { out.insert(out.end(), text.begin(), text.end()); }

void append_u32(File& out, size_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}

void append_chunk(File& out, std::string_view type, const File& data) {
  append_u32(out, data.size());
  const size_t begin = out.size();
  append(out, type);
  out.insert(out.end(), data.begin(), data.end());
  append_u32(out, ::crc32(0, out.data() + begin, static_cast<uInt>(out.size() - begin)));
}

/// Some rows, each of this filter and zeros, as deflate blocks that need nothing before them.
File deflated_piece(uint64_t rows, uint64_t row, uint8_t filter) {
  File in(rows * row);
  for (uint64_t i = 0; i < rows; ++i) in[i * row] = filter;
  z_stream stream{};
  EXPECT_EQ(::deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
  File out(::deflateBound(&stream, in.size()) + 16);
  stream.next_in = in.data();
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(::deflate(&stream, Z_FULL_FLUSH), Z_OK);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

/// The same for any number of rows, as a zlib stream without its sum, which stb_image does not
/// read.
File deflated_rows(uint64_t rows, uint64_t row, uint8_t filter = 0) {
  const uint64_t step = std::max<uint64_t>(1, (1 << 20) / row);
  const File piece = deflated_piece(step, row, filter);
  File out{0x78, 0xDA};
  for (; rows >= step; rows -= step) out.insert(out.end(), piece.begin(), piece.end());
  if (rows > 0) {
    const File rest = deflated_piece(rows, row, filter);
    out.insert(out.end(), rest.begin(), rest.end());
  }
  for (const uint8_t end : {3, 0, 0, 0, 0, 0}) out.push_back(end);
  return out;
}

struct PngSpec {
  size_t width, height;
  uint8_t bits, colour;
  bool interlaced = false;
  uint8_t filter = 0;
};

File png_start(const PngSpec& spec) {
  File out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  File header;
  append_u32(header, spec.width);
  append_u32(header, spec.height);
  for (const uint8_t b : {spec.bits, spec.colour, uint8_t{0}, uint8_t{0}, uint8_t{spec.interlaced}})
    header.push_back(b);
  append_chunk(out, "IHDR", header);
  return out;
}

/// A black picture. `extra` gets chunks between the header and the pixels.
template <class Extra>
File png(const PngSpec& spec, Extra extra) {
  const size_t channels = spec.colour == 2 ? 3 : spec.colour == 4 ? 2 : spec.colour == 6 ? 4 : 1;
  const uint64_t row = (uint64_t{spec.width} * channels * spec.bits + 7) / 8 + 1;
  File out = png_start(spec);
  extra(out);
  // The seven pictures of an interlaced one have more rows in all, so more filter bytes.
  append_chunk(
      out,
      "IDAT",
      deflated_rows(
          spec.interlaced ? spec.height + 8 : spec.height, row, spec.interlaced ? 0 : spec.filter));
  append_chunk(out, "IEND", {});
  return out;
}
File png(const PngSpec& spec) {
  return png(spec, [](File&) {});
}

/// What decoding says; "decoded" when it works.
std::string outcome(const File& file) {
  try {
    read_png_text(file);
    decode_image(file, {});
  } catch (const ImageError& e) {
    return e.what();
  }
  return "decoded";
}

void expect_cheap(const std::string& name, const File& file, const std::string& expected) {
  ASSERT_LE(file.size(), kLargest) << name;
  const Cost cost =
      limited(2, 512, [&] { return outcome(file).find(expected) == std::string::npos ? 1 : 0; });
  EXPECT_EQ(cost.result, 0) << name << ": " << cost.text();
  if (cost.result == 1) {
    ADD_FAILURE() << name << ": " << outcome(file);
  }
  testing::Test::RecordProperty(name, cost.text());
}

class Bombs : public testing::Test {
 protected:
  void SetUp() override {
    if (!kCanLimitCost) GTEST_SKIP() << "a sanitizer changes what everything costs";
  }
};

constexpr uint8_t kGrey = 0, kRgb = 2, kPalette = 3, kRgba = 6;

TEST_F(Bombs, LargePngs) {
  expect_cheap("rgb_67_megapixels", png({8192, 8192, 8, kRgb}), "decoded");
  expect_cheap("paeth", png({8192, 8192, 8, kRgb, false, 4}), "decoded");
  expect_cheap("rgba_58_megapixels", png({7660, 7660, 8, kRgba, false, 4}), "decoded");
  expect_cheap("rgb16_39_megapixels", png({6250, 6250, 16, kRgb, false, 4}), "decoded");
  expect_cheap("interlaced_44_megapixels", png({6650, 6650, 8, kRgb, true}), "decoded");
  expect_cheap("bilevel_67_megapixels", png({8192, 8192, 1, kGrey}), "decoded");
  const auto two_colours = [](File& out) {
    append_chunk(out, "PLTE", {1, 2, 3, 4, 5, 6});
    append_chunk(out, "tRNS", {7});
  };
  expect_cheap("palette_67_megapixels", png({8192, 8192, 1, kPalette}, two_colours), "decoded");
}

TEST_F(Bombs, PngsThatAreTooLarge) {
  for (const PngSpec& spec : {PngSpec{8192, 8192, 16, kRgba},
                              PngSpec{8192, 8192, 8, kRgba},
                              PngSpec{8192, 8192, 16, kRgb},
                              PngSpec{8192, 8192, 8, kRgb, true}})
    expect_cheap("wide", png(spec), "MiB to decode, data.max_pixels 67108864 allows 448 MiB");
  const auto transparent = [](File& out) { append_chunk(out, "tRNS", {0, 0, 0, 0, 0, 0}); };
  expect_cheap("trns", png({8192, 8192, 8, kRgb}, transparent), "512 MiB to decode");
  for (const size_t side : {65535u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    File file = png_start({side, side, 16, kRgba, true});
    append_chunk(file, "IDAT", deflated_rows(10, 100));
    append_chunk(file, "IEND", {});
    expect_cheap("side", file, "too large: " + std::to_string(side));
  }
}

TEST_F(Bombs, PngsWithMuchBesidesPixels) {
  // A gigabyte of zeros in a megabyte; the picture has 8 x 8 pixels.
  const File gigabyte = deflated_rows(1000, 1'000'000);
  ASSERT_GT(gigabyte.size(), 900'000u);
  File endless = png_start({8, 8, 8, kRgb});
  append_chunk(endless, "IDAT", gigabyte);
  append_chunk(endless, "IEND", {});
  expect_cheap("endless_idat", endless, "larger than its size explains");
  for (const char* type : {"iCCP", "zTXt", "iTXt"})
    expect_cheap(type,
                 png({8, 8, 8, kRgb},
                     [&](File& out) {
                       File data;
                       append(data,
                              type == std::string_view("iTXt") ? std::string("k\0\1\0\0\0", 6)
                                                               : std::string("k\0\0", 3));
                       data.insert(data.end(), gigabyte.begin(), gigabyte.end());
                       append_chunk(out, type, data);
                     }),
                 "decoded");
  for (const char* type : {"tEXt", "eXIf", "gAMA"})
    expect_cheap("many_chunks",
                 png({8, 8, 8, kRgb},
                     [&](File& out) {
                       for (int i = 0; i < 700'000; ++i) append_chunk(out, type, {'a', 0});
                     }),
                 "decoded");
  File pieces = png_start({8, 8, 8, kRgb});
  for (int i = 0; i < 800'000; ++i) append_chunk(pieces, "IDAT", {});
  append_chunk(pieces, "IDAT", deflated_rows(8, 25));
  append_chunk(pieces, "IEND", {});
  expect_cheap("empty_idats", pieces, "decoded");
}

TEST(Palette, ColoursBeyondItAreRefused) {
  for (const uint8_t bits : {1, 2, 4, 8}) {
    // The zeros are colour 0, which is there; then one that is not: every pixel has all bits.
    const auto one_colour = [](File& out) { append_chunk(out, "PLTE", {9, 8, 7}); };
    const File good = png({4, 4, bits, kPalette}, one_colour);
    ASSERT_EQ(outcome(good), "decoded");
    const Image image = decode_image(good, {});
    for (size_t i = 0; i < image.data.size(); ++i) ASSERT_EQ(image.data[i], 9 - i % 3);
    File bad = png_start({4, 4, bits, kPalette});
    one_colour(bad);
    File rows;
    for (int y = 0; y < 4; ++y) {
      rows.push_back(0);
      rows.insert(rows.end(), (4u * bits + 7) / 8, 0xFF);
    }
    File packed(::compressBound(rows.size()));
    uLongf size = packed.size();
    ASSERT_EQ(::compress(packed.data(), &size, rows.data(), rows.size()), Z_OK);
    packed.resize(size);
    append_chunk(bad, "IDAT", packed);
    append_chunk(bad, "IEND", {});
    EXPECT_EQ(outcome(bad), "damaged PNG: a pixel's colour is not in its palette") << int{bits};
  }
  // Sixteen bits of a palette, no palette, one of no colours, of too many, behind the pixels.
  const auto none = [](File&) {};
  const auto plte = [](size_t bytes) {
    return [bytes](File& out) { append_chunk(out, "PLTE", File(bytes)); };
  };
  EXPECT_NE(outcome(png({4, 4, 16, kPalette}, plte(3))).find("16 bits a pixel"), std::string::npos);
  EXPECT_NE(outcome(png({4, 4, 8, kPalette}, none)).find("no palette"), std::string::npos);
  for (const size_t bytes : {0, 4, 771})
    EXPECT_NE(outcome(png({4, 4, 8, kPalette}, plte(bytes))).find("of its palette"),
              std::string::npos);
  EXPECT_NE(outcome(png({4, 4, 8, kPalette},
                        [&](File& out) {
                          append_chunk(out, "PLTE", {1, 2, 3});
                          append_chunk(out, "tRNS", {1, 2});
                        }))
                .find("of its transparency"),
            std::string::npos);
}

File black_jpeg(int width, int height, int subsampling, int flags) {
  const std::unique_ptr<void, int (*)(tjhandle)> turbo(tjInitCompress(), tjDestroy);
  const bool grey = subsampling == TJSAMP_GRAY;
  const std::vector<uint8_t> pixels(static_cast<size_t>(width) * static_cast<size_t>(height) *
                                    (grey ? 1 : 3));
  unsigned char* out = nullptr;
  unsigned long size = 0;
  EXPECT_EQ(tjCompress2(turbo.get(),
                        pixels.data(),
                        width,
                        0,
                        height,
                        grey ? TJPF_GRAY : TJPF_RGB,
                        &out,
                        &size,
                        subsampling,
                        80,
                        flags),
            0);
  File file(out, out + size);
  tjFree(out);
  return file;
}

/// The last scan again and again.
File with_scans(const File& file, int more) {
  static constexpr uint8_t kScan[] = {0xFF, 0xDA};
  const auto last = std::find_end(file.begin(), file.end(), std::begin(kScan), std::end(kScan));
  File out(file.begin(), last);
  for (int i = 0; i <= more; ++i) out.insert(out.end(), last, file.end() - 2);
  out.insert(out.end(), file.end() - 2, file.end());
  return out;
}

TEST_F(Bombs, Jpegs) {
  expect_cheap("baseline", black_jpeg(8192, 8192, TJSAMP_444, 0), "decoded");
  const File progressive = black_jpeg(8192, 8192, TJSAMP_420, TJFLAG_PROGRESSIVE);
  expect_cheap("progressive", progressive, "decoded");
  expect_cheap("progressive_444",
               black_jpeg(8192, 8192, TJSAMP_444, TJFLAG_PROGRESSIVE),
               "576 MiB to decode");
  expect_cheap("a_few_more_scans", with_scans(progressive, 5), "JPEG");
  expect_cheap("scans_67_megapixels", with_scans(progressive, 200), "scans over 8192x8192 pixels");
  const File small = black_jpeg(1448, 1448, TJSAMP_420, TJFLAG_PROGRESSIVE);
  expect_cheap("scans_2_megapixels", with_scans(small, 480), "JPEG");
  expect_cheap(
      "1000_scans", with_scans(black_jpeg(64, 64, TJSAMP_420, TJFLAG_PROGRESSIVE), 1000), "scans");
}

TEST_F(Bombs, JpegsWithLongHeaders) {
  for (const std::string_view part : {std::string_view("\xFF", 1),
                                      std::string_view("\0", 1),
                                      std::string_view("\xFF\xD0", 2),
                                      std::string_view("\xFF\xE1\0\2", 4),
                                      std::string_view("\xFF\xE1\0\10Exif\0\0", 10)}) {
    File file{0xFF, 0xD8, 0xFF, 0xE0, 0, 2};
    while (file.size() + part.size() <= kLargest) append(file, part);
    expect_cheap("header", file, "within its header");
  }
}

TEST_F(Bombs, Bmps) {
  const auto bmp =
      [](int32_t width, int32_t height, uint16_t bits, uint32_t offset, size_t pixels) {
        File out(54 + 8 + pixels);
        const uint32_t header[] = {offset, 40};
        const int32_t sides[] = {width, height};
        const uint16_t planes[] = {1, bits};
        out[0] = 'B', out[1] = 'M';
        std::memcpy(out.data() + 10, header, 8);
        std::memcpy(out.data() + 18, sides, 8);
        std::memcpy(out.data() + 26, planes, 4);
        return out;
      };
  expect_cheap("bilevel", bmp(8192, 8192, 1, 62, 8192 * 1024), "decoded");
  expect_cheap("true_colour", bmp(1800, -1800, 24, 54, 1800 * 5400), "decoded");
  for (const int32_t side : {INT32_MIN, INT32_MIN + 1, -1, 0, 65536, INT32_MAX})
    for (const uint16_t bits : {1, 8, 24, 32, 65535}) {
      expect_cheap(
          "width", bmp(side, 8, bits, 62, 100), side < 1 ? "damaged bmp: size" : "too large");
      expect_cheap("height", bmp(8, side, bits, 62, 100), "");
      expect_cheap("both", bmp(side, side, bits, 0xFFFFFFFF, 100), "");
    }
}

TEST_F(Bombs, ExifThatPointsInCircles) {
  // 65,535 entries that name each other as further blocks: one block is read.
  File tiff{'I', 'I', 42, 0, 8, 0, 0, 0, 0xFF, 0xFF};
  const uint8_t entry[] = {0x69, 0x87, 4, 0, 1, 0, 0, 0, 8, 0, 0, 0};
  for (int i = 0; i < 65535; ++i) tiff.insert(tiff.end(), std::begin(entry), std::end(entry));
  EXPECT_EQ(exif_orientation(tiff), 1);
  expect_cheap("exif",
               png({8, 8, 8, kRgb},
                   [&](File& out) {
                     for (int i = 0; i < 12; ++i) append_chunk(out, "eXIf", tiff);
                   }),
               "decoded");
}

}  // namespace
}  // namespace diffuse
