// SPDX-License-Identifier: MIT
#include "data/points.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "diffusion/options.h"
#include "ops/noise.h"
#include "samplers/sample.h"
#include "samplers/sampler.h"

// The exact denoiser of each distribution in each sampler gives its points back.

namespace diffuse {
namespace {

constexpr int64_t kPoints = 1000;

/// Means of x, y, x^2, y^2 and xy, and their standard errors.
struct Moments {
  std::array<double, 5> mean{}, error{};
};

Moments moments(const std::vector<Point>& points) {
  Moments out;
  const auto n = static_cast<double>(points.size());
  std::array<double, 5> squares{};
  for (const Point& p : points) {
    const std::array<double, 5> values{p.x, p.y, p.x * p.x, p.y * p.y, p.x * p.y};
    for (size_t k = 0; k < 5; ++k) {
      out.mean[k] += values[k] / n;
      squares[k] += values[k] * values[k] / n;
    }
  }
  for (size_t k = 0; k < 5; ++k)
    out.error[k] = std::sqrt(std::max(0.0, squares[k] - out.mean[k] * out.mean[k]) / n);
  return out;
}

std::vector<Point> drawn(const PointDistribution& truth, const Sampler& sampler, int64_t steps) {
  DiffusionOptions options;
  options.schedule.select("cosine");
  options.steps = steps;
  const Chain chain = make_chain(options);
  const Denoise denoise = [&](const at::Tensor& z, const Level& level) {
    const auto noised = truth.noised(level.alpha, level.sigma);
    at::Tensor x_hat = at::empty_like(z);
    for (int64_t i = 0; i < kPoints; ++i) {
      const float* at_z = z.const_data_ptr<float>() + 2 * i;
      const Point p = (*noised)({at_z[0], at_z[1]}).x_hat;
      x_hat.mutable_data_ptr<float>()[2 * i] = static_cast<float>(p.x);
      x_hat.mutable_data_ptr<float>()[2 * i + 1] = static_cast<float>(p.y);
    }
    return Estimate(x_hat);
  };
  const auto normal = [](const at::Tensor& like, Purpose purpose, int64_t step) {
    at::Tensor noise = at::empty_like(like);
    fill_normal(noise, 5, purpose, static_cast<uint64_t>(step), 0);
    return noise;
  };
  const at::Tensor start = at::empty({kPoints, 2, 1, 1}, at::kFloat);
  const at::Tensor x = run_sampler(
      sampler(SamplerQuery{.chain = chain, .variance = options.variance}),
      denoise,
      normal(start, Purpose::sample_start, 0),
      [&](const at::Tensor& like, int64_t t) { return normal(like, Purpose::sample_step, t); });
  const at::Tensor values = x.contiguous();
  std::vector<Point> out;
  for (int64_t i = 0; i < kPoints; ++i) {
    const float* p = values.const_data_ptr<float>() + 2 * i;
    out.push_back({p[0], p[1]});
  }
  return out;
}

TEST(SamplersOfPoints, TheExactDenoiserGivesTheDistributionsMoments) {
  for (const auto& source : point_sources()) {
    const auto truth = PointSource(point_sources(), source.name)();
    const Moments wanted = moments(sample_points(*truth, 1, 0, 100'000));
    for (const auto& sampler : samplers()) {
      SCOPED_TRACE(source.name + ", " + sampler.name);
      const Sampler chosen(samplers(), sampler.name);
      const Moments coarse = moments(drawn(*truth, chosen, 40));
      const Moments fine = moments(drawn(*truth, chosen, 80));
      for (size_t k = 0; k < 5; ++k) {
        // Both samplers are of first order: half the steps double the error, so that the two differ
        // by the finer one's.
        const double step_error = std::abs(coarse.mean[k] - fine.mean[k]);
        const double chance = std::hypot(fine.error[k], wanted.error[k]);
        EXPECT_NEAR(fine.mean[k], wanted.mean[k], 2 * step_error + 5 * chance) << k;
        // Which must itself be small, but for chance: 1000 points are known to a thirtieth.
        EXPECT_LT(step_error, 8 * chance) << k;
      }
    }
  }
}

}  // namespace
}  // namespace diffuse
