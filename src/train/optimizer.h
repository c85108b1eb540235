// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include "train/options.h"
#include "train/state.h"

namespace diffuse {

/// One update from the gradient in state.params.grad(): clipping by the global norm, AdamW, EMA,
/// and the tally, all on the device. `loss` and `loss_raw` are 0-dim tensors of the global batch.
/// When the loss or the norm is not finite nothing but the tally changes. `steps` is the length of
/// the run, for the learning rate.
/// `fused`: in one pass over memory where there is a kernel for it, else of LibTorch's operators;
/// equal up to rounding.
void update(TrainState& state,
            const ParamLayout& layout,
            const OptimOptions& options,
            int64_t steps,
            const at::Tensor& loss,
            const at::Tensor& loss_raw,
            bool fused);

}  // namespace diffuse
