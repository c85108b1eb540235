// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <filesystem>

#include "config/load.h"

namespace diffuse {
namespace {

using test::errors;
using test::kMinimal;
using test::load;

/// What load_config says about one override that is well formed but cannot work.
std::string refused(const std::string& set) { return errors(kMinimal, {set}); }

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "wanted: " << part << "\ngot: " << text;
}

TEST(Check, SizesThatTheNetworkCannotHalve) {
  EXPECT_EQ(refused("data.size=30"),
            "--set[1]:11: error: 'data.size': pictures of 30 x 30 cannot be halved 2 times, as the "
            "3 levels of "
            "model.channel_mult need: the size must be a multiple of 4; nearest: 28 or 32\n"
            "  data.size=30\n"
            "            ^~\n"
            "1 error. Nothing was started.");
  expect_has(refused("data.size=[30, 33]"), "nearest: height 28 or 32, width 32 or 36");
  expect_has(refused("data.size=[32, 2]"), "nearest: width 4");
  // The place is that of what was written; a default has none.
  expect_has(refused("model.channel_mult=[1,1,1,1,1,1,1]"),
             "c.yaml:1:1: error: 'data.size' (default): pictures of 32 x 32");
}

TEST(Check, ModelsThatCannotBeBuilt) {
  expect_has(refused("model.base_channels=48"),
             "a level has 48 channels, which model.norm_groups 32 does not divide");
  expect_has(refused("model.base_channels=48"), "use a model.base_channels of 32 or 64");
  expect_has(refused("model.head_channels=48"),
             "has 128 channels, which model.head_channels 48 does not divide");
  expect_has(
      errors(kMinimal, {"model.norm_groups=1", "model.base_channels=33", "model.head_channels=1"}),
      "model.base_channels must be even");
  expect_has(errors(kMinimal, {"model.class_conditional=true", "data.labels=none"}),
             "a class-conditional model needs classes");
  expect_has(refused("data.channels=2"), "2 channels are not supported; use 1 or 3");
}

TEST(Check, ValidationNeedsPicturesOfItsOwn) {
  expect_has(refused("validate.every_steps=10"),
             "use e.g. data.holdout: 0.1, or every_steps: 0 [no-held-out-pictures]");
  EXPECT_EQ(errors(kMinimal, {"validate.every_steps=10", "data.holdout=0.1"}), "");
}

TEST(Check, Training) {
  expect_has(
      errors(kMinimal, {"train.batch=8", "train.micro_batch=16"}),
      "--set[2]:19: error: 'train.micro_batch': a micro-batch of 16 is larger than train.batch 8");
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:999", "CPU", ""})
    expect_has(refused(std::string("train.device=\"") + device + "\""),
               "is no device; use auto, cpu, cuda or cuda:N");
  for (const char* device : {"auto", "cpu", "cuda", "cuda:3"})
    EXPECT_EQ(refused(std::string("train.device=") + device), "");
  expect_has(errors(kMinimal, {"sample.steps=2000"}),
             "2000 steps are more than the chain has (diffusion.steps 1000)");
}

TEST(Check, PointsNeedTheirOwnNetworkOnly) {
  const std::string points = "data: {source: points, points: swiss_roll}\n";
  const LoadedConfig plain = load(points);
  EXPECT_EQ(plain.warnings, std::vector<std::string>{});
  EXPECT_EQ(plain.config.data.shape(), (std::vector<int64_t>{2, 1, 1}));
  EXPECT_EQ(plain.config.data.points.name(), "swiss_roll");
  // Written out and read again, as checkpoints do.
  EXPECT_EQ(errors(write_config(plain.config, true)), "");
  expect_has(errors(points, {"mlp.hidden=33"}), "mlp.hidden must be even");
  expect_has(errors(points, {"data.points.noise=0"}), "'data.points.noise' must be >= 0.001");
  // What no picture network could be built for does not matter, but is not passed over in silence.
  const LoadedConfig mixed =
      load(points, {"data.size=30", "data.channels=2", "model.base_channels=48"});
  ASSERT_EQ(mixed.warnings.size(), 3u);
  expect_has(mixed.warnings[0], "'data.size': has no effect with data.source: points");
  expect_has(mixed.warnings[2], "'model.base_channels': has no effect");
  const LoadedConfig pictures = load(kMinimal, {"mlp.hidden=64", "data.points=gaussian"});
  ASSERT_EQ(pictures.warnings.size(), 2u);
  expect_has(pictures.warnings[0], "'data.points': has no effect with data.source: images");
  EXPECT_EQ(pictures.config.data.shape(), (std::vector<int64_t>{3, 32, 32}));
  expect_has(errors("data: {source: images}\n"), "'data.path' must be set");
}

TEST(Check, TheObjectivesFindingsHaveTheirPlace) {
  const std::string report =
      errors(kMinimal + "diffusion:\n  zero_terminal_snr: true\n  target: epsilon\n");
  EXPECT_TRUE(report.starts_with(
      "c.yaml:4:11: error: 'diffusion.target': target 'epsilon' cannot work at zero "
      "terminal SNR"))
      << report;
}

TEST(Check, Warnings) {
  const auto warnings = [](const std::vector<std::string>& set) {
    std::string out;
    for (const std::string& warning : load(kMinimal, set).warnings) out += warning + "\n";
    return out;
  };
  EXPECT_EQ(warnings({}), "");
  expect_has(warnings({"train.steps=100"}),
             "c.yaml:1:1: warning: 'optim.warmup_steps' (default): the warm-up of 500 steps");
  expect_has(warnings({"train.steps=1000", "optim.ema_power=0"}),
             "still holds 90 % of the random initial weights");
  EXPECT_EQ(warnings({"train.steps=1000", "optim.ema_power=0.75"}), "");
  expect_has(warnings({"diffusion.time_sampler=importance", "train.steps=300"}),
             "importance-warm-up");
  expect_has(warnings({"diffusion.steps=50", "diffusion.schedule.rescale=false"}),
             "[unrescaled-beta]");
  expect_has(warnings({"train.steps=1000", "optim.ema_power=0"}), "[ema-longer-than-run]");
  expect_has(warnings({"checkpoint.every_steps=0", "checkpoint.every_minutes=0"}),
             "checkpoints are off");
  expect_has(warnings({"checkpoint.keep_every_steps=7000"}),
             "7000 is no multiple of checkpoint.every_steps 5000");
  expect_has(warnings({"model.attention_at=[16, 10]"}),
             "no level has height 10, so it gets no attention; the heights are 32, 16, 8");
  expect_has(warnings({"diffusion.steps=50", "diffusion.schedule.rescale=false"}),
             "'diffusion.schedule");
}

TEST(Check, ShippedConfigsLoadWithoutAWord) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(DIFFUSE_SOURCE_DIR "/configs")) {
    ++files;
    const LoadedConfig loaded = load_config(entry.path(), {});
    EXPECT_EQ(loaded.warnings, std::vector<std::string>{}) << entry.path();
  }
  EXPECT_GE(files, 18u);
  const Config digits = load_config(DIFFUSE_SOURCE_DIR "/configs/digits.yaml", {}).config;
  EXPECT_EQ(digits.data.path, DIFFUSE_SOURCE_DIR "/data/digits");
  const Config ddpm = load_config(DIFFUSE_SOURCE_DIR "/configs/cifar10-ddpm.yaml", {}).config;
  EXPECT_EQ(ddpm.diffusion.variance.name(), "fixed_large");
  EXPECT_EQ(ddpm.train.steps, 800'000);
}

}  // namespace
}  // namespace diffuse
