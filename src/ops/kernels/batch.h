// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "ops/kernels/philox.h"

// CUDA body of ops/batch.h.

namespace diffuse::kernels {

/// What a training step sees of n pictures, in one pass. Pointers are the device's.
struct NoisyBatch {
  int64_t n = 0;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  // [n, channels, height, width]; or, with `indices` and `flips`, a set [any, height, width,
  // channels] that they choose from and mirror.
  const uint8_t* pixels = nullptr;
  const int64_t* indices = nullptr;  // [n]
  const uint8_t* flips = nullptr;    // [n]
  const float* input_x0 = nullptr;   // [n]
  const float* input_eps = nullptr;
  // Row i of the noise is the stream {seed, purpose, step, first_sample + i}.
  uint64_t seed = 0;
  uint32_t purpose = 0;
  StepNumber step{};
  int64_t first_sample = 0;
  // Written: x0 in [-1, 1] and the noise, [n, channels, height, width], and what the network is
  // fed, input_x0 x0 + input_eps eps, as float32 or bfloat16, channels-last on request.
  float* x0 = nullptr;
  float* eps = nullptr;
  void* input = nullptr;
  bool bf16 = false;
  bool channels_last = false;
};

/// Returns the cudaError_t of its launch; `stream` is a cudaStream_t.
int noisy_batch(const NoisyBatch& batch, void* stream);

}  // namespace diffuse::kernels
