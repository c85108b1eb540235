// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/fields.h"
#include "diffusion/options.h"
#include "samplers/sampler.h"

namespace diffuse {

enum class WeightSet { ema, raw };

/// How pictures are drawn, during training (`every_steps`) and by `diffuse sample`: config section
/// `sample`.
struct SampleOptions {
  int64_t every_steps = 5000;       // a grid during training; 0: never
  std::vector<int64_t> grid{8, 8};  // rows, columns
  Sampler sampler{samplers(), "ddpm"};
  std::optional<int64_t> steps;  // none: the full chain
  std::optional<int64_t> batch;  // none: chosen from the image size
  bool clip = true;              // x0_hat to [-1, 1] at every step
  int64_t seed = 42;
  WeightSet weights = WeightSet::ema;
  void fields(Fields& f);
};

/// Steps from noise to a picture: `steps`, or all that the model was trained on.
int64_t sampling_steps(const SampleOptions& options, const DiffusionOptions& diffusion);

}  // namespace diffuse
