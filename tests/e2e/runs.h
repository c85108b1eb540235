// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/run.h"
#include "report/metrics.h"

// Runs of `diffuse train` on the shipped digits, with a network small enough for a test.

namespace diffuse::test {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

inline Words with(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// `diffuse train` of 12 steps in `folder`; one thread, since tests share the machine.
inline Words train_words(const std::string& folder, const Words& more = {}) {
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

/// metrics.jsonl without what is measured.
inline std::vector<std::string> metrics(const std::string& folder) {
  std::vector<std::string> lines;
  std::istringstream in(read_text(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    for (const char* measured : kMeasuredMetrics) json.erase(measured);
    lines.push_back(json.dump());
  }
  return lines;
}

/// Complete lines of metrics.jsonl, also of a run that goes on.
inline int64_t logged_lines(const std::string& folder) {
  const std::string text = read_text(folder + "/metrics.jsonl");
  return std::count(text.begin(), text.end(), '\n');
}

inline std::string checkpoint(const std::string& folder, int step) {
  const std::string digits = std::to_string(step);
  return folder + "/checkpoints/step-" + std::string(9 - digits.size(), '0') + digits;
}

inline void expect_same_checkpoint(const std::string& a, const std::string& b, int step) {
  for (const char* file :
       {"model.safetensors", "ema.safetensors", "optim.safetensors", "state.json"})
    EXPECT_EQ(read_text(checkpoint(a, step) + "/" + file),
              read_text(checkpoint(b, step) + "/" + file))
        << file;
}

inline void expect_same_run(const std::string& a, const std::string& b, int step) {
  EXPECT_EQ(metrics(a), metrics(b));
  expect_same_checkpoint(a, b, step);
}

/// A started program that is still running.
class Background {
 public:
  explicit Background(Words arguments) {
    arguments.insert(arguments.begin(), kProgram);
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

  pid_t pid() const { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }

  /// Exit code, or 128 + signal.
  int finish(int number) {
    signal(number);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = 0;
};

/// Waits (at most a minute) until `done()`.
template <class F>
bool comes_true(F done) {
  for (int i = 0; i < 6000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

inline bool appears(const std::string& path) {
  return comes_true([&] { return fs::exists(path); });
}

/// The steps of the checkpoints in a run folder, ascending.
inline std::vector<int64_t> saved_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder + "/checkpoints", none)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-")) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

inline nlohmann::json status(const std::string& folder) {
  return nlohmann::json::parse(read_text(folder + "/status.json"));
}

}  // namespace diffuse::test
