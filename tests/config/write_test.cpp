// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "config/load.h"
#include "config/schema.h"
#include "support/temp_folder.h"

namespace diffuse {
namespace {

using test::kMinimal;
using test::load;

void expect_reads_back(const Config& config) {
  for (const bool comments : {false, true}) {
    const std::string text = write_config(config, comments);
    const Config back = load(text).config;
    EXPECT_EQ(config_differences(config, back, false), std::vector<std::string>{}) << text;
    EXPECT_EQ(write_config(back, comments), text);
  }
}

TEST(Write, ReadsBackEqualForEveryRowOfEveryAxis) {
  size_t rows = 0;
  for (const auto& key : config_keys()) {
    const bool axis = key.key == "diffusion.schedule" || key.key == "diffusion.target" ||
                      key.key == "diffusion.weighting" || key.key == "diffusion.variance" ||
                      key.key == "diffusion.time_sampler" || key.key == "diffusion.loss" ||
                      key.key == "sample.sampler";
    if (!axis) continue;
    for (size_t begin = 0; begin <= key.type.size();) {
      const size_t end = std::min(key.type.find('|', begin), key.type.size());
      const std::string row = key.type.substr(begin, end - begin);
      begin = end + 1;
      if (row == "table") continue;  // needs a file: below
      ++rows;
      std::vector<std::string> sets{key.key + "=" + row};
      if (row.starts_with("learned")) sets.push_back("diffusion.loss=hybrid");
      if (row == "hybrid") sets.push_back("diffusion.variance=learned_range");
      expect_reads_back(load(kMinimal, sets).config);
    }
  }
  EXPECT_GE(rows, 15u);
}

TEST(Write, ReadsBackAwkwardValues) {
  Config c = load(kMinimal).config;
  c.data.path = "/a b/\"quoted\"/\\/\xC3\xA9";
  c.data.size = {32, 64};
  c.run.notes = "two\nlines\t# no comment: 'x' \"y\" {z}";
  c.run.name = "true";
  c.optim.lr = 0.1 + 0.2;
  c.optim.betas = {0.0, 1.0 - 1e-16};
  c.train.micro_batch = 7;
  c.sample.steps = 3;
  c.model.attention_at = {};
  c.run.seed = std::numeric_limits<int64_t>::max();
  expect_reads_back(c);
}

TEST(Write, ReadsBackATableSchedule) {
  const TempFolder folder;
  const auto file = folder / "table.txt";
  {
    std::ofstream out(file);
    for (int i = 0; i < 10; ++i) out << "0.5\n";
  }
  expect_reads_back(
      load(kMinimal,
           {"diffusion.steps=10", "diffusion.schedule={type: table, file: " + file.string() + "}"})
          .config);
}

TEST(Write, Layout) {
  const std::string text =
      write_config(load(kMinimal, {"diffusion.schedule=cosine", "optim.lr=1e-4"}).config, false);
  EXPECT_TRUE(text.starts_with("version: 1\n\nrun:\n  name: run\n")) << text;
  EXPECT_NE(text.find("\ndiffusion:\n  steps: 1000\n  schedule:\n    type: cosine\n    s: 0.008\n  "
                      "  beta_max: 0.999\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\n  target: epsilon\n"), std::string::npos);
  EXPECT_NE(text.find("\n  lr: 1.0e-4\n  betas: [0.9, 0.999]\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  weight_decay: 0.0\n"), std::string::npos);
  EXPECT_NE(text.find("\n  size: 32\n"), std::string::npos);
}

TEST(Write, OriginComments) {
  const LoadedConfig loaded = load(kMinimal, {"diffusion.schedule=cosine"});
  const std::string text = write_config(loaded.config, true, loaded.origin);
  EXPECT_NE(text.find("\n    type: cosine  # --set[1]\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  path: /pictures  # c.yaml:1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  lr: 2.0e-4  # default\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n  # learning rate of AdamW\n"), std::string::npos) << text;
}

TEST(Differences, NameTheKeys) {
  const Config a = load(kMinimal).config;
  const Config b = load(kMinimal,
                        {"diffusion.target=velocity",
                         "diffusion.schedule=cosine",
                         "train.steps=5",
                         "log.every_steps=7",
                         "train.device=cpu",
                         "optim.lr=1e-3",
                         "data.workers=3"})
                       .config;
  EXPECT_EQ(config_differences(a, b, true),
            (std::vector<std::string>{"diffusion.schedule: linear -> cosine",
                                      "diffusion.target: epsilon -> velocity",
                                      "optim.lr: 2.0e-4 -> 0.001"}));
  EXPECT_EQ(config_differences(a, b, false),
            (std::vector<std::string>{"data.workers: auto -> 3",
                                      "diffusion.schedule: linear -> cosine",
                                      "diffusion.target: epsilon -> velocity",
                                      "optim.lr: 2.0e-4 -> 0.001",
                                      "train.steps: 100000 -> 5",
                                      "train.device: auto -> cpu",
                                      "log.every_steps: 50 -> 7"}));
  const Config c = load(kMinimal, {"diffusion.schedule.beta_end=0.01"}).config;
  EXPECT_EQ(config_differences(a, c, true),
            std::vector<std::string>{"diffusion.schedule.beta_end: 0.02 -> 0.01"});
  EXPECT_EQ(config_differences(a, a, false), std::vector<std::string>{});
}

TEST(Write, ValuesAreTheKeysOfTheFile) {
  Config config;
  config.diffusion.schedule.select("cosine");
  const std::vector<ConfigValue> values = config_values(config);
  const auto find = [&](const std::string& key) {
    const ConfigValue* found = nullptr;
    for (const ConfigValue& value : values)
      if (value.key == key) found = &value;
    return found;
  };
  ASSERT_NE(find("diffusion.schedule"), nullptr);
  EXPECT_EQ(find("diffusion.schedule")->value, "cosine");
  EXPECT_EQ(find("diffusion.schedule.s")->value, "0.008");
  EXPECT_TRUE(find("diffusion.schedule.s")->affects_result);
  EXPECT_FALSE(find("run.name")->affects_result);
  EXPECT_EQ(find("diffusion"), nullptr);                      // a section has no value
  EXPECT_EQ(find("diffusion.schedule.beta_start"), nullptr);  // of another row
}

// A decimal comma, and a Turkish dotless i, must change nothing.
TEST(Locale, ChangesNothing) {
  const TempFolder folder;
  const Config c = load(kMinimal, {"optim.lr=0.00123"}).config;
  const std::string before = write_config(c, true);
  const std::string report = test::errors(kMinimal, {"DATA.SIZE=1", "optim.lr=0,5"});
  bool tried = false;
  for (const std::string name : {"de_DE", "tr_TR"}) {
    const std::string make = "localedef -i " + name + " -f UTF-8 '" +
                             (folder / (name + ".UTF-8")).string() + "' >/dev/null 2>&1";
    if (std::system(make.c_str()) != 0) continue;
    ::setenv("LOCPATH", folder.path().c_str(), 1);
    if (std::setlocale(LC_ALL, (name + ".UTF-8").c_str()) == nullptr) continue;
    tried = true;
    EXPECT_EQ(write_config(load(before).config, true), before);
    EXPECT_EQ(test::errors(kMinimal, {"DATA.SIZE=1", "optim.lr=0,5"}), report);
    std::setlocale(LC_ALL, "C");
  }
  ::unsetenv("LOCPATH");
  if (!tried) GTEST_SKIP() << "no locale with a decimal comma (Debian package locales)";
}

}  // namespace
}  // namespace diffuse
