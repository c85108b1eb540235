// SPDX-License-Identifier: MIT
#include "ops/group_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "ops/cuda.h"
#include "ops/kernels/cpu.h"
#include "ops/parts.h"
#include "ops/rounding.h"
#include "support/threads.h"

namespace diffuse {
namespace {

struct Case {
  int64_t n, channels, groups, height, width;
  bool silu = false;
  bool added = false;
  bool scale_shift = false;
  double dropout = 0;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.n << "x" << c.channels << "/" << c.groups << "x" << c.height << "x" << c.width
             << (c.silu ? " silu" : "") << (c.added ? " added" : "")
             << (c.scale_shift ? " scale_shift" : "") << " dropout " << c.dropout;
}

/// Widths of U-Nets and widths that no vector divides; one pixel and many; whole and broken octets
/// of pixels; chunks that end early.
std::vector<Case> cases() {
  std::vector<Case> out;
  struct Size {
    int64_t channels, groups, height, width;
  };
  for (const Size& s : std::vector<Size>{{32, 8, 4, 4},
                                         {64, 32, 8, 8},
                                         {192, 32, 5, 7},
                                         {96, 4, 16, 16},
                                         {6, 3, 3, 5},
                                         {3, 1, 1, 1},
                                         {40, 5, 2, 2},
                                         {17, 17, 9, 8},
                                         {576, 32, 4, 2},
                                         {128, 1, 33, 4}})
    for (int i = 0; i < 16; ++i)
      out.push_back({.n = 1 + i % 3,
                     .channels = s.channels,
                     .groups = s.groups,
                     .height = s.height,
                     .width = s.width,
                     .silu = (i & 1) != 0,
                     .added = (i & 2) != 0,
                     .scale_shift = (i & 4) != 0,
                     .dropout = (i & 8) != 0 ? 0.3 : 0.0});
  return out;
}

struct Inputs {
  at::Tensor x, weight, bias, added, scale, shift, dy, more;

  Inputs(const Case& c, at::ScalarType type) {
    at::manual_seed(7);
    const auto normal = [](std::vector<int64_t> shape) { return at::randn(shape, at::kFloat); };
    // Means away from 0, different between channels.
    x = (normal({c.n, c.channels, c.height, c.width}) * 1.5 + normal({1, c.channels, 1, 1}) * 2)
            .to(type)
            .contiguous(at::MemoryFormat::ChannelsLast);
    weight = normal({c.channels}) + 1;
    bias = normal({c.channels});
    if (c.added) added = normal({c.n, c.channels});
    if (c.scale_shift) {  // as chunks of one tensor: rows are not contiguous
      const at::Tensor both = normal({c.n, 2 * c.channels});
      scale = both.narrow(1, 0, c.channels);
      shift = both.narrow(1, c.channels, c.channels);
    }
    dy = normal({c.n, c.channels, c.height, c.width}).to(type);
    more = normal({c.n, c.channels, c.height, c.width}).to(type);
  }

  std::vector<at::Tensor*> leaves() {
    std::vector<at::Tensor*> out;
    for (at::Tensor* t : {&x, &weight, &bias, &added, &scale, &shift})
      if (t->defined()) out.push_back(t);
    return out;
  }
};

struct Outcome {
  at::Tensor y;
  std::vector<at::Tensor> gradients;  // of the leaves, in their order
};

/// y and the gradients of sum(y dy) + sum(x more).
Outcome run(
    const Case& c, Inputs in, at::ScalarType type, bool fused, at::Device device = at::kCPU) {
  const bool wide = type == at::kDouble;
  std::vector<at::Tensor> leaves;
  for (at::Tensor* t : in.leaves()) {
    *t = (wide ? t->to(at::kDouble) : *t).to(device).detach().requires_grad_();
    leaves.push_back(*t);
  }
  const StepKey key{.seed = 3, .step = 11, .first_sample = 5};
  const NormLayer layer{.groups = c.groups,
                        .eps = 1e-5,
                        .weight = in.weight,
                        .bias = in.bias,
                        .added = in.added,
                        .scale = in.scale,
                        .shift = in.shift,
                        .silu = c.silu,
                        .dropout = c.dropout,
                        .key = c.dropout > 0 ? &key : nullptr,
                        .dropout_block = 40};
  const Normed out = fused ? norm_layer(in.x, layer) : composed_norm_layer(in.x, layer);
  ((out.y * in.dy.to(out.y.options())).sum() + (out.x * in.more.to(out.x.options())).sum())
      .backward();
  Outcome got{.y = out.y.detach().cpu(), .gradients = {}};
  for (const at::Tensor& leaf : leaves) got.gradients.push_back(leaf.grad().cpu());
  return got;
}

/// How far each value of the kernels may be from the true one, to first order in kUnit and a
/// hundredth more.
struct Bounds {
  at::Tensor y;
  std::vector<at::Tensor> gradients;  // as in Outcome
};

/// From the inputs in float64, where sums of `length` numbers are added up in float32, in any
/// order, before they go on in float64. Without the rounding of y and dx to their own type.
Bounds bounds(const Case& c, const Inputs& given, int64_t length) {
  Inputs in = given;
  for (at::Tensor* t : in.leaves()) *t = t->to(at::kDouble);
  const double sums = kUnit * static_cast<double>(length);
  const double count = static_cast<double>(c.channels / c.groups * c.height * c.width);
  const std::vector<int64_t> shape{c.n, c.channels, 1, 1};
  // Numbers of a channel of a picture are [n, channels, 1, 1].
  const auto rows = [&](const at::Tensor& t) {
    return t.reshape({-1, c.channels, 1, 1}).expand(shape);
  };
  const auto of_group = [&](const at::Tensor& t) {  // their sum, for each channel
    return t.contiguous()
        .view({c.n, c.groups, -1})
        .sum({2}, true)
        .expand({c.n, c.groups, c.channels / c.groups})
        .reshape(shape);
  };
  const auto over_pixels = [](const at::Tensor& t) { return t.sum({2, 3}, true); };
  const at::Tensor none = at::zeros(shape, at::kDouble);
  const at::Tensor added = c.added ? rows(in.added) : none,
                   shift = c.scale_shift ? rows(in.shift) : none,
                   factor = c.scale_shift ? 1 + rows(in.scale) : none + 1, weight = rows(in.weight),
                   bias = rows(in.bias);

  // Mean and variance are of differences d to the first pixel of a channel.
  const at::Tensor x = in.x + added, mean = of_group(x) / count, center = x - mean;
  const at::Tensor variance = of_group(center.square()) / count + 1e-5, rstd = variance.rsqrt();
  const at::Tensor d = (x - x.narrow(2, 0, 1).narrow(3, 0, 1)).abs();
  const at::Tensor of_mean = (sums + kUnit) * of_group(d) / count + kUnit * mean.abs();
  const at::Tensor of_channels =
      (sums + kUnit) *
      at::amax((over_pixels(d) / static_cast<double>(c.height * c.width)).view({c.n, c.groups, -1}),
               {2},
               true)
          .expand({c.n, c.groups, c.channels / c.groups})
          .reshape(shape);
  const at::Tensor of_variance = 3 * (sums + 2 * kUnit) * of_group(d.square()) / count +
                                 4 * of_channels * of_group(center.abs()) / count;
  const at::Tensor of_rstd = of_variance / (2 * variance) + kUnit;  // relative
  const at::Tensor of_center = of_mean + kUnit * ((mean - added).abs() + center.abs());

  // Before the activation: slope center + bias factor + shift.
  const at::Tensor slope = rstd * weight * factor, size = (slope * center).abs();
  const at::Tensor of_slope = of_rstd + 3 * kUnit;  // relative
  const at::Tensor u = slope * center + bias * factor + shift;
  const at::Tensor of_u = slope.abs() * of_center + (of_slope + kUnit) * size +
                          3 * kUnit * ((bias * factor).abs() + shift.abs()) + kUnit * u.abs();
  const double kept = 1 / (1 - c.dropout);
  // |silu'| <= 1.1; the exponential is 2 units in the last place off, a sum, a quotient, two
  // products and the mask's factor one half each.
  Bounds out;
  const at::Tensor sigmoid = at::sigmoid(u);
  out.y =
      kept * (c.silu ? 1.1 * of_u + 10 * kUnit * (u * sigmoid).abs() : of_u + 2 * kUnit * u.abs());

  // The gradient before the activation; |silu''| <= 1/2. Its mask is 0 or `kept`.
  const at::Tensor dy = kept * in.dy.to(at::kDouble).abs();
  const at::Tensor du = c.silu ? dy * (sigmoid * (1 + u * (1 - sigmoid))).abs() : dy;
  const at::Tensor of_du =
      2 * kUnit * du + (c.silu ? dy * (of_u / 2 + 10 * kUnit * (1 + u.abs())) : at::zeros_like(dy));
  // Sums over the pixels: of du, du center and center, by their sizes.
  const at::Tensor sum_du = over_pixels(du), of_sum_du = over_pixels(of_du + sums * du);
  const at::Tensor sum_dux = over_pixels(du * center.abs()),
                   of_sum_dux = over_pixels(of_du * center.abs() + du * of_center +
                                            (sums + kUnit) * du * center.abs());
  const at::Tensor sum_x = over_pixels(center.abs()),
                   of_sum_x = over_pixels(of_center + sums * center.abs());
  const at::Tensor f = (weight * factor).abs(), a = slope.abs();
  const at::Tensor mean_g = of_group(f * sum_du) / count,
                   of_mean_g = of_group(f * (of_sum_du + 4 * kUnit * sum_du)) / count,
                   mean_gx = of_group(a * sum_dux) / count,
                   of_mean_gx = of_group(a * (of_sum_dux + (of_slope + kUnit) * sum_dux)) / count;
  // dx = slope du + by_x center + rest + more
  const at::Tensor by_x = rstd.square() * mean_gx,
                   of_by_x = rstd.square() * (of_mean_gx + (2 * of_rstd + kUnit) * mean_gx),
                   rest = rstd * mean_g, of_rest = rstd * (of_mean_g + (of_rstd + kUnit) * mean_g);
  const at::Tensor dx = a * of_du + of_slope * a * du + by_x * of_center + of_by_x * center.abs() +
                        of_rest + 4 * kUnit * (a * du + by_x * center.abs() + rest) +
                        kUnit * in.more.to(at::kDouble).abs();
  out.gradients.push_back(dx);
  const at::Tensor with_norm = rstd * sum_dux,
                   of_with_norm = rstd * of_sum_dux + (of_rstd + kUnit) * with_norm,
                   of_scaled = of_sum_du + kUnit * sum_du;
  // Sums of n <= 3 pictures, and a product or two.
  const auto over_pictures = [&](const at::Tensor& error, const at::Tensor& value) {
    return ((error + 6 * kUnit * value) * factor.abs()).sum({0, 2, 3});
  };
  out.gradients.push_back(over_pictures(of_with_norm, with_norm));
  out.gradients.push_back(over_pictures(of_scaled, sum_du));
  const auto flat = [&](const at::Tensor& t) { return t.reshape({c.n, c.channels}); };
  const double pixels = static_cast<double>(c.height * c.width);
  if (c.added)
    out.gradients.push_back(flat(a * (of_sum_du + of_slope * sum_du) + by_x * of_sum_x +
                                 of_by_x * sum_x + pixels * of_rest +
                                 2 * kUnit * (a * sum_du + by_x * sum_x + pixels * rest)));
  if (c.scale_shift) {
    out.gradients.push_back(flat((of_with_norm + 3 * kUnit * with_norm) * weight.abs() +
                                 (of_scaled + 3 * kUnit * sum_du) * bias.abs()));
    out.gradients.push_back(flat(of_scaled));
  }
  out.y = 1.01 * out.y + 1e-30;
  for (at::Tensor& t : out.gradients) t = 1.01 * t + 1e-30;
  return out;
}

/// The kernels of a device against the composed body in float64 on the same numbers.
void expect_composed(const Case& c, at::ScalarType type, at::Device device) {
  SCOPED_TRACE(testing::PrintToString(c));
  const double unit = type == at::kBFloat16 ? 0x1p-8 : kUnit;  // of y and dx
  const Inputs in(c, type);
  const Outcome got = run(c, in, type, true, device);
  const Outcome expected = run(c, in, at::kDouble, false);
  ASSERT_EQ(got.y.scalar_type(), type);
  ASSERT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
  const Bounds bound = bounds(c, in, device.is_cpu() ? 64 : c.height * c.width);
  const auto expect =
      [](const at::Tensor& a, const at::Tensor& b, const at::Tensor& t, const char* w) {
        expect_within(a, b, t, w);
        expect_telling(b, t, w);
      };
  expect(got.y, expected.y, bound.y + 1.01 * unit * expected.y.abs(), "y");
  ASSERT_EQ(got.gradients.size(), bound.gradients.size());
  std::vector<const char*> names{"x", "weight", "bias"};
  if (c.added) names.push_back("added");
  if (c.scale_shift) names.insert(names.end(), {"scale", "shift"});
  for (size_t i = 0; i < names.size(); ++i) {
    const at::Tensor& want = expected.gradients[i];
    const at::Tensor rounded =
        i == 0 ? bound.gradients[i] + 1.01 * unit * want.abs() : bound.gradients[i];
    // What is added to a whole group changes nothing: that gradient may be 0.
    if (names[i] == std::string("added"))
      expect_within(got.gradients[i], want, rounded, names[i]);
    else
      expect(got.gradients[i], want, rounded, names[i]);
  }
}

class NormKernel : public testing::TestWithParam<at::ScalarType> {};

TEST_P(NormKernel, EqualsTheComposedBodyToRounding) {
  for (const Case& c : cases()) expect_composed(c, GetParam(), at::kCPU);
}

INSTANTIATE_TEST_SUITE_P(Types, NormKernel, testing::Values(at::kFloat, at::kBFloat16));

TEST(NormLayer, MasksAreThoseOfTheComposedBody) {
  for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{8, 8}, {3, 5}}) {
    const Case c{
        .n = 3, .channels = 24, .groups = 4, .height = height, .width = width, .dropout = 0.5};
    const Inputs in(c, at::kFloat);
    const Outcome fused = run(c, in, at::kFloat, true), composed = run(c, in, at::kFloat, false);
    EXPECT_TRUE(at::equal(fused.y == 0, composed.y == 0));
  }
}

// The map's own layout, and the gradients', change nothing: rows of pixels, as LibTorch's
// convolutions hand them on where they do not know channels-last, and a part of a larger map.
TEST(NormLayer, LayoutsChangeNothing) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Case c{.n = 3,
                 .channels = 24,
                 .groups = 4,
                 .height = 5,
                 .width = 3,
                 .silu = true,
                 .added = true,
                 .scale_shift = true,
                 .dropout = 0.3};
    const Inputs in(c, type);
    const Outcome want = run(c, in, type, true);
    const auto part_of_larger = [](const at::Tensor& t) {
      const at::Tensor larger =
          at::full({t.size(0), 9, t.size(1), t.size(3) + 2, t.size(2)}, std::nan(""), t.options());
      const at::Tensor part =
          larger.select(1, 4).narrow(2, 1, t.size(3)).transpose(2, 3);  // width before height
      part.copy_(t);
      return part;
    };
    for (int i = 0; i < 2; ++i) {
      Inputs other(c, type);
      for (at::Tensor* t : {&other.x, &other.dy, &other.more})
        *t = i == 0 ? t->contiguous() : part_of_larger(*t);
      ASSERT_FALSE(other.x.is_contiguous(at::MemoryFormat::ChannelsLast));
      const Outcome got = run(c, other, type, true);
      EXPECT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
      EXPECT_TRUE(at::equal(got.y, want.y));
      ASSERT_EQ(got.gradients.size(), want.gradients.size());
      for (size_t g = 0; g < want.gradients.size(); ++g)
        EXPECT_TRUE(at::equal(got.gradients[g], want.gradients[g])) << "leaf " << g;
    }
  }
}

// A picture's numbers do not depend on its neighbours, nor on how the threads share the work.
TEST(NormLayer, ThreadsAndBatchesChangeNothing) {
  const Case c{
      .n = 4, .channels = 96, .groups = 32, .height = 8, .width = 8, .silu = true, .added = true};
  const Inputs in(c, at::kFloat);
  const Threads restored;
  at::set_num_threads(1);
  const Outcome alone = run(c, in, at::kFloat, true);
  at::set_num_threads(7);  // more than pictures: groups are shared out, too
  const Outcome shared = run(c, in, at::kFloat, true);
  EXPECT_TRUE(at::equal(alone.y, shared.y));
  for (size_t i = 0; i < alone.gradients.size(); ++i)
    EXPECT_TRUE(at::equal(alone.gradients[i], shared.gradients[i])) << i;
}

/// The layer around a case's inputs, without dropout.
NormLayer plain_layer(const Case& c, const Inputs& in, int64_t first, int64_t count) {
  const auto part = [&](const at::Tensor& t) {
    return t.defined() ? t.narrow(0, first, count) : t;
  };
  return {.groups = c.groups,
          .weight = in.weight,
          .bias = in.bias,
          .added = part(in.added),
          .scale = part(in.scale),
          .shift = part(in.shift),
          .silu = c.silu};
}

// Without gradients it has no copy for them to keep: the same numbers, whatever the batch.
TEST(NormLayer, WithoutGradientsHasTheSameBitsAndInParts) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (Case c : cases()) {
      if (c.dropout > 0) continue;
      c.n = 3;
      SCOPED_TRACE(testing::PrintToString(c));
      const Inputs in(c, type);
      const at::Tensor want = run(c, in, type, true).y;
      const at::NoGradGuard no_grad;
      for (const at::Tensor& x : {in.x, in.x.contiguous()})
        expect_same_in_parts(3, [&](int64_t first, int64_t count) {
          const Normed got =
              norm_layer(x.narrow(0, first, count), plain_layer(c, in, first, count));
          EXPECT_TRUE(at::equal(got.x, x.narrow(0, first, count)));
          EXPECT_TRUE(at::equal(got.y, want.narrow(0, first, count)));
          return got.y;
        });
    }
}

TEST(NormLayer, BadNumbersStay) {
  const Case c{.n = 2, .channels = 32, .groups = 8, .height = 4, .width = 4, .silu = true};
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Inputs in(c, at::kFloat);
    in.x[1][5][2][2].fill_(bad);
    const Outcome got = run(c, in, at::kFloat, true);
    EXPECT_TRUE(at::isfinite(got.y[0]).all().item<bool>());
    EXPECT_TRUE(got.y[1].narrow(0, 4, 4).isnan().all().item<bool>());  // its group
    EXPECT_TRUE(at::isfinite(got.y[1].narrow(0, 8, 24)).all().item<bool>());
  }
}

TEST(NormLayer, HugeAndTinyInputsAreNoOverflow) {
  const Case c{.n = 1, .channels = 16, .groups = 4, .height = 4, .width = 4, .silu = true};
  for (const double factor : {1e-20, 1e-3, 1e6, 1e15}) {
    Inputs in(c, at::kFloat);
    in.x = in.x * factor;
    const Outcome got = run(c, in, at::kFloat, true);
    EXPECT_TRUE(at::isfinite(got.y).all().item<bool>()) << factor;
    for (const at::Tensor& g : got.gradients)
      EXPECT_TRUE(at::isfinite(g).all().item<bool>()) << factor;
  }
}

TEST(NormLayerOnAGpu, EqualsTheComposedBodyToRounding) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  std::vector<Case> all = cases();
  for (const Case& more : std::vector<Case>{{3, 256, 32, 16, 16, true},
                                            {2, 1024, 32, 4, 4, true, true},
                                            {2, 64, 32, 64, 64, true, false, true, 0.1},
                                            {1, 512, 1, 8, 8, true}})
    all.push_back(more);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const Case& c : all) expect_composed(c, type, at::kCUDA);
}

// Each instruction set that this processor has gives the same numbers up to rounding.
TEST(CpuKernels, InstructionSetsAgree) {
  const auto& tables = kernels::cpu_kernel_tables();
  ASSERT_FALSE(tables.empty());
  EXPECT_STREQ(tables.back()->name, "baseline");
  constexpr int64_t pixels = 35, channels = 43 * 2, groups = 2;
  at::manual_seed(1);
  const at::Tensor x = at::randn({pixels, channels}) * 2 + 1, dy = at::randn({pixels, channels}),
                   weight = at::randn({channels}), bias = at::randn({channels});
  std::vector<uint8_t> kept(static_cast<size_t>(dropout_blocks(pixels * channels)));
  struct Result {
    at::Tensor y, dx, d_weight, d_bias, moments;
    std::vector<uint8_t> kept;
    double squares;
    at::Tensor updated;
  };
  const auto run_table = [&](const kernels::CpuKernels& table) {
    Result r{at::zeros_like(x),
             at::zeros_like(x),
             at::zeros({channels}),
             at::zeros({channels}),
             at::zeros({2, groups}),
             kept,
             0,
             {}};
    table.dropout_bits(Stream{.seed = 4, .purpose = Purpose::dropout},
                       9,
                       static_cast<int64_t>(kept.size()),
                       20000,
                       r.kept.data());
    const kernels::NormShape shape{pixels, channels, channels / groups, 0, channels};
    const kernels::NormParameters p{.weight = weight.const_data_ptr<float>(),
                                    .bias = bias.const_data_ptr<float>(),
                                    .silu = true,
                                    .kept = r.kept.data(),
                                    .keep_value = 1.5f};
    float* const mean = r.moments.mutable_data_ptr<float>();
    std::vector<float> scratch(static_cast<size_t>(pixels * channels));
    table.norm.forward(shape,
                       p,
                       1e-5,
                       x.const_data_ptr<float>(),
                       r.y.mutable_data_ptr<float>(),
                       mean,
                       mean + groups);
    table.norm.backward(shape,
                        p,
                        x.const_data_ptr<float>(),
                        dy.const_data_ptr<float>(),
                        nullptr,
                        mean,
                        mean + groups,
                        r.dx.mutable_data_ptr<float>(),
                        scratch.data(),
                        r.d_weight.mutable_data_ptr<float>(),
                        r.d_bias.mutable_data_ptr<float>(),
                        nullptr);
    r.squares = table.sum_of_squares(x.const_data_ptr<float>(), x.numel());
    r.updated = at::stack({weight, at::zeros_like(weight), at::ones_like(weight), weight}).clone();
    float* const state = r.updated.mutable_data_ptr<float>();
    table.adamw({.beta1 = 0.9f,
                 .rest1 = 0.1f,
                 .beta2 = 0.99f,
                 .rest2 = 0.01f,
                 .eps = 1e-8f,
                 .size = 1,
                 .root = 10,
                 .shrink = 0.99f,
                 .grad_scale = 0.5f,
                 .ema_share = 0.25f},
                channels,
                bias.const_data_ptr<float>(),
                state,
                state + channels,
                state + 2 * channels,
                state + 3 * channels,
                nullptr);
    return r;
  };
  const Result first = run_table(*tables.front());
  for (const kernels::CpuKernels* table : tables) {
    const Result other = run_table(*table);
    EXPECT_EQ(first.kept, other.kept) << table->name;  // whole numbers
    const auto near = [&](const at::Tensor& a, const at::Tensor& b) {
      return largest(a - b) <= 256 * kUnit * (1 + largest(a));
    };
    EXPECT_TRUE(near(first.y, other.y)) << table->name;
    EXPECT_TRUE(near(first.dx, other.dx)) << table->name;
    EXPECT_TRUE(near(first.d_weight, other.d_weight)) << table->name;
    EXPECT_TRUE(near(first.d_bias, other.d_bias)) << table->name;
    EXPECT_TRUE(near(first.moments, other.moments)) << table->name;
    EXPECT_TRUE(near(first.updated, other.updated)) << table->name;
    EXPECT_NEAR(first.squares, other.squares, 1e-6 * first.squares) << table->name;
  }
}

// Ties, the last number before infinity, subnormals, infinity and NaN; whole vectors and a rest.
TEST(CpuKernels, WeightsAreRoundedToBfloat16) {
  std::vector<uint32_t> bits;
  for (const uint32_t high : {0x0000u, 0x0001u, 0x007Fu, 0x3F80u, 0x3F81u, 0x7F7Fu, 0x7F80u})
    for (const uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      for (const uint32_t sign : {0u, 0x80000000u}) bits.push_back(sign | high << 16 | low);
  bits.push_back(0x7FC00000u);
  const auto n = static_cast<int64_t>(bits.size());
  ASSERT_NE(n % 16, 0);
  const at::Tensor from = at::from_blob(bits.data(), {n}, at::kFloat);
  for (const kernels::CpuKernels* table : kernels::cpu_kernel_tables()) {
    SCOPED_TRACE(table->name);
    const at::Tensor weight = from.clone(), zeros = at::zeros({4, n});
    const at::Tensor half = at::full({n + 1}, 7, at::kBFloat16);
    float* const others = zeros.mutable_data_ptr<float>();
    table->adamw({.eps = 1, .shrink = 1},
                 n,
                 others,
                 weight.mutable_data_ptr<float>(),
                 others + n,
                 others + 2 * n,
                 others + 3 * n,
                 static_cast<kernels::Bf16*>(half.mutable_data_ptr()));
    const at::Tensor got = half.narrow(0, 0, n), want = from.to(at::kBFloat16);
    const at::Tensor number = at::logical_not(from.isnan());
    EXPECT_TRUE(at::equal(got.isnan(), from.isnan()));
    EXPECT_TRUE(at::equal(got.view(at::kShort).masked_select(number),
                          want.view(at::kShort).masked_select(number)));
    EXPECT_EQ(half[n].item<float>(), 7);
  }
}

}  // namespace
}  // namespace diffuse
