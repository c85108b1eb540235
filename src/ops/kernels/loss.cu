// SPDX-License-Identifier: MIT
#include "ops/kernels/loss.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "ops/kernels/bf16.cuh"
#include "ops/kernels/launch.cuh"
#include "ops/kernels/reduce.cuh"

// A block of threads a picture for the sums; any number of blocks for the gradient.

namespace diffuse::kernels {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ float error_at(const ErrorBatch& b, int64_t picture, int64_t i) {
  const float target = b.target_x0[picture] * b.x0[i] + b.target_eps[picture] * b.eps[i];
  return value_of(static_cast<const T*>(b.f)[i]) - target;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sums_kernel(ErrorBatch b, float* __restrict__ raw, float* __restrict__ weighted) {
  const int64_t picture = blockIdx.x;
  double sums[2] = {};  // of squares and losses
  for (int64_t i = threadIdx.x; i < b.values; i += kThreads) {
    const float e = error_at<T>(b, picture, picture * b.values + i);
    const double e2 = static_cast<double>(e) * static_cast<double>(e);
    sums[0] += e2;
    const float size = fabsf(e);
    const bool far = b.huber > 0 && size > b.huber;
    sums[1] += far ? static_cast<double>(b.huber) *
                         (2 * static_cast<double>(size) - static_cast<double>(b.huber))
                   : e2;
  }
  sum_of_block<kThreads>(sums);
  if (threadIdx.x != 0) return;
  const double values = static_cast<double>(b.values);
  raw[picture] = static_cast<float>(sums[0] / values);
  weighted[picture] = static_cast<float>(static_cast<double>(b.weight[picture]) * sums[1] / values);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(ErrorBatch b, const float* __restrict__ d_weighted, T* __restrict__ df) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < b.n * b.values;
       i += stride) {
    const int64_t picture = i / b.values;
    float e = error_at<T>(b, picture, i);
    if (b.huber > 0) e = fminf(fmaxf(e, -b.huber), b.huber);
    const float factor =
        2.0f * d_weighted[picture] * b.weight[picture] / static_cast<float>(b.values);
    set(df[i], factor * e);
  }
}

}  // namespace

int error_loss(const ErrorBatch& b, float* raw, float* weighted, void* stream) {
  return launch(b.bf16 ? sums_kernel<__nv_bfloat16> : sums_kernel<float>,
                dim3(static_cast<unsigned>(b.n)),
                kThreads,
                kSumBytes<kThreads, 2>,
                stream,
                b,
                raw,
                weighted);
}

int error_loss_backward(const ErrorBatch& b, const float* d_weighted, void* df, void* stream) {
  const int64_t blocks = (b.n * b.values + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, 1 << 16)));
  if (b.bf16)
    return launch(gradient_kernel<__nv_bfloat16>,
                  grid,
                  kThreads,
                  0,
                  stream,
                  b,
                  d_weighted,
                  static_cast<__nv_bfloat16*>(df));
  return launch(
      gradient_kernel<float>, grid, kThreads, 0, stream, b, d_weighted, static_cast<float*>(df));
}

}  // namespace diffuse::kernels
