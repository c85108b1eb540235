// SPDX-License-Identifier: MIT
#pragma once

#include "ops/kernels/launch.cuh"

namespace diffuse::kernels {

/// Bytes of shared memory that sum_of_block() takes.
template <int kThreads, int kSums>
constexpr size_t kSumBytes = sizeof(double) * kThreads* kSums;

/// Adds up each of kSums values over the kThreads threads of a block, a power of two, in a fixed
/// order; the sums are thread 0's.
template <int kThreads, int kSums>
__device__ void sum_of_block(double (&values)[kSums]) {
  double* const sums = shared_memory<double>() + threadIdx.x;
  for (int k = 0; k < kSums; ++k) sums[k * kThreads] = values[k];
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half)
      for (int k = 0; k < kSums; ++k) sums[k * kThreads] += sums[k * kThreads + half];
    __syncthreads();
  }
  for (int k = 0; k < kSums; ++k) values[k] = sums[k * kThreads];
}

}  // namespace diffuse::kernels
