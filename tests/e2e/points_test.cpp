// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <memory>
#include <sstream>

#include "e2e/runs.h"

// Runs on points in the plane: training, resuming, what `diffuse sample` draws and what it refuses.

namespace diffuse::test {
namespace {

Words point_words(const std::string& folder, const Words& more = {}) {
  Words words{"train",
              DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml",
              "--threads",
              "1",
              "--run-dir",
              folder};
  for (const char* set : {"mlp.hidden=16",
                          "mlp.layers=1",
                          "mlp.dropout=0.1",
                          "diffusion.steps=50",
                          "train.batch=16",
                          "train.steps=12",
                          "optim.warmup_steps=2",
                          "optim.decay=constant",
                          "log.every_steps=4",
                          "checkpoint.every_steps=3",
                          "checkpoint.keep_last=100",
                          "sample.every_steps=6",
                          "sample.steps=5"})
    words = with(words, {"--set", set});
  return with(words, more);
}

/// The text between two marks; "" when one is missing.
std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const size_t to = text.find(end, from + begin.size());
  return to == std::string::npos ? "" : text.substr(from + begin.size(), to - from - begin.size());
}

size_t count_of(const std::string& text, const std::string& what) {
  size_t out = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++out;
  return out;
}

class Points : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    const Outcome trained = diffuse(point_words(run()));
    ASSERT_EQ(trained.exit, 0) << trained.err;
    EXPECT_NE(trained.err.find("points of moons (two interleaving half circles)"),
              std::string::npos)
        << trained.err;
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::string run() { return *folder_ / "run"; }
  static std::string out(const std::string& name) { return *folder_ / name; }
  static Outcome sample(const Words& more) {
    return diffuse(with({"sample", run(), "--threads", "1", "--steps", "5"}, more));
  }

 private:
  static inline std::unique_ptr<TempFolder> folder_;
};

TEST_F(Points, TrainingLeavesPlotsOfItsSamples) {
  for (const int step : {6, 12}) {
    const std::string digits = std::to_string(step);
    const std::string svg =
        read_text(run() + "/samples/step-" + std::string(9 - digits.size(), '0') + digits + ".svg");
    // Those outside the window are counted, not drawn; the legend has one more.
    EXPECT_GT(count_of(svg, "<circle"), 1u) << step;
    EXPECT_NE(svg.find("512 points, target epsilon"), std::string::npos);
    EXPECT_NE(between(svg, "<metadata>", "</metadata>").find("step&quot;:" + std::to_string(step)),
              std::string::npos)
        << between(svg, "<metadata>", "</metadata>");
  }
  EXPECT_FALSE(fs::exists(run() + "/samples/step-000000012.png"));
  const Outcome inspected = diffuse({"inspect", run()});
  EXPECT_EQ(inspected.exit, 0) << inspected.err;
}

TEST_F(Points, AResumedRunIsBitExact) {
  const TempFolder other;
  const std::string second = other / "run";
  ASSERT_EQ(diffuse(point_words(second, {"--set", "train.steps=6"})).exit, 0);
  ASSERT_EQ(diffuse(point_words(second)).exit, 0);
  expect_same_checkpoint(run(), second, 12);
  // A run does not go on with other points.
  const Outcome changed =
      diffuse(point_words(second, {"--set", "train.steps=20", "--set", "data.points.noise=0.05"}));
  EXPECT_EQ(changed.exit, 6);
  EXPECT_NE(changed.err.find("data.points.noise: 0.04 -> 0.05"), std::string::npos) << changed.err;
}

TEST_F(Points, SampleDrawsPlotsAndNumbers) {
  const std::string to = out("all");
  const Outcome o = sample({"-n", "7", "--singles", "--trajectory", "3", "--out", to, "--field"});
  ASSERT_EQ(o.exit, 0) << o.err;
  EXPECT_EQ(o.out,
            to + "/samples.svg\n" + to + "/trajectory.svg\n" + to + "/field.svg\n" + to +
                "/points.csv\n");
  std::istringstream csv(read_text(to + "/points.csv"));
  std::string line;
  std::getline(csv, line);
  EXPECT_EQ(line, "x,y");
  int points = 0;
  for (; std::getline(csv, line); ++points) {
    double x = 0, y = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%lf,%lf", &x, &y), 2) << line;
    EXPECT_LE(std::max(std::abs(x), std::abs(y)), 1 + 1e-6);  // the last step ends clipped
  }
  EXPECT_EQ(points, 7);
  EXPECT_NE(read_text(to + "/samples.svg").find("7 points"), std::string::npos);
  const std::string trajectory = read_text(to + "/trajectory.svg");
  EXPECT_EQ(count_of(trajectory, "<clipPath"), 3u);
  EXPECT_NE(trajectory.find(">x_0<"), std::string::npos);
  const std::string field = read_text(to + "/field.svg");
  EXPECT_EQ(count_of(field, "<clipPath"), 6u);
  EXPECT_NE(field.find("true score"), std::string::npos);

  // The same seed, the same points, whatever the batch; and the steps that are asked for.
  const std::string again = out("again.svg");
  ASSERT_EQ(
      sample({"-n", "7", "--batch", "7", "--singles", "--field", "0,49", "--out", again}).exit, 0);
  EXPECT_EQ(read_text(out("again-points.csv")), read_text(to + "/points.csv"));
  const std::string two = read_text(out("again-field.svg"));
  EXPECT_EQ(count_of(two, "<clipPath"), 2u);
  EXPECT_NE(two.find("t = 49, SNR"), std::string::npos);
  const Outcome piped = sample({"-n", "7", "--out", "-"});
  EXPECT_EQ(piped.out, read_text(again));
}

TEST_F(Points, WhatMakesNoSenseIsRefused) {
  const auto refused = [&](const Words& words, const std::string& reason) {
    const Outcome o = sample(words);
    EXPECT_EQ(o.exit, 2) << testing::PrintToString(words);
    EXPECT_NE(o.err.find(reason), std::string::npos) << o.err;
  };
  refused({"--out", out("a.png")}, "points are drawn as a plot, in SVG");
  refused({"--grid", "2x2", "--zoom", "2", "--class", "1"},
          "--grid, --zoom, --class: for pictures");
  refused({"--field", "50", "--out", out("b.svg")}, "the chain's steps are 0 to 49, got 50");
  refused({"--field", "1,x"}, "--field must be steps of the chain like 0,100,400");
  refused({"--field", "--out", "-"}, "--out - writes one plot");
  EXPECT_FALSE(fs::exists(out("b.svg")));
}

TEST(PointConfigs, WorkInEveryCommand) {
  const TempFolder folder;
  const std::string config = DIFFUSE_SOURCE_DIR "/configs/moons-x0.yaml";
  const Outcome check = diffuse({"check", config});
  EXPECT_EQ(check.exit, 0) << check.err;
  EXPECT_NE(check.out.find("data    moons (two interleaving half circles), noise 0.04"),
            std::string::npos)
      << check.out;
  const auto json = nlohmann::json::parse(diffuse({"check", config, "--json"}).out);
  EXPECT_EQ(json["data"]["points"], "moons");
  EXPECT_EQ(diffuse({"explain", config}).exit, 0);
  const Outcome init = diffuse({"init", folder / "new", "--preset", "moons-x0"});
  EXPECT_EQ(init.exit, 0) << init.err;
  const std::string made = folder / "new/config.yaml";
  EXPECT_NE(init.err.find("diffuse train " + made), std::string::npos) << init.err;
  EXPECT_EQ(diffuse({"check", made}).exit, 0);
  EXPECT_EQ(diffuse({"init", folder / "other", "--preset", "moons-x0", "--data", "pictures"}).exit,
            2);
  // The parts of the objective that are not plain squares, too.
  for (const Words& objective :
       {Words{},
        Words{"--set", "diffusion.variance=learned_range", "--set", "diffusion.loss=hybrid"},
        Words{"--set",
              "diffusion.schedule=edm",
              "--set",
              "diffusion.target=edm",
              "--set",
              "diffusion.learned_weight=true"}}) {
    const Outcome dry = diffuse(
        with({"train", made, "--dry-run", "--threads", "1", "--set", "train.batch=8"}, objective));
    EXPECT_EQ(dry.exit, 0) << dry.err;
    EXPECT_NE(dry.out.find("1 step of 8 points"), std::string::npos) << dry.out;
    EXPECT_EQ(dry.out.find("nan"), std::string::npos) << dry.out;
  }
}

}  // namespace
}  // namespace diffuse::test
