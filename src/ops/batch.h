// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/noise.h"

namespace diffuse {

/// A batch of pictures as bytes: the batch itself, or which of a set it has.
struct PictureBytes {
  at::Tensor pixels;   // uint8 [n, channels, height, width]; with `indices`, all pictures of the
                       // set, [any, height, width, channels]
  at::Tensor indices;  // [n] int64, or undefined
  at::Tensor flips;    // [n] uint8, with `indices`: pictures to mirror are not 0
};

/// Float32 [n, channels, height, width] in [-1, 1], by LibTorch's operators.
at::Tensor pictures_of(const PictureBytes& bytes);

/// What a training step makes of a batch.
struct NoisyBatch {
  at::Tensor x0;     // pictures_of() or other data
  at::Tensor eps;    // standard normals like x0, as fill_normal() draws them
  at::Tensor input;  // input_x0 x0 + input_eps eps, what the network is fed
};

/// Of x0 float32 [n, channels, height, width] on any device, by LibTorch's operators; `input` is
/// float32, and input_x0 and input_eps are [n]. Draws by key.step.
NoisyBatch composed_noisy_batch(const at::Tensor& x0,
                                const at::Tensor& input_x0,
                                const at::Tensor& input_eps,
                                Purpose purpose,
                                const StepKey& key);

/// Of pictures_of() on a GPU, in one pass; input_x0 and input_eps are [n] float32 there. `input` is
/// bfloat16 on request, and channels-last.
NoisyBatch noisy_batch(const PictureBytes& bytes,
                       const at::Tensor& input_x0,
                       const at::Tensor& input_eps,
                       Purpose purpose,
                       const StepKey& key,
                       bool bf16);

}  // namespace diffuse
