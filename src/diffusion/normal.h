// SPDX-License-Identifier: MIT
#pragma once

namespace diffuse {

/// Density, distribution function and quantile of N(0, 1), to a few ulp. p in (0, 1).
double normal_density(double x);
double normal_cdf(double x);
double normal_quantile(double p);

/// log(p / (1 - p)) and its inverse.
double logit(double p);
double logistic(double x);

}  // namespace diffuse
