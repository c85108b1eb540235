// SPDX-License-Identifier: MIT
#pragma once

#include "ops/kernels/philox.h"

namespace diffuse::kernels {

__device__ inline uint64_t step_of(const StepNumber& step) {
  return step.there == nullptr ? step.value : static_cast<uint64_t>(*step.there);
}

}  // namespace diffuse::kernels
