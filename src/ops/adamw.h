// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

namespace diffuse {

/// One update of AdamW (Loshchilov & Hutter 2019, algorithm 2) and of the average of the weights.
struct AdamwStep {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  double updates = 1;     // made so far, with this one: for the bias correction
  double grad_scale = 1;  // on the gradient
  double ema_decay = 0;
};

/// Euclidean norm of a flat float32 CPU buffer; the same for any number of threads.
double norm_of(const at::Tensor& flat);

/// Updates flat float32 CPU buffers in one pass over memory.
void adamw_ema(const AdamwStep& step,
               const at::Tensor& grad,
               const at::Tensor& weight,
               const at::Tensor& exp_avg,
               const at::Tensor& exp_avg_sq,
               const at::Tensor& ema);

}  // namespace diffuse
