// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "samplers/sampler.h"

namespace diffuse {

/// Song et al. 2021 (DDIM), eq. 12 and 16: with eta 0 deterministic, an Euler step of the
/// probability-flow ODE; with eta 1 ancestral sampling with the posterior variance. A learned
/// variance is not used.
struct Ddim {
  double eta = 0;
  void fields(Fields& f);
  std::vector<SamplerStep> operator()(const SamplerQuery& q) const;
};

}  // namespace diffuse
