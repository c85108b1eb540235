// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "e2e/runs.h"

// Whole runs of the program on the shipped digits, with a network small enough for a test.

namespace diffuse::test {
namespace {

TEST(Train, LeavesARunFolderThatSampleUnderstands) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome trained = diffuse(train_words(run));
  ASSERT_EQ(trained.exit, 0) << trained.err;
  EXPECT_NE(trained.err.find("finished: 12 of 12 steps"), std::string::npos) << trained.err;
  for (const char* file : {"config.yaml",
                           "config.resolved.yaml",
                           "command.txt",
                           "overrides.txt",
                           "env.json",
                           "status.json",
                           "metrics.jsonl",
                           "log.txt",
                           "plots/train.svg",
                           "samples/step-000000006.png",
                           "samples/step-000000012.png"})
    EXPECT_TRUE(fs::exists(run + "/" + file)) << file;
  EXPECT_EQ(metrics(run).size(), 3u);
  EXPECT_EQ(status(run)["state"], "finished");
  EXPECT_EQ(status(run)["step"], 12);
  const auto environment = nlohmann::json::parse(read_text(run + "/env.json"));
  EXPECT_EQ(environment["git"], nlohmann::json::parse(diffuse({"--version", "--json"}).out)["git"]);

  // The same line again has nothing to do.
  const Outcome again = diffuse(train_words(run));
  EXPECT_EQ(again.exit, 0);
  EXPECT_NE(again.err.find("nothing to do"), std::string::npos) << again.err;

  const auto sample = [&](const std::string& out, const Words& more) {
    const Outcome o = diffuse(
        with({"sample", run, "--threads", "1", "--steps", "10", "--out", folder / out}, more));
    EXPECT_EQ(o.exit, 0) << o.err;
    return o;
  };
  sample("a", {"-n", "7", "--singles", "--trajectory", "4"});
  sample("b", {"-n", "7", "--singles", "--trajectory", "4"});
  for (const char* file : {"grid.png", "trajectory.png", "images/000003.png"})
    EXPECT_EQ(read_text(folder / "a" / file), read_text(folder / "b" / file)) << file;

  const Outcome inspected = diffuse({"inspect", folder / "a/grid.png"});
  EXPECT_EQ(inspected.exit, 0);
  EXPECT_NE(inspected.out.find("ddpm"), std::string::npos) << inspected.out;
  const Outcome exists = diffuse({"sample", run, "--out", folder / "a"});
  EXPECT_EQ(exists.exit, 4);
  EXPECT_NE(exists.err.find("--force"), std::string::npos);
  sample("a", {"-n", "2", "--singles", "--force"});
  EXPECT_TRUE(fs::exists(folder / "a/images/000001.png"));
  EXPECT_FALSE(fs::exists(folder / "a/images/000002.png"));
  EXPECT_EQ(diffuse({"sample", run, "--out", folder / "x.jpg"}).exit, 2);
  EXPECT_EQ(diffuse({"sample", run, "--device", "gpu", "--out", folder / "e"}).exit, 2);
  EXPECT_EQ(diffuse({"sample", run, "--steps", "51", "--out", folder / "e"}).exit, 2);
  EXPECT_EQ(
      diffuse({"sample", run, "--steps", "9", "--trajectory", "10", "--out", folder / "e"}).exit,
      2);
  EXPECT_EQ(diffuse({"sample", run, "--class", "1", "--out", folder / "e"}).exit, 2);
}

TEST(Train, StoppedInAnyWayItGoesOnAsIfItHadNot) {
  const TempFolder folder;
  const std::string whole = folder / "whole";
  ASSERT_EQ(diffuse(train_words(whole)).exit, 0);

  // As a shorter run that is made longer, between two checkpoints and between two log lines.
  const std::string longer = folder / "longer";
  ASSERT_EQ(diffuse(train_words(longer, {"--set", "train.steps=7"})).exit, 0);
  EXPECT_EQ(metrics(longer).size(), 2u);  // at 4, and the last, partial one at 7
  ASSERT_EQ(diffuse(train_words(longer)).exit, 0);
  expect_same_run(whole, longer, 12);

  const struct {
    int signal, exit;
  } ways[] = {{SIGTERM, 75}, {SIGINT, 130}, {SIGUSR1, 75}, {SIGKILL, 128 + SIGKILL}};
  for (const auto& way : ways) {
    SCOPED_TRACE(strsignal(way.signal));
    const std::string run = folder / ("signal-" + std::to_string(way.signal));
    // Endless but for the signal, and then of the same length.
    Background program(
        train_words(run, {"--set", "train.steps=100000", "--set", "sample.every_steps=0"}));
    ASSERT_TRUE(appears(checkpoint(run, 3)));
    EXPECT_EQ(program.finish(way.signal), way.exit);
    if (way.signal != SIGKILL) {
      EXPECT_EQ(status(run)["state"], "stopped");
    }
    const int64_t step = saved_steps(run).back();
    const std::string steps = "train.steps=" + std::to_string(step + 5);
    ASSERT_EQ(diffuse(train_words(run, {"--set", steps, "--set", "sample.every_steps=0"})).exit, 0);
    const std::string straight = folder / ("straight-" + std::to_string(way.signal));
    ASSERT_EQ(
        diffuse(train_words(straight, {"--set", steps, "--set", "sample.every_steps=0"})).exit, 0);
    expect_same_run(straight, run, static_cast<int>(step + 5));
  }
}

TEST(Train, TwoProcessesDoNotShareAFolder) {
  const TempFolder folder;
  const std::string run = folder / "run";
  Background first(
      train_words(run, {"--set", "train.steps=100000", "--set", "sample.every_steps=0"}));
  ASSERT_TRUE(appears(checkpoint(run, 3)));
  const Outcome second = diffuse(train_words(run));
  EXPECT_EQ(second.exit, 4);
  EXPECT_NE(second.err.find("in use by another process (pid "), std::string::npos) << second.err;
}

TEST(Train, RefusesToGoOnWithOtherMaths) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=3"})).exit, 0);
  const Outcome changed = diffuse(train_words(run, {"--set", "diffusion.target=velocity"}));
  EXPECT_EQ(changed.exit, 6);
  EXPECT_NE(changed.err.find("diffusion.target: epsilon -> velocity"), std::string::npos)
      << changed.err;
  EXPECT_EQ(diffuse(train_words(run, {"--set", "optim.lr=1e-5"})).exit, 6);
  EXPECT_EQ(
      diffuse(train_words(run, {"--set", "optim.lr=1e-5", "--allow-change", "optim.lr"})).exit, 0);
  const Outcome other = diffuse(train_words(run,
                                            {"--set",
                                             "train.steps=15",
                                             "--set",
                                             "model.base_channels=16",
                                             "--allow-change",
                                             "model",
                                             "--allow-change",
                                             "optim.lr"}));
  EXPECT_EQ(other.exit, 6);
  EXPECT_NE(other.err.find("model.safetensors"), std::string::npos) << other.err;
}

TEST(Train, ACheckpointHoldsItsScheduleTable) {
  const TempFolder folder;
  const std::string run = folder / "run", table = folder / "beta.txt";
  std::string betas;
  for (int i = 0; i < 50; ++i) betas += std::to_string(2 * i + 1) + "e-3\n";
  write_text(table, betas);
  const Words with_table{"--set", "diffusion.schedule={type: table, file: " + table + "}"};
  const Outcome trained = diffuse(train_words(run, with(with_table, {"--set", "train.steps=3"})));
  ASSERT_EQ(trained.exit, 0) << trained.err;
  EXPECT_EQ(diffuse(train_words(run, with(with_table, {"--set", "train.steps=4"}))).exit, 0);
  write_text(table, "0.5\n" + betas.substr(betas.find('\n') + 1));
  const Outcome other = diffuse(train_words(run, with_table));
  EXPECT_EQ(other.exit, 6);
  EXPECT_NE(other.err.find("other numbers"), std::string::npos) << other.err;
  fs::remove(table);
  const Outcome o =
      diffuse({"sample", run, "--threads", "1", "-n", "1", "--out", folder / "x.png"});
  EXPECT_EQ(o.exit, 0) << o.err;
}

TEST(Train, ARunCanBeTakenBackToAnEarlierCheckpoint) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run)).exit, 0);
  const std::string weights = read_text(checkpoint(run, 12) + "/model.safetensors");
  const Outcome back = diffuse(
      train_words(run, {"--resume", checkpoint(run, 3), "--set", "checkpoint.keep_last=1"}));
  ASSERT_EQ(back.exit, 0) << back.err;
  EXPECT_NE(back.err.find("renamed to aside-step-000000012"), std::string::npos) << back.err;
  EXPECT_EQ(read_text(checkpoint(run, 12) + "/model.safetensors"), weights);
  EXPECT_TRUE(fs::exists(run + "/checkpoints/aside-step-000000012"));
  EXPECT_EQ(metrics(run).size(), 3u);
}

TEST(Train, ADamagedCheckpointIsPassedOver) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run)).exit, 0);
  const std::string newest = checkpoint(run, 12) + "/ema.safetensors";
  std::string bytes = read_text(newest);
  bytes[bytes.size() / 2] ^= 1;
  write_text(newest, bytes);
  const Outcome o = diffuse(
      {"sample", run, "--threads", "1", "--steps", "5", "-n", "1", "--out", folder / "x.png"});
  EXPECT_EQ(o.exit, 0);
  EXPECT_NE(o.err.find("ema.safetensors"), std::string::npos) << o.err;
  const Outcome named = diffuse({"sample", checkpoint(run, 12), "--out", folder / "y.png"});
  EXPECT_EQ(named.exit, 6) << named.err;
}

TEST(Train, HangupSavesAndGoesOn) {
  const TempFolder folder;
  const std::string run = folder / "run";
  Background program(train_words(run,
                                 {"--set",
                                  "train.steps=100000",
                                  "--set",
                                  "checkpoint.every_steps=0",
                                  "--set",
                                  "sample.every_steps=0"}));
  const auto trains_on = [&] {
    const int64_t lines = logged_lines(run);
    return comes_true([&] { return logged_lines(run) > lines; });
  };
  ASSERT_TRUE(trains_on());
  EXPECT_TRUE(saved_steps(run).empty());  // nothing but the signal saves in this run
  program.signal(SIGHUP);
  ASSERT_TRUE(comes_true([&] { return saved_steps(run).size() == 1; }));
  ASSERT_TRUE(trains_on());
  EXPECT_EQ(status(run)["state"], "running");
  EXPECT_EQ(saved_steps(run).size(), 1u);
  program.signal(SIGHUP);
  ASSERT_TRUE(comes_true([&] { return saved_steps(run).size() == 2; }));
  EXPECT_TRUE(fs::is_empty(run + "/samples"));
  EXPECT_EQ(program.finish(SIGTERM), 75);
}

TEST(Train, User2SavesAndDrawsAGrid) {
  const TempFolder folder;
  const std::string run = folder / "run";
  Background program(train_words(run,
                                 {"--set",
                                  "train.steps=100000",
                                  "--set",
                                  "checkpoint.every_steps=0",
                                  "--set",
                                  "sample.every_steps=0"}));
  ASSERT_TRUE(comes_true([&] { return logged_lines(run) > 0; }));
  program.signal(SIGUSR2);
  ASSERT_TRUE(comes_true([&] { return !fs::is_empty(run + "/samples"); }));
  ASSERT_TRUE(comes_true([&] { return saved_steps(run).size() == 1; }));
  const int64_t lines = logged_lines(run);
  EXPECT_TRUE(comes_true([&] { return logged_lines(run) > lines; }));
  EXPECT_EQ(program.finish(SIGTERM), 75);
}

TEST(Train, StopAfterEndsWithACheckpoint) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome o = diffuse(train_words(run,
                                        {"--stop-after",
                                         "2s",
                                         "--set",
                                         "train.steps=1000000",
                                         "--set",
                                         "checkpoint.every_steps=0",
                                         "--set",
                                         "sample.every_steps=0"}));
  EXPECT_EQ(o.exit, 75) << o.err;
  EXPECT_EQ(status(run)["state"], "stopped");
  EXPECT_EQ(status(run)["exit"], 75);
  ASSERT_EQ(saved_steps(run).size(), 1u);
  EXPECT_EQ(status(run)["step"], saved_steps(run).back());
  EXPECT_NE(o.err.find("; the same command goes on"), std::string::npos) << o.err;

  // Where it would begin again, it says what must change.
  Words fork = train_words(run,
                           {"--resume",
                            run,
                            "--stop-after",
                            "1s",
                            "--set",
                            "train.steps=1000000",
                            "--set",
                            "run.root=" + (folder / "root").string()});
  const auto named = std::find(fork.begin(), fork.end(), "--run-dir");
  fork.erase(named, named + 2);
  const Outcome forked = diffuse(fork);
  EXPECT_EQ(forked.exit, 75) << forked.err;
  EXPECT_NE(forked.err.find("; to go on: the same command with --run-dir " +
                            (folder / "root").string() + "/"),
            std::string::npos)
      << forked.err;
  EXPECT_NE(forked.err.find("-001 and without --resume\n"), std::string::npos) << forked.err;
}

TEST(Train, RefusesToGoOnWithOtherPictures) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const fs::path pictures = folder / "pictures";
  for (const char* digit : {"0", "1"}) {
    fs::create_directories(pictures / digit);
    int left = 20;
    for (const auto& entry :
         fs::directory_iterator(fs::path(DIFFUSE_SOURCE_DIR "/data/digits") / digit))
      if (left-- > 0) fs::copy(entry.path(), pictures / digit);
  }
  const auto train = [&](int steps, const Words& more = {}) {
    return diffuse(train_words(run,
                               with({"--set",
                                     "data.path=" + pictures.string(),
                                     "--set",
                                     "sample.every_steps=0",
                                     "--set",
                                     "train.steps=" + std::to_string(steps)},
                                    more)));
  };
  const auto expect_refused = [&](const std::string& counts) {
    const Outcome o = train(4);
    EXPECT_EQ(o.exit, 6);
    EXPECT_NE(o.err.find("not those that the run began with (" + counts), std::string::npos)
        << o.err;
    EXPECT_NE(o.err.find("--allow-change data.path"), std::string::npos) << o.err;
    EXPECT_EQ(saved_steps(run), (std::vector<int64_t>{3}));
  };
  ASSERT_EQ(train(3).exit, 0);
  const fs::path one = fs::directory_iterator(pictures / "0")->path();
  fs::rename(one, folder / "one.png");
  expect_refused("40 then, 39 now");
  fs::copy(folder / "one.png", one);
  fs::copy(folder / "one.png", pictures / "1/more.png");
  expect_refused("40 then, 41 now");
  fs::remove(one);  // as many as before, another name
  expect_refused("40 then, 40 now");
  fs::copy(folder / "one.png", one);
  fs::remove(pictures / "1/more.png");
  EXPECT_EQ(train(4).exit, 0);  // as it was
  fs::remove(one);
  const Outcome allowed = train(5, {"--allow-change", "data.path"});
  EXPECT_EQ(allowed.exit, 0) << allowed.err;
  EXPECT_EQ(saved_steps(run).back(), 5);
}

TEST(Train, AnotherFolderGoesOnFromANamedCheckpoint) {
  const TempFolder folder;
  const std::string run = folder / "run", other = folder / "other";
  ASSERT_EQ(diffuse(train_words(run)).exit, 0);
  const std::vector<int64_t> steps = saved_steps(run);
  const Outcome o = diffuse(train_words(other, {"--resume", checkpoint(run, 6)}));
  ASSERT_EQ(o.exit, 0) << o.err;
  EXPECT_EQ(saved_steps(run), steps);  // only read
  EXPECT_EQ(saved_steps(other), (std::vector<int64_t>{9, 12}));
  // The lines at 8 (of which two steps lie before the checkpoint) and at 12.
  const std::vector<std::string> whole = metrics(run);
  ASSERT_EQ(whole.size(), 3u);
  EXPECT_EQ(metrics(other), std::vector<std::string>(whole.begin() + 1, whole.end()));
  expect_same_checkpoint(run, other, 12);
}

TEST(Train, GoesOnFromTheCheckpointBeforeADamagedOne) {
  const TempFolder folder;
  const std::string whole = folder / "whole";
  ASSERT_EQ(diffuse(train_words(whole)).exit, 0);
  for (const std::string file : {"optim.safetensors", "state.json"}) {
    SCOPED_TRACE(file);
    const std::string run = folder / file;
    ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=9"})).exit, 0);
    const std::string damaged = checkpoint(run, 9) + "/" + file;
    std::string bytes = read_text(damaged);
    bytes[bytes.size() / 2] ^= 1;
    write_text(damaged, bytes);
    const Outcome o = diffuse(train_words(run));
    ASSERT_EQ(o.exit, 0) << o.err;
    EXPECT_NE(o.err.find("going on from " + checkpoint(run, 6)), std::string::npos) << o.err;
    EXPECT_NE(o.err.find(file), std::string::npos) << o.err;
    expect_same_run(whole, run, 12);
  }
}

TEST(Train, DryRunWritesNothing) {
  const TempFolder folder;
  const Outcome o = diffuse(train_words(folder / "run", {"--dry-run"}));
  EXPECT_EQ(o.exit, 0) << o.err;
  EXPECT_NE(o.out.find("dry run: 1 step of 8 images"), std::string::npos) << o.out;
  EXPECT_FALSE(fs::exists(folder / "run"));
  // On a run that exists, it is the step after its last.
  ASSERT_EQ(diffuse(train_words(folder / "run", {"--set", "train.steps=3"})).exit, 0);
  const Outcome next = diffuse(train_words(folder / "run", {"--dry-run"}));
  EXPECT_EQ(next.exit, 0) << next.err;
  EXPECT_EQ(next.out.find("loss 0.0000"), std::string::npos) << next.out;
  EXPECT_FALSE(fs::exists(checkpoint(folder / "run", 4)));
}

TEST(Train, RollsBackAndStopsWhenItStillDiverges) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // Decay by lr * weight_decay = 100 multiplies the weights by -99 a step: infinite in about 20.
  const Outcome o = diffuse(train_words(run,
                                        {"--set",
                                         "optim.lr=10",
                                         "--set",
                                         "optim.weight_decay=10",
                                         "--set",
                                         "train.steps=100",
                                         "--set",
                                         "sample.every_steps=0",
                                         "--set",
                                         "optim.max_skips_in_row=3"}));
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_NE(o.err.find("optim.lr"), std::string::npos);
  EXPECT_NE(o.err.find("rollback 3 of 3"), std::string::npos) << o.err;
  EXPECT_EQ(status(run)["state"], "failed");
  // Each time another part of the run was written again.
  int64_t before = 0;
  for (const std::string& line : metrics(run)) {
    const int64_t step = nlohmann::json::parse(line)["step"];
    EXPECT_GT(step, before);
    before = step;
  }
  EXPECT_EQ(nlohmann::json::parse(metrics(run).back())["rollbacks"], 3);
}

}  // namespace
}  // namespace diffuse::test
