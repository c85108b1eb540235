// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "samplers/sampler.h"

namespace diffuse {

/// Ancestral sampling: Ho et al. 2020, algorithm 2, written with x0_hat (eq. 7 in place of eq. 11)
/// so that it can be clipped.
struct Ddpm {
  void fields(Fields&) {}
  std::vector<SamplerStep> operator()(const SamplerQuery& q) const;
};

}  // namespace diffuse
