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

}  // namespace diffuse
