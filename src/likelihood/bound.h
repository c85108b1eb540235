// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "diffusion/denoiser.h"
#include "diffusion/objective.h"

// The variational bound of a network on pictures, L_T + sum_{t >= 1} L_{t-1} + L_0 >= -log p(x_0)
// (Ho et al. 2020, eq. 5), in bits a dimension.

namespace diffuse {

/// [n] float64 on the host: L_T = KL(q(z_T | x_0) || p(z_T)) of each picture, in closed form; p is
/// N(0, P), P the prior variance of the chain's last level.
at::Tensor prior_bits(const Chain& chain, const at::Tensor& x0);

/// One term of each picture; [n] float64 on the host.
struct BoundTerms {
  at::Tensor bits;  // L_{t-1}, and at t = 0 the decoder's L_0
  at::Tensor
      clipped_bits;    // with x0_hat clipped to [-1, 1]: still a bound, and never a worse x0_hat
  at::Tensor mse_x0;   // of x0_hat, not clipped
  at::Tensor mse_eps;  // of eps_hat
};

/// At step steps[i] of the chain for picture i of x0 [n, channels, height, width], in [-1, 1] on
/// the objective's device. The noise of picture i is the stream {seed, bound, t, first_image + i}:
/// every network is shown the same. No gradients flow.
BoundTerms bound_terms(const Objective& objective,
                       const Network& network,
                       const at::Tensor& x0,
                       const std::vector<int64_t>& steps,
                       int64_t first_image,
                       uint64_t seed);

/// A step for each of some pictures, and how many steps it stands for.
struct DrawnSteps {
  std::vector<int64_t> t;
  std::vector<double> weight;
};

/// One of the steps t = 1..T-1 (those with a term L_{t-1}) for each of the pictures first_image ...
/// first_image + n - 1: the sum over the parts 0..count-1 of weight L_{t-1} estimates the sum over
/// all t without bias. Each part has the same share of a density that follows the terms' size, as
/// (SNR_{t-1} - SNR_t) / (1 + SNR_t) does (Kingma et al. 2021, eq. 13, with an error of x_0 of
/// 1 / (1 + SNR)), so that few parts tell much; a tenth is even, and a tenth follows the terms of
/// an estimate that is not clipped. count <= T - 1, which gives each step once.
DrawnSteps draw_steps(
    const Chain& chain, int64_t count, int64_t part, int64_t first_image, int64_t n, uint64_t seed);

}  // namespace diffuse
