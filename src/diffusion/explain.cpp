// SPDX-License-Identifier: MIT
#include "diffusion/explain.h"

#include <cmath>
#include <numbers>

namespace diffuse {
namespace {

bool is_monotone(const std::vector<ExplainedStep>& steps) {
  double last = 0;
  for (size_t t = 1; t < steps.size(); ++t) {  // the step at t = 0 is the decoder's
    // Per unit of log SNR, as a multiple of the bound's own weight: of a chain that is
    // SNR_{t-1} / SNR_t - 1 (twice the weight of L_{t-1} on epsilon), in the limit d(log SNR).
    const double bound = std::expm1(steps[t - 1].logsnr - steps[t].logsnr);
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
  // KL(N(sqrt(alpha_bar) x_0, 1 - alpha_bar) | N(0, 1)), averaged over the data.
  const double bar = terminal_alpha_bar;
  return 0.5 * (bar * mean_square - bar - std::log1p(-bar)) / std::numbers::ln2;
}

Explanation explain(const DiffusionOptions& options) {
  const Chain chain = make_chain(options);
  const std::vector<double> weights = network_weights(
      chain, options.target, options.weighting, options.weight_on, options.variance);
  Explanation out;
  double total = 0;
  for (int64_t t = 0; t < chain.steps(); ++t) {
    const Level level = chain.level(t);
    const double snr = chain.snr(t);
    const double c_out = options.target(level).c_out;
    ExplainedStep step;
    step.t = t;
    step.logsnr = level.logsnr;
    step.density = 1.0 / static_cast<double>(chain.steps());
    step.on_network = weights[static_cast<size_t>(t)];
    // |x0 - x0_hat|^2 = c_out^2 |F* - F|^2; on epsilon it is SNR times, on velocity SNR + 1 times,
    // on the score SNR / (1 - alpha_bar) times as large.
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
  out.monotone = is_monotone(out.steps);
  out.terminal_snr = chain.snr(chain.steps() - 1);
  out.terminal_alpha_bar = chain.alpha_bar.back();
  return out;
}

}  // namespace diffuse
