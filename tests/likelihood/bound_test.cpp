// SPDX-License-Identifier: MIT
#include "likelihood/bound.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "diffusion/path.h"
#include "likelihood/flow.h"
#include "ops/noise.h"

namespace diffuse {
namespace {

constexpr double kMean = 0.2, kVariance = 0.09;  // of the data, which are normal

DiffusionOptions options_of(const std::string& schedule,
                            const std::string& target,
                            int64_t steps,
                            const std::string& variance = "fixed_small") {
  DiffusionOptions out;
  out.steps = steps;
  out.schedule = Schedule(schedules(), schedule);
  out.target = Prediction(predictions(), target);
  out.variance = Variance(variances(), variance);
  if (is_learned(out.variance)) out.loss = LossKind(loss_kinds(), "hybrid");
  return out;
}

at::Tensor standard_normal(std::vector<int64_t> shape, uint64_t seed) {
  const at::Tensor out = at::empty(shape, at::kFloat);
  fill_normal(out, seed, Purpose::init, 0, 0);
  return out.to(at::kDouble);
}

/// The network that is right for normal data at the levels of `at`, which is set before each call.
Network exact_network(const DiffusionOptions& options, const Level& at) {
  return [&options, &at](const at::Tensor& x, const at::Tensor&) {
    const Coefficients c = options.target(at);
    const at::Tensor z = x / c.c_in;
    const double gain =
        at.alpha * kVariance / (at.alpha * at.alpha * kVariance + at.sigma * at.sigma);
    const at::Tensor x_hat = z * gain + (1 - at.alpha * gain) * kMean;
    return (x_hat - c.c_skip * z) / c.c_out;
  };
}

/// E of the bound's term at t over normal data and noise, with the exact network, in bits; and the
/// share of it that is drawn.
struct Expected {
  double bits = 0, drawn = 0;
};

Expected expected_term(const DiffusionOptions& options, const Chain& chain, int64_t t) {
  const auto i = static_cast<size_t>(t);
  const double alpha2 = chain.alpha_bar[i], sigma2 = chain.sigma2[i];
  const double error = kVariance * sigma2 / (alpha2 * kVariance + sigma2);  // Var(x0 | z)
  const double model = options.variance(chain, t).fixed;
  if (t == 0) {  // -log N(x0; x0_hat, model)
    const double drawn = 0.5 * error / model;
    return {.bits = (0.5 * std::log(2 * std::numbers::pi * model) + drawn) / std::numbers::ln2,
            .drawn = drawn / std::numbers::ln2};
  }
  const double ratio = chain.posterior_variance[i] / model;
  const double c = chain.posterior_mean_x0[i];
  const double drawn = 0.5 * c * c * error / model;
  return {.bits = (0.5 * (ratio - 1 - std::log(ratio)) + drawn) / std::numbers::ln2,
          .drawn = drawn / std::numbers::ln2};
}

double expected_prior(const Chain& chain) {
  const Level& last = chain.levels.back();
  const double p = prior_variance(last), s2 = last.sigma * last.sigma;
  const double square = last.alpha * last.alpha * (kVariance + kMean * kMean);
  return 0.5 * ((s2 + square) / p - 1 - std::log(s2 / p)) / std::numbers::ln2;
}

double entropy() {
  return 0.5 * std::log(2 * std::numbers::pi * std::numbers::e * kVariance) / std::numbers::ln2;
}

double expected_total(const DiffusionOptions& options) {
  const Chain chain = make_chain(options);
  double out = expected_prior(chain);
  for (int64_t t = 0; t < chain.steps(); ++t) out += expected_term(options, chain, t).bits;
  return out;
}

/// What the steps t >= 1 add to the best that the two ends allow: with the best decoder (the
/// entropy of x_0 given z_0) and less KL(q(z_T) || p).
double discretisation(const DiffusionOptions& options) {
  const Chain chain = make_chain(options);
  double nats = 0;
  for (int64_t t = 1; t < chain.steps(); ++t)
    nats += expected_term(options, chain, t).bits * std::numbers::ln2;
  const Level& last = chain.levels.back();
  const double p = prior_variance(last);
  const double variance = last.alpha * last.alpha * kVariance + last.sigma * last.sigma;
  const double mean = last.alpha * kMean;
  const double mismatch = 0.5 * ((variance + mean * mean) / p - 1 - std::log(variance / p));
  const double a2 = chain.alpha_bar[0], s2 = chain.sigma2[0];
  const double rest = kVariance * s2 / (a2 * kVariance + s2);  // Var(x_0 | z_0)
  return expected_prior(chain) - mismatch / std::numbers::ln2 +
         (nats + 0.5 * std::log(rest / kVariance)) / std::numbers::ln2;
}

TEST(Bound, OfNormalDataIsTheClosedForm) {
  const at::Tensor x0 = standard_normal({64, 1, 8, 8}, 3) * std::sqrt(kVariance) + kMean;
  // The mean of N squares of standard normals errs by sqrt(2 / N): five times that, and the
  // rounding of float32 coefficients.
  const double share = 5 * std::sqrt(2.0 / static_cast<double>(x0.numel())) + 1e-4;
  for (const char* schedule : {"linear", "cosine", "ve", "flow"})
    for (const char* target : {"epsilon", "x0", "velocity", "flow", "mu"})
      for (const char* variance : {"fixed_small", "fixed_large"}) {
        SCOPED_TRACE(std::string(schedule) + " " + target + " " + variance);
        DiffusionOptions options = options_of(schedule, target, 40, variance);
        options.time = TimeKind::discrete;
        const Objective objective(options, at::kCPU, /*bits=*/0);
        const Chain& chain = objective.process().chain();
        for (const int64_t t : {0, 1, 7, 18}) {
          const BoundTerms terms = bound_terms(objective,
                                               exact_network(options, chain.level(t)),
                                               x0,
                                               std::vector<int64_t>(64, t),
                                               0,
                                               5);
          const Expected expected = expected_term(options, chain, t);
          EXPECT_NEAR(terms.bits.mean().item<double>(),
                      expected.bits,
                      share * expected.drawn + 1e-5 * (1 + std::abs(expected.bits)))
              << t;
          const auto i = static_cast<size_t>(t);
          const double error =
              kVariance * chain.sigma2[i] / (chain.alpha_bar[i] * kVariance + chain.sigma2[i]);
          EXPECT_NEAR(terms.mse_x0.mean().item<double>(), error, share * error);
          EXPECT_NEAR(terms.mse_eps.mean().item<double>(),
                      error * chain.snr(t),
                      share * error * chain.snr(t));
        }
      }
}

TEST(Bound, IsNoLessThanTheLikelihoodAndTendsToIt) {
  // In closed form, on a chain whose steps in log SNR all become small: as 1 / T. (Where the first
  // steps are as fine as the data, as on the linear and cosine schedules, a share stays.)
  double before = 0;
  for (const int64_t steps : {50, 200, 800}) {
    DiffusionOptions options = options_of("ve", "x0", steps);
    options.time = TimeKind::discrete;
    const double gap = discretisation(options);
    EXPECT_GT(gap, 0);
    if (before > 0) {
      EXPECT_LT(gap, before / 3) << steps;
    }
    before = gap;
  }
  EXPECT_LT(before, 0.1);
  // On pictures: the program's whole sum against each one's -log p, and against the ODE.
  const at::Tensor x0 = standard_normal({16, 1, 4, 4}, 4) * std::sqrt(kVariance) + kMean;
  DiffusionOptions options = options_of("cosine", "velocity", 400);
  const Objective objective(options, at::kCPU, /*bits=*/0);
  const Process& process = objective.process();
  const Chain& chain = process.chain();
  at::Tensor total = prior_bits(chain, x0);
  for (int64_t t = 0; t < chain.steps(); ++t)
    total = total + bound_terms(objective,
                                exact_network(options, chain.level(t)),
                                x0,
                                std::vector<int64_t>(16, t),
                                0,
                                6)
                        .bits;
  const at::Tensor truth =
      (0.5 * ((x0 - kMean).square() / kVariance + std::log(2 * std::numbers::pi * kVariance)) /
       std::numbers::ln2)
          .mean({1, 2, 3});
  const at::Tensor gap = total - truth;
  const double error = gap.std().item<double>() / 4;
  EXPECT_GT(gap.mean().item<double>(), -5 * error);
  const double expected_gap = expected_total(options) - entropy();
  EXPECT_NEAR(gap.mean().item<double>(), expected_gap, 5 * error);

  Level level;
  const FlowLikelihood flow =
      flow_likelihood(make_denoiser(exact_network(options, level), options.target, /*clip=*/false),
                      [&](double logsnr) { return level = process.level_at(logsnr); },
                      x0,
                      0,
                      {.logsnr_clean = chain.levels.front().logsnr,
                       .logsnr_noisy = -12,
                       .probes = 0,
                       .seed = 0,
                       .ode = {.atol = 1e-6, .rtol = 1e-6, .max_evaluations = 10000},
                       .type = at::kDouble});
  // Noise of variance e^-logsnr in the data changes -log p by at most half of that over the data's
  // variance and their squared deviation; what is left at the noisy end is less.
  const double slack =
      0.5 * std::exp(-chain.levels.front().logsnr) / kVariance / std::numbers::ln2 * (1 + 12) +
      1e-3;
  const at::Tensor bits = bits_per_dimension(flow.nats, 16);
  EXPECT_LT((bits - truth).abs().max().item<double>(), slack);
}

TEST(Bound, ClippingIsAProjection) {
  const at::Tensor x0 = standard_normal({4, 1, 3, 3}, 8).clamp(-1, 1);
  const DiffusionOptions options = options_of("linear", "x0", 30);
  const Objective objective(options, at::kCPU);
  const Chain& chain = objective.process().chain();
  const std::vector<int64_t> steps{1, 9, 17, 29};
  const auto terms_with = [&](double estimate) {
    return bound_terms(
        objective,
        [&](const at::Tensor& x, const at::Tensor&) { return at::full_like(x, estimate); },
        x0,
        steps,
        0,
        1);
  };
  const BoundTerms wild = terms_with(5), edge = terms_with(1), inside = terms_with(0.25);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(wild.clipped_bits[i].item<double>(), edge.bits[i].item<double>());
    EXPECT_LT(wild.clipped_bits[i].item<double>(), wild.bits[i].item<double>());
    // The clipped form works on x0_hat - x0, the other on F - F*: the same to float32's rounding.
    EXPECT_NEAR(inside.clipped_bits[i].item<double>(),
                inside.bits[i].item<double>(),
                1e-5 * inside.bits[i].item<double>());
    const auto t = static_cast<size_t>(steps[static_cast<size_t>(i)]);
    const double c = chain.posterior_mean_x0[t];
    const double square = (1 - x0[i]).square().mean().item<double>();
    const double bits = 0.5 * c * c * square / chain.posterior_variance[t] / std::numbers::ln2;
    EXPECT_NEAR(edge.bits[i].item<double>(), bits, 1e-5 * bits);
  }
}

TEST(Bound, LearnedRangeHasTheFixedVariancesAtItsEnds) {
  const at::Tensor x0 = standard_normal({3, 1, 2, 2}, 9).clamp(-1, 1);
  const std::vector<int64_t> steps{1, 10, 29};
  for (const auto& [v, fixed] : {std::pair(-1.0, "fixed_small"), std::pair(1.0, "fixed_large")}) {
    const Objective learned(options_of("linear", "epsilon", 30, "learned_range"), at::kCPU);
    const Objective plain(options_of("linear", "epsilon", 30, fixed), at::kCPU);
    const BoundTerms a = bound_terms(
        learned,
        [v = v](const at::Tensor& x, const at::Tensor&) {
          return at::cat({at::full_like(x, 0.1), at::full_like(x, v)}, 1);
        },
        x0,
        steps,
        0,
        1);
    const BoundTerms b = bound_terms(
        plain,
        [](const at::Tensor& x, const at::Tensor&) { return at::full_like(x, 0.1); },
        x0,
        steps,
        0,
        1);
    // Logarithms of about 10 in float32.
    EXPECT_TRUE(at::allclose(a.bits, b.bits, 1e-5, 1e-6)) << fixed;
    EXPECT_TRUE(at::allclose(a.clipped_bits, b.clipped_bits, 1e-5, 1e-6)) << fixed;
  }
}

TEST(Bound, PictureAndStepNameTheNoise) {
  const at::Tensor x0 = standard_normal({5, 1, 4, 4}, 10).clamp(-1, 1);
  const Objective objective(options_of("cosine", "epsilon", 40), at::kCPU);
  const Network zero = [](const at::Tensor& x, const at::Tensor&) { return at::zeros_like(x); };
  const std::vector<int64_t> steps{3, 3, 0, 20, 3};
  const at::Tensor whole = bound_terms(objective, zero, x0, steps, 7, 2).bits;
  for (int64_t i = 0; i < 5; ++i) {
    const at::Tensor one =
        bound_terms(objective, zero, x0.narrow(0, i, 1), {steps[static_cast<size_t>(i)]}, 7 + i, 2)
            .bits;
    EXPECT_DOUBLE_EQ(whole[i].item<double>(), one.item<double>()) << i;
  }
  EXPECT_NE(whole[0].item<double>(),
            bound_terms(objective, zero, x0, steps, 7, 3).bits[0].item<double>());
}

TEST(Bound, PriorIsTheClosedForm) {
  const at::Tensor x0 = at::tensor({-1.0, -0.5, 0.25, 1.0}, at::kDouble).view({1, 1, 2, 2});
  const double square = (1 + 0.25 + 0.0625 + 1) / 4;
  for (const char* schedule : {"linear", "cosine", "ve", "flow"}) {
    const Chain chain = make_chain(options_of(schedule, "velocity", 30));
    const Level& last = chain.levels.back();
    const double a2 = last.alpha * last.alpha, s2 = last.sigma * last.sigma;
    const double p = prior_variance(last);
    const double nats = 0.5 * (std::log(p / s2) - 1 + (s2 + a2 * square) / p);
    EXPECT_NEAR(prior_bits(chain, x0).item<double>(), nats / std::numbers::ln2, 1e-14) << schedule;
  }
  DiffusionOptions options = options_of("linear", "velocity", 30);
  options.zero_terminal_snr = true;
  EXPECT_NEAR(prior_bits(make_chain(options), x0).item<double>(), 0, 1e-15);
}

TEST(Bound, DrawnStepsEstimateTheSumWithoutBias) {
  constexpr int64_t kParts = 7, kImages = 4000;
  for (const bool zero : {false, true}) {
    DiffusionOptions options = options_of("linear", "velocity", 51);
    options.zero_terminal_snr = zero;
    const Chain chain = make_chain(options);
    // Not of the terms' shape, so that the weights matter.
    const auto f = [](int64_t t) { return static_cast<double>(t * t); };
    double truth = 0;
    for (int64_t t = 1; t < 51; ++t) truth += f(t);
    std::vector<double> sums(kImages);
    std::set<int64_t> seen;
    int64_t last = 1;
    for (int64_t part = 0; part < kParts; ++part) {
      const DrawnSteps steps = draw_steps(chain, kParts, part, 0, kImages, 1);
      const auto [low, high] = std::minmax_element(steps.t.begin(), steps.t.end());
      EXPECT_GE(*low, last);  // parts follow each other
      last = *high;
      for (size_t i = 0; i < kImages; ++i) {
        seen.insert(steps.t[i]);
        sums[i] += f(steps.t[i]) * steps.weight[i];
        EXPECT_LE(steps.weight[i], 10.0 * 50 / kParts * (1 + 1e-12));
      }
      EXPECT_EQ(draw_steps(chain, kParts, part, 9, 1, 1).t[0], steps.t[9]);
    }
    EXPECT_EQ(seen.size(), 50u);
    EXPECT_EQ(*seen.begin(), 1);
    double mean = 0, square = 0;
    for (const double sum : sums) {
      mean += sum / kImages;
      square += sum * sum / kImages;
    }
    EXPECT_NEAR(mean, truth, 5 * std::sqrt((square - mean * mean) / kImages));
    // As many parts as steps: all of them, once.
    for (int64_t part = 0; part < 50; ++part) {
      const DrawnSteps steps = draw_steps(chain, 50, part, 0, 20, 1);
      EXPECT_EQ(steps.t, std::vector<int64_t>(20, part + 1));
      EXPECT_EQ(steps.weight, std::vector<double>(20, 1.0));
    }
  }
}

}  // namespace
}  // namespace diffuse
