// SPDX-License-Identifier: MIT
#include "train/lr.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace diffuse {

double learning_rate(const OptimOptions& options, int64_t step, int64_t steps) {
  const auto warmup = static_cast<double>(options.warmup_steps);
  const auto s = static_cast<double>(step);
  // Goyal et al. 2017, sec. 2.2 (gradual warm-up).
  if (s < warmup) return options.lr * (s + 1) / warmup;
  const double rest = std::max(static_cast<double>(steps) - warmup, 1.0);
  const double done = std::min((s - warmup) / rest, 1.0);
  switch (options.decay) {
    case Decay::cosine:  // Loshchilov & Hutter 2017 (SGDR), eq. 5, one cycle down to 0
      return options.lr * 0.5 * (1 + std::cos(std::numbers::pi * done));
    case Decay::linear:
      return options.lr * (1 - done);
    case Decay::constant:
      break;
  }
  return options.lr;
}

double ema_decay(const OptimOptions& options, int64_t update) {
  if (options.ema_power <= 0) return options.ema_decay;
  // Inverse-power warm-up, as in k-diffusion (inv_gamma 1) and diffusers: the k-th update, counted
  // from 0, has 1 - (1 + k)^-power.
  return std::min(options.ema_decay, 1 - std::pow(static_cast<double>(update), -options.ema_power));
}

}  // namespace diffuse
