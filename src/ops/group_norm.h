// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/noise.h"

namespace diffuse {

/// What GroupNorm (Wu & He 2018) has around it in a residual block: of x [n, channels, h, w],
/// act(scale' norm(x + added) + shift) times a dropout mask, where scale' is 1 + scale. Undefined
/// tensors are not there.
struct NormLayer {
  int64_t groups = 1;
  double eps = 1e-5;
  at::Tensor weight{}, bias{};           // [channels]
  at::Tensor added{}, scale{}, shift{};  // [n, channels]; scale and shift come together
  bool silu = false;                     // act: x sigmoid(x), or nothing
  double dropout = 0;                    // probability
  const StepKey* key = nullptr;          // null: no dropout
  int64_t dropout_block = 0;             // of the mask's streams (ops/noise.h)
};

struct Normed {
  at::Tensor y;  // of x's shape and type
  at::Tensor x;  // x itself, for what else uses it: its gradient by both ways is then one sum
};

/// One pass over memory where there is a kernel for it (float32 and bfloat16, on the CPU and on
/// GPUs), else composed_norm_layer(). y is channels-last then. weight, bias, added, scale and shift
/// may be float32 beside a bfloat16 x.
Normed norm_layer(const at::Tensor& x, const NormLayer& layer);

/// The same, made of LibTorch's operators.
Normed composed_norm_layer(const at::Tensor& x, const NormLayer& layer);

}  // namespace diffuse
