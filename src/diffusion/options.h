// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"
#include "diffusion/chain.h"
#include "diffusion/loss.h"
#include "diffusion/prediction.h"
#include "diffusion/process.h"
#include "diffusion/schedule.h"
#include "diffusion/time_sampler.h"
#include "diffusion/variance.h"
#include "diffusion/weighting.h"

namespace diffuse {

/// Whether the steps of a chain are trained, or every level of a continuous schedule.
enum class TimeKind { automatic, discrete, continuous };
enum class PathKind { automatic, vp, ve, flow };

/// The objective: config section `diffusion`.
struct DiffusionOptions {
  int64_t steps = 1000;
  Schedule schedule{schedules(), "linear"};
  TimeKind time = TimeKind::automatic;  // as the schedule is
  PathKind path = PathKind::automatic;  // the schedule's own
  double logsnr_shift = 0;
  double input_scale = 1;
  bool zero_terminal_snr = false;
  Prediction target{predictions(), "epsilon"};
  Weighting weighting{weightings(), "simple"};
  WeightOn weight_on = WeightOn::epsilon;
  bool learned_weight = false;
  LossKind loss{loss_kinds(), "mse"};
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

/// The noising process that the options describe. Throws Error{config}.
Process make_process(const DiffusionOptions& options);

/// Its chain.
Chain make_chain(const DiffusionOptions& options);

/// The weight on |F* - F|^2 in all that is minimised, with that of the bound for loss `vlb`; at
/// u = 0 where the weight is learned. For `hybrid` the mean's, which the bound does not train.
double objective_weight(const DiffusionOptions& options,
                        const Process& process,
                        const NoisePoint& point);

/// network_weight() of the options at a level.
double network_weight(const DiffusionOptions& options,
                      const Process& process,
                      const NoisePoint& point);

}  // namespace diffuse
