// SPDX-License-Identifier: MIT
#include "diffusion/normal.h"

#include <cmath>
#include <numbers>

namespace diffuse {

double normal_density(double x) {
  return std::exp(-0.5 * x * x) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

double normal_quantile(double p) {
  // In the nearer tail, where the distribution function keeps its relative precision.
  const double tail = std::fmin(p, 1 - p);
  const double r = std::sqrt(-2 * std::log(tail));
  // Abramowitz & Stegun 26.2.23, to 4.5e-4; three steps of Halley's method do the rest.
  double x = r - (2.515517 + r * (0.802853 + r * 0.010328)) /
                     (1 + r * (1.432788 + r * (0.189269 + r * 0.001308)));
  for (int i = 0; i < 3; ++i) {
    const double error = (normal_cdf(-x) - tail) / normal_density(x);
    x += error / (1 - 0.5 * x * error);
  }
  return p < 0.5 ? -x : x;
}

double logit(double p) { return std::log(p) - std::log1p(-p); }

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace diffuse
