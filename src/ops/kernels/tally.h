// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace diffuse {

/// Sums since the last log line, as one float64 tensor on the device: nothing is read per step.
struct Tally {
  enum Slot : int64_t {
    steps,                 // optimizer steps
    good,                  // of them with finite loss and gradient
    loss,                  // sum over good steps
    loss_raw,              // likewise, unweighted
    grad_norm,             // likewise, before clipping
    longest_row,           // most skipped steps in a row
    window_end,            // what is above is cleared at each log line, what follows is not
    skipped = window_end,  // since the beginning of the run
    skipped_in_row,        // up to now
    ema_initial,           // share of the initial random weights in the EMA
    count,
  };
};

/// The losses and gradient norms of the last finite steps, two rings in one float64 tensor on the
/// device. An update is skipped when either is more than `spike_z` standard deviations above its
/// ring's mean, as in llm.c (llmc/outlier_detector.h; z-scores over 128 steps). Unlike there the
/// step itself is not yet in the ring, so that a z-score has no ceiling, and what is farther out
/// than kFarthest deviations enters it as if it were there: a spike does not hide the next, and a
/// lasting change of whatever size is the norm after some ten steps.
struct SpikeWindow {
  static constexpr int64_t kLength = 128;
  static constexpr double kFarthest = 24;
  enum Slot : int64_t {
    seen,    // finite steps so far; nothing is judged before the rings are full
    spikes,  // of them skipped
    losses,
    norms = losses + kLength,
    count = norms + kLength,
  };
};

}  // namespace diffuse
