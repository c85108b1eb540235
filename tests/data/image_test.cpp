// SPDX-License-Identifier: MIT
#include "data/image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "data/exif.h"
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
  for (const std::string_view text :
       {"", "BM", "BMW makes cars, and this line is longer than a header.", "P", "GIF"})
    EXPECT_EQ(picture_type(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())),
              "")
        << text;
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
