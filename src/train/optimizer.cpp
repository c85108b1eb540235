// SPDX-License-Identifier: MIT
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/adamw.h"
#include "train/lr.h"

namespace diffuse {
namespace {

void add_to_tally(TrainState& state,
                  const at::Tensor& bad,
                  const at::Tensor& loss,
                  const at::Tensor& loss_raw,
                  const at::Tensor& norm,
                  double decay) {
  const at::Tensor ok = at::rsub(bad, 1.0).to(at::kDouble);
  // where() rather than a product: 0 * NaN is NaN.
  const auto kept = [&](const at::Tensor& value) {
    return at::where(ok > 0, value.to(at::kDouble), at::zeros_like(ok));
  };
  const at::Tensor tally = state.tally;
  tally[Tally::steps].add_(1);
  tally[Tally::good].add_(ok);
  tally[Tally::loss].add_(kept(loss));
  tally[Tally::loss_raw].add_(kept(loss_raw));
  tally[Tally::grad_norm].add_(kept(norm));
  tally[Tally::skipped].add_(bad);
  tally[Tally::skipped_in_row].add_(1).mul_(bad);
  const at::Tensor longest = tally[Tally::longest_row];
  longest.copy_(at::maximum(longest, tally[Tally::skipped_in_row]));
  tally[Tally::ema_initial].mul_(at::rsub(at::mul(ok, 1 - decay), 1.0));
}

/// Moves state.spikes on by one step; whether it is a spike: 0-dim, of `bad`'s type, which is 1 for
/// a step that is not finite. Such a one leaves no trace.
at::Tensor spike_of(TrainState& state,
                    double z,
                    const at::Tensor& bad,
                    const at::Tensor& loss,
                    const at::Tensor& norm) {
  constexpr int64_t length = SpikeWindow::kLength;
  const at::Tensor seen = state.spikes[SpikeWindow::seen];
  const at::Tensor rings =
      state.spikes.narrow(0, SpikeWindow::losses, 2 * length).view({2, length});
  const at::Tensor mean = rings.mean(1, /*keepdim=*/true);
  const at::Tensor variance = (rings - mean).square().mean(1, /*keepdim=*/true);
  const at::Tensor deviation = variance.sqrt();
  const at::Tensor value = at::stack({loss, norm}).to(at::kDouble).unsqueeze(1);
  const at::Tensor judged = at::logical_and(seen >= length, variance > 0);
  const at::Tensor high = at::logical_and(judged, value > mean + z * deviation);
  const at::Tensor farthest = mean + std::max(z, SpikeWindow::kFarthest) * deviation;
  const at::Tensor entry = at::where(judged, at::minimum(value, farthest), value);
  const at::Tensor place = at::remainder(seen, length).to(at::kLong).view({1});
  rings.index_copy_(1, place, at::where(bad > 0, rings.index_select(1, place), entry));
  seen.add_(at::rsub(bad, 1.0));
  const at::Tensor spike = at::logical_and(high.any(), bad == 0).to(bad.scalar_type());
  state.spikes[SpikeWindow::spikes].add_(spike);
  return spike;
}

/// The part of the flat buffers that one call of AdamW updates.
struct Part {
  int64_t begin, end;
  double weight_decay;
};

std::vector<Part> parts(const ParamLayout& layout, const OptimOptions& options) {
  const int64_t size = layout.flat_size(), decayed = layout.decay_end();
  if (options.decay_norms_and_biases || options.weight_decay == 0)
    return {{0, size, options.weight_decay}};
  return {{0, decayed, options.weight_decay}, {decayed, size, 0}};
}

/// The composed body.
void update_composed(TrainState& state,
                     const ParamLayout& layout,
                     const OptimOptions& options,
                     int64_t steps,
                     const at::Tensor& loss,
                     const at::Tensor& loss_raw) {
  const at::Tensor& grad = state.params.grad();
  const at::Tensor norm = at::linalg_vector_norm(grad);
  at::Tensor bad =
      at::logical_not(at::logical_and(at::isfinite(norm), at::isfinite(loss))).to(at::kFloat);
  if (options.spike_guard > 0)
    bad = at::add(bad, spike_of(state, options.spike_guard, bad, loss, norm));
  // Pascanu et al. 2013, algorithm 1: a gradient longer than `clip` is scaled down to that norm.
  // _fused_adamw_ divides the gradient by grad_scale, here max(norm / clip, 1).
  const c10::optional<at::Tensor> scale =
      options.grad_clip > 0
          ? c10::optional<at::Tensor>(at::clamp_min(norm / options.grad_clip, 1.0))
          : c10::nullopt;

  state.updates.add_(at::rsub(bad, 1.0));  // bias correction counts updates, not steps
  const double lr = learning_rate(options, state.step, steps);
  const auto adamw = [&](int64_t begin, int64_t end, double weight_decay) {
    if (begin == end) return;
    const auto part = [&](const at::Tensor& flat) {
      return std::vector<at::Tensor>{flat.narrow(0, begin, end - begin)};
    };
    // Loshchilov & Hutter 2019, algorithm 2, whose decay is lr * weight_decay here; without decay
    // it is Adam (Kingma & Ba 2015, algorithm 1).
    at::_fused_adamw_(part(state.params.flat()),
                      part(grad),
                      part(state.exp_avg),
                      part(state.exp_avg_sq),
                      {},
                      {state.updates},
                      lr,
                      options.betas[0],
                      options.betas[1],
                      weight_decay,
                      options.eps,
                      /*amsgrad=*/false,
                      /*maximize=*/false,
                      scale,
                      bad);
  };
  for (const Part& part : parts(layout, options)) adamw(part.begin, part.end, part.weight_decay);

  const double decay = ema_decay(options, state.step + 1);
  // ema <- decay ema + (1 - decay) theta (Ho et al. 2020, appendix B); unchanged when the update
  // was skipped.
  state.ema.lerp_(state.params.flat(), at::mul(at::rsub(bad, 1.0), 1 - decay));
  if (state.params.half().defined()) state.params.half().copy_(state.params.flat());
  add_to_tally(state, bad, loss, loss_raw, norm, decay);
}

/// The same on the CPU: one pass for the norm, one for the rest.
void update_fused(TrainState& state,
                  const ParamLayout& layout,
                  const OptimOptions& options,
                  int64_t steps,
                  const at::Tensor& loss,
                  const at::Tensor& loss_raw) {
  // In float32 like the composed body's, so that a norm beyond its range counts as infinite.
  const auto norm = static_cast<float>(norm_of(state.params.grad()));
  bool good = std::isfinite(norm) && std::isfinite(loss.item<float>());
  if (options.spike_guard > 0) {
    const auto scalar = [](double value) { return at::full({}, value, at::kFloat); };
    const at::Tensor spike =
        spike_of(state, options.spike_guard, scalar(good ? 0 : 1), loss, scalar(norm));
    good = good && spike.item<float>() == 0;
  }
  const double decay = ema_decay(options, state.step + 1);
  if (good) {
    state.updates.add_(1);
    // Pascanu et al. 2013, algorithm 1.
    const double clip = options.grad_clip > 0 ? std::max(norm / options.grad_clip, 1.0) : 1.0;
    for (const Part& part : parts(layout, options)) {
      const auto of = [&](const at::Tensor& flat) {
        return flat.defined() ? flat.narrow(0, part.begin, part.end - part.begin) : flat;
      };
      adamw_ema({.lr = learning_rate(options, state.step, steps),
                 .beta1 = options.betas[0],
                 .beta2 = options.betas[1],
                 .eps = options.eps,
                 .weight_decay = part.weight_decay,
                 .updates = state.updates.item<float>(),
                 .grad_scale = 1 / clip,
                 .ema_decay = decay},
                of(state.params.grad()),
                of(state.params.flat()),
                of(state.exp_avg),
                of(state.exp_avg_sq),
                of(state.ema),
                of(state.params.half()));
    }
  }
  add_to_tally(state,
               at::full({}, good ? 0.0 : 1.0, at::kFloat),
               loss,
               loss_raw,
               at::full({}, norm, at::kFloat),
               decay);
}

/// The same on a GPU.
void update_on_gpu(TrainState& state,
                   const ParamLayout& layout,
                   const OptimOptions& options,
                   const at::Tensor& loss,
                   const at::Tensor& loss_raw) {
  diffuse::update_on_gpu(
      {.beta1 = options.betas[0],
       .beta2 = options.betas[1],
       .eps = options.eps,
       .weight_decay = options.weight_decay,
       .decay_end = options.decay_norms_and_biases ? layout.flat_size() : layout.decay_end(),
       .clip = options.grad_clip,
       .spike_z = options.spike_guard,
       .grad = state.params.grad(),
       .weight = state.params.flat(),
       .exp_avg = state.exp_avg,
       .exp_avg_sq = state.exp_avg_sq,
       .ema = state.ema,
       .half = state.params.half(),
       .rates = state.rates,
       .loss = loss,
       .loss_raw = loss_raw,
       .updates = state.updates,
       .tally = state.tally,
       .spikes = state.spikes});
}

}  // namespace

void set_rates(TrainState& state, const OptimOptions& options, int64_t steps) {
  at::Tensor rates = at::tensor(
      {learning_rate(options, state.step, steps), ema_decay(options, state.step + 1)}, at::kDouble);
  // From pinned memory the copy does not wait for the work that is queued.
  if (state.rates.is_cuda()) rates = rates.pin_memory();
  state.rates.copy_(rates, /*non_blocking=*/true);
}

void update(TrainState& state,
            const ParamLayout& layout,
            const OptimOptions& options,
            int64_t steps,
            const at::Tensor& loss,
            const at::Tensor& loss_raw,
            bool fused) {
  const at::NoGradGuard no_grad;
  if (fused && state.params.flat().is_cuda()) {
    update_on_gpu(state, layout, options, loss, loss_raw);
    return;
  }
  if (fused)
    update_fused(state, layout, options, steps, loss, loss_raw);
  else
    update_composed(state, layout, options, steps, loss, loss_raw);
}

}  // namespace diffuse
