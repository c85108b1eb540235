// SPDX-License-Identifier: MIT
#pragma once

#include "diffusion/level.h"

namespace diffuse {

/// How signal and noise are scaled at a log-SNR. The paths differ by a factor of z alone: a network
/// that is fed z / sqrt(alpha^2 + sigma^2) sees the same pictures on each.
enum class Path {
  vp,    // alpha^2 + sigma^2 = 1: Ho et al. 2020
  ve,    // alpha = 1: Song et al. 2021, eq. 9; Karras et al. 2022
  flow,  // alpha + sigma = 1: Liu et al. 2022 (rectified flow); Lipman et al. 2022
};

/// alpha, sigma and c_in of a log-SNR; -inf (no signal) is allowed on vp and flow.
Level level_on(Path path, double logsnr);

/// The variance of z at the noisy end for data of variance 1: what sampling starts from.
inline double prior_variance(const Level& last) {
  return last.alpha * last.alpha + last.sigma * last.sigma;
}

}  // namespace diffuse
