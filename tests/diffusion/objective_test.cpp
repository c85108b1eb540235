// SPDX-License-Identifier: MIT
#include "diffusion/objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "diffusion/denoiser.h"
#include "diffusion/support.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

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

/// The papers' numbers for one step of the cosine chain with fixed_small, from its betas alone.
struct Paper {
  explicit Paper(int64_t t) {
    // Nichol & Dhariwal 2021, eq. 17 and the cap of sec. 3.2.
    const auto f = [](double u) {
      return std::pow(std::cos((u / kSteps + 0.008) / 1.008 * std::numbers::pi / 2), 2);
    };
    const auto beta_at = [&](int64_t i) {
      const auto u = static_cast<double>(i);
      return std::min(1 - f(u + 1) / f(u), 0.999);
    };
    double prev = 1;
    for (int64_t i = 0; i <= t; ++i) prev = bar, bar *= 1 - beta_at(i);
    beta = beta_at(t);
    snr = bar / (1 - bar);
    alpha = std::sqrt(bar);
    sigma = std::sqrt(1 - bar);
    posterior_variance = (1 - prev) / (1 - bar) * beta;  // Ho et al. 2020, eq. 7
    c1 = std::sqrt(prev) * beta / (1 - bar);
    c2 = std::sqrt(1 - beta) * (1 - prev) / (1 - bar);
    if (t == 0) posterior_variance = Paper(1).posterior_variance;
  }

  /// The right output for (x0, eps).
  at::Tensor target(const std::string& name, const at::Tensor& x0, const at::Tensor& eps) const {
    if (name == "epsilon") return eps;
    if (name == "x0") return x0;
    if (name == "velocity") return alpha * eps - sigma * x0;  // Salimans & Ho 2022, sec. 4
    if (name == "score") return -eps / sigma;                 // Song et al. 2021, sec. 2
    if (name == "flow") return eps - x0;                      // Liu et al. 2022, eq. 1
    const at::Tensor z = alpha * x0 + sigma * eps;
    if (name == "mu") return c1 * x0 + c2 * z;  // Ho et al. 2020, eq. 7
    if (name == "edm") {  // Karras et al. 2022, Table 1 and eq. 8, for y = x0 and z / alpha
      const double sigma_k = sigma / alpha, sigma_d = 0.5, total = std::hypot(sigma_k, sigma_d);
      return (x0 - sigma_d * sigma_d / (total * total) * z / alpha) / (sigma_k * sigma_d / total);
    }
    throw std::logic_error("the test does not know the target " + name);
  }

  /// |eps - eps_hat|^2 for |F* - F|^2 = 1.
  double epsilon_error(const std::string& target) const {
    if (target == "epsilon") return 1;
    if (target == "x0") return snr;
    if (target == "velocity") return snr / (snr + 1);
    if (target == "score") return 1 - bar;
    if (target == "flow") return snr * sigma * sigma / ((alpha + sigma) * (alpha + sigma));
    if (target == "mu") return snr / (c1 * c1);
    if (target == "edm") {  // c_out^2: Karras et al. 2022, Table 1
      const double variance = 1 / snr;
      return snr * variance * 0.25 / (variance + 0.25);
    }
    throw std::logic_error("the test does not know the target " + target);
  }

  /// The weight on |F* - F|^2.
  double weight(const std::string& name, const std::string& target) const {
    if (name == "simple") return 1;                   // Ho et al. 2020, eq. 14
    if (name == "snr") return epsilon_error(target);  // Salimans & Ho 2022, eq. 9
    if (name == "min_snr")                            // Hang et al. 2023, sec. 3.4
      return std::min(snr, 5.0) / snr * epsilon_error(target);
    // Karras et al. 2022's noise level of z / alpha, and sigma_data.
    const double sigma_k = sigma / alpha, sigma_d = 0.5;
    const double x0_error = epsilon_error(target) / snr;
    if (name == "soft_min_snr")  // k-diffusion: 1 / (sigma^2 + sigma_d^2) on x0
      return x0_error / (sigma_k * sigma_k + sigma_d * sigma_d);
    if (name == "truncated_snr")  // Salimans & Ho 2022, sec. 4: the larger of the two errors
      return std::max(x0_error, epsilon_error(target));
    if (name == "p2")  // Choi et al. 2022, eq. 8, with its SNR = 1 / (1 - alpha_bar) - 1
      return epsilon_error(target) / (1 + (1 / (1 - bar) - 1));
    if (name == "debiased") return epsilon_error(target) / std::sqrt(snr);  // Yu et al. 2023
    if (name == "edm")  // lambda(sigma): Karras et al. 2022, Table 1
      return x0_error * (sigma_k * sigma_k + sigma_d * sigma_d) /
             (sigma_k * sigma_d * sigma_k * sigma_d);
    if (name == "sigmoid")  // Kingma & Gao 2023: sigmoid(-lambda)
      return epsilon_error(target) / (1 + std::exp(std::log(snr)));
    if (name == "vlb")  // Ho et al. 2020, eq. 12
      return beta * beta / (2 * posterior_variance * (1 - beta) * (1 - bar)) *
             epsilon_error(target);
    if (name == "table") {  // some_weights()
      const double logsnr = std::log(snr);
      if (logsnr <= -10) return 2 * epsilon_error(target);
      if (logsnr >= 3) return 0.5 * epsilon_error(target);
      return epsilon_error(target) *
             (logsnr < -2 ? std::pow(2, -(logsnr + 2) / 8) : std::pow(2, -(logsnr + 2) / 5));
    }
    throw std::logic_error("the test does not know the weighting " + name);
  }

  double beta = 0, bar = 1, snr = 0, alpha = 1, sigma = 0, posterior_variance = 0, c1 = 0, c2 = 0;
};

struct Draw {
  at::Tensor x0 = at::randn({6, 2, 3, 4}, at::kDouble);
  at::Tensor eps = at::randn({6, 2, 3, 4}, at::kDouble);
  std::vector<int64_t> t{0, 1, 20, 100, 198, 199};
};

TEST(Objective, NoisesByEquation4) {
  at::manual_seed(3);
  const Draw d;
  const Objective objective(options_of("epsilon", "simple"), at::kCPU);
  const at::Tensor z = objective.input(d.x0, d.eps, objective.rows_of_steps(d.t));
  for (int64_t i = 0; i < 6; ++i) {
    const Paper paper(d.t[static_cast<size_t>(i)]);
    const at::Tensor expected = paper.alpha * d.x0[i] + paper.sigma * d.eps[i];
    // The tables are rounded to float32 once: 6e-8 of values up to 5.
    EXPECT_LT((z[i] - expected).abs().max().item<double>(), 1e-6);
  }
}

TEST(Objective, LossIsThePapersForEveryCombination) {
  at::manual_seed(1);
  const Draw d;
  const TempFolder folder;
  spill(folder / "weights.txt", some_weights());
  for (const auto& p : predictions())
    for (const auto& w : weightings()) {
      SCOPED_TRACE(p.name + " " + w.name);
      DiffusionOptions options = options_of(p.name, w.name);
      if (auto* table = options.weighting.options<TableWeighting>())
        table->file = folder / "weights.txt";
      const Objective objective(options, at::kCPU);
      const Objective::Rows rows = objective.rows_of_steps(d.t);
      const at::Tensor target = objective.target(d.x0, d.eps, rows);
      const at::Tensor output =
          target + 0.1 * at::randn_like(target) * target.abs().amax({1, 2, 3}, true);
      const Objective::Loss loss = objective.loss(output, d.x0, d.eps, rows);
      for (int64_t i = 0; i < 6; ++i) {
        const int64_t t = d.t[static_cast<size_t>(i)];
        const Paper paper(t);
        const double raw =
            (output[i] - paper.target(p.name, d.x0[i], d.eps[i])).square().mean().item<double>();
        const double expected = paper.weight(w.name, p.name) * raw;
        // The error is a tenth of the target: float32 tables (6e-8 relative) give 1e-6 of the loss.
        EXPECT_NEAR(loss.weighted[i].item<double>(), expected, 1e-5 * expected) << "t=" << t;
        EXPECT_NEAR(loss.raw[i].item<double>(), raw, 1e-5 * raw) << "t=" << t;
      }
      EXPECT_LT(objective.loss(target, d.x0, d.eps, rows).weighted.max().item<double>(), 1e-20);
    }
}

TEST(Objective, GradientReachesTheOutput) {
  at::manual_seed(4);
  const Draw d;
  const Objective objective(options_of("velocity", "min_snr"), at::kCPU);
  const Objective::Rows rows = objective.rows_of_steps(d.t);
  at::Tensor output = at::zeros_like(d.x0).requires_grad_(true);
  objective.loss(output, d.x0, d.eps, rows).weighted.sum().backward();
  for (int64_t i = 0; i < 6; ++i) {
    const Paper paper(d.t[static_cast<size_t>(i)]);
    const at::Tensor expected = -2.0 / 24 * paper.weight("min_snr", "velocity") *
                                paper.target("velocity", d.x0[i], d.eps[i]);
    EXPECT_LT((output.grad()[i] - expected).abs().max().item<double>(), 1e-6);
  }
}

TEST(Denoiser, GivesBackX0ForThePerfectNetwork) {
  at::manual_seed(2);
  for (const auto& p : predictions()) {
    const DiffusionOptions options = options_of(p.name, "simple");
    const Objective objective(options, at::kCPU);
    const Draw d;
    for (const int64_t t : {0, 50, 150}) {
      const Level level = objective.process().chain().level(t);
      const Paper paper(t);
      const Network perfect = [&](const at::Tensor&, const at::Tensor& time) {
        const double told =
            p.name == "edm" ? std::log(paper.sigma / paper.alpha) / 4 : static_cast<double>(t);
        EXPECT_NEAR(time[0].item<double>(), told, 1e-12);
        return paper.target(p.name, d.x0, d.eps);
      };
      const at::Tensor z = paper.alpha * d.x0 + paper.sigma * d.eps;
      const at::Tensor x_hat = make_denoiser(perfect, options.target, false)(z, level).x_hat;
      EXPECT_LT((x_hat - d.x0).abs().max().item<double>(), 1e-12 / paper.alpha) << p.name;
      const at::Tensor clipped = make_denoiser(perfect, options.target, true)(z, level).x_hat;
      EXPECT_TRUE(at::equal(clipped, x_hat.clamp(-1, 1)));
    }
  }
}

}  // namespace
}  // namespace diffuse
