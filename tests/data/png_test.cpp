// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

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
