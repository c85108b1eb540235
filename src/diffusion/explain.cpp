// SPDX-License-Identifier: MIT
#include "diffusion/explain.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace diffuse {
namespace {

/// Bins that an explanation looks at, by the ends of their u; rising.
std::vector<double> explained_bins(const Process& process) {
  std::vector<double> out;
  if (!process.continuous()) {
    const auto n = static_cast<double>(process.bins());
    for (int64_t i = 0; i <= process.bins(); ++i) out.push_back(static_cast<double>(i) / n);
    return out;
  }
  // Even steps of log SNR: a weight may grow so fast that the signal is in the density's tail.
  constexpr int kBins = 256;
  constexpr double kTail = 1e-7;
  const double high = process.at(kTail).level.logsnr;
  const double low = process.at(1 - kTail).level.logsnr;
  for (int i = 0; i <= kBins; ++i) out.push_back(process.u_of(high + (low - high) * i / kBins));
  return out;
}

bool is_monotone(const Process& process, const std::vector<ExplainedStep>& steps) {
  double last = 0;
  for (size_t t = process.continuous() ? 0 : 1; t < steps.size(); ++t) {  // t = 0 is the decoder's
    // Per unit of log SNR, as a multiple of the bound's own weight: of a chain that is
    // SNR_{t-1} / SNR_t - 1 (twice the weight of L_{t-1} on epsilon), in the limit d(log SNR).
    const double bound = process.continuous() ? -process.at(steps[t].u).slope
                                              : std::expm1(steps[t - 1].logsnr - steps[t].logsnr);
    const double density = process.continuous() ? 1 : steps[t].density;
    const double w = steps[t].on_eps * density / bound;
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
  const double signal = last.alpha * last.alpha / p;  // the rest of P is noise
  return 0.5 * (signal * mean_square - signal - std::log1p(-signal)) / std::numbers::ln2;
}

Explanation explain(const DiffusionOptions& options) {
  const Process process = make_process(options);
  const std::vector<double> proposal =
      TimeDraw(options.time_sampler, process.bin_edges()).probabilities();
  const auto bins = static_cast<double>(proposal.size());
  const std::vector<double> ends = explained_bins(process);
  const size_t n = ends.size() - 1;
  Explanation out;
  out.continuous = process.continuous();
  double total = 0;
  for (size_t i = 0; i < n; ++i) {
    const double u = 0.5 * (ends[i] + ends[i + 1]);
    const NoisePoint point = process.at(u);
    const Level& level = point.level;
    const double snr = level.snr();
    const double c_out = options.target(level).c_out;
    ExplainedStep step;
    step.t = static_cast<int64_t>(i);
    step.time = level.t;
    step.logsnr = level.logsnr;
    step.u = u;
    step.density = ends[i + 1] - ends[i];
    step.width = process.continuous() ? -point.slope * step.density : 0;
    step.proposal = proposal[static_cast<size_t>(u * bins)] * bins * step.density;
    step.on_network = objective_weight(options, process, point);
    // |x0 - x0_hat|^2 = c_out^2 |F* - F|^2; on epsilon it is SNR times, on velocity (alpha^2 +
    // sigma^2)^2 / sigma^2 times (SNR + 1 on vp), on the score SNR / sigma^2 times as large.
    step.on_x0 = step.on_network / (c_out * c_out);
    step.on_eps = step.on_x0 / snr;
    const double power = level.alpha * level.alpha + level.sigma * level.sigma;
    step.on_velocity = step.on_x0 * level.sigma * level.sigma / (power * power);
    step.on_score = step.on_eps * level.sigma * level.sigma;
    step.share = step.density * step.on_x0 / (1 + snr);
    total += step.share;
    out.steps.push_back(step);
  }
  for (ExplainedStep& step : out.steps) {
    step.share /= total;
    if (step.logsnr < 0) out.share_below_snr_1 += step.share;
  }
  if (!process.continuous())  // a step covers half the way to either neighbour
    for (size_t i = 0; i < n; ++i) {
      const size_t before = i > 0 ? i - 1 : i;
      // A step without signal has no log SNR.
      const bool has_next = i + 1 < n && std::isfinite(out.steps[i + 1].logsnr);
      const size_t after = has_next ? i + 1 : i;
      out.steps[i].width = (out.steps[before].logsnr - out.steps[after].logsnr) /
                           static_cast<double>(std::max<size_t>(after - before, 1));
    }
  out.monotone = is_monotone(process, out.steps);
  out.last = process.chain().levels.back();
  out.terminal_snr = process.chain().snr(process.chain().steps() - 1);
  return out;
}

}  // namespace diffuse
