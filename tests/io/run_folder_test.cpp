// SPDX-License-Identifier: MIT
#include "io/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "support/forked.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::run_folder) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(RunFolder, IsNumbered) {
  const TempFolder temporary;
  const fs::path root = temporary / "deep" / "runs";
  EXPECT_EQ(RunFolder::create(root, "digits").path(), root / "digits-001");
  EXPECT_EQ(RunFolder::create(root, "digits").path(), root / "digits-002");
  EXPECT_EQ(RunFolder::create(root, "other").path(), root / "other-001");
  // Numbers are not used twice, and look-alikes do not count.
  fs::create_directory(root / "digits-041");
  fs::create_directory(root / "digits-900x");
  fs::create_directory(root / "digits-cosine-950");
  const RunFolder run = RunFolder::create(root, "digits");
  EXPECT_EQ(run.path(), root / "digits-042");
  for (const fs::path& folder : {run.checkpoints(), run.samples(), run.plots(), run.tensorboard()})
    EXPECT_TRUE(fs::is_directory(folder)) << folder;
  EXPECT_EQ(run.metrics(), run.path() / "metrics.jsonl");
  EXPECT_TRUE(contains(slurp(run.path() / "run.lock"), "pid " + std::to_string(::getpid())));
}

TEST(RunFolder, StartsAtTheSameTimeGetDifferentNumbers) {
  const TempFolder root;
  int gate[2];
  ASSERT_EQ(::pipe(gate), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 20; ++i)
    children.push_back(fork_child([&] {
      ::close(gate[1]);
      char end;
      if (::read(gate[0], &end, 1) != 0) return 1;  // until the parent opens the gate
      const RunFolder run = RunFolder::create(root.path(), "r");
      const std::string name = run.path().filename().string();
      return std::stoi(name.substr(2));
    }));
  ::close(gate[0]);
  ::close(gate[1]);
  std::set<int> numbers;
  for (const pid_t child : children) numbers.insert(wait_for(child));
  EXPECT_EQ(numbers.size(), 20u);
  EXPECT_EQ(*numbers.begin(), 1);
  EXPECT_EQ(*numbers.rbegin(), 20);
}

TEST(RunFolder, AnExactOneMustBeEmptyUnlessResumed) {
  const TempFolder temporary;
  const fs::path path = temporary / "a" / "b";
  { const RunFolder run = RunFolder::open(path, false); }
  EXPECT_TRUE(fs::is_directory(path / "checkpoints"));
  const std::string said = message_of([&] { RunFolder::open(path, false); });
  EXPECT_TRUE(contains(said, path.string())) << said;
  EXPECT_TRUE(contains(said, "--resume auto")) << said;
  EXPECT_EQ(RunFolder::open(path, true).path(), path);

  // A folder that is no run folder is left as it is.
  spill(temporary / "thesis.tex", "");
  EXPECT_TRUE(contains(message_of([&] { RunFolder::open(temporary.path(), false); }), "not empty"));
  EXPECT_FALSE(fs::exists(temporary / "run.lock"));

  // A start that was killed before it wrote anything does not count.
  fs::create_directory(temporary / "c");
  spill(temporary / "c" / "run.lock", "pid 1");
  EXPECT_NO_THROW(RunFolder::open(temporary / "c", false));
}

TEST(RunFolder, HasOneOwner) {
  const TempFolder temporary;
  const fs::path path = temporary / "r";
  {
    const RunFolder run = RunFolder::open(path, false);
    for (const bool resume : {false, true}) {
      const std::string said = message_of([&] { RunFolder::open(path, resume); });
      EXPECT_TRUE(contains(said, "pid " + std::to_string(::getpid()))) << said;
    }
  }
  EXPECT_NO_THROW(RunFolder::open(path, true));
}

TEST(RunFolder, SaysWhyItCannotBeMade) {
  const TempFolder temporary;
  spill(temporary / "file", "");
  for (const auto& f : std::vector<std::function<void()>>{
           [&] { RunFolder::create(temporary / "file", "r"); },
           [&] { RunFolder::open(temporary / "file", false); },
           [&] { RunFolder::open(temporary / "file" / "x", false); }}) {
    const std::string said = message_of(f);
    EXPECT_TRUE(contains(said, (temporary / "file").string())) << said;
    EXPECT_TRUE(contains(said, "--run-dir")) << said;
  }
  if (::geteuid() != 0) {  // root may write anywhere
    fs::create_directory(temporary / "closed");
    fs::permissions(temporary / "closed", fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_TRUE(
        contains(message_of([&] { RunFolder::create(temporary / "closed", "r"); }), "Permission"));
    EXPECT_TRUE(
        contains(message_of([&] { RunFolder::open(temporary / "closed", true); }), "Permission"));
  }
}

TEST(RunFolder, RecordsWhatTheRunIsMadeFrom) {
  const TempFolder temporary;
  const RunFolder run = RunFolder::open(temporary / "r", false);
  const RunRecord record{"# verbatim\nrun: {name: ä}\n",
                         "version: 1\n",
                         {"train.lr=1e-4", "run.name=two words"},
                         {"diffuse", "train", "my config.yaml", "--set", "run.notes=it's"},
                         {{"torch", "2.11"}, {"gpu", "\xff invalid"}}};
  run.write_record(record);
  EXPECT_EQ(slurp(run.path() / "config.yaml"), record.config);
  EXPECT_EQ(slurp(run.path() / "config.resolved.yaml"), record.resolved_config);
  EXPECT_EQ(slurp(run.path() / "overrides.txt"), "train.lr=1e-4\nrun.name=two words\n");
  const std::string command = "diffuse train 'my config.yaml' --set 'run.notes=it'\\''s'\n";
  EXPECT_EQ(slurp(run.path() / "command.txt"), command);
  const auto env = json::parse(slurp(run.path() / "env.json"));
  EXPECT_EQ(env.at("torch"), "2.11");
  for (const char* key : {"gpu", "host", "cpu", "system", "locale", "started", "working_folder"})
    EXPECT_FALSE(env.at(key).get<std::string>().empty()) << key;
  EXPECT_GT(env.at("memory_bytes").get<int64_t>(), 0);

  run.write_record(record);
  EXPECT_EQ(slurp(run.path() / "command.txt"), command + command);
}

TEST(RunFolder, StatusIsReplacedAndThrottled) {
  const TempFolder temporary;
  RunFolder run = RunFolder::open(temporary / "r", false);
  const auto status = [&] { return json::parse(slurp(run.path() / "status.json")); };
  run.write_status({"running", 1, 100, std::nullopt, "", std::nullopt});
  EXPECT_EQ(status().at("state"), "running");
  EXPECT_EQ(status().at("of"), 100);
  for (const char* key : {"eta", "last_checkpoint", "exit"})
    EXPECT_TRUE(status().at(key).is_null()) << key;
  // Within a second only what matters is written.
  run.write_status({"running", 2, 100, 9.5, "", std::nullopt});
  EXPECT_EQ(status().at("step"), 1);
  run.write_status({"running", 3, 100, 9.5, "checkpoints/step-000000003", std::nullopt});
  EXPECT_EQ(status().at("step"), 3);
  EXPECT_EQ(status().at("eta"), 9.5);
  run.write_status({"finished", 100, 100, 0.0, "checkpoints/step-000000100", 0});
  EXPECT_EQ(status().at("exit"), 0);
  EXPECT_EQ(status().at("last_checkpoint"), "checkpoints/step-000000100");

  fs::remove_all(run.path());
  testing::internal::CaptureStderr();
  run.write_status({"failed", 1, 100, std::nullopt, "", 9});
  run.write_status({"running", 1, 100, std::nullopt, "", std::nullopt});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST(RunFolder, StatusIsReadBack) {
  const TempFolder root;
  EXPECT_FALSE(read_status(root.path()));
  {
    RunFolder run = RunFolder::open(root / "run", false);
    run.write_status({.state = "running",
                      .step = 5,
                      .of = 9,
                      .eta_seconds = 2.5,
                      .last_checkpoint = "checkpoints/step-000000005",
                      .exit = std::nullopt});
    const auto running = read_status(root / "run");
    ASSERT_TRUE(running);
    EXPECT_EQ(running->state, "running");
    EXPECT_EQ(running->step, 5);
    EXPECT_EQ(running->of, 9);
    EXPECT_EQ(running->eta_seconds, 2.5);
    EXPECT_EQ(running->last_checkpoint, "checkpoints/step-000000005");
    EXPECT_FALSE(running->exit);
  }
  EXPECT_EQ(read_status(root / "run")->state, "killed");  // nobody holds the folder
  std::ofstream(root / "run" / "status.json") << "{\"state\":";
  EXPECT_FALSE(read_status(root / "run"));
}

TEST(RunFolder, ReportsSkippedFiles) {
  const TempFolder temporary;
  const RunFolder run = RunFolder::open(temporary / "r", false);
  run.write_data_report({{"a/\"b\".png", "truncated"}, {"\xff.jpg", "no picture"}});
  EXPECT_EQ(slurp(run.path() / "data_report.jsonl"),
            "{\"path\":\"a/\\\"b\\\".png\",\"reason\":\"truncated\"}\n"
            "{\"path\":\"\xef\xbf\xbd.jpg\",\"reason\":\"no picture\"}\n");
}

TEST(RunFolder, ResumeClearsWhatKilledWritersLeft) {
  const TempFolder temporary;
  const fs::path path = temporary / "r";
  { const RunFolder run = RunFolder::open(path, false); }
  fs::create_directory(path / "checkpoints" / ".tmp-step-000000001-7");
  spill(path / "status.json.tmp-123", "{");
  spill(path / "notes.tmp-old", "mine");
  const RunFolder run = RunFolder::open(path, true);
  EXPECT_FALSE(fs::exists(path / "checkpoints" / ".tmp-step-000000001-7"));
  EXPECT_FALSE(fs::exists(path / "status.json.tmp-123"));
  EXPECT_TRUE(fs::exists(path / "notes.tmp-old"));
}

TEST(RunFolder, CommandsAreQuotedForTheShell) {
  EXPECT_EQ(quote_command({"a", "", "b c", "$x", "it's", "k=v,w:/p-q_r.s@t%"}),
            "a '' 'b c' '$x' 'it'\\''s' k=v,w:/p-q_r.s@t%");
}

}  // namespace
}  // namespace diffuse
