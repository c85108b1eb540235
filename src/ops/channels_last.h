// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

namespace diffuse {

/// conv(upsample(x)) of a channels-last x [n, in, h, w]: nearest-neighbour to twice the size, then
/// a convolution with weight [out, in, 3, 3], padding 1; [n, out, 2h, 2w]. The four pixels that
/// one becomes are equal, so weights that meet them add up first: one transposed convolution with
/// 4 x 4 weights and stride 2, 16 products a pixel of x instead of 36, and no enlarged copy. On the
/// CPU; elsewhere composed_upsampled_conv().
at::Tensor upsampled_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// The same by LibTorch's operators, as it is written.
at::Tensor composed_upsampled_conv(const at::Tensor& x,
                                   const at::Tensor& weight,
                                   const at::Tensor& bias);

/// [n, a + b, h, w] of a [n, a, h, w] and b [n, b, h, w], channels-last; so are the gradients of
/// both, which LibTorch's cat hands on as views with gaps.
at::Tensor concat_channels(const at::Tensor& a, const at::Tensor& b);

}  // namespace diffuse
