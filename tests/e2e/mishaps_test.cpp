// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "e2e/runs.h"

// What happens to a run when the world around it changes.

namespace diffuse::test {
namespace {

TEST(Mishaps, PicturesThatVanishCostNoTraining) {
  const TempFolder folder;
  const std::string run = folder / "run", data = folder / "data";
  fs::copy(DIFFUSE_SOURCE_DIR "/data/digits/3", data);
  Background program(train_words(run,
                                 {"--set",
                                  "data.path=" + data,
                                  "--set",
                                  "data.labels=none",
                                  "--set",
                                  "data.cache=none",
                                  "--set",
                                  "train.steps=1000000",
                                  "--set",
                                  "checkpoint.every_steps=1000000",
                                  "--set",
                                  "sample.every_steps=0"}));
  ASSERT_TRUE(comes_true([&] { return logged_lines(run) >= 2; }));
  fs::rename(data, folder / "gone");
  ASSERT_TRUE(comes_true([&] {
    return nlohmann::json::parse(read_text(run + "/status.json"), nullptr, false)
               .value("state", "") == "failed";
  }));
  EXPECT_EQ(program.finish(0), 5);
  const std::vector<int64_t> saved = saved_steps(run);
  ASSERT_EQ(saved.size(), 1u);
  EXPECT_GE(saved[0], 8);
  EXPECT_NE(read_text(run + "/data_report.jsonl"), "");
}

TEST(Mishaps, AMovedRunFolderIsNoticed) {
  const TempFolder folder;
  const std::string run = folder / "run";
  Background program(
      train_words(run, {"--set", "train.steps=1000000", "--set", "sample.every_steps=0"}));
  ASSERT_TRUE(appears(checkpoint(run, 3)));
  fs::rename(run, folder / "moved");
  EXPECT_EQ(program.finish(0), 4);
  EXPECT_FALSE(fs::exists(run));
  EXPECT_TRUE(fs::exists(checkpoint(folder / "moved", 3)));
}

TEST(Mishaps, AGridThatWasNotDrawnIsMadeUpFor) {
  const TempFolder folder;
  const std::string run = folder / "run", grid = run + "/samples/step-000000006.png";
  ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=6"})).exit, 0);
  const std::string drawn = read_text(grid);
  fs::remove(grid);
  ASSERT_EQ(diffuse(train_words(run)).exit, 0);
  EXPECT_EQ(read_text(grid), drawn);
}

TEST(Mishaps, MetricsOfALostRunAreKept) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run)).exit, 0);
  const std::string before = read_text(run + "/metrics.jsonl");
  fs::remove_all(run + "/checkpoints");
  const Outcome again = diffuse(train_words(run, {"--set", "train.steps=3"}));
  EXPECT_EQ(again.exit, 0);
  EXPECT_NE(again.err.find("has no checkpoint"), std::string::npos) << again.err;
  EXPECT_EQ(read_text(run + "/metrics-before.jsonl"), before);
  EXPECT_EQ(metrics(run).size(), 1u);
}

TEST(Mishaps, AKilledRunIsSeenAsSuch) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const auto state = [&] {
    return nlohmann::json::parse(diffuse({"inspect", run, "--json"}).out)["status"]["state"]
        .get<std::string>();
  };
  {
    Background program(train_words(run, {"--set", "train.steps=1000000"}));
    ASSERT_TRUE(appears(checkpoint(run, 3)));
    EXPECT_EQ(state(), "running");
    program.finish(SIGKILL);
  }
  EXPECT_TRUE(state().starts_with("killed")) << state();
}

TEST(Mishaps, WhereNothingCanBeWrittenNothingIsDrawn) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=3"})).exit, 0);
  fs::create_directories(folder / "d.png");
  // A million pictures would take hours: the refusal comes first.
  const auto refused = [&](const std::string& out, const Words& more) {
    return diffuse(with({"sample", run, "-n", "1000000", "--out", out}, more)).exit;
  };
  EXPECT_EQ(refused(folder / "d.png", {"--force"}), 4);
  EXPECT_EQ(refused("/proc/a.png", {}), 4);
  // An empty folder of single pictures, as a stopped call leaves it, is no obstacle.
  fs::create_directories(folder / "out" / "images");
  EXPECT_EQ(
      diffuse({"sample", run, "-n", "1", "--steps", "2", "--singles", "--out", folder / "out"})
          .exit,
      0);
}

}  // namespace
}  // namespace diffuse::test
