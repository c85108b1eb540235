// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"
#include "diffusion/chain.h"
#include "diffusion/prediction.h"
#include "diffusion/schedule.h"
#include "diffusion/time_sampler.h"
#include "diffusion/variance.h"
#include "diffusion/weighting.h"

namespace diffuse {

/// The objective: config section `diffusion`.
struct DiffusionOptions {
  int64_t steps = 1000;
  Schedule schedule{schedules(), "linear"};
  bool zero_terminal_snr = false;
  Prediction target{predictions(), "epsilon"};
  Weighting weighting{weightings(), "simple"};
  WeightOn weight_on = WeightOn::epsilon;
  Variance variance{variances(), "fixed_small"};
  TimeSampler time_sampler{time_samplers(), "uniform"};
  void fields(Fields& f);
};

struct Finding {
  bool error = false;     // false: a warning
  std::string key;        // the config key to change, e.g. "target" (relative to `diffusion`)
  std::string message;    // reason and remedy
  const char* code = "";  // a short name to search for, e.g. "terminal-snr"; empty: none
};

/// Combinations that cannot work (errors) or that surprise (warnings), with reasons.
std::vector<Finding> check(const DiffusionOptions& options);

/// The chain that the options describe. Throws Error{config}.
Chain make_chain(const DiffusionOptions& options);

}  // namespace diffuse
