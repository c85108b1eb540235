// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "diffusion/denoiser.h"
#include "samplers/sampler.h"

namespace diffuse {

/// Standard normal noise of the shape of `like` for the step at index `timestep` of the full chain.
using StepNoise = std::function<at::Tensor(const at::Tensor& like, int64_t timestep)>;
/// Sees x after step `i` (0-based) and the x_hat that led to it; false stops the sampler.
using StepObserver = std::function<bool(size_t i, const at::Tensor& x, const at::Tensor& x_hat)>;

/// Runs a sampler's steps from x = x_T [n, channels, height, width], pure noise; returns x_0,
/// or an undefined tensor when the observer stopped it.
at::Tensor run_sampler(const std::vector<SamplerStep>& steps,
                       const Denoise& denoise,
                       at::Tensor x,
                       const StepNoise& noise,
                       const StepObserver& observer = nullptr);

}  // namespace diffuse
