// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/run.h"

// Whole runs of the program on the shipped digits, with a network small enough for a test.

namespace diffuse::test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

Words with(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// `diffuse train` of 12 steps in `folder`; one thread, since tests share the machine.
Words train_words(const std::string& folder, const Words& more = {}) {
  Words words{
      "train", DIFFUSE_SOURCE_DIR "/configs/digits.yaml", "--threads", "1", "--run-dir", folder};
  for (const char* set : {"model.base_channels=8",
                          "model.norm_groups=4",
                          "model.blocks_per_level=1",
                          "model.dropout=0.1",
                          "data.flip=true",
                          "diffusion.steps=50",
                          "train.batch=8",
                          "train.steps=12",
                          "log.every_steps=4",
                          "checkpoint.every_steps=3",
                          "checkpoint.keep_last=100",
                          "sample.every_steps=6",
                          "sample.grid=[2, 3]",
                          "sample.steps=10",
                          "optim.warmup_steps=2",
                          "optim.decay=constant"})
    words = with(words, {"--set", set});
  return with(words, more);
}

/// metrics.jsonl without what a clock gives.
std::vector<std::string> metrics(const std::string& folder) {
  std::vector<std::string> lines;
  std::istringstream in(read_text(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    for (const char* timing : {"time", "img_s", "data_wait"}) json.erase(timing);
    lines.push_back(json.dump());
  }
  return lines;
}

std::string checkpoint(const std::string& folder, int step) {
  const std::string digits = std::to_string(step);
  return folder + "/checkpoints/step-" + std::string(9 - digits.size(), '0') + digits;
}

void expect_same_run(const std::string& a, const std::string& b, int step) {
  EXPECT_EQ(metrics(a), metrics(b));
  for (const char* file :
       {"model.safetensors", "ema.safetensors", "optim.safetensors", "state.json"})
    EXPECT_EQ(read_text(checkpoint(a, step) + "/" + file),
              read_text(checkpoint(b, step) + "/" + file))
        << file;
}

/// A started program that is still running.
class Background {
 public:
  explicit Background(Words arguments) {
    arguments.insert(arguments.begin(), DIFFUSE_BINARY_DIR "/diffuse");
    std::vector<char*> argv;
    for (std::string& word : arguments) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int fd : {0, 1, 2})
      posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Background() {
    if (pid_ > 0) finish(SIGKILL);
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// Exit code, or 128 + signal.
  int finish(int signal) {
    ::kill(pid_, signal);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
};

/// Waits (at most a minute) until `path` is there.
bool appears(const std::string& path) {
  for (int i = 0; i < 6000; ++i) {
    if (fs::exists(path)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

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
  const auto status = nlohmann::json::parse(read_text(run + "/status.json"));
  EXPECT_EQ(status["state"], "finished");
  EXPECT_EQ(status["step"], 12);
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
  sample("c", {"-n", "5", "--singles", "--batch", "2"});
  sample("d", {"-n", "5", "--singles", "--seed", "1"});
  for (const char* file : {"grid.png", "trajectory.png", "images/000003.png"})
    EXPECT_EQ(read_text(folder / "a" + "/" + file), read_text(folder / "b" + "/" + file)) << file;
  const auto picture = [&](const char* out, int i) {
    return read_text((folder / out) + "/images/00000" + std::to_string(i) + ".png");
  };
  EXPECT_EQ(picture("a", 3).substr(0, 33), picture("c", 3).substr(0, 33));  // one size and kind
  EXPECT_NE(picture("a", 3), picture("d", 3));

  const Outcome inspected = diffuse({"inspect", folder / "a" + "/grid.png"});
  EXPECT_EQ(inspected.exit, 0);
  EXPECT_NE(inspected.out.find("ddpm"), std::string::npos) << inspected.out;
  const Outcome exists = diffuse({"sample", run, "--out", folder / "a"});
  EXPECT_EQ(exists.exit, 4);
  EXPECT_NE(exists.err.find("--force"), std::string::npos);
  sample("a", {"-n", "2", "--singles", "--force"});
  EXPECT_TRUE(fs::exists(folder / "a" + "/images/000001.png"));
  EXPECT_FALSE(fs::exists(folder / "a" + "/images/000002.png"));
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
    const auto status = nlohmann::json::parse(read_text(run + "/status.json"));
    if (way.signal != SIGKILL) {
      EXPECT_EQ(status["state"], "stopped");
    }
    int64_t step = 0;
    for (const auto& entry : fs::directory_iterator(run + "/checkpoints"))
      if (entry.path().filename().string().starts_with("step-"))
        step = std::max<int64_t>(step, std::stoll(entry.path().filename().string().substr(5)));
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

TEST(Train, ClassConditional) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome trained = diffuse(train_words(run, {"--set", "model.class_conditional=true"}));
  ASSERT_EQ(trained.exit, 0) << trained.err;
  const auto sample = [&](const std::string& label) {
    const std::string out = folder / ("class-" + label + ".png");
    const Outcome o = diffuse({"sample",
                               run,
                               "--threads",
                               "1",
                               "--steps",
                               "5",
                               "-n",
                               "3",
                               "--class",
                               label,
                               "--out",
                               out});
    EXPECT_EQ(o.exit, 0) << o.err;
    return read_text(out);
  };
  EXPECT_NE(sample("3"), sample("4"));
  const Outcome bad = diffuse({"sample", run, "--class", "10", "--out", folder / "z.png"});
  EXPECT_EQ(bad.exit, 2);
  EXPECT_NE(bad.err.find("--class must be one of 0, 1"), std::string::npos) << bad.err;
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

TEST(Train, StopsWhenItDiverges) {
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
  EXPECT_EQ(nlohmann::json::parse(read_text(run + "/status.json"))["state"], "failed");
}

}  // namespace
}  // namespace diffuse::test
