// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

namespace diffuse {

/// The convolution of x [n, in, h, w] with weight [out, in, k, k], k odd, and bias [out], stride 1
/// and padding k / 2; plus `added` [n, out, h, w] where that is defined. Channels-last. With the
/// program's own kernels where they fit, which spares small maps most of what LibTorch does around
/// a convolution; else composed_conv().
at::Tensor conv(const at::Tensor& x,
                const at::Tensor& weight,
                const at::Tensor& bias,
                const at::Tensor& added = {});

/// The same by LibTorch's operators.
at::Tensor composed_conv(const at::Tensor& x,
                         const at::Tensor& weight,
                         const at::Tensor& bias,
                         const at::Tensor& added = {});

}  // namespace diffuse
