// SPDX-License-Identifier: MIT
#include "ops/kernels/philox.h"

#include <cuda_runtime.h>

#include <array>
#include <cstring>

#include "base/random.h"
#include "ops/kernels/launch.cuh"
#include "ops/kernels/step_of.cuh"

// One thread a block of random numbers, in a grid-stride loop. The numbers are base/random.h's, as
// in the CPU's bodies in ops/noise.cpp.

namespace diffuse::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void normal_kernel(float* __restrict__ out,
                              int64_t rows,
                              int64_t row_size,
                              uint64_t seed,
                              uint32_t purpose,
                              uint64_t step,
                              int64_t first_sample) {
  const int64_t blocks = (row_size + 3) / 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * blocks;
       i += stride) {
    const int64_t row = i / blocks;
    const int64_t block = i % blocks;
    const Stream stream{
        seed, static_cast<Purpose>(purpose), step, static_cast<uint64_t>(first_sample + row)};
    const std::array<float, 4> normals = random_normal4(stream, static_cast<uint32_t>(block));
    float values[4];  // the array's own members are host functions
    memcpy(values, &normals, sizeof(values));
    float* const to = out + row * row_size + 4 * block;
    for (int j = 0; j < 4 && 4 * block + j < row_size; ++j) to[j] = values[j];
  }
}

__global__ void dropout_kernel(float* __restrict__ out,
                               int64_t rows,
                               int64_t row_size,
                               uint32_t threshold,
                               float keep_value,
                               uint64_t seed,
                               StepNumber step,
                               int64_t first_sample,
                               int64_t first_block) {
  const int64_t blocks = (row_size + 7) / 8;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * blocks;
       i += stride) {
    const int64_t row = i / blocks;
    const int64_t block = i % blocks;
    const Stream stream{
        seed, Purpose::dropout, step_of(step), static_cast<uint64_t>(first_sample + row)};
    const Philox4 b = random_block(stream, static_cast<uint32_t>(first_block + block));
    float* const to = out + row * row_size + 8 * block;
    for (int j = 0; j < 8 && 8 * block + j < row_size; ++j)
      to[j] = ((b.v[j / 2] >> (16 * (j % 2))) & 0xFFFFu) < threshold ? 0.0f : keep_value;
  }
}

unsigned grid(int64_t work) {
  // The loop covers what a larger grid would; 2^16 thread blocks fill any GPU.
  const int64_t wanted = (work + kThreads - 1) / kThreads;
  return static_cast<unsigned>(wanted < 65536 ? wanted : 65536);
}

}  // namespace

int fill_normal(float* out,
                int64_t rows,
                int64_t row_size,
                uint64_t seed,
                uint32_t purpose,
                uint64_t step,
                int64_t first_sample,
                void* stream) {
  return launch(normal_kernel,
                grid(rows * ((row_size + 3) / 4)),
                kThreads,
                0,
                stream,
                out,
                rows,
                row_size,
                seed,
                purpose,
                step,
                first_sample);
}

int dropout_mask(float* out,
                 int64_t rows,
                 int64_t row_size,
                 uint32_t threshold,
                 float keep_value,
                 uint64_t seed,
                 StepNumber step,
                 int64_t first_sample,
                 int64_t first_block,
                 void* stream) {
  return launch(dropout_kernel,
                grid(rows * ((row_size + 7) / 8)),
                kThreads,
                0,
                stream,
                out,
                rows,
                row_size,
                threshold,
                keep_value,
                seed,
                step,
                first_sample,
                first_block);
}

}  // namespace diffuse::kernels
