// SPDX-License-Identifier: MIT
#include "diffusion/objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "diffusion/denoiser.h"

namespace diffuse {
namespace {

constexpr int64_t kSteps = 200;

DiffusionOptions options_of(const std::string& target, const std::string& weighting) {
  DiffusionOptions options;
  options.steps = kSteps;
  options.schedule.select("cosine");
  options.target.select(target);
  options.weighting.select(weighting);
  return options;
}

struct Draw {
  at::Tensor x0 = at::randn({6, 2, 3, 4}, at::kDouble);
  at::Tensor eps = at::randn({6, 2, 3, 4}, at::kDouble);
  at::Tensor t = at::tensor({0, 1, 20, 100, 198, 199}, at::kLong);
};

/// A [n] vector of chain values as [n, 1, 1, 1] float64.
template <class F>
at::Tensor column(const at::Tensor& t, F f) {
  std::vector<double> v;
  for (int64_t i = 0; i < t.size(0); ++i) v.push_back(f(t[i].item<int64_t>()));
  return at::tensor(v, at::kDouble).view({-1, 1, 1, 1});
}

TEST(Objective, NoisesByEquation4) {
  const Draw d;
  const Objective objective(options_of("epsilon", "simple"), at::kCPU);
  const Chain& chain = objective.chain();
  const at::Tensor expected = d.x0 * column(d.t, [&](int64_t t) { return chain.level(t).alpha; }) +
                              d.eps * column(d.t, [&](int64_t t) { return chain.level(t).sigma; });
  // The tables are rounded to float32 once.
  EXPECT_LT((objective.noise(d.x0, d.eps, d.t) - expected).abs().max().item<double>(), 1e-6);
}

TEST(Objective, LossIsTheWeightedErrorOfX0ForEveryCombination) {
  at::manual_seed(1);
  const Draw d;
  for (const auto& p : predictions())
    for (const auto& w : weightings()) {
      SCOPED_TRACE(p.name + " " + w.name);
      const DiffusionOptions options = options_of(p.name, w.name);
      const Objective objective(options, at::kCPU);
      const Chain& chain = objective.chain();
      const at::Tensor z = objective.noise(d.x0, d.eps, d.t);
      const at::Tensor target = objective.target(d.x0, d.eps, d.t);
      const at::Tensor output =
          target + 0.1 * at::randn_like(target) * target.abs().amax({1, 2, 3}, true);
      const Objective::Loss loss = objective.loss(output, d.x0, d.eps, d.t);
      for (int64_t i = 0; i < d.t.size(0); ++i) {
        const int64_t t = d.t[i].item<int64_t>();
        const Level level = chain.level(t);
        // The papers' statement: weight on x0 times |x0 - x0_hat|^2, both in float64 from scratch.
        const Coefficients c = options.target(level);
        const at::Tensor exact_target = (target_coefficients(options.target, level).x0 * d.x0[i] +
                                         target_coefficients(options.target, level).eps * d.eps[i]);
        const at::Tensor x_hat_error = c.c_out * (output[i] - exact_target);
        const double weight = options.weighting({chain, t, options.target, options.variance}).on_x0;
        const double expected = weight * x_hat_error.square().mean().item<double>();
        // The error is a tenth of the target: float32 tables (6e-8 relative) give 1e-6 of the loss.
        EXPECT_NEAR(loss.weighted[i].item<double>(), expected, 1e-5 * expected) << "t=" << t;
        EXPECT_NEAR(loss.raw[i].item<double>(),
                    (output[i] - exact_target).square().mean().item<double>(),
                    1e-5 * loss.raw[i].item<double>());
      }
      EXPECT_LT(objective.loss(target, d.x0, d.eps, d.t).weighted.max().item<double>(), 1e-20);
    }
}

TEST(Objective, GradientReachesTheOutput) {
  const Draw d;
  const Objective objective(options_of("velocity", "min_snr"), at::kCPU);
  at::Tensor output = at::zeros_like(d.x0).requires_grad_(true);
  objective.loss(output, d.x0, d.eps, d.t).weighted.sum().backward();
  const at::Tensor target = objective.target(d.x0, d.eps, d.t);
  const auto weights = network_weights(objective.chain(),
                                       Prediction(predictions(), "velocity"),
                                       Weighting(weightings(), "min_snr"),
                                       WeightOn::epsilon,
                                       Variance(variances(), "fixed_small"));
  const at::Tensor expected =
      -2.0 / 24 * target * column(d.t, [&](int64_t t) { return weights[static_cast<size_t>(t)]; });
  EXPECT_LT((output.grad() - expected).abs().max().item<double>(), 1e-6);
}

TEST(Denoiser, GivesBackX0ForThePerfectNetwork) {
  at::manual_seed(2);
  for (const auto& p : predictions()) {
    const DiffusionOptions options = options_of(p.name, "simple");
    const Objective objective(options, at::kCPU);
    const Draw d;
    for (const int64_t t : {0, 50, 150}) {
      const Level level = objective.chain().level(t);
      const TargetCoefficients c = target_coefficients(options.target, level);
      const Network perfect = [&](const at::Tensor&, const at::Tensor& time) {
        EXPECT_EQ(time[0].item<double>(), static_cast<double>(t));
        return at::add(c.x0 * d.x0, c.eps * d.eps);
      };
      const at::Tensor z = level.alpha * d.x0 + level.sigma * d.eps;
      const at::Tensor x_hat = make_denoiser(perfect, options.target, false)(z, level);
      EXPECT_LT((x_hat - d.x0).abs().max().item<double>(), 1e-12 / level.alpha) << p.name;
      const at::Tensor clipped = make_denoiser(perfect, options.target, true)(z, level);
      EXPECT_TRUE(at::equal(clipped, x_hat.clamp(-1, 1)));
    }
  }
}

}  // namespace
}  // namespace diffuse
