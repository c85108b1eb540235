// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

// What a kernel asks of the language beyond C++, so that tests/cuda can run it on the CPU.

namespace diffuse::kernels {

/// Launches kernel(args...) on blocks of `threads`, each with shared_bytes of dynamic shared
/// memory; `stream` is a cudaStream_t. Returns the cudaError_t of the launch.
template <class... Params, class... Args>
int launch(void (*kernel)(Params...),
           dim3 grid,
           int threads,
           size_t shared_bytes,
           void* stream,
           Args... args) {
  if (shared_bytes > 48 << 10) {  // more than every kernel may have
    // Always all there is: the limit belongs to the kernel, and a lower one for a later launch
    // would hold for those, too, that a graph has captured.
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess)
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return static_cast<int>(cudaLaunchKernelEx(&config, kernel, args...));
}

/// The dynamic shared memory of the thread's block, aligned to 16 bytes; one memory, whatever T.
template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
#else
  return static_cast<T*>(emulated_shared_memory());
#endif
}

}  // namespace diffuse::kernels
