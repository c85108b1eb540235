// SPDX-License-Identifier: MIT
#include "train/train.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "ops/noise.h"
#include "train/optimizer.h"

namespace diffuse {
namespace {

/// Rows [first, first + n) of the global batch on the device.
struct Rows {
  at::Tensor x0;      // [n, channels, height, width] in [-1, 1]
  at::Tensor labels;  // [n] int64, undefined without classes
  at::Tensor eps;     // like x0
};

Rows draw_rows(
    const TrainSetup& setup, const Batch& batch, int64_t first, int64_t n, at::Device device) {
  const auto whole = [&](const auto& values, at::ScalarType type) {
    // from_blob does not copy; narrow() and to() below do, before the vectors die.
    return at::from_blob(const_cast<void*>(static_cast<const void*>(values.data())),
                         {static_cast<int64_t>(values.size())},
                         type);
  };
  // From pinned memory a copy to the GPU does not wait for the work that is queued there.
  const auto to_device = [&](const at::Tensor& host) {
    return device.is_cuda()
               ? host.pin_memory().to(device, host.scalar_type(), /*non_blocking=*/true)
               : host;
  };
  const std::vector<int64_t>& image_shape = setup.image_shape;
  const int64_t values = image_shape[0] * image_shape[1] * image_shape[2];
  Rows rows;
  const auto part = [&](const at::Tensor& all) {
    return all.narrow(0, first * values, n * values)
        .view({n, image_shape[0], image_shape[1], image_shape[2]});
  };
  rows.x0 = batch.values.empty() ? to_device(part(whole(batch.pixels, at::kByte)))
                                       .to(at::kFloat)
                                       .div_(127.5)
                                       .sub_(1)  // 0..255 -> [-1, 1]
                                 : to_device(part(whole(batch.values, at::kFloat)).clone());
  if (setup.network.num_classes() > 0)
    rows.labels = to_device(whole(batch.labels, at::kLong).narrow(0, first, n).clone());
  rows.eps = at::empty_like(rows.x0);
  fill_normal(rows.eps, setup.seed, Purpose::noise, static_cast<uint64_t>(batch.step), first);
  return rows;
}

}  // namespace

std::function<bool(int64_t)> every(int64_t steps) {
  return [steps](int64_t step) { return steps > 0 && step % steps == 0; };
}

bool train(TrainState& state,
           const TrainSetup& setup,
           BatchSource& batches,
           const std::vector<Action>& actions,
           const std::function<bool()>& stop) {
  const at::Device device = state.params.flat().device();
  while (state.step < setup.steps) {
    const Batch batch = batches.next();
    const auto step = static_cast<uint64_t>(state.step);
    const bool adaptive = state.history.bins() > 0;
    const std::vector<Time> times =
        setup.times(TimeQuery{.seed = setup.seed, .step = step, .batch = setup.batch},
                    adaptive ? &state.history : nullptr);

    state.params.grad().zero_();
    at::Tensor loss, loss_raw;       // 0-dim, of the global batch
    std::vector<at::Tensor> losses;  // [n] each, for the history
    for (int64_t first = 0; first < setup.batch; first += setup.micro_batch) {
      const int64_t n = std::min(setup.micro_batch, setup.batch - first);
      const Rows rows = draw_rows(setup, batch, first, n, device);
      const Objective::Rows levels = setup.objective.rows(times.data() + first, n);
      // Ho et al. 2020, algorithm 1: x0 ~ q, t, eps ~ N(0, I), gradient step on |F* - F(z_t, t)|^2.
      const at::Tensor input = setup.objective.input(rows.x0, rows.eps, levels);
      const DropoutKey dropout{setup.seed, step, first};
      const at::Tensor output = setup.network.forward(
          state.params.weights(), input, levels.time, rows.labels, &dropout, setup.bf16);
      const Objective::Loss part = setup.objective.loss(output, rows.x0, rows.eps, levels);
      at::Tensor weighted = part.weighted;
      if (setup.network.has_level_weight()) {  // exp(-u) of the error + u: Karras et al. 2024
        const at::Tensor u = setup.network.level_weight(state.params.weights(), levels.logsnr);
        weighted = at::add(at::mul(part.error, at::exp(at::neg(u))), u);
        if (part.weighted_bound.defined()) weighted = at::add(weighted, part.weighted_bound);
      }
      if (adaptive) losses.push_back(weighted.detach());
      // Times that are drawn more often than their share in the objective count less.
      const at::Tensor share =
          at::mul(weighted, levels.share).sum() / static_cast<double>(setup.batch);
      share.backward();
      const at::Tensor raw_share =
          at::mul(part.raw, levels.share).sum() / static_cast<double>(setup.batch);
      loss = loss.defined() ? loss + share.detach() : share.detach();
      loss_raw = loss_raw.defined() ? loss_raw + raw_share : raw_share;
    }
    if (adaptive) {
      const at::Tensor all = at::cat(losses).to(at::kDouble).cpu();
      for (int64_t i = 0; i < setup.batch; ++i)
        state.history.add(times[static_cast<size_t>(i)].bin, all.const_data_ptr<double>()[i]);
    }
    update(state, setup.network.layout(), setup.optim, setup.steps, loss, loss_raw, setup.fused);
    ++state.step;
    state.images_seen += setup.batch;

    for (const Action& action : actions)
      if (action.due(state.step)) action.run(state);
    if (stop()) break;
  }
  return state.step >= setup.steps;
}

}  // namespace diffuse
