// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/run.h"

// `diffuse schedule` and `diffuse explain`.

namespace diffuse::test {
namespace {

using Json = nlohmann::json;

constexpr const char* kDigits = DIFFUSE_SOURCE_DIR "/configs/digits.yaml";

TEST(ScheduleCommand, HasEveryStepAsJsonAndCsv) {
  const Json json =
      Json::parse(diffuse({"schedule", "-t", "linear", "-t", "cosine", "--format", "json"}).out);
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["schedule"], "linear");
  ASSERT_EQ(json[0]["beta"].size(), 1000u);
  // Golden numbers in float64: Ho et al. 2020, sec. 4; Nichol & Dhariwal 2021, eq. 17.
  EXPECT_NEAR(json[0]["alpha_bar"][999].get<double>(), 4.035829765375675e-05, 1e-16);
  EXPECT_NEAR(json[1]["alpha_bar"][500].get<double>(), 4.922851724488030e-01, 1e-12);
  EXPECT_NEAR(json[1]["snr"][999].get<double>(), 2.428766912934e-09, 1e-20);

  const std::string csv =
      diffuse({"schedule", "-t", "linear", "--steps", "30", "--format", "csv"}).out;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 31);
  EXPECT_TRUE(
      csv.starts_with("schedule,t,beta,alpha_bar,sigma,snr,logsnr,posterior_variance\nlinear,0,"))
      << csv;
}

TEST(ScheduleCommand, SideBySide) {
  const TempFolder folder;
  const Outcome both = diffuse({"schedule",
                                "-t",
                                "linear",
                                "-t",
                                "{type: cosine, s: 0.02}",
                                "--rows",
                                "3",
                                "--svg",
                                folder / "s.svg"});
  EXPECT_EQ(both.exit, 0) << both.err;
  EXPECT_NE(both.out.find("linear, T = 1000, terminal SNR 4.03599e-05"), std::string::npos);
  EXPECT_NE(both.out.find("linear and {type: cosine, s: 0.02} differ most at t = 999"),
            std::string::npos)
      << both.out;
  EXPECT_TRUE(read_text(folder / "s.svg").starts_with("<svg"));
  // Each is compared with the first. Both end without signal: the difference is elsewhere.
  const Outcome three = diffuse({"schedule",
                                 "-t",
                                 "linear",
                                 "-t",
                                 "cosine",
                                 "-t",
                                 "sigmoid",
                                 "--rows",
                                 "1",
                                 "--set",
                                 "diffusion.zero_terminal_snr=true",
                                 "--set",
                                 "diffusion.target=velocity"});
  EXPECT_EQ(three.exit, 0) << three.err;
  for (const std::string other : {"cosine", "sigmoid"})
    EXPECT_NE(three.out.find("\nlinear and " + other + " differ most at t = "), std::string::npos)
        << three.out;
  EXPECT_EQ(three.out.find("differ most at t = 999"), std::string::npos) << three.out;
  EXPECT_NE(three.out.find("linear, T = 1000, terminal SNR 0\n"), std::string::npos) << three.out;
  EXPECT_NE(three.out.find("\n    999"), std::string::npos) << three.out;  // the noisiest
  EXPECT_EQ(three.out.find("\n      0"), std::string::npos) << three.out;
  const Outcome of_config = diffuse({"schedule", kDigits});
  EXPECT_NE(of_config.out.find("cosine, T = 1000"), std::string::npos) << of_config.out;
  const Outcome wrong = diffuse({"schedule", "-t", "cosin"});
  EXPECT_EQ(wrong.exit, 3);
  EXPECT_NE(wrong.err.find("did you mean 'cosine'?"), std::string::npos) << wrong.err;
}

TEST(ExplainCommand, WritesTheObjectiveOut) {
  const TempFolder folder;
  const std::vector<std::string> words{
      "explain", kDigits, "--set", "diffusion.weighting=min_snr", "--svg", folder / "w.svg"};
  const Outcome text = diffuse(words);
  EXPECT_EQ(text.exit, 0) << text.err;
  for (const char* part : {"epsilon: the noise eps",
                           "min_snr",
                           "cosine",
                           "monotone     no",
                           "terminal     SNR 2.429e-09"})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
  EXPECT_TRUE(read_text(folder / "w.svg").starts_with("<svg"));

  const Json json = Json::parse(
      diffuse({"explain", kDigits, "--set", "diffusion.weighting=min_snr", "--format", "json"})
          .out);
  ASSERT_EQ(json["levels"].size(), 1000u);
  // min(SNR, 5) / SNR on epsilon: Hang et al. 2023, sec. 3.4.
  EXPECT_EQ(json["levels"][999]["on_eps"], 1);
  EXPECT_NEAR(json["levels"][0]["on_eps"].get<double>(), 5 / 2.422132715553e+04, 1e-15);
  double shares = 0;
  for (const Json& level : json["levels"]) shares += level["share"].get<double>();
  EXPECT_NEAR(shares, 1, 1e-12);
}

TEST(ExplainCommand, WritesEachKindOfObjective) {
  const struct {
    std::vector<std::string> set;
    std::vector<std::string> parts;
    bool has_weight = true;  // of an error of its own
  } cases[] = {
      {{"schedule=ve"}, {"eps, alpha_t = 1\n", "continuous time, chains of 1000 steps"}},
      {{"schedule=flow", "target=flow"}, {"alpha_t + sigma_t = 1\n"}},
      {{"schedule=linear"}, {"alpha_t^2 + sigma_t^2 = 1\n", "T = 1000\n"}},
      {{"loss=huber"}, {"w_t mean huber(F* - F(z_t, t)),", "huber: of errors below delta"}},
      // 1000 steps of a bound in nats, whose unit here is a bit: 1 / ln 2.
      {{"loss=hybrid", "variance=learned_range"},
       {"w_t mean |F* - F(z_t, t)|^2  +  1 L_t in bits/dim (1.443 L_t in nats/dim), F detached"}},
      {{"loss=vlb", "variance=learned_range", "schedule=linear"},
       {"t of  1000 L_t in bits/dim (1443 L_t in nats/dim),\n", "; not used by this loss"},
       false},
      {{"learned_weight=true"}, {"exp(-u_t) w_t mean |F* - F(z_t, t)|^2 + u_t", "u = 0"}},
      {{"zero_terminal_snr=true", "target=velocity"}, {", zero terminal SNR (Lin et al. 2023)"}},
      {{"logsnr_shift=2"}, {"T = 1000, log SNR + 2\n"}},
      {{"input_scale=0.5"}, {"T = 1000, log SNR + -1.386\n"}},
      {{"weight_on=network"}, {", on the network's own loss\n"}}};
  for (const auto& c : cases) {
    std::vector<std::string> words{"explain", kDigits};
    for (const std::string& set : c.set) {
      words.push_back("--set");
      words.push_back("diffusion." + set);
    }
    const Outcome o = diffuse(words);
    EXPECT_EQ(o.exit, 0) << o.err;
    for (const std::string& part : c.parts)
      EXPECT_NE(o.out.find(part), std::string::npos) << part << "\n" << o.out;
    EXPECT_EQ(o.out.find("w_t mean") != std::string::npos, c.has_weight) << o.out;
  }
}

TEST(ExplainCommand, WarnsAndRefusesWithCodes) {
  const Outcome warned = diffuse({"explain", kDigits, "--set", "diffusion.weighting=vlb"});
  EXPECT_EQ(warned.exit, 0);
  EXPECT_NE(warned.err.find("[capped-beta]"), std::string::npos) << warned.err;
  const Outcome refused =
      diffuse({"explain", kDigits, "--set", "diffusion.zero_terminal_snr=true"});
  EXPECT_EQ(refused.exit, 3);
  EXPECT_NE(refused.err.find("[no-signal-to-divide-by]"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace diffuse::test
