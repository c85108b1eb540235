// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <utility>

#include "diffusion/level.h"
#include "diffusion/prediction.h"

namespace diffuse {

/// F(x, t): x [n, channels, height, width], t [n] float32. Labels and weights are bound by who
/// makes it.
using Network = std::function<at::Tensor(const at::Tensor& x, const at::Tensor& t)>;

/// What a network makes of a noisy picture.
struct Estimate {
  Estimate(at::Tensor mean, at::Tensor variance = {})  // NOLINT: a denoiser may return x_hat alone
      : x_hat(std::move(mean)), v(std::move(variance)) {}
  at::Tensor x_hat;  // E[x_0 | z], like z
  at::Tensor v;      // output for the learned variance, like z; undefined where it is fixed
};

/// The one contract between networks and samplers.
using Denoise = std::function<Estimate(const at::Tensor& z, const Level& level)>;

/// x_hat = c_skip z + c_out F(c_in z, c_noise) (Karras et al. 2022, eq. 7), clipped to [-1, 1] on
/// request. A network with twice the channels of z gives F and v.
Denoise make_denoiser(Network network, Prediction prediction, bool clip);

}  // namespace diffuse
