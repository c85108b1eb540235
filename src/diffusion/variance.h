// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "base/choice.h"
#include "diffusion/chain.h"

namespace diffuse {

/// sigma_t^2 of p(x_{t-1} | x_t), t = 0..T-1. At t = 0 both choices give beta~_1 (as
/// improved-diffusion does), which only the bound sees: sampling adds no noise at t = 0.
using Variance = Choice<double(const Chain&, int64_t)>;

/// fixed_small (beta~), fixed_large (beta): Ho et al. 2020, sec. 3.2.
const Variance::Table& variances();

}  // namespace diffuse
