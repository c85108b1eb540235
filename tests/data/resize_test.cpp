// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "data/image.h"
#include "data/support.h"

namespace diffuse {
namespace {

constexpr ResizeFilter kFilters[] = {
    ResizeFilter::area, ResizeFilter::bilinear, ResizeFilter::bicubic, ResizeFilter::lanczos};

DataOptions size_options(int64_t height, int64_t width, Crop crop) {
  DataOptions options;
  options.size = {height, width};
  options.crop = crop;
  return options;
}

TEST(Resize, EqualsPillow) {
  const std::map<std::string, ResizeFilter> filters = {{"area", ResizeFilter::area},
                                                       {"bilinear", ResizeFilter::bilinear},
                                                       {"bicubic", ResizeFilter::bicubic},
                                                       {"lanczos", ResizeFilter::lanczos}};
  ASSERT_GE(manifest()["resize"].size(), 50u);
  for (const nlohmann::json& test : manifest()["resize"]) {
    SCOPED_TRACE(test.dump());
    Image image{test["height"], test["width"], test["channels"], {}};
    const auto source = expected_bytes(test["source"], image.height * image.width * image.channels);
    image.data.assign(source.begin(), source.end());
    const Image out =
        resize_image(image, test["out_height"], test["out_width"], filters.at(test["filter"]));
    const auto want = expected_bytes(test["offset"], out.height * out.width * out.channels);
    EXPECT_EQ(max_difference(out.data, want), 0);
  }
}

TEST(Resize, KeepsConstantsAndSameSizes) {
  const Image flat{9, 7, 3, std::vector<uint8_t>(9 * 7 * 3, 201)};
  const Image any = tagged_image(9, 7, 3);
  for (const ResizeFilter filter : kFilters) {
    const Image out = resize_image(flat, 4, 31, filter);
    EXPECT_EQ(std::count(out.data.begin(), out.data.end(), 201), 4 * 31 * 3);
    EXPECT_EQ(resize_image(any, 9, 7, filter).data, any.data);
  }
}

TEST(Fit, RightSizeIsUntouched) {
  const Image image = tagged_image(20, 30, 1);
  for (const Crop crop : {Crop::center, Crop::random, Crop::none})
    EXPECT_EQ(fit_image(image, size_options(20, 30, crop)).data, image.data);
}

TEST(Fit, CenterCutsTheLargestWindowOfTheAspectRatio) {
  // Reduced by no filter: the window has the target's size already.
  const Image wide = fit_image(tagged_image(10, 31, 0), size_options(10, 20, Crop::center));
  EXPECT_EQ(wide.data, crop_image(tagged_image(10, 31, 0), 0, 5, 10, 20).data);
  const Image tall = fit_image(tagged_image(31, 10, 0), size_options(10, 10, Crop::center));
  EXPECT_EQ(tall.data, crop_image(tagged_image(31, 10, 0), 10, 0, 10, 10).data);
  // 40 x 30 at 2:1 is 40 wide, 20 high from row 5.
  const DataOptions options = size_options(10, 20, Crop::center);
  EXPECT_EQ(
      fit_image(tagged_image(30, 40, 0), options).data,
      resize_image(crop_image(tagged_image(30, 40, 0), 5, 0, 20, 40), 10, 20, options.resize).data);
}

TEST(Fit, NoneResizesRegardlessOfAspect) {
  const DataOptions options = size_options(8, 8, Crop::none);
  EXPECT_EQ(fit_image(tagged_image(16, 50, 0), options).data,
            resize_image(tagged_image(16, 50, 0), 8, 8, options.resize).data);
}

TEST(Fit, RandomCoversTheSize) {
  for (const auto& [height, width, want_height, want_width] :
       {std::array<int64_t, 4>{40, 100, 8, 20}, {100, 40, 20, 8}, {3, 7, 8, 19}, {8, 9, 8, 9}}) {
    const Image out = fit_image(tagged_image(height, width, 0), size_options(8, 8, Crop::random));
    EXPECT_EQ(out.height, want_height);
    EXPECT_EQ(out.width, want_width);
  }
  const Image out = fit_image(tagged_image(40, 40, 0), size_options(8, 16, Crop::random));
  EXPECT_EQ(out.height, 16);
  EXPECT_EQ(out.width, 16);
}

TEST(Fit, ElongatedPictureIsRefusedBeforeItGrows) {
  DataOptions options = size_options(256, 256, Crop::random);
  EXPECT_THROW(fit_image(Image{1, 16000, 1, std::vector<uint8_t>(16000)}, options), ImageError);
  options.crop = Crop::center;
  EXPECT_EQ(fit_image(Image{1, 16000, 1, std::vector<uint8_t>(16000)}, options).data.size(),
            65536u);
}

TEST(Crop, OutsideIsABug) {
  const Image image = tagged_image(4, 4, 0);
  EXPECT_THROW(crop_image(image, 1, 0, 4, 4), std::logic_error);
  EXPECT_THROW(crop_image(image, 0, -1, 2, 2), std::logic_error);
}

}  // namespace
}  // namespace diffuse
