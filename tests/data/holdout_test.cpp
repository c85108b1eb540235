// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "data/batches.h"
#include "data/dataset.h"
#include "data/support.h"

// data.holdout: pictures that training never sees.

namespace diffuse {
namespace {

std::set<std::string> held_out(const DataScan& scan) {
  std::set<std::string> out;
  for (auto it = scan.entries.end() - scan.held_out; it != scan.entries.end(); ++it)
    out.insert(it->path);
  return out;
}

class HoldoutTest : public testing::Test {
 protected:
  HoldoutTest() {
    options_.path = folder_.path();
    options_.size = {4, 4};
    options_.workers = 0;
    options_.holdout = 0.3;
    add(0, kPictures);
  }
  void add(int first, int count) {
    for (int i = first; i < first + count; ++i)
      write_tagged(
          folder_, "c/" + std::to_string(1000 + i) + ".png", 4, 4, static_cast<uint8_t>(i));
  }
  DataScan scan() const { return scan_folder(options_, false); }

  static constexpr int kPictures = 100;
  PictureFolder folder_;
  DataOptions options_;
};

TEST_F(HoldoutTest, IsAShareThatNewPicturesDoNotShuffle) {
  const DataScan before = scan();
  // A binomial count: within five deviations.
  EXPECT_NEAR(static_cast<double>(before.held_out), 30, 5 * std::sqrt(100 * 0.3 * 0.7));
  EXPECT_TRUE(std::is_sorted(before.entries.begin(),
                             before.entries.end() - before.held_out,
                             [](const auto& a, const auto& b) { return a.path < b.path; }));
  EXPECT_TRUE(std::is_sorted(before.entries.end() - before.held_out,
                             before.entries.end(),
                             [](const auto& a, const auto& b) { return a.key < b.key; }));
  const std::set<std::string> chosen = held_out(before);
  add(kPictures, 50);
  const DataScan after = scan();
  const std::set<std::string> more = held_out(after);
  EXPECT_TRUE(std::includes(more.begin(), more.end(), chosen.begin(), chosen.end()));
  for (const DataEntry& e : before.entries)
    EXPECT_EQ(chosen.contains(e.path), more.contains(e.path)) << e.path;
  EXPECT_NE(before.held_out_fingerprint, after.held_out_fingerprint);
  // A larger share holds out the same ones and others.
  options_.holdout = 0.6;
  const std::set<std::string> larger = held_out(scan());
  EXPECT_TRUE(std::includes(larger.begin(), larger.end(), more.begin(), more.end()));
  EXPECT_GT(larger.size(), more.size());
}

TEST_F(HoldoutTest, WithoutItAllArePicturesForTraining) {
  options_.holdout = 0;
  const DataScan all = scan();
  EXPECT_EQ(all.held_out, 0);
  options_.holdout = 0.3;
  const DataScan split = scan();
  EXPECT_EQ(all.entries.size(), split.entries.size());
  EXPECT_EQ(all.fingerprint, split.fingerprint);  // of the same pictures
  EXPECT_EQ(all.label_names, split.label_names);
}

TEST_F(HoldoutTest, TrainingNeverSeesThem) {
  for (const CachePolicy cache : {CachePolicy::ram, CachePolicy::none}) {
    options_.cache = cache;
    const Dataset data(options_);
    EXPECT_EQ(data.size() + data.held_out(), kPictures);
    EXPECT_EQ(data.usable(), kPictures);
    EXPECT_GT(data.held_out(), 0);
    std::set<uint8_t> tags;  // the third channel of a picture tells which it is
    Batches batches(data, options_, data.size(), 3, 0);
    for (int epoch = 0; epoch < 2; ++epoch) {
      const Batch batch = batches.next();
      for (int64_t i = 0; i < data.size(); ++i)
        tags.insert(batch.pixels[static_cast<size_t>(i * 48 + 32)]);
    }
    EXPECT_EQ(static_cast<int64_t>(tags.size()), data.size());
    std::vector<uint8_t> image(48);
    for (int64_t i = data.size(); i < kPictures; ++i) {
      ASSERT_TRUE(data.fetch(i, false, 0.5, 0.5, image.data()));
      EXPECT_FALSE(tags.contains(image[2])) << int{image[2]};
    }
  }
}

TEST_F(HoldoutTest, NoneOnOneSideIsAnError) {
  const auto why = [&](double share) {
    options_.holdout = share;
    try {
      scan();
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::data);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(why(1e-9).find("is none at all; use a larger share"), std::string::npos) << why(1e-9);
  EXPECT_NE(why(1 - 1e-12).find("leaves none for training"), std::string::npos) << why(1 - 1e-12);
}

}  // namespace
}  // namespace diffuse
