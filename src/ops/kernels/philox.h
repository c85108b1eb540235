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
                 uint64_t step,
                 int64_t first_sample,
                 int64_t first_block,
                 void* stream);

}  // namespace diffuse::kernels
