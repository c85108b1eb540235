// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <memory>

#include "e2e/runs.h"
#include "support/cost.h"

// The program where the system is not as it should be: each command ends as the README's exit codes
// say, with one clear message, and loses nothing.

namespace diffuse::test {
namespace {

const std::string kDigits = DIFFUSE_SOURCE_DIR "/data/digits";
const std::string kConfig = DIFFUSE_SOURCE_DIR "/configs/digits.yaml";

/// A training of points that takes as long as the start of the program.
Words tiny_train(const std::string& run, const Words& more = {}) {
  Words words{"train",
              DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml",
              "--threads",
              "1",
              "--run-dir",
              run};
  for (const char* set : {"mlp.hidden=8",
                          "mlp.layers=1",
                          "diffusion.steps=50",
                          "train.batch=16",
                          "train.steps=12",
                          "log.every_steps=1",
                          "checkpoint.every_steps=4",
                          "checkpoint.keep_last=100",
                          "sample.every_steps=6",
                          "sample.steps=2",
                          "validate.every_steps=4",
                          "validate.images=4",
                          "validate.timesteps=2",
                          "optim.decay=constant"})
    words = with(words, {"--set", set});
  return with(words, more);
}

/// The program, started by a shell that first does `before` and replaces itself by it; `after` are
/// redirections.
Outcome shell(const std::string& before,
              const Words& arguments,
              const std::string& after = "",
              const std::map<std::string, std::string>& environment = {},
              const std::string& folder = ".") {
  return run_program(
      with({"bash", "-c", before + "\nexec \"$0\" \"$@\" " + after, kProgram}, arguments),
      environment,
      folder);
}

const std::string kGone = "mkdir gone && cd gone && rmdir ../gone";

/// Without the right of root to write anywhere.
Outcome without_override(const Words& arguments) {
  Words words{kProgram};
  if (::geteuid() == 0)
    words = {"setpriv", "--bounding-set=-dac_override,-dac_read_search", kProgram};
  return run_program(with(words, arguments));
}

std::map<std::string, std::string> faults(std::map<std::string, std::string> more) {
  more["LD_PRELOAD"] = kPrograms + "/libtest_faults.so";
  more["ASAN_OPTIONS"] = "verify_asan_link_order=0:detect_leaks=0";
  return more;
}

int64_t count_of(const std::string& text, const std::string& what) {
  int64_t out = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++out;
  return out;
}

/// One message that holds `part`, the last that is said; of one line, but for a config's report,
/// which shows the place.
void expect_error(const Outcome& outcome, int exit, const std::string& part) {
  EXPECT_EQ(outcome.exit, exit) << outcome.err;
  EXPECT_EQ(count_of(outcome.err, "error: "), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("bug"), std::string::npos) << outcome.err;
  if (outcome.err.ends_with("Nothing was started.\n")) return;
  const std::string message =
      outcome.err.substr(std::min(outcome.err.find("error: "), outcome.err.size()));
  EXPECT_EQ(message.find('\n'), message.size() - 1) << outcome.err;
}

class Surroundings : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = std::make_unique<TempFolder>();
    const Outcome points = diffuse(tiny_train(points_run()));
    ASSERT_EQ(points.exit, 0) << points.err;
    fs::copy(
        points_run(), other_run(), fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    const Outcome pictures = diffuse(
        train_words(pictures_run(), {"--set", "train.steps=2", "--set", "sample.every_steps=0"}));
    ASSERT_EQ(pictures.exit, 0) << pictures.err;
  }
  static void TearDownTestSuite() { shared_.reset(); }
  /// 12 steps of points; 2 steps of pictures.
  static std::string points_run() { return *shared_ / "points"; }
  static std::string pictures_run() { return *shared_ / "pictures"; }
  /// The points once more.
  static std::string other_run() { return *shared_ / "other"; }

  /// Every command that needs no LibTorch, as it succeeds; `at`: a new folder for what it writes.
  static std::vector<Words> light_commands(const std::string& at) {
    return {
        {"check", kConfig},
        {"check", kConfig, "--json"},
        {"inspect", points_run()},
        {"inspect", pictures_run() + "/checkpoints/latest", "--json"},
        {"schedule", "-t", "linear", "-t", "cosine", "--svg", at + "/s.svg"},
        {"schedule", "-t", "{type: linear, beta_end: 0.02}", "--steps", "200", "--format", "csv"},
        {"explain", kConfig, "--set", "optim.lr=1.5e-4", "--svg", at + "/e.svg"},
        {"explain", kConfig, "--set", "diffusion.steps=200", "--format", "json"},
        {"compare", points_run(), other_run(), "--html", at + "/c.html"},
        {"compare", points_run(), other_run(), "--format", "csv"},
        {"config", "resolve", kConfig, "--set", "optim.lr=1.5e-4"},
        {"config", "schema"},
        {"config", "keys"},
        {"config", "defaults"},
        {"init", at + "/new"},
        {"completion", "bash"},
        {"--version"}};
  }
  /// One level of the bound, of one picture, into a file.
  static Words evaluated(const std::string& option, const std::string& file) {
    return {
        "evaluate", pictures_run(), "-n", "1", "--nll", "bound", "--timesteps", "1", option, file};
  }
  /// And those that need it.
  static std::vector<Words> heavy_commands(const std::string& at) {
    return {{"sample",
             pictures_run(),
             "-n",
             "2",
             "--steps",
             "2",
             "--threads",
             "1",
             "--out",
             at + "/a.png"},
            {"evaluate",
             pictures_run(),
             "--nll",
             "bound",
             "-n",
             "1",
             "--timesteps",
             "2",
             "--threads",
             "1",
             "--csv",
             at + "/e.csv"},
            {"bench",
             "train",
             DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml",
             "--set",
             "mlp.hidden=8",
             "--blocks",
             "1",
             "--steps",
             "1",
             "--threads",
             "1"}};
  }

 private:
  static inline std::unique_ptr<TempFolder> shared_;
};

/// The output of a command, with the folder that it writes to named the same each time.
std::string told(std::string text, const std::string& folder) {
  for (size_t at = text.find(folder); at != std::string::npos; at = text.find(folder))
    text.replace(at, folder.size(), "DIR");
  return text;
}

struct Oddity {
  const char* name;
  std::string before;
  std::string after;
  std::map<std::string, std::string> environment;
};

/// Where every command works as ever.
std::vector<Oddity> harmless(const std::string& locales) {
  return {{"a German locale, comma for the point",
           "",
           "",
           {{"LC_ALL", "de_DE.UTF-8"}, {"LOCPATH", locales}}},
          {"a Turkish locale, where I is not the capital of i",
           "",
           "",
           {{"LC_ALL", "tr_TR.UTF-8"}, {"LOCPATH", locales}}},
          {"a locale that there is not", "", "", {{"LC_ALL", "xx_YY.UTF-8"}, {"LANG", "\xff"}}},
          {"no environment", "unset HOME TERM PATH PWD OLDPWD SHLVL", "", {}},
          {"a time zone that there is not", "", "", {{"TZ", ":Nowhere/Nothing"}}},
          {"a time zone of 24 hours", "", "", {{"TZ", "<+24>-24"}}},
          {"no temporary folder", "", "", {{"TMPDIR", "/dev/full"}}},
          {"umask 077", "umask 077", "", {}},
          {"a small stack", "ulimit -s 64", "", {}},
          {"few open files", "ulimit -n 24", "", {}},
          {"closed stdin", "", "<&-", {}},
          {"closed stderr", "", "2>&-", {}},
          {"a full stderr", "", "2>/dev/full", {}},
          {"signals that are ignored, as nohup does", "trap '' HUP INT QUIT PIPE TERM", "", {}},
          {"a clock that was set back", "", "", faults({{"FAULTS_CLOCK", "-1500000000"}})},
          {"a clock far ahead", "", "", faults({{"FAULTS_CLOCK", "3000000000"}})}};
}

/// Locales are compiled as `locale-gen` would.
std::string compile_locales(const std::string& folder) {
  for (const std::string name : {"de_DE", "tr_TR"}) {
    const Outcome made =
        run_program({"localedef", "-i", name, "-f", "UTF-8", folder + "/" + name + ".UTF-8"});
    EXPECT_EQ(made.exit, 0) << made.err << "scripts/setup --tests installs the sources of locales";
  }
  // Without this every row of a locale would be one of the usual one.
  EXPECT_EQ(run_program({"bash", "-c", "printf %.1f 0,5"},
                        {{"LC_ALL", "de_DE.UTF-8"}, {"LOCPATH", folder}})
                .out,
            "0,5");
  return folder;
}

TEST_F(Surroundings, CommandsThatNeedNoLibTorchWorkAsEver) {
  const TempFolder folder;
  fs::create_directories(folder / "locales");
  const std::string locales = compile_locales(folder / "locales");
  fs::create_directories(folder / "usual");
  std::vector<std::string> usual;
  for (const Words& words : light_commands(folder / "usual")) {
    const Outcome outcome = diffuse(words);
    EXPECT_EQ(outcome.exit, 0) << words[0] << ": " << outcome.err;
    usual.push_back(told(outcome.out, folder / "usual"));
  }
  int number = 0;
  std::vector<Oddity> oddities = harmless(locales);
  oddities.push_back({"a working folder that was removed", kGone, "", {}});
  for (const Oddity& odd : oddities) {
    const std::string at = folder / std::to_string(++number);
    fs::create_directories(at);
    const std::vector<Words> commands = light_commands(at);
    for (size_t i = 0; i < commands.size(); ++i) {
      SCOPED_TRACE(std::string(odd.name) + ": " + commands[i][0] + " " + commands[i].back());
      const Outcome outcome = shell(odd.before, commands[i], odd.after, odd.environment, at);
      EXPECT_EQ(outcome.exit, 0) << outcome.err;
      EXPECT_EQ(told(outcome.out, at), usual[i]);
    }
    for (const char* written : {"s.svg", "e.svg", "c.html", "new/config.yaml"})
      EXPECT_EQ(told(read_text(at + "/" + written), at),
                told(read_text(folder / "usual" / written), folder / "usual"))
          << odd.name << ": " << written;
  }
}

TEST_F(Surroundings, TrainingGivesTheSameBits) {
  const TempFolder folder;
  fs::create_directories(folder / "locales");
  const std::string locales = compile_locales(folder / "locales");
  int number = 0;
  for (const Oddity& odd : harmless(locales)) {
    SCOPED_TRACE(odd.name);
    const std::string run = folder / (std::to_string(++number) + "/run");
    fs::create_directories(folder / std::to_string(number));
    // In two starts, so that what the first wrote is also read there.
    const Outcome outcome = shell(
        odd.before, tiny_train(run), odd.after, odd.environment, folder / std::to_string(number));
    EXPECT_EQ(outcome.exit, 0) << outcome.err;
    expect_same_run(points_run(), run, 12);
    EXPECT_EQ(status(run)["state"], "finished");
  }
}

TEST_F(Surroundings, TheOtherCommandsWorkInAllOfItAtOnce) {
  const TempFolder folder;
  fs::create_directories(folder / "locales");
  fs::create_directories(folder / "usual");
  fs::create_directories(folder / "odd");
  const std::string locales = compile_locales(folder / "locales");
  const std::map<std::string, std::string> environment{
      {"LC_ALL", "de_DE.UTF-8"}, {"LOCPATH", locales}, {"TZ", ":Nowhere/Nothing"}};
  const auto usual = heavy_commands(folder / "usual"), odd = heavy_commands(folder / "odd");
  for (size_t i = 0; i < odd.size(); ++i) {
    SCOPED_TRACE(odd[i][0]);
    const Outcome expected = diffuse(usual[i]);
    EXPECT_EQ(expected.exit, 0) << expected.err;
    const Outcome outcome = shell("unset HOME TERM PATH PWD; ulimit -s 64; ulimit -n 24; umask 077",
                                  odd[i],
                                  "<&- 2>&-",
                                  environment,
                                  folder.path());
    EXPECT_EQ(outcome.exit, 0);
    if (odd[i][0] == "evaluate") {
      EXPECT_EQ(told(outcome.out, folder / "odd"), told(expected.out, folder / "usual"));
    }
  }
  for (const char* written : {"a.png", "e.csv"})
    EXPECT_EQ(read_text(folder / "odd" / written), read_text(folder / "usual" / written))
        << written;
}

TEST_F(Surroundings, WhatIsWrittenObeysTheUmask) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(shell("umask 077", tiny_train(run, {"--set", "train.steps=1"})).exit, 0);
  for (const auto& entry : fs::recursive_directory_iterator(run))
    EXPECT_EQ(static_cast<int>(entry.symlink_status().permissions()) & 077,
              entry.is_symlink() ? 077 : 0)
        << entry.path();
  EXPECT_EQ(static_cast<int>(fs::status(run).permissions()) & 077, 0);
}

TEST_F(Surroundings, AResultThatStdoutDoesNotTakeIsAnError) {
  const TempFolder folder;
  const std::vector<Words> light = light_commands(folder.path());
  for (const std::string stdout_to : {">&-", ">/dev/full"})
    for (const Words& words : light) {
      SCOPED_TRACE(words[0] + " " + stdout_to);
      if (words[0] == "init") continue;  // its result is a file
      expect_error(shell("", words, stdout_to), 9, "cannot write to stdout: ");
    }
  for (const Words& words :
       {Words{"sample", pictures_run(), "-n", "1", "--steps", "2", "--out", "-"},
        heavy_commands(folder.path())[1],
        heavy_commands(folder.path())[2]}) {
    SCOPED_TRACE(words[0]);
    expect_error(shell("", words, ">/dev/full"), 9, "cannot write ");
  }
}

TEST_F(Surroundings, AReaderThatGoesAwayIsNoError) {
  const TempFolder folder;
  std::vector<Words> commands = light_commands(folder.path());
  commands.push_back(heavy_commands(folder.path())[1]);  // evaluate
  for (const Words& words : commands) {
    SCOPED_TRACE(words[0]);
    const Outcome outcome = run_program(
        with({"bash", "-c", "\"$0\" \"$@\" | true; exit ${PIPESTATUS[0]}", kProgram}, words));
    EXPECT_EQ(outcome.exit, 0);
    EXPECT_EQ(outcome.err.find("error"), std::string::npos) << outcome.err;
  }
}

TEST_F(Surroundings, TrainingOutlivesTheReaderOfItsMessages) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // The reader of stderr and stdout is gone before the first line.
  const Outcome outcome = run_program(
      with({"bash", "-c", "(\"$0\" \"$@\" --progress plain 2>&1; echo $? >code) | true", kProgram},
           tiny_train(run)),
      {},
      folder.path());
  EXPECT_EQ(outcome.exit, 0);
  ASSERT_TRUE(appears(folder / "code"));
  EXPECT_TRUE(comes_true([&] { return read_text(folder / "code") == "0\n"; }))
      << read_text(folder / "code");
  expect_same_run(points_run(), run, 12);
}

TEST_F(Surroundings, LibTorchIsNotLoadedInAFolderThatIsGone) {
  const TempFolder folder;
  std::vector<Words> commands = heavy_commands(folder.path());
  commands.push_back(tiny_train(folder / "run"));
  for (const Words& words : commands) {
    SCOPED_TRACE(words[0]);
    expect_error(shell(kGone, words, "", {}, folder.path()), 4, "the working folder is gone");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST_F(Surroundings, LittleMemoryIsSaid) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer needs more addresses than any of the limits";
  const TempFolder folder;
  for (const char* limit : {"150000", "400000", "700000"})
    for (const Words& words : {tiny_train(folder / "run"), heavy_commands(folder.path())[0]}) {
      SCOPED_TRACE(std::string(limit) + " KiB: " + words[0]);
      const Outcome outcome = shell(std::string("ulimit -v ") + limit, words);
      // Above the least it depends on the machine whether it is enough.
      if (limit == std::string("150000"))
        expect_error(outcome, 7, "not enough memory to load LibTorch");
      else if (outcome.exit != 0)
        expect_error(outcome, 7, "memory");
    }
}

TEST_F(Surroundings, FoldersThatMayNotBeWritten) {
  const TempFolder folder;
  const std::string closed = folder / "closed", file = folder / "file";
  fs::create_directories(closed);
  write_text(file, "");
  fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_exec);
  const struct {
    Words words;
    int exit;
  } rows[] = {
      {tiny_train(closed + "/run"), 4},
      {tiny_train(closed), 4},
      {tiny_train(file), 4},
      {tiny_train(file + "/run"), 4},
      {{"train", kConfig, "--root", closed + "/runs"}, 4},
      {{"sample", pictures_run(), "-n", "1", "--out", closed + "/a.png"}, 4},
      {{"sample", pictures_run(), "-n", "1", "--out", closed + "/a", "--singles"}, 4},
      {{"sample", pictures_run(), "-n", "1", "--out", file + "/a.png"}, 4},
      {evaluated("--csv", closed + "/a.csv"), 9},
      {evaluated("--svg", file + "/a.svg"), 9},
      {{"schedule", "-t", "linear", "--svg", closed + "/a.svg"}, 9},
      {{"explain", kConfig, "--svg", closed + "/a.svg"}, 9},
      {{"compare", points_run(), other_run(), "--svg", closed + "/a.svg"}, 9},
      {{"compare", points_run(), other_run(), "--html", file + "/a.html"}, 9},
      {{"init", closed + "/new"}, 4},
      {{"init", closed}, 9},
      {{"init", file}, 4},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.words[0] + " " + row.words.back());
    const Outcome outcome = without_override(row.words);
    expect_error(outcome, row.exit, "");
    EXPECT_NE(outcome.err.find(folder.path().string()), std::string::npos) << outcome.err;
    EXPECT_TRUE(outcome.err.find("Permission denied") != std::string::npos ||
                outcome.err.find("Not a directory") != std::string::npos ||
                outcome.err.find("File exists") != std::string::npos ||
                outcome.err.find("not a folder") != std::string::npos)
        << outcome.err;
  }
  EXPECT_TRUE(fs::is_empty(closed));
  EXPECT_EQ(read_text(file), "");
}

TEST_F(Surroundings, FilesThatMayNotBeRead) {
  const TempFolder folder;
  const std::string config = folder / "c.yaml", data = folder / "data";
  fs::copy_file(kConfig, config);
  fs::create_directories(data);
  for (const char* name : {"a.png", "b.png"})
    fs::copy_file(fs::directory_iterator(kDigits + "/3")->path(), data + "/" + name);
  fs::copy(
      points_run(), folder / "run", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  for (const std::string& closed : {config, data + "/a.png"})
    fs::permissions(closed, fs::perms::none);
  for (const Words& words : {Words{"check", config},
                             Words{"train", config},
                             Words{"config", "resolve", config},
                             Words{"explain", config},
                             Words{"bench", "train", config}}) {
    SCOPED_TRACE(words[0]);
    expect_error(without_override(words), 3, "Permission denied");
  }
  const Outcome check = without_override(
      {"check", kConfig, "--set", "data.path=" + data, "--set", "data.max_bad_fraction=0.5"});
  EXPECT_EQ(check.exit, 0) << check.err;
  EXPECT_NE((check.out + check.err).find("a.png: cannot be read: Permission denied"),
            std::string::npos)
      << check.out << check.err;
  fs::permissions(data, fs::perms::none);
  expect_error(
      without_override({"check", kConfig, "--set", "data.path=" + data}), 5, "Permission denied");
  expect_error(without_override({"inspect", data}), 6, "Permission denied");
  fs::permissions(data, fs::perms::owner_all);

  const std::string weights = folder / "run/checkpoints/step-000000012/model.safetensors";
  fs::permissions(weights, fs::perms::none);
  expect_error(without_override({"inspect", folder / "run/checkpoints/step-000000012"}),
               6,
               "Permission denied");
  const Outcome older =
      without_override({"sample", folder / "run", "--steps", "2", "--out", folder / "a.svg"});
  EXPECT_EQ(older.exit, 0) << older.err;
  EXPECT_NE(older.err.find("Permission denied"), std::string::npos) << older.err;
  const Outcome verified = without_override({"verify", folder / "run"});
  expect_error(verified, 6, "not known to be good");
  EXPECT_EQ((verified.out + verified.err).find("damaged"), std::string::npos) << verified.out;
  fs::permissions(folder / "run/checkpoints", fs::perms::none);
  for (const char* command : {"inspect", "sample", "evaluate"})
    expect_error(without_override({command, folder / "run"}), 6, "Permission denied");
  fs::permissions(folder / "run/checkpoints", fs::perms::owner_all);
}

TEST_F(Surroundings, LongNames) {
  const TempFolder folder;
  // 4,000 bytes of path in parts of at most 255: the system's limits are 4,096 and 255.
  std::string deep = folder.path().string();
  while (deep.size() + 256 < 4000 - 120) deep += "/" + std::string(255, 'd');
  const Outcome trained = diffuse(tiny_train(deep));
  EXPECT_EQ(trained.exit, 0) << trained.err;
  const Outcome again = diffuse(tiny_train(deep, {"--set", "train.steps=13"}));
  EXPECT_EQ(again.exit, 0) << again.err;
  EXPECT_EQ(diffuse({"inspect", deep}).exit, 0);
  const Outcome drawn = diffuse({"sample", deep, "--steps", "2", "--out", deep + "/a.svg"});
  EXPECT_EQ(drawn.exit, 0) << drawn.err;

  const std::string most = std::string(255, 'n'), longer = most + "n";
  EXPECT_EQ(diffuse(tiny_train(folder / most)).exit, 0);
  EXPECT_EQ(diffuse({"check", kConfig, "--set", "data.path=" + (folder / longer).string()}).exit,
            5);
  const std::string beyond =
      folder.path().string() + std::string(4200, '/') + "x" + std::string(100, 'y');
  const struct {
    Words words;
    int exit;
  } rows[] = {
      {tiny_train(folder / longer), 4},
      {tiny_train(beyond), 4},
      {{"train", kConfig, "--root", folder.path(), "--name", longer}, 4},
      {{"train", folder / longer}, 3},
      {{"train", beyond}, 3},
      {{"sample", folder / longer}, 6},
      {{"sample", beyond}, 6},
      {{"sample", pictures_run(), "-n", "1", "--out", (folder / longer).string() + ".png"}, 4},
      {{"inspect", folder / longer}, 5},
      {{"inspect", beyond}, 5},
      {{"compare", points_run(), folder / longer}, 4},
      {{"schedule", "-t", "linear", "--svg", folder / longer}, 9},
      {{"explain", kConfig, "--svg", beyond}, 9},
      {{"init", folder / longer}, 4}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.words[0]);
    expect_error(diffuse(row.words), row.exit, "File name too long");
  }
}

TEST_F(Surroundings, NamesOfAnyBytes) {
  for (const std::string name : {"caf\xc3\xa9 \xf0\x9f\x8e\xa8",
                                 "bad\xff\xfe utf8",
                                 "new\nline",
                                 "-dash",
                                 "a'b\"c $HOME `x`",
                                 "\x1b[31mred"}) {
    SCOPED_TRACE(name);
    const TempFolder folder;
    const std::string base = folder / name, run = base + "/run " + name, data = base + "/data";
    fs::create_directories(data);
    fs::copy_file(fs::directory_iterator(kDigits + "/3")->path(), data + "/" + name + ".png");
    const Outcome trained = diffuse(tiny_train(run));
    ASSERT_EQ(trained.exit, 0) << trained.err;
    expect_same_run(points_run(), run, 12);
    for (const Outcome& said :
         {trained,
          diffuse({"inspect", run}),
          diffuse({"inspect", run, "--json"}),
          diffuse({"inspect", data}),
          diffuse({"compare", run, points_run(), "--html", base + "/c.html"}),
          diffuse({"check",
                   kConfig,
                   "--set",
                   "data.path=" + (name.find_first_of("\n\"\xff\x1b") == std::string::npos
                                       ? "'" + data + "'"
                                       : kDigits)}),
          diffuse({"init", base + "/new"})}) {
      EXPECT_EQ(said.exit, 0) << said.err;
      EXPECT_EQ((said.out + said.err).find('\x1b'), std::string::npos) << said.out << said.err;
    }
  }
}

TEST_F(Surroundings, ImageFoldersWithMoreThanImages) {
  const TempFolder folder;
  const std::string data = folder / "data";
  fs::create_directories(data);
  fs::copy(kDigits + "/3", data + "/3", fs::copy_options::recursive);
  ASSERT_EQ(::mkfifo((data + "/fifo.png").c_str(), 0600), 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string name = data + "/socket.png";
  ASSERT_LT(name.size(), sizeof(address.sun_path));
  name.copy(address.sun_path, name.size());
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  fs::create_symlink("/dev/zero", data + "/device.png");
  fs::create_symlink("/proc/self/mem", data + "/proc.png");
  fs::create_symlink("self.png", data + "/self.png");
  fs::create_symlink("nowhere", data + "/dangling.png");
  fs::create_directory_symlink("..", data + "/3/up");
  fs::create_directory_symlink("3", data + "/again");
  write_text(data + "/bad\xff.png", "no picture");
  const Words settings{"--set",
                       "data.path=" + data,
                       "--set",
                       "data.labels=none",
                       "--set",
                       "data.max_bad_fraction=0.5"};
  const std::string run = folder / "run";
  const Outcome check = diffuse(with({"check", kConfig}, settings));
  EXPECT_EQ(check.exit, 0) << check.err;
  const Outcome trained = diffuse(train_words(
      run, with({"--set", "train.steps=1", "--set", "sample.every_steps=0"}, settings)));
  ::close(listener);
  EXPECT_EQ(trained.exit, 0) << trained.err;
  const std::string report = read_text(run + "/data_report.jsonl");
  for (const char* part :
       {"\"fifo.png\",\"reason\":\"a pipe, not a file\"",
        "\"socket.png\",\"reason\":\"a socket, not a file\"",
        "\"device.png\",\"reason\":\"a device, not a file\"",
        "\"self.png\",\"reason\":\"Too many levels of symbolic links\"",
        "\"dangling.png\",\"reason\":\"No such file or directory (a dangling link)\"",
        "\"3/up\",\"reason\":\"a link to a folder that is already read\"",
        "\"again\",\"reason\":\"a link to a folder that is already read\"",
        "proc.png"})
    EXPECT_NE(report.find(part), std::string::npos) << part << "\n" << report;
}

TEST_F(Surroundings, WhatIsNoFileWhereAFileIsNamed) {
  const TempFolder folder;
  const std::string fifo = folder / "fifo", loop = folder / "loop", dir = folder / "dir";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink("loop", loop);
  fs::create_directory(dir);
  for (const std::string& place : {fifo,
                                   loop,
                                   dir,
                                   std::string("/dev/null"),
                                   std::string("/dev/zero"),
                                   folder.path().string() + "/absent/x"}) {
    SCOPED_TRACE(place);
    const bool folder_is_fine = place == dir;
    for (const Words& words : {Words{"check", place},
                               Words{"config", "resolve", place},
                               Words{"explain", place},
                               Words{"train", place},
                               Words{"bench", "train", place}}) {
      SCOPED_TRACE(words[0]);
      expect_error(diffuse(words), 3, place);
    }
    for (const Words& words : {Words{"sample", place},
                               Words{"evaluate", place},
                               tiny_train(folder / "run", {"--resume", place})}) {
      SCOPED_TRACE(words[0]);
      expect_error(diffuse(words), 6, place);
    }
    expect_error(diffuse({"inspect", place}), 5, place);
    expect_error(diffuse({"compare", points_run(), place}), 4, place);
    if (!folder_is_fine)
      expect_error(diffuse({"check", kConfig, "--set", "data.path=" + place}), 5, place);
    expect_error(diffuse({"schedule", "-t", "{type: table, file: " + place + "}"}), 3, place);
  }
  EXPECT_FALSE(fs::exists(folder / "run"));
}

TEST_F(Surroundings, MissingParentsAreMade) {
  const TempFolder folder;
  EXPECT_EQ(diffuse(tiny_train(folder / "a/b/c")).exit, 0);
  EXPECT_EQ(diffuse({"init", folder / "d/e/f"}).exit, 0);
  EXPECT_EQ(diffuse({"sample", points_run(), "--steps", "2", "--out", folder / "g/h/i.svg"}).exit,
            0);
  EXPECT_TRUE(fs::exists(folder / "g/h/i.svg"));
  for (const Words& words :
       {Words{"schedule", "-t", "linear", "--svg", folder / "x/y.svg"},
        Words{"explain", kConfig, "--svg", folder / "x/y.svg"},
        Words{"compare", points_run(), other_run(), "--html", folder / "x/y.html"}})
    expect_error(diffuse(words), 9, "No such file or directory");
}

// ---- A full disk ----

TEST_F(Surroundings, AFullDiskStopsNoTraining) {
  const TempFolder folder;
  const struct {
    const char* path;
    int error;
    const char* said;  // the start of the one warning
  } rows[] = {{"/metrics.jsonl", ENOSPC, "cannot write "},
              {"/log.txt", EDQUOT, "cannot write "},
              {"/tensorboard/", EIO, "cannot write "},
              {"/status.json", ENOSPC, "cannot write "},
              {"/plots/", EDQUOT, "no plot: "},
              {"/validation/", EIO, "no validation file: "},
              {"/samples/", ENOSPC, "no sample grid: "}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.path);
    const std::string run = folder / ("run" + std::to_string(&row - rows));
    const Outcome outcome = run_program(
        with({kProgram}, tiny_train(run)),
        faults({{"FAULTS_PATH", row.path}, {"FAULTS_ERROR", std::to_string(row.error)}}));
    EXPECT_EQ(outcome.exit, 0) << outcome.err;
    EXPECT_EQ(count_of(outcome.err, "warning: " + std::string(row.said)), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(std::strerror(row.error)), std::string::npos) << outcome.err;
    expect_same_checkpoint(points_run(), run, 12);
  }
}

TEST_F(Surroundings, WhatAFullDiskHeldBackIsWrittenLater) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome outcome =
      run_program(with({kProgram}, tiny_train(run)),
                  faults({{"FAULTS_PATH", "/metrics.jsonl"}, {"FAULTS_COUNT", "5"}}));
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  EXPECT_EQ(metrics(run), metrics(points_run()));
}

TEST_F(Surroundings, ARunGoesBackOnAFullDisk) {
  const TempFolder folder;
  // The loss is infinite when one of the two least noisy of 50 steps is drawn: two in a row are too
  // many.
  write_text(folder / "weights.txt", "-20 1\n5.0 1\n5.1 1e300\n");
  const std::string table = "{type: table, file: " + (folder / "weights.txt").string() + "}";
  const auto words = [&](const std::string& name) {
    Words out = tiny_train(folder / name);
    for (const std::string& set : {std::string("diffusion.schedule=cosine"),
                                   "diffusion.weighting=" + table,
                                   std::string("optim.max_skips_in_row=2"),
                                   std::string("optim.max_rollbacks=50"),
                                   std::string("train.batch=8"),
                                   std::string("train.steps=20"),
                                   std::string("validate.every_steps=0")})
      out = with(out, {"--set", set});
    return out;
  };
  const Outcome usual = diffuse(words("usual"));
  ASSERT_EQ(usual.exit, 0) << usual.err;
  ASSERT_GT(count_of(usual.err, "rolled back from step"), 0) << usual.err;
  // No room for another file beside metrics.jsonl.
  const Outcome full = run_program(with({kProgram}, words("full")),
                                   faults({{"FAULTS_PATH", "/metrics.jsonl.tmp-"}}));
  EXPECT_EQ(full.exit, 0) << full.err;
  EXPECT_EQ(count_of(full.err, "cannot"), 0) << full.err;
  expect_same_run(folder / "usual", folder / "full", 20);
  // No room for a line of metrics, from the first until some after it went back to a checkpoint.
  const std::string back = "to the checkpoint of step ";
  const size_t place = usual.err.find(back);
  ASSERT_NE(place, std::string::npos) << usual.err;
  const int64_t lines = count_of(usual.err.substr(0, place), "train ");
  const Outcome later = run_program(
      with({kProgram}, words("later")),
      faults({{"FAULTS_PATH", "/metrics.jsonl"}, {"FAULTS_COUNT", std::to_string(lines + 2)}}));
  EXPECT_EQ(later.exit, 0) << later.err;
  EXPECT_EQ(count_of(later.err.substr(later.err.find(back)), "cannot write "), 1) << later.err;
  expect_same_run(folder / "usual", folder / "later", 20);
}

TEST_F(Surroundings, ASaveThatFailsIsTriedAgainAtTheNextInterval) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // Each attempt ends at its first write.
  const Outcome outcome =
      run_program(with({kProgram}, tiny_train(run)),
                  faults({{"FAULTS_PATH", "/.tmp-step-"}, {"FAULTS_COUNT", "2"}}));
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  EXPECT_EQ(count_of(outcome.err, "was not written"), 2) << outcome.err;
  EXPECT_EQ(saved_steps(run), std::vector<int64_t>({12}));
  expect_same_run(points_run(), run, 12);
}

TEST_F(Surroundings, TheThirdSaveInARowThatFailsEndsTheRun) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Words longer{"--set", "train.steps=1000"};
  ASSERT_EQ(diffuse(tiny_train(run, {"--set", "train.steps=4"})).exit, 0);
  const Outcome outcome = run_program(with({kProgram}, tiny_train(run, longer)),
                                      faults({{"FAULTS_PATH", "/.tmp-step-"}}));
  expect_error(outcome, 9, "No space left on device");
  EXPECT_NE(outcome.err.find("goes on from checkpoints/step-000000004"), std::string::npos)
      << outcome.err;
  EXPECT_EQ(status(run)["step"], 16);
  EXPECT_EQ(status(run)["state"], "failed");
  EXPECT_EQ(status(run)["exit"], 9);
  EXPECT_EQ(saved_steps(run), std::vector<int64_t>({4}));
  ASSERT_EQ(diffuse(tiny_train(run)).exit, 0);
  expect_same_run(points_run(), run, 12);
}

TEST_F(Surroundings, TheLastSaveIsTriedThreeTimes) {
  const TempFolder folder;
  for (const char* count : {"2", "3"}) {
    SCOPED_TRACE(count);
    const std::string run = folder / count;
    const Outcome outcome =
        run_program(with({kProgram}, tiny_train(run, {"--set", "train.steps=3"})),
                    faults({{"FAULTS_PATH", "/.tmp-step-"}, {"FAULTS_COUNT", count}}));
    if (std::string(count) == "2") {
      EXPECT_EQ(outcome.exit, 0) << outcome.err;
      EXPECT_EQ(saved_steps(run), std::vector<int64_t>({3}));
    } else {
      expect_error(outcome, 9, "tried 3 times");
      EXPECT_TRUE(saved_steps(run).empty());
    }
  }
}

TEST_F(Surroundings, AFolderThatIsOutOfReachForAMomentIsNotGone) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome outcome = run_program(with({kProgram}, tiny_train(run, {"--set", "train.steps=3"})),
                                      faults({{"FAULTS_LOOK", "/run.lock"},
                                              {"FAULTS_ERROR", std::to_string(ESTALE)},
                                              {"FAULTS_COUNT", "2"}}));
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  EXPECT_EQ(saved_steps(run), std::vector<int64_t>({3}));
  EXPECT_EQ(count_of(outcome.err, "cannot look for " + run + "/run.lock: "), 2) << outcome.err;
}

TEST_F(Surroundings, ARequestThatFailsIsOnlyToldOf) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome outcome = run_program(with({"bash",
                                            "-c",
                                            R"("$0" "$@" & child=$!
             until [[ -s "$RUN/metrics.jsonl" ]]; do sleep 0.01; done
             for i in 1 2 3 4 5; do kill -HUP $child; sleep 0.1; done
             kill -KILL $child; wait $child; exit 0)",
                                            kProgram},
                                           tiny_train(run,
                                                      {"--set",
                                                       "train.steps=100000000",
                                                       "--set",
                                                       "checkpoint.every_steps=100000000",
                                                       "--set",
                                                       "log.every_steps=100",
                                                       "--set",
                                                       "validate.every_steps=0",
                                                       "--set",
                                                       "sample.every_steps=0"})),
                                      faults({{"FAULTS_PATH", "/.tmp-step-"}, {"RUN", run}}));
  EXPECT_EQ(outcome.exit, 0);
  EXPECT_GE(count_of(outcome.err, "training goes on"), 4) << outcome.err;
  EXPECT_EQ(count_of(outcome.err, "error: "), 0) << outcome.err;
}

TEST_F(Surroundings, NoStartWithoutRoomForTwoCheckpoints) {
  const TempFolder folder;
  // Four sets of numbers as large as the weights, and 64 KiB for the rest.
  const uint64_t one =
      4 * fs::file_size(checkpoint(points_run(), 12) + "/model.safetensors") + (64 << 10);
  const auto start = [&](const Words& words, uint64_t free) {
    return run_program(with({kProgram}, words), faults({{"FAULTS_FREE", std::to_string(free)}}));
  };
  for (const uint64_t free : {uint64_t{0}, uint64_t{1234}, one}) {
    const Outcome refused = start(tiny_train(folder / "run"), free);
    expect_error(refused,
                 9,
                 std::to_string(free) + " bytes free, and two checkpoints of this network take ");
    EXPECT_NE(refused.err.find("--run-dir"), std::string::npos) << refused.err;
    EXPECT_FALSE(fs::exists(folder / "run/config.yaml"));
  }
  const Outcome numbered = start(
      {"train", DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml", "--root", folder / "runs"}, 1234);
  expect_error(numbered, 9, "run.root");
  EXPECT_FALSE(fs::exists(folder / "runs"));
  const Outcome enough = start(tiny_train(folder / "run"), 2 * one);
  EXPECT_EQ(enough.exit, 0) << enough.err;
  // A run that goes on has one of the two.
  const Outcome resumed = start(tiny_train(folder / "run", {"--set", "train.steps=13"}), one);
  EXPECT_EQ(resumed.exit, 0) << resumed.err;
  expect_error(start(tiny_train(folder / "run", {"--set", "train.steps=14"}), 1234),
               9,
               "1234 bytes free, and the next checkpoint takes ");
}

TEST_F(Surroundings, ResultsOnAFullDisk) {
  const TempFolder folder;
  const struct {
    Words words;
    const char* path;
  } rows[] = {
      {{"sample", pictures_run(), "-n", "1", "--steps", "2", "--out", folder / "a.png"}, "/a.png"},
      {{"sample", points_run(), "-n", "2", "--steps", "2", "--singles", "--out", folder / "b"},
       "/points.csv"},
      {evaluated("--csv", folder / "e.csv"), "/e.csv"},
      {{"schedule", "-t", "linear", "--svg", folder / "s.svg"}, "/s.svg"},
      {{"explain", kConfig, "--svg", folder / "x.svg"}, "/x.svg"},
      {{"compare", points_run(), other_run(), "--html", folder / "c.html"}, "/c.html"},
      {{"compare", points_run(), other_run(), "--svg", folder / "c.svg"}, "/c.svg"},
      {{"init", folder / "new"}, "/config.yaml"}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.words[0]);
    const Outcome outcome =
        run_program(with({kProgram}, row.words), faults({{"FAULTS_PATH", folder.path().string()}}));
    EXPECT_TRUE(outcome.exit == 9 || (row.words[0] == "init" && outcome.exit == 4))
        << outcome.exit << outcome.err;
    EXPECT_NE(outcome.err.find("No space left on device"), std::string::npos) << outcome.err;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path()))
      EXPECT_FALSE(entry.is_regular_file()) << entry.path() << " was left";
  }
}

TEST_F(Surroundings, AProofWithoutRoomSaysWhereToFindSome) {
  const TempFolder folder;
  const Words words{"verify", "--resume", kConfig, "--threads", "1", "--steps", "20"};
  const struct {
    std::map<std::string, std::string> fault;
    int exit;
    const char* says;
  } rows[] = {
      {{{"FAULTS_PATH", folder.path().string()}}, 4, "config.yaml: No space left on device"},
      {{{"FAULTS_FREE", "1234"}}, 9, "1234 bytes free"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.says);
    auto environment = faults(row.fault);
    environment["TMPDIR"] = folder.path().string();
    const Outcome outcome = run_program(with({kProgram}, words), environment);
    expect_error(outcome, row.exit, row.says);
    // Of the training's messages the error, not its warning of a long warm-up.
    const std::string error = outcome.err.substr(outcome.err.find("error: "));
    EXPECT_NE(error.find("--out DIR"), std::string::npos) << error;
    EXPECT_EQ(error.find("warmup"), std::string::npos) << error;
    EXPECT_EQ(count_of(error, "\n"), 1) << error;
    EXPECT_TRUE(fs::is_empty(folder.path()));
  }
}

TEST_F(Surroundings, AProofNeedsNoRoomForMessages) {
  const TempFolder folder;
  Words words{"verify", "--resume", DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml", "--json"};
  for (const char* set : {"mlp.hidden=8", "mlp.layers=1", "train.batch=16"})
    words = with(words, {"--set", set});
  words = with(words, {"--threads", "1", "--interruptions", "1", "--steps", "2000"});
  const std::string out = folder / "out";
  const Outcome kept = diffuse(with(words, {"--out", out}));
  EXPECT_EQ(kept.exit, 0) << kept.err;
  EXPECT_NE(read_text(out + "/whole.txt").find("training in " + out), std::string::npos);
  const Outcome outcome =
      run_program(with({kProgram}, words), faults({{"FAULTS_PATH", "/whole.txt"}}));
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["starts"].size(), 2u) << outcome.out;
}

TEST_F(Surroundings, ARealDiskThatFillsUp) {
  // A file system of one megabyte, seen by this process alone.
  const TempFolder folder;
  const std::string disk = folder / "disk";
  fs::create_directories(disk);
  const std::string script = R"(set -e
    mount -t tmpfs -o size=1m none "$DISK"
    head -c 1100000 /dev/zero >"$DISK/ballast" 2>/dev/null || true
    rm -f "$DISK/ballast"; head -c 500000 /dev/zero >"$DISK/ballast"
    "$0" "$@" || code=$?
    cp -r "$DISK/run" "$KEPT"
    exit ${code:-0})";
  const Outcome mounted = run_program({"unshare", "-m", "mount", "-t", "tmpfs", "none", disk});
  if (mounted.exit != 0) {
    // Only root of a machine or of a container with that right can; others have no such test.
    std::cerr << "ARealDiskThatFillsUp was skipped: " << mounted.err;
    GTEST_SKIP() << "no file system can be mounted here: " << mounted.err;
  }
  const Outcome outcome = run_program(
      with({"unshare", "-m", "bash", "-c", script, kProgram},
           tiny_train(disk + "/run", {"--set", "train.steps=120", "--set", "log.plots=false"})),
      {{"DISK", disk}, {"KEPT", folder / "kept"}});
  expect_error(outcome, 9, "No space left on device");
  const std::string run = folder / "kept";
  const std::vector<int64_t> saved = saved_steps(run);
  ASSERT_FALSE(saved.empty());
  EXPECT_EQ(diffuse({"inspect", checkpoint(run, static_cast<int>(saved.back()))}).exit, 0);
  // Where there is room again, it goes on as if nothing had happened.
  ASSERT_EQ(diffuse(tiny_train(run, {"--set", "train.steps=120", "--set", "log.plots=false"})).exit,
            0);
  ASSERT_EQ(diffuse(tiny_train(folder / "straight",
                               {"--set", "train.steps=120", "--set", "log.plots=false"}))
                .exit,
            0);
  expect_same_checkpoint(folder / "straight", run, 120);
}

// ---- Stops ----

TEST_F(Surroundings, AStopDoesNotWaitForAValidation) {
  const TempFolder folder;
  const Words settings{"--set",
                       "checkpoint.every_steps=1",
                       "--set",
                       "train.steps=6",
                       "--set",
                       "validate.every_steps=4",
                       "--set",
                       "validate.images=300",
                       "--set",
                       "validate.timesteps=49",
                       "--set",
                       "sample.batch=10",
                       "--set",
                       "sample.every_steps=0"};
  const std::string run = folder / "run", straight = folder / "straight";
  Background program(tiny_train(run, settings));
  ASSERT_TRUE(appears(checkpoint(run, 3)));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the validation takes a second
  EXPECT_EQ(program.finish(SIGTERM), 75);
  EXPECT_EQ(saved_steps(run).back(), 4);
  EXPECT_EQ(logged_lines(run), 3);
  ASSERT_EQ(diffuse(tiny_train(run, settings)).exit, 0);
  ASSERT_EQ(diffuse(tiny_train(straight, settings)).exit, 0);
  expect_same_run(straight, run, 6);
  EXPECT_EQ(read_text(run + "/validation/step-000000004.json"),
            read_text(straight + "/validation/step-000000004.json"));
}

TEST_F(Surroundings, AStopDoesNotWaitForAllMicroBatches) {
  const TempFolder folder;
  const std::string run = folder / "run";
  // A step of 65,536 micro-batches would take minutes.
  const Words huge{"--set", "train.batch=65536", "--set", "train.micro_batch=1"};
  Background program(tiny_train(run, with({"--set", "train.steps=2"}, huge)));
  ASSERT_TRUE(appears(run + "/status.json"));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(program.finish(SIGTERM), 75);
  EXPECT_TRUE(saved_steps(run).empty());
  EXPECT_EQ(status(run)["step"], 0);
}

}  // namespace
}  // namespace diffuse::test
