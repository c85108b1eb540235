// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// CUDA body of the optimizer: gradient norm, clipping, AdamW, the average of the weights and their
// bfloat16 copy, without a word to the host. Whatever changes from step to step is read from the
// device, so that a captured launch is right in every step. Pointers are the device's.

namespace diffuse::kernels {

struct AdamwUpdate {
  int64_t n = 0;          // values of each buffer, a multiple of 4
  int64_t decay_end = 0;  // those before it decay; a multiple of 4
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  double clip = 0;     // longest norm of a gradient; 0: any
  double spike_z = 0;  // see SpikeWindow; 0: off
  const float* grad = nullptr;
  float* weight = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  float* ema = nullptr;
  void* half = nullptr;           // the weights rounded to bfloat16; null: not wanted
  const double* rates = nullptr;  // [2]: learning rate, decay of the average
  const float* loss = nullptr;    // of the step, weighted and not
  const float* loss_raw = nullptr;
  float* updates = nullptr;  // made so far
  double* tally = nullptr;   // [Tally::count]
  double* spikes = nullptr;  // [SpikeWindow::count], unless spike_z is 0
};

/// Bytes of scratch memory that update() wants, aligned to 16.
int64_t update_scratch_bytes(int64_t n);

/// One update, unless the gradient's norm or the loss is not finite or a spike: then only the tally
/// and the window of spikes move.
/// Sums are taken in an order that depends on n alone. Returns the cudaError_t of its launches;
/// `stream` is a cudaStream_t.
int update(const AdamwUpdate& update, void* scratch, void* stream);

}  // namespace diffuse::kernels
