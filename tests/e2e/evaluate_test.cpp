// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "e2e/runs.h"

// `diffuse evaluate`, and validation while training.

namespace diffuse::test {
namespace {

using Json = nlohmann::json;

const Words kHoldout{"--set", "data.holdout=0.1", "--set", "sample.every_steps=0"};

Words validating(const Words& more = {}) {
  return with(with(kHoldout,
                   {"--set",
                    "validate.every_steps=5",
                    "--set",
                    "validate.images=10",
                    "--set",
                    "validate.timesteps=6"}),
              more);
}

std::string validation(const std::string& run, int step) {
  const std::string digits = std::to_string(step);
  return read_text(run + "/validation/step-" + std::string(9 - digits.size(), '0') + digits +
                   ".json");
}

TEST(Evaluate, BothRoutesOfATrainedModel) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome trained = diffuse(train_words(run, kHoldout));
  ASSERT_EQ(trained.exit, 0) << trained.err;
  EXPECT_NE(trained.err.find(" held out"), std::string::npos) << trained.err;
  const auto evaluate = [&](const Words& more) {
    return diffuse(with({"evaluate", run, "--threads", "1", "-n", "4"}, more));
  };
  const Outcome out = evaluate({"--format",
                                "json",
                                "--tol",
                                "5e-2",
                                "--probes",
                                "2",
                                "--csv",
                                folder / "terms.csv",
                                "--svg",
                                folder / "terms.svg"});
  ASSERT_EQ(out.exit, 0) << out.err;
  const Json json = Json::parse(out.out);
  EXPECT_EQ(json["images"], 4);
  EXPECT_EQ(json["weights"], "ema");
  EXPECT_NE(json["data"].get<std::string>().find("(held out)"), std::string::npos);
  EXPECT_EQ(json["bound"]["timesteps"], 50);
  for (const char* form : {"clipped", "unclipped"}) {
    const Json& b = json["bound"][form];
    double sum = 0;
    for (const char* part : {"prior", "rest", "decoder"}) sum += b[part]["mean"].get<double>();
    EXPECT_NEAR(b["total"]["mean"].get<double>(), sum, 1e-9 * sum) << form;
    EXPECT_GT(b["total"]["se"].get<double>(), 0);
  }
  EXPECT_LE(json["bound"]["clipped"]["rest"]["mean"].get<double>(),
            json["bound"]["unclipped"]["rest"]["mean"].get<double>());
  const Json& ode = json["ode"];
  EXPECT_TRUE(std::isfinite(ode["total"]["mean"].get<double>()));
  EXPECT_GT(ode["evaluations"].get<double>(), 6);
  EXPECT_GT(ode["probe_se"].get<double>(), 0);
  EXPECT_NEAR(ode["offset"].get<double>(), -std::log2(2.0 / 255), 1e-12);

  // A row a step, whose sum is the total.
  std::istringstream csv(read_text(folder / "terms.csv"));
  std::string line;
  std::getline(csv, line);
  EXPECT_EQ(line, "t,logsnr,bits,bits_se,clipped_bits,clipped_bits_se,mse_x0,mse_eps");
  double bits = 0;
  int rows = 0;
  for (; std::getline(csv, line); ++rows) {
    EXPECT_EQ(std::stoi(line), rows);
    bits += std::stod(line.substr(line.find(',', line.find(',') + 1) + 1));
  }
  EXPECT_EQ(rows, 50);
  const Json& plain = json["bound"]["unclipped"];
  EXPECT_NEAR(bits + plain["prior"]["mean"].get<double>(),
              plain["total"]["mean"].get<double>(),
              1e-9 * bits);
  EXPECT_TRUE(read_text(folder / "terms.svg").starts_with("<svg"));

  // The pictures and their noise do not depend on the batch; the sums of float32 do, a little.
  const Json apart =
      Json::parse(evaluate({"--nll", "bound", "--batch", "1", "--format", "json"}).out);
  EXPECT_EQ(apart["fingerprint"], json["fingerprint"]);
  EXPECT_NEAR(apart["bound"]["clipped"]["total"]["mean"].get<double>(),
              json["bound"]["clipped"]["total"]["mean"].get<double>(),
              1e-4 * bits);
  EXPECT_FALSE(apart.contains("ode"));

  const Outcome text =
      evaluate({"--nll", "bound", "--timesteps", "5", "--clip", "--weights", "raw"});
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_NE(text.out.find("raw weights"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("estimated: L_0 and 5 of the 49"), std::string::npos) << text.out;
  EXPECT_EQ(text.out.find("unclipped"), std::string::npos) << text.out;
  const Outcome exact = diffuse({"evaluate",
                                 run,
                                 "--threads",
                                 "1",
                                 "-n",
                                 "1",
                                 "--nll",
                                 "ode",
                                 "--exact-trace",
                                 "--tol",
                                 "0.1"});
  EXPECT_EQ(exact.exit, 0) << exact.err;
  EXPECT_NE(exact.out.find("exact trace"), std::string::npos) << exact.out;

  const Outcome other = evaluate(
      {"--data", DIFFUSE_SOURCE_DIR "/data/digits/3", "--nll", "bound", "--timesteps", "1"});
  EXPECT_EQ(other.exit, 0) << other.err;
  EXPECT_EQ(evaluate({"--clip", "--no-clip"}).exit, 2);
  EXPECT_EQ(evaluate({"--nll", "ode", "--csv", folder / "x.csv"}).exit, 2);
  EXPECT_EQ(evaluate({"--timesteps", "50"}).exit, 2);
  EXPECT_EQ(evaluate({"--tol", "1e-9"}).exit, 2);
  EXPECT_EQ(evaluate({"--data", folder / "nowhere"}).exit, 5);
}

TEST(Evaluate, TheBoundIsGivenWhereThereIsNoOde) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run,
                                {"--set",
                                 "train.steps=3",
                                 "--set",
                                 "data.holdout=0.01",
                                 "--set",
                                 "diffusion.target=mu"}))
                .exit,
            0);
  const Words words{"evaluate", run, "--threads", "1", "-n", "2", "--timesteps", "2"};
  const Outcome both = diffuse(words);
  EXPECT_EQ(both.exit, 0) << both.err;
  EXPECT_NE(both.out.find("bound"), std::string::npos) << both.out;
  EXPECT_NE(both.err.find("without the ODE: target 'mu'"), std::string::npos) << both.err;
  EXPECT_EQ(diffuse(with(words, {"--nll", "ode"})).exit, 2);
  EXPECT_EQ(diffuse(with(words, {"--steps", "20"})).exit, 2);
}

TEST(Train, ARunWithoutOneUpdateHasDiverged) {
  const TempFolder folder;
  const std::string weights = folder / "w.txt", run = folder / "run";
  write_text(weights, "0 1e300\n");
  const Outcome o = diffuse(
      train_words(run, {"--set", "diffusion.weighting={type: table, file: " + weights + "}"}));
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_NE(o.err.find("not one update of the run"), std::string::npos) << o.err;
  EXPECT_EQ(status(run)["state"], "failed");
}

// In continuous time no step is more trained than another: chains may have any length.
TEST(Continuous, ChainsOfAnyLength) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run,
                                {"--set",
                                 "train.steps=3",
                                 "--set",
                                 "diffusion.steps=10",
                                 "--set",
                                 "diffusion.schedule=edm",
                                 "--set",
                                 "diffusion.target=edm",
                                 "--set",
                                 "data.holdout=0.01"}))
                .exit,
            0);
  for (const char* steps : {"4", "30"})
    for (const char* sampler : {"ddpm", "ddim"}) {
      const Outcome o = diffuse({"sample",
                                 run,
                                 "--threads",
                                 "1",
                                 "-n",
                                 "2",
                                 "--steps",
                                 steps,
                                 "--sampler",
                                 sampler,
                                 "--force",
                                 "--out",
                                 folder / "x.png"});
      EXPECT_EQ(o.exit, 0) << o.err;
      EXPECT_NE(diffuse({"inspect", folder / "x.png"}).out.find(sampler), std::string::npos);
    }
  const Outcome o =
      diffuse({"evaluate", run, "--threads", "1", "-n", "2", "--nll", "bound", "--steps", "25"});
  EXPECT_EQ(o.exit, 0) << o.err;
  EXPECT_NE(o.out.find("all 25 steps of the chain"), std::string::npos) << o.out;
}

TEST(Evaluate, SaysWhenThePicturesWereTrainedOn) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run, {"--set", "train.steps=3"})).exit, 0);
  const Outcome o =
      diffuse({"evaluate", run, "--threads", "1", "-n", "2", "--nll", "bound", "--timesteps", "1"});
  EXPECT_EQ(o.exit, 0) << o.err;
  EXPECT_NE(o.err.find("trained on these pictures"), std::string::npos) << o.err;
}

TEST(Validate, WritesAFileAndTheMetrics) {
  const TempFolder folder;
  const std::string run = folder / "run";
  const Outcome o = diffuse(train_words(run, validating()));
  ASSERT_EQ(o.exit, 0) << o.err;
  const Json json = Json::parse(validation(run, 5));
  EXPECT_EQ(json["step"], 5);
  EXPECT_EQ(json["weights"], "ema");
  EXPECT_EQ(json["images"], 10);
  EXPECT_EQ(json["fingerprint"].get<std::string>().size(), 16u);
  EXPECT_EQ(json["seed"], 0);
  EXPECT_EQ(json["unit"], "bits/dim");
  // The cosine chain of 50 steps begins at log SNR 6.35 and has one step near -9 and -7.5.
  ASSERT_EQ(json["levels"].size(), 10u);
  double last = -100;
  for (const Json& level : json["levels"]) {
    EXPECT_GT(level["logsnr"].get<double>(), last);
    last = level["logsnr"].get<double>();
    EXPECT_EQ(level["mse_eps"].size(), 10u);
    // The simple loss of epsilon, at the step nearest to the level and with the same noise.
    for (size_t i = 0; i < 10; ++i) {
      const double loss = level["loss"][i];
      EXPECT_NEAR(level["mse_eps"][i].get<double>(), loss, 0.05 * loss);
    }
  }
  for (const char* part : {"prior", "rest", "decoder", "total"})
    EXPECT_EQ(json["bits"][part].size(), 10u) << part;

  // Lines at 4, 5, 8, 10 and 12; of them 5, 10 and the last one are measured.
  const std::vector<std::string> lines = metrics(run);
  ASSERT_EQ(lines.size(), 5u);
  for (size_t i = 0; i < lines.size(); ++i) {
    const Json row = Json::parse(lines[i]);
    EXPECT_EQ(row.contains("val_bits"), i == 1 || i == 3 || i == 4) << lines[i];
    if (!row.contains("val_bits")) continue;
    double bins = 0, levels = 0;
    int count = 0;
    for (const auto& [name, value] : row.items()) {
      if (name.starts_with("val_rest[")) bins += value.get<double>();
      if (name.starts_with("val_loss[")) levels += value.get<double>(), ++count;
    }
    const double rest = row["val_rest"].get<double>();
    EXPECT_NEAR(bins, rest, 1e-12 * rest);
    EXPECT_NEAR(levels / count, row["val_loss"].get<double>(), 1e-12);
    EXPECT_NEAR(row["val_prior"].get<double>() + rest + row["val_decoder"].get<double>(),
                row["val_bits"].get<double>(),
                1e-12 * row["val_bits"].get<double>());
  }
  EXPECT_NE(read_text(run + "/plots/train.svg").find("Held-out bound by log SNR"),
            std::string::npos);
}

TEST(Validate, ChangesNothingOfTheTraining) {
  const TempFolder folder;
  const std::string with_it = folder / "with", without = folder / "without";
  ASSERT_EQ(diffuse(train_words(with_it, validating())).exit, 0);
  ASSERT_EQ(diffuse(train_words(without, kHoldout)).exit, 0);
  for (const char* file : {"model.safetensors", "ema.safetensors", "optim.safetensors"})
    EXPECT_EQ(read_text(checkpoint(with_it, 12) + "/" + file),
              read_text(checkpoint(without, 12) + "/" + file))
        << file;
}

TEST(Validate, RunsArePairedAndAResumeWritesTheSame) {
  const TempFolder folder;
  const std::string whole = folder / "whole", part = folder / "part", other = folder / "other";
  ASSERT_EQ(diffuse(train_words(whole, validating())).exit, 0);
  ASSERT_EQ(diffuse(train_words(part, validating({"--set", "train.steps=7"}))).exit, 0);
  ASSERT_EQ(diffuse(train_words(part, validating())).exit, 0);
  expect_same_run(whole, part, 12);
  for (const int step : {5, 10, 12}) EXPECT_EQ(validation(whole, step), validation(part, step));

  // Another seed and another target: the same pictures, levels and prior.
  ASSERT_EQ(diffuse(train_words(other,
                                validating({"--set",
                                            "run.seed=3",
                                            "--set",
                                            "diffusion.target=velocity",
                                            "--set",
                                            "train.steps=5"})))
                .exit,
            0);
  const Json a = Json::parse(validation(whole, 5)), b = Json::parse(validation(other, 5));
  EXPECT_EQ(a["fingerprint"], b["fingerprint"]);
  EXPECT_EQ(a["bits"]["prior"], b["bits"]["prior"]);
  ASSERT_EQ(a["levels"].size(), b["levels"].size());
  for (size_t i = 0; i < a["levels"].size(); ++i) {
    EXPECT_EQ(a["levels"][i]["logsnr"], b["levels"][i]["logsnr"]);
    EXPECT_EQ(a["levels"][i]["t"], b["levels"][i]["t"]);
    EXPECT_NE(a["levels"][i]["loss"], b["levels"][i]["loss"]);
  }
}

TEST(Validate, ContinuousTimeAndLearnedVariance) {
  const TempFolder folder;
  const std::string edm = folder / "edm", hybrid = folder / "hybrid";
  const Outcome o = diffuse(train_words(edm,
                                        validating({"--set",
                                                    "diffusion.schedule=edm",
                                                    "--set",
                                                    "diffusion.target=edm",
                                                    "--set",
                                                    "diffusion.weighting=edm",
                                                    "--set",
                                                    "train.steps=5"})));
  ASSERT_EQ(o.exit, 0) << o.err;
  const Json json = Json::parse(validation(edm, 5));
  EXPECT_EQ(json["levels"][0]["t"], -1);
  // P_mean -1.2, P_std 1.2: log SNR -2 ln sigma of mean 2.4 and deviation 2.4, 3.09 of which are
  // the quantiles 0.001 and 0.999: -5.02 to 9.82.
  EXPECT_NEAR(json["levels"].front()["logsnr"].get<double>(), -4.5, 1e-12);
  EXPECT_NEAR(json["levels"].back()["logsnr"].get<double>(), 9, 1e-12);
  const Outcome l = diffuse(train_words(hybrid,
                                        validating({"--set",
                                                    "diffusion.variance=learned_range",
                                                    "--set",
                                                    "diffusion.loss=hybrid",
                                                    "--set",
                                                    "train.steps=5"})));
  ASSERT_EQ(l.exit, 0) << l.err;
  const Json measured = Json::parse(validation(hybrid, 5));
  for (const Json& bits : measured["bits"]["total"]) EXPECT_GT(bits.get<double>(), 0);
  for (const std::string& run : {edm, hybrid}) {
    const Outcome e = diffuse({"evaluate",
                               run,
                               "--threads",
                               "1",
                               "-n",
                               "2",
                               "--timesteps",
                               "4",
                               "--tol",
                               "0.1",
                               "--format",
                               "json"});
    EXPECT_EQ(e.exit, 0) << e.err;
    EXPECT_TRUE(Json::parse(e.out)["ode"]["total"]["mean"].is_number()) << e.out;
  }
}

}  // namespace
}  // namespace diffuse::test
