// SPDX-License-Identifier: MIT
#pragma once

// In place of CUDA's own, so that a kernel file is C++: what the kernels use, on the CPU. The
// threads of a block take turns and change at barriers; blocks run one after the other.

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // of one block at a time
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// CUDA's numbers.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

using cudaStream_t = struct CudaStream*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace cuda_emulation {

/// Whose turn comes first, among the threads of a block between two barriers and among blocks.
enum class Order { forward, reverse, shuffled };

struct Settings {
  int shared_memory = 227 << 10;  // bytes that a block may ask for
  Order order = Order::forward;
  uint64_t seed = 0;  // of Order::shuffled
};
Settings& settings();

/// Of the launch before.
struct Launch {
  dim3 grid;
  size_t shared_bytes = 0;
  std::string failure;  // where the launch returned cudaErrorLaunchFailure
};
const Launch& last_launch();

cudaError_t allow_shared(const void* kernel, int bytes);
cudaError_t launch(const cudaLaunchConfig_t& config,
                   const void* kernel,
                   const std::function<void()>& thread);

}  // namespace cuda_emulation

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = cuda_emulation::settings().shared_memory;
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return cuda_emulation::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config,
                               void (*kernel)(Params...),
                               Args... args) {
  return cuda_emulation::launch(
      *config, reinterpret_cast<const void*>(kernel), [&] { kernel(args...); });
}

/// What shared_memory() of launch.cuh returns here: exactly as many bytes as the launch asked for,
/// all of them 0xFF (NaN, in each format) when a block begins.
void* emulated_shared_memory();

void __syncthreads(std::source_location place = std::source_location::current());

using std::max;
using std::min;

inline float __expf(float x) { return expf(x); }
