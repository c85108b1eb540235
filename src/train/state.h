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
  at::Tensor spikes;   // [SpikeWindow::count] float64; zeros without optim.spike_guard
  at::Tensor rates;    // [2] float64: see set_rates()
  int64_t step = 0;    // optimizer steps done
  int64_t images_seen = 0;
  int64_t logged_step = 0;      // the last log line
  int64_t micro_batch = 0;      // that was found to fit; 0: nothing else was tried
  int64_t rollbacks = 0;        // of the run, see draw_seed()
  int64_t rolled_back_to = -1;  // the step of the last one
  LossHistory history;          // of time_sampler importance; else without bins

  /// That of a new run with these weights; flat, as for the constructor.
  void restart(const at::Tensor& flat);
};

/// Whether the weights, their average and both moments hold neither NaN nor infinity. The only wait
/// for the device is for one value.
bool is_finite(const TrainState& state);

/// The seed of what a step draws (pictures, times, noise, dropout) after so many rollbacks: the
/// run's own before the first. With the same draws, what went wrong once would go wrong again.
uint64_t draw_seed(uint64_t seed, int64_t rollbacks);

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

/// About what such a checkpoint takes on the disk: its tensors, and a little for the rest.
uint64_t checkpoint_bytes(const ParamLayout& layout);

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
