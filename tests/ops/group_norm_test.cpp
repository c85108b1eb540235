// SPDX-License-Identifier: MIT
#include "ops/group_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "ops/cuda.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

constexpr double kEps = 1.1920929e-7;  // of float32

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
    *t = (wide ? t->to(at::kDouble) : *t).to(device).detach().clone().requires_grad_();
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
  // The composed body adds in place, which a leaf does not allow.
  const Normed out =
      fused ? norm_layer(in.x, layer) : composed_norm_layer(c.added ? in.x.clone() : in.x, layer);
  const at::Tensor skip = fused || !c.added ? out.x : in.x;
  ((out.y * in.dy.to(out.y.options())).sum() + (skip * in.more.to(skip.options())).sum())
      .backward();
  Outcome got{.y = out.y.detach().cpu(), .gradients = {}};
  for (const at::Tensor& leaf : leaves) got.gradients.push_back(leaf.grad().cpu());
  return got;
}

double largest(const at::Tensor& t) { return t.abs().max().item<double>(); }

/// |got - expected| against a bound for each element.
void expect_within(const at::Tensor& got,
                   const at::Tensor& expected,
                   const at::Tensor& bound,
                   const std::string& what) {
  const at::Tensor error = (got.to(at::kDouble) - expected).abs();
  EXPECT_TRUE((error <= bound).all().item<bool>())
      << what << ": " << largest(error) << " where " << largest(bound) << " is allowed at most, "
      << largest(error / bound) << " of the bound";
}

class NormKernel : public testing::TestWithParam<at::ScalarType> {};

// Against the composed body in float64 on the same numbers. Rounding of the kernel: the mean and
// the coefficients of x once each (some 4 eps of the size of what is added up before the
// activation), the exponential 2 eps, sums of 64 values in float32 (at most 64 eps of the sum of
// their sizes); and the output's own type.
TEST_P(NormKernel, EqualsTheComposedBodyToRounding) {
  const at::ScalarType type = GetParam();
  const double unit = type == at::kBFloat16 ? 0x1p-8 : kEps;  // of the output's type
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const Inputs in(c, type);
    const Outcome got = run(c, in, type, true);
    const Outcome expected = run(c, in, at::kDouble, false);
    ASSERT_EQ(got.y.scalar_type(), type);
    ASSERT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));

    // What is added up before the activation, in sizes.
    const auto rows = [](const at::Tensor& t) { return t.unsqueeze(-1).unsqueeze(-1); };
    const at::Tensor x =
        (c.added ? in.x.to(at::kDouble) + rows(in.added) : in.x.to(at::kDouble)).contiguous();
    const at::Tensor grouped = x.view({c.n, c.groups, -1});
    const at::Tensor rstd =
        (1 / (grouped.var(-1, false) + 1e-5).sqrt()).repeat_interleave(c.channels / c.groups, 1);
    const at::Tensor center = grouped.mean(-1).repeat_interleave(c.channels / c.groups, 1);
    at::Tensor factor = in.weight.to(at::kDouble).unsqueeze(0).expand({c.n, c.channels});
    at::Tensor offset = in.bias.to(at::kDouble).abs().unsqueeze(0).expand({c.n, c.channels});
    if (c.scale_shift) {
      factor = factor * (1 + in.scale);
      offset = offset * (1 + in.scale).abs() + in.shift.abs();
    }
    const double kept = 1 / (1 - c.dropout);
    const at::Tensor slope = (factor.abs() * rstd);
    const at::Tensor size =
        (rows(slope) * (x.abs() + rows(center).abs()) + rows(offset)) * (1.1 * kept);
    expect_within(
        got.y, expected.y, 8 * kEps * (size + expected.y.abs()) + unit * expected.y.abs(), "y");

    // Gradients. |du| <= 1.1 |dy| kept, and its own error is that of u, times |silu''| <= 1/2.
    const at::Tensor x_hat = rows(rstd) * (x - rows(center));
    const at::Tensor du = in.dy.to(at::kDouble).abs() * (1.1 * kept) *
                          (1 + 8 * (rows(slope) * (x.abs() + rows(center).abs()) + rows(offset)));
    const double m = static_cast<double>(grouped.size(-1));
    const auto group_mean = [&](const at::Tensor& t) {
      return rows((t.contiguous().view({c.n, c.groups, -1}).sum(-1) / m)
                      .repeat_interleave(c.channels / c.groups, 1));
    };
    const at::Tensor g = rows(factor.abs()) * du;
    const at::Tensor dx_size =
        rows(rstd) * (g + group_mean(g) + x_hat.abs() * group_mean(g * x_hat.abs()));
    const double sums = 72 * kEps;
    size_t i = 0;
    expect_within(got.gradients[i],
                  expected.gradients[i],
                  sums * dx_size + 2 * unit * (expected.gradients[i].abs() + in.more.abs()) +
                      2 * unit * dx_size * (type == at::kBFloat16 ? 0.5 : 0),
                  "dx");
    // A dx of bfloat16 is rounded; the sums that the others are made of are not.
    const auto sum_rows = [](const at::Tensor& t) { return t.sum({2, 3}); };
    const at::Tensor of_scaled = sum_rows(du);
    const at::Tensor with_norm = sum_rows(du * rows(rstd) * (x - rows(center)).abs());
    at::Tensor stretch = c.scale_shift ? (1 + in.scale).abs().to(at::kDouble)
                                       : at::ones({c.n, c.channels}, at::kDouble);
    ++i;
    expect_within(got.gradients[i],
                  expected.gradients[i],
                  sums * (with_norm * stretch).sum(0) + 1e-12,
                  "weight");
    ++i;
    expect_within(got.gradients[i],
                  expected.gradients[i],
                  sums * (of_scaled * stretch).sum(0) + 1e-12,
                  "bias");
    if (c.added) {
      ++i;
      expect_within(
          got.gradients[i], expected.gradients[i], sums * sum_rows(dx_size) + 1e-12, "added");
    }
    if (c.scale_shift) {
      ++i;
      expect_within(got.gradients[i],
                    expected.gradients[i],
                    sums * (with_norm * in.weight.abs() + of_scaled * in.bias.abs()) + 1e-12,
                    "scale");
      ++i;
      expect_within(got.gradients[i], expected.gradients[i], sums * of_scaled + 1e-12, "shift");
    }
  }
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

// A picture's numbers do not depend on its neighbours, nor on how the threads share the work.
TEST(NormLayer, ThreadsAndBatchesChangeNothing) {
  const Case c{
      .n = 4, .channels = 96, .groups = 32, .height = 8, .width = 8, .silu = true, .added = true};
  const Inputs in(c, at::kFloat);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Outcome alone = run(c, in, at::kFloat, true);
  at::set_num_threads(7);  // more than pictures: groups are shared out, too
  const Outcome shared = run(c, in, at::kFloat, true);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(alone.y, shared.y));
  for (size_t i = 0; i < alone.gradients.size(); ++i)
    EXPECT_TRUE(at::equal(alone.gradients[i], shared.gradients[i])) << i;
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

// The same layer in the same precision: what rounds differently is the exponential (2 units in the
// last place of float32) and the order of the sums, and then bfloat16's last bit.
TEST(NormLayerOnAGpu, EqualsTheCpusToRounding) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  std::vector<Case> all = cases();
  for (const Case& more : std::vector<Case>{{3, 256, 32, 16, 16, true},
                                            {2, 1024, 32, 4, 4, true, true},
                                            {2, 64, 32, 64, 64, true, false, true, 0.1},
                                            {1, 512, 1, 8, 8, true}})
    all.push_back(more);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const double unit = type == at::kBFloat16 ? 0x1p-7 : 64 * kEps;
    for (const Case& c : all) {
      SCOPED_TRACE(testing::PrintToString(c));
      const Inputs in(c, type);
      const Outcome cpu = run(c, in, type, true), gpu = run(c, in, type, true, at::kCUDA);
      const auto near = [&](const at::Tensor& a, const at::Tensor& b) {
        return largest(a.to(at::kDouble) - b) <= unit * (1 + largest(b));
      };
      EXPECT_TRUE(near(gpu.y, cpu.y));
      EXPECT_TRUE(at::equal(gpu.y == 0, cpu.y == 0) || c.dropout == 0);
      for (size_t i = 0; i < cpu.gradients.size(); ++i)
        EXPECT_TRUE(near(gpu.gradients[i], cpu.gradients[i])) << i;
    }
  }
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
                state + 3 * channels);
    return r;
  };
  const Result first = run_table(*tables.front());
  for (const kernels::CpuKernels* table : tables) {
    const Result other = run_table(*table);
    EXPECT_EQ(first.kept, other.kept) << table->name;  // whole numbers
    const auto near = [&](const at::Tensor& a, const at::Tensor& b) {
      return largest(a - b) <= 128 * kEps * (1 + largest(a));
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

}  // namespace
}  // namespace diffuse
