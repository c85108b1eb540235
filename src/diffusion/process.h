// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "diffusion/chain.h"
#include "diffusion/path.h"
#include "diffusion/schedule.h"

namespace diffuse {

/// A noise level that is trained.
struct NoisePoint {
  Level level;
  int64_t t = -1;    // index in the chain; -1: time is continuous
  double slope = 0;  // d log SNR / du where time is continuous
};

/// The noising process of an objective: which levels are trained and with which density, and the
/// chain that sampling and the bound go through. With discrete time the chain's levels are trained,
/// each as often; with continuous time those of the schedule's own density.
class Process {
 public:
  struct Options {
    int64_t steps = 1000;  // T
    Path path = Path::vp;
    double logsnr_shift = 0;  // added to every log SNR
    bool continuous = false;  // needs a continuous schedule
  };
  /// Throws Error{config}.
  Process(const Noising& noising, const Options& options);

  const Chain& chain() const { return chain_; }
  bool continuous() const { return options_.continuous; }
  /// Whether the schedule is continuous, also where a chain of it is trained.
  bool has_continuous_schedule() const { return schedule_.has_value(); }
  Path path() const { return options_.path; }

  /// The level of u in [0, 1), which is uniform in training, from clean to noisy.
  NoisePoint at(double u) const;

  /// The u of continuous time at which this log SNR is trained, to 1e-15 of its range.
  double u_of(double logsnr) const;

  /// Any level between the chain's ends, for the flow from data to noise; on a discrete chain the
  /// network's time is interpolated between two steps. Its `mean_x0` is NaN. Finite log SNR.
  Level level_at(double logsnr) const;

  /// The range [0, 1) of u in equal bins: the steps of a chain, or 256 where time is continuous.
  int64_t bins() const;
  /// log SNR at the bins' ends, falling; [bins() + 1]. Of a chain: halfway between its steps, and
  /// infinite at the ends.
  std::vector<double> bin_edges() const;

 private:
  Level continuous_level(double logsnr) const;

  Options options_;
  std::optional<ContinuousSchedule> schedule_;
  Chain chain_;
};

}  // namespace diffuse
