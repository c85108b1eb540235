// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "diffusion/level.h"
#include "diffusion/prediction.h"

namespace diffuse {

/// F(x, t): x [n, channels, height, width], t [n] float32. Labels and weights are bound by who
/// makes it.
using Network = std::function<at::Tensor(const at::Tensor& x, const at::Tensor& t)>;

/// x_hat(z, level), the one contract between networks and samplers.
using Denoise = std::function<at::Tensor(const at::Tensor& z, const Level& level)>;

/// x_hat = c_skip z + c_out F(c_in z, c_noise) (Karras et al. 2022, eq. 7), clipped to [-1, 1] on
/// request.
Denoise make_denoiser(Network network, Prediction prediction, bool clip);

}  // namespace diffuse
