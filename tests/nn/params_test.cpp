// SPDX-License-Identifier: MIT
#include "nn/params.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <set>

#include "base/random.h"

namespace diffuse {
namespace {

ParamLayout small_layout(bool channels_last = false) {
  ParamLayout layout(channels_last);
  layout.add("a.weight", {3, 5}, Init::uniform(0.5));
  layout.add("a.bias", {3}, Init::constant(0));
  layout.add("n.weight", {17}, Init::constant(1));
  layout.add("b.weight", {2, 3, 3, 3}, Init::normal(2));
  layout.finalize();
  return layout;
}

TEST(ParamLayout, AlignsAndPutsDecayedTensorsFirst) {
  const ParamLayout layout = small_layout();
  const auto& infos = layout.infos();
  ASSERT_EQ(infos.size(), 4u);
  EXPECT_EQ(infos[0].offset, 0);   // 15 elements
  EXPECT_EQ(infos[3].offset, 16);  // 54
  EXPECT_EQ(layout.decay_end(), 80);
  EXPECT_EQ(infos[1].offset, 80);  // 3
  EXPECT_EQ(infos[2].offset, 96);  // 17
  EXPECT_EQ(layout.flat_size(), 128);
  EXPECT_EQ(layout.count(), 15 + 3 + 17 + 54);
  EXPECT_TRUE(infos[0].decay && infos[3].decay);
  EXPECT_FALSE(infos[1].decay || infos[2].decay);
}

TEST(ParamLayout, NothingCanBeAddedLater) {
  ParamLayout layout = small_layout();
  EXPECT_THROW(layout.add("late", {1}, Init::constant(0)), std::logic_error);
  EXPECT_THROW(layout.finalize(), std::logic_error);
  EXPECT_THROW(layout.views(at::zeros({127})), std::logic_error);
}

TEST(ParamLayout, ViewsShareTheBuffer) {
  const ParamLayout layout = small_layout();
  const at::Tensor flat = at::arange(128, at::kFloat);
  const Weights views = layout.views(flat);
  ASSERT_EQ(views.size(), 4u);
  EXPECT_EQ(views[3].sizes(), (std::vector<int64_t>{2, 3, 3, 3}));
  EXPECT_EQ(views[3][0][0][0][1].item<float>(), 17);
  flat.zero_();
  EXPECT_EQ(views[3].abs().sum().item<float>(), 0);
}

TEST(ParamLayout, InitialValuesAreTheStreams) {
  const ParamLayout layout = small_layout();
  const at::Tensor flat = layout.initial(42);
  const Weights w = layout.views(flat);

  const Philox4 bits = random_block({42, Purpose::init, 0, 0}, 1);
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_EQ(w[0].data_ptr<float>()[4 + i],
              static_cast<float>(0.5 * ((bits.v[i] + 0.5) / 2147483648.0 - 1.0)));
  EXPECT_TRUE((w[1] == 0).all().item<bool>());
  EXPECT_TRUE((w[2] == 1).all().item<bool>());
  const auto normal =
      random_normal4({42, Purpose::init, 0, 3}, 13);  // elements 52 and 53 end the tensor
  EXPECT_EQ(w[3].data_ptr<float>()[52], 2 * normal[0]);
  EXPECT_EQ(w[3].data_ptr<float>()[53], 2 * normal[1]);

  at::Tensor padding = flat.clone();
  for (const at::Tensor& view : layout.views(padding)) view.zero_();
  EXPECT_EQ(padding.abs().sum().item<float>(), 0);

  EXPECT_TRUE(at::equal(flat, layout.initial(42)));
  EXPECT_FALSE(at::equal(flat, layout.initial(43)));
}

// Variance b^2 / 3 of a uniform on [-b, b]; the sample's lies within five of its standard
// deviations, sqrt((E[x^4] - E[x^2]^2) / n) = b^2 sqrt(4 / (45 n)).
TEST(ParamLayout, UniformInitHasItsVariance) {
  ParamLayout layout;
  layout.add("w", {512, 512}, Init::uniform(0.1));
  layout.finalize();
  const at::Tensor w = layout.initial(0).to(at::kDouble);
  const double n = 512 * 512;
  EXPECT_LE(w.abs().max().item<double>(), 0.1 * (1 + 0x1p-24));
  EXPECT_NEAR(w.mean().item<double>(), 0, 5 * std::sqrt(0.01 / 3 / n));
  EXPECT_NEAR(w.pow(2).mean().item<double>(), 0.01 / 3, 5 * 0.01 * std::sqrt(4.0 / 45.0 / n));
}

TEST(Params, BackwardAccumulatesIntoTheFlatGradient) {
  const ParamLayout layout = small_layout();
  const Params params(layout, layout.initial(1));
  ASSERT_EQ(params.grad().sizes(), params.flat().sizes());

  std::set<const void*> before;
  for (const at::Tensor& w : params.weights()) {
    EXPECT_TRUE(w.requires_grad());
    EXPECT_TRUE(w.is_leaf());
    before.insert(w.grad().const_data_ptr());
  }
  const auto backward = [&] {
    at::Tensor loss = at::zeros({});
    for (const at::Tensor& w : params.weights()) loss = loss + (w * w).sum();
    loss.backward();
  };
  backward();  // d/dw sum w^2 = 2 w: one rounding-free doubling
  EXPECT_TRUE(at::equal(params.grad().slice(0, 0, 15), 2 * params.flat().slice(0, 0, 15)));
  backward();
  at::Tensor expected = at::zeros_like(params.flat());
  const Weights expected_views = layout.views(expected);
  for (size_t i = 0; i < expected_views.size(); ++i)
    expected_views[i].copy_(4 * params.weights()[i].detach());
  EXPECT_TRUE(at::equal(params.grad(), expected));

  std::set<const void*> after;
  for (const at::Tensor& w : params.weights()) after.insert(w.grad().const_data_ptr());
  EXPECT_EQ(before, after);
  params.grad().zero_();
  EXPECT_EQ(params.weights()[3].grad().abs().sum().item<float>(), 0);
}

TEST(Params, RoundedWeightsHaveTheGradientsOfWeightsThatTheNetworkRounds) {
  ParamLayout layout(true);
  layout.add("kernel", {4, 3, 3, 3}, Init::uniform(0.5), true);
  layout.add("bias", {4}, Init::uniform(0.5));
  layout.add("matrix", {4, 4}, Init::uniform(0.5), true);
  layout.add("unused", {5}, Init::uniform(0.5), true);
  layout.finalize();
  Params plain(layout, layout.initial(1)), params(layout, layout.initial(1));
  params.keep_half(layout);
  EXPECT_TRUE(at::equal(params.half(), params.flat().to(at::kBFloat16)));
  const auto backward = [&](const Weights& weights, double factor) {
    const auto half = [&](size_t i) { return weights[i].to(at::kBFloat16); };
    const at::Tensor matrix = half(2);
    at::mul(at::square(half(0)).sum().to(at::kFloat) + at::exp(weights[1]).sum() +
                at::matmul(matrix, matrix).sum().to(at::kFloat),
            factor)
        .backward();
  };
  const Weights views = layout.views(params.grad());
  for (const at::Tensor& view : views) view.fill_(7);  // of the step before
  backward(plain.weights(), 1);
  backward(params.rounded(true), 1);
  EXPECT_GT(plain.grad().abs().sum().item<float>(), 1);
  EXPECT_TRUE(at::equal(params.grad(), plain.grad()));
  backward(plain.weights(), 3);
  backward(params.rounded(false), 3);
  EXPECT_TRUE(at::equal(params.grad(), plain.grad()));
}

TEST(ParamLayout, ChannelsLastIsAnotherOrderOfTheSameValues) {
  const ParamLayout plain = small_layout(), last = small_layout(true);
  EXPECT_EQ(plain.flat_size(), last.flat_size());
  const at::Tensor a = plain.initial(3), b = last.initial(3);
  const Weights in_a = plain.views(a), in_b = last.views(b);
  for (size_t i = 0; i < in_a.size(); ++i) EXPECT_TRUE(at::equal(in_a[i], in_b[i])) << i;
  EXPECT_TRUE(in_b[3].is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_FALSE(at::equal(a, b));
  EXPECT_TRUE(at::equal(last.to_row_major(b), a));
  EXPECT_TRUE(at::equal(last.from_row_major(a), b));
  EXPECT_TRUE(plain.to_row_major(a).is_same(a));  // nothing to do
}

TEST(Params, AnUpdateOfTheBufferIsSeenByTheLeaves) {
  const ParamLayout layout = small_layout();
  const Params params(layout, layout.initial(1));
  params.flat().fill_(3);
  EXPECT_TRUE((params.weights()[0] == 3).all().item<bool>());
  // What a backward pass still needs may not be changed under it.
  const at::Tensor loss = (params.weights()[0] * params.weights()[0]).sum();
  params.flat().mul_(2);
  EXPECT_THROW(loss.backward(), std::exception);
}

// Autocast keeps the casts of weights for a step (gradient accumulation) only when they are no
// views.
TEST(Params, LeavesAreNotDifferentiableViews) {
  const ParamLayout layout = small_layout();
  const Params params(layout, layout.initial(1));
  for (const at::Tensor& w : params.weights()) EXPECT_FALSE(w.is_view());
}

}  // namespace
}  // namespace diffuse
