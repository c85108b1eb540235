// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "diffusion/options.h"

// What an objective does, in numbers, before anything is trained.

namespace diffuse {

/// One step of the chain, or one of 256 even bins of a continuous schedule's log SNR. The weights
/// say what the objective is on each scale of the one error (network_weights converted exactly): on
/// |eps - eps_hat|^2, |x0 - x0_hat|^2, |v - v_hat|^2 and |score - score_hat|^2. Not finite where a
/// scale does not exist (epsilon and score at zero SNR).
struct ExplainedStep {
  int64_t t = 0;    // number of the step or bin, from the clean end
  double time = 0;  // what the network is told, before c_noise of the target
  double u = 0;     // in the middle of it; see diffusion/process.h
  double logsnr = 0;
  double width = 0;     // of log SNR that it stands for
  double density = 0;   // its share in the objective
  double proposal = 0;  // probability that a picture is trained at it; the loss makes up for it
  double on_network = 0;
  double on_eps = 0;
  double on_x0 = 0;
  double on_velocity = 0;
  double on_score = 0;
  // Of the sum of density times on_x0 / (1 + SNR): the loss that data of variance 1 leave, of which
  // z tells all but 1 / (1 + SNR). A weight on epsilon alone would count errors that vanish as the
  // SNR falls.
  double share = 0;
};

struct Explanation {
  std::vector<ExplainedStep> steps;
  /// Share of the training signal at SNR below 1 (more noise than signal).
  double share_below_snr_1 = 0;
  /// Whether the weight on the epsilon loss per unit of log SNR, w(lambda) = on_eps p(lambda), only
  /// falls as log SNR grows: then the objective is a bound on the likelihood of data with Gaussian
  /// noise added (Kingma & Gao 2023, sec. 4).
  bool monotone = false;
  double terminal_snr = 0;
  /// L_T = KL(q(x_T | x_0) | N(0, I)) in bits a dimension (Ho et al. 2020, eq. 5) for data of this
  /// mean square. On other paths than vp the prior has the variance of z_T for data of variance 1.
  double prior_bits(double mean_square) const;
  Level last;  // of the chain
  bool continuous = false;
};

/// Throws Error{config} for combinations that check(options) refuses.
Explanation explain(const DiffusionOptions& options);

}  // namespace diffuse
