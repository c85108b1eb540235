// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace diffuse {

/// Multi-head self-attention: softmax(q k^T / sqrt(head)) v in each head (Vaswani et al. 2017, eq.
/// 1). qkv is [n, tokens, 3 channels], q's channels first, then k's and v's; the result is
/// [n, tokens, channels], channels a multiple of `head`. With the program's own kernel where there
/// is one (CPU: float32 and bfloat16, heads of at most 64), else composed_attention().
at::Tensor attention(const at::Tensor& qkv, int64_t head);

/// The same by LibTorch's operator, of [n, tokens, channels] each.
at::Tensor composed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              int64_t head);

}  // namespace diffuse
