// SPDX-License-Identifier: MIT
#include "likelihood/bound.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "diffusion/bound.h"
#include "diffusion/path.h"
#include "ops/noise.h"

namespace diffuse {
namespace {

at::Tensor to_host(const at::Tensor& t) { return t.to(at::kDouble).cpu(); }

/// Row i is of the stream {seed, bound, steps[i], first_image + i}.
at::Tensor noise_of(const at::Tensor& x0,
                    const std::vector<int64_t>& steps,
                    int64_t first_image,
                    uint64_t seed) {
  const at::Tensor noise = at::empty(x0.sizes(), x0.options().dtype(at::kFloat));
  const auto n = static_cast<int64_t>(steps.size());
  for (int64_t first = 0, end = 0; first < n; first = end) {
    const int64_t t = steps[static_cast<size_t>(first)];
    while (end < n && steps[static_cast<size_t>(end)] == t) ++end;
    fill_normal(noise.narrow(0, first, end - first),
                seed,
                Purpose::bound,
                static_cast<uint64_t>(t),
                first_image + first);
  }
  return noise.to(x0.scalar_type());
}

/// Of the steps t = 1..T-1, to a factor. A tenth of it is even: no step stands for more than 10 (T
/// - 1) / parts, however wrong the guess is.
std::vector<double> step_density(const Chain& chain) {
  const auto steps = static_cast<size_t>(chain.steps() - 1);
  std::vector<double> clipped, unclipped;
  for (int64_t t = 1; t < chain.steps(); ++t) {
    const double drop = chain.snr(t - 1) - chain.snr(t);
    clipped.push_back(drop / (1 + chain.snr(t)));
    // An error of epsilon stays at high noise, where that of x_0 is as large as 1 / SNR.
    unclipped.push_back(chain.snr(t) > 0 ? drop / chain.snr(t) : 0);
  }
  const double a = std::accumulate(clipped.begin(), clipped.end(), 0.0);
  const double b = std::accumulate(unclipped.begin(), unclipped.end(), 0.0);
  std::vector<double> out(steps, (b > 0 ? 0.1 : 0.2) / static_cast<double>(steps));
  for (size_t k = 0; k < steps; ++k)
    out[k] += 0.8 * clipped[k] / a + (b > 0 ? 0.1 * unclipped[k] / b : 0);
  return out;
}

}  // namespace

at::Tensor prior_bits(const Chain& chain, const at::Tensor& x0) {
  const Level& last = chain.levels.back();
  const auto log = [](double value) { return at::scalar_tensor(std::log(value), at::kDouble); };
  const at::Tensor nats = gaussian_kl(
      to_host(x0).mul(last.alpha), log(last.sigma * last.sigma), log(prior_variance(last)));
  return nats.flatten(1).mean(1).div(std::numbers::ln2);
}

BoundTerms bound_terms(const Objective& objective,
                       const Network& network,
                       const at::Tensor& x0,
                       const std::vector<int64_t>& steps,
                       int64_t first_image,
                       uint64_t seed) {
  const at::NoGradGuard no_grad;
  DIFFUSE_CHECK(x0.dim() == 4 && x0.size(0) == static_cast<int64_t>(steps.size()));
  const Objective::Rows rows = objective.rows_of_steps(steps);
  const at::Tensor eps = noise_of(x0, steps, first_image, seed);
  const at::Tensor output = network(objective.input(x0, eps, rows), rows.time).to(x0.scalar_type());
  const auto [f, v] = objective.split(output);
  // From here in float64: the terms of neighbouring steps differ by less than float32 shows.
  const at::Tensor error = at::sub(f, objective.target(x0, eps, rows)).to(at::kDouble);
  const at::Tensor variance = v.defined() ? v.to(at::kDouble) : v;
  const at::Tensor x = x0.to(at::kDouble);
  const at::Tensor x_error = at::mul(error, rows.c_out.to(at::kDouble).view({-1, 1, 1, 1}));
  // clip(x0_hat) - x0, without the rounding of a sum and a difference
  const at::Tensor clipped =
      at::minimum(at::maximum(x_error, at::sub(at::neg(x), 1)), at::rsub(x, 1));
  const at::Tensor mse_x0 = at::mean(at::square(x_error), {1, 2, 3});
  std::vector<double> snr;  // eps_hat - eps = -alpha / sigma (x0_hat - x0)
  for (const int64_t t : steps) snr.push_back(objective.process().chain().level(t).snr());
  const at::Tensor host = to_host(mse_x0);
  return {.bits = to_host(objective.bound_bits(error, variance, x, rows)),
          .clipped_bits = to_host(objective.bound_bits_of_estimate(clipped, variance, x, rows)),
          .mse_x0 = host,
          .mse_eps = host.mul(at::tensor(snr, at::kDouble))};
}

DrawnSteps draw_steps(const Chain& chain,
                      int64_t count,
                      int64_t part,
                      int64_t first_image,
                      int64_t n,
                      uint64_t seed) {
  const int64_t terms = chain.steps() - 1;
  DIFFUSE_CHECK(count >= 1 && count <= terms && part >= 0 && part < count);
  DrawnSteps out;
  if (count == terms) {
    out.t.assign(static_cast<size_t>(n), part + 1);
    out.weight.assign(static_cast<size_t>(n), 1);
    return out;
  }
  const std::vector<double> density = step_density(chain);
  std::vector<double> ends(density.size());
  std::partial_sum(density.begin(), density.end(), ends.begin());
  for (int64_t i = 0; i < n; ++i) {
    const Stream stream{seed,
                        Purpose::bound_step,
                        static_cast<uint64_t>(part),
                        static_cast<uint64_t>(first_image + i)};
    const double place =
        (static_cast<double>(part) + random_uniform(stream)) / static_cast<double>(count);
    const auto found = std::upper_bound(ends.begin(), ends.end() - 1, place * ends.back());
    const auto k = static_cast<size_t>(found - ends.begin());
    out.t.push_back(1 + static_cast<int64_t>(k));
    out.weight.push_back(ends.back() / (static_cast<double>(count) * density[k]));
  }
  return out;
}

}  // namespace diffuse
