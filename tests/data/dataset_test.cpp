// SPDX-License-Identifier: MIT
#include "data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <stdexcept>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "data/parallel.h"
#include "data/support.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// A folder of pictures whose headers are fine, number 3 of which is cut off in its pixels.
class DatasetTest : public testing::Test {
 protected:
  DatasetTest() {
    log::set_level(log::Level::off);
    options_.path = folder_.path();
    options_.size = {8};
    options_.workers = 2;
  }
  ~DatasetTest() override { log::set_level(log::Level::info); }

  void add_pictures(int count, bool with_bad) {
    for (int i = 0; i < count; ++i) {
      const std::string name =
          std::string(1, 'c') + std::to_string(i % 2) + "/" + std::to_string(100 + i) + ".png";
      auto file = encode_png(tagged_image(10 + i % 3, 12 + i % 4, static_cast<uint8_t>(i)));
      if (with_bad && i == 3) file.resize(file.size() - 20);
      folder_.write(name, file);
    }
  }

  std::vector<uint8_t> fetch(
      const Dataset& data, int64_t i, bool flip = false, double y = 0.5, double x = 0.5) {
    std::vector<uint8_t> out(
        static_cast<size_t>(options_.height() * options_.width() * options_.channels));
    EXPECT_TRUE(data.fetch(i, flip, y, x, out.data()));
    return out;
  }

  PictureFolder folder_;
  DataOptions options_;
};

TEST_F(DatasetTest, CachedAndStreamedAreEqual) {
  add_pictures(12, true);
  options_.max_bad_fraction = 0.1;
  for (const Crop crop : {Crop::center, Crop::random, Crop::none})
    for (const int64_t channels : {1, 3}) {
      options_.crop = crop;
      options_.channels = channels;
      options_.cache = CachePolicy::ram;
      const Dataset ram(options_);
      options_.cache = CachePolicy::none;
      const Dataset streamed(options_);
      EXPECT_TRUE(ram.cached());
      EXPECT_FALSE(streamed.cached());
      ASSERT_EQ(ram.size(), 12);
      ASSERT_EQ(streamed.size(), 12);
      EXPECT_EQ(ram.usable(), 11);
      EXPECT_EQ(streamed.usable(), 12);  // nobody has looked yet
      for (int64_t i = 0; i < 12; ++i) {
        EXPECT_EQ(ram.label(i), streamed.label(i));
        std::vector<uint8_t> a(64 * static_cast<size_t>(channels)), b(a);
        const bool good =
            ram.fetch(i, i % 2 == 0, 0.1 * static_cast<double>(i % 10), 0.7, a.data());
        EXPECT_EQ(streamed.fetch(i, i % 2 == 0, 0.1 * static_cast<double>(i % 10), 0.7, b.data()),
                  good);
        EXPECT_EQ(good, ram.scan().entries[static_cast<size_t>(i)].path != "c1/103.png");
        EXPECT_EQ(a, b);
      }
      EXPECT_EQ(streamed.usable(), 11);
      ASSERT_EQ(ram.bad().size(), 1u);
      ASSERT_EQ(streamed.bad().size(), 1u);
      EXPECT_EQ(ram.bad()[0].path, "c1/103.png");
      EXPECT_EQ(ram.bad()[0].reason, streamed.bad()[0].reason);
      EXPECT_TRUE(ram.bad()[0].picture);
    }
}

TEST_F(DatasetTest, FlipMirrorsAndCropPlacesTheWindow) {
  folder_.write("a.png", encode_png(tagged_image(8, 14, 5)));
  options_.crop = Crop::random;
  for (const CachePolicy cache : {CachePolicy::ram, CachePolicy::none}) {
    options_.cache = cache;
    const Dataset data(options_);
    const Image whole = tagged_image(8, 14, 5);
    EXPECT_EQ(fetch(data, 0, false, 0, 0), crop_image(whole, 0, 0, 8, 8).data);
    EXPECT_EQ(fetch(data, 0, false, 0.5, 0.5), crop_image(whole, 0, 3, 8, 8).data);
    EXPECT_EQ(fetch(data, 0, false, 0.999999, 0.999999), crop_image(whole, 0, 6, 8, 8).data);
    const auto straight = fetch(data, 0), mirrored = fetch(data, 0, true);
    for (size_t y = 0; y < 8; ++y)
      for (size_t x = 0; x < 8; ++x)
        for (size_t c = 0; c < 3; ++c)
          ASSERT_EQ(mirrored[(y * 8 + x) * 3 + c], straight[(y * 8 + 7 - x) * 3 + c]);
  }
}

TEST_F(DatasetTest, RightSizedPicturesAreUntouched) {
  folder_.write("a.png", encode_png(tagged_image(6, 9, 77)));
  options_.size = {6, 9};
  for (const Crop crop : {Crop::center, Crop::random, Crop::none}) {
    options_.crop = crop;
    EXPECT_EQ(fetch(Dataset(options_), 0), tagged_image(6, 9, 77).data);
  }
}

TEST_F(DatasetTest, AutomaticCacheFollowsTheLimit) {
  add_pictures(4, false);
  for (const Crop crop : {Crop::center, Crop::random}) {
    options_.crop = crop;
    options_.size = {8};
    EXPECT_TRUE(Dataset(options_).cached());
    options_.cache_mb = 1;
    options_.size = {256};  // 4 * 192 KiB and, not square, more for random crops
    EXPECT_TRUE(Dataset(options_).cached());
    options_.size = {320};  // 4 * 300 KiB
    EXPECT_FALSE(Dataset(options_).cached());
  }
  // A random crop's pictures can be larger than the images: known only once decoded.
  folder_.write("c0/wide.png", encode_png(tagged_image(8, 80, 1)));
  options_.size = {200};
  options_.crop = Crop::center;
  EXPECT_TRUE(Dataset(options_).cached());
  options_.crop = Crop::random;
  const Dataset data(options_);
  EXPECT_FALSE(data.cached());
  EXPECT_EQ(data.size(), 5);
  EXPECT_EQ(fetch(data, 0).size(), 120000u);
}

TEST_F(DatasetTest, TooManyBadPicturesStopWithTheFirstFive) {
  add_pictures(20, false);
  for (int i = 0; i < 7; ++i) folder_.write("c0/bad" + std::to_string(i) + ".png", "text");
  folder_.write("README", "not counted");
  options_.max_bad_fraction = 6.5 / 27;
  const std::string why = data_error([&] { Dataset data(options_); });
  EXPECT_NE(why.find("7 of 27"), std::string::npos) << why;
  EXPECT_NE(why.find("\n  c0/bad4.png: not a picture"), std::string::npos) << why;
  EXPECT_EQ(why.find("c0/bad5.png"), std::string::npos) << why;
  EXPECT_EQ(why.find("README"), std::string::npos) << why;
  EXPECT_NE(why.find("data.max_bad_fraction"), std::string::npos) << why;
  options_.max_bad_fraction = 7.0 / 27;
  EXPECT_EQ(Dataset(options_).bad().size(), 8u);
}

TEST_F(DatasetTest, TooManyBadPicturesInStreaming) {
  add_pictures(12, true);
  options_.cache = CachePolicy::none;
  const Dataset data(options_);
  std::vector<uint8_t> out(192);
  const std::string why = data_error([&] {
    for (int64_t i = 0; i < data.size(); ++i) data.fetch(i, false, 0, 0, out.data());
  });
  EXPECT_NE(why.find("1 of 12"), std::string::npos) << why;
  EXPECT_NE(why.find("c1/103.png"), std::string::npos) << why;
  options_.cache = CachePolicy::ram;
  EXPECT_EQ(data_error([&] { Dataset cached(options_); }), why);
}

TEST_F(DatasetTest, FailStopsAtTheFirstBadPicture) {
  add_pictures(12, true);
  folder_.write("c1/110.png", read_all(kFixtures / "short-data.png"));
  options_.on_bad_image = BadImage::fail;
  options_.max_bad_fraction = 1;
  for (const int64_t workers : {0, 1, 8}) {
    options_.workers = workers;
    const std::string why = data_error([&] { Dataset data(options_); });
    EXPECT_NE(why.find("c1/103.png: truncated PNG"), std::string::npos) << why;
    EXPECT_NE(why.find("data.on_bad_image"), std::string::npos) << why;
  }
  options_.cache = CachePolicy::none;
  const Dataset data(options_);
  std::vector<uint8_t> out(192);
  const std::string why = data_error([&] {
    for (int64_t i = 0; i < data.size(); ++i) data.fetch(i, false, 0, 0, out.data());
  });
  EXPECT_NE(why.find("c1/103.png: truncated PNG"), std::string::npos) << why;
}

TEST_F(DatasetTest, FailIsAboutPicturesOnly) {
  add_pictures(5, false);
  folder_.write("LICENSE.txt", "of the pictures");
  options_.on_bad_image = BadImage::fail;
  const Dataset data(options_);
  EXPECT_EQ(data.usable(), 5);
}

TEST_F(DatasetTest, AFileThatVanishesIsBad) {
  add_pictures(3, false);
  options_.cache = CachePolicy::none;
  options_.max_bad_fraction = 1;
  const Dataset data(options_);
  fs::remove(folder_ / data.scan().entries[1].path);
  std::vector<uint8_t> out(192);
  EXPECT_FALSE(data.fetch(1, false, 0, 0, out.data()));
  EXPECT_FALSE(data.fetch(1, false, 0, 0, out.data()));
  ASSERT_EQ(data.bad().size(), 1u);
  EXPECT_NE(data.bad()[0].reason.find("No such file"), std::string::npos);
}

TEST_F(DatasetTest, NothingUsableIsAnError) {
  folder_.add_fixture("short-data.png", "a.png");
  options_.max_bad_fraction = 1;
  EXPECT_NE(data_error([&] { Dataset data(options_); }).find("no picture in"), std::string::npos);
}

TEST_F(DatasetTest, ProgressEndsWithTheTotalAndMayStop) {
  add_pictures(5, false);
  int64_t last = 0, total = 0;
  const Dataset data(options_, [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  });
  EXPECT_EQ(last, 5);
  EXPECT_EQ(total, 5);
}

// Every fixture in one folder: what Pillow's pixels are known of is used, the others are named with
// their reasons, nothing is lost or stops the rest.
TEST_F(DatasetTest, EachOddFileIsUsedOrNamedWithItsReason) {
  std::set<std::string> good;
  for (const nlohmann::json& test : manifest()["decode"]) good.insert(test["file"]);
  for (const std::string& name : good) folder_.add_fixture(name, name);
  for (const nlohmann::json& test : manifest()["bad"])
    folder_.add_fixture(test["file"], test["file"]);
  ASSERT_GE(good.size() + manifest()["bad"].size(), 75u);
  options_.max_bad_fraction = 1;
  options_.cache = CachePolicy::ram;
  const Dataset data(options_);
  EXPECT_EQ(data.usable(), static_cast<int64_t>(good.size()));
  std::map<std::string, std::string> reasons;
  for (const SkippedFile& skipped : data.bad()) reasons[skipped.path] = skipped.reason;
  EXPECT_EQ(reasons.size(), manifest()["bad"].size());
  for (const nlohmann::json& test : manifest()["bad"])
    EXPECT_NE(reasons[test["file"]].find(test["reason"]), std::string::npos)
        << test["file"] << ": " << reasons[test["file"]];
}

TEST(ParallelFor, RethrowsTheLowestFailure) {
  for (const int64_t workers : {0, 1, 3, 16})
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<int> calls(200);
      std::string what;
      try {
        parallel_for(200, workers, [&](int64_t i) {
          ++calls[static_cast<size_t>(i)];
          if (i % 50 == 37) throw std::runtime_error(std::to_string(i));
        });
      } catch (const std::runtime_error& e) {
        what = e.what();
      }
      EXPECT_EQ(what, "37");
      for (int i = 0; i <= 37; ++i) EXPECT_EQ(calls[static_cast<size_t>(i)], 1);
    }
}

TEST(ParallelFor, ProgressIsToldBeforeTheEnd) {
  for (const int64_t workers : {0, 2}) {
    std::atomic<bool> told = false;
    std::vector<int64_t> done;
    parallel_for(
        3,
        workers,
        [&](int64_t i) {
          // In threads the first piece lasts until there was a word; alone, longer than a tenth of
          // a second, after which there is one.
          if (i > 0) return;
          if (workers == 0) std::this_thread::sleep_for(std::chrono::milliseconds(120));
          while (workers > 0 && !told) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        },
        [&](int64_t now, int64_t count) {
          EXPECT_EQ(count, 3);
          done.push_back(now);
          told = true;
        });
    ASSERT_GE(done.size(), 2u) << workers;
    EXPECT_LT(done.front(), 3) << workers;
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(done.back(), 3);
  }
}

TEST(ParallelFor, ThrowingProgressStops) {
  std::atomic<int64_t> calls = 0;
  EXPECT_THROW(parallel_for(
                   100000,
                   2,
                   [&](int64_t) {
                     ++calls;
                     std::this_thread::sleep_for(std::chrono::milliseconds(1));
                   },
                   [](int64_t, int64_t) { throw std::runtime_error("stop"); }),
               std::runtime_error);
  EXPECT_LT(calls, 100000);
}

}  // namespace
}  // namespace diffuse
