// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/memory_plan.h"
#include "data/image.h"
#include "diffusion/denoiser.h"
#include "nn/model.h"
#include "ops/out_of_memory.h"
#include "samplers/sampler.h"
#include "train/state.h"

namespace diffuse {

/// The network that a config describes. `num_classes` 0: unconditional.
Model make_network(const Config& config, int64_t num_classes);

/// The config that a checkpoint was written with. Throws Error{checkpoint}.
Config saved_config(const CheckpointInfo& info, const std::filesystem::path& checkpoint);

/// Whether to compute in bfloat16: the config's wish where the device has the instructions, else
/// float32 with a message. Also sets TF32 as asked.
bool set_precision(Precision precision, at::Device device);

/// Pictures that training sends through the network at once on this device where memory is no
/// concern: what the config says, else the whole batch, of which a CPU takes as many as it is done
/// with in seconds.
int64_t usual_micro_batch(const Config& config, at::Device device, int64_t classes);

/// How pictures or points are drawn. Picture i depends on (seed, i) alone.
struct DrawRequest {
  SampleOptions options;
  const DiffusionOptions* diffusion = nullptr;
  std::vector<int64_t> image_shape;  // channels, height, width
  int64_t count = 0;
  std::vector<int64_t> labels;  // one a picture; empty: unconditional
  bool bf16 = false;
  int64_t trajectory = 0;  // states along the chain to keep of every picture, at most its steps
  std::function<void(int64_t done, int64_t total)> progress;  // network evaluations, in pictures
  std::function<bool()> cancelled;                            // checked after every step
};

struct Drawing {
  std::vector<Image> images;
  std::vector<std::vector<Image>> x_t;    // [count][trajectory]
  std::vector<std::vector<Image>> x_hat;  // likewise
};

/// Empty when cancelled.
std::optional<Drawing> draw(const Model& network,
                            const Weights& weights,
                            const DrawRequest& request);

/// What draw_batches() hands on: `n` of what is drawn, [n, channels, height, width] each.
struct DrawnBatch {
  at::Tensor x;
  std::vector<at::Tensor> x_t, x_hat;  // [trajectory]: after the steps that kept_steps() names
};

/// What draw() is made of: hands on batch by batch, each tensor as `convert` made it from one on
/// the device. False when cancelled.
bool draw_batches(const Model& network,
                  const Weights& weights,
                  const DrawRequest& request,
                  const std::function<at::Tensor(const at::Tensor&)>& convert,
                  const std::function<void(DrawnBatch)>& use);

/// The steps that a drawing goes through.
std::vector<SamplerStep> sampler_steps(const SampleOptions& options,
                                       const DiffusionOptions& diffusion);
/// `kept` of `steps` steps, evenly spaced, the last always included.
std::vector<int64_t> kept_steps(int64_t steps, int64_t kept);

/// Pictures that are on the device at once.
int64_t draw_batch(const DrawRequest& request);

/// What a picture's text chunk "diffuse" says, as JSON: how it was made.
struct DrawingRecord {
  std::string checkpoint;  // its hash; empty: drawn during training
  int64_t step = 0;
  int64_t first = 0;  // pictures first .. first + count - 1 of the seed
  int64_t count = 0;
  std::string label;  // the class, or empty
};
std::string describe_drawing(const Config& config, const DrawingRecord& record);

/// Runs `f`; an allocation that fails in it becomes Error{device} with the remedy.
template <class F>
auto with_memory_advice(const std::string& remedy, F f) {
  try {
    return f();
  } catch (const std::exception& e) {
    const std::optional<std::string> what = out_of_memory(e);
    if (!what) throw;
    throw Error(Exit::device, "out of memory: " + *what + "; " + remedy);
  }
}

/// The network with these weights, in float32 without dropout, for pictures of these classes
/// (undefined: none).
Network bind_network(const Model& network, Weights weights, at::Tensor labels);

/// The averaged or raw weights of a run, and those of a checkpoint, on `device`.
Weights weights_of(const TrainState& state, const Model& network, WeightSet set);
Weights load_weights_of(const std::filesystem::path& checkpoint,
                        const Model& network,
                        WeightSet set,
                        at::Device device);

/// Bytes or text; `what` names it. Throws Error{write}; a reader that has gone (head) is no error.
template <class Content>
void write_to_stdout(const Content& content, const std::string& what) {
  errno = 0;
  const bool written = std::fwrite(content.data(), 1, content.size(), stdout) == content.size();
  if ((written && std::fflush(stdout) == 0) || errno == EPIPE) return;
  throw Error(Exit::write, "cannot write " + what + " to stdout: " + std::strerror(errno));
}

/// count labels: classes in turn.
std::vector<int64_t> labels_in_turn(int64_t count, int64_t num_classes);

}  // namespace diffuse
