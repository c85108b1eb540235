// SPDX-License-Identifier: MIT
#pragma once

#include "base/choice.h"
#include "diffusion/level.h"

// How to add a target: a struct with operator()(Level) -> Coefficients and one row in
// prediction.cpp's table.

namespace diffuse {

/// What the network's output F means: x_hat = c_skip z + c_out F (Karras et al. 2022, eq. 7; Table
/// 1).
struct Coefficients {
  double c_skip = 0;
  double c_out = 1;
  double c_in = 1;     // the network is fed c_in z
  double c_noise = 0;  // and this as its time
};

using Prediction = Choice<Coefficients(const Level&)>;

/// epsilon, x0, velocity, score, flow, mu, edm. epsilon and score need alpha > 0: where no signal
/// is left (zero terminal SNR) their coefficients are not finite. mu needs a chain. check(
/// DiffusionOptions) refuses what does not work.
const Prediction::Table& predictions();

/// The network output that is right for (z, x0): F* = (x0 - c_skip z) / c_out = a x0 + b eps. Needs
/// sigma > 0, and alpha > 0 where the target does.
struct TargetCoefficients {
  double x0 = 0;   // a
  double eps = 0;  // b
};
TargetCoefficients target_coefficients(const Prediction& prediction, const Level& level);

/// Exact linear map between two targets at one level: F_to = a z + b F_from. Needs sigma > 0, and
/// alpha > 0 where one of the two does.
struct Conversion {
  double z = 0;  // a
  double f = 1;  // b
};
Conversion convert(const Prediction& from, const Prediction& to, const Level& level);

}  // namespace diffuse
