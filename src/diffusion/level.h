// SPDX-License-Identifier: MIT
#pragma once

#include <limits>

namespace diffuse {

/// A point of the noising process: z = alpha x_0 + sigma eps. On the variance-preserving path of
/// the discrete chain alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4).
struct Level {
  double t = 0;  // what the network sees: the chain's index 0..T-1 (paper: 1..T), or 1000 times
                 // a continuous schedule's time
  double logsnr = 0;  // log(alpha^2 / sigma^2); -inf at zero SNR
  double alpha = 1;
  double sigma = 0;
  double c_in = 1;  // the network is fed c_in z, unless its target says otherwise
  // The mean of q(z_{t-1} | z_t, x_0) of the chain that is trained, mean_x0 x_0 + mean_z z_t; NaN
  // where time is continuous.
  double mean_x0 = std::numeric_limits<double>::quiet_NaN();
  double mean_z = std::numeric_limits<double>::quiet_NaN();

  double snr() const { return alpha * alpha / (sigma * sigma); }
};

}  // namespace diffuse
