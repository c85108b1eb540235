// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/random.h"
#include "diffusion/options.h"
#include "diffusion/support.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

Level level_of(double alpha_bar) {
  return {.t = 0,
          .logsnr = std::log(alpha_bar / (1 - alpha_bar)),
          .alpha = std::sqrt(alpha_bar),
          .sigma = std::sqrt(1 - alpha_bar),
          .mean_x0 = 0.3,  // for mu: of any chain
          .mean_z = 0.6};
}

double x_hat(const Prediction& p, const Level& l, double z, double f) {
  const Coefficients c = p(l);
  return c.c_skip * z + c.c_out * f;
}

TEST(WorkedExample, NoisingAndEpsilon) {
  // x0 = 0.70, alpha_bar = 0.64, eps = 0.50.
  const Level l = level_of(0.64);
  const double z = l.alpha * 0.70 + l.sigma * 0.50;
  EXPECT_NEAR(z, 0.86, 1e-15);
  const Prediction epsilon(predictions(), "epsilon");
  const TargetCoefficients target = target_coefficients(epsilon, l);
  const double eps = target.x0 * 0.70 + target.eps * 0.50;
  EXPECT_NEAR((eps - 0.45) * (eps - 0.45), 0.0025, 1e-15);
  EXPECT_NEAR(x_hat(epsilon, l, z, 0.45), 0.7375, 1e-15);
}

TEST(WorkedExample, ErrorOfX0GrowsWithNoise) {
  // A perturbed epsilon moves x0_hat by sqrt((1 - alpha_bar) / alpha_bar) as much.
  const Prediction epsilon(predictions(), "epsilon");
  const Chain chain = make_chain(LinearSchedule()(1000));
  for (const int64_t t : {0, 100, 500, 900, 999}) {
    const Level l = chain.level(t);
    const double bar = chain.alpha_bar[static_cast<size_t>(t)];
    const double moved = x_hat(epsilon, l, 0.3, 0.2 + 1e-3) - x_hat(epsilon, l, 0.3, 0.2);
    const double growth = std::sqrt((1 - bar) / bar);
    EXPECT_NEAR(std::abs(moved) / 1e-3, growth, 1e-9 * (growth + 1));
  }
}

TEST(Prediction, TargetsOfThePapers) {
  for (const double bar : {0.9999, 0.64, 0.02, 4e-5}) {
    const Level l = level_of(bar);
    const auto target = [&](const char* name) {
      return target_coefficients(Prediction(predictions(), name), l);
    };
    // Error of 1 - (1/alpha) alpha is an ulp, divided by c_out.
    const double tol = 4e-16 * (1 + l.alpha / l.sigma);
    EXPECT_NEAR(target("epsilon").x0, 0, tol);
    EXPECT_NEAR(target("epsilon").eps, 1, tol);
    EXPECT_NEAR(target("x0").x0, 1, tol);
    EXPECT_NEAR(target("x0").eps, 0, tol);
    EXPECT_NEAR(target("velocity").x0, -l.sigma, tol);  // v = alpha eps - sigma x0
    EXPECT_NEAR(target("velocity").eps, l.alpha, tol);
    EXPECT_NEAR(target("flow").x0, -1, tol * (l.alpha + l.sigma));
    EXPECT_NEAR(target("flow").eps, 1, tol);
    EXPECT_NEAR(target("score").x0, 0, tol / l.sigma);
    EXPECT_NEAR(target("score").eps, -1 / l.sigma, tol / l.sigma);
  }
}

TEST(Prediction, EveryPairConvertsExactly) {
  for (const auto& row : predictions()) {
    const Prediction a(predictions(), row.name);
    for (const auto& other : predictions()) {
      const Prediction b(predictions(), other.name);
      for (const double bar : {0.9999, 0.64, 0.02, 4e-5}) {
        SCOPED_TRACE(row.name + " -> " + other.name + " at " + std::to_string(bar));
        const Level l = level_of(bar);
        const double x0 = 0.7, eps = -1.3;
        const double z = l.alpha * x0 + l.sigma * eps;
        const auto f = [&](const Prediction& p) {
          const TargetCoefficients c = target_coefficients(p, l);
          return c.x0 * x0 + c.eps * eps;
        };
        // The right output of each target is the picture, and converts to the other's right output.
        // Every term is of size at most 1/alpha + 1/sigma; there are fewer than 10 roundings.
        const double size = 1 / l.alpha + 1 / l.sigma;
        EXPECT_NEAR(x_hat(a, l, z, f(a)), x0, 10 * 2.2e-16 * size);
        const Conversion c = convert(a, b, l);
        const double there = c.z * z + c.f * f(a);
        EXPECT_NEAR(there, f(b), 10 * 2.2e-16 * size * size);
        const Conversion back = convert(b, a, l);
        EXPECT_NEAR(back.z * z + back.f * there, f(a), 10 * 2.2e-16 * size * size);
      }
    }
  }
}

TEST(Weighting, PapersFormsAndIdentities) {
  const Chain chain = make_chain(LinearSchedule()(1000));
  const auto weights =
      [&](const char* weighting, const char* target, const char* variance = "fixed_small") {
        return network_weights(chain,
                               Prediction(predictions(), target),
                               Weighting(weightings(), weighting),
                               WeightOn::epsilon,
                               Variance(variances(), variance));
      };
  for (int64_t t = 1; t < 1000; ++t) {
    const auto i = static_cast<size_t>(t);
    const double snr = chain.snr(t), bar = chain.alpha_bar[i];
    // w on epsilon is w SNR / SNR, on v w / (SNR + 1), on the score w (1 - alpha_bar) / SNR of w on
    // x0.
    EXPECT_NEAR(weights("snr", "epsilon")[i], 1, 1e-11);
    if (t % 50) continue;
    EXPECT_NEAR(weights("snr", "x0")[i], snr, 1e-11 * snr);
    EXPECT_NEAR(weights("snr", "velocity")[i], snr / (snr + 1), 1e-11);
    EXPECT_NEAR(weights("snr", "score")[i], 1 - bar, 1e-11);
    EXPECT_NEAR(weights("min_snr", "epsilon")[i], std::min(snr, 5.0) / snr, 1e-11);
    EXPECT_NEAR(weights("min_snr", "velocity")[i], std::min(snr, 5.0) / (snr + 1), 1e-11);
    EXPECT_NEAR(weights("min_snr", "x0")[i], std::min(snr, 5.0), 1e-11 * 5);
    // Kingma et al. 2021, eq. 14: the bound's weight on x0 is half the drop of the SNR. The
    // difference cancels digits.
    const double drop = (chain.snr(t - 1) - snr) / 2;
    EXPECT_NEAR(weights("vlb", "x0")[i], drop, 1e-11 * chain.snr(t - 1));
  }
  for (const char* target : {"epsilon", "x0", "velocity", "score"})
    for (const double w : weights("simple", target)) EXPECT_NEAR(w, 1, 1e-12);
}

TEST(Weighting, GoldenNumbers) {
  const Chain linear = make_chain(LinearSchedule()(1000));
  const Chain cosine = make_chain(CosineSchedule()(1000));
  const auto weight =
      [](const Chain& c, const char* w, const char* target, const char* variance, size_t t) {
        return network_weights(c,
                               Prediction(predictions(), target),
                               Weighting(weightings(), w),
                               WeightOn::epsilon,
                               Variance(variances(), variance))[t];
      };
  // beta^2 / (2 sigma^2 alpha (1 - alpha_bar)), Ho et al. 2020, eq. 12; 11 printed digits.
  const struct {
    size_t t;
    double large, small;
  } vlb[] = {{1, .27269208428, .59967151216},
             {2, .19440197653, .31799535168},
             {10, .068223988991, .078976541611},
             {500, .0055097345334, .0055144619596},
             {999, .010204493469, .010204501874}};
  for (const auto& g : vlb) {
    EXPECT_NEAR(weight(linear, "vlb", "epsilon", "fixed_large", g.t), g.large, 1e-10 * g.large);
    EXPECT_NEAR(weight(linear, "vlb", "epsilon", "fixed_small", g.t), g.small, 1e-10 * g.small);
  }
  EXPECT_NEAR(weight(cosine, "vlb", "epsilon", "fixed_large", 1), .26390832929, 1e-10);
  EXPECT_NEAR(weight(cosine, "vlb", "epsilon", "fixed_small", 1), .55885610176, 1e-10);
  EXPECT_NEAR(weight(cosine, "vlb", "epsilon", "fixed_small", 999), 499.5, 0.05);
  EXPECT_NEAR(weight(linear, "min_snr", "epsilon", "fixed_small", 0), 5.00050005e-4, 1e-12);
  EXPECT_NEAR(weight(linear, "min_snr", "velocity", "fixed_small", 0), 5.0e-4, 1e-12);
  EXPECT_NEAR(weight(linear, "min_snr", "epsilon", "fixed_small", 100), .585708508, 1e-9);
  EXPECT_NEAR(weight(linear, "min_snr", "velocity", "fixed_small", 100), .524292046, 1e-9);
  EXPECT_NEAR(weight(linear, "min_snr", "velocity", "fixed_small", 250), .521423031, 1e-9);
  EXPECT_NEAR(weight(linear, "min_snr", "velocity", "fixed_small", 500), .0777966584, 1e-10);
  EXPECT_NEAR(weight(linear, "p2", "epsilon", "fixed_small", 100), .1048584, 1e-7);
  EXPECT_NEAR(weight(linear, "p2", "epsilon", "fixed_small", 500), .9222033, 1e-7);
  EXPECT_NEAR(weight(linear, "debiased", "epsilon", "fixed_small", 100), .3422597, 1e-7);
  EXPECT_NEAR(weight(linear, "debiased", "epsilon", "fixed_small", 999), 157.4073, 1e-4);
}

TEST(Weighting, EveryRowIsOneErrorOnManyScales) {
  // The papers state weights on |eps - eps_hat|^2. Whatever the target, the loss on the network's
  // output must be that loss, with eps_hat = (z - alpha x0_hat) / sigma.
  const Chain chain = make_chain(CosineSchedule()(200));
  for (const auto& w : weightings()) {
    if (w.name == "simple" || w.name == "table") continue;  // follows the target; needs a file
    for (const auto& v : variances())
      for (const auto& row : predictions()) {
        const Variance variance(variances(), v.name);
        const Process process(chain.beta, {.steps = chain.steps()});
        const Weighting weighting(weightings(), w.name);
        const Prediction p(predictions(), row.name);
        const auto on_f = network_weights(chain, p, weighting, WeightOn::epsilon, variance);
        for (int64_t t = 0; t < chain.steps(); ++t) {
          const Level l = chain.level(t);
          // An output that is wrong by 1 (z = 0: x_hat is linear in both, nothing cancels).
          const double eps_error = l.alpha * x_hat(p, l, 0, 1) / l.sigma;
          const double expected =
              weighting({l, p, bound_weight(process, variance, {l, t, 0})}).published * eps_error *
              eps_error;
          // 1 - alpha_bar is about 1e-4 at t = 0, so both sides have lost 4 of the 16 digits.
          EXPECT_NEAR(on_f[static_cast<size_t>(t)], expected, 1e-11 * expected)
              << w.name << " " << v.name << " " << row.name << " " << t;
        }
      }
  }
}

TEST(Weighting, OnTheNetworksOwnLoss) {
  const Chain chain = make_chain(LinearSchedule()(1000));
  const Prediction velocity(predictions(), "velocity");
  const Variance variance(variances(), "fixed_small");
  const auto w = network_weights(
      chain, velocity, Weighting(weightings(), "min_snr"), WeightOn::network, variance);
  EXPECT_NEAR(w[100], .585708508, 1e-9);  // epsilon's number, unconverted
  const auto simple = network_weights(
      chain, velocity, Weighting(weightings(), "simple"), WeightOn::network, variance);
  EXPECT_EQ(simple[100], 1);
}

TEST(Variance, SmallAndLarge) {
  const Chain chain = make_chain(LinearSchedule()(1000));
  const Variance small(variances(), "fixed_small"), large(variances(), "fixed_large");
  EXPECT_EQ(small(chain, 500).fixed, chain.posterior_variance[500]);
  EXPECT_EQ(large(chain, 500).fixed, chain.beta[500]);
  // Trap: improved-diffusion's rule at t = 0 (diffusers has beta_0 for fixed_large).
  EXPECT_EQ(small(chain, 0).fixed, chain.posterior_variance[1]);
  EXPECT_EQ(large(chain, 0).fixed, chain.posterior_variance[1]);
}

TEST(Check, DefaultsAreSilent) { EXPECT_TRUE(check(DiffusionOptions()).empty()); }

TEST(Check, EpsilonAtZeroTerminalSnr) {
  for (const auto& row : predictions()) {
    DiffusionOptions options;
    options.zero_terminal_snr = true;
    options.target.select(row.name);
    const auto findings = check(options);
    const bool refused = row.name == "epsilon" || row.name == "score" || row.name == "edm";
    ASSERT_EQ(findings.size(), refused ? 1u : 0u) << row.name;
    if (refused) {
      EXPECT_TRUE(findings[0].error);
      EXPECT_EQ(findings[0].key, "target");
      EXPECT_NE(findings[0].message.find("velocity"), std::string::npos);
    }
  }
}

TEST(Check, ATableNeedsItsFile) {
  DiffusionOptions options;
  options.schedule.select("table");
  const auto findings = check(options);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_TRUE(findings[0].error);
  EXPECT_EQ(findings[0].key, "schedule");
}

bool is_continuous(const DiffusionOptions& options) {
  return options.schedule(options.steps).continuous.has_value();
}

TEST(Check, RefusesExactlyWhatCannotWork) {
  const TempFolder folder;
  spill(folder / "beta.txt", fifty_betas());
  spill(folder / "weights.txt", some_weights());
  int accepted = 0, refused = 0;
  for (const auto& s : schedules())
    for (const auto& p : predictions())
      for (const auto& w : weightings())
        for (const auto& v : variances())
          for (const bool zero : {false, true})
            for (const WeightOn on : {WeightOn::epsilon, WeightOn::network}) {
              SCOPED_TRACE(s.name + " " + p.name + " " + w.name + " " + v.name +
                           (zero ? " zero terminal SNR" : "") +
                           (on == WeightOn::network ? " weight_on network" : ""));
              DiffusionOptions options;
              options.steps = 50;
              options.schedule.select(s.name);
              if (auto* table = options.schedule.options<TableSchedule>())
                table->file = folder / "beta.txt";
              options.target.select(p.name);
              options.weighting.select(w.name);
              if (auto* table = options.weighting.options<TableWeighting>())
                table->file = folder / "weights.txt";
              options.variance.select(v.name);
              if (is_learned(options.variance)) options.loss.select("hybrid");
              options.zero_terminal_snr = zero;
              options.weight_on = on;
              std::string key;  // the option that the first error names
              for (const Finding& f : check(options)) {
                EXPECT_FALSE(f.message.empty());
                if (f.error && key.empty()) key = f.key;
              }
              // Without signal x0 = (z - sigma eps) / alpha divides by zero, and so does the
              // bound's weight on epsilon, beta^2 / (2 sigma^2 alpha (1 - alpha_bar)), as does
              // every weight on epsilon that grows without end as the SNR falls to 0.
              const bool endless = w.name == "vlb" || w.name == "truncated_snr" ||
                                   w.name == "debiased" || w.name == "edm";
              std::string expected;
              if (zero && endless && on == WeightOn::network) expected = "weighting";
              if (zero && (p.name == "epsilon" || p.name == "score" || p.name == "edm"))
                expected = "target";
              const bool continuous = is_continuous(options);
              if (continuous && is_learned(options.variance)) expected = "variance";
              if (continuous && p.name == "mu") expected = "target";
              if (continuous && zero) expected = "schedule";
              EXPECT_EQ(key, expected);
              ++(key.empty() ? accepted : refused);
              if (!key.empty()) continue;
              const Process process = make_process(options);
              for (int64_t i = 0; i < process.bins(); ++i) {
                const double u =
                    (static_cast<double>(i) + 0.5) / static_cast<double>(process.bins());
                EXPECT_TRUE(std::isfinite(network_weight(options, process, process.at(u))));
              }
            }
  EXPECT_GT(accepted, 0);
  EXPECT_GT(refused, 0);
}

TEST(Check, Warnings) {
  DiffusionOptions options;
  options.steps = 100;
  options.schedule.options<LinearSchedule>()->rescale = false;
  auto findings = check(options);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_FALSE(findings[0].error);
  EXPECT_EQ(findings[0].key, "schedule");

  options = DiffusionOptions();
  options.zero_terminal_snr = true;
  options.target.select("velocity");
  options.weighting.select("min_snr");
  findings = check(options);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_FALSE(findings[0].error);
  EXPECT_NE(findings[0].message.find("never trained"), std::string::npos);

  options = DiffusionOptions();
  options.schedule.select("cosine");
  options.weighting.select("vlb");
  findings = check(options);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_NE(findings[0].message.find("dominates"), std::string::npos);
}

/// The codes of what check() says.
std::set<std::string> codes(const DiffusionOptions& options) {
  std::set<std::string> out;
  for (const Finding& finding : check(options)) out.insert(finding.code);
  return out;
}

TEST(Check, CodesOfTheTraps) {
  using Codes = std::set<std::string>;
  DiffusionOptions options;
  options.steps = 100;
  options.schedule.options<LinearSchedule>()->rescale = false;
  EXPECT_EQ(codes(options), Codes{"unrescaled-beta"});

  // Levels that float32 cannot hold.
  options = DiffusionOptions();
  options.schedule.options<LinearSchedule>()->beta_end = 0.9;
  EXPECT_EQ(codes(options), Codes{"no-such-chain"});
  options.schedule.select("ve");
  options.schedule.options<VeSchedule>()->sigma_min = 1e-300;
  EXPECT_EQ(codes(options), Codes{"no-such-chain"});

  options = DiffusionOptions();
  options.schedule.select("ve");
  options.target.select("velocity");
  EXPECT_EQ(codes(options), Codes{"target-grows-with-noise"});
  options.target.select("edm");
  EXPECT_EQ(codes(options), Codes{});
  options.weighting.select("vlb");
  EXPECT_EQ(codes(options), Codes{});  // its density has ends
  options.schedule.select("edm");
  EXPECT_EQ(codes(options), Codes{"no-finite-bound"});

  options = DiffusionOptions();
  options.learned_weight = true;
  EXPECT_EQ(codes(options), Codes{});
  options.loss.select("vlb");
  EXPECT_EQ(codes(options), Codes{"bound-not-weighted"});
  options = DiffusionOptions();
  options.learned_weight = true;
  options.zero_terminal_snr = true;
  options.target.select("velocity");
  EXPECT_EQ(codes(options), Codes{});
  options.weighting.select("min_snr");  // 0 at zero SNR
  EXPECT_TRUE(codes(options).contains("unbounded-loss"));

  options = DiffusionOptions();
  options.variance.select("learned_range");
  EXPECT_EQ(codes(options), Codes{"variance-not-trained"});
  options.loss.select("vlb");
  EXPECT_EQ(codes(options), Codes{});
  options.weighting.select("snr");
  EXPECT_EQ(codes(options), Codes{"weighting-not-used"});
  options = DiffusionOptions();
  options.loss.select("hybrid");
  EXPECT_EQ(codes(options), Codes{"nothing-to-learn"});
  options = DiffusionOptions();
  options.schedule.select("flow");
  options.target.select("mu");
  EXPECT_EQ(codes(options), Codes{"needs-a-chain"});
  options.time = TimeKind::discrete;
  EXPECT_EQ(codes(options), Codes{});
  options = DiffusionOptions();
  options.schedule.select("laplace");
  options.schedule.options<LaplaceSchedule>()->logsnr_min = -2;
  EXPECT_EQ(codes(options), Codes{"terminal-snr"});
}

// Kingma & Gao 2023, eq. 3: an integral over log SNR, whatever the schedule.
TEST(Weighting, SigmoidPerLogSnrDoesNotDependOnTheSchedule) {
  const auto integral = [](const char* schedule) {
    DiffusionOptions options;
    options.steps = 4000;
    options.schedule.select(schedule);
    options.weighting.select("sigmoid");
    Fields fields;
    options.weighting.fields(fields);
    for (Field& field : fields.list())
      if (field.key == "per_logsnr") *std::get<bool*>(field.value) = true;
    // Of an epsilon error that falls off on both sides: SNR / (1 + SNR)^2.
    const Process process = make_process(options);
    double sum = 0;
    for (int64_t i = 1; i < 4000; ++i) {
      const NoisePoint point = process.at((static_cast<double>(i) + 0.5) / 4000);
      const double snr = point.level.snr();
      const double mean = process.continuous() ? 1.0 / 4000 : 1;
      sum += network_weight(options, process, point) * snr / ((1 + snr) * (1 + snr)) * mean;
    }
    return sum;
  };
  // integral of s(-x) s(x) s(-x) dx over log SNR x is 1/2; the ends of the chains and 4,000 steps
  // leave less than a hundredth.
  for (const char* schedule : {"linear", "cosine", "vp", "shifted_cosine"})
    EXPECT_NEAR(integral(schedule), 0.5, 0.005) << schedule;
}

}  // namespace
}  // namespace diffuse
