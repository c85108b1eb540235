// SPDX-License-Identifier: MIT
#include "io/run_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
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
  fs::create_directory(root / "digits2900");
  fs::create_directory(root / "digits-9999999999");
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

  // What is in a run folder, and nothing else, is one.
  EXPECT_TRUE(contains(message_of([&] { RunFolder::open(temporary.path(), true); }),
                       "holds other files and is no run folder"));
  for (const char* name : {"checkpoints", "samples", "plots", "tensorboard"}) {
    fs::create_directory(temporary / "d");
    fs::create_directory(temporary / "d" / name);
  }
  spill(temporary / "d" / "diffuse.schema.json", "{}");
  spill(temporary / "d" / "config.yaml", "version: 1\n");
  EXPECT_NO_THROW(RunFolder::open(temporary / "d", true));

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

TEST(RunFolder, RacingPairsHaveOneWinnerWhoIsNamed) {
  const TempFolder temporary;
  char host[256] = {};
  ASSERT_EQ(::gethostname(host, sizeof(host) - 1), 0);
  // One folder: what a killed winner left there must not be taken for the name of the next.
  const fs::path path = temporary / "r";
  for (int round = 0; round < 100; ++round) {
    int gate[2], result[2];
    ASSERT_EQ(::pipe(gate), 0);
    ASSERT_EQ(::pipe(result), 0);
    const auto racer = [&] {
      ::close(gate[1]);
      char end;
      if (::read(gate[0], &end, 1) != 0) return 1;
      std::string said;
      try {
        const RunFolder run = RunFolder::open(path, true);
        ::pause();  // holds it until it is killed
      } catch (const Error& e) {
        said = e.what();
        if (::write(result[1], said.data(), said.size()) < 0) return 2;
        return static_cast<int>(e.code);
      }
      return 0;
    };
    const pid_t a = fork_child(racer), b = fork_child(racer);
    ::close(gate[0]);
    ::close(gate[1]);
    ::close(result[1]);
    int status = 0;
    const pid_t loser = ::waitpid(-1, &status, 0), winner = loser == a ? b : a;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 4) << status;
    char said[1024] = {};
    EXPECT_GT(::read(result[0], said, sizeof(said) - 1), 0);
    ::close(result[0]);
    const std::string holder = "pid " + std::to_string(winner) + " on " + host;
    EXPECT_TRUE(contains(said, holder)) << said;
    ::kill(winner, SIGKILL);
    EXPECT_EQ(wait_for(winner), -SIGKILL);
    EXPECT_NO_THROW(RunFolder::open(path, true));
  }
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

TEST(RunFolder, AnotherConfigIsNotOverwritten) {
  const TempFolder temporary;
  const fs::path path = temporary / "r";
  fs::create_directory(path);
  spill(path / "config.yaml", "mine\n");  // as diffuse init, and an editor
  const RunFolder run = RunFolder::open(path, true);
  RunRecord record;
  record.config = "other\n";
  EXPECT_TRUE(contains(message_of([&] { run.write_record(record); }),
                       (path / "config.yaml").string() + " is another config than this run's"));
  EXPECT_EQ(slurp(path / "config.yaml"), "mine\n");
  EXPECT_FALSE(fs::exists(path / "command.txt"));
  record.config = "mine\n";
  run.write_record(record);
  // Once it is the run's own, a run that goes on may bring another.
  record.config = "other\n";
  run.write_record(record);
  EXPECT_EQ(slurp(path / "config.yaml"), "other\n");
}

TEST(RunFolder, MetricsOfBeforeAreSetAside) {
  const TempFolder temporary;
  const RunFolder run = RunFolder::open(temporary / "r", false);
  testing::internal::CaptureStderr();
  run.set_aside_metrics();
  spill(run.metrics(), "");
  run.set_aside_metrics();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "there is nothing to keep";
  for (const std::string aside : {"metrics-before.jsonl", "metrics-before-2.jsonl"}) {
    spill(run.metrics(), aside);
    testing::internal::CaptureStderr();
    run.set_aside_metrics();
    EXPECT_TRUE(contains(testing::internal::GetCapturedStderr(), "are now " + aside));
    EXPECT_FALSE(fs::exists(run.metrics()));
  }
  for (const std::string aside : {"metrics-before.jsonl", "metrics-before-2.jsonl"})
    EXPECT_EQ(slurp(run.path() / aside), aside);
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

  // The exit code is news, too.
  run.write_status({"finished", 100, 100, 0.0, "checkpoints/step-000000100", 9});
  EXPECT_EQ(status().at("exit"), 9);

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
  // What others wrote there: numbers that no integer is do not count, nor does what has no end.
  std::ofstream(root / "run" / "status.json", std::ios::trunc)
      << R"({"state":"finished","step":1e300,"of":-2.5,"exit":1e99,"eta":[]})";
  const auto odd = read_status(root / "run");
  ASSERT_TRUE(odd);
  EXPECT_EQ(odd->state, "finished");
  EXPECT_EQ(odd->step, 0);
  EXPECT_EQ(odd->of, 0);
  EXPECT_FALSE(odd->exit);
  EXPECT_FALSE(odd->eta_seconds);
  std::ofstream(root / "run" / "status.json", std::ios::trunc)
      << "{\"state\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
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
  const fs::path left[] = {path / "status.json.tmp-123",
                           path / "plots" / "train.svg.tmp-7",
                           path / "samples" / "step-000000001.png.tmp-8",
                           path / "validation" / "step-000000001.json.tmp-9"};
  for (const fs::path& file : left) {
    fs::create_directories(file.parent_path());
    spill(file, "{");
  }
  spill(path / "notes.tmp-old", "mine");
  spill(path / "notes.tmp-", "mine");
  spill(path / "samples" / "mine.png", "mine");
  const RunFolder run = RunFolder::open(path, true);
  for (const fs::path& file : left) EXPECT_FALSE(fs::exists(file)) << file;
  EXPECT_TRUE(fs::exists(path / "samples" / "mine.png"));
  EXPECT_FALSE(fs::exists(path / "checkpoints" / ".tmp-step-000000001-7"));
  EXPECT_TRUE(fs::exists(path / "notes.tmp-old"));
  EXPECT_TRUE(fs::exists(path / "notes.tmp-"));
}

TEST(RunFolder, CommandsAreQuotedForTheShell) {
  EXPECT_EQ(quote_command({"a", "", "b c", "$x", "it's", "k=v,w:/p-q_r.s@t%"}),
            "a '' 'b c' '$x' 'it'\\''s' k=v,w:/p-q_r.s@t%");
}

}  // namespace
}  // namespace diffuse
