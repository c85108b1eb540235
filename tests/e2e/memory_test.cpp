// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <fstream>

#include "e2e/runs.h"
#include "support/cost.h"
#include "support/trials.h"

// Memory: what `check --plan` says beside what runs take.

namespace diffuse::test {
namespace {

/// As src/config/memory_plan.h promises.
constexpr double kFactor = 1.25;

struct Case {
  const char* name;
  Words set;
  bool sample = false, evaluate = false;  // too
};

const std::vector<Case> kCases{
    {"a small network", {}, true, true},
    {"large maps", {"model.base_channels=32", "data.size=32", "train.batch=32"}, true},
    {"large maps, a few at a time",
     {"model.base_channels=32", "data.size=32", "train.batch=32", "train.micro_batch=8"}},
    {"large maps, operators apart",
     {"model.base_channels=32", "data.size=32", "train.batch=32", "runtime.fused=false"}},
    {"attention everywhere",
     {"model.attention_at=[16, 8]", "data.size=16", "model.base_channels=32", "train.batch=64"}},
    {"many weights",
     {"model.base_channels=128", "model.blocks_per_level=2", "train.batch=2"},
     true}};

Words settings(const Case& c) {
  Words words;
  for (const std::string& set : c.set) words = with(words, {"--set", set});
  return words;
}

nlohmann::json planned(const Case& c) {
  const Words train = train_words("", settings(c));
  Words words{"check", train[1], "--plan", "--json"};
  for (size_t i = 0; i + 1 < train.size(); ++i)
    if (train[i] == "--set") words = with(words, {"--set", train[i + 1]});
  return nlohmann::json::parse(diffuse(words).out)["plan"];
}

void expect_near(int64_t measured, int64_t plan, const char* what) {
  const double ratio = static_cast<double>(measured) / static_cast<double>(plan);
  std::printf("%-10s measured %5.0f MB, planned %5.0f MB: %.2f\n",
              what,
              static_cast<double>(measured) / 1e6,
              static_cast<double>(plan) / 1e6,
              ratio);
  EXPECT_LT(ratio, kFactor) << what;
  EXPECT_GT(ratio, 1 / kFactor) << what;
}

TEST(Memory, ThePlanIsNearTheMeasuredPeak) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer's own memory is in no plan";
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    std::puts(c.name);
    const TempFolder folder;
    const std::string run = folder / "run";
    const nlohmann::json plan = planned(c);
    const Outcome trained =
        diffuse(with(train_words(run, settings(c)),
                     {"--set", "train.steps=1", "--set", "sample.every_steps=0"}));
    ASSERT_EQ(trained.exit, 0) << trained.err;
    expect_near(trained.peak_bytes, plan["train"]["total"], "train");
    if (!c.sample) continue;
    const Outcome sampled = diffuse(
        {"sample", run, "-n", "64", "--steps", "2", "--threads", "1", "--out", folder / "a.png"});
    ASSERT_EQ(sampled.exit, 0) << sampled.err;
    expect_near(sampled.peak_bytes, plan["sample"]["total"], "sample");
    if (!c.evaluate) continue;
    const Outcome evaluated =
        diffuse({"evaluate", run, "--nll", "ode", "--tol", "0.1", "--threads", "1"});
    ASSERT_EQ(evaluated.exit, 0) << evaluated.err;
    expect_near(evaluated.peak_bytes, plan["evaluate"]["total"], "evaluate");
  }
}

/// The most address space that a run of single pictures takes.
int64_t address_space(const std::string& run, const Words& words) {
  Background program(with(train_words(run, words),
                          {"--set", "train.micro_batch=1", "--set", "train.steps=1000000"}));
  EXPECT_TRUE(comes_true([&] { return logged_lines(run) >= 1; }));
  int64_t peak = 0;
  std::ifstream in("/proc/" + std::to_string(program.pid()) + "/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("VmPeak:")) peak = 1024 * std::stoll(line.substr(7));
  return peak;
}

TEST(Memory, AGridThatDoesNotFitIsLeftOut) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer reserves terabytes of addresses";
  const TempFolder folder;
  const Words words{"--set", "train.batch=1"};
  const int64_t limit = address_space(folder / "free", words) + (int64_t{64} << 20);
  // A thousand pictures at once take ten times that.
  const Outcome o = run_program(with(
      {"sh", "-c", "ulimit -v " + std::to_string(limit / 1024) + "; exec \"$@\"", "sh", kProgram},
      train_words(folder / "run",
                  with(words,
                       {"--set",
                        "train.steps=2",
                        "--set",
                        "sample.every_steps=1",
                        "--set",
                        "data.size=32",
                        "--set",
                        "sample.grid=[32, 32]",
                        "--set",
                        "sample.batch=1024"}))));
  EXPECT_EQ(o.exit, 0) << o.err;
  EXPECT_NE(o.err.find("no sample grid (a smaller sample.batch"), std::string::npos) << o.err;
  EXPECT_TRUE(fs::exists(checkpoint(folder / "run", 2)));
}

TEST(Memory, TheAdviceFitsAndAutoKeepsTheNumbersUnderALimitOfAddressSpace) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer reserves terabytes of addresses";
  const TempFolder folder;
  const Case c{"",
               {"model.base_channels=32",
                "data.size=32",
                "train.batch=32",
                "train.steps=4",
                "log.every_steps=1",
                "sample.every_steps=0"}};
  const Words words = settings(c);
  const auto loss = [&](const std::string& run) {
    return nlohmann::json::parse(metrics(run).front())["loss"].get<double>();
  };
  ASSERT_EQ(diffuse(train_words(folder / "whole", words)).exit, 0);
  const int64_t least = address_space(folder / "one", words);
  ASSERT_GT(least, 0);
  const Case one{"", with(c.set, {"train.micro_batch=1"})},
      all{"", with(c.set, {"train.micro_batch=32"})};
  const int64_t range =
      planned(all)["train"]["total"].get<int64_t>() - planned(one)["train"]["total"].get<int64_t>();
  int64_t fitted = 0;
  for (int trial = 0; trial < trials(2); ++trial) {
    const double share = 0.2 + 0.5 * ((trial * 7) % 10) / 10;
    const int64_t limit = least + static_cast<int64_t>(share * static_cast<double>(range));
    const auto limited = [&](const std::string& name, const Words& more) {
      Words program{"sh",
                    "-c",
                    "ulimit -v " + std::to_string(limit / 1024) + "; exec \"$@\"",
                    "sh",
                    kProgram};
      return run_program(
          with(program, train_words(folder / (name + std::to_string(trial)), with(words, more))));
    };
    const Outcome refused = limited("refused", {"--set", "train.micro_batch=32"});
    EXPECT_EQ(refused.exit, 7) << refused.err;
    const std::string key = "train.micro_batch=", before = "the same training fits in smaller ones";
    const size_t told = refused.err.find(before);
    ASSERT_NE(told, std::string::npos) << refused.err;
    const size_t at = refused.err.find(key, told);
    ASSERT_NE(at, std::string::npos) << refused.err;
    const std::string advised = std::to_string(std::atoi(refused.err.c_str() + at + key.size()));
    // The step that found it out is kept.
    const Outcome again = limited("refused", {"--set", key + advised});
    EXPECT_EQ(again.exit, 0) << again.err;
    EXPECT_NE(again.err.find("going on from"), std::string::npos) << again.err;
    EXPECT_EQ(logged_lines(folder / ("refused" + std::to_string(trial))), 4);
    const Outcome automatic = limited("auto", {});
    EXPECT_EQ(automatic.exit, 0) << automatic.err;
    EXPECT_NEAR(loss(folder / ("auto" + std::to_string(trial))) / loss(folder / "whole"), 1, 1e-6);
    EXPECT_NE(automatic.err.find("pictures at once"), std::string::npos) << automatic.err;
    fitted += again.exit == 0 && automatic.exit == 0;
  }
  count_done("limits of address space, advice and auto that fitted", fitted);
}

TEST(Memory, AProofDoesNotTakeOtherMicroBatchesForABug) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer reserves terabytes of addresses";
  const TempFolder folder;
  const Case c{"",
               {"model.base_channels=32",
                "data.size=32",
                "train.batch=32",
                "train.steps=2",
                "sample.every_steps=0"}};
  const int64_t least = address_space(folder / "one", settings(c));
  ASSERT_GT(least, 0);
  const auto planned_with = [&](const char* micro_batch) {
    return planned({"", with(c.set, {micro_batch})})["train"]["total"].get<int64_t>();
  };
  const int64_t range = planned_with("train.micro_batch=32") - planned_with("train.micro_batch=1");
  const int64_t limit = least + range / 3;
  const std::string out = folder / "out";
  Words words{kProgram, "verify", "--resume", train_words("")[1]};
  const Words train = train_words("", settings(c));
  for (size_t i = 0; i + 1 < train.size(); ++i)
    if (train[i] == "--set") words = with(words, {"--set", train[i + 1]});
  words = with(words, {"--steps", "2", "--interruptions", "1", "--threads", "1", "--out", out});
  // Little memory for the uninterrupted run alone; the other one waits before its second line for
  // its interruption, at whatever moment that is.
  const Outcome o = run_program(words,
                                {{"LD_PRELOAD", kPrograms + "/libtest_faults.so"},
                                 {"FAULTS_MEMORY", std::to_string(limit)},
                                 {"FAULTS_MEMORY_OF", out + "/whole"},
                                 {"FAULTS_WAIT", "/metrics.jsonl"},
                                 {"FAULTS_WAIT_OF", out + "/resumed"},
                                 {"FAULTS_ONCE", folder / "waited"}});
  EXPECT_EQ(o.exit, 7) << o.err;
  EXPECT_NE(o.err.find("there is no result"), std::string::npos) << o.err;
  const auto state =
      nlohmann::json::parse(read_text(checkpoint(out + "/whole", 2) + "/state.json"));
  const auto micro_batch = state.value("micro_batch", int64_t{0});
  EXPECT_GT(micro_batch, 0);
  EXPECT_LT(micro_batch, 32);
  EXPECT_NE(o.err.find("train.micro_batch=" + std::to_string(micro_batch) + " "), std::string::npos)
      << o.err;
}

}  // namespace
}  // namespace diffuse::test
