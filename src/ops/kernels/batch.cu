// SPDX-License-Identifier: MIT
#include "ops/kernels/batch.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/random.h"
#include "ops/kernels/bf16.cuh"
#include "ops/kernels/launch.cuh"
#include "ops/kernels/step_of.cuh"

// One thread a block of four normals: four neighbours of a picture in the order of its channels.

namespace diffuse::kernels {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) batch_kernel(NoisyBatch b) {
  const int64_t plane = b.height * b.width, size = b.channels * plane;
  const int64_t blocks = (size + 3) / 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; t < b.n * blocks;
       t += stride) {
    const int64_t row = t / blocks, block = t % blocks;
    const Stream stream{b.seed,
                        static_cast<Purpose>(b.purpose),
                        step_of(b.step),
                        static_cast<uint64_t>(b.first_sample + row)};
    const std::array<float, 4> normals = random_normal4(stream, static_cast<uint32_t>(block));
    float eps[4];  // the array's own members are host functions
    memcpy(eps, &normals, sizeof(eps));
    const uint8_t* const picture = b.pixels + (b.indices == nullptr ? row : b.indices[row]) * size;
    const bool flip = b.indices != nullptr && b.flips[row] != 0;
    for (int j = 0; j < 4 && 4 * block + j < size; ++j) {
      const int64_t e = 4 * block + j;
      const int64_t channel = e / plane, pixel = e % plane;
      int64_t from = e;
      if (b.indices != nullptr) {
        const int64_t x = pixel % b.width;
        from = (pixel - x + (flip ? b.width - 1 - x : x)) * b.channels + channel;
      }
      const float x0 = static_cast<float>(picture[from]) / 127.5f - 1.0f;  // 0..255 -> [-1, 1]
      b.x0[row * size + e] = x0;
      b.eps[row * size + e] = eps[j];
      const int64_t to = b.channels_last ? pixel * b.channels + channel : e;
      set(static_cast<T*>(b.input)[row * size + to],
          b.input_x0[row] * x0 + b.input_eps[row] * eps[j]);  // Ho et al. 2020, eq. 4
    }
  }
}

}  // namespace

int noisy_batch(const NoisyBatch& b, void* stream) {
  const int64_t work = b.n * ((b.channels * b.height * b.width + 3) / 4);
  const int64_t blocks = std::clamp<int64_t>((work + kThreads - 1) / kThreads, 1, 1 << 16);
  return launch(b.bf16 ? batch_kernel<__nv_bfloat16> : batch_kernel<float>,
                dim3(static_cast<unsigned>(blocks)),
                kThreads,
                0,
                stream,
                b);
}

}  // namespace diffuse::kernels
