// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// CUDA bodies of ops/loss.h. Pointers are the device's, `stream` is a cudaStream_t; each function
// returns the cudaError_t of its launch.

namespace diffuse::kernels {

/// The error F - F* of n pictures of `values` numbers each, with F* = target_x0 x0 + target_eps
/// eps.
struct ErrorBatch {
  int64_t n = 0;
  int64_t values = 0;
  const void* f = nullptr;  // [n, values], float32 or bfloat16
  bool bf16 = false;
  const float* x0 = nullptr;  // [n, values]
  const float* eps = nullptr;
  const float* target_x0 = nullptr;  // [n]
  const float* target_eps = nullptr;
  const float* weight = nullptr;
  float huber = 0;  // errors beyond it count in proportion; 0: all are squared
};

/// Written, [n]: raw, the mean of the squared error, and weighted = weight times the mean of
/// rho(error), which is error^2 or twice Huber's function. In a fixed order.
int error_loss(const ErrorBatch& batch, float* raw, float* weighted, void* stream);

/// df (of f's type) = the gradient of sum_i d_weighted_i weighted_i.
int error_loss_backward(const ErrorBatch& batch, const float* d_weighted, void* df, void* stream);

}  // namespace diffuse::kernels
