// SPDX-License-Identifier: MIT
#include "nn/model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

namespace diffuse {
namespace {

UNetOptions small() {
  UNetOptions options;
  options.base_channels = 8;
  options.channel_mult = {1};
  options.blocks_per_level = 1;
  options.attention_at = {};
  options.mid_attention = false;
  options.norm_groups = 4;
  return options;
}

// What is counted without LibTorch is what the network has.
TEST(NetworkCost, CountsTheParameters) {
  for (const int64_t classes : {0, 10})
    for (const TimeEmbedding time : {TimeEmbedding::add, TimeEmbedding::scale_shift})
      for (const Resample resample : {Resample::conv, Resample::resnet})
        for (const int64_t outputs : {3, 6}) {
          UNetOptions o = small();
          o.channel_mult = {1, 2, 3};
          o.blocks_per_level = 2;
          o.attention_at = {8};
          o.mid_attention = outputs == 3;
          o.time_embedding = time;
          o.downsample = o.upsample = resample;
          o.class_conditional = classes > 0;
          EXPECT_EQ(o.cost(3, outputs, 16, 8, classes).parameters,
                    Model(o, 3, outputs, 16, 8, classes).parameter_count());
        }
  for (const int64_t classes : {0, 10}) {
    MlpOptions o;
    o.hidden = 24;
    o.layers = 3;
    EXPECT_EQ(o.cost(2, 4, classes).parameters, Model(o, 2, 4, classes).parameter_count());
  }
}

TEST(LevelWeight, StartsAtZeroAndLeavesTheNetworkAlone) {
  const Model with(small(), 1, 1, 4, 4, 0, true), without(small(), 1, 1, 4, 4, 0);
  EXPECT_TRUE(with.has_level_weight());
  EXPECT_FALSE(without.has_level_weight());
  EXPECT_EQ(with.parameter_count(), without.parameter_count() + 128);
  // The first parameters are the network's, so both start from the same numbers.
  const Weights a = with.layout().views(with.layout().initial(3));
  const Weights b = without.layout().views(without.layout().initial(3));
  ASSERT_EQ(a.size(), b.size() + 1);
  for (size_t i = 0; i < b.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i]));
  const at::Tensor logsnr = at::tensor({-INFINITY, 0.0f, 4.5f});
  EXPECT_TRUE(at::equal(with.level_weight(a, logsnr), at::zeros({3})));
}

// E[w e^-u + u] is least where u = log E[w] (Karras et al. 2024, EDM2): for a loss that depends
// smoothly on the level, u learns its logarithm.
TEST(LevelWeight, LearnsTheLogarithmOfTheLoss) {
  const Model model(small(), 1, 1, 4, 4, 0, true);
  const Params params(model.layout(), model.layout().initial(1));
  const at::Tensor logsnr = at::linspace(-8, 8, 65);
  const at::Tensor wanted = at::add(at::mul(logsnr, 0.3), at::sin(at::mul(logsnr, 0.5)));
  const at::Tensor loss = at::exp(wanted);
  at::Tensor m = at::zeros_like(params.flat()), v = at::zeros_like(params.flat());
  for (int step = 1; step <= 1500; ++step) {  // Adam (Kingma & Ba 2015) with a falling rate
    params.grad().zero_();
    const at::Tensor u = model.level_weight(params.weights(), logsnr);
    at::add(at::mul(loss, at::exp(at::neg(u))), u).mean().backward();
    const at::NoGradGuard no_grad;
    m.mul_(0.9).add_(params.grad(), 0.1);
    v.mul_(0.99).addcmul_(params.grad(), params.grad(), 0.01);
    const double rate = 0.1 * (1 - step / 1500.0);
    params.flat().sub_(
        m.div(1 - std::pow(0.9, step)).div_(v.div(1 - std::pow(0.99, step)).sqrt_().add_(1e-8)),
        rate);
  }
  const at::Tensor u = model.level_weight(params.weights(), logsnr);
  // 128 cosines of periods above 8 in log SNR fit a sine of period 12.6 closely.
  EXPECT_LT(at::abs(at::sub(u, wanted)).max().item<double>(), 0.05);
}

}  // namespace
}  // namespace diffuse
