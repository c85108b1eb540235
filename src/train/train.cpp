// SPDX-License-Identifier: MIT
#include "train/train.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/log.h"
#include "ops/batch.h"
#include "ops/cuda.h"
#include "ops/noise.h"
#include "ops/out_of_memory.h"
#include "train/optimizer.h"

namespace diffuse {
namespace {

/// Steps before one is captured: cuDNN tries its algorithms and LibTorch makes its handles in them.
constexpr int kEagerSteps = 3;

/// Steps that the host may be ahead of the GPU: enough that the GPU never waits, few enough that a
/// stop is heeded at once and batches do not pile up.
constexpr size_t kStepsAhead = 2;

/// A view of `values`.
template <class T>
at::Tensor view_of(const std::vector<T>& values, std::vector<int64_t> sizes, at::ScalarType type) {
  return at::from_blob(const_cast<T*>(values.data()), sizes, type);
}

/// A result with a gradient, of a graph older than any that is made from now on.
at::Tensor oldest_graph() {
  const at::AutoGradMode with_gradients(true);
  return at::ones({}).set_requires_grad(true) * 1;
}

/// A training step. All that changes from one to the next is in tensors that take() writes and that
/// stay where they are, so that what computes from them can be captured once as a CUDA graph.
class Step {
 public:
  Step(TrainState& state, const TrainSetup& setup)
      : state_(state),
        setup_(setup),
        device_(state.params.flat().device()),
        micro_batch_(setup.micro_batch),
        on_gpu_(device_.is_cuda() && setup.fused) {
    // The bfloat16 weights are made once a step, not by each pass over the network.
    if (setup.fused && setup.bf16) state.params.keep_half(setup.network.layout());
  }

  /// The batch of step state.step.
  void take(const Batch& batch, const std::vector<Time>& times) {
    times_ = &times;
    const int64_t n = setup_.batch;
    std::vector<int64_t> shape = setup_.image_shape;
    shape.insert(shape.begin(), n);
    if (setup_.pictures.defined()) {
      assign(indices_, view_of(batch.indices, {n}, at::kLong));
      assign(flips_, view_of(batch.flips, {n}, at::kByte));
    } else if (batch.values.empty()) {
      assign(pixels_, view_of(batch.pixels, shape, at::kByte));
    } else {
      assign(values_, view_of(batch.values, shape, at::kFloat));
    }
    if (setup_.network.num_classes() > 0) assign(labels_, view_of(batch.labels, {n}, at::kLong));
    if (!setup_.objective.has_bound()) assign(numbers_, setup_.objective.numbers(times.data(), n));
    if (on_gpu_) {
      assign(step_, at::full({1}, state_.step, at::kLong));
      set_rates(state_, setup_.optim, setup_.steps);
    }
  }

  /// Gradient and update, in smaller micro-batches where memory runs out. False: the step was
  /// abandoned, and nothing has changed.
  bool run() {
    std::string why;
    bool done = false;
    for (;;) {
      try {
        done = run_as_is();
        break;
      } catch (const std::exception& e) {
        const std::optional<std::string> what = out_of_memory(e);
        // An update that has begun cannot be made again.
        if (!what || updating_ || setup_.micro_batches.empty()) throw;
        if (why.empty()) why = *what;
        shrink(why);
      }
    }
    if (!why.empty() && done) split_ = why;
    return done;
  }

  /// Tells of a step that had to be made in smaller micro-batches, once it is counted.
  void tell_of_split() {
    if (split_.empty()) return;
    const std::string why = std::exchange(split_, "");
    const std::string n = std::to_string(micro_batch_);
    if (!setup_.split && state_.step < setup_.steps)
      throw Error(Exit::device,
                  "out of memory: " + why + ", for a micro-batch of " +
                      std::to_string(setup_.micro_batch) +
                      "; the same training fits in smaller ones: "
                      "--set train.micro_batch=" +
                      n);
    log::warn("out of memory: " + why + "; going on with " + n +
              " pictures at once (train.micro_batch), the batch stays " +
              std::to_string(setup_.batch));
    if (setup_.split) state_.micro_batch = micro_batch_;
  }

  /// The weighted loss of each sample, [batch]; only for an adaptive time sampler.
  const at::Tensor& losses() const { return losses_; }

 private:
  void shrink(const std::string& why) {
    // A backward that threw leaves its tasks, with the maps of that step, in this thread's queue.
    // They go when a task is awaited that is older.
    oldest_.backward({}, /*retain_graph=*/true);
    graph_.reset();  // it is of the former size
    eager_steps_ = 0;
    const int64_t most = setup_.likely_micro_batch
                             ? std::max<int64_t>(setup_.likely_micro_batch(), 1)
                             : micro_batch_;
    for (const int64_t n : setup_.micro_batches) {
      if (n >= micro_batch_ || n > most) continue;
      micro_batch_ = n;
      return;
    }
    // What is left of larger ones, oneDNN's programs above all, may be what is missing.
    throw Error(Exit::device,
                "out of memory: " + why + "; not even a micro-batch of " +
                    std::to_string(micro_batch_) + " fits" +
                    (setup_.micro_batch > micro_batch_
                         ? " after the larger ones: begin with --set train.micro_batch=" +
                               std::to_string(micro_batch_) + ", or"
                         : ":") +
                    " use a smaller network or data.size");
  }

  /// False: abandoned.
  bool run_as_is() {
    if (abandoned()) return false;
    if (!graph_ && can_be_captured() && eager_steps_++ >= kEagerSteps) capture();
    if (graph_)
      graph_->replay();
    else if (!compute())
      return false;
    if (on_gpu_) bound_queue();
    return true;
  }

  /// Copies a tensor of the host to one that is made on the first call and keeps its place.
  void assign(at::Tensor& to, at::Tensor from) const {
    if (!to.defined()) to = at::empty_like(from, from.options().device(device_));
    // From pinned memory a copy to the GPU does not wait for the work that is queued there.
    if (device_.is_cuda()) from = from.pin_memory();
    to.copy_(from, /*non_blocking=*/true);
  }

  bool abandoned() const { return setup_.abandon && setup_.abandon(); }

  /// Whether compute() works on pictures, and reads nothing from the host: neither the bound's
  /// numbers nor the features of a learned weight.
  bool can_be_captured() const {
    return on_gpu_ && setup_.capture && !failed_ && !values_.defined() &&
           !setup_.objective.has_bound() && !setup_.network.has_level_weight();
  }

  void capture() {
    try {
      graph_ = cuda_ops(state_.params.flat()).capture(device_, [this] { compute(); });
      if (setup_.captured) setup_.captured();
    } catch (const std::exception& e) {
      failed_ = true;
      const std::string why = e.what();
      log::warn("the step cannot be captured as a CUDA graph, so it is slower: " +
                why.substr(0, why.find('\n')));
    }
  }

  void bound_queue() {
    const CudaOps& ops = cuda_ops(state_.params.flat());
    if (queued_.size() == kStepsAhead) {
      queued_.front()();
      queued_.pop_front();
    }
    queued_.push_back(ops.mark(device_));
  }

  /// Rows [first, first + n) of the batch, and what the network is fed of them.
  NoisyBatch rows(int64_t first,
                  int64_t n,
                  const Objective::Rows& levels,
                  const StepKey& key) const {
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, first, n); };
    const PictureBytes bytes =
        setup_.pictures.defined()
            ? PictureBytes{.pixels = setup_.pictures,
                           .indices = part(indices_),
                           .flips = part(flips_)}
            : PictureBytes{.pixels = pixels_.defined() ? part(pixels_) : at::Tensor(),
                           .indices = {},
                           .flips = {}};
    if (on_gpu_ && bytes.pixels.defined())
      return noisy_batch(
          bytes, levels.input_x0, levels.input_eps, Purpose::noise, key, setup_.bf16);
    return composed_noisy_batch(bytes.pixels.defined() ? pictures_of(bytes) : part(values_),
                                levels.input_x0,
                                levels.input_eps,
                                Purpose::noise,
                                key);
  }

  /// False: abandoned.
  bool compute() {
    updating_ = false;
    const Model& network = setup_.network;
    Params& params = state_.params;
    const bool rounded = params.half().defined();
    if (!rounded) params.grad().zero_();
    const bool adaptive = state_.history.bins() > 0;
    if (adaptive && !losses_.defined())
      losses_ = at::empty({setup_.batch}, at::TensorOptions(device_).dtype(at::kFloat));
    at::Tensor loss, loss_raw;  // 0-dim, of the global batch
    for (int64_t first = 0; first < setup_.batch; first += micro_batch_) {
      // A stop does not wait for many of them; those of a GPU are queued, not computed here.
      if (first > 0 && !on_gpu_ && abandoned()) return false;
      const int64_t n = std::min(micro_batch_, setup_.batch - first);
      const Objective::Rows levels = setup_.objective.has_bound()
                                         ? setup_.objective.rows(times_->data() + first, n)
                                         : Objective::rows_in(numbers_.narrow(1, first, n));
      const StepKey key{.seed = setup_.seed,
                        .step = static_cast<uint64_t>(state_.step),
                        .first_sample = first,
                        .step_there = step_.defined() ? step_.const_data_ptr<int64_t>() : nullptr};
      const Weights weights = rounded ? params.rounded(first == 0) : params.weights();
      // Ho et al. 2020, algorithm 1: x0 ~ q, t, eps ~ N(0, I), gradient step on |F* - F(z_t, t)|^2.
      const NoisyBatch drawn = rows(first, n, levels, key);
      const at::Tensor labels = labels_.defined() ? labels_.narrow(0, first, n) : labels_;
      const at::Tensor output =
          network.forward(weights, drawn.input, levels.time, labels, &key, setup_.bf16);
      const Objective::Loss part =
          setup_.objective.loss(output, drawn.x0, drawn.eps, levels, setup_.fused);
      at::Tensor weighted = part.weighted;
      if (network.has_level_weight()) {  // exp(-u) of the error + u: Karras et al. 2024
        const at::Tensor u = network.level_weight(weights, levels.logsnr);
        weighted = at::add(at::mul(part.error, at::exp(at::neg(u))), u);
        if (part.weighted_bound.defined()) weighted = at::add(weighted, part.weighted_bound);
      }
      if (adaptive) losses_.narrow(0, first, n).copy_(weighted.detach());
      // Times that are drawn more often than their share in the objective count less.
      const auto share_of = [&](const at::Tensor& losses) {
        return at::mul(losses, levels.share).sum() / static_cast<double>(setup_.batch);
      };
      const at::Tensor share = share_of(weighted), raw_share = share_of(part.raw);
      share.backward();
      loss = loss.defined() ? loss + share.detach() : share.detach();
      loss_raw = loss_raw.defined() ? loss_raw + raw_share : raw_share;
    }
    updating_ = true;
    update(state_, network.layout(), setup_.optim, setup_.steps, loss, loss_raw, setup_.fused);
    updating_ = false;
    return true;
  }

  TrainState& state_;
  const TrainSetup& setup_;
  at::Device device_;
  int64_t micro_batch_;
  bool updating_ = false;
  std::string split_;  // why the last step was made in smaller micro-batches
  bool on_gpu_;        // with the kernels, which read what changes from the device
  const std::vector<Time>* times_ = nullptr;
  at::Tensor pixels_, indices_, flips_, values_, labels_;  // [batch, ...]
  at::Tensor numbers_;                                     // Objective::numbers()
  at::Tensor step_;                                        // [1] int64
  at::Tensor losses_;
  at::Tensor oldest_ = oldest_graph();
  int eager_steps_ = 0;
  bool failed_ = false;
  std::unique_ptr<CapturedWork> graph_;
  std::deque<std::function<void()>> queued_;  // each waits for a step's end
};

}  // namespace

std::function<bool(int64_t)> every(int64_t steps) {
  return [steps](int64_t step) { return steps > 0 && step % steps == 0; };
}

bool train(TrainState& state,
           const TrainSetup& setup,
           BatchSource& batches,
           const std::vector<Action>& actions,
           const std::function<bool()>& stop) {
  const auto loop = [&] {
    Step step(state, setup);
    while (state.step < setup.steps) {
      const Batch batch = batches.next();
      const bool adaptive = state.history.bins() > 0;
      const std::vector<Time> times = setup.times(
          TimeQuery{
              .seed = setup.seed, .step = static_cast<uint64_t>(state.step), .batch = setup.batch},
          adaptive ? &state.history : nullptr);
      step.take(batch, times);
      if (!step.run()) break;
      if (adaptive) {
        const at::Tensor all = step.losses().to(at::kDouble).cpu();
        for (int64_t i = 0; i < setup.batch; ++i)
          state.history.add(times[static_cast<size_t>(i)].bin, all.const_data_ptr<double>()[i]);
      }
      ++state.step;
      state.images_seen += setup.batch;
      step.tell_of_split();

      for (const Action& action : actions)
        if (action.due(state.step)) action.run(state);
      if (stop()) break;
    }
  };
  const at::Tensor& flat = state.params.flat();
  if (flat.is_cuda())
    cuda_ops(flat).on_own_stream(flat.device(), loop);
  else
    loop();
  return state.step >= setup.steps;
}

}  // namespace diffuse
