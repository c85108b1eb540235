// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fields.h"

namespace diffuse {

enum class Decay { constant, cosine, linear };
enum class Precision { fp32, tf32, bf16 };

/// AdamW, learning rate, clipping and EMA: config section `optim`.
struct OptimOptions {
  double lr = 2e-4;
  std::vector<double> betas{0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.0;
  bool decay_norms_and_biases = false;
  double grad_clip = 1.0;  // 0: off
  int64_t warmup_steps = 500;
  Decay decay = Decay::constant;
  double spike_guard = 0;         // standard deviations above the last 128 steps; 0: off
  int64_t max_skips_in_row = 20;  // skipped updates in a row that roll the run back; 0: never
  int64_t max_rollbacks = 3;      // of the whole run; one more ends it
  double ema_decay = 0.9999;
  double ema_power = 0.75;  // warm-up of the EMA: decay_n = min(ema_decay, 1 - n^-power); 0: none
  void fields(Fields& f);
};

/// Config section `train`.
struct TrainOptions {
  int64_t steps = 100'000;
  int64_t batch = 128;                 // the global batch
  std::optional<int64_t> micro_batch;  // none: the whole batch, or what fits
  Precision precision = Precision::fp32;
  std::string device = "auto";  // auto | cpu | cuda | cuda:N
  void fields(Fields& f);
};

/// Config section `runtime`: how fast, not what.
struct RuntimeOptions {
  bool fused = true;
  void fields(Fields& f);
};

/// Config section `validate`.
struct ValidateOptions {
  int64_t every_steps = 0;  // 0: never
  int64_t images = 128;     // of those held out
  int64_t timesteps = 32;   // terms of the bound a picture
  void fields(Fields& f);
};

/// Config section `checkpoint`.
struct CheckpointOptions {
  int64_t every_steps = 5000;
  double every_minutes = 15;  // 0: off
  int64_t keep_last = 3;
  int64_t keep_every_steps = 0;
  bool verify_after_write = true;
  void fields(Fields& f);
};

/// Config section `log`.
struct LogOptions {
  int64_t every_steps = 50;
  bool tensorboard = true;
  bool plots = true;
  void fields(Fields& f);
};

/// Config section `run`.
struct RunOptions {
  std::string name = "run";
  std::string root = "runs";
  int64_t seed = 0;
  std::string notes;
  void fields(Fields& f);
};

}  // namespace diffuse
