// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

namespace diffuse {

/// The convolution of x [n, in, h, w] with weight [out, in, k, k], k odd, and bias [out], stride 1
/// and padding k / 2; plus `added` [n, out, h, w] where that is defined. Channels-last. With the
/// program's own kernels where they fit, which spares small maps most of what LibTorch does around
/// a convolution; else composed_conv().
///
/// This, halved_conv() and linear() use the kernels for every size where no gradient is wanted, in
/// float32 on the CPU and with k 1 or 3: then no bit of a picture's result depends on n or on the
/// threads, as it does with LibTorch's operators.
at::Tensor conv(const at::Tensor& x,
                const at::Tensor& weight,
                const at::Tensor& bias,
                const at::Tensor& added = {});

/// The same by LibTorch's operators.
at::Tensor composed_conv(const at::Tensor& x,
                         const at::Tensor& weight,
                         const at::Tensor& bias,
                         const at::Tensor& added = {});

/// The convolution of x [n, in, h, w] with weight [out, in], bias [out] or none and `added`, as one
/// product of its pixels. Float32 on the CPU, without gradients.
at::Tensor pixel_conv(const at::Tensor& x,
                      const at::Tensor& weight,
                      const at::Tensor& bias,
                      const at::Tensor& added = {});

/// The convolution of x [n, in, h, w], h and w even, with weight [out, in, 3, 3] and bias [out],
/// stride 2 and padding 1, or 0 for one row and column at the bottom and right; [n, out, h / 2,
/// w / 2].
at::Tensor halved_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const at::Tensor& bias,
                       int64_t padding);

/// The same by LibTorch's operators.
at::Tensor composed_halved_conv(const at::Tensor& x,
                                const at::Tensor& weight,
                                const at::Tensor& bias,
                                int64_t padding);

/// at::linear for x [n, in].
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace diffuse
