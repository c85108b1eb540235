// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "app/run.h"
#include "config/yaml.h"
#include "io/checkpoint.h"

// `diffuse compare` on run folders that the tests write.

namespace diffuse::test {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr int kImages = 40;

struct RunSpec {
  std::vector<std::string> set = {};  // on configs/digits.yaml
  double shift = 0;                   // of every image's bits and errors
  std::string fingerprint = "00112233445566aa";
  std::vector<int> validated = {400, 800};
  std::string state = "finished";
  bool bits = true;
  double loss = 1;
  double level_offset = 0;  // of the levels' log SNR
  std::string samples = "\x89PNG grid";
  std::function<void(Json&)> edit = {};  // of each validation record
};

/// What image i has whichever run: much more than the runs differ by.
double of_image(int i) { return 0.5 * std::sin(1.7 * i); }

Json validation(const RunSpec& spec, int step) {
  Json total = Json::array(), rest = Json::array(), small = Json::array();
  for (int i = 0; i < kImages; ++i) {
    const double own = 0.01 * std::cos(2.9 * i * (1 + spec.shift));
    rest.push_back(3 + spec.shift + of_image(i) + own);
    small.push_back(0.25);
    total.push_back(rest.back().get<double>() + 0.5);
  }
  Json out{{"step", step},
           {"weights", "ema"},
           {"images", kImages},
           {"fingerprint", spec.fingerprint},
           {"seed", 0},
           {"unit", "bits/dim"}};
  for (const double logsnr : {-3.0, 0.0, 3.0}) {
    Json errors = Json::array();
    for (int i = 0; i < kImages; ++i)
      errors.push_back(0.5 + 0.1 * logsnr + 0.1 * spec.shift + 0.1 * of_image(i));
    out["levels"].push_back({{"logsnr", logsnr + spec.level_offset},
                             {"t", 500},
                             {"mse_eps", errors},
                             {"loss", errors}});
  }
  if (spec.bits)
    out["bits"] = {{"prior", small}, {"rest", rest}, {"decoder", small}, {"total", total}};
  if (spec.edit) spec.edit(out);
  return out;
}

void write_run(const fs::path& folder, const RunSpec& spec) {
  std::vector<Override> overrides;
  for (const std::string& text : spec.set) overrides.push_back({text, "test"});
  write_text(folder / "config.resolved.yaml",
             write_config(load_config(DIFFUSE_SOURCE_DIR "/configs/digits.yaml", overrides).config,
                          false));
  const bool finished = spec.state == "finished";
  write_text(folder / "status.json",
             Json{{"state", spec.state}, {"step", finished ? 800 : 500}, {"of", 800}}.dump());
  std::string rows;
  for (int step = 100; step <= 800; step += 100) {
    Json row{{"step", step},
             {"loss", spec.loss * (step == 600 ? 0.25 : 1.0 / step + 0.5)},
             {"loss_raw", 1.0},
             {"img_s", 900 + step % 300},
             {"time", 0.25 * step}};
    if (step == 800 && !spec.validated.empty()) row["val_bits"] = 3.5 + spec.shift;
    rows += row.dump() + "\n";
  }
  write_text(folder / "metrics.jsonl", rows);
  for (const int step : spec.validated)
    write_text(folder / ("validation/step-000000" + std::to_string(step) + ".json"),
               validation(spec, step).dump());
  if (!spec.samples.empty()) {
    write_text(folder / "samples/step-000000400.png", "old");
    write_text(folder / "samples/step-000000800.png", spec.samples);
  }
}

Json compared(std::vector<std::string> words) {
  words.insert(words.begin(), "compare");
  words.insert(words.end(), {"--format", "json"});
  const Outcome outcome = diffuse(words);
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  return Json::parse(outcome.out);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The difference of `run` in bits/dim (no level) or at a level.
Json difference_of(const Json& json, const std::string& run, const Json& logsnr) {
  for (const Json& one : json["differences"])
    if (one["run"] == run && one["logsnr"] == logsnr) return one;
  ADD_FAILURE() << "no difference of " << run;
  return {};
}

TEST(CompareCommand, PairedDifferencesSeeWhatImagesHide) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {.set = {"diffusion.schedule=linear"}, .shift = -0.05});
  write_run(folder / "c", {.set = {"run.seed=1"}, .shift = 0.05, .level_offset = 0.3});
  write_run(folder / "d", {.set = {"run.seed=2"}, .level_offset = -0.7});
  const Json json = compared({folder / "a", folder / "b", folder / "c", folder / "d"});
  EXPECT_EQ(json["step"], 800);
  EXPECT_EQ(json["baseline"], "a");
  const Json b = difference_of(json, "b", nullptr);
  EXPECT_EQ(b["paired"], true);
  EXPECT_EQ(b["verdict"], "better");
  // The runs' own parts differ by at most 0.02 an image.
  EXPECT_NEAR(b["difference"]["mean"].get<double>(), -0.05, 0.02);
  EXPECT_LT(b["difference"]["high"].get<double>(), -0.03);
  EXPECT_EQ(difference_of(json, "c", nullptr)["verdict"], "worse");
  EXPECT_EQ(difference_of(json, "d", nullptr)["verdict"], "not distinguishable");
  // Levels 0.3 and 0.7 off are still those of the same nominal log SNR.
  const Json level = difference_of(json, "c", 3.0);
  EXPECT_NEAR(level["difference"]["mean"].get<double>(), 0.005, 1e-12);
  EXPECT_NEAR(level["difference"]["low"].get<double>(), 0.005, 1e-12);
  EXPECT_EQ(level["verdict"], "worse");
  EXPECT_NEAR(difference_of(json, "d", -3.0)["difference"]["mean"].get<double>(), 0, 1e-12);

  EXPECT_EQ(json["ranking"]["by"], "bits/dim");
  std::string order;
  for (const Json& place : json["ranking"]["places"]) order += place["run"].get<std::string>();
  EXPECT_EQ(order, "badc");
  EXPECT_EQ(json["runs"][0]["metrics"]["loss"]["best"], 0.25);
  EXPECT_EQ(json["runs"][0]["metrics"]["loss"]["best_step"], 600);
  EXPECT_EQ(json["runs"][0]["metrics"]["loss"]["last"], 1.0 / 800 + 0.5);
  EXPECT_EQ(json["runs"][0]["seconds"], 200);
  EXPECT_EQ(json["runs"][0]["images_per_second"], 1000);  // of 900, 1000, 1100 in turn
  EXPECT_NEAR(json["runs"][0]["validation"]["bits"]["prior"]["mean"].get<double>(), 0.25, 1e-12);

  const Json other = compared({folder / "a", folder / "b", "--baseline", folder / "b"});
  EXPECT_EQ(other["baseline"], "b");
  EXPECT_EQ(difference_of(other, "a", nullptr)["verdict"], "worse");
}

TEST(CompareCommand, OtherImagesAreNotPaired) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {.shift = -0.05, .fingerprint = "ffffffffffffffff"});
  const Outcome table = diffuse({"compare", folder / "a", folder / "b"});
  EXPECT_EQ(table.exit, 0) << table.err;
  EXPECT_TRUE(contains(table.err, "validated on different images")) << table.err;
  EXPECT_TRUE(contains(table.out, "not distinguishable (not paired)")) << table.out;
  const Json json = compared({folder / "a", folder / "b"});
  const Json b = difference_of(json, "b", nullptr);
  EXPECT_EQ(b["paired"], false);
  // Two independent means of kImages values with standard deviation near 0.5 / sqrt(2).
  const double width = b["difference"]["high"].get<double>() - b["difference"]["low"].get<double>();
  EXPECT_NEAR(width, 2 * 1.96 * std::sqrt(2.0) * 0.5 / std::sqrt(2.0 * kImages), 0.05);
}

TEST(CompareCommand, UnlikeLossesAreNotRanked) {
  const TempFolder folder;
  // Its loss is the lowest and its figure on held-out images the worst.
  write_run(folder / "eps", {.set = {"diffusion.target=epsilon"}});
  write_run(
      folder / "x0",
      {.set = {"diffusion.target=x0", "diffusion.weighting=snr"}, .shift = 0.1, .loss = 0.01});
  const Outcome table = diffuse({"compare", folder / "x0", folder / "eps"});
  EXPECT_TRUE(contains(table.out,
                       "training losses are not ranked against each other: "
                       "diffusion.target, diffusion.weighting"))
      << table.out;
  EXPECT_TRUE(contains(table.out, "ranking by bits/dim")) << table.out;
  EXPECT_TRUE(contains(table.out, "1  eps")) << table.out;
  EXPECT_EQ(compared({folder / "x0", folder / "eps"})["training_losses_comparable"], false);

  // Without bits/dim by the error at the levels that both have; without validation not at all.
  write_run(folder / "eps", {.set = {"diffusion.target=epsilon"}});
  write_run(folder / "no-bits", {.set = {"diffusion.target=x0"}, .shift = 0.1, .bits = false});
  const Json by_error = compared({folder / "no-bits", folder / "eps"});
  EXPECT_EQ(by_error["ranking"]["by"], "mean mse_eps over log SNR -3 to 3 (3 levels)");
  EXPECT_EQ(by_error["ranking"]["places"][0]["run"], "eps");
  EXPECT_NEAR(by_error["ranking"]["places"][1]["to_best"]["mean"].get<double>(), 0.01, 1e-12);

  write_run(folder / "not-validated",
            {.set = {"diffusion.target=velocity"}, .validated = {}, .samples = ""});
  const Outcome none = diffuse({"compare", folder / "eps", folder / "not-validated"});
  EXPECT_EQ(none.exit, 0) << none.err;
  EXPECT_TRUE(contains(none.out, "no ranking: no validation on held-out images")) << none.out;
  EXPECT_TRUE(contains(none.out, "nothing is ranked")) << none.out;
  const Json json = compared({folder / "eps", folder / "not-validated"});
  EXPECT_TRUE(json["ranking"]["places"].empty());
  EXPECT_TRUE(json["runs"][1]["samples"].is_null());

  write_run(folder / "seed", {.set = {"diffusion.target=epsilon", "run.seed=7"}});
  const Json alike = compared({folder / "eps", folder / "seed"});
  EXPECT_EQ(alike["training_losses_comparable"], true);
  ASSERT_EQ(alike["config"].size(), 1u);
  EXPECT_EQ(alike["config"][0]["key"], "run.seed");
}

TEST(CompareCommand, TheLatestCommonStepIsCompared) {
  const TempFolder folder;
  write_run(folder / "a", {.validated = {200, 400, 800}});
  write_run(folder / "b", {.validated = {200, 400}, .state = "stopped"});
  const Outcome table = diffuse({"compare", folder / "a", folder / "b"});
  EXPECT_TRUE(contains(table.err, "b is not finished (stopped at step 500 of 800)")) << table.err;
  EXPECT_TRUE(contains(table.out, "held-out images at step 400")) << table.out;
  // A damaged record is passed over.
  write_text(folder / "b/validation/step-000000400.json", "{\"step\": 4");
  EXPECT_EQ(compared({folder / "a", folder / "b"})["step"], 200);
  write_run(folder / "c", {.validated = {300}});
  const Outcome apart = diffuse({"compare", folder / "a", folder / "c"});
  EXPECT_EQ(apart.exit, 0) << apart.err;
  EXPECT_TRUE(contains(apart.err, "no common step")) << apart.err;
  EXPECT_TRUE(contains(apart.err, "a at 800, c at 300")) << apart.err;
}

TEST(CompareCommand, CsvHasOneFigureALine) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b, \"quoted\"", {.set = {"diffusion.schedule=linear"}, .shift = 0.1});
  const std::string csv =
      diffuse({"compare", folder / "a", folder / "b, \"quoted\"", "--format", "csv"}).out;
  EXPECT_TRUE(csv.starts_with("run,quantity,logsnr,step,value,low,high\na,path,,,")) << csv;
  for (const char* line : {"\na,config.diffusion.schedule,,,cosine,,\n",
                           "\na,seconds,,,200,,\n",
                           "\na,loss.best,,600,0.25,,\n",
                           "\na,bits/dim.prior,,800,0.25,,\n",
                           "\n\"b, \"\"quoted\"\"\",bits/dim.difference,,800,",
                           "\n\"b, \"\"quoted\"\"\",mse_eps.difference,-3,800,",
                           "\na,rank,,,1,,\n"})
    EXPECT_TRUE(contains(csv, line)) << line << csv;
}

TEST(CompareCommand, ThePageHoldsEverythingItself) {
  const TempFolder folder;
  write_run(folder / "<img src=x>", {});
  write_run(folder / "b", {.set = {"run.notes=\"<script>\"", "diffusion.schedule=linear"}});
  const Outcome outcome = diffuse({"compare",
                                   folder / "<img src=x>",
                                   folder / "b",
                                   "--html",
                                   folder / "c.html",
                                   "--svg",
                                   folder / "c.svg"});
  EXPECT_EQ(outcome.exit, 0) << outcome.err;
  const std::string page = read_text(folder / "c.html");
  for (const char* never : {"http:", "https:", "<img src=x", "<script", "url(h"})
    EXPECT_FALSE(contains(page, never)) << never;
  EXPECT_TRUE(contains(page, "&lt;img src=x&gt;"));
  // "\x89PNG grid", the newest of each.
  EXPECT_TRUE(contains(page, "src=\"data:image/png;base64,iVBORyBncmlk\""));
  for (const char* part :
       {"ranking by bits/dim", "config keys that differ", "<svg", "95% interval"})
    EXPECT_TRUE(contains(page, part)) << part;
  const std::string svg = read_text(folder / "c.svg");
  for (const char* part : {"error of the predicted noise", "relative to", "training loss of b"})
    EXPECT_TRUE(contains(svg, part)) << part;
}

TEST(CompareCommand, RunsOfOneNameAreTheirPaths) {
  const TempFolder folder;
  write_run(folder / "x/run", {});
  write_run(folder / "y/run", {});
  const Outcome outcome =
      diffuse({"compare", "x/run/", "y/run", "--format", "json"}, {}, folder.path().string());
  const Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["runs"][0]["name"], "x/run");
  EXPECT_EQ(json["runs"][1]["name"], "y/run");
}

TEST(CompareCommand, SaysWhatIsWrong) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {});
  fs::create_directories(folder / "empty");
  const std::string a = folder / "a", b = folder / "b";
  const struct {
    std::vector<std::string> words;
    int exit;
    const char* message;
  } cases[] = {{{a}, 2, "two runs or more"},
               {{a, a + "/"}, 2, "are one folder"},
               {{a, b, "--baseline", "z"}, 2, "--baseline z is none of the runs"},
               {{a, folder / "nothing"}, 4, "does not exist"},
               {{a, folder / "empty"}, 4, "is no run folder"},
               {{a, b, "--html", folder / "no/c.html"}, 9, "cannot write"}};
  for (const auto& wrong : cases) {
    std::vector<std::string> words{"compare"};
    words.insert(words.end(), wrong.words.begin(), wrong.words.end());
    const Outcome outcome = diffuse(words);
    EXPECT_EQ(outcome.exit, wrong.exit) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, wrong.message)) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  // A run that has only begun is no failure.
  for (const char* name : {"status.json", "metrics.jsonl", "validation", "samples"})
    fs::remove_all(folder / "b" / name);
  const Outcome begun = diffuse({"compare", a, b, "--html", folder / "c.html"});
  EXPECT_EQ(begun.exit, 0) << begun.err;
  EXPECT_TRUE(contains(begun.err, "b has no metrics yet")) << begun.err;
  EXPECT_TRUE(contains(begun.err, "b has no status.json")) << begun.err;
  EXPECT_TRUE(contains(read_text(folder / "c.html"), "no samples yet"));
  const Json nothing = compared({a, b})["runs"][1];
  for (const char* unknown : {"state", "step", "of", "images_per_second", "seconds", "parameters"})
    EXPECT_TRUE(nothing[unknown].is_null()) << unknown;
  EXPECT_TRUE(nothing["metrics"].empty());
  EXPECT_FALSE(contains(diffuse({"compare", a, b, "--format", "csv"}).out, "\nb,state"));
  write_text(folder / "b/config.resolved.yaml", "version: 1\ndata: {path: ., sise: 8}\n");
  EXPECT_EQ(diffuse({"compare", a, b}).exit, 3);
}

bool warned(const Json& json, const std::string& part) {
  return std::any_of(json["warnings"].begin(), json["warnings"].end(), [&](const Json& warning) {
    return contains(warning.get<std::string>(), part);
  });
}

TEST(CompareCommand, RunsThatWereNotValidatedHaveTheirCurves) {
  const TempFolder folder;
  for (const char* name : {"a", "b", "c"}) write_run(folder / name, {.validated = {}});
  const Outcome table = diffuse({"compare", folder / "a", folder / "b", "--svg", folder / "c.svg"});
  EXPECT_EQ(table.exit, 0);
  EXPECT_EQ(table.err, "") << "nothing is wrong with them";
  for (const char* never : {"held-out images at", "mse_eps", "differences to"})
    EXPECT_FALSE(contains(table.out, never)) << table.out;
  EXPECT_TRUE(
      contains(table.out, "no ranking: no validation on held-out images (data.holdout) in a, b"))
      << table.out;
  const std::string svg = read_text(folder / "c.svg");
  EXPECT_TRUE(contains(svg, "training loss, smoothed"));
  EXPECT_FALSE(contains(svg, "error of the predicted noise"));
  EXPECT_FALSE(contains(svg, "held-out"));
  const Json json = compared({folder / "a", folder / "b"});
  EXPECT_TRUE(json["step"].is_null());
  EXPECT_TRUE(json["runs"][0]["validation"].is_null());

  // One that was is shown; without the baseline's there is nothing to take its differences to.
  write_run(folder / "b", {});
  const Outcome mixed = diffuse({"compare",
                                 folder / "a",
                                 folder / "b",
                                 folder / "c",
                                 "--format",
                                 "csv",
                                 "--svg",
                                 folder / "c.svg"});
  EXPECT_EQ(mixed.exit, 0);
  EXPECT_TRUE(contains(mixed.err, "without validation on held-out images: a, c")) << mixed.err;
  EXPECT_TRUE(contains(mixed.out, "\nb,bits/dim.prior,,800,0.25,,\n")) << mixed.out;
  EXPECT_FALSE(contains(mixed.out, ".difference")) << mixed.out;
  EXPECT_FALSE(contains(mixed.out, "rank")) << mixed.out;
  const std::string drawn = read_text(folder / "c.svg");
  EXPECT_TRUE(contains(drawn, "error of the predicted noise by noise level at step 800"));
  EXPECT_FALSE(contains(drawn, "relative to"));
  const Outcome other = diffuse(
      {"compare", folder / "a", folder / "b", "--baseline", "b", "--svg", folder / "c.svg"});
  EXPECT_TRUE(contains(other.out, "\n  a        -           -       -      -        -       -\n"))
      << other.out;
  EXPECT_TRUE(contains(read_text(folder / "c.svg"), "relative to b"));
}

TEST(CompareCommand, TheBaselineMayBeARunsName) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {.shift = 0.1});
  const Json json = compared({folder / "a", folder / "b", "--baseline", "b"});
  EXPECT_EQ(json["baseline"], "b");
  EXPECT_EQ(difference_of(json, "a", nullptr)["verdict"], "better");
}

TEST(CompareCommand, FiguresThatAreNotFiniteAreNotRanked) {
  const TempFolder folder;
  write_run(folder / "a", {});
  const auto no_bits = [](Json& record) { record["bits"]["total"][3] = nullptr; };
  write_run(folder / "b", {.edit = no_bits});
  write_text(folder / "b/metrics.jsonl",
             "{\"step\":100,\"loss\":0.5,\"img_s\":20000000}\n"
             "{\"step\":200,\"loss\":null,\"img_s\":null}\n");
  const Json json = compared({folder / "a", folder / "b"});
  const Json bits = difference_of(json, "b", nullptr);
  EXPECT_EQ(bits["verdict"], "not known");
  EXPECT_TRUE(bits["difference"]["mean"].is_null());
  EXPECT_TRUE(json["runs"][1]["validation"]["bits"]["total"]["mean"].is_null());
  EXPECT_EQ(json["runs"][1]["metrics"]["loss"]["last"], 0.5);
  EXPECT_EQ(json["runs"][1]["images_per_second"], 20'000'000);
  EXPECT_TRUE(json["ranking"]["by"].get<std::string>().starts_with("mean mse_eps")) << json;

  write_run(folder / "b", {.edit = [&](Json& record) {
              no_bits(record);
              record["levels"][1]["mse_eps"][0] = nullptr;
            }});
  write_text(folder / "b/metrics.jsonl", "{\"step\":100,\"loss\":null,\"img_s\":20000000}\n");
  const Outcome table = diffuse({"compare", folder / "a", folder / "b"});
  EXPECT_TRUE(
      contains(table.out, "no ranking: a run's figures on the held-out images are not finite"))
      << table.out;
  EXPECT_TRUE(contains(table.out, "not known")) << table.out;
  EXPECT_TRUE(contains(table.out, "2e+07")) << table.out;
  EXPECT_FALSE(contains(table.out, "nan")) << table.out;
  const Outcome csv = diffuse({"compare", folder / "a", folder / "b", "--format", "csv"});
  EXPECT_TRUE(contains(csv.out, "\nb,bits/dim.total,,800,,,\n")) << csv.out;
  EXPECT_FALSE(contains(csv.out, "\nb,loss.last")) << csv.out;
}

TEST(CompareCommand, UnlikeUnitsAndLevelsAreNotMixed) {
  const TempFolder folder;
  write_run(folder / "a", {});
  const auto in_nats = [](Json& record) { record["unit"] = "nats/dim"; };
  write_run(folder / "nats", {.edit = in_nats});
  const Json units = compared({folder / "a", folder / "nats"});
  for (const Json& difference : units["differences"]) EXPECT_EQ(difference["of"], "mse_eps");
  EXPECT_TRUE(units["ranking"]["by"].get<std::string>().starts_with("mean mse_eps")) << units;

  // Levels that only one of them has are shown, not compared.
  write_run(folder / "c", {.bits = false, .level_offset = 3});
  const Json some = compared({folder / "a", folder / "c"});
  EXPECT_EQ(some["ranking"]["by"], "mean mse_eps over log SNR 0 to 3 (2 levels)");
  EXPECT_EQ(some["differences"].size(), 2u);
  const Outcome shown = diffuse({"compare", folder / "a", folder / "c", "--svg", folder / "c.svg"});
  EXPECT_EQ(shown.exit, 0);
  EXPECT_TRUE(contains(shown.out, "\n       -3  0.2009       -\n")) << shown.out;
  EXPECT_TRUE(contains(shown.out, "\n        6       -  0.8009\n")) << shown.out;
  EXPECT_TRUE(contains(shown.out, "\n  c        -           -       -      -        -       -\n"))
      << shown.out;  // of bits/dim

  write_run(folder / "d", {.bits = false, .level_offset = 1.5});
  const Json none = compared({folder / "a", folder / "d"});
  EXPECT_EQ(none["ranking"]["reason"], "the runs share neither bits/dim nor a noise level");
  EXPECT_TRUE(none["differences"].empty());
}

TEST(CompareCommand, OtherNoiseWeightsAndCountsAreWarnedOf) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "seed", {.edit = [](Json& record) { record["seed"] = 7; }});
  write_run(folder / "raw", {.edit = [](Json& record) { record["weights"] = "raw"; }});
  write_run(folder / "few", {.edit = [](Json& record) {
              record["images"] = 10;
              for (Json& level : record["levels"])
                level["mse_eps"].get_ref<Json::array_t&>().resize(10);
              for (Json& term : record["bits"]) term.get_ref<Json::array_t&>().resize(10);
            }});
  const Json json = compared({folder / "a", folder / "seed", folder / "raw", folder / "few"});
  EXPECT_TRUE(warned(json, "seed and a were validated with different noise (seeds 7 and 0)"))
      << json["warnings"];
  EXPECT_EQ(difference_of(json, "seed", nullptr)["paired"], true);
  EXPECT_TRUE(warned(json, "validated with different weights (ema and raw, raw)"))
      << json["warnings"];
  EXPECT_TRUE(warned(json, "few was validated on 10 images: intervals of so few"))
      << json["warnings"];
  EXPECT_EQ(difference_of(json, "few", nullptr)["paired"], false);
  const Outcome csv = diffuse({"compare", folder / "a", folder / "few", "--format", "csv"});
  EXPECT_TRUE(contains(csv.out, "\nfew,bits/dim.difference.unpaired,,800,")) << csv.out;
}

TEST(CompareCommand, OnlyKeysThatMatterAreShown) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {.set = {"log.every_steps=7", "checkpoint.keep_last=9", "run.notes=x"}});
  const Outcome table = diffuse({"compare", folder / "a", folder / "b"});
  EXPECT_TRUE(contains(table.out, "none that matters")) << table.out;
  const Json json = compared({folder / "a", folder / "b"});
  ASSERT_EQ(json["config"].size(), 3u);
  for (const Json& key : json["config"]) EXPECT_EQ(key["matters"], false) << key;
  EXPECT_EQ(json["training_losses_comparable"], true);

  // How the pictures are read is not which; of these the losses are alike.
  write_run(folder / "c", {.set = {"data.workers=1"}});
  EXPECT_EQ(compared({folder / "a", folder / "c"})["training_losses_comparable"], true);
  write_run(folder / "d", {.set = {"data.flip=true"}});
  const Json flipped = compared({folder / "a", folder / "d"});
  EXPECT_TRUE(contains(flipped["notes"][0].get<std::string>(),
                       "data.flip differs, so they were taken on other pictures"))
      << flipped["notes"];

  // More keys than runs go down the page; one that a run's schedule has not is a dash.
  const std::string cosine = "diffusion.schedule={type: cosine, s: ";
  write_run(folder / "e", {.set = {cosine + "0.02}", "data.flip=true", "train.batch=64"}});
  write_run(folder / "f", {.set = {"diffusion.schedule=linear", "optim.lr=0.5"}});
  const std::vector<std::string> words{"compare", folder / "a", folder / "e", folder / "f"};
  std::vector<std::string> csv = words;
  csv.insert(csv.end(), {"--format", "csv"});
  const std::string keys = diffuse(words).out;
  EXPECT_TRUE(contains(keys, "\n  key                   a       e       f\n")) << keys;
  EXPECT_TRUE(contains(keys, "\n  diffusion.schedule.s  0.008   0.02    -\n")) << keys;
  const std::string figures = diffuse(csv).out;
  EXPECT_TRUE(contains(figures, "\ne,config.diffusion.schedule.s,,,0.02,,\n")) << figures;
  EXPECT_FALSE(contains(figures, "\nf,config.diffusion.schedule.s,")) << figures;
}

TEST(CompareCommand, TheNewestGridIsTheRunsPicture) {
  const TempFolder folder;
  write_run(folder / "a", {.samples = ""});
  write_run(folder / "b", {});
  // Names as train gives them, and what people put beside them.
  for (const char* name : {"step-000000300.png",
                           "step-000000900.svg",
                           "step-000000100.png",
                           "step-000000950.png.tmp-7",
                           "step-000000700.png",
                           "the best.png",
                           "step-000000500.svg"})
    write_text(folder / "a/samples" / name, "grid");
  const Json json = compared({folder / "a", folder / "b"});
  EXPECT_EQ(json["runs"][0]["samples"], (folder / "a/samples/step-000000900.svg").string());
  // One that cannot be read is no reason to have no page.
  fs::create_directory(folder / "a/samples/step-000000999.png");
  const Outcome page =
      diffuse({"compare", folder / "a", folder / "b", "--html", folder / "c.html"});
  EXPECT_EQ(page.exit, 0);
  EXPECT_TRUE(contains(page.err, "the page shows no samples of a")) << page.err;
  EXPECT_TRUE(contains(read_text(folder / "c.html"), "iVBORyBncmlk"));
}

TEST(CompareCommand, ParametersAreCountedInTheNewestCheckpoint) {
  const TempFolder folder;
  const std::vector<float> values(6);
  for (const char* name : {"a", "b"}) {
    write_run(folder / name, {});
    for (const int64_t rows : {1, 2})  // the newer has more
      write_checkpoint(
          folder / name / "checkpoints",
          rows,
          {{.name = "model.safetensors",
            .tensors = {{"w", "F32", {rows, 3}, std::as_bytes(std::span(values)).first(12 * rows)}},
            .text = ""}},
          false);
  }
  fs::resize_file(folder / "b/checkpoints/step-000000002/model.safetensors", 20);
  const Json json = compared({folder / "a", folder / "b"});
  EXPECT_EQ(json["runs"][0]["parameters"], 6);
  EXPECT_TRUE(json["runs"][1]["parameters"].is_null());
  EXPECT_TRUE(warned(json, "step-000000002/model.safetensors")) << json["warnings"];
  EXPECT_TRUE(warned(json, "; its parameters are not counted")) << json["warnings"];
  const Outcome csv = diffuse({"compare", folder / "a", folder / "b", "--format", "csv"});
  EXPECT_TRUE(contains(csv.out, "\na,parameters,,,6,,\n")) << csv.out;
}

TEST(CompareCommand, LibTorchIsNotLoaded) {
  const TempFolder folder;
  write_run(folder / "a", {});
  write_run(folder / "b", {});
  const Outcome outcome = diffuse({"compare", folder / "a", folder / "b"}, {{"LD_DEBUG", "libs"}});
  EXPECT_EQ(outcome.exit, 0);
  EXPECT_TRUE(contains(outcome.err, "libdiffuse_base"));
  EXPECT_FALSE(contains(outcome.err, "libtorch"));
}

}  // namespace
}  // namespace diffuse::test
