// SPDX-License-Identifier: MIT
#include "core/rollback.h"

#include <ATen/ATen.h>

#include <vector>

#include "base/log.h"
#include "io/checkpoint.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// Loads `checkpoint`; false, with a warning, when it is damaged or holds what is not finite.
bool load_finite(const fs::path& checkpoint, const ParamLayout& layout, TrainState& state) {
  try {
    verify_checkpoint(checkpoint);
    load_state(checkpoint, layout, state);
  } catch (const Error& e) {
    log::warn(std::string(e.what()) + "; passed over");
    return false;
  }
  if (is_finite(state)) return true;
  log::warn(checkpoint.string() + " holds numbers that are not finite; passed over");
  return false;
}

}  // namespace

std::optional<Diverged> divergence(const TrainState& state, int64_t max_skips) {
  const std::string step = std::to_string(state.step);
  if (!is_finite(state))
    return Diverged("at step " + step +
                    " the weights, their average or the optimizer's moments are not finite");
  const auto in_row = state.tally[Tally::longest_row].item<double>();
  if (max_skips > 0 && in_row >= static_cast<double>(max_skips))
    return Diverged(std::to_string(static_cast<int64_t>(in_row)) +
                    " updates in a row before step " + step +
                    " were skipped for their loss or gradient");
  return std::nullopt;
}

fs::path load_newest_finite(const fs::path& folder, const ParamLayout& layout, TrainState& state) {
  const std::vector<fs::path> all = list_checkpoints(folder);
  for (auto it = all.rbegin(); it != all.rend(); ++it)
    if (load_finite(*it, layout, state)) return *it;
  throw Error(Exit::checkpoint,
              "no checkpoint in " + folder.string() +
                  " can be used: restore one from a copy, or start a new run");
}

void roll_back(TrainState& state,
               const ParamLayout& layout,
               uint64_t seed,
               const fs::path& folder,
               const std::optional<fs::path>& start) {
  const int64_t rollbacks = state.rollbacks + 1, before = state.rolled_back_to;
  const std::vector<fs::path> all = list_checkpoints(folder);
  std::optional<fs::path> found, failed_before, within_row;
  for (auto it = all.rbegin(); it != all.rend() && !found; ++it) {
    if (!load_finite(*it, layout, state)) continue;
    std::optional<fs::path>& kind = state.tally[Tally::skipped_in_row].item<double>() > 0
                                        ? within_row
                                    : state.step == before ? failed_before
                                                           : found;
    if (!kind) kind = *it;
  }
  if (!found) {
    found = failed_before ? failed_before : within_row ? within_row : start;
    if (found)
      load_state(*found, layout, state);
    else
      state.restart(layout.initial(seed));
  }
  // The row is over: what comes is drawn anew.
  for (const Tally::Slot slot : {Tally::skipped_in_row, Tally::longest_row})
    state.tally[slot].zero_();
  set_aside_newer(folder, state.step);
  state.rollbacks = rollbacks;
  state.rolled_back_to = state.step;
}

}  // namespace diffuse
