// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "data/batches.h"
#include "diffusion/objective.h"
#include "nn/model.h"
#include "train/options.h"
#include "train/state.h"

namespace diffuse {

/// Everything that a step reads and does not change.
struct TrainSetup {
  const Model& network;
  const Objective& objective;
  const TimeDraw& times;
  std::vector<int64_t> image_shape;  // channels, height, width
  OptimOptions optim;
  int64_t steps = 0;        // of the whole run
  int64_t batch = 0;        // global
  int64_t micro_batch = 0;  // at most `batch`; may become less, see train()
  uint64_t seed = 0;
  bool bf16 = false;  // see UNet::forward
  // Kernels of our own for the update, and on a GPU for batch and loss; see also Model.
  bool fused = true;
  // On a GPU a fused step is captured as one CUDA graph, unless its loss needs the bound or a
  // learned weight. Adaptive time samplers read the losses of every step, and so wait for it.
  bool capture = true;
  std::function<void()> captured = nullptr;  // told when it was
  // Sizes that a micro-batch may have, falling: where memory runs out, the next one is tried that
  // is at most likely_micro_batch(), if that is set. Each that is tried leaves programs of oneDNN.
  std::vector<int64_t> micro_batches{};
  std::function<int64_t()> likely_micro_batch = nullptr;
  bool split = false;  // and training goes on with it
  // The whole data set, uint8 [any, height, width, channels], on the device; undefined where a
  // batch brings its own pixels.
  at::Tensor pictures{};
  // Asked before each micro-batch, on a GPU before each step: true drops the step, which leaves the
  // state as it was after the last one, and ends the training. Null: never.
  std::function<bool()> abandon{};
};

/// Periodic work, run after a step when due(step) says so, in the order of the list.
struct Action {
  std::function<bool(int64_t step)> due;
  std::function<void(TrainState&)> run;
};

/// Due at every multiple of `steps`; never when that is 0.
std::function<bool(int64_t)> every(int64_t steps);

/// Trains until state.step == setup.steps, or stop() says so after a step, or setup.abandon()
/// within one; then `batches` is not to be used again (Ho et al. 2020, algorithm 1). What is drawn
/// (pictures, t, noise, dropout) depends on the state, the setup and the data alone, so resuming
/// from a saved state goes on as if nothing had happened. On the CPU, with as many threads, that
/// holds for every bit of the result; on a GPU cuDNN's choice of algorithms and atomic sums may
/// change the last bits from run to run. Returns whether all steps are done.
/// Where memory runs out in a step, it is made again in smaller micro-batches; the batch, and what
/// is drawn, stay. With setup.split that is told, kept in state.micro_batch, and training goes on;
/// else it throws Error{device} with the micro-batch that was found to work, when that step is
/// made, unless it was the last.
bool train(TrainState& state,
           const TrainSetup& setup,
           BatchSource& batches,
           const std::vector<Action>& actions,
           const std::function<bool()>& stop);

}  // namespace diffuse
