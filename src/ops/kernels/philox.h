// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// CUDA bodies of ops/noise.h. Device pointers; `stream` is a cudaStream_t. Each returns the
// cudaError_t of its launch.

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
