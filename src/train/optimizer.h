// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include "train/options.h"
#include "train/state.h"

namespace diffuse {

/// Writes learning rate and EMA decay of the step that comes next to state.rates.
void set_rates(TrainState& state, const OptimOptions& options, int64_t steps);

/// One update from the gradient in state.params.grad(): clipping by the global norm, AdamW, EMA,
/// and the tally, all on the device. `loss` and `loss_raw` are 0-dim tensors of the global batch.
/// When the loss or the norm is not finite, or a spike by options.spike_guard (see SpikeWindow),
/// nothing but the tally and the window of spikes changes. `steps` is the length of
/// the run, for the learning rate.
/// `fused`: in one pass over memory, else of LibTorch's operators; equal up to rounding. On a GPU
/// it takes learning rate and EMA decay from state.rates instead of working them out, so that it
/// can be captured. Where the weights have a bfloat16 copy (Params::keep_half), it follows them.
void update(TrainState& state,
            const ParamLayout& layout,
            const OptimOptions& options,
            int64_t steps,
            const at::Tensor& loss,
            const at::Tensor& loss_raw,
            bool fused);

}  // namespace diffuse
