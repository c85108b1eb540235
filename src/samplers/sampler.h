// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/choice.h"
#include "diffusion/chain.h"
#include "diffusion/variance.h"

// How to add a sampler: a struct whose operator() turns a chain into steps, in its own file, and
// one row in table.cpp. A sampler is plain maths; samplers/sample.h runs its steps on tensors.

namespace diffuse {

/// One step from high to low noise: x <- c_x x + c_x_hat x_hat(x, level) + noise N(0, I).
struct SamplerStep {
  Level level;  // of x before the step
  double c_x = 0;
  double c_x_hat = 1;
  double noise = 0;  // standard deviation, >= 0
  // Where the network gives the variance: log sigma^2 = log_offset + log_slope v, instead of
  // `noise`.
  bool learned = false;
  double log_offset = 0;
  double log_slope = 0;
  int64_t timestep = 0;  // names the step's noise: t in the full chain
};

struct SamplerQuery {
  const Chain& chain;  // respaced where fewer steps are wanted
  const Variance& variance;
};

using Sampler = Choice<std::vector<SamplerStep>(const SamplerQuery&)>;

/// ddpm, ddim.
const Sampler::Table& samplers();

/// `count` of 0..steps-1, evenly spaced with both ends, ascending (Nichol & Dhariwal 2021, sec. 4;
/// the rounding of improved-diffusion's respacing "N"). count in [1, steps]; one step is the last.
std::vector<int64_t> spaced_timesteps(int64_t steps, int64_t count);

}  // namespace diffuse
