// SPDX-License-Identifier: MIT
#include "data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>

#include "base/error.h"
#include "base/log.h"
#include "data/support.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

bool same(const Batch& a, const Batch& b) {
  return a.step == b.step && a.pixels == b.pixels && a.labels == b.labels && a.indices == b.indices;
}

class BatchesTest : public testing::Test {
 protected:
  static constexpr int kPictures = 23;

  BatchesTest() {
    log::set_level(log::Level::off);
    options_.path = folder_.path();
    options_.size = {6, 8};
    options_.crop = Crop::random;
    options_.flip = true;
    options_.max_bad_fraction = 0.1;
    options_.workers = 0;
    for (int i = 0; i < kPictures; ++i)
      write_tagged(folder_, picture_name(i), 7 + i % 5, 9 + i % 3, static_cast<uint8_t>(i));
  }
  ~BatchesTest() override { log::set_level(log::Level::info); }

  static std::string picture_name(int i) {
    return std::string(1, 'c') + std::to_string(i / 8) + "/" + std::to_string(100 + i) + ".png";
  }

  void damage(int i) {
    auto file = read_all(folder_ / picture_name(i));
    file.resize(file.size() - 20);
    folder_.write(picture_name(i), file);
  }

  std::vector<Batch> take(const Dataset& data, int64_t batch, int64_t first, int count) {
    Batches batches(data, options_, batch, 11, first);
    std::vector<Batch> out;
    for (int i = 0; i < count; ++i) out.push_back(batches.next());
    return out;
  }

  PictureFolder folder_;
  DataOptions options_;
};

TEST_F(BatchesTest, SameForAnyWorkersQueueCacheAndStart) {
  damage(5);
  options_.cache = CachePolicy::ram;
  const Dataset cached(options_);
  const std::vector<Batch> want = take(cached, 37, 0, 8);
  options_.cache = CachePolicy::none;
  for (const int64_t workers : {0, 1, 8})
    for (const int64_t queue : {1, 4}) {
      options_.workers = workers;
      options_.queue_batches = queue;
      const Dataset streamed(options_);
      for (const Dataset* data : {&cached, &streamed})
        for (const int64_t first : {0, 3, 7}) {
          const auto got = take(*data, 37, first, static_cast<int>(8 - first));
          for (size_t i = 0; i < got.size(); ++i)
            EXPECT_TRUE(same(got[i], want[i + static_cast<size_t>(first)]))
                << workers << " workers, queue " << queue << ", step " << first << " + " << i;
        }
    }
}

TEST_F(BatchesTest, BatchSizeOnlyCutsTheStream) {
  const Dataset data(options_);
  std::vector<uint8_t> a, b;
  for (const Batch& batch : take(data, 6, 0, 10))
    a.insert(a.end(), batch.pixels.begin(), batch.pixels.end());
  for (const Batch& batch : take(data, 20, 0, 3))
    b.insert(b.end(), batch.pixels.begin(), batch.pixels.end());
  EXPECT_EQ(a, b);
}

TEST_F(BatchesTest, PixelsAreTheImagesInPlanes) {
  options_.crop = Crop::none;
  options_.flip = false;
  const Dataset data(options_);
  const Batch batch = take(data, 5, 0, 1)[0];
  ASSERT_EQ(batch.pixels.size(), 5u * 3 * 6 * 8);
  std::vector<uint8_t> image(3 * 6 * 8);
  for (size_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(data.fetch(batch.indices[i], false, 0.5, 0.5, image.data()));
    EXPECT_EQ(batch.labels[i], data.label(batch.indices[i]));
    for (size_t c = 0; c < 3; ++c)
      for (size_t p = 0; p < 48; ++p)
        ASSERT_EQ(batch.pixels[(i * 3 + c) * 48 + p], image[p * 3 + c]);
  }
}

TEST_F(BatchesTest, EveryEpochHoldsEachImageOnceInItsOwnOrder) {
  const Dataset data(options_);
  std::vector<int64_t> order;
  for (const Batch& batch : take(data, 10, 0, 23))
    order.insert(order.end(), batch.indices.begin(), batch.indices.end());
  std::set<std::vector<int64_t>> orders;
  for (auto at = order.begin(); at != order.end(); at += kPictures) {
    std::vector<int64_t> epoch(at, at + kPictures);
    orders.insert(epoch);
    std::sort(epoch.begin(), epoch.end());
    for (int64_t i = 0; i < kPictures; ++i) EXPECT_EQ(epoch[static_cast<size_t>(i)], i);
  }
  EXPECT_EQ(orders.size(), 10u);
}

TEST_F(BatchesTest, SeedChangesOrderFlipsAndCrops) {
  const Dataset data(options_);
  Batches a(data, options_, 23, 1, 0), b(data, options_, 23, 2, 0);
  EXPECT_NE(a.next().indices, b.next().indices);
}

TEST_F(BatchesTest, HalfIsFlippedAndWindowsSpread) {
  // One picture, so that every draw shows: (y, x, tag) pixels tell the window and the mirror.
  const PictureFolder one;
  write_tagged(one, "a.png", 6, 17, 3);
  options_.path = one.path();
  const Dataset data(options_);
  constexpr int kDraws = 4000;
  int flipped = 0;
  std::vector<int> lefts(10);
  for (const Batch& batch : take(data, kDraws / 4, 0, 4))
    for (int64_t i = 0; i < kDraws / 4; ++i) {
      const uint8_t* x_plane = batch.pixels.data() + (i * 3 + 1) * 48;
      const bool flip = x_plane[0] > x_plane[7];
      flipped += flip;
      ++lefts[flip ? x_plane[7] : x_plane[0]];
    }
  // Five standard deviations of a binomial.
  EXPECT_NEAR(flipped, kDraws / 2, 5 * std::sqrt(kDraws * 0.25));
  for (const int count : lefts) EXPECT_NEAR(count, kDraws / 10, 5 * std::sqrt(kDraws * 0.09));
  options_.flip = false;
  for (const Batch& batch : take(data, 50, 0, 1))
    for (int64_t i = 0; i < 50; ++i)
      EXPECT_LT(batch.pixels[static_cast<size_t>((i * 3 + 1) * 48)],
                batch.pixels[static_cast<size_t>((i * 3 + 1) * 48 + 7)]);
}

TEST_F(BatchesTest, BadPictureIsReplacedByTheNextAndRecorded) {
  damage(5);
  damage(22);
  for (const CachePolicy cache : {CachePolicy::ram, CachePolicy::none}) {
    options_.cache = cache;
    const Dataset data(options_);
    std::vector<int> seen(kPictures);
    const Batch batch = take(data, kPictures, 0, 1)[0];
    for (const int64_t i : batch.indices) ++seen[static_cast<size_t>(i)];
    std::vector<int> want(kPictures, 1);
    want[5] = 0;
    want[6] = 2;
    want[22] = 0;
    want[0] = 2;  // behind the last comes the first
    EXPECT_EQ(seen, want);
    EXPECT_EQ(data.bad().size(), 2u);
  }
}

TEST_F(BatchesTest, WithoutPixelsTheyNameThePicturesThatOthersHave) {
  options_.crop = Crop::center;
  damage(5);
  const Dataset data(options_);
  const std::span<const uint8_t> all = data.pixels();
  ASSERT_EQ(all.size(), static_cast<size_t>(kPictures * 6 * 8 * 3));
  for (const int64_t workers : {0, 3}) {
    options_.workers = workers;
    Batches with(data, options_, 31, 11, 4), without(data, options_, 31, 11, 4, false);
    const Batch a = with.next(), b = without.next();
    EXPECT_EQ(a.step, b.step);
    EXPECT_EQ(a.indices, b.indices);
    EXPECT_EQ(a.labels, b.labels);
    EXPECT_TRUE(a.flips.empty() && b.pixels.empty());
    for (size_t i = 0; i < 31; ++i)
      for (size_t c = 0; c < 3; ++c)
        for (size_t y = 0; y < 6; ++y)
          for (size_t x = 0; x < 8; ++x) {
            const size_t from = b.flips[i] != 0 ? 7 - x : x;
            ASSERT_EQ(a.pixels[((i * 3 + c) * 6 + y) * 8 + x],
                      all[((static_cast<size_t>(b.indices[i]) * 6 + y) * 8 + from) * 3 + c]);
          }
  }
  options_.crop = Crop::random;
  EXPECT_TRUE(Dataset(options_).pixels().empty());
  options_.crop = Crop::center;
  options_.cache = CachePolicy::none;
  EXPECT_TRUE(Dataset(options_).pixels().empty());
}

TEST_F(BatchesTest, WorkersErrorReachesNextInOrder) {
  damage(5);
  options_.on_bad_image = BadImage::fail;
  options_.cache = CachePolicy::none;
  int64_t failing = -1;
  for (const int64_t workers : {0, 1, 8}) {
    options_.workers = workers;
    const Dataset data(options_);
    Batches batches(data, options_, 4, 11, 0);
    int64_t good = 0;
    const std::string why = data_error([&] {
      for (;; ++good) batches.next();
    });
    EXPECT_NE(why.find(picture_name(5)), std::string::npos) << why;
    EXPECT_EQ(data_error([&] { batches.next(); }), why);
    if (failing < 0) failing = good;
    EXPECT_EQ(good, failing);
  }
}

TEST_F(BatchesTest, NothingLeftIsAnError) {
  options_.cache = CachePolicy::none;
  options_.max_bad_fraction = 1;
  const Dataset data(options_);
  for (int i = 0; i < kPictures; ++i) fs::remove(folder_ / picture_name(i));
  options_.workers = 3;
  Batches batches(data, options_, 2, 1, 0);
  EXPECT_NE(data_error([&] { batches.next(); }).find("no picture in"), std::string::npos);
}

TEST_F(BatchesTest, ABatchThatFitsIntoNoMemoryIsAnErrorNotTheEnd) {
  const Dataset data(options_);
  const int64_t image_bytes = options_.channels * options_.height() * options_.width();
  // More than any vector may hold, so that no allocator is asked.
  const int64_t batch = std::numeric_limits<int64_t>::max() / image_bytes + 1;
  for (const int64_t workers : {0, 3}) {
    options_.workers = workers;
    Batches batches(data, options_, batch, 1, 0);
    EXPECT_THROW(batches.next(), std::length_error) << workers;
    EXPECT_THROW(batches.next(), std::length_error) << workers;  // and again when asked again
  }
}

TEST_F(BatchesTest, StopsCleanlyAtAnyMoment) {
  const Dataset data(options_);
  options_.workers = 4;
  for (int taken = 0; taken < 6; ++taken) {
    Batches batches(data, options_, 33, 1, 5);
    for (int i = 0; i < taken; ++i) EXPECT_EQ(batches.next().step, 5 + i);
    EXPECT_GE(batches.waited(), 0);
  }
}

TEST_F(BatchesTest, LargeStepsAreAddressable) {
  const Dataset data(options_);
  const int64_t step = 1'000'000'000;
  EXPECT_TRUE(same(take(data, 128, step - 1, 2)[1], take(data, 128, step, 1)[0]));
}

}  // namespace
}  // namespace diffuse
