// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

namespace diffuse {

/// The error of an output F [n, channels, height, width] against F* = target_x0 x0 + target_eps
/// eps.
struct ErrorTerms {
  at::Tensor x0, eps;                // like F, in float32 (or float64, composed)
  at::Tensor target_x0, target_eps;  // [n]
  at::Tensor weight;                 // [n]
  double huber = 0;  // rho(e) = e^2 up to this |e|, a line beyond (Huber 1964, times 2); 0: e^2
};

struct ErrorLoss {
  at::Tensor raw;       // [n], |F - F*|^2 averaged over a picture's values; without gradient
  at::Tensor weighted;  // [n], weight times the average of rho(F - F*)
};

/// In one pass forward and one backward, on a GPU; float32 or bfloat16 F, float32 terms.
ErrorLoss error_loss(const at::Tensor& f, const ErrorTerms& terms);

/// The same of LibTorch's operators, in the type of x0.
ErrorLoss composed_error_loss(const at::Tensor& f, const ErrorTerms& terms);

/// [n] values as [n, 1, 1, 1], in the type of `like`.
at::Tensor column(const at::Tensor& values, const at::Tensor& like);

/// a x + b y for [n] coefficients a and b.
at::Tensor mix(const at::Tensor& a, const at::Tensor& x, const at::Tensor& b, const at::Tensor& y);

}  // namespace diffuse
