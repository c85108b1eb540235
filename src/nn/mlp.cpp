// SPDX-License-Identifier: MIT
#include "nn/mlp.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>

#include <cmath>
#include <numbers>
#include <string>

#include "base/error.h"
#include "nn/autocast.h"

namespace diffuse {

Mlp::Mlp(const MlpOptions& options,
         int64_t in_channels,
         int64_t out_channels,
         int64_t num_classes,
         const std::function<void(ParamLayout&)>& more)
    : options_(options), in_channels_(in_channels), num_classes_(num_classes) {
  DIFFUSE_CHECK(options.problems().empty());
  const int64_t hidden = options.hidden;
  linear_in_ =
      Linear::build(layout_, "linear_in", in_channels * (1 + 2 * options.fourier_octaves), hidden);
  time_ = TimeEmbedder::build(layout_, hidden, hidden, num_classes);
  for (int64_t i = 0; i < options.layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.push_back(
        {.linear1 = Linear::build(layout_, name + ".linear_1", hidden, hidden),
         .time = Linear::build(layout_, name + ".time_emb_proj", hidden, hidden),
         .linear2 = Linear::build(layout_, name + ".linear_2", hidden, hidden, options.zero_init)});
  }
  linear_out_ = Linear::build(layout_, "linear_out", hidden, out_channels, options.zero_init);
  if (more) more(layout_);
  layout_.finalize();
}

at::Tensor Mlp::forward(const Weights& weights,
                        const at::Tensor& x,
                        const at::Tensor& t,
                        const at::Tensor& labels,
                        const StepKey* dropout,
                        bool bf16) const {
  if (bf16)
    return with_autocast(x.device(), [&] { return forward(weights, x, t, labels, dropout); });
  DIFFUSE_CHECK(x.dim() == 4 && x.size(1) == in_channels_ && x.size(2) == 1 && x.size(3) == 1);
  DIFFUSE_CHECK(t.dim() == 1 && t.size(0) == x.size(0));
  DIFFUSE_CHECK(labels.defined() == (num_classes_ > 0));
  DIFFUSE_CHECK(weights.size() == layout_.infos().size());

  const at::Tensor embedding = at::silu(
      time_(weights, time_sinusoids(t, options_.hidden, true, 0, x.scalar_type()), labels, false));
  at::Tensor h = linear_in_(weights, with_fourier_features(x.flatten(1), options_.fourier_octaves));
  int64_t dropout_block = 0;
  for (const Layer& layer : layers_) {
    at::Tensor u =
        at::silu(at::add(layer.linear1(weights, at::silu(h)), layer.time(weights, embedding)));
    if (dropout != nullptr && options_.dropout > 0) {
      u = at::mul(u, dropout_mask(u, options_.dropout, *dropout, dropout_block));
      dropout_block += dropout_blocks(options_.hidden);
    }
    h = at::add(h, layer.linear2(weights, u));
  }
  return linear_out_(weights, at::silu(h)).unsqueeze(-1).unsqueeze(-1);
}

at::Tensor with_fourier_features(const at::Tensor& x, int64_t octaves) {
  std::vector<at::Tensor> features{x};
  for (int64_t k = 0; k < octaves; ++k) {
    const at::Tensor angle = at::mul(x, std::ldexp(std::numbers::pi, static_cast<int>(k)));
    features.push_back(at::sin(angle));
    features.push_back(at::cos(angle));
  }
  return at::cat(features, 1);
}

}  // namespace diffuse
