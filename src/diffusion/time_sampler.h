// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/choice.h"

namespace diffuse {

/// The timesteps of one optimizer step, of which a process may need only a part.
struct TimeQuery {
  uint64_t seed = 0;
  uint64_t step = 0;
  int64_t batch = 1;  // the global batch
  int64_t steps = 1;  // T
};

/// All timesteps of the global batch, in 0..T-1, each uniform over them: the order of samples, not
/// of t.
using TimeSampler = Choice<std::vector<int64_t>(const TimeQuery&)>;

/// uniform, stratified.
const TimeSampler::Table& time_samplers();

}  // namespace diffuse
