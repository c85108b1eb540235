// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <regex>
#include <sstream>

#include "config/load.h"
#include "support/cost.h"
#include "support/temp_folder.h"

namespace diffuse {
namespace {

using test::errors;
using test::kMinimal;
using test::load;

constexpr const char* kOneError = "\n1 error. Nothing was started.";

/// The report for a file with one error.
void expect_error(const std::string& text, const std::string& message) {
  EXPECT_EQ(errors(text), message + kOneError) << text;
}
/// Likewise for one override of a good file.
void expect_set_error(const std::string& set, const std::string& message) {
  EXPECT_EQ(errors(kMinimal, {set}), message + kOneError) << set;
}

TEST(Yaml, Minimal) {
  const LoadedConfig loaded =
      load("version: 1\ndata: {path: /photos, size: 64}\ntrain: {steps: 20000}\n");
  EXPECT_EQ(loaded.config.data.path, "/photos");
  EXPECT_EQ(loaded.config.data.height(), 64);
  EXPECT_EQ(loaded.config.data.width(), 64);
  EXPECT_EQ(loaded.config.train.steps, 20000);
  EXPECT_EQ(loaded.config.diffusion.schedule.name(), "linear");
  EXPECT_TRUE(loaded.warnings.empty());
}

TEST(Yaml, ValuesOfEveryType) {
  const Config c = load(R"(
data: {path: "/a b", size: [32, 64], flip: TRUE, labels: none, workers: auto}
optim:
  lr: 1e-4
  betas: [0.5, 0.75]
train:
  micro_batch: 0x10
diffusion:
  schedule:
    type: cosine
    s: 0.01
  target: velocity
sample: {steps: 50}
run: {name: 003, notes: 'it''s'}
model:
)")
                       .config;
  EXPECT_EQ(c.data.path, "/a b");
  EXPECT_EQ(c.data.size, (std::vector<int64_t>{32, 64}));
  EXPECT_TRUE(c.data.flip);
  EXPECT_EQ(c.data.labels, Labels::none);
  EXPECT_FALSE(c.data.workers.has_value());
  EXPECT_EQ(c.optim.lr, 1e-4);
  EXPECT_EQ(c.optim.betas, (std::vector<double>{0.5, 0.75}));
  EXPECT_EQ(c.train.micro_batch, 16);
  ASSERT_NE(c.diffusion.schedule.options<CosineSchedule>(), nullptr);
  EXPECT_EQ(c.diffusion.schedule.options<CosineSchedule>()->s, 0.01);
  EXPECT_EQ(c.diffusion.target.name(), "velocity");
  EXPECT_EQ(c.sample.steps, 50);
  EXPECT_EQ(c.run.name, "003");  // text stays as it was written
  EXPECT_EQ(c.run.notes, "it's");
}

TEST(Yaml, UnknownKeys) {
  expect_error("data: {path: /p}\ndiffusion:\n  scheduel: cosine\n",
               "c.yaml:3:3: error: unknown key 'diffusion.scheduel'\n"
               "    3 |   scheduel: cosine\n"
               "      |   ^~~~~~~~ did you mean 'schedule'?");
  // Another tool's name, here and in another section.
  expect_error("data: {path: /p}\noptim: {learning_rate: 1e-3}\n",
               "c.yaml:2:9: error: unknown key 'optim.learning_rate'\n"
               "    2 | optim: {learning_rate: 1e-3}\n"
               "      |         ^~~~~~~~~~~~~ did you mean 'lr'?");
  expect_error("data: {path: /p}\nlearning_rate: 1e-3\n",
               "c.yaml:2:1: error: unknown key 'learning_rate'\n"
               "    2 | learning_rate: 1e-3\n"
               "      | ^~~~~~~~~~~~~ did you mean 'optim.lr'?");
  expect_error("data: {path: /p}\ntrain: {lr: 1}\n",
               "c.yaml:2:9: error: unknown key 'train.lr'\n"
               "    2 | train: {lr: 1}\n"
               "      |         ^~ did you mean 'optim.lr'?");
  expect_error("data: {path: /p}\noptim.lr: 1\n",
               "c.yaml:2:1: error: 'optim.lr' is written with dots only on the command line\n"
               "    2 | optim.lr: 1\n"
               "      | ^~~~~~~~ write 'lr:' below 'optim:'");
  expect_error("data: {path: /p}\nzzzz: 1\n",
               "c.yaml:2:1: error: unknown key 'zzzz'\n"
               "    2 | zzzz: 1\n"
               "      | ^~~~");
}

TEST(Yaml, OtherToolsNames) {
  const std::pair<const char*, const char*> names[] = {
      {"learning_rate", "optim.lr"},
      {"batch_size", "train.batch"},
      {"image_size", "data.size"},
      {"num_train_timesteps", "diffusion.steps"},
      {"prediction_type", "diffusion.target"},
      {"beta_schedule", "diffusion.schedule"},
      {"num_workers", "data.workers"},
      {"gradient_accumulation_steps", "train.micro_batch"},
      {"max_grad_norm", "optim.grad_clip"},
      {"output_dir", "run.root"},
      {"mixed_precision", "train.precision"},
      {"num_inference_steps", "sample.steps"},
      {"resolution", "data.size"},
      {"dim_mults", "model.channel_mult"},
      {"Learning-Rate", "optim.lr"},
  };
  for (const auto& [theirs, ours] : names)
    EXPECT_NE(errors(kMinimal + theirs + ": 1\n").find("did you mean '" + std::string(ours) + "'?"),
              std::string::npos)
        << theirs << "\n"
        << errors(kMinimal + theirs + ": 1\n");
}

TEST(Yaml, WrongTypes) {
  expect_error("data:\n  path: /p\n  flip: yes\n",
               "c.yaml:3:9: error: 'data.flip' must be true or false, got 'yes'\n"
               "    3 |   flip: yes\n"
               "      |         ^~~ write true");
  expect_error("data:\n  path: /p\n  flip: \"true\"\n",
               "c.yaml:3:9: error: 'data.flip' must be true or false, got the text 'true'\n"
               "    3 |   flip: \"true\"\n"
               "      |         ^~~~~~ remove the quotes");
  expect_error("data: {path: /p}\noptim: {lr: fast}\n",
               "c.yaml:2:13: error: 'optim.lr' must be a number, got 'fast'\n"
               "    2 | optim: {lr: fast}\n"
               "      |             ^~~~");
  expect_error("data: {path: /p}\ntrain: {steps: 100_000}\n",
               "c.yaml:2:16: error: 'train.steps' must be an integer, got '100_000'\n"
               "    2 | train: {steps: 100_000}\n"
               "      |                ^~~~~~~ write 100000");
  expect_error("data: {path: /p}\ntrain: {steps: 1.5}\n",
               "c.yaml:2:16: error: 'train.steps' must be an integer, got '1.5'\n"
               "    2 | train: {steps: 1.5}\n"
               "      |                ^~~");
  expect_error("data: {path: /p}\ntrain: {steps: 1e30}\n",
               "c.yaml:2:16: error: 'train.steps' is too large for 64 bits: 1e30\n"
               "    2 | train: {steps: 1e30}\n"
               "      |                ^~~~");
  expect_error("data: {path: /p}\ntrain: {steps: [1]}\n",
               "c.yaml:2:16: error: 'train.steps' must be an integer, got a list\n"
               "    2 | train: {steps: [1]}\n"
               "      |                ^");
  expect_error("data: {path: /p}\ntrain:\n  micro_batch:\n",
               "c.yaml:3:3: error: 'train.micro_batch' must be an integer or auto, got nothing\n"
               "    3 |   micro_batch:\n"
               "      |   ^~~~~~~~~~~ write auto");
  expect_error("data: {path: /p}\noptim: {betas: 0.9}\n",
               "c.yaml:2:16: error: 'optim.betas' must be a list of numbers, got '0.9'\n"
               "    2 | optim: {betas: 0.9}\n"
               "      |                ^~~ e.g. [0.9, 0.999]");
  expect_error("data: {path: /p}\noptim: 3\n",
               "c.yaml:2:8: error: 'optim' is a section: it needs keys below it, got '3'\n"
               "    2 | optim: 3\n"
               "      |        ^");
  expect_error("data: {path: /p}\nrun:\n  name:\n",
               "c.yaml:3:3: error: 'run.name' has no value\n"
               "    3 |   name:\n"
               "      |   ^~~~ write \"\" for empty text");
  expect_error("data: {path: /p}\nrun: {name: \"a\\u0007\"}\n",
               "c.yaml:2:13: error: 'run.name' must not hold a control character U+0007\n"
               "    2 | run: {name: \"a\\u0007\"}\n"
               "      |             ^~~~~~~~~");
  expect_error("- 1\n",
               "c.yaml:1:1: error: a config is a map of keys and values, got a list\n"
               "    1 | - 1\n"
               "      | ^");
}

TEST(Yaml, BoundsAndLengths) {
  expect_error("data: {path: /p}\noptim:\n  lr: -2e-4\n",
               "c.yaml:3:7: error: 'optim.lr' must be > 0 and <= 10, got -2e-4\n"
               "    3 |   lr: -2e-4\n"
               "      |       ^~~~~");
  expect_error("data: {path: /p}\noptim: {betas: [0.9, 1.0]}\n",
               "c.yaml:2:22: error: 'optim.betas' must be >= 0 and < 1, got 1.0\n"
               "    2 | optim: {betas: [0.9, 1.0]}\n"
               "      |                      ^~~");
  expect_error("data: {path: /p}\noptim: {betas: [0.9]}\n",
               "c.yaml:2:16: error: 'optim.betas' must have 2 numbers, got 1\n"
               "    2 | optim: {betas: [0.9]}\n"
               "      |                ^");
  expect_error("data: {path: /p, size: [1, 2, 3]}\n",
               "c.yaml:1:24: error: 'data.size' must have 1 to 2 numbers, got 3\n"
               "    1 | data: {path: /p, size: [1, 2, 3]}\n"
               "      |                        ^");
  expect_error("version: 2\ndata: {path: /p}\n",
               "c.yaml:1:10: error: 'version' must be 1, got 2\n"
               "    1 | version: 2\n"
               "      |          ^");
  expect_error("data: {path: /p}\noptim: {lr: .nan}\n",
               "c.yaml:2:13: error: 'optim.lr' must be a finite number, got .nan\n"
               "    2 | optim: {lr: .nan}\n"
               "      |             ^~~~");
}

TEST(Yaml, Axes) {
  EXPECT_EQ(load(kMinimal + "diffusion: {schedule: {type: cosine, s: 0.02}}")
                .config.diffusion.schedule.name(),
            "cosine");
  // Without `type`: the options of the default row.
  const Config c = load(kMinimal + "diffusion: {schedule: {beta_end: 0.01}}").config;
  ASSERT_NE(c.diffusion.schedule.options<LinearSchedule>(), nullptr);
  EXPECT_EQ(c.diffusion.schedule.options<LinearSchedule>()->beta_end, 0.01);

  expect_error(kMinimal + "diffusion:\n  schedule: cosin\n",
               "c.yaml:3:13: error: 'diffusion.schedule' must be one of linear, cosine, "
               "scaled_linear, sigmoid, table, vp, ve, edm, flow, shifted_cosine, "
               "continuous_sigmoid, laplace, "
               "got 'cosin'\n"
               "    3 |   schedule: cosin\n"
               "      |             ^~~~~ did you mean 'cosine'?");
  expect_error(kMinimal + "diffusion: {schedule: {type: linear, s: 0.1}}\n",
               "c.yaml:2:38: error: schedule 'linear' has no option 's'; its options: beta_start, "
               "beta_end, rescale\n"
               "    2 | diffusion: {schedule: {type: linear, s: 0.1}}\n"
               "      |                                      ^ it is an option of cosine");
  expect_error(kMinimal + "diffusion: {target: {type: epsilon, x: 1}}\n",
               "c.yaml:2:37: error: target 'epsilon' has no option 'x' (it has none)\n"
               "    2 | diffusion: {target: {type: epsilon, x: 1}}\n"
               "      |                                     ^");
  expect_error(
      kMinimal + "diffusion: {schedule: {type: table}}\n",
      "c.yaml:2:30: error: 'diffusion.schedule.file' must be set: text file with one number a step "
      "and a "
      "line; '#' starts a comment\n"
      "    2 | diffusion: {schedule: {type: table}}\n"
      "      |                              ^~~~~ e.g. --set diffusion.schedule.file=numbers.txt");
}

TEST(Yaml, RequiredKeys) {
  EXPECT_EQ(errors("version: 1\n"),
            "c.yaml:1:1: error: 'data.path' must be set: folder with the pictures, searched "
            "recursively; e.g. --set "
            "data.path=pictures\n1 error. Nothing was started.");
  EXPECT_EQ(errors(""), errors("version: 1\n"));
  expect_error(
      "data:\n  size: 8\n",
      "c.yaml:1:1: error: 'data.path' must be set: folder with the pictures, searched recursively\n"
      "    1 | data:\n"
      "      | ^~~~ e.g. --set data.path=pictures");
  EXPECT_EQ(errors("version: 1\n", {"data.path=/p"}), "");
}

TEST(Yaml, RefusesWhatIsNotPlainYaml) {
  expect_error("data: &a {path: /p}\n",
               "c.yaml:1:7: error: anchors (&name) are not supported\n"
               "    1 | data: &a {path: /p}\n"
               "      |       ^ write the value out where it is needed");
  EXPECT_EQ(errors("data: {path: &p /p}\nrun: {name: *p}\n"),
            "c.yaml:1:14: error: anchors (&name) are not supported\n"
            "    1 | data: {path: &p /p}\n"
            "      |              ^~ write the value out where it is needed\n"
            "c.yaml:2:13: error: aliases (*name) are not supported\n"
            "    2 | run: {name: *p}\n"
            "      |             ^ write the value again\n"
            "2 errors. Nothing was started.");
  expect_error("data: {path: *p}\n",
               "c.yaml:1:14: error: aliases (*name) are not supported\n"
               "    1 | data: {path: *p}\n"
               "      |              ^ write the value again");
  expect_error("data: {path: /p}\ntrain: {steps: !!int \"5\"}\n",
               "c.yaml:2:16: error: tags (!type) are not supported\n"
               "    2 | train: {steps: !!int \"5\"}\n"
               "      |                ^ remove the tag");
  expect_error("data: {path: /p}\nrun: {name: ! x}\n",
               "c.yaml:2:13: error: tags (!type) are not supported\n"
               "    2 | run: {name: ! x}\n"
               "      |             ^ remove the tag");
  expect_error("data: {path: /p}\noptim:\n  <<: {lr: 1}\n",
               "c.yaml:3:3: error: merge keys (<<) are not supported\n"
               "    3 |   <<: {lr: 1}\n"
               "      |   ^~ write the values out");
  expect_error("data: {path: /p}\noptim:\n  lr: 1\n  eps: 1e-8\n  lr: 2\n",
               "c.yaml:5:3: error: 'lr' is here a second time; the first is on line 3\n"
               "    5 |   lr: 2\n"
               "      |   ^~ keep one of them");
  expect_error("data: {path: /p}\n---\ndata: {path: /q}\n",
               "c.yaml:2:1: error: a second document begins here; a config is one document\n"
               "    2 | ---\n"
               "      | ^ remove the '---'");
  expect_error("data: {path: /p}\n[a]: 1\n",
               "c.yaml:2:1: error: a key must be a name\n"
               "    2 | [a]: 1\n"
               "      | ^");
  expect_error("data: {path: /p}\noptim:\n\tlr: 1\n",
               "c.yaml:3:4: error: not valid YAML: illegal map value\n"
               "    3 | \tlr: 1\n"
               "      | \t  ^ indent with spaces, not tabs");
}

TEST(Yaml, OnlyPrintableUtf8) {
  expect_error(std::string("data: {path: /p}\nrun: {name: a\0b}\n", 34),
               "c.yaml:2:14: error: control character U+0000\n"
               "    2 | run: {name: a?b}\n"
               "      |              ^ save the file as UTF-8 text");
  expect_error("run: {name: caf\xE9}\n",
               "c.yaml:1:16: error: not UTF-8: byte 0xE9\n"
               "    1 | run: {name: caf?}\n"
               "      |                ^ save the file as UTF-8 text");
  for (const char* bad : {"\xC0\x80",
                          "\xED\xA0\x80",
                          "\xF4\x90\x80\x80",
                          "\xF8\x88\x80\x80\x80",
                          "\x80",
                          "\xE2\x82",
                          "\x1B",
                          "\x04",
                          "\x7F",
                          "\xC2\x9B",
                          "\xEF\xBF\xBE",
                          "\r"})
    EXPECT_NE(errors(kMinimal + "run: {notes: \"" + bad + "\"}\n"), "") << bad;
  // UTF-16 with its mark, as some editors save.
  EXPECT_NE(errors(std::string("\xFF\xFE"
                               "d\0a\0t\0a\0",
                               10)),
            "");
  // Columns count characters, and a byte order mark is none.
  EXPECT_EQ(load("\xEF\xBB\xBF" + kMinimal).config.data.path, "/pictures");
  expect_error("data: {path: /p}\nrun: {name: \"\xC3\xA9\xE2\x82\xAC\", nam: x}\n",
               "c.yaml:2:19: error: unknown key 'run.nam'\n"
               "    2 | run: {name: \"\xC3\xA9\xE2\x82\xAC\", nam: x}\n"
               "      |                   ^~~ did you mean 'name'?");
  // Windows line ends.
  EXPECT_EQ(load("data:\r\n  path: /p\r\n").config.data.path, "/p");
}

TEST(Yaml, Limits) {
  std::string deep = "run: ";
  for (int i = 0; i < 64; ++i) deep += "[";
  EXPECT_NE(errors(deep).find("nested deeper than 64 levels"), std::string::npos);
  std::string very_deep = "run: " + std::string(100'000, '[');
  EXPECT_NE(errors(very_deep).find("nested deeper than 64 levels"), std::string::npos);
  std::string wide = "run: [";
  for (int i = 0; i < 10'000; ++i) wide += "1,";
  EXPECT_NE(errors(wide + "]").find("more than 10000 values"), std::string::npos);
  const std::string comment = "#" + std::string(size_t{1} << 20, 'x') + "\n";
  EXPECT_NE(errors(comment + kMinimal).find("larger than 1 MiB"), std::string::npos);
  EXPECT_EQ(errors(comment.substr(0, (size_t{1} << 20) - kMinimal.size() - 1) + "\n" + kMinimal),
            "");
}

/// Whether every error of a report begins with file, line and column.
bool has_places(const std::string& report) {
  static const std::regex kPlaced("(c\\.yaml:[0-9]+|--set\\[[0-9]+\\]):[0-9]+: error: ");
  size_t errors = 0;
  std::istringstream in(report);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(' ') || line.find(": error: ") == std::string::npos) continue;
    ++errors;
    if (!std::regex_search(line, kPlaced, std::regex_constants::match_continuous)) return false;
  }
  return errors > 0;
}

// Up to 1 MiB of what a parser may choke on: in 2 s and 512 MiB, and with the place.
TEST(Yaml, BombsAreCheapErrorsWithAPlace) {
  const std::string end_of_all = "zzzzzz: 1\n";
  const size_t kLargest = (size_t{1} << 20) - end_of_all.size();
  const auto repeated =
      [&](const std::string& start, const std::string& part, const std::string& end) {
        std::string out = start;
        while (out.size() + part.size() + end.size() <= kLargest) out += part;
        return out + end;
      };
  std::string laughs = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 30; ++i) {
    const std::string k = std::to_string(i), before = "*a" + std::to_string(i - 1);
    laughs += "a" + k + ": &a" + k + " [" + before + ", " + before + "]\n";
  }
  std::string numbered, deep;
  for (int i = 0; i < 9'990; ++i) numbered += "k" + std::to_string(i) + ":\n";
  for (size_t i = 0; i < 1400; ++i) deep += std::string(i, ' ') + "a:\n";
  const std::vector<std::string> bombs{laughs,
                                       "a: &x [*x]\n",
                                       "a: &x {b: *x}\n",
                                       "&x *x : 1\n",
                                       numbered,
                                       deep,
                                       repeated("", "[", ""),
                                       repeated("", "{", ""),
                                       repeated("", "[{", ""),
                                       repeated("", "- ", ""),
                                       repeated("", "? ", ""),
                                       repeated("", ": ", ""),
                                       repeated("", "a: ", ""),
                                       repeated("a: [", "1,", "]"),
                                       repeated("", "a: 1\n", ""),
                                       repeated("", "&a ", "x"),
                                       repeated("", "!!a ", "x"),
                                       repeated("", "*a ", ""),
                                       repeated("", "---\n", ""),
                                       repeated("", "...\n", ""),
                                       repeated("", "%TAG ! !\n", "---\na: 1\n"),
                                       repeated("", "%YAML 1.2\n", ""),
                                       repeated("a: \"", "\\\n", "\"\n"),
                                       repeated("a: \"", "\\u0041", "\"\n"),
                                       repeated("a: \"", "x", ""),
                                       repeated("a: '", "''", ""),
                                       repeated("a: |\n", " x\n", ""),
                                       repeated("a: >\n", " \n", ""),
                                       repeated("a: |9\n", "\n", ""),
                                       repeated("a: ", "x\n ", ""),
                                       repeated("", "x\n", ""),
                                       repeated("a:", " ", "1"),
                                       repeated("a:", "\n", "1"),
                                       repeated("", "\t", ""),
                                       repeated("", "x", ": 1\n"),
                                       repeated("? ", "x", "\n: 1\n"),
                                       repeated("{", "a: 1, ", "}"),
                                       repeated("[", "? a, ", "]"),
                                       repeated("", "'a' ", ""),
                                       repeated("", "#\n", "x: 1\n"),
                                       repeated("", "\xC2\x85", ""),
                                       repeated("", "\xF0\x9F\x98\x80", ": 1\n"),
                                       std::string(kLargest, '\0'),
                                       std::string(kLargest, '\xFF'),
                                       std::string((1 << 20) + 1, ' ')};
  for (size_t i = 0; i < bombs.size(); ++i) {
    if (kCanLimitCost) {
      const Cost cost =
          limited(2, 512, [&] { return has_places(errors(bombs[i] + end_of_all)) ? 0 : 1; });
      EXPECT_EQ(cost.result, 0) << i << ": " << bombs[i].substr(0, 40) << "...: " << cost.text();
    } else {
      EXPECT_TRUE(has_places(errors(bombs[i] + end_of_all))) << i;
    }
  }
  EXPECT_TRUE(has_places(errors(kMinimal, {"optim.lr=" + std::string(2 << 20, 'x')})));
}

TEST(Yaml, AFileThatIsTooLargeIsNotRead) {
  const TempFolder folder;
  const auto file = folder / "large.yaml";
  std::ofstream(file) << kMinimal;
  std::filesystem::resize_file(file, uint64_t{1} << 40);
  try {
    load_config(file, {});
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.what(),
              file.string() +
                  ":1:1: error: larger than 1 MiB (1099511627776 bytes); this is no config\n1 "
                  "error. Nothing was started.");
  }
}

TEST(Yaml, AllErrorsAtOnce) {
  std::string text = kMinimal + "train:\n";
  for (int i = 0; i < 23; ++i) text += "  zzzzzz" + std::to_string(i) + ": 1\n";
  const std::string report = errors(text);
  EXPECT_NE(report.find("unknown key 'train.zzzzzz19'"), std::string::npos);
  EXPECT_EQ(report.find("unknown key 'train.zzzzzz20'"), std::string::npos);
  EXPECT_TRUE(report.ends_with("\nand 3 more\n23 errors. Nothing was started.")) << report;
  // Of a file and of overrides together.
  EXPECT_EQ(errors(kMinimal + "optm: {}\n", {"train.precision=bf61", "train.bach=1"}),
            "c.yaml:2:1: error: unknown key 'optm'\n"
            "    2 | optm: {}\n"
            "      | ^~~~ did you mean 'optim'?\n"
            "--set[1]:17: error: 'train.precision' must be one of fp32, tf32, bf16, got 'bf61'\n"
            "  train.precision=bf61\n"
            "                  ^~~~ did you mean 'bf16'?\n"
            "--set[2]:7: error: unknown key 'train.bach'\n"
            "  train.bach=1\n"
            "        ^~~~ did you mean 'batch'?\n"
            "3 errors. Nothing was started.");
}

// What is missing and what does not fit is told together with what is misspelt, but for rules that
// would judge the default of a value that is wrong itself.
TEST(Yaml, RulesAreCheckedBesideOtherErrors) {
  const auto said = [](const std::string& text, const char* what) {
    return errors(text).find(what) != std::string::npos;
  };
  const std::string text =
      "train: {lr: 1}\nrun: {name: a/b}\ndiffusion: {zero_terminal_snr: true, target: epsilon}\n";
  for (const char* what : {"unknown key 'train.lr'",
                           "'data.path' must be set",
                           "'run.name'",
                           "'diffusion.target'",
                           "4 errors."})
    EXPECT_TRUE(said(text, what)) << what << '\n' << errors(text);
  const std::string batch = "data: {path: /p}\ntrain: {batch: 256x, micro_batch: 200}\n";
  EXPECT_TRUE(said(batch, "\n1 error.")) << errors(batch);
  const std::string section = "dat: {path: /p}\nrun: {name: a/b}\n";
  EXPECT_TRUE(said(section, "\n1 error.")) << errors(section);
}

TEST(Yaml, LongLinesAreCut) {
  const std::string filler(300, 'x');
  const std::string report = errors("run: {notes: " + filler + ", nam: 1}\n");
  EXPECT_NE(report.find("c.yaml:1:316: error: unknown key 'run.nam'"), std::string::npos) << report;
  for (size_t begin = 0; begin < report.size();) {
    const size_t end = std::min(report.find('\n', begin), report.size());
    EXPECT_LE(end - begin, 180u) << report;
    begin = end + 1;
  }
}

TEST(Overrides, TypedByTheSchema) {
  const Config c = load(kMinimal,
                        {"optim.lr=1e-3",
                         "model.channel_mult=[1, 2]",
                         "data.flip=true",
                         "sample.steps=auto",
                         "diffusion.schedule=cosine",
                         "diffusion.schedule.s=0.01",
                         "run.notes=a b, c",
                         "optim={eps: 1e-6, grad_clip: 0.5}",
                         "data.size=16"})
                       .config;
  EXPECT_EQ(c.optim.lr, 1e-3);
  EXPECT_EQ(c.optim.eps, 1e-6);
  EXPECT_EQ(c.optim.grad_clip, 0.5);
  EXPECT_EQ(c.model.channel_mult, (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(c.data.flip);
  EXPECT_FALSE(c.sample.steps.has_value());
  EXPECT_EQ(c.diffusion.schedule.options<CosineSchedule>()->s, 0.01);
  EXPECT_EQ(c.run.notes, "a b, c");
  EXPECT_EQ(c.data.size, std::vector<int64_t>{16});
}

TEST(Overrides, ApplyInOrder) {
  EXPECT_EQ(load(kMinimal, {"train.steps=5", "train.steps=7"}).config.train.steps, 7);
  const auto s = [](const std::vector<std::string>& set) {
    return load(kMinimal + "diffusion: {schedule: {type: cosine, s: 0.5}}", set)
        .config.diffusion.schedule.options<CosineSchedule>()
        ->s;
  };
  EXPECT_EQ(s({}), 0.5);
  EXPECT_EQ(s({"diffusion.schedule.beta_max=0.9"}), 0.5);
  EXPECT_EQ(s({"diffusion.schedule=cosine"}), 0.008);  // a row is selected with its defaults
  EXPECT_EQ(s({"diffusion.schedule.type=cosine"}), 0.008);
  EXPECT_EQ(s({"diffusion.schedule.s=0.25", "diffusion.schedule={beta_max: 0.9}"}), 0.25);
  EXPECT_EQ(load(kMinimal, {"diffusion.schedule={type: sigmoid, tau: 2}"})
                .config.diffusion.schedule.options<SigmoidSchedule>()
                ->tau,
            2);
}

TEST(Overrides, Errors) {
  expect_set_error("lr=1e-3",
                   "--set[1]:1: error: unknown key 'lr'\n"
                   "  lr=1e-3\n"
                   "  ^~ did you mean 'optim.lr'?");
  expect_set_error("optim.lr",
                   "--set[1]:1: error: an override is KEY=VALUE on one line\n"
                   "  optim.lr\n"
                   "  ^~~~~~~~ e.g. optim.lr=1.0e-4");
  expect_set_error("optim.lr=",
                   "--set[1]:7: error: 'optim.lr' must be a number, got nothing\n"
                   "  optim.lr=\n"
                   "        ^~");
  expect_set_error("optim.lr.x=1",
                   "--set[1]:7: error: 'optim.lr' is a value: it has no keys of its own\n"
                   "  optim.lr.x=1\n"
                   "        ^~ write optim.lr=...");
  expect_set_error("unet.dropout=0.1",
                   "--set[1]:1: error: unknown key 'unet'\n"
                   "  unet.dropout=0.1\n"
                   "  ^~~~ did you mean 'model'?");
  expect_set_error(
      "diffusion.schedule.s=0.1",
      "--set[1]:20: error: schedule 'linear' has no option 's'; its options: beta_start, beta_end, "
      "rescale\n"
      "  diffusion.schedule.s=0.1\n"
      "                     ^ it is an option of cosine");
  expect_set_error("model.channel_mult=1,2",
                   "--set[1]:20: error: 'model.channel_mult' must be a list of numbers, got '1,2'\n"
                   "  model.channel_mult=1,2\n"
                   "                     ^~~ e.g. [1, 2, 2]");
  EXPECT_NE(errors(kMinimal, {"model.channel_mult=[1, 2"}).find("--set[1]:"), std::string::npos);
  EXPECT_NE(errors(kMinimal, {"=1"}), "");
  EXPECT_NE(errors(kMinimal, {""}), "");
  EXPECT_NE(errors(kMinimal, {"a=1\nb=2"}), "");
  EXPECT_NE(errors(kMinimal, {"optim.lr=&a 1"}).find("anchors"), std::string::npos);
}

// A message is one line, whatever it is about.
TEST(Yaml, ANameOfManyLinesIsShownShort) {
  const std::string text =
      errors(kMinimal + "run: {name: \"a\\nb: error: c/" + std::string(200, 'd') + "\"}");
  EXPECT_NE(text.find("'a b: error: c/ddd"), std::string::npos) << text;
  EXPECT_NE(text.find("ddd...' cannot name a folder"), std::string::npos) << text;
}

// A value that was pasted from such a file.
TEST(Overrides, AreUtf8AndAByteOrderMarkIsNoPartOfThem) {
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(load(kMinimal, {mark + "optim.lr=1e-3"}).config.optim.lr, 1e-3);
  const std::string no_text = errors(kMinimal, {"run.notes=\xE9"});
  EXPECT_NE(no_text.find("not UTF-8: byte 0xE9"), std::string::npos) << no_text;
  EXPECT_EQ(no_text.find("save the file"), std::string::npos) << no_text;
  const std::string nothing = "'run.notes' has no value";
  EXPECT_NE(errors(kMinimal, {mark + "run.notes="}).find(nothing), std::string::npos);
}

TEST(Yaml, Origins) {
  const LoadedConfig loaded = load(
      "data:\n  path: /p\n  size: 8\ndiffusion:\n  schedule: {type: cosine, s: 0.1}\n"
      "model: {channel_mult: [1, 2], attention_at: [4]}\n",
      {"train.steps=3", "data.size=16"});
  EXPECT_EQ(loaded.origin("data.path"), "c.yaml:2");
  EXPECT_EQ(loaded.origin("data.size"), "--set[2]");
  EXPECT_EQ(loaded.origin("train.steps"), "--set[1]");
  EXPECT_EQ(loaded.origin("diffusion.schedule"), "c.yaml:5");
  EXPECT_EQ(loaded.origin("diffusion.schedule.s"), "c.yaml:5");
  EXPECT_EQ(loaded.origin("diffusion.schedule.beta_max"), "default");
  EXPECT_EQ(loaded.origin("optim.lr"), "default");
}

TEST(Yaml, PathsAreRelativeToTheirFile) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "configs");
  std::filesystem::create_directories(folder / "data/digits");
  const auto file = folder / "configs/c.yaml";
  std::ofstream(file) << "data: {path: ../data/digits/}\n";
  EXPECT_EQ(load_config(file, {}).config.data.path, (folder / "data/digits").string());
  EXPECT_TRUE(load_config(file, {}).warnings.empty());
  const auto here = std::filesystem::current_path();
  EXPECT_EQ(load_config(file, {{"data.path=x/y", "--set[1]"}}).config.data.path,
            (here / "x/y").string());
  EXPECT_EQ(load_config(file, {{"data.path=/abs", "--set[1]"}}).config.data.path, "/abs");
  ::setenv("HOME", "/home/me", 1);
  EXPECT_EQ(load_config(file, {{"data.path=~/pictures", "--set[1]"}}).config.data.path,
            "/home/me/pictures");
  // `link/..` is not the folder that holds the link.
  std::filesystem::create_directories(folder / "far/away");
  std::filesystem::create_directory_symlink(folder / "far/away", folder / "configs/link");
  std::ofstream(file) << "data: {path: link/../pictures}\n";
  EXPECT_EQ(std::filesystem::weakly_canonical(load_config(file, {}).config.data.path),
            std::filesystem::weakly_canonical(folder / "far/pictures"));
}

TEST(Yaml, HintsAtAPathOfTheCurrentFolder) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "configs");
  std::filesystem::create_directories(folder / "data");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder / "");
  std::ofstream("configs/c.yaml") << "data: {path: data}\n";
  const LoadedConfig loaded = load_config("configs/c.yaml", {});
  std::filesystem::current_path(before);
  ASSERT_EQ(loaded.warnings.size(), 1u);
  EXPECT_NE(loaded.warnings[0].find(
                "configs/c.yaml:1:14: warning: 'data.path' is relative to the folder of this file"),
            std::string::npos)
      << loaded.warnings[0];
}

TEST(Yaml, FilesThatCannotBeRead) {
  const TempFolder folder;
  for (const auto& path : {folder / "missing.yaml", folder / ""}) {
    try {
      load_config(path, {});
      FAIL() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::config);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
    }
  }
}

// Whatever the bytes are: an answer or a report, never anything else.
TEST(Yaml, SurvivesDamage) {
  const std::string good =
      "version: 1\nrun:\n  name: \"a: b\"\n  notes: >\n    folded\n    text\ndata:\n  path: /p\n  "
      "size: [32, 32]\n"
      "diffusion: {schedule: {type: cosine, s: 0.008}, target: 'velocity'}\noptim:\n  lr: 2.0e-4  "
      "# comment\n"
      "  betas:\n    - 0.9\n    - 0.999\n";
  ASSERT_EQ(errors(good), "");
  std::mt19937 random(7);
  const std::string bytes = "{}[]:,-#&*!|>'\"%@`?\n\t \\\x00\xFFx0~<";
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (int k = 0; k < 1 + i % 4; ++k) {
      const size_t at = random() % text.size();
      if (random() % 3 == 0)
        text.erase(at, random() % 9);
      else if (random() % 2 == 0)
        text.insert(at, 1, bytes[random() % bytes.size()]);
      else
        text[at] = bytes[random() % bytes.size()];
    }
    const std::string report = errors(text);
    if (!report.empty()) {
      EXPECT_TRUE(report.ends_with("Nothing was started.")) << text;
    }
  }
}

}  // namespace
}  // namespace diffuse
