// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "ops/kernels/philox.h"

// CUDA bodies of ops/group_norm.h, for channels-last feature maps [n, pixels, channels] of bfloat16
// or float32. Pointers are the device's, `stream` is a cudaStream_t, and each function returns the
// cudaError_t of its launch.

namespace diffuse::kernels {

/// See NormParameters in cpu.h for the layer; here for all pictures at once.
struct NormBatch {
  int64_t n = 0;
  int64_t pixels = 0;
  int64_t channels = 0;
  int64_t group_channels = 0;
  bool bf16 = false;
  bool silu = false;
  double eps = 0;
  const void* x = nullptr;
  const float* weight = nullptr;  // [channels]
  const float* bias = nullptr;
  const float* added = nullptr;  // [n, channels], as the two that follow; null: none
  const float* scale = nullptr;  // less 1
  const float* shift = nullptr;
  const uint8_t* kept = nullptr;  // of dropout_bits(); null: no dropout
  float keep_value = 1;
};

/// Whether the kernels take such a layer: its groups are not too wide.
bool norm_fits(const NormBatch& batch);

/// Bytes of the bits of one picture.
inline int64_t kept_bytes(int64_t pixels, int64_t channels) { return (pixels * channels + 7) / 8; }

/// [n, kept_bytes] bits, as in ops/noise.h: element channel * pixels + pixel of picture i is that
/// of the stream number first_sample + i. The byte of eight pixels lies at [pixel / 8, channel]
/// where eight divides `pixels`, else at number / 8.
int dropout_bits(uint8_t* kept,
                 int64_t n,
                 int64_t pixels,
                 int64_t channels,
                 uint32_t threshold,
                 uint64_t seed,
                 StepNumber step,
                 int64_t first_sample,
                 int64_t first_block,
                 void* stream);

/// mean and rstd: [n, channels / group_channels] floats.
int norm_forward(const NormBatch& batch, void* y, float* mean, float* rstd, void* stream);

/// dx = gradient of x, plus `more` where that is not null. Written, all [n, channels]: of_scaled =
/// sum over pixels of the gradient of scale * norm + shift, with_norm = the sum of its product with
/// the normalised x, d_added (may be null).
int norm_backward(const NormBatch& batch,
                  const void* dy,
                  const void* more,
                  const float* mean,
                  const float* rstd,
                  void* dx,
                  float* with_norm,
                  float* of_scaled,
                  float* d_added,
                  void* stream);

}  // namespace diffuse::kernels
