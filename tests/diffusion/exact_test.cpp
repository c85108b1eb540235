// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "diffusion/denoiser.h"
#include "diffusion/objective.h"
#include "diffusion/support.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

// Data N(0, std^2) has an exact denoiser, E[x_0 | z] = alpha std^2 / (alpha^2 std^2 + sigma^2) z,
// and so an exact least loss: the weight times Var[x_0 | z] / c_out^2.

namespace diffuse {
namespace {

constexpr double kStd = 0.5;

double gain(const Level& l) {
  return l.alpha * kStd * kStd / (l.alpha * l.alpha * kStd * kStd + l.sigma * l.sigma);
}

double posterior_variance(const Level& l) { return kStd * kStd * (1 - l.alpha * gain(l)); }

TEST(ExactTruth, EveryCombinationReachesTheLeastLoss) {
  const TempFolder folder;
  spill(folder / "beta.txt", fifty_betas());
  spill(folder / "weights.txt", some_weights());
  const std::vector<Time> times{{.u = 0.11}, {.u = 0.4}, {.u = 0.7}, {.u = 0.95}};
  const auto n = static_cast<int64_t>(times.size());
  // The error of a linear network is linear in (x0, eps), which are independent and of mean 0: its
  // expected square is that of x0 = std, eps = 0 and that of x0 = 0, eps = 1. Nothing is random.
  const at::Tensor one = at::ones({n, 1, 1, 1}, at::kDouble), zero = at::zeros_like(one);
  int64_t combinations = 0;
  for (const auto& schedule : schedules())
    for (const TimeKind kind : {TimeKind::discrete, TimeKind::continuous}) {
      DiffusionOptions options;
      options.steps = 50;
      options.schedule.select(schedule.name);
      if (auto* table = options.schedule.options<TableSchedule>())
        table->file = folder / "beta.txt";
      options.time = kind;
      if (kind == TimeKind::continuous && !options.schedule(50).continuous) continue;
      for (const auto& target : predictions()) {
        if (kind == TimeKind::continuous && target.name == "mu") continue;  // needs a chain
        options.target.select(target.name);
        for (const auto& weighting : weightings()) {
          options.weighting.select(weighting.name);
          if (auto* table = options.weighting.options<TableWeighting>())
            table->file = folder / "weights.txt";
          SCOPED_TRACE(schedule.name +
                       (kind == TimeKind::discrete ? " discrete " : " continuous ") + target.name +
                       " " + weighting.name);
          const Objective objective(options, at::kCPU);
          const Objective::Rows rows = objective.rows(times.data(), n);
          const auto loss = [&](const at::Tensor& x0, const at::Tensor& eps) {
            const at::Tensor input = objective.input(x0, eps, rows);
            std::vector<at::Tensor> output;
            for (int64_t i = 0; i < n; ++i) {
              const Level l = objective.process().at(times[static_cast<size_t>(i)].u).level;
              const Coefficients c = options.target(l);
              output.push_back(input.narrow(0, i, 1) * ((gain(l) - c.c_skip) / c.c_out / c.c_in));
            }
            return objective.loss(at::cat(output), x0, eps, rows).weighted;
          };
          const at::Tensor least = loss(kStd * one, zero) + loss(zero, one);
          for (int64_t i = 0; i < n; ++i) {
            const NoisePoint point = objective.process().at(times[static_cast<size_t>(i)].u);
            const Coefficients c = options.target(point.level);
            const double weight = network_weight(options, objective.process(), point);
            const double expected = weight * posterior_variance(point.level) / (c.c_out * c.c_out);
            // Coefficients are rounded to float32: an output of `size` moves by 2e-7 of it.
            const Level& l = point.level;
            const double size =
                (1 + std::abs(gain(l) - c.c_skip) * (l.alpha + l.sigma)) / std::abs(c.c_out) +
                std::abs(c.c_skip / c.c_out) * (l.alpha + l.sigma);
            const double moved = 2e-7 * size;
            EXPECT_NEAR(least[i].item<double>(),
                        expected,
                        1e-6 * expected + 4 * std::sqrt(weight * expected) * moved +
                            2 * weight * moved * moved)
                << "u=" << times[static_cast<size_t>(i)].u;
          }
          ++combinations;
        }
      }
    }
  // Every continuous schedule twice: in steps, and in continuous time without mu.
  const auto continuous =
      std::count_if(schedules().begin(), schedules().end(), [](const auto& row) {
        return row.help.starts_with("continuous");
      });
  EXPECT_GE(continuous, 7);
  EXPECT_EQ(combinations,
            static_cast<int64_t>(weightings().size()) *
                (static_cast<int64_t>(schedules().size() * predictions().size()) +
                 continuous * static_cast<int64_t>(predictions().size() - 1)));
}

TEST(ExactTruth, ByMonteCarloThroughTheTimeSampler) {
  // The whole estimate as training makes it: times drawn, weights of the draw, noise.
  at::manual_seed(21);
  for (const char* sampler : {"uniform", "stratified", "lognormal", "log_logistic"})
    for (const char* schedule : {"cosine", "flow"}) {
      SCOPED_TRACE(std::string(sampler) + " " + schedule);
      DiffusionOptions options;
      options.steps = 100;
      options.schedule.select(schedule);
      options.target.select("velocity");
      options.weighting.select("min_snr");
      options.time_sampler.select(sampler);
      const Objective objective(options, at::kCPU);
      const Process& process = objective.process();
      const TimeDraw draw(options.time_sampler, process.bin_edges());
      const int64_t n = 4000;
      const auto times = draw({.seed = 1, .step = 1, .batch = n});
      const Objective::Rows rows = objective.rows(times.data(), n);
      const at::Tensor x0 = kStd * at::randn({n, 1, 2, 2}, at::kDouble);
      const at::Tensor eps = at::randn({n, 1, 2, 2}, at::kDouble);
      at::Tensor factor = at::empty({n, 1, 1, 1}, at::kDouble);
      for (int64_t i = 0; i < n; ++i) {
        const Level l = process.at(times[static_cast<size_t>(i)].u).level;
        const Coefficients c = options.target(l);
        factor[i] = (gain(l) - c.c_skip) / c.c_out / c.c_in;
      }
      const at::Tensor losses =
          objective.loss(objective.input(x0, eps, rows) * factor, x0, eps, rows).weighted *
          rows.share;
      double expected = 0;
      const int parts = 20'000;  // of u
      for (int i = 0; i < parts; ++i) {
        const NoisePoint point = process.at((i + 0.5) / parts);
        const double c_out = options.target(point.level).c_out;
        expected += network_weight(options, process, point) * posterior_variance(point.level) /
                    (c_out * c_out) / parts;
      }
      const double error = losses.std().item<double>() / std::sqrt(static_cast<double>(n));
      EXPECT_NEAR(losses.mean().item<double>(), expected, 4 * error);
      EXPECT_LT(error, 0.1 * expected);
    }
}

}  // namespace
}  // namespace diffuse
