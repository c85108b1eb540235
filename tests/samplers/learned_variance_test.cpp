// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/random.h"
#include "diffusion/options.h"
#include "ops/noise.h"
#include "samplers/sample.h"

// For data N(0, std^2) the reverse step is Gaussian: its variance is beta~ + c_1^2 Var[x_0 | z]. A
// network that gives E[x_0 | z] and that variance draws the data from a chain of any length.

namespace diffuse {
namespace {

constexpr double kStd = 0.5;
constexpr int64_t kSteps = 25;

double gain(const Level& l) {
  return l.alpha * kStd * kStd / (l.alpha * l.alpha * kStd * kStd + l.sigma * l.sigma);
}

double posterior_variance(const Level& l) { return kStd * kStd * (1 - l.alpha * gain(l)); }

DiffusionOptions options_of(const std::string& schedule) {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.steps = kSteps;
  options.time = TimeKind::automatic;
  if (options.schedule(kSteps).continuous) options.time = TimeKind::discrete;
  return options;
}

/// The output that makes the variance of step `t` the true one.
double true_v(const Chain& chain, const Variance& variance, int64_t t) {
  const ModelVariance m = variance(chain, t);
  const auto i = static_cast<size_t>(t);
  const double c1 = chain.posterior_mean_x0[i];
  const double exact = chain.posterior_variance[i] + c1 * c1 * posterior_variance(chain.level(t));
  return (std::log(exact) - m.log_offset) / m.log_slope;
}

TEST(LearnedVariance, TheTrueOneKeepsEveryMarginal) {
  for (const auto& schedule : schedules()) {
    if (schedule.name == "table") continue;  // has no default file
    for (const char* name : {"learned", "learned_range"}) {
      SCOPED_TRACE(schedule.name + " " + name);
      const Chain chain = make_chain(options_of(schedule.name));
      const Variance variance(variances(), name);
      const auto steps = Sampler(samplers(), "ddpm")({chain, variance});
      const Level& last = chain.levels.back();
      // From the true marginal, each step leads to the next one's.
      double v = last.alpha * last.alpha * kStd * kStd + last.sigma * last.sigma;
      for (const SamplerStep& s : steps) {
        const double slope = s.c_x + s.c_x_hat * gain(s.level);
        v *= slope * slope;
        const auto t = s.timestep;
        EXPECT_EQ(s.learned, t > 0);
        if (t == 0) break;
        v += std::exp(s.log_offset + s.log_slope * true_v(chain, variance, t));
        const Level& next = chain.level(t - 1);
        const double expected = next.alpha * next.alpha * kStd * kStd + next.sigma * next.sigma;
        EXPECT_NEAR(v, expected, 1e-11 * expected) << t;
      }
      // The last step gives E[x_0 | z_0], whose variance is short of Var[x_0 | z_0].
      EXPECT_NEAR(v, kStd * kStd - posterior_variance(chain.level(0)), 1e-11);
      // Between its two bounds for data of variance below 1, where v needs no more than [-1, 1].
      if (std::string(name) == "learned_range" && last.c_in == 1 &&
          std::abs(last.alpha + last.sigma - 1) > 1e-3) {
        for (int64_t t = 1; t < kSteps; ++t) {
          EXPECT_GT(true_v(chain, variance, t), -1 - 1e-9);
          EXPECT_LT(true_v(chain, variance, t), 1 + 1e-9);
        }
      }
    }
  }
}

TEST(LearnedVariance, RunsThroughTheNetworksSecondHalf) {
  for (const auto& schedule : schedules()) {
    if (schedule.name == "table") continue;
    for (const auto& target : predictions())
      for (const char* name : {"learned", "learned_range"}) {
        if (target.name != "epsilon" && schedule.name != "cosine") continue;
        SCOPED_TRACE(schedule.name + " " + target.name + " " + name);
        const Chain chain = make_chain(options_of(schedule.name));
        const Variance variance(variances(), name);
        const Prediction prediction(predictions(), target.name);
        const auto steps = Sampler(samplers(), "ddpm")({chain, variance});
        const auto level_of_time = [&](double time) {
          for (int64_t t = 0; t < kSteps; ++t)
            if (std::abs(prediction(chain.level(t)).c_noise - time) < 1e-4) return t;
          throw std::logic_error("a time that no step has");
        };
        const Network network = [&](const at::Tensor& x, const at::Tensor& time) {
          const int64_t t = level_of_time(time[0].item<double>());
          const Coefficients c = prediction(chain.level(t));
          const at::Tensor f = x * ((gain(chain.level(t)) - c.c_skip) / c.c_out / c.c_in);
          return at::cat({f, at::full_like(x, true_v(chain, variance, t))}, 1);
        };
        const int64_t n = 64;
        at::Tensor x = at::empty({n, 2, 4, 4});
        fill_normal(x, 7, Purpose::sample_start, 0, 0);
        const Level& last = chain.levels.back();
        x = x.to(at::kDouble)
                .mul_(std::sqrt(last.alpha * last.alpha * kStd * kStd + last.sigma * last.sigma));
        const at::Tensor drawn =
            run_sampler(steps,
                        make_denoiser(network, prediction, false),
                        x,
                        [&](const at::Tensor& like, int64_t t) {
                          at::Tensor noise = at::empty_like(like, at::kFloat);
                          fill_normal(noise, 7, Purpose::sample_step, static_cast<uint64_t>(t), 0);
                          return noise.to(at::kDouble);
                        });
        const double expected = kStd * kStd - posterior_variance(chain.level(0));
        const double values = static_cast<double>(drawn.numel());
        EXPECT_NEAR(drawn.mean().item<double>(), 0, 4 * std::sqrt(expected / values));
        EXPECT_NEAR(drawn.var().item<double>(), expected, 4 * expected * std::sqrt(2 / values));
      }
  }
}

}  // namespace
}  // namespace diffuse
