// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <map>
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
                                        "--json",
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

TEST(Bench, KernelsBesideLibTorch) {
  for (const char* precision : {"fp32", "bf16"}) {
    const Outcome ran = diffuse(with({"bench",
                                      "kernels",
                                      kDigits,
                                      "--blocks",
                                      "1",
                                      "--json",
                                      "--set",
                                      std::string("train.precision=") + precision},
                                     kSmall));
    ASSERT_EQ(ran.exit, 0) << ran.err;
    const Json got = Json::parse(ran.out);
    std::map<std::string, int> rows;  // by their first word
    std::string before;
    for (const Json& row : got["kernels_us"]) {
      const auto name = row["name"].get<std::string>();
      const bool backward = name == "  backward";
      if (!backward) before = name.substr(0, name.find(' '));
      ++rows[before + (backward ? " backward" : "")];
      EXPECT_GT(row["ours"].get<double>(), 0) << name;
      EXPECT_GT(row["libtorch"].get<double>(), 0) << name;
      EXPECT_NEAR(row["of_copy"].get<double>() * got["copy_gb_s"].get<double>(),
                  row["gb_s"].get<double>(),
                  1e-12 * row["gb_s"].get<double>());
    }
    // Two levels: widths 8 and 16, with attention (and the middle) at the second.
    std::map<std::string, int> want{{"norm+silu", 5},
                                    {"norm+silu backward", 5},
                                    {"attention", 1},
                                    {"attention backward", 1},
                                    {"upsampled", 1},
                                    {"upsampled backward", 1},
                                    {"clip+AdamW+EMA", 1}};
    if (got["precision"] == "fp32") want["conv"] = want["conv backward"] = 2;
    EXPECT_EQ(rows, want);
  }
}

TEST(Bench, ABlockForEachLineOfStdin) {
  const Outcome got = run_program(
      {"bash",
       "-c",
       "printf '\\n\\n' | " + kProgram + " bench train " + kDigits +
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
                                     "echo | " + kProgram + " bench data " + kDigits +
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

// A block that a signal has cut short is no measurement.
TEST(Bench, ASignalEndsItWithoutAResult) {
  for (const char* what : {"train --steps 1000000", "sample -n 4096", "kernels", "data"}) {
    const Outcome got = run_program({"bash",
                                     "-c",
                                     "timeout --preserve-status -s TERM 2 " + kProgram + " bench " +
                                         std::string(what) + " --blocks 1000 " + kDigits});
    EXPECT_EQ(got.exit, 75) << what;
    EXPECT_EQ(got.out, "") << what;
    EXPECT_NE(got.err.find("stopped"), std::string::npos) << got.err;
  }
}

TEST(Bench, WhatCannotBePrintedIsAnError) {
  const Outcome got = run_program(
      {"bash", "-c", "echo | " + kProgram + " bench data " + kDigits + " --wait >/dev/full"});
  EXPECT_EQ(got.exit, 9) << got.err;
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
