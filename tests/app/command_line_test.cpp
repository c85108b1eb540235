// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "app/run.h"
#include "data/image.h"
#include "io/checkpoint.h"

namespace diffuse::test {
namespace {

using Json = nlohmann::json;

const std::string kDigits = DIFFUSE_SOURCE_DIR "/configs/digits.yaml";

/// A command line that is wrong: one line on stderr, nothing on stdout, exit 2.
void expect_usage(const std::vector<std::string>& arguments, const std::string& message) {
  const Outcome outcome = diffuse(arguments);
  EXPECT_EQ(outcome.exit, 2) << outcome.err;
  EXPECT_EQ(outcome.err, message + "\n");
  EXPECT_EQ(outcome.out, "");
}

TEST(CommandLine, Mistakes) {
  expect_usage({"trian"},
               "error: unknown command 'trian'; did you mean 'train'?; see diffuse --help");
  expect_usage({"train"}, "error: CONFIG is required; see diffuse train --help");
  expect_usage(
      {"train", "c.yaml", "--devise", "cpu"},
      "error: unknown option '--devise'; did you mean '--device'?; see diffuse train --help");
  expect_usage(
      {"train", "c.yaml", "--devise=cpu"},
      "error: unknown option '--devise'; did you mean '--device'?; see diffuse train --help");
  expect_usage(
      {"train", "c.yaml", "--thread", "1"},
      "error: unknown option '--thread'; did you mean '--threads'?; see diffuse train --help");
  expect_usage({"train", "a.yaml", "b.yaml"},
               "error: unexpected argument 'b.yaml'; see diffuse train --help");
  expect_usage({"config", "shema"},
               "error: unknown command 'shema'; did you mean 'schema'?; see diffuse config --help");
  expect_usage(
      {"config"},
      "error: config needs one of: schema, defaults, keys, resolve; see diffuse config --help");
  expect_usage(
      {"sample", "x", "-n", "0"},
      "error: --count: must be an integer from 1 to 1000000, got '0'; see diffuse sample --help");
  expect_usage({"sample", "x", "-n", "many"},
               "error: --count: must be an integer from 1 to 1000000, got 'many'; see diffuse "
               "sample --help");
  expect_usage({"sample", "x", "--weights", "emma"},
               "error: --weights: must be one of ema, raw, got 'emma'; did you mean 'ema'?; see "
               "diffuse sample --help");
  expect_usage(
      {"sample", "x", "--variance", "fixed"},
      "error: --variance: must be one of fixed_small, fixed_large, learned, learned_range, "
      "got 'fixed'; see "
      "diffuse sample --help");
  expect_usage({"sample", "x", "--grid", "8"},
               "error: --grid must be ROWSxCOLUMNS like 8x8, each 1 to 1000, got '8'");
  expect_usage({"sample", "x", "--grid", "2x2", "-n", "5"},
               "error: --grid 2x2 has 4 cells, too few for --count 5");
  expect_usage({"sample", "x", "--clip", "--no-clip"},
               "error: --clip and --no-clip exclude each other");
  expect_usage({"train", kDigits, "--stop-after", "soon"},
               "error: --stop-after must be a duration like 3h50m, 90m or 2d, got 'soon'");
  expect_usage({"train", kDigits, "--stop-after", "50m3h"},
               "error: --stop-after must be a duration like 3h50m, 90m or 2d, got '50m3h'");
  expect_usage({"train", kDigits, "--allow-change", "horse"},
               "error: --allow-change: unknown key 'horse'; diffuse config keys lists them");
  expect_usage({"train", kDigits, "--allow-change", "optim.lrr"},
               "error: --allow-change: unknown key 'optim.lrr'; did you mean 'optim.lr'?");
  expect_usage({"--color", "sometimes", "config", "keys"},
               "error: --color: must be one of auto, always, never, got 'sometimes'; see diffuse "
               "config keys --help");
  expect_usage(
      {"--threads", "4097", "config", "keys"},
      "error: --threads: must be an integer from 0 to 4096, got '4097'; see diffuse config keys "
      "--help");
  for (const std::string command : {"train", "sample", "init"})
    expect_usage(
        {command, "x", "--json"},
        "error: --json goes with --version, or behind check, inspect or verify; see diffuse " +
            command + " --help");
  expect_usage(
      {"completion", "tcsh"},
      "error: SHELL: must be one of bash, zsh, fish, got 'tcsh'; see diffuse completion --help");
}

TEST(CommandLine, MistakesThatAreFoundBeforeLibTorchIsLoaded) {
  expect_usage({"sample", "x", "--device", "gpu"},
               "error: --device must be auto, cpu, cuda or cuda:N, got 'gpu'");
  expect_usage({"sample", "x", "--seed", "abc"},
               "error: --seed must be an integer of at least 0, got 'abc'");
  expect_usage({"sample", "x", "--field", "1,b"},
               "error: --field must be steps of the chain like 0,100,400, got '1,b' (write it last "
               "to draw it at six steps)");
  expect_usage({"evaluate", "x", "--device", "gpu"},
               "error: --device must be auto, cpu, cuda or cuda:N, got 'gpu'");
  for (const char* tolerance : {"1", "1e-7"})
    expect_usage({"evaluate", "x", "--tol", tolerance},
                 "error: --tol must be from 1e-6 (below, the rounding of float32 shows) to 0.1");
  expect_usage({"evaluate", "x", "--clip", "--no-clip"},
               "error: --clip and --no-clip exclude each other; without them both are reported");
  expect_usage({"evaluate", "x", "--probes", "2", "--exact-trace"},
               "error: --probes and --exact-trace exclude each other");
  for (const std::string option : {"--csv", "--svg"})
    expect_usage({"evaluate", "x", "--nll", "ode", option, "f"},
                 "error: " + option + " shows the bound's terms; use --nll bound or both");
  expect_usage({"train", kDigits, "--stop-after", "0"},
               "error: --stop-after must be a duration like 3h50m, 90m or 2d, got '0'");
  const struct {
    std::vector<std::string> words;
    std::string variable, option;
  } rows[] = {{{"sample", "x"}, "DIFFUSE_DEVICE", "--device"},
              {{"sample", "x"}, "DIFFUSE_SEED", "--seed"},
              {{"evaluate", "x"}, "DIFFUSE_DEVICE", "--device"},
              {{"train", kDigits}, "DIFFUSE_STOP_AFTER", "--stop-after"}};
  for (const auto& row : rows) {
    const Outcome outcome = diffuse(row.words, {{row.variable, "gpu"}});
    EXPECT_EQ(outcome.exit, 2) << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("error: " + row.option + " must be ")) << outcome.err;
    EXPECT_TRUE(outcome.err.ends_with("got 'gpu' (from " + row.variable + ")\n")) << outcome.err;
  }
}

TEST(CommandLine, GridsAndDurationsThatAreNone) {
  for (const char* grid : {"8", "x8", "8x", "0x8", "8x0", "1001x1", "1x1001", "8x8x8", "-1x8"}) {
    const Outcome o = diffuse({"sample", "x", "--grid", grid});
    EXPECT_EQ(o.exit, 2) << grid << o.err;
    EXPECT_NE(o.err.find("--grid"), std::string::npos) << o.err;
  }
  for (const char* duration : {"", "h", "1h2d", "2h2h", "1x", "99999999d", "1.5h", "2d3"}) {
    const Outcome o = diffuse({"train", kDigits, "--stop-after", duration});
    EXPECT_EQ(o.exit, 2) << duration << o.err;
    EXPECT_NE(o.err.find("--stop-after"), std::string::npos) << o.err;
  }
}

TEST(CommandLine, NothingToDoShowsTheHelp) {
  const Outcome outcome = diffuse({});
  EXPECT_EQ(outcome.exit, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, diffuse({"--help"}).out);
}

TEST(CommandLine, MistakesOfTheEnvironmentAreNamed) {
  const Outcome outcome = diffuse({"config", "keys"}, {{"DIFFUSE_PROGRESS", "line"}});
  EXPECT_EQ(outcome.exit, 2);
  EXPECT_EQ(
      outcome.err,
      "error: --progress: must be one of auto, bar, plain, none, got 'line' (from the environment: "
      "DIFFUSE_PROGRESS); see diffuse config keys --help\n");
  EXPECT_EQ(diffuse({"config", "keys", "--progress", "bar"}, {{"DIFFUSE_PROGRESS", "line"}}).exit,
            0);
  // A variable that has nothing to do with the mistake is not blamed for it.
  for (const std::string typed : {"--progress=lines", "--threads=many"}) {
    const Outcome other = diffuse({"config", "keys", typed}, {{"DIFFUSE_PROGRESS", "bar"}});
    EXPECT_EQ(other.exit, 2) << typed;
    EXPECT_EQ(other.err.find("environment"), std::string::npos) << other.err;
  }
}

TEST(CommandLine, QuietAndVerbose) {
  const auto said = [](const std::vector<std::string>& more) {
    std::vector<std::string> words{"check", kDigits, "--data", "full"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = diffuse(words);
    EXPECT_EQ(outcome.exit, 0) << outcome.err;
    return outcome.err;
  };
  EXPECT_EQ(said({"-q"}), "");
  // A bar that was asked for is shown all the same.
  EXPECT_NE(said({"-q", "--progress", "bar"}).find("/1797 "), std::string::npos);
  const TempFolder folder;
  for (const char* level : {"-v", "--log-level=debug", "-q"}) {
    const Outcome made = diffuse({"init", folder / level, level});
    EXPECT_EQ(made.exit, 0) << made.err;
    EXPECT_EQ(made.err.find("wrote ") == std::string::npos, std::string(level) == "-q") << made.err;
  }
}

TEST(CommandLine, GlobalOptionsBeforeAndAfterTheCommand) {
  const std::vector<std::string> missing{"check", "/nonexistent.yaml"};
  const std::string message = "error: cannot read /nonexistent.yaml: No such file or directory\n";
  EXPECT_EQ(diffuse(missing).err, message);
  EXPECT_EQ(diffuse({"--log-level", "off", "check", "/nonexistent.yaml"}).err, "");
  EXPECT_EQ(diffuse({"check", "/nonexistent.yaml", "--log-level=off"}).err, "");
  EXPECT_EQ(diffuse(missing, {{"DIFFUSE_LOG_LEVEL", "off"}}).err, "");
  EXPECT_EQ(diffuse({"-q", "check", "/nonexistent.yaml"}).err, message);
}

TEST(CommandLine, Colour) {
  const auto colored = [](const std::vector<std::string>& more,
                          const std::map<std::string, std::string>& environment) {
    std::vector<std::string> words{"check", "/nonexistent.yaml"};
    words.insert(words.end(), more.begin(), more.end());
    return diffuse(words, environment).err.find('\x1b') != std::string::npos;
  };
  EXPECT_FALSE(colored({}, {{"TERM", "xterm"}}));  // not a terminal
  EXPECT_TRUE(colored({"--color", "always"}, {}));
  EXPECT_TRUE(colored({}, {{"DIFFUSE_COLOR", "always"}}));
  EXPECT_TRUE(colored({"--color", "always"}, {{"NO_COLOR", "1"}}));
  EXPECT_FALSE(colored({"--color", "never"}, {{"DIFFUSE_COLOR", "always"}}));
}

/// What the program says on stderr when that is a terminal.
std::string said_on_terminal(const std::vector<std::string>& arguments,
                             const std::map<std::string, std::string>& environment) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  EXPECT_TRUE(terminal >= 0 && ::grantpt(terminal) == 0 && ::unlockpt(terminal) == 0);
  const std::string name = ::ptsname(terminal);
  const int open_end = ::open(name.c_str(), O_RDWR | O_NOCTTY);  // what was said stays readable
  std::vector<std::string> words{"bash", "-c", "exec \"$0\" \"$@\" 2>" + name, kProgram};
  words.insert(words.end(), arguments.begin(), arguments.end());
  run_program(words, environment);
  char said[4096];
  const ssize_t n = ::read(terminal, said, sizeof(said));
  ::close(open_end);
  ::close(terminal);
  EXPECT_GT(n, 0);
  return n > 0 ? std::string(said, static_cast<size_t>(n)) : "";
}

TEST(CommandLine, ColourIsForTerminalsThatHaveIt) {
  const auto colored = [](const std::vector<std::string>& more,
                          const std::map<std::string, std::string>& environment) {
    std::vector<std::string> words{"check", "/nonexistent.yaml"};
    words.insert(words.end(), more.begin(), more.end());
    const std::string said = said_on_terminal(words, environment);
    EXPECT_NE(said.find("cannot read /nonexistent.yaml"), std::string::npos) << said;
    return said.find('\x1b') != std::string::npos;
  };
  EXPECT_TRUE(colored({}, {{"TERM", "xterm"}}));
  EXPECT_TRUE(colored({}, {{"TERM", "xterm"}, {"NO_COLOR", ""}}));  // as no-color.org has it
  EXPECT_FALSE(colored({}, {{"TERM", "xterm"}, {"NO_COLOR", "1"}}));
  EXPECT_FALSE(colored({}, {{"TERM", "dumb"}}));
  EXPECT_FALSE(colored({}, {}));
  EXPECT_FALSE(colored({"--color", "never"}, {{"TERM", "xterm"}}));
}

TEST(CommandLine, Version) {
  const Outcome text = diffuse({"--version"});
  EXPECT_EQ(text.exit, 0);
  EXPECT_TRUE(text.out.starts_with("diffuse 0.")) << text.out;
  EXPECT_NE(text.out.find("\n  LibTorch 2.11"), std::string::npos) << text.out;
  EXPECT_EQ(text.err, "");
  const Outcome json = diffuse({"--version", "--json"});
  EXPECT_EQ(json.exit, 0);
  const Json parsed = Json::parse(json.out);
  EXPECT_TRUE(parsed["diffuse"].is_string());
  for (const auto& [name, version] : parsed["built against"].items())
    EXPECT_FALSE(version.get<std::string>().empty()) << name;
}

// A deliberate change of the command line edits the golden file.
TEST(CommandLine, Help) {
  const std::vector<std::string> commands[] = {{},
                                               {"train"},
                                               {"sample"},
                                               {"evaluate"},
                                               {"check"},
                                               {"inspect"},
                                               {"verify"},
                                               {"schedule"},
                                               {"explain"},
                                               {"compare"},
                                               {"bench"},
                                               {"config"},
                                               {"config", "schema"},
                                               {"config", "defaults"},
                                               {"config", "keys"},
                                               {"config", "resolve"},
                                               {"init"},
                                               {"completion"}};
  for (std::vector<std::string> words : commands) {
    std::string name = "diffuse";
    for (const std::string& word : words) name += "-" + word;
    words.push_back("--help");
    const Outcome outcome = diffuse(words);
    EXPECT_EQ(outcome.exit, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(outcome.out, read_text(DIFFUSE_SOURCE_DIR "/tests/app/golden/" + name + ".txt"))
        << name;
    words.back() = "-h";
    EXPECT_EQ(diffuse(words).out, outcome.out);
    for (size_t begin = 0; begin < outcome.out.size();) {  // fits a terminal of 100 columns
      const size_t end = outcome.out.find('\n', begin);
      EXPECT_LE(end - begin, 100u) << outcome.out.substr(begin, end - begin);
      begin = end + 1;
    }
  }
}

TEST(CommandLine, LibTorchIsNotLoaded) {
  const TempFolder folder;
  const std::vector<std::string> commands[] = {{"--help"},
                                               {"train", "--help"},
                                               {"--version"},
                                               {"check", kDigits, "--data", "none"},
                                               {"inspect", DIFFUSE_SOURCE_DIR "/data/digits"},
                                               {"schedule", "-t", "linear"},
                                               {"explain", kDigits},
                                               {"config", "resolve", kDigits},
                                               {"completion", "bash"},
                                               {"init", folder / "new"}};
  for (const std::vector<std::string>& command : commands) {
    // The dynamic linker names every library that it looks for.
    const Outcome outcome = diffuse(command, {{"LD_DEBUG", "libs"}});
    EXPECT_EQ(outcome.exit, 0) << command[0] << outcome.err;
    EXPECT_NE(outcome.err.find("libdiffuse_base"), std::string::npos) << command[0];
    for (const char* library : {"libtorch", "libc10", "libdiffuse_core", "libcuda"})
      EXPECT_EQ(outcome.err.find(library), std::string::npos) << command[0] << " loads " << library;
  }
}

TEST(CommandLine, ResultsThatCannotBeWritten) {
  const std::string& program = kProgram;
  const Outcome full = run_program({program, "config", "schema"}, {}, ".", "/dev/full");
  EXPECT_EQ(full.exit, 9);
  EXPECT_EQ(full.err, "error: cannot write to stdout: No space left on device\n");
  // A reader that stops early is no error, and no signal ends the program.
  const Outcome head = run_program({"bash",
                                    "-o",
                                    "pipefail",
                                    "-c",
                                    program + " config keys | head -c 1; exit ${PIPESTATUS[0]}"});
  EXPECT_EQ(head.exit, 0) << head.err;
  EXPECT_EQ(head.err, "");
}

TEST(CommandLine, ClosedStreamsAreNoFiles) {
  const TempFolder folder;
  const std::string& program = kProgram;
  const Outcome init =
      run_program({"bash", "-c", program + " init new <&- >&- 2>&-"}, {}, folder.path());
  EXPECT_EQ(init.exit, 0);
  EXPECT_TRUE(read_text(folder / "new/config.yaml").starts_with("# yaml-language-server"));
  EXPECT_EQ(diffuse({"check", folder / "new/config.yaml", "--data", "none"}).exit, 0);
  const Outcome result =
      run_program({"bash", "-c", program + " config schema <&- >&-"}, {}, folder.path());
  EXPECT_EQ(result.exit, 9);
  EXPECT_EQ(result.err, "error: cannot write to stdout: Bad file descriptor\n");
}

TEST(CommandLine, PathsThatTheSystemRefusesAreNoBugs) {
  const Outcome outcome = diffuse({"init", std::string(300, 'x')});
  EXPECT_EQ(outcome.exit, 4);
  EXPECT_TRUE(outcome.err.starts_with("error: cannot use xxx")) << outcome.err;
  EXPECT_NE(outcome.err.find("/config.yaml: File name too long; choose"), std::string::npos)
      << outcome.err;
}

TEST(Train, RefusesABadConfigBeforeAnythingElse) {
  const TempFolder folder;
  write_text(folder / "c.yaml", "data: {path: x}\noptm: {}\n");
  const Outcome outcome =
      diffuse({"train", "c.yaml", "--run-dir", "run", "--steps", "abc", "--name", "a: b"},
              {},
              folder.path());
  EXPECT_EQ(outcome.exit, 3);
  EXPECT_EQ(outcome.err,
            "c.yaml:2:1: error: unknown key 'optm'\n"
            "    2 | optm: {}\n"
            "      | ^~~~ did you mean 'optim'?\n"
            "--steps:13: error: 'train.steps' must be an integer, got 'abc'\n"
            "  train.steps=abc\n"
            "              ^~~\n"
            "2 errors. Nothing was started.\n");
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

TEST(Train, AValueOfTheEnvironmentIsNamedAsSuch) {
  const std::map<std::string, std::string> environment{{"DIFFUSE_DEVICE", "tpu"}};
  EXPECT_TRUE(diffuse({"train", kDigits}, environment)
                  .err.starts_with("DIFFUSE_DEVICE:14: error: 'train.device'"));
  EXPECT_TRUE(diffuse({"train", kDigits, "--device", "npu"}, environment)
                  .err.starts_with("--device:14: error: 'train.device'"));
  EXPECT_TRUE(diffuse({"train", kDigits, "--set", "train.device=npu"}, environment)
                  .err.starts_with("--set[1]:14: error: 'train.device'"));
  EXPECT_TRUE(diffuse({"train", kDigits, "--set", "train.device=npu", "--device", "apu"})
                  .err.starts_with("--device:14: error: 'train.device'"));
}

TEST(CommandLine, WarningsFollowTheLogLevel) {
  const std::vector<std::string> words{
      "check", kDigits, "--data", "none", "--set", "train.steps=10"};
  const Outcome shown = diffuse(words);
  EXPECT_EQ(shown.exit, 0);
  EXPECT_NE(shown.err.find("warning: 'optim.warmup_steps': the warm-up of 50 steps"),
            std::string::npos)
      << shown.err;
  EXPECT_NE(shown.out.find(": ok, 1 warning\n"), std::string::npos) << shown.out;
  EXPECT_EQ(diffuse(words, {{"DIFFUSE_LOG_LEVEL", "error"}}).err, "");
  EXPECT_EQ(diffuse({"check", kDigits, "--set", "x=1"}, {{"DIFFUSE_LOG_LEVEL", "off"}}).err, "");
}

TEST(Config, DefaultsReadBackAndResolveNamesOrigins) {
  const TempFolder folder;
  const Outcome defaults = diffuse({"config", "defaults"});
  EXPECT_EQ(defaults.exit, 0);
  write_text(folder / "c.yaml", defaults.out);
  EXPECT_EQ(diffuse({"config", "resolve", folder / "c.yaml"}).exit, 3);  // data.path has no default
  const Outcome resolved = diffuse(
      {"config", "resolve", folder / "c.yaml", "--set", "data.path=/p", "-s", "optim.lr=1e-3"});
  EXPECT_EQ(resolved.exit, 0) << resolved.err;
  EXPECT_NE(resolved.out.find("\n  lr: 0.001  # --set[2]\n"), std::string::npos);
  EXPECT_NE(resolved.out.find("\n  path: /p  # --set[1]\n"), std::string::npos);
  EXPECT_EQ(diffuse({"config", "keys"}).out.find('\x1b'), std::string::npos);
  EXPECT_EQ(Json::parse(diffuse({"config", "schema"}).out)["type"], "object");
}

TEST(Check, ReportsConfigAndData) {
  const Outcome ok = diffuse({"check", kDigits, "--data", "full", "--progress", "none"});
  EXPECT_EQ(ok.exit, 0) << ok.err;
  EXPECT_EQ(ok.out,
            "config  " + kDigits +
                ": ok\n"
                "model   8 x 8 x 1, epsilon on cosine 1000, weighting simple\n"
                "data    " DIFFUSE_SOURCE_DIR "/data/digits: 1797 pictures, 10 classes\n");
  const Json json = Json::parse(diffuse({"check", kDigits, "--json"}).out);
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["data"]["pictures"], 1797);
  EXPECT_EQ(json["data"]["classes"].size(), 10u);

  const Outcome missing = diffuse({"check", kDigits, "--set", "data.path=/nonexistent"});
  EXPECT_EQ(missing.exit, 5);
  EXPECT_NE(missing.err.find("/nonexistent"), std::string::npos);
  EXPECT_EQ(diffuse({"check", kDigits, "--set", "data.path=/nonexistent", "--data", "none"}).exit,
            0);
  const Outcome bad = diffuse({"check", kDigits, "--set", "optim.lr=0", "--json"});
  EXPECT_EQ(bad.exit, 3);
  EXPECT_EQ(bad.err, "");
  const Json report = Json::parse(bad.out);
  EXPECT_EQ(report["ok"], false);
  EXPECT_EQ(report["exit"], 3);
  EXPECT_NE(report["error"].get<std::string>().find("'optim.lr' must be > 0"), std::string::npos);
}

TEST(Check, ThePlanAddsUpAndGrowsWithWhatIsAsked) {
  const auto plan = [](const std::vector<std::string>& set, const std::string& data = "headers") {
    std::vector<std::string> words{
        "check", kDigits, "--plan", "--json", "--data", data, "--threads", "2"};
    for (const std::string& one : set) {
      words.push_back("--set");
      words.push_back(one);
    }
    const Outcome o = diffuse(words);
    EXPECT_EQ(o.exit, 0) << o.err;
    const auto json = nlohmann::json::parse(o.out)["plan"];
    for (const char* command : {"train", "sample", "evaluate"}) {
      int64_t sum = 0;
      for (const auto& [name, bytes] : json[command].items()) {
        EXPECT_GE(bytes, 0) << name;
        if (name != "total") sum += bytes.get<int64_t>();
      }
      EXPECT_EQ(json[command]["total"], sum) << command;
    }
    return json;
  };
  const auto usual = plan({});
  EXPECT_EQ(usual["micro_batch"], 128);
  EXPECT_EQ(usual["train"]["weights"], 4 * 1001729);
  // 1,797 pictures of 8 x 8, their names, and five batches.
  EXPECT_EQ(usual["train"]["pictures"], 1797 * (140 + 64) + 5 * 128 * 64);
  EXPECT_EQ(plan({}, "none")["train"]["pictures"], 5 * 128 * 64);
  EXPECT_EQ(plan({"data.cache=none"})["train"]["pictures"], 1797 * 140 + 5 * 128 * 64);
  const auto part = plan({"train.micro_batch=32"});
  EXPECT_EQ(4 * part["train"]["activations"].get<int64_t>(), usual["train"]["activations"]);
  // A second or two of a CPU is all that a micro-batch may take.
  const std::vector<std::string> large{"data.size=64", "model.base_channels=128"};
  EXPECT_LT(plan(large)["micro_batch"], 128);
  EXPECT_EQ(plan(large)["device"], "cpu");
  const auto gpu = plan({large[0], large[1], "train.device=cuda"});
  EXPECT_EQ(gpu["micro_batch"], 128);
  EXPECT_EQ(gpu["device"], "cuda");
  const auto classes = plan({"model.class_conditional=true"});
  EXPECT_EQ(classes["parameters"].get<int64_t>() - usual["parameters"].get<int64_t>(), 10 * 128);
  const auto learned = plan({"diffusion.variance=learned_range", "diffusion.loss=hybrid"});
  EXPECT_GT(learned["parameters"], usual["parameters"]);

  const Outcome text = diffuse({"check", kDigits, "--plan", "--set", "data.holdout=0.1"});
  EXPECT_EQ(text.exit, 0) << text.err;
  for (const char* one : {", 10 classes\n",
                          " held out",
                          " with 128 at once (train.micro_batch): ",
                          "\n  sample ",
                          "\n  evaluate "})
    EXPECT_NE(text.out.find(one), std::string::npos) << one << text.out;
  EXPECT_EQ(text.out.find("saving"), std::string::npos) << "nothing is needed for it";
}

TEST(Check, DecodesEveryPictureAlsoWithoutACache) {
  const Outcome o = diffuse(
      {"check", kDigits, "--data", "full", "--set", "data.cache=none", "--progress", "plain"});
  EXPECT_EQ(o.exit, 0) << o.err;
  EXPECT_NE(o.out.find("1797 pictures, 10 classes"), std::string::npos) << o.out;
}

TEST(Check, CountsAgainstTheNumberOfPictures) {
  const Outcome decoded = diffuse({"check", kDigits, "--data", "full", "--progress", "bar"});
  EXPECT_EQ(decoded.exit, 0) << decoded.err;
  EXPECT_NE(decoded.err.find("/1797 "), std::string::npos) << decoded.err;
  EXPECT_EQ(decoded.err.find("/0 "), std::string::npos) << decoded.err;
}

TEST(Check, MixedFoldersHaveNoClasses) {
  const TempFolder folder;
  const auto picture = *std::filesystem::directory_iterator(DIFFUSE_SOURCE_DIR "/data/digits/3");
  std::filesystem::create_directories(folder / "p/cats");
  std::filesystem::copy(picture.path(), folder / "p/one.png");
  std::filesystem::copy(picture.path(), folder / "p/cats/two.png");
  write_text(folder / "c.yaml",
             "data: {path: p, size: 8, channels: 1}\n"
             "model: {channel_mult: [1, 2], attention_at: [4]}\n");
  const Outcome plain = diffuse({"check", folder / "c.yaml"});
  EXPECT_EQ(plain.exit, 0) << plain.err;
  EXPECT_NE(plain.out.find("2 pictures\n"), std::string::npos) << plain.out;
  EXPECT_NE(plain.err.find("no classes, because pictures lie beside the folders"),
            std::string::npos)
      << plain.err;
  const Outcome classes =
      diffuse({"check", folder / "c.yaml", "--set", "model.class_conditional=true"});
  EXPECT_EQ(classes.exit, 5);
  EXPECT_NE(classes.err.find("has no classes, which model.class_conditional needs"),
            std::string::npos)
      << classes.err;
}

TEST(Check, NamesBadPictures) {
  const TempFolder folder;
  const std::string digits = DIFFUSE_SOURCE_DIR "/data/digits/3";
  int copied = 0;
  for (const auto& entry : std::filesystem::directory_iterator(digits)) {
    if (entry.path().extension() != ".png" || ++copied > 20) continue;
    std::filesystem::create_directories(folder / "pictures");
    std::filesystem::copy(entry.path(), folder.path() / "pictures");
  }
  write_text(folder / "pictures/broken.png", "\x89PNG\r\n\x1a\nnot really");
  write_text(folder / "c.yaml",
             "data: {path: pictures, size: 8, channels: 1, labels: none, max_bad_fraction: 0.5}\n"
             "model: {channel_mult: [1, 2], attention_at: [4]}\n");
  const Outcome skipped = diffuse({"check", folder / "c.yaml"});
  EXPECT_EQ(skipped.exit, 0) << skipped.err;
  EXPECT_NE(skipped.out.find(": 20 pictures, skipped 1 file:\n  broken.png: "), std::string::npos)
      << skipped.out;
  const Outcome fatal = diffuse({"check", folder / "c.yaml", "-s", "data.on_bad_image=fail"});
  EXPECT_EQ(fatal.exit, 5);
  EXPECT_NE(fatal.err.find("broken.png"), std::string::npos) << fatal.err;
  EXPECT_EQ(diffuse({"check", folder / "c.yaml", "-s", "data.max_bad_fraction=0.01"}).exit, 5);
}

TEST(Inspect, KnowsWhatItSees) {
  const TempFolder folder;
  const Json data =
      Json::parse(diffuse({"inspect", DIFFUSE_SOURCE_DIR "/data/digits", "--json"}).out);
  EXPECT_EQ(data["kind"], "image folder");
  EXPECT_EQ(data["pictures"], 1797);
  EXPECT_EQ(data["classes"]["3"], 183);
  const auto picture = *std::filesystem::directory_iterator(DIFFUSE_SOURCE_DIR "/data/digits/3");
  const Json png = Json::parse(diffuse({"inspect", picture.path().string(), "--json"}).out);
  EXPECT_EQ(png["format"], "png");
  EXPECT_EQ(png["height"], 8);

  // The smallest safetensors file: a header and one value.
  const std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  write_text(folder / "w.safetensors", file + header + std::string(4, '\0'));
  const Outcome tensors = diffuse({"inspect", folder / "w.safetensors"});
  EXPECT_EQ(tensors.exit, 0) << tensors.err;
  EXPECT_NE(tensors.out.find("values: 1\ncontents:\n  w: F32 [1]\n"), std::string::npos)
      << tensors.out;
  write_text(folder / "torn.safetensors", file + header);
  EXPECT_EQ(diffuse({"inspect", folder / "torn.safetensors"}).exit, 6);

  write_text(folder / "model.pt", "PK\x03\x04");
  const Outcome pickle = diffuse({"inspect", folder / "model.pt"});
  EXPECT_EQ(pickle.exit, 6);
  EXPECT_NE(pickle.err.find("safetensors.torch.save_file(torch.load(\"model.pt\", "
                            "map_location=\"cpu\", weights_only=True)"),
            std::string::npos);
  // Too large to be read whole: told by its first bytes all the same.
  write_text(folder / "large", std::string("\x80\2}q", 4));
  std::filesystem::resize_file(folder / "large", (uint64_t{1} << 30) + 1);
  EXPECT_NE(diffuse({"inspect", folder / "large"}).err.find("torch.load(\"large\""),
            std::string::npos);
  // Whoever's the file is, no reader's stack ends before its JSON does.
  const std::string deep = "{\"a\":" + std::string(3'000'000, '[');
  write_text(folder / "run/status.json", deep + std::string(3'000'000, ']') + "}");
  std::filesystem::create_directories(folder / "run/checkpoints");
  EXPECT_EQ(diffuse({"inspect", folder / "run"}).exit, 0);
  write_text(folder / "notes.txt", "hello");
  EXPECT_EQ(diffuse({"inspect", folder / "notes.txt"}).exit, 5);
  EXPECT_EQ(diffuse({"inspect", folder / "nothing"}).exit, 5);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(diffuse({"inspect", folder / "pipe"}).exit, 5);
  EXPECT_EQ(diffuse({"check", folder / "pipe"}).exit, 3);
  std::filesystem::create_directories(folder / "empty");
  EXPECT_EQ(diffuse({"inspect", folder / "empty"}).exit, 5);
}

TEST(Inspect, PicturesAndWhatTheyTell) {
  const TempFolder folder;
  const Image image{2, 3, 1, {0, 50, 100, 150, 200, 250}};
  write_png(folder / "p.png", image, {{"diffuse", R"({"seed": 7})"}, {"Title", "a \x1b[31mcat"}});
  const Json found = Json::parse(diffuse({"inspect", folder / "p.png", "--json"}).out);
  EXPECT_EQ(found["kind"], "picture");
  EXPECT_EQ(found["height"], 2);
  EXPECT_EQ(found["width"], 3);
  EXPECT_EQ(found["text"]["diffuse"]["seed"], 7);
  EXPECT_EQ(found["text"]["Title"], "a \x1b[31mcat");
  const Outcome text = diffuse({"inspect", folder / "p.png"});
  EXPECT_NE(text.out.find("text:\n  diffuse:\n    seed: 7\n  Title: a \\x1b[31mcat\n"),
            std::string::npos)
      << text.out;
  // A picture by its first bytes, but none that can be read: the reason, not another format.
  const std::string png = read_text(folder / "p.png");
  const struct {
    const char* name;
    std::string bytes;
    const char* reason;
  } cases[] = {{"cut.png",
                png.substr(0, 20),
                "truncated PNG: its IHDR chunk claims 13 bytes, the file has 0"},
               {"film.gif", "GIF89a and more", "GIF is not supported"}};
  for (const auto& bad : cases) {
    write_text(folder / bad.name, bad.bytes);
    const Outcome outcome = diffuse({"inspect", folder / bad.name});
    EXPECT_EQ(outcome.exit, 5);
    EXPECT_NE(outcome.err.find((folder / bad.name).string() + ": " + bad.reason), std::string::npos)
        << outcome.err;
  }
}

TEST(Inspect, TensorsOfOtherPrograms) {
  const TempFolder folder;
  const std::string header = R"({"__metadata__":{"format":"pt","by":"x\ny"},)"
                             R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]}})";
  std::string size(8, '\0');
  size[0] = static_cast<char>(header.size());
  write_text(folder / "m.safetensors", size + header + std::string(16, '\0'));
  const Outcome text = diffuse({"inspect", folder / "m.safetensors"});
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_NE(text.out.find("tensors: 2\nvalues: 7\nmetadata:\n"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("  by: x\\x0ay\n"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("contents:\n  a: F32 []\n  b: F16 [2, 3]\n"), std::string::npos)
      << text.out;
}

// Wherever a file is named, a pickle is refused with the way to convert it or as no text.
TEST(Program, NeverReadsPickle) {
  const TempFolder folder;
  const std::string file = folder / "model.pt";
  write_text(file, std::string("\x80\2}q\0(X\4\0\0\0evil", 15));
  write_text(folder / "c.yaml", "data: {path: " + file + "}\n");
  const std::string config = folder / "c.yaml";
  const std::string convert = "safetensors.torch.save_file(torch.load(\"model.pt\"";
  for (const auto& [words, exit, part] :
       std::vector<std::tuple<std::vector<std::string>, int, std::string>>{
           {{"inspect", file}, 6, convert},
           {{"sample", file}, 6, convert},
           {{"evaluate", file}, 6, convert},
           {{"train", config, "--run-dir", folder / "run", "--resume", file}, 6, convert},
           {{"train", file}, 3, "not UTF-8: byte 0x80"},
           {{"check", file}, 3, ":1:1: error: not UTF-8: byte 0x80"},
           {{"explain", file}, 3, "not UTF-8: byte 0x80"},
           {{"config", "resolve", file}, 3, "not UTF-8: byte 0x80"},
           {{"check", config}, 5, "is a pickle, which is never unpacked"},
           {{"schedule", "-t", "{type: table, file: " + file + "}"}, 3, "model.pt:1: not text"},
           {{"check", config, "--set", "diffusion.weighting={type: table, file: " + file + "}"},
            3,
            "model.pt:1: not text"},
           {{"compare", file, file}, 4, "is no run folder"}}) {
    const Outcome outcome = diffuse(words);
    EXPECT_EQ(outcome.exit, exit) << words[0] << ' ' << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << words[0] << ' ' << outcome.err;
  }
}

TEST(Inspect, CheckpointsAndRuns) {
  const TempFolder folder;
  const std::vector<float> values(6);
  const TensorView weight{"w", "F32", {2, 3}, std::as_bytes(std::span(values))};
  const auto checkpoint =
      write_checkpoint(folder.path() / "run/checkpoints",
                       7,
                       {{.name = "model.safetensors", .tensors = {weight}, .text = ""},
                        {.name = "state.json", .tensors = {}, .text = "{\"step\": 7}"}},
                       true);
  const Json found = Json::parse(diffuse({"inspect", checkpoint.string(), "--json"}).out);
  EXPECT_EQ(found["kind"], "checkpoint");
  EXPECT_EQ(found["parameters"], 6);
  EXPECT_EQ(found["state"]["step"], 7);
  EXPECT_EQ(found["hash"], checkpoint_hash(checkpoint));

  write_text(folder / "run/status.json", R"({"state": "stopped", "step": 7})");
  write_text(folder / "run/metrics.jsonl", "{\"step\":7,\"loss\":0.5}\n");
  const Outcome run = diffuse({"inspect", folder / "run"});
  EXPECT_EQ(run.exit, 0) << run.err;
  EXPECT_NE(run.out.find("kind: run\n"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("checkpoints:\n  - step-000000007\n"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("last metrics:\n  step: 7\n  loss: 0.5\n"), std::string::npos) << run.out;

  const Json all = Json::parse(diffuse({"inspect", folder / "run/checkpoints", "--json"}).out);
  EXPECT_EQ(all["checkpoints"], Json{"step-000000007"});
  // Said to run by what nobody has locked; and one that has only begun.
  write_text(folder / "run/status.json", R"({"state": "running", "step": 7})");
  write_text(folder / "run/metrics.jsonl", "");
  const Outcome killed = diffuse({"inspect", folder / "run"});
  EXPECT_NE(killed.out.find("state: killed (it was running"), std::string::npos) << killed.out;
  EXPECT_EQ(killed.out.find("last metrics"), std::string::npos) << killed.out;
  write_text(folder / "new/config.resolved.yaml", "version: 1\n");
  const Outcome begun = diffuse({"inspect", folder / "new"});
  EXPECT_EQ(begun.exit, 0) << begun.err;
  EXPECT_EQ(begun.out, "kind: run\npath: " + (folder / "new").string() + "\ncheckpoints: none\n");

  // A model without a manifest is a checkpoint that lost it, no folder of pictures.
  write_text(folder / "torn/model.safetensors", "");
  const Outcome torn = diffuse({"inspect", folder / "torn"});
  EXPECT_EQ(torn.exit, 6);
  EXPECT_NE(torn.err.find("MANIFEST.json"), std::string::npos) << torn.err;

  write_text(checkpoint / "state.json", "{\"step\": 8}");
  const Outcome damaged = diffuse({"inspect", checkpoint.string()});
  EXPECT_EQ(damaged.exit, 6);
  EXPECT_NE(damaged.err.find("state.json"), std::string::npos) << damaged.err;
}

TEST(Verify, ANewerVersionIsNoDamage) {
  const TempFolder folder;
  const std::vector<CheckpointFile> files{
      {.name = "state.json", .tensors = {}, .text = "{\"step\": 7}"}};
  const auto older = write_checkpoint(folder.path(), 7, files, false);
  const auto newer = write_checkpoint(folder.path(), 8, files, false);
  std::string manifest = read_text(newer / "MANIFEST.json");
  manifest.replace(manifest.find("\"format\": 1"), 11, "\"format\": 2");
  write_text(newer / "MANIFEST.json", manifest);
  const Outcome text = diffuse({"verify", folder.path()});
  EXPECT_EQ(text.exit, 6);
  EXPECT_NE(text.out.find("good     " + older.string()), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("unknown  " + newer.string() + "  " + newer.string() +
                          "/MANIFEST.json has format 2, written by a newer version"),
            std::string::npos)
      << text.out;
  EXPECT_EQ(text.err.find("remove"), std::string::npos) << text.err;
  EXPECT_NE(text.err.find("1 of 2 checkpoints is not known to be good"), std::string::npos)
      << text.err;
  write_text(older / "state.json", "{\"step\": 9}");
  const Outcome both = diffuse({"verify", folder.path(), "--json"});
  EXPECT_EQ(both.exit, 6);
  EXPECT_NE(both.err.find("error: 1 of 2 checkpoints is damaged, and 1 could not be read;"),
            std::string::npos)
      << both.err;
  const Json json = Json::parse(both.out);
  EXPECT_EQ(json["good"], 0);
  EXPECT_EQ(json["damaged"], 1);
  EXPECT_EQ(json["unknown"], 1);
  const Outcome absent = diffuse({"verify", folder / "absent", folder.path()});
  EXPECT_EQ(absent.exit, 6);
  EXPECT_NE(absent.out.find("unknown  " + (folder / "absent").string() + "  "), std::string::npos)
      << absent.out;
  EXPECT_NE(absent.err.find("1 of 3 checkpoints is damaged, and 2 could not be read;"),
            std::string::npos)
      << absent.err;
  const Outcome alone = diffuse({"verify", folder / "absent"});
  EXPECT_EQ(alone.exit, 6);
  EXPECT_NE(alone.err.find("does not exist"), std::string::npos) << alone.err;
}

TEST(CommandLine, ALibraryThatCannotBeLoadedNamesTheRemedy) {
  const TempFolder folder;
  write_text(folder / "core/libdiffuse_core.so", "no library");
  const Outcome core = diffuse({"sample", "x"}, {{"LD_LIBRARY_PATH", folder / "core"}});
  EXPECT_EQ(core.exit, 7);
  EXPECT_NE(core.err.find("it belongs beside the program or in ../lib"), std::string::npos)
      << core.err;
  for (const std::string library : {"libtorch_cpu.so", "libc10.so"}) {
    write_text(folder / library / library, "no library");
    const Outcome torch = diffuse(
        {"sample", "x"}, {{"LD_LIBRARY_PATH", (folder / library).string() + ":" + kPrograms}});
    EXPECT_EQ(torch.exit, 7);
    EXPECT_NE(torch.err.find("error: LibTorch 2.11 was not found"), std::string::npos) << torch.err;
    EXPECT_NE(torch.err.find("LD_LIBRARY_PATH"), std::string::npos) << torch.err;
  }
  // A library of that name which is not ours, or not of today.
  std::filesystem::create_directory(folder / "other");
  std::filesystem::copy(kPrograms + "/libdiffuse_base.so", folder / "other/libdiffuse_core.so");
  const Outcome other = diffuse({"sample", "x"}, {{"LD_LIBRARY_PATH", folder / "other"}});
  EXPECT_EQ(other.exit, 7);
  EXPECT_EQ(other.err,
            "error: libdiffuse_core.so is of another build; build or install diffuse again\n");
}

TEST(Init, EveryPresetIsAValidConfigAndNothingIsOverwritten) {
  for (const auto& entry : std::filesystem::directory_iterator(DIFFUSE_SOURCE_DIR "/configs")) {
    const std::string preset = entry.path().stem().string();
    const TempFolder folder;
    const bool points = preset.starts_with("moons");  // makes its data: there is no path
    std::vector<std::string> words{"init", folder / "new", "--preset", preset};
    if (!points) words.insert(words.end(), {"--data", "pictures"});
    const Outcome made = diffuse(words);
    EXPECT_EQ(made.exit, 0) << made.err;
    EXPECT_EQ(made.out, "");
    const std::string text = read_text(folder / "new/config.yaml");
    EXPECT_TRUE(text.starts_with("# yaml-language-server: $schema=./diffuse.schema.json\n"));
    EXPECT_NE(text.find(points ? "\n  path: \"\"\n" : "\n  path: pictures\n"), std::string::npos);
    EXPECT_EQ(read_text(folder / "new/diffuse.schema.json"), diffuse({"config", "schema"}).out);
    const Outcome checked = diffuse({"check", folder / "new/config.yaml", "--data", "none"});
    EXPECT_EQ(checked.exit, 0) << checked.err;
    EXPECT_EQ(checked.err, "");
    // The same values as the shipped file's, but for the folder of the pictures and the name.
    const auto values = [&](const std::string& config) {
      const std::string resolved =
          diffuse({"config", "resolve", config, "-s", "data.path=/p", "-s", "run.name=n"}).out;
      std::string out;
      for (size_t begin = 0; begin < resolved.size();) {
        const size_t end = resolved.find('\n', begin);
        out += resolved.substr(begin, std::min(resolved.find('#', begin), end) - begin) + "\n";
        begin = end + 1;
      }
      return out;
    };
    EXPECT_EQ(values(folder / "new/config.yaml"),
              values(DIFFUSE_SOURCE_DIR "/configs/" + preset + ".yaml"));

    const Outcome again = diffuse({"init", folder / "new", "--preset", preset});
    EXPECT_EQ(again.exit, 4);
    EXPECT_NE(again.err.find("config.yaml exists and is not overwritten"), std::string::npos);
    EXPECT_EQ(read_text(folder / "new/config.yaml"), text);
  }
}

TEST(Init, RunsAreNamedAfterTheFolder) {
  const TempFolder folder;
  const auto name = [&](const std::string& in, const std::vector<std::string>& words) {
    std::filesystem::create_directories(folder / in);
    const Outcome made = diffuse(words, {}, folder / in);
    EXPECT_EQ(made.exit, 0) << made.err;
    const std::string text =
        read_text(folder / in / (words.size() > 1 ? words[1] : ".") / "config.yaml");
    const size_t begin = text.find("\n  name: ") + 9;
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  EXPECT_EQ(name(".", {"init", "my-run"}), "my-run");
  EXPECT_EQ(name(".", {"init", "deep/other/"}), "other");
  EXPECT_EQ(name("here", {"init"}), "here");
  EXPECT_EQ(name(".hidden", {"init"}), "tiny");  // what no run folder can be called
}

/// What bash offers for the words typed so far.
std::string completed(const std::string& words) {
  const std::string script =
      "source <(" + kProgram + " completion bash); compopt() { :; }; COMP_WORDS=(" + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _diffuse; echo \"${COMPREPLY[*]}\"";
  const Outcome outcome = run_program({"bash", "-c", script}, {}, "/");
  EXPECT_EQ(outcome.err, "");
  return outcome.out;
}

TEST(Completion, ScriptsParseAndComplete) {
  const TempFolder folder;
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const Outcome script = diffuse({"completion", shell});
    EXPECT_EQ(script.exit, 0);
    write_text(folder / shell, script.out);
    const Outcome parsed = run_program({shell, "-n", folder / shell});
    if (shell != "bash" && parsed.exit == -1) continue;  // that shell is not installed
    EXPECT_EQ(parsed.exit, 0) << shell << ": " << parsed.err;
    EXPECT_NE(script.out.find("diffusion.schedule.s="), std::string::npos);
  }
  EXPECT_EQ(completed("diffuse tr"), "train\n");
  EXPECT_EQ(completed("diffuse train --dev"), "--device\n");
  EXPECT_EQ(completed("diffuse train c.yaml --set optim.l"), "optim.lr=\n");
  EXPECT_EQ(completed("diffuse config sc"), "schema\n");
  EXPECT_EQ(completed("diffuse completion z"), "zsh\n");
  EXPECT_EQ(completed("diffuse sample x --weights r"), "raw\n");
  EXPECT_EQ(completed("diffuse train --progress pl"), "plain\n");
  EXPECT_EQ(completed("diffuse train etc/os-rel"), "etc/os-release\n");
}

TEST(CommandLine, AnEmptyArgumentIsNamed) {
  for (const char* command : {"train", "sample", "check", "inspect", "init"}) {
    const Outcome outcome = diffuse({command, ""});
    EXPECT_EQ(outcome.exit, 2) << command;
    EXPECT_NE(outcome.err.find("must not be empty"), std::string::npos) << outcome.err;
  }
}

TEST(CommandLine, AVariableOfOneCommandDoesNotStopOthers) {
  for (const char* variable : {"DIFFUSE_SEED", "DIFFUSE_DEVICE"}) {
    const std::map<std::string, std::string> environment{{variable, "bogus"}};
    EXPECT_EQ(diffuse({"check", kDigits, "--data", "none"}, environment).exit, 0);
    const Outcome sample = diffuse({"sample", "x"}, environment);
    EXPECT_EQ(sample.exit, 2);
    EXPECT_NE(sample.err.find(variable), std::string::npos) << sample.err;
  }
}

TEST(CommandLine, FileNamesCannotForgeLines) {
  const TempFolder folder;
  write_text(folder / "a\nerror: forged\x1b[2J.png", "no picture");
  std::filesystem::copy(DIFFUSE_SOURCE_DIR "/data/digits/3", folder / "ok\x1b[31m");
  write_text(folder / "c.yaml",
             "version: 1\ndata: {path: ., size: 8, channels: 1, max_bad_fraction: 0.5}\n"
             "model: {channel_mult: [1, 2], attention_at: []}\n");
  for (const char* data : {"headers", "full"}) {
    const Outcome checked = diffuse({"check", folder / "c.yaml", "--data", data});
    EXPECT_EQ(checked.exit, 0) << checked.err;
    for (const std::string& text : {checked.out, checked.err}) {
      EXPECT_EQ(text.find('\x1b'), std::string::npos) << text;
      EXPECT_EQ(text.find("\nerror: forged"), std::string::npos) << text;
    }
    EXPECT_NE(checked.out.find("a\\x0aerror: forged\\x1b[2J.png"), std::string::npos)
        << checked.out;
  }
  const Outcome inspected = diffuse({"inspect", folder.path()});
  EXPECT_EQ(inspected.exit, 0) << inspected.err;
  EXPECT_EQ(inspected.out.find('\x1b'), std::string::npos) << inspected.out;
}

TEST(Check, AWidthThatNoMachineHoldsIsRefused) {
  const Outcome outcome = diffuse({"check",
                                   kDigits,
                                   "--data",
                                   "none",
                                   "--set",
                                   "model.base_channels=1024",
                                   "--set",
                                   "model.channel_mult=[1,64]"});
  EXPECT_EQ(outcome.exit, 3);
  EXPECT_NE(outcome.err.find("65536 channels"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace diffuse::test
