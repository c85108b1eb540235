// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// CUDA bodies of ops/noise.h. LibTorch's own generators draw other numbers on a GPU than on the
// CPU, and others again in another order of calls; these draw what the CPU draws: masks bit for
// bit, normals up to the rounding of log, sin and cos.
//
// `out` is a device pointer to [rows, row_size] contiguous floats: a row is one sample (a picture's
// noise, or the mask of its feature map) with a stream of its own, number first_sample + row;
// row_size counts its elements. `stream` is a cudaStream_t. Each returns the cudaError_t of its
// launch.

namespace diffuse::kernels {

/// The number of an optimizer step: what `there` (on the device) holds, so that a captured launch
/// is right in every step; where that is null, `value`.
struct StepNumber {
  uint64_t value = 0;
  const int64_t* there = nullptr;
};

int fill_normal(float* out,
                int64_t rows,
                int64_t row_size,
                uint64_t seed,
                uint32_t purpose,
                uint64_t step,
                int64_t first_sample,
                void* stream);

int dropout_mask(float* out,
                 int64_t rows,
                 int64_t row_size,
                 uint32_t threshold,
                 float keep_value,
                 uint64_t seed,
                 StepNumber step,
                 int64_t first_sample,
                 int64_t first_block,
                 void* stream);

}  // namespace diffuse::kernels
