// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "e2e/runs.h"

// `diffuse bench`: that it measures what it says; never how fast that is.

namespace diffuse::test {
namespace {

using Json = nlohmann::json;

const std::string kDigits = DIFFUSE_SOURCE_DIR "/configs/digits.yaml";
const Words kSmall{
    "--set", "model.base_channels=8", "--set", "model.norm_groups=4", "--set", "train.batch=4"};

TEST(Bench, TrainAndSample) {
  for (const char* fused : {"true", "false"}) {
    const Outcome train = diffuse(with({"bench",
                                        "train",
                                        kDigits,
                                        "--blocks",
                                        "2",
                                        "--steps",
                                        "1",
                                        "--format",
                                        "json",
                                        "--set",
                                        std::string("runtime.fused=") + fused},
                                       kSmall));
    ASSERT_EQ(train.exit, 0) << train.err;
    const Json got = Json::parse(train.out);
    EXPECT_EQ(got["fused"], std::string(fused) == "true");
    EXPECT_EQ(got["batch"], 4);
    EXPECT_EQ(got["wall_s"].size(), 2u);
    EXPECT_GT(got["parameters"].get<int64_t>(), 1000);
    // Twice for a multiply-accumulate, three times for a training step.
    EXPECT_NEAR(got["gflop_per_second"].get<double>(),
                6e-9 * got["macs"].get<double>() * got["images_per_second"]["median"].get<double>(),
                1e-12 * got["gflop_per_second"].get<double>());
    const double rate = got["images_per_second"]["median"];
    EXPECT_LE(got["images_per_second"]["min"].get<double>(), rate);
    EXPECT_GE(got["images_per_second"]["max"].get<double>(), rate);
  }
  const Outcome sample = diffuse(with(
      {"bench", "sample", kDigits, "--blocks", "1", "-n", "3", "--set", "sample.steps=2"}, kSmall));
  EXPECT_EQ(sample.exit, 0) << sample.err;
  EXPECT_NE(sample.out.find("images/s"), std::string::npos) << sample.out;
}

TEST(Bench, ABlockForEachLineOfStdin) {
  const Outcome got = run_program(
      {"bash",
       "-c",
       "printf '\\n\\n' | " DIFFUSE_BINARY_DIR "/diffuse bench train " + kDigits +
           " --steps 1 --wait --set model.base_channels=8 --set model.norm_groups=4 --set "
           "train.batch=2"});
  ASSERT_EQ(got.exit, 0) << got.err;
  std::istringstream lines(got.out);
  std::vector<Json> all;
  for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line));
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0]["what"], "train");
  for (size_t i = 1; i < all.size(); ++i) EXPECT_GT(all[i]["images_per_second"].get<double>(), 0);
}

TEST(Bench, Data) {
  const Outcome got = diffuse({"bench", "data", kDigits, "--format", "json"});
  ASSERT_EQ(got.exit, 0) << got.err;
  const Json data = Json::parse(got.out);
  EXPECT_EQ(data["pictures"], 1797);
  EXPECT_EQ(data["decoded"], 1797);
  EXPECT_EQ(data["cached"], true);
  EXPECT_GT(data["decode_images_per_second"]["median"].get<double>(), 0);
}

TEST(Bench, DecodesTheSamePixelsOnAnyNumberOfThreads) {
  std::vector<Json> sums;
  for (const char* workers : {"1", "2", "5"}) {
    const Outcome got = run_program({"bash",
                                     "-c",
                                     "echo | " DIFFUSE_BINARY_DIR "/diffuse bench data " + kDigits +
                                         " --wait --set data.workers=" + workers});
    ASSERT_EQ(got.exit, 0) << got.err;
    std::istringstream lines(got.out);
    std::string about, block;
    ASSERT_TRUE(std::getline(lines, about) && std::getline(lines, block)) << got.out;
    sums.push_back(Json::parse(about)["pixel_sum"]);
    EXPECT_GT(Json::parse(block)["images_per_second"].get<double>(), 0);
  }
  EXPECT_GT(sums[0], 0);
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_EQ(sums[0], sums[2]);
}

TEST(Bench, PointsHaveNoPictures) {
  for (const char* what : {"sample", "kernels", "data"}) {
    const Outcome got = diffuse({"bench", what, DIFFUSE_SOURCE_DIR "/configs/moons-x0.yaml"});
    EXPECT_EQ(got.exit, 2) << what;
    EXPECT_NE(got.err.find("points"), std::string::npos) << got.err;
  }
}

}  // namespace
}  // namespace diffuse::test
