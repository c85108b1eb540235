// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

// LibTorch computes the last few values of a tensor, or of a thread's share, by other functions
// than the rest, which round otherwise. In float32 on the CPU, without gradients, these do not: a
// picture that is drawn is the same to the bit however many there are.

namespace diffuse {

at::Tensor steady_silu(const at::Tensor& x);
at::Tensor steady_exp(const at::Tensor& x);
at::Tensor steady_sin(const at::Tensor& x);
at::Tensor steady_cos(const at::Tensor& x);

}  // namespace diffuse
