// SPDX-License-Identifier: MIT
#include "diffusion/explain.h"

#include <cmath>
#include <numbers>

namespace diffuse {
namespace {

/// u in the middle of bin `i` of `n`.
double middle(size_t i, size_t n) {
  return (static_cast<double>(i) + 0.5) / static_cast<double>(n);
}

bool is_monotone(const Process& process, const std::vector<ExplainedStep>& steps) {
  double last = 0;
  for (size_t t = process.continuous() ? 0 : 1; t < steps.size(); ++t) {  // t = 0 is the decoder's
    // Per unit of log SNR, as a multiple of the bound's own weight: of a chain that is
    // SNR_{t-1} / SNR_t - 1 (twice the weight of L_{t-1} on epsilon), in the limit d(log SNR).
    const double bound = process.continuous() ? -process.at(middle(t, steps.size())).slope
                                              : std::expm1(steps[t - 1].logsnr - steps[t].logsnr);
    const double w = steps[t].on_eps * steps[t].density / bound;
    if (!std::isfinite(w)) continue;  // zero SNR: log SNR has no end
    // From low to high noise log SNR falls, so w must not. 1 - alpha_bar has lost some 6 of 16
    // digits at t = 1, and differences of log SNR a few more.
    if (w < last * (1 - 1e-6)) return false;
    last = w;
  }
  return true;
}

}  // namespace

double Explanation::prior_bits(double mean_square) const {
  // KL(N(alpha x_0, sigma^2) | N(0, P)), averaged over the data; P is 1 on vp.
  const double p = prior_variance(last);
  const double signal = last.alpha * last.alpha / p, noise = last.sigma * last.sigma / p;
  return 0.5 * (signal * mean_square - signal - std::log(noise)) / std::numbers::ln2;
}

Explanation explain(const DiffusionOptions& options) {
  const Process process = make_process(options);
  const std::vector<double> proposal =
      TimeDraw(options.time_sampler, process.bin_edges()).probabilities();
  const auto n = static_cast<size_t>(process.bins());
  Explanation out;
  out.continuous = process.continuous();
  double total = 0;
  for (size_t i = 0; i < n; ++i) {
    const NoisePoint point = process.at(middle(i, n));
    const Level& level = point.level;
    const double snr = level.snr();
    const double c_out = options.target(level).c_out;
    ExplainedStep step;
    step.t = static_cast<int64_t>(i);
    step.time = level.t;
    step.logsnr = level.logsnr;
    step.density = 1 / static_cast<double>(n);
    step.proposal = proposal[i];
    step.on_network = network_weight(options, process, point);
    // |x0 - x0_hat|^2 = c_out^2 |F* - F|^2; on epsilon it is SNR times, on velocity SNR + 1 times,
    // on the score SNR / sigma^2 times as large.
    step.on_x0 = step.on_network / (c_out * c_out);
    step.on_eps = step.on_x0 / snr;
    step.on_velocity = step.on_x0 / (snr + 1);
    step.on_score = step.on_eps * level.sigma * level.sigma;
    if (std::isfinite(step.on_eps)) total += step.density * step.on_eps;
    out.steps.push_back(step);
  }
  for (ExplainedStep& step : out.steps) {
    step.share = std::isfinite(step.on_eps) ? step.density * step.on_eps / total : 0;
    if (step.logsnr < 0) out.share_below_snr_1 += step.share;
  }
  out.monotone = is_monotone(process, out.steps);
  out.last = process.chain().levels.back();
  out.terminal_snr = process.chain().snr(process.chain().steps() - 1);
  return out;
}

}  // namespace diffuse
