// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "config/config.h"
#include "core/model.h"
#include "core/test_images.h"
#include "data/dataset.h"
#include "diffusion/objective.h"
#include "train/state.h"

namespace diffuse {

/// A level of the fixed grid over log SNR, and what is trained nearest to it.
struct ValidationLevel {
  double logsnr = 0;   // of the grid
  int64_t number = 0;  // in the grid: names its noise
  NoisePoint point;
};

/// log SNR -9, -7.5, ..., 9 as far as they are trained. On a chain each is the nearest step, and of
/// several with one step the nearest is kept; in continuous time the levels between the 0.001 and
/// the 0.999 quantile of training.
std::vector<ValidationLevel> validation_levels(const Process& process);

/// Measures a network on held-out pictures with noise and levels that depend on neither the run nor
/// its seed, so that runs can be compared picture by picture. Changes nothing of the training.
class Validator {
 public:
  /// Loads the pictures that `data` holds out; null: the data are points. Throws Error{data}.
  Validator(const Config& config,
            std::filesystem::path folder,
            const Model& network,
            const Objective& objective,
            const Dataset* data);

  /// Writes step-NNNNNNNNN.json into the folder (a failure warns) and returns, in order:
  /// val_loss (the objective's own weighted loss, mean over the levels), val_bits and its parts
  /// val_prior, val_rest and val_decoder (bits/dim, x0_hat clipped), val_rest by log SNR as
  /// val_rest[a,b), and the loss at each level as val_loss[logsnr]. `check` is called between
  /// passes of the network; what it throws comes through, and nothing is written then.
  std::vector<std::pair<std::string, double>> run(const TrainState& state,
                                                  const std::function<void()>& check);

 private:
  struct AtLevel {
    at::Tensor loss, mse_eps;  // [n] float64
  };
  AtLevel at_level(const ValidationLevel& level,
                   const Weights& weights,
                   int64_t batch,
                   const std::function<void()>& check) const;

  const Config& config_;
  std::filesystem::path folder_;
  const Model& network_;
  const Objective& objective_;
  std::vector<ValidationLevel> levels_;
  TestImages images_;
  log::RareWarning warning_;
};

}  // namespace diffuse
