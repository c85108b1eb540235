// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "train/options.h"

namespace diffuse {

/// Learning rate of the update that follows `step` (>= 0) earlier ones, of `steps` (>= 1) in all:
/// linear warm-up from lr / warmup_steps, then constant, half a cosine to 0, or a line to 0. From
/// `step` = `steps` on it stays at its end.
double learning_rate(const OptimOptions& options, int64_t step, int64_t steps);

/// Decay of the EMA, in [0, 1), at step number `update` (>= 1): min(ema_decay, 1 -
/// update^-ema_power), so the first step replaces the random initial weights and the average grows
/// with the run; ema_decay throughout where ema_power is 0. A skipped step leaves the average as it
/// is; Tally::ema_initial knows what is left of the initial weights.
double ema_decay(const OptimOptions& options, int64_t update);

}  // namespace diffuse
