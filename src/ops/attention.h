// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace diffuse {

/// Multi-head self-attention: softmax(q k^T / sqrt(head)) v in each head (Vaswani et al. 2017, eq.
/// 1). q, k and v are [n, tokens, channels], channels a multiple of `head`; so is the result. With
/// the program's own kernel where there is one (CPU: float32 and bfloat16, heads of at most 64),
/// else composed_attention().
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head);

/// The same by LibTorch's operator.
at::Tensor composed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              int64_t head);

}  // namespace diffuse
