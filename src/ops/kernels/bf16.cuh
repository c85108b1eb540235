// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_bf16.h>

namespace diffuse::kernels {

__device__ inline float value_of(float x) { return x; }
__device__ inline float value_of(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void set(float& to, float x) { to = x; }
__device__ inline void set(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

}  // namespace diffuse::kernels
