// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "diffusion/time_sampler.h"
#include "io/checkpoint.h"
#include "nn/params.h"
#include "ops/adamw.h"

namespace diffuse {

/// All that a checkpoint saves, and all that training changes.
struct TrainState {
  TrainState(const ParamLayout& layout, at::Tensor flat);

  Params params;       // weights and gradient
  at::Tensor ema;      // flat, layout of the weights, as the two below
  at::Tensor exp_avg;  // AdamW's first moment
  at::Tensor exp_avg_sq;
  at::Tensor updates;  // [1] float32: updates made, i.e. steps less skipped ones
  at::Tensor tally;    // [Tally::count] float64
  at::Tensor rates;    // [2] float64: see set_rates()
  int64_t step = 0;    // optimizer steps done
  int64_t images_seen = 0;
  int64_t logged_step = 0;  // the last log line
  LossHistory history;      // of time_sampler importance; else without bins
};

/// Names in a checkpoint of the files behind schedule `table` and weighting `table`.
inline constexpr const char* kScheduleFile = "schedule.txt";
inline constexpr const char* kWeightingFile = "weighting.txt";

/// What the state does not hold but a checkpoint must, to stand alone.
struct CheckpointInfo {
  int64_t step = 0;    // set by load_info
  std::string config;  // resolved, as YAML
  uint64_t seed = 0;
  int64_t num_classes = 0;  // 0: unconditional
  std::vector<std::string> class_names;
  int64_t images = 0;  // size and fingerprint of the data set
  uint64_t fingerprint = 0;
  // Content of the files that `config` names, under the names that it has for them.
  std::map<std::string, std::string> files;
};

/// Writes checkpoint `state.step` under `folder` (io/checkpoint.h). Throws Error{write}.
std::filesystem::path save_state(const std::filesystem::path& folder,
                                 const TrainState& state,
                                 const ParamLayout& layout,
                                 const CheckpointInfo& info,
                                 bool verify_after_write);

/// The info of a checkpoint. Throws Error{checkpoint}.
CheckpointInfo load_info(const std::filesystem::path& checkpoint);

/// Restores everything that save_state wrote, bit for bit. Throws Error{checkpoint} when the
/// tensors are not those of `layout`.
void load_state(const std::filesystem::path& checkpoint,
                const ParamLayout& layout,
                TrainState& state);

/// A flat float32 CPU buffer from "model.safetensors" (raw weights) or "ema.safetensors".
at::Tensor load_weights(const std::filesystem::path& file, const ParamLayout& layout);

}  // namespace diffuse
