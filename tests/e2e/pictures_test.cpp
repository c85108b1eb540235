// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "data/image.h"
#include "e2e/runs.h"

// What is on the pictures that `diffuse sample` and a training run draw. PNG files are compared by
// their pixels: their text chunks differ with the command.

namespace diffuse::test {
namespace {

constexpr int64_t kSize = 8;  // of the digits
constexpr int64_t kGap = 2;   // of a grid

Image decode(const fs::path& path) {
  const std::string bytes = read_text(path);
  return decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                      {.channels = 1});
}

/// The largest difference of two pixels, in grey levels of 256; 256 for other sizes.
int difference(const Image& a, const Image& b) {
  if (a.height != b.height || a.width != b.width || a.data.empty()) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.data.size(); ++i)
    largest = std::max(largest, std::abs(int{a.data[i]} - int{b.data[i]}));
  return largest;
}

Image cell(const Image& grid, int64_t row, int64_t column) {
  return crop_image(
      grid, kGap + row * (kSize + kGap), kGap + column * (kSize + kGap), kSize, kSize);
}

/// The final weights are not scaled down, and the learning rate is high: a few steps already give a
/// network whose output matters, and raw weights far from averaged ones.
const Words kLively{"--set", "model.zero_init=false", "--set", "optim.lr=0.01"};

/// One hardly trained model for all tests.
class Pictures : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    const Outcome trained = diffuse(train_words(*folder_ / "run", kLively));
    ASSERT_EQ(trained.exit, 0) << trained.err;
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::string run() { return *folder_ / "run"; }

  /// The folder that `diffuse sample --steps 10 --singles` and `more` wrote.
  static fs::path sample(const Words& more) {
    const fs::path out = *folder_ / ("out-" + std::to_string(++calls_));
    const Outcome o =
        diffuse(with({"sample", run(), "--steps", "10", "--singles", "--out", out.string()}, more));
    EXPECT_EQ(o.exit, 0) << o.err;
    return out;
  }

  static Image picture(const fs::path& out, int i) {
    return decode(out / ("images/00000" + std::to_string(i) + ".png"));
  }

 private:
  static inline std::unique_ptr<TempFolder> folder_;
  static inline int calls_ = 0;
};

TEST_F(Pictures, DependOnSeedAndIndexAlone) {
  const fs::path all = sample({"-n", "7", "--threads", "1"});
  for (int i = 0; i < 7; ++i)
    for (int j = 0; j < i; ++j)
      EXPECT_GT(difference(picture(all, i), picture(all, j)), 32) << i << " and " << j;

  // Sums in another order move a value by far less than a level: at most to the next one.
  const struct {
    int count;
    Words words;
  } others[] = {{7, {"--threads", "1", "--batch", "1"}},
                {7, {"--threads", "2", "--batch", "3"}},
                {5, {"--threads", "1", "--batch", "2"}},
                {2, {"--threads", "2"}}};
  for (const auto& other : others) {
    SCOPED_TRACE(testing::PrintToString(other.words));
    const fs::path out = sample(with({"-n", std::to_string(other.count)}, other.words));
    for (int i = 0; i < other.count; ++i)
      EXPECT_LE(difference(picture(all, i), picture(out, i)), 1) << i;
    EXPECT_FALSE(fs::exists(out / ("images/00000" + std::to_string(other.count) + ".png")));
  }

  const fs::path other_seed = sample({"-n", "2", "--threads", "1", "--seed", "1"});
  for (const int i : {0, 1})
    for (int j = 0; j < 7; ++j)
      EXPECT_GT(difference(picture(other_seed, i), picture(all, j)), 32) << i << " and " << j;
}

TEST_F(Pictures, FollowTheOptions) {
  const auto draw = [](const Words& more) {
    return decode(sample(with({"-n", "4", "--threads", "1"}, more)) / "grid.png");
  };
  // The config's own choices.
  const Image plain = draw({});
  EXPECT_EQ(difference(plain, draw({"--weights", "ema"})), 0);
  EXPECT_EQ(difference(plain, draw({"--variance", "fixed_small"})), 0);
  EXPECT_EQ(difference(plain, draw({"--clip"})), 0);
  // Each other choice changes the same noise into other pictures.
  EXPECT_GT(difference(plain, draw({"--weights", "raw"})), 8);
  EXPECT_GT(difference(plain, draw({"--variance", "fixed_large"})), 8);
  EXPECT_GT(difference(plain, draw({"--no-clip"})), 8);
  EXPECT_EQ(difference(enlarge(plain, 3), draw({"--zoom", "3"})), 0);
}

TEST_F(Pictures, TrajectoryEndsWithThePicture) {
  const fs::path out = sample({"-n", "3", "--batch", "2", "--threads", "1", "--trajectory", "4"});
  const Image grid = decode(out / "trajectory.png");
  ASSERT_EQ(grid.width, kGap + 4 * (kSize + kGap));
  ASSERT_EQ(grid.height, kGap + 3 * 2 * (kSize + kGap));
  for (int i = 0; i < 3; ++i) {
    // Above x_t, below the estimate of x_0; the last step adds no noise and ends in its estimate.
    EXPECT_EQ(difference(cell(grid, 2 * i, 3), picture(out, i)), 0) << i;
    EXPECT_LE(difference(cell(grid, 2 * i + 1, 3), picture(out, i)), 1) << i;
    // Until then there is noise.
    EXPECT_GT(difference(cell(grid, 2 * i, 0), picture(out, i)), 8) << i;
    EXPECT_GT(difference(cell(grid, 2 * i, 0), cell(grid, 2 * i, 1)), 8) << i;
  }
  // The grid of the pictures: two columns for three.
  const Image pictures = decode(out / "grid.png");
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(difference(cell(pictures, i / 2, i % 2), picture(out, i)), 0) << i;
}

TEST_F(Pictures, ATrainingGridIsTheSampleOfItsCheckpoint) {
  const Image grid = decode(run() + "/samples/step-000000012.png");
  const fs::path out = sample({"--grid", "2x3", "--threads", "1"});
  EXPECT_LE(difference(grid, decode(out / "grid.png")), 1);
}

TEST(TrainingGrids, AreDrawnFromTheSameNoise) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // Twelve updates of 1e-12 each: far below the rounding of the weights.
  const Outcome o = diffuse(train_words(run, with(kLively, {"--set", "optim.lr=1e-12"})));
  ASSERT_EQ(o.exit, 0) << o.err;
  const Image early = decode(run + "/samples/step-000000006.png");
  const Image late = decode(run + "/samples/step-000000012.png");
  EXPECT_LE(difference(early, late), 1);
  EXPECT_GT(difference(cell(late, 0, 0), cell(late, 0, 1)), 32);  // noise it is
}

TEST(Classes, ChangeThePictureWhateverTheBatch) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome trained =
      diffuse(train_words(run, with(kLively, {"--set", "model.class_conditional=true"})));
  ASSERT_EQ(trained.exit, 0) << trained.err;
  const auto sample = [&](const std::string& label, const std::string& batch) {
    const fs::path out = folder / ("class-" + label + "-" + batch + ".png");
    const Outcome o = diffuse({"sample",
                               run,
                               "--threads",
                               "1",
                               "--steps",
                               "5",
                               "--grid",
                               "1x3",
                               "--batch",
                               batch,
                               "--class",
                               label,
                               "--out",
                               out.string()});
    EXPECT_EQ(o.exit, 0) << o.err;
    return decode(out);
  };
  const Image zero = sample("0", "3"), one = sample("1", "3"), two = sample("2", "3");
  const Image in_turn = sample("all", "2");
  EXPECT_GT(difference(zero, one), 8);
  EXPECT_LE(difference(cell(in_turn, 0, 0), cell(zero, 0, 0)), 1);
  EXPECT_LE(difference(cell(in_turn, 0, 1), cell(one, 0, 1)), 1);
  EXPECT_LE(difference(cell(in_turn, 0, 2), cell(two, 0, 2)), 1);
  EXPECT_GT(difference(cell(one, 0, 2), cell(two, 0, 2)), 1);
  const Outcome bad = diffuse({"sample", run, "--class", "10", "--out", folder / "z.png"});
  EXPECT_EQ(bad.exit, 2);
  EXPECT_NE(bad.err.find("--class must be one of 0, 1"), std::string::npos) << bad.err;
}

}  // namespace
}  // namespace diffuse::test
