// SPDX-License-Identifier: MIT
#pragma once

namespace diffuse {

/// A point of the noising process: z = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1 on the
/// variance-preserving path of the discrete chain (Ho et al. 2020, eq. 4).
struct Level {
  double t = 0;       // what the network sees: the chain's index 0..T-1 (paper: 1..T)
  double logsnr = 0;  // log(alpha^2 / sigma^2); -inf at zero SNR
  double alpha = 1;   // sqrt(alpha_bar)
  double sigma = 0;   // sqrt(1 - alpha_bar)
};

}  // namespace diffuse
