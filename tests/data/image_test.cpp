// SPDX-License-Identifier: MIT
#include "data/image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "data/exif.h"
#include "data/jpeg.h"
#include "data/support.h"

namespace diffuse {
namespace {

using nlohmann::json;

AlphaPolicy alpha_policy(const std::string& name) {
  static const std::map<std::string, AlphaPolicy> all = {
      {"white", AlphaPolicy::white}, {"black", AlphaPolicy::black}, {"drop", AlphaPolicy::drop}};
  return all.at(name);
}

std::string image_error(std::span<const uint8_t> file, const DecodeOptions& options = {}) {
  try {
    decode_image(file, options);
  } catch (const ImageError& e) {
    return e.what();
  }
  return "decoded";
}

TEST(Decode, EqualsPillow) {
  ASSERT_GE(manifest()["decode"].size(), 60u);
  for (const json& test : manifest()["decode"]) {
    SCOPED_TRACE(test.dump());
    DecodeOptions options;
    options.channels = test["channels"];
    options.alpha = alpha_policy(test["alpha"]);
    options.exif_orientation = test["exif"];
    const Image image = decode_image(read_all(kFixtures / std::string(test["file"])), options);
    ASSERT_EQ(image.height, test["height"]);
    ASSERT_EQ(image.width, test["width"]);
    ASSERT_EQ(image.channels, options.channels);
    const auto want = expected_bytes(test["offset"], image.height * image.width * image.channels);
    EXPECT_LE(max_difference(image.data, want), test["tolerance"]);
  }
}

TEST(Decode, RefusesBadFilesWithTheReason) {
  ASSERT_GE(manifest()["bad"].size(), 30u);
  for (const json& test : manifest()["bad"]) {
    const std::string why = image_error(read_all(kFixtures / std::string(test["file"])));
    EXPECT_NE(why.find(test["reason"]), std::string::npos) << test["file"] << ": " << why;
  }
}

TEST(Decode, EveryTruncationIsAnError) {
  for (const char* name :
       {"rgb.png", "palette-trns.png", "interlaced.png", "rgb.bmp", "palette.bmp"}) {
    const auto file = read_all(kFixtures / name);
    // A BMP may lack the padding of its last row.
    const size_t complete = file.size() - (file[0] == 'B' ? 3 : 0);
    for (size_t size = 0; size < complete; ++size)
      EXPECT_NE(image_error(std::span(file).first(size)), "decoded") << name << " cut to " << size;
  }
  for (const char* name : {"444.jpg", "420.JPG", "progressive.jpg", "cmyk.jpg"}) {
    const auto file = read_all(kFixtures / name);
    // Without its end marker only, every pixel may be there.
    for (size_t size = 0; size + 2 < file.size(); size += 7)
      EXPECT_NE(image_error(std::span(file).first(size)), "decoded") << name << " cut to " << size;
  }
}

TEST(Decode, EveryDamagedPngByteIsAnError) {
  auto file = read_all(kFixtures / "grey-alpha.png");
  for (size_t i = 0; i < file.size(); ++i) {
    file[i] ^= 0x10;
    EXPECT_NE(image_error(file), "decoded") << "byte " << i;
    file[i] ^= 0x10;
  }
}

TEST(Decode, LargeInterlacedPngFitsTheAllocationLimit) {
  const Image image = decode_image(read_all(kFixtures / "interlaced-large.png"), {});
  ASSERT_EQ(image.height, 200);
  ASSERT_EQ(image.width, 200);
  for (int64_t y = 0; y < 200; ++y)
    for (int64_t x = 0; x < 200; ++x) {
      const uint8_t* p = image.data.data() + (y * 200 + x) * 3;
      ASSERT_TRUE(p[0] == x / 16 && p[1] == y / 16 && p[2] == 0) << y << ", " << x;
    }
}

TEST(Decode, LimitsAreCheckedAgainstTheHeader) {
  const auto file = read_all(kFixtures / "rgb.png");
  DecodeOptions options;
  options.max_pixels = 13 * 17;
  EXPECT_EQ(image_error(file, options), "decoded");
  options.max_pixels = 13 * 17 - 1;
  EXPECT_NE(image_error(file, options).find("17x13 pixels, data.max_pixels is 220"),
            std::string::npos);
  options = {};
  options.max_file_bytes = static_cast<int64_t>(file.size());
  EXPECT_EQ(image_error(file, options), "decoded");
  --options.max_file_bytes;
  EXPECT_NE(image_error(file, options).find("data.max_file_bytes"), std::string::npos);
}

TEST(Decode, AlphaErrorRefusesTransparencyOnly) {
  DecodeOptions options;
  options.alpha = AlphaPolicy::error;
  EXPECT_EQ(image_error(read_all(kFixtures / "rgba-opaque.png"), options), "decoded");
  EXPECT_NE(image_error(read_all(kFixtures / "rgba.png"), options).find("transparent"),
            std::string::npos);
}

TEST(Decode, ManyProgressiveScansAreRefused) {
  const auto file = read_all(kFixtures / "progressive.jpg");
  static constexpr uint8_t kScan[] = {0xFF, 0xDA};
  const auto last = std::find_end(file.begin(), file.end(), std::begin(kScan), std::end(kScan));
  std::vector<uint8_t> bomb(file.begin(), last);
  for (int i = 0; i < 600; ++i) bomb.insert(bomb.end(), last, file.end() - 2);
  bomb.insert(bomb.end(), file.end() - 2, file.end());
  EXPECT_NE(image_error(bomb).find("scans"), std::string::npos) << image_error(bomb);
}

TEST(Decode, ScansOverManyPixelsAreRefused) {
  auto file = read_all(kFixtures / "progressive.jpg");
  static constexpr uint8_t kFrame[] = {0xFF, 0xC2};
  const auto frame = std::search(file.begin(), file.end(), std::begin(kFrame), std::end(kFrame));
  ASSERT_NE(frame, file.end());
  // Height and width, 16384 each: 2^28 pixels, and so 4 scans.
  for (const size_t at : {5, 7}) {
    frame[static_cast<ptrdiff_t>(at)] = 0x40;
    frame[static_cast<ptrdiff_t>(at + 1)] = 0;
  }
  DecodeOptions options;
  options.max_pixels = int64_t{1} << 30;
  EXPECT_NE(image_error(file, options).find(" scans over 16384x16384 pixels; save it with fewer"),
            std::string::npos)
      << image_error(file, options);
}

TEST(Decode, WhatAPictureTakesIsLimitedAsItsPixelsAre) {
  // 16 bits and four channels take more than the 7 bytes a pixel that the limit is made for.
  const auto file = read_all(kFixtures / "rgba16.png");
  DecodeOptions options;
  options.max_pixels = 9 * 11;
  EXPECT_NE(image_error(file, options)
                .find("9x11 pixels of this kind take 0 MiB to decode, "
                      "data.max_pixels 99 allows"),
            std::string::npos)
      << image_error(file, options);
}

void put(std::vector<uint8_t>& out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> 8 * i));
}

/// A BMP with the common header; `rest` follows it.
std::vector<uint8_t> bmp(int32_t width,
                         int32_t height,
                         uint32_t bits,
                         uint32_t compression,
                         uint32_t data_offset,
                         const std::vector<uint8_t>& rest) {
  std::vector<uint8_t> out = {'B', 'M'};
  for (const uint32_t field : {static_cast<uint32_t>(54 + rest.size()), 0u, data_offset, 40u})
    put(out, field, 4);
  put(out, static_cast<uint32_t>(width), 4);
  put(out, static_cast<uint32_t>(height), 4);
  put(out, 1 | bits << 16, 4);
  put(out, compression, 4);
  for (int i = 0; i < 5; ++i) put(out, 0, 4);
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

TEST(Bmp, SixteenColours) {
  // Greys of 17 * number: 1 2 3 below 4 5 6, rows from the bottom in four bytes each.
  std::vector<uint8_t> rest;
  for (uint32_t i = 0; i < 16; ++i) put(rest, 17 * i * 0x010101, 4);
  for (const uint8_t byte : {0x12, 0x30, 0, 0, 0x45, 0x60, 0, 0}) rest.push_back(byte);
  DecodeOptions options;
  options.channels = 1;
  const Image image = decode_image(bmp(3, 2, 4, 0, 54 + 64, rest), options);
  EXPECT_EQ(image.data, (std::vector<uint8_t>{68, 85, 102, 17, 34, 51}));
}

TEST(Bmp, Os2WithoutAPalette) {
  std::vector<uint8_t> file = {'B', 'M'};
  for (const uint32_t field : {26 + 8u, 0u, 26u, 12u, 1u | 2u << 16, 1u | 24u << 16})
    put(file, field, 4);
  // Blue, green, red, from the bottom.
  for (const uint8_t byte : {1, 2, 3, 0, 4, 5, 6, 0}) file.push_back(byte);
  EXPECT_EQ(decode_image(file, {}).data, (std::vector<uint8_t>{6, 5, 4, 3, 2, 1}));
}

TEST(Bmp, SaysWhatIsWrongWithIt) {
  const std::vector<uint8_t> pixels(64);
  for (const auto& [file, reason] : std::vector<std::pair<std::vector<uint8_t>, std::string>>{
           {bmp(2, 2, 2, 0, 54, pixels), "2 bits a pixel"},
           {bmp(2, 2, 8, 1, 54, pixels), "run-length coded"},
           {bmp(2, 2, 4, 2, 54, pixels), "run-length coded"},
           {bmp(2, 2, 24, 0, 53, pixels), "its pixels start within its header"},
           {bmp(5, 5, 24, 0, 54, pixels), "its pixels need 133 bytes, the file has 118"}}) {
    EXPECT_NE(image_error(file).find(reason), std::string::npos) << image_error(file);
  }
}

TEST(Header, TellsTypeAndSizeByContent) {
  struct Case {
    const char* file;
    const char* format;
    int64_t height, width, channels, bits;
  };
  for (const Case& c : {Case{"misnamed.jpg", "png", 13, 17, 3, 8},
                        Case{"grey16.png", "png", 11, 9, 1, 16},
                        Case{"bilevel.png", "png", 13, 17, 1, 1},
                        Case{"rgba16.png", "png", 11, 9, 4, 16},
                        Case{"exif-6.jpg", "jpeg", 8, 16, 3, 8},
                        Case{"cmyk.jpg", "jpeg", 29, 37, 4, 8},
                        Case{"top-down.bmp", "bmp", 13, 17, 3, 8},
                        Case{"rgba-v4.bmp", "bmp", 13, 17, 4, 8}}) {
    const ImageHeader header = read_image_header(read_all(kFixtures / c.file));
    EXPECT_EQ(header.format, c.format) << c.file;
    EXPECT_EQ(header.height, c.height) << c.file;
    EXPECT_EQ(header.width, c.width) << c.file;
    EXPECT_EQ(header.channels, c.channels) << c.file;
    EXPECT_EQ(header.bits, c.bits) << c.file;
  }
}

TEST(PictureType, TextIsNone) {
  const auto type = [](std::string_view text) {
    return picture_type(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  };
  for (const std::string_view text : {"",
                                      "BM",
                                      "BMW makes cars, and this line is longer than a header.",
                                      "But this line is longer than a header, too.",
                                      "P",
                                      "GIF",
                                      "P0\n",
                                      "P7\n",
                                      "P+ ",
                                      "P5x",
                                      "P2P"})
    EXPECT_EQ(type(text), "") << text;
  for (const std::string_view text : {"P1\n1 1 0", "P3 ", "P4\r\n", "P6\t"})
    EXPECT_EQ(type(text), "PNM") << text;
}

/// A JPEG of these segments.
std::vector<uint8_t> jpeg(const std::vector<std::pair<uint8_t, std::vector<uint8_t>>>& segments) {
  std::vector<uint8_t> out = {0xFF, 0xD8};
  for (const auto& [marker, content] : segments) {
    const size_t length = content.size() + 2;
    for (const size_t byte : {size_t{0xFF}, size_t{marker}, length >> 8, length & 255})
      out.push_back(static_cast<uint8_t>(byte));
    out.insert(out.end(), content.begin(), content.end());
  }
  return out;
}

TEST(Header, OfAJpegAmongOtherSegments) {
  const std::vector<uint8_t> frame = {8, 0, 3, 0, 5, 1, 1, 0x11, 0}, scan = {1, 1, 0, 0, 63, 0};
  const auto exif = [](uint8_t orientation) {
    return std::vector<uint8_t>{'E', 'x', 'i', 'f', 0, 0,           'M',  'M',  0, 42,
                                0,   0,   0,   8,   0, 1,           0x01, 0x12, 0, 3,
                                0,   0,   0,   1,   0, orientation, 0,    0,    0, 0};
  };
  // Short application data is no Exif; of two Exif blocks the first counts; tables for arithmetic
  // coding (0xCC) are no frame.
  const auto file = jpeg({{0xE1, {'E', 'x'}},
                          {0xE1, exif(6)},
                          {0xE1, exif(3)},
                          {0xCC, {0, 0}},
                          {0xC0, frame},
                          {0xDA, scan}});
  const ImageHeader header = read_image_header(file);
  EXPECT_EQ(header.height, 3);
  EXPECT_EQ(header.width, 5);
  EXPECT_EQ(read_jpeg_info(file).orientation, 6);
  EXPECT_NE(image_error(jpeg({{0xC0, {8, 0, 3, 0, 5}}, {0xDA, scan}}))
                .find("its frame header is too short"),
            std::string::npos);
}

TEST(Exif, MalformedBlocksAreUpright) {
  // Big endian, one entry at offset 8: orientation, SHORT, one value, 8.
  const std::vector<uint8_t> good = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0,
                                     3,   0,   0, 0,  1, 0, 8, 0, 0, 0, 0,    0,    0};
  EXPECT_EQ(exif_orientation(good), 8);
  const std::vector<uint8_t> little = {'I',  'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12,
                                       0x01, 3,   0,  1, 0, 0, 0, 5, 0, 0, 0};
  EXPECT_EQ(exif_orientation(little), 5);
  for (size_t size = 0; size < 22; ++size)
    EXPECT_EQ(exif_orientation(std::span(good).first(size)), 1);
  // Wrong byte order mark, magic, offset beyond the block, type, count, value.
  for (const auto& [at, value] : std::map<size_t, uint8_t>{
           {0, 'I'}, {3, 43}, {4, 0xFF}, {7, 200}, {13, 4}, {17, 2}, {19, 9}}) {
    auto bad = good;
    bad[at] = value;
    EXPECT_EQ(exif_orientation(bad), 1) << at;
  }
  auto zero = good;
  zero[19] = 0;
  EXPECT_EQ(exif_orientation(zero), 1);
}

TEST(Exif, OrientationsFormTheSymmetriesOfTheRectangle) {
  const Image image = tagged_image(3, 5, 9);
  // The inverse of each: quarter turns swap, everything else undoes itself.
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const int inverse = orientation == 6 ? 8 : orientation == 8 ? 6 : orientation;
    const Image turned = turn_upright(image, orientation);
    EXPECT_EQ(turned.height, orientation >= 5 ? 5 : 3);
    EXPECT_EQ(turn_upright(turned, inverse).data, image.data) << orientation;
  }
}

}  // namespace
}  // namespace diffuse
