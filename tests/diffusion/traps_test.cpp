// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "diffusion/denoiser.h"
#include "diffusion/objective.h"
#include "diffusion/support.h"

// Where public code differs, and what we do: the numbers are those of the table in CONTRIBUTING.md,
// which names the tests of the other rows.

namespace diffuse {
namespace {

DiffusionOptions options_of(const std::string& target,
                            const std::string& weighting = "simple",
                            const std::string& schedule = "linear") {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.target.select(target);
  options.weighting.select(weighting);
  return options;
}

TEST(Trap, T01_TheNetworkIsToldTheStepUnscaled) {
  // Not 1000 / T of it (OpenAI's rescale_timesteps), and not t + 1.
  for (const int64_t steps : {100, 4000}) {
    DiffusionOptions options = options_of("epsilon");
    options.steps = steps;
    const Objective objective(options, at::kCPU);
    const at::Tensor told = objective.rows_of_steps({0, 1, steps - 1}).time;
    EXPECT_EQ(told[0].item<float>(), 0);
    EXPECT_EQ(told[1].item<float>(), 1);
    EXPECT_EQ(told[2].item<float>(), static_cast<float>(steps - 1));
  }
  // A continuous schedule's time goes to 1000, whatever the length of its chain.
  DiffusionOptions options = options_of("epsilon", "simple", "flow");
  options.steps = 50;
  EXPECT_NEAR(make_process(options).at(0.5).level.t, 500, 1e-9);
}

TEST(Trap, T05_SimpleIsOneOnTheNetworksOwnTarget) {
  // As in improved-diffusion; diffusers and lucidrains weigh x0 by the SNR, which is `snr` here.
  const Process process = make_process(options_of("x0"));
  for (const int64_t t : {0, 500, 999}) {
    const NoisePoint point{.level = process.chain().level(t), .t = t, .slope = 0};
    EXPECT_NEAR(network_weight(options_of("x0"), process, point), 1, 1e-12);
    const double snr = process.chain().snr(t);
    EXPECT_NEAR(network_weight(options_of("x0", "snr"), process, point), snr, 1e-11 * snr);
  }
}

TEST(Trap, T06_LossesAreMeansOverThePicturesValues) {
  // As in OpenAI's and DDPM's code; EDM and VDM sum. So the loss does not depend on the size.
  at::manual_seed(1);
  for (const char* loss : {"mse", "huber", "vlb"}) {
    DiffusionOptions options = options_of("epsilon");
    options.loss.select(loss);
    const Objective objective(options, at::kCPU);
    const Objective::Rows rows = objective.rows_of_steps({0, 3, 700});
    const at::Tensor x0 = at::randint(0, 256, {3, 3, 4, 4}, at::kDouble).div(127.5).sub(1);
    const at::Tensor eps = at::randn_like(x0);
    const at::Tensor output = at::randn_like(x0);
    const auto tiled = [](const at::Tensor& x) { return x.repeat({1, 1, 2, 3}); };
    const at::Tensor small = objective.loss(output, x0, eps, rows).weighted;
    const at::Tensor large = objective.loss(tiled(output), tiled(x0), tiled(eps), rows).weighted;
    EXPECT_TRUE(at::allclose(small, large, 1e-12, 0)) << loss;
  }
}

TEST(Trap, T07_WeightOfTheLearnedVariance) {
  // T / 1000 of the term in bits, as improved-diffusion with rescale_learned_sigmas. Not 0.001 of
  // it (lucidrains), and not all of it (guided-diffusion's default).
  at::manual_seed(2);
  for (const int64_t steps : {100, 1000, 4000}) {
    DiffusionOptions options = options_of("epsilon", "simple", "cosine");
    options.steps = steps;
    options.variance.select("learned_range");
    options.loss.select("hybrid");
    const Objective objective(options, at::kCPU);
    const Objective::Rows rows = objective.rows_of_steps({0, 10, steps - 2});
    const at::Tensor x0 = at::zeros({3, 1, 2, 2}, at::kDouble) + 1 / 255.0;
    const at::Tensor eps = at::randn_like(x0);
    const Objective::Loss loss =
        objective.loss(at::randn({3, 2, 2, 2}, at::kDouble), x0, eps, rows);
    const at::Tensor added = loss.weighted - loss.raw;
    EXPECT_TRUE(at::allclose(added, loss.bound * static_cast<double>(steps) / 1000.0, 1e-9, 1e-13))
        << steps;
  }
}

TEST(Trap, T08_VariancesAtTheFirstStep) {
  // improved-diffusion's: beta~_1 in place of beta~_0 = 0, for every choice but `learned`. Not a
  // clamp at 1e-20 (diffusers, lucidrains), and not beta_0 for fixed_large (diffusers).
  const Chain chain = make_chain(CosineSchedule()(1000));
  const double second = chain.posterior_variance[1];
  EXPECT_NEAR(second / (chain.beta[1] * chain.beta[0] / (1 - chain.alpha_bar[1])), 1, 1e-11);
  for (const char* name : {"fixed_small", "fixed_large"})
    EXPECT_EQ(Variance(variances(), name)(chain, 0).fixed, second);
  const ModelVariance range = Variance(variances(), "learned_range")(chain, 0);
  EXPECT_NEAR(range.log_offset - range.log_slope, std::log(second), 1e-14);
  EXPECT_NEAR(range.log_offset + range.log_slope, std::log(chain.beta[0]), 1e-14);
}

TEST(Trap, T09_TablesAreInDoublePrecision) {
  // diffusers' are float32: their SNR at t = 0 of the cosine chain is off by 5e-4.
  const Chain chain = make_chain(CosineSchedule()(1000));
  EXPECT_NEAR(chain.snr(0), 2.422132715553e+04, 1e-11 * 2.4e4 + 1e-12 * 2.4e8);
  const float beta = static_cast<float>(chain.beta[0]);
  const float bar = 1 - beta;
  EXPECT_GT(std::abs(bar / (1 - bar) / chain.snr(0) - 1), 1e-5);
}

TEST(Trap, T10_TimeOneIsNoise) {
  // u, t and the schedule's time grow towards noise everywhere, so a positive mean of logit_normal
  // is more noise. (diffusers' SD3 script looks u up in a list of falling times.)
  for (const auto& row : schedules()) {
    if (row.name == "table") continue;
    DiffusionOptions options = options_of("velocity", "simple", row.name);
    options.steps = 100;
    const Process process = make_process(options);
    EXPECT_GT(process.at(0.1).level.logsnr, process.at(0.9).level.logsnr) << row.name;
    EXPECT_LT(process.at(0.1).level.t, process.at(0.9).level.t) << row.name;
  }
  FlowSchedule flow;
  flow.density = FlowDensity::logit_normal;
  flow.mean = 1;
  // The median of t is logistic(1).
  EXPECT_NEAR(std::exp(-flow(1).train(0.5).value / 2), std::exp(1.0), 1e-12);
  const std::vector<double> edges =
      make_process(options_of("velocity", "simple", "flow")).bin_edges();
  TimeSampler sampler(time_samplers(), "logit_normal");
  const auto noisy_half = [&] {
    const std::vector<double> p = TimeDraw(sampler, edges).probabilities();
    double sum = 0;
    for (size_t i = p.size() / 2; i < p.size(); ++i) sum += p[i];
    return sum;
  };
  EXPECT_NEAR(noisy_half(), 0.5, 1e-9);
  set_option(sampler, "mean", 1.0);
  EXPECT_GT(noisy_half(), 0.8);
}

TEST(Trap, T11_NoSignalIsRefusedOrSaid) {
  // diffusers gives min_snr with velocity the weight 0 at the step that sampling starts from, in
  // silence.
  DiffusionOptions options = options_of("velocity", "min_snr");
  options.zero_terminal_snr = true;
  std::vector<Finding> findings = check(options);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_STREQ(findings[0].code, "start-not-trained");
  EXPECT_FALSE(findings[0].error);
  options.target.select("epsilon");
  findings = check(options);
  ASSERT_FALSE(findings.empty());
  EXPECT_STREQ(findings[0].code, "no-signal-to-divide-by");
  EXPECT_TRUE(findings[0].error);
}

TEST(Trap, T12_AShiftMovesTheEndsToo) {
  // k-diffusion's and lucidrains' interpolated schedules differ in this; ours shift the whole
  // curve.
  ShiftedCosineSchedule options;
  const ContinuousSchedule plain = options(1);
  options.size = 256;
  const ContinuousSchedule shifted = options(1);
  for (const double v : {0.0, 0.5, 1.0})
    EXPECT_NEAR(shifted.chain(v) - plain.chain(v), -4 * std::numbers::ln2, 1e-12);
}

TEST(Trap, T15_TargetsStayInFloat32) {
  // diffusers draws the noise itself in half precision. Here only the network's output is rounded:
  // the loss of a bfloat16 network that is right is its own rounding error.
  at::manual_seed(3);
  const Objective objective(options_of("epsilon"), at::kCPU);
  const at::Tensor x0 = at::randn({2, 1, 8, 8}), eps = at::randn({2, 1, 8, 8});
  const Objective::Rows rows = objective.rows_of_steps({10, 900});
  const at::Tensor rounded = eps.to(at::kBFloat16);
  const Objective::Loss loss = objective.loss(rounded, x0, eps, rows);
  EXPECT_EQ(loss.weighted.scalar_type(), at::kFloat);
  const at::Tensor expected = (rounded.to(at::kFloat) - eps).square().mean({1, 2, 3});
  EXPECT_GT(expected.min().item<double>(), 1e-8);
  EXPECT_TRUE(at::allclose(loss.raw, expected, 1e-3, 0));
}

TEST(Trap, T20_ClippingIsTheSamplersAlone) {
  // On request of `sample.clip`, whatever the target; training sees the estimate as it is.
  at::manual_seed(4);
  const Network network = [](const at::Tensor& x, const at::Tensor&) {
    return at::full_like(x, 3);
  };
  const Prediction x0_target(predictions(), "x0");
  const Level level = make_process(options_of("x0")).chain().level(5);
  const at::Tensor z = at::randn({1, 1, 2, 2});
  EXPECT_EQ(make_denoiser(network, x0_target, true)(z, level).x_hat.max().item<float>(), 1);
  EXPECT_EQ(make_denoiser(network, x0_target, false)(z, level).x_hat.max().item<float>(), 3);
  DiffusionOptions options = options_of("x0");
  options.loss.select("vlb");
  const Objective objective(options, at::kCPU);
  const Objective::Rows rows = objective.rows_of_steps({500});
  const at::Tensor x0 = at::ones({1, 1, 2, 2}, at::kDouble), eps = at::zeros_like(x0);
  const double at3 = objective.loss(at::full_like(x0, 3), x0, eps, rows).bound.item<double>();
  const double at5 = objective.loss(at::full_like(x0, 5), x0, eps, rows).bound.item<double>();
  // fixed_small has no other term: 2^2 and 4^2.
  EXPECT_NEAR(at5 / at3, 4, 1e-9);
}

}  // namespace
}  // namespace diffuse
