// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "data/image.h"
#include "data/support.h"

namespace diffuse {
namespace {

using Text = std::vector<std::pair<std::string, std::string>>;

TEST(Png, RoundTripWithText) {
  const Text text = {{"diffuse", "seed=1\nsteps=100"}, {"Title", "Zürich, 東京"}, {"Empty", ""}};
  for (const int64_t channels : {1, 3}) {
    Image image{5, 7, channels, {}};
    for (int64_t i = 0; i < 5 * 7 * channels; ++i)
      image.data.push_back(static_cast<uint8_t>(i * 37));
    const std::vector<uint8_t> file = encode_png(image, text);
    EXPECT_EQ(file, encode_png(image, text));
    EXPECT_EQ(read_png_text(file), text);
    DecodeOptions options;
    options.channels = channels;
    const Image back = decode_image(file, options);
    EXPECT_EQ(back.height, 5);
    EXPECT_EQ(back.width, 7);
    EXPECT_EQ(back.data, image.data);
  }
}

TEST(Png, AsciiTextIsPlainTextChunk) {
  const auto file = encode_png(tagged_image(2, 2, 0), {{"key", "value"}, {"other", "ö"}});
  const std::string bytes(file.begin(), file.end());
  EXPECT_NE(bytes.find(std::string("tEXtkey\0value", 13)), std::string::npos);
  EXPECT_NE(bytes.find(std::string("iTXtother\0\0\0\0\0\xC3\xB6", 16)), std::string::npos);
}

TEST(Png, TextOfDamagedOrOtherFiles) {
  auto file = encode_png(tagged_image(2, 2, 0), {{"a", "1"}, {"b", "2"}});
  EXPECT_EQ(read_png_text(read_all(kFixtures / "444.jpg")), Text{});
  EXPECT_EQ(read_png_text({}), Text{});
  const std::string bytes(file.begin(), file.end());
  file[bytes.find("tEXtb") + 6] ^= 1;
  EXPECT_EQ(read_png_text(file), (Text{{"a", "1"}}));
}

/// `file` with another chunk in front of its first one of type `before`.
std::vector<uint8_t> with_chunk(std::vector<uint8_t> file,
                                const std::string& before,
                                const std::string& type,
                                const std::string& data) {
  const auto u32 = [](uint32_t value) {
    std::string out;
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
    return out;
  };
  const std::string body = type + data;
  const auto crc =
      ::crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  const std::string chunk =
      u32(static_cast<uint32_t>(data.size())) + body + u32(static_cast<uint32_t>(crc));
  const auto at = std::search(file.begin(), file.end(), before.begin(), before.end());
  EXPECT_NE(at, file.end());
  file.insert(at - 4, chunk.begin(), chunk.end());
  return file;
}

TEST(Png, TextOfOtherPrograms) {
  auto file = encode_png(tagged_image(2, 2, 0));
  using namespace std::string_literals;
  for (const auto& [type, data] : std::vector<std::pair<std::string, std::string>>{
           {"tEXt", "City\0Z\xFCrich"s},  // Latin-1
           {"iTXt", "Title\0\0\0de\0Titel\0\xE6\x9D\xB1"s},
           // Compressed, or without one of its ends: left out.
           {"tEXt", "no end of its key"},
           {"iTXt", "Packed\0\1\0\0\0x\x9C"s},
           {"iTXt", "Short\0\0"s},
           {"iTXt", "Language\0\0\0de"s},
           {"iTXt", "Translation\0\0\0de\0Titel"s}})
    file = with_chunk(file, "IEND", type, data);
  EXPECT_EQ(read_png_text(file), (Text{{"City", "Zürich"}, {"Title", "東"}}));
}

TEST(Png, ATransparentColourIsBlended) {
  // Of the pixels (y, x, 9), (0, 1, 9) is the one without colour; two bytes a channel.
  const auto file = with_chunk(
      encode_png(tagged_image(1, 2, 9)), "IDAT", "tRNS", std::string("\0\0\0\1\0\x09", 6));
  EXPECT_EQ(decode_image(file, {}).data, (std::vector<uint8_t>{0, 0, 9, 255, 255, 255}));
}

TEST(Png, PaletteAndTransparencyHaveTheirPlace) {
  const auto reason = [](const std::vector<uint8_t>& file) {
    try {
      decode_image(file, {});
    } catch (const ImageError& e) {
      return std::string(e.what());
    }
    return std::string("decoded");
  };
  const auto file = read_all(kFixtures / "palette.png");
  EXPECT_EQ(reason(file), "decoded");
  const std::string palette(3 * 256, '\0'), alpha("\xFF");
  const std::string wrong_palette = "damaged PNG: wrong length or place of its palette",
                    wrong_alpha = "damaged PNG: wrong length or place of its transparency";
  EXPECT_EQ(reason(with_chunk(file, "IDAT", "PLTE", palette)), wrong_palette);  // a second one
  EXPECT_EQ(reason(with_chunk(file, "IEND", "PLTE", palette)), wrong_palette);
  EXPECT_EQ(reason(with_chunk(file, "PLTE", "PLTE", "12")), wrong_palette);
  EXPECT_EQ(reason(with_chunk(file, "IDAT", "tRNS", alpha)), "decoded");
  EXPECT_EQ(reason(with_chunk(file, "IEND", "tRNS", alpha)), wrong_alpha);
  EXPECT_EQ(reason(with_chunk(file, "PLTE", "tRNS", alpha)), wrong_alpha);
}

TEST(Png, WrongPicturesAndTextAreABug) {
  const Image good = tagged_image(2, 2, 0);
  for (const Image& bad :
       {Image{1, 1, 2, {0, 0}}, Image{0, 1, 3, {}}, Image{1, 0, 3, {}}, Image{1, 1, 3, {0, 0}}})
    EXPECT_THROW(encode_png(bad), std::logic_error);
  for (const Text& bad : {Text{{"", "v"}},
                          Text{{std::string(80, 'k'), "v"}},
                          Text{{"schlüssel", "v"}},
                          Text{{"k", std::string("a\0b", 3)}}})
    EXPECT_THROW(encode_png(good, bad), std::logic_error);
  EXPECT_NO_THROW(encode_png(good, {{std::string(79, 'k'), "v"}}));
}

TEST(Png, WriteReplacesOrNamesTheFailure) {
  const PictureFolder folder;
  write_png(folder / "a.png", tagged_image(2, 3, 1));
  write_png(folder / "a.png", tagged_image(4, 3, 2), {{"k", "v"}});
  EXPECT_EQ(decode_image(read_all(folder / "a.png"), {}).data, tagged_image(4, 3, 2).data);
  try {
    write_png(folder / "missing/a.png", tagged_image(2, 2, 0));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::write);
    EXPECT_NE(std::string(e.what()).find("missing/a.png"), std::string::npos);
  }
}

TEST(Grid, PlacesImagesRowByRow) {
  const std::vector<Image> images(5, Image{2, 3, 1, {1, 2, 3, 4, 5, 6}});
  const Image grid = make_grid(images, 3, 1, 9);
  EXPECT_EQ(grid.height, 7);
  EXPECT_EQ(grid.width, 13);
  const std::vector<uint8_t> want = {
      9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,  //
      9, 1, 2, 3, 9, 1, 2, 3, 9, 1, 2, 3, 9,  //
      9, 4, 5, 6, 9, 4, 5, 6, 9, 4, 5, 6, 9,  //
      9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,  //
      9, 1, 2, 3, 9, 1, 2, 3, 9, 9, 9, 9, 9,  //
      9, 4, 5, 6, 9, 4, 5, 6, 9, 9, 9, 9, 9,  //
      9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
  };
  EXPECT_EQ(grid.data, want);
  EXPECT_EQ(make_grid({tagged_image(4, 5, 1)}, 1, 0).data, tagged_image(4, 5, 1).data);
}

TEST(Grid, OfUnlikeImagesOrNoneIsABug) {
  const Image image = tagged_image(2, 3, 1);
  EXPECT_THROW(make_grid({}, 1, 0), std::logic_error);
  EXPECT_THROW(make_grid({image}, 0, 0), std::logic_error);
  EXPECT_THROW(make_grid({image}, 1, -1), std::logic_error);
  for (const Image& other :
       {tagged_image(3, 3, 1), tagged_image(2, 2, 1), Image{2, 3, 1, {0, 0, 0, 0, 0, 0}}})
    EXPECT_THROW(make_grid({image, other}, 2, 0), std::logic_error);
  EXPECT_THROW(enlarge(image, 0), std::logic_error);
}

TEST(Grid, Enlarged) {
  const Image small = tagged_image(2, 3, 7);
  const Image large = enlarge(small, 4);
  ASSERT_EQ(large.height, 8);
  ASSERT_EQ(large.width, 12);
  ASSERT_EQ(large.data.size(), 16 * small.data.size());
  for (int64_t y = 0; y < 8; ++y)
    for (int64_t x = 0; x < 12; ++x) {  // a tagged pixel is (y, x, tag)
      const auto at = static_cast<size_t>(3 * (12 * y + x));
      EXPECT_EQ(large.data[at], y / 4);
      EXPECT_EQ(large.data[at + 1], x / 4);
      EXPECT_EQ(large.data[at + 2], 7);
    }
  EXPECT_EQ(enlarge(small, 1).data, small.data);
}

}  // namespace
}  // namespace diffuse
