// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>

#include "base/error.h"
#include "e2e/runs.h"
#include "io/checkpoint.h"
#include "support/trials.h"

// Runs that go wrong and recover.

namespace diffuse::test {
namespace {

/// A run whose loss is infinite when one of the two least noisy of 50 steps is drawn, which happens
/// in every fourth batch: two in a row are too many.
Words unlucky(const TempFolder& folder, const std::string& run, const Words& more = {}) {
  write_text(folder / "weights.txt", "-20 1\n5.0 1\n5.1 1e300\n");
  return train_words(
      run,
      with({"--set",
            "diffusion.schedule=cosine",
            "--set",
            "diffusion.weighting={type: table, file: " + (folder / "weights.txt").string() + "}",
            "--set",
            "optim.max_skips_in_row=2",
            "--set",
            "optim.max_rollbacks=50",
            "--set",
            "sample.every_steps=0",
            "--set",
            "log.every_steps=2"},
           more));
}

int64_t rollbacks(const std::string& run) {
  return nlohmann::json::parse(metrics(run).back())["rollbacks"];
}

/// A run that rolls back, if it has to, beside one that is stopped and resumed on its way. Returns
/// its rollbacks.
int64_t past_what_stopped_it(int seed) {
  const TempFolder folder;
  const std::string a = folder / "a", b = folder / "b", seeded = "run.seed=" + std::to_string(seed);
  const auto run = [&](const std::string& where, int64_t steps) {
    return diffuse(
        unlucky(folder, where, {"--set", "train.steps=" + std::to_string(steps), "--set", seeded}));
  };
  const Outcome o = run(a, 30);
  EXPECT_EQ(o.exit, 0) << o.err;
  const int64_t back = rollbacks(a);
  EXPECT_EQ(o.err.find("rolled back from step") != std::string::npos, back > 0) << o.err;
  const auto saved = nlohmann::json::parse(read_text(checkpoint(a, 30) + "/state.json"));
  EXPECT_EQ(saved.value("rollbacks", int64_t{0}), back);
  const std::vector<std::string> lines = metrics(a);
  EXPECT_EQ(lines.size(), 15u);
  for (size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(nlohmann::json::parse(lines[i])["step"], 2 * (i + 1));
  EXPECT_EQ(status(a)["state"], "finished");

  // A resume knows of the rollbacks before it.
  for (const int64_t stop : {12, 24, 30}) EXPECT_EQ(run(b, stop).exit, 0);
  expect_same_run(a, b, 30);
  return back;
}

TEST(Rollback, OtherDrawsGetARunPastWhatStoppedIt) {
  int64_t back = 0, runs = 0;
  for (int seed = 0; seed < trials(2); ++seed) {
    SCOPED_TRACE(seed);
    back += past_what_stopped_it(seed);
    ++runs;
  }
  EXPECT_GT(back, 0);
  count_done("runs finished past what stopped them", runs);
}

/// No loss is finite: neither the limits nor the intervals have to fit.
Words hopeless(const TempFolder& folder, const std::string& run, const Words& more = {}) {
  write_text(folder / "weights.txt", "-50 1e300\n50 1e300\n");
  return train_words(
      run,
      with({"--set",
            "diffusion.weighting={type: table, file: " + (folder / "weights.txt").string() + "}",
            "--set",
            "sample.every_steps=0"},
           more));
}

TEST(Rollback, AfterTwentySkipsItGoesBackAndTheFourthTimeItEnds) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome o = diffuse(hopeless(folder,
                                     run,
                                     {"--set",
                                      "train.steps=1000",
                                      "--set",
                                      "log.every_steps=300",
                                      "--set",
                                      "checkpoint.every_steps=5",
                                      "--set",
                                      "checkpoint.keep_last=2"}));
  EXPECT_EQ(o.exit, 8) << o.err;
  // The first one amid the row: its weights are the newest, and nothing is thrown away.
  for (const char* place : {"back from step 20 to the checkpoint of step 15",
                            "back from step 35 to the checkpoint of step 30",
                            "back from step 50 to the checkpoint of step 45",
                            "20 updates in a row before step 65",
                            "after 3 rollbacks",
                            "optim.max_rollbacks=6"})
    EXPECT_NE(o.err.find(place), std::string::npos) << place << o.err;
  EXPECT_TRUE(fs::exists(checkpoint(run, 60)));
  EXPECT_EQ(status(run)["exit"], 8);
}

TEST(Rollback, AForkGoesBackToWhatItBeganWith) {
  const TempFolder folder;
  const std::string parent = folder / "parent", run = folder / "run";
  ASSERT_EQ(diffuse(train_words(parent, {"--set", "train.steps=6"})).exit, 0);
  const Outcome o = diffuse(hopeless(folder,
                                     run,
                                     {"--resume",
                                      checkpoint(parent, 6),
                                      "--allow-change",
                                      "diffusion.weighting",
                                      "--set",
                                      "checkpoint.every_steps=1000",
                                      "--set",
                                      "train.steps=100"}));
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_NE(o.err.find("to the checkpoint of step 6"), std::string::npos) << o.err;
  EXPECT_EQ(read_text(checkpoint(run, 6) + "/model.safetensors"),
            read_text(checkpoint(parent, 6) + "/model.safetensors"));
}

TEST(Rollback, ARowThatAStopSavedIsNoDeadEnd) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // Six skipped updates are saved as they are few; then they are too many.
  const auto train = [&](const Words& more) {
    return diffuse(hopeless(folder, run, with({"--set", "data.holdout=0.1"}, more)));
  };
  ASSERT_EQ(train({"--set", "train.steps=6", "--set", "log.every_steps=1000"}).exit, 8);
  const Outcome o = train({"--set",
                           "train.steps=30",
                           "--set",
                           "optim.max_skips_in_row=5",
                           "--set",
                           "validate.every_steps=6"});
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_NE(o.err.find("after 3 rollbacks"), std::string::npos) << o.err;
}

TEST(Rollback, ZeroEndsTheRunAtOnce) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome o =
      diffuse(unlucky(folder, run, {"--set", "train.steps=300", "--set", "optim.max_rollbacks=0"}));
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_EQ(o.err.find("rolled back"), std::string::npos) << o.err;
  EXPECT_NE(o.err.find("optim.max_rollbacks=3"), std::string::npos) << o.err;
}

/// Puts NaN where the last weight of `file` is, as a checkpoint that is complete in itself.
void poison(const std::string& run, int step, const std::string& file) {
  const fs::path folder = checkpoint(run, step);
  std::vector<CheckpointFile> files;
  std::vector<std::unique_ptr<SafetensorsFile>> opened;
  std::vector<std::byte> last;
  for (const ManifestEntry& entry : verify_checkpoint(folder)) {
    CheckpointFile& out = files.emplace_back();
    out.name = entry.name;
    if (!entry.name.ends_with(".safetensors")) {
      out.text = read_text(folder / entry.name);
      continue;
    }
    opened.push_back(std::make_unique<SafetensorsFile>(folder / entry.name));
    out.tensors = opened.back()->tensors();
    if (entry.name != file) continue;
    TensorView& tensor = out.tensors.back();
    last.assign(tensor.bytes.begin(), tensor.bytes.end());
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(last.data() + last.size() - sizeof(nan), &nan, sizeof(nan));
    tensor.bytes = last;
  }
  write_checkpoint(folder.parent_path(), step, files, true);
  verify_checkpoint(folder);
}

TEST(Rollback, ACheckpointThatIsNotFiniteIsNotGoneOnFrom) {
  const TempFolder folder;
  const std::string whole = folder / "whole";
  ASSERT_EQ(diffuse(train_words(whole)).exit, 0);
  for (const std::string file : {"model.safetensors", "ema.safetensors", "optim.safetensors"}) {
    const std::string run = folder / file;
    ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=6"})).exit, 0);
    poison(run, 6, file);
    const Outcome named = diffuse(train_words(folder / "other", {"--resume", checkpoint(run, 6)}));
    EXPECT_EQ(named.exit, 6) << named.err;
    EXPECT_NE(named.err.find("not finite"), std::string::npos) << named.err;
    const Outcome o = diffuse(train_words(run));
    EXPECT_EQ(o.exit, 0) << o.err;
    EXPECT_NE(o.err.find("not finite"), std::string::npos) << o.err;
    expect_same_run(whole, run, 12);
    EXPECT_TRUE(fs::exists(fs::path(run) / "checkpoints" / "aside-step-000000006"));
  }
}

}  // namespace
}  // namespace diffuse::test
