// SPDX-License-Identifier: MIT
#include "samplers/sampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/random.h"
#include "diffusion/options.h"
#include "ops/noise.h"
#include "samplers/options.h"
#include "samplers/sample.h"

namespace diffuse {
namespace {

/// E[x0 | z] for x0 ~ N(mean, std^2): the exact denoiser of Gaussian data.
double exact_x_hat(double z, const Level& l, double mean, double std) {
  const double gain = l.alpha * std * std / (l.alpha * l.alpha * std * std + l.sigma * l.sigma);
  return mean + gain * (z - l.alpha * mean);
}

/// Mean and variance of what a sampler draws with the exact denoiser: its steps are affine in x.
std::pair<double, double> drawn(const std::vector<SamplerStep>& steps, double mean, double std) {
  double m = 0, v = prior_variance(steps.front().level);  // 1 on vp
  for (const SamplerStep& s : steps) {
    const double at0 = exact_x_hat(0, s.level, mean, std);
    const double slope = exact_x_hat(1, s.level, mean, std) - at0;
    m = s.c_x * m + s.c_x_hat * (at0 + slope * m);
    v = std::pow(s.c_x + s.c_x_hat * slope, 2) * v + s.noise * s.noise;
  }
  return {m, v};
}

TEST(Sampler, EveryRowTendsToTheGaussian) {
  const double mean = 0.3, std = 0.5;
  for (const auto& row : samplers()) {
    for (const auto& variance : variances()) {
      if (is_learned(Variance(variances(), variance.name))) continue;  // see LearnedVariance
      for (const auto& schedule : schedules()) {
        if (schedule.name == "table") continue;  // has no default file
        SCOPED_TRACE(row.name + " " + variance.name + " " + schedule.name);
        double last_error = 0;
        for (const int64_t n : {125, 250, 500, 1000}) {
          DiffusionOptions options;
          options.schedule.select(schedule.name);
          options.steps = n;
          const Chain chain = make_chain(options);
          const Variance choice(variances(), variance.name);
          const auto [m, v] = drawn(Sampler(samplers(), row.name)({chain, choice}), mean, std);
          const double error = std::abs(v - std * std);
          if (last_error > 1e-6) {
            EXPECT_LT(error, 0.62 * last_error);  // first order: halves
          }
          last_error = error;
          // x_T starts at mean 0 instead of alpha_T mean; what is left of that is below alpha_T.
          const double signal =
              std::sqrt(chain.alpha_bar.back() / prior_variance(chain.levels.back()));
          EXPECT_NEAR(m, mean, 2 * signal + 1e-9);
        }
        EXPECT_LT(last_error, 0.02 * std * std);  // 1.6% for fixed_small on linear
      }
    }
  }
}

TEST(Ddpm, IsThePosteriorMeanAndOneEpsilonForm) {
  // Ho et al. 2020, eq. 11: x_{t-1} = (x - beta eps / sqrt(1 - alpha_bar)) / sqrt(alpha) + sigma z.
  const Chain chain = make_chain(LinearSchedule()(1000));
  const Variance variance(variances(), "fixed_large");
  const auto steps = Sampler(samplers(), "ddpm")({chain, variance});
  ASSERT_EQ(steps.size(), 1000u);
  for (const size_t k : {size_t{0}, size_t{400}, size_t{998}}) {
    const int64_t t = 999 - static_cast<int64_t>(k);
    const auto i = static_cast<size_t>(t);
    const double x = 0.8, eps = -0.4;
    const double x_hat = (x - steps[k].level.sigma * eps) / steps[k].level.alpha;
    const double mean = (x - chain.beta[i] / std::sqrt(1 - chain.alpha_bar[i]) * eps) /
                        std::sqrt(1 - chain.beta[i]);
    EXPECT_NEAR(steps[k].c_x * x + steps[k].c_x_hat * x_hat, mean, 1e-12);
    EXPECT_NEAR(steps[k].noise, std::sqrt(chain.beta[i]), 1e-15);
  }
  EXPECT_EQ(steps.back().noise, 0);
  EXPECT_EQ(steps.back().c_x, 0);
  EXPECT_NEAR(steps.back().c_x_hat, 1, 2.3e-16 / 1e-4);  // 1 - alpha_bar_0 = 1e-4 has lost 4 digits
}

TEST(Spacing, Golden) {
  const auto first = [](int64_t n, size_t k) {
    const auto all = spaced_timesteps(1000, n);
    EXPECT_EQ(static_cast<int64_t>(all.size()), n);
    return std::vector<int64_t>(all.begin(), all.begin() + static_cast<long>(k));
  };
  const auto last = [](int64_t n, size_t k) {
    const auto all = spaced_timesteps(1000, n);
    return std::vector<int64_t>(all.end() - static_cast<long>(k), all.end());
  };
  using V = std::vector<int64_t>;
  EXPECT_EQ(first(25, 6), (V{0, 42, 83, 125, 166, 208}));
  EXPECT_EQ(last(25, 4), (V{874, 916, 957, 999}));
  EXPECT_EQ(first(50, 6), (V{0, 20, 41, 61, 82, 102}));
  EXPECT_EQ(last(50, 4), (V{938, 958, 979, 999}));
  EXPECT_EQ(first(250, 6), (V{0, 4, 8, 12, 16, 20}));
  EXPECT_EQ(last(250, 4), (V{987, 991, 995, 999}));
  for (const int64_t n : {1, 2, 3, 7, 999, 1000}) {
    const auto all = spaced_timesteps(1000, n);
    EXPECT_EQ(all.back(), 999);
    for (size_t i = 1; i < all.size(); ++i) EXPECT_LT(all[i - 1], all[i]);
  }
}

TEST(RunSampler, DrawsTheGaussianWhateverTheBatch) {
  const Chain chain = respace(make_chain(LinearSchedule()(1000)), spaced_timesteps(1000, 100));
  const Variance variance(variances(), "fixed_small");
  const auto steps = Sampler(samplers(), "ddpm")({chain, variance});
  const double mean = 0.3, std = 0.5;
  const Denoise denoise = [&](const at::Tensor& z, const Level& l) {
    const double at0 = exact_x_hat(0, l, mean, std);
    return at::add(at::mul(z, exact_x_hat(1, l, mean, std) - at0), at::scalar_tensor(at0));
  };
  const auto run = [&](int64_t count, int64_t batch) {
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < count; first += batch) {
      const int64_t n = std::min(batch, count - first);
      at::Tensor x = at::empty({n, 1, 4, 4});
      fill_normal(x, 5, Purpose::sample_start, 0, first);
      parts.push_back(run_sampler(steps, denoise, x, [&](const at::Tensor& like, int64_t t) {
        at::Tensor noise = at::empty_like(like);
        fill_normal(noise, 5, Purpose::sample_step, static_cast<uint64_t>(t), first);
        return noise;
      }));
    }
    return at::cat(parts);
  };
  const at::Tensor all = run(512, 512);
  EXPECT_TRUE(at::equal(all, run(512, 100)));
  EXPECT_TRUE(at::equal(all.narrow(0, 0, 3), run(3, 1)));
  const auto [m, v] = drawn(steps, mean, std);
  const double n = 512 * 16;  // four standard errors of mean and variance
  EXPECT_NEAR(all.mean().item<double>(), m, 4 * std::sqrt(v / n));
  EXPECT_NEAR(all.var().item<double>(), v, 4 * v * std::sqrt(2 / n));
}

TEST(SampleOptions, StepsAreAllOfTheChainUnlessGiven) {
  SampleOptions options;
  DiffusionOptions diffusion;
  diffusion.steps = 300;
  EXPECT_EQ(sampling_steps(options, diffusion), 300);
  options.steps = 20;
  EXPECT_EQ(sampling_steps(options, diffusion), 20);
}

TEST(RunSampler, StopsWhenTheObserverSaysSo) {
  const Chain chain = make_chain(LinearSchedule()(50));
  const Variance variance(variances(), "fixed_small");
  int seen = 0;
  const at::Tensor x = run_sampler(
      Sampler(samplers(), "ddpm")({chain, variance}),
      [](const at::Tensor& z, const Level&) { return z; },
      at::zeros({1, 1, 2, 2}),
      [](const at::Tensor& like, int64_t) { return at::zeros_like(like); },
      [&](size_t i, const at::Tensor&, const at::Tensor&) { return ++seen, i < 9; });
  EXPECT_FALSE(x.defined());
  EXPECT_EQ(seen, 10);
}

}  // namespace
}  // namespace diffuse
