// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/error.h"
#include "nn/model.h"
#include "train/state.h"

// Training that has gone wrong goes back to a checkpoint and on from there with other draws, as
// Chowdhery et al. 2022 (PaLM, sec. 5.1) did by hand: they skipped the batches around a spike.

namespace diffuse {

/// Training must not go on from here. `what()` says why, as the first half of a sentence.
class Diverged : public Error {
 public:
  explicit Diverged(const std::string& why) : Error(Exit::diverged, why) {}
};

/// Set when training must not go on from `state`, nor it be kept: when weights, EMA or moments hold
/// what is not finite, or `max_skips` (optim.max_skips_in_row; 0: any number) updates in a row have
/// been skipped since the last log line. Waits for the device.
std::optional<Diverged> divergence(const TrainState& state, int64_t max_skips);

/// Loads the newest checkpoint under `folder` that is undamaged and holds finite numbers only,
/// passing over others with a warning, and returns its path. Throws Error{checkpoint} when there is
/// none: no run starts over without being told to.
std::filesystem::path load_newest_finite(const std::filesystem::path& folder,
                                         const ParamLayout& layout,
                                         TrainState& state);

/// Sets `state` back: to the newest checkpoint under `folder` that is undamaged, finite, and not
/// within a row of skipped updates; when the last rollback went to that very one, to the one before
/// it, if there is one. Where all were saved within such a row, to the newest of them, as its
/// weights are those of before the row. Without any, to `start`, the checkpoint of another run that
/// this one began with, or else to the beginning with this seed. Counts the rollback, and renames
/// the checkpoints that are later.
void roll_back(TrainState& state,
               const ParamLayout& layout,
               uint64_t seed,
               const std::filesystem::path& folder,
               const std::optional<std::filesystem::path>& start);

}  // namespace diffuse
