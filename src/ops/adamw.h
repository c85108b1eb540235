// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/kernels/tally.h"

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

/// Updates flat float32 CPU buffers in one pass over memory, and `half`, where defined, to the
/// weights rounded to bfloat16.
void adamw_ema(const AdamwStep& step,
               const at::Tensor& grad,
               const at::Tensor& weight,
               const at::Tensor& exp_avg,
               const at::Tensor& exp_avg_sq,
               const at::Tensor& ema,
               const at::Tensor& half = {});

/// An update on a GPU, with everything around it and without a word to the host. Flat float32
/// buffers but where said otherwise; the numbers are those of AdamwStep.
struct GpuUpdate {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t decay_end = 0;  // values before it decay
  double clip = 0;        // longest norm of a gradient; 0: any
  double spike_z = 0;     // see SpikeWindow; 0: off
  at::Tensor grad, weight, exp_avg, exp_avg_sq, ema;
  at::Tensor half;            // the weights rounded to bfloat16; undefined: not wanted
  at::Tensor rates;           // [2] float64: learning rate, decay of the average
  at::Tensor loss, loss_raw;  // one value each
  at::Tensor updates;         // [1] float32: made so far
  at::Tensor tally;           // [Tally::count] float64
  at::Tensor spikes;          // [SpikeWindow::count] float64
};

/// Unless the gradient's norm or the loss is not finite or a spike: then only tally and spikes
/// move.
void update_on_gpu(const GpuUpdate& update);

}  // namespace diffuse
