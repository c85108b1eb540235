// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace diffuse {

/// Parts of one state, float64 and each [n, ...]: row i of every part belongs to sample i.
using OdeState = std::vector<at::Tensor>;
/// dy/dt at (t, y): parts of the shapes of y's.
using OdeFunction = std::function<OdeState(double t, const OdeState& y)>;

/// A step of Dormand & Prince 1980, RK5(4)7M.
struct OdeStep {
  OdeState y;      // the 5th-order solution at t + h: its error is O(h^6) a step
  OdeState error;  // what the embedded 4th-order solution differs by: O(h^5)
  OdeState slope;  // dy/dt at the new point: the next step's first stage
};

/// One step of length h (of either sign) from (t, y), where dy/dt = `slope`; six evaluations.
OdeStep ode_step(
    const OdeFunction& f, double t, double h, const OdeState& y, const OdeState& slope);

struct OdeOptions {
  double atol = 1e-5;
  double rtol = 1e-5;
  int64_t max_evaluations = 10000;
};

struct OdeResult {
  OdeState y;               // at t1
  int64_t evaluations = 0;  // of f, each over all n samples: the NFE
  int64_t accepted = 0;     // steps
  int64_t rejected = 0;
};

/// Solves dy/dt = f(t, y) from t0 to t1 (either may be the larger) with steps of adapted length. A
/// step is accepted where for every part of every sample the root mean square of
/// error / (atol + rtol max(|y before|, |y after|)) is at most 1: the worst part of the worst
/// sample decides for the batch, so that no sample is solved less exactly for its neighbours.
/// No gradients flow through it. Throws Error{diverged} where max_evaluations do not suffice, or
/// where f is not finite or so rough that steps vanish.
OdeResult solve_ode(
    const OdeFunction& f, OdeState y, double t0, double t1, const OdeOptions& options);

}  // namespace diffuse
