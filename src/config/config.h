// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fields.h"
#include "data/options.h"
#include "diffusion/options.h"
#include "nn/mlp_options.h"
#include "nn/unet_options.h"
#include "samplers/options.h"
#include "train/options.h"

namespace diffuse {

/// Everything that a run is made from. Each section is the options struct of the part that uses it.
struct Config {
  int64_t version = 1;
  RunOptions run;
  DataOptions data;
  UNetOptions model;  // the network of pictures
  MlpOptions mlp;     // of points
  DiffusionOptions diffusion;
  OptimOptions optim;
  TrainOptions train;
  RuntimeOptions runtime;
  ValidateOptions validate;
  CheckpointOptions checkpoint;
  SampleOptions sample;
  LogOptions log;
  void fields(Fields& f);
};

/// Rules that concern more than one value, with the full key of the one to change: combinations of
/// the objective, sizes that the network cannot take, a micro-batch larger than the batch, ...
std::vector<Finding> check(const Config& config);

}  // namespace diffuse
