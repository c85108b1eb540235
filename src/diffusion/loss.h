// SPDX-License-Identifier: MIT
#pragma once

#include "base/choice.h"

// The loss of one picture, given the weight of its level. See diffusion/objective.h.

namespace diffuse {

/// What is minimised: w mean rho(F* - F) + bound x L_vlb.
struct LossTerms {
  bool error = true;  // the first term
  double huber = 0;   // rho(e) = e^2 up to this |e|, a line beyond; 0: e^2 everywhere
  double bound = 0;   // factor of T L_t, in bits a dimension: an estimate of L_vlb / dimensions
  bool bound_of_mean = false;  // false: the bound trains the variance alone, the mean is detached
};

using LossKind = Choice<LossTerms()>;

/// mse, huber, hybrid, vlb.
const LossKind::Table& loss_kinds();

}  // namespace diffuse
