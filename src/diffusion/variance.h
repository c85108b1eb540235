// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "base/choice.h"
#include "diffusion/chain.h"

namespace diffuse {

/// The variance of p(z_{t-1} | z_t): a number, or affine in an output v of the network on the log
/// scale, log sigma^2 = log_offset + log_slope v (then the network has twice the channels).
struct ModelVariance {
  double fixed = 0;  // sigma^2 where it is not learned
  bool learned = false;
  double log_offset = 0;
  double log_slope = 0;
};

/// t = 0..T-1. At t = 0 the choices that use beta~ give beta~_1 (as improved-diffusion does), which
/// only the bound sees: sampling adds no noise at t = 0.
using Variance = Choice<ModelVariance(const Chain&, int64_t)>;

/// fixed_small (beta~), fixed_large (beta): Ho et al. 2020, sec. 3.2; learned, learned_range.
const Variance::Table& variances();

bool is_learned(const Variance& variance);

/// beta~_t, and at t = 0 the chain's decoder_variance.
double clipped_posterior_variance(const Chain& chain, int64_t t);

}  // namespace diffuse
