// SPDX-License-Identifier: MIT
#include "ops/conv.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <new>
#include <string>
#include <vector>

#include "ops/channels_last.h"
#include "ops/kernels/cpu.h"
#include "ops/parts.h"
#include "ops/rounding.h"
#include "support/cost.h"
#include "support/threads.h"

namespace diffuse {
namespace {

struct Case {
  int64_t n, in, out, height, width, kernel;
  bool added;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.n << " of " << c.in << " to " << c.out << ", " << c.height << " x " << c.width
             << ", kernel " << c.kernel << (c.added ? ", added" : "");
}

/// Rows of one tile, two and several; channels that no block divides; odd numbers of pictures, of
/// narrow ones too; heights below, at and above the rows that are added up at once.
std::vector<Case> cases() {
  return {{2, 32, 64, 4, 4, 3, true},
          {3, 64, 32, 4, 4, 3, false},
          {1, 16, 16, 1, 4, 3, true},
          {5, 48, 80, 2, 4, 1, true},
          {2, 32, 32, 8, 8, 3, true},
          {3, 96, 32, 8, 8, 1, false},
          {1, 16, 48, 11, 16, 3, true},
          {2, 16, 16, 5, 24, 3, false},
          {1, 32, 16, 3, 136, 3, true}};
}

struct Outcome {
  at::Tensor y, dx, dw, db, d_added;
};

std::vector<at::Tensor> inputs(const Case& c) {
  at::manual_seed(7);
  return {at::randn({c.n, c.in, c.height, c.width}),
          at::randn({c.out, c.in, c.kernel, c.kernel}),
          at::randn({c.out}),
          at::randn({c.n, c.out, c.height, c.width}),
          at::randn({c.n, c.out, c.height, c.width})};
}

/// y of conv() or composed_conv() and the gradients of sum(y g). `size`: of absolute values.
Outcome run(const Case& c, at::ScalarType type, bool ours, bool size = false) {
  std::vector<at::Tensor> leaves = inputs(c);
  for (at::Tensor& t : leaves) {
    t = (size ? t.abs() : t).to(type);
    if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
    t.requires_grad_();
  }
  const at::Tensor added = c.added ? leaves[3] : at::Tensor();
  const at::Tensor y = (ours ? conv : composed_conv)(leaves[0], leaves[1], leaves[2], added);
  y.backward(leaves[4].detach());
  return {y.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad(), leaves[3].grad()};
}

/// Every part of `got` against `right`, both up to sums of as many products as they have, with
/// roundings of `unit`.
void expect_rounded(const Case& c, const Outcome& got, const Outcome& right, double unit) {
  const Outcome size = run(c, at::kDouble, false, true);
  const auto expect = [&](at::Tensor Outcome::*part, int64_t products, const char* what) {
    // With the bias, `added` and the result's rounding.
    const at::Tensor bound = static_cast<double>(products + 3) * unit * (size.*part);
    const at::Tensor wanted = (right.*part).to(at::kDouble);
    expect_within(got.*part, wanted, bound, what);
    expect_telling(wanted, bound, what);
  };
  const int64_t area = c.kernel * c.kernel, pixels = c.n * c.height * c.width;
  expect(&Outcome::y, area * c.in, "y");
  expect(&Outcome::dx, area * c.out, "dx");
  expect(&Outcome::dw, pixels, "dw");
  expect(&Outcome::db, pixels, "db");
  if (c.added) {
    EXPECT_TRUE(at::equal(got.d_added, right.d_added.to(got.d_added.scalar_type())));
  }
}

TEST(Conv, EqualsTheOperatorInFloat64ToRounding) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const Outcome got = run(c, at::kFloat, true);
    ASSERT_EQ(got.y.scalar_type(), at::kFloat);
    EXPECT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
    expect_rounded(c, got, run(c, at::kDouble, false), kUnit);
  }
}

TEST(Conv, ThreadsAndBatchChangeNothing) {
  const Threads restored;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    at::set_num_threads(1);
    const Outcome alone = run(c, at::kFloat, true);
    at::set_num_threads(5);
    const Outcome shared = run(c, at::kFloat, true);
    EXPECT_TRUE(at::equal(alone.y, shared.y) && at::equal(alone.dx, shared.dx));
    EXPECT_TRUE(at::equal(alone.dw, shared.dw) && at::equal(alone.db, shared.db));
    const std::vector<at::Tensor> t = inputs(c);
    const at::Tensor last = c.added ? t[3].narrow(0, c.n - 1, 1) : at::Tensor();
    const at::Tensor y = conv(t[0].narrow(0, c.n - 1, 1), t[1], t[2], last);
    EXPECT_TRUE(at::equal(y, alone.y.narrow(0, c.n - 1, 1)));
  }
}

/// at::conv2d in float64, of absolute values where `size`.
at::Tensor in_float64(const Case& c, const std::vector<at::Tensor>& t, bool size) {
  const auto of = [&](const at::Tensor& from) {
    const at::Tensor wide = from.to(at::kDouble);
    return size ? wide.abs() : wide;
  };
  const at::Tensor y = at::conv2d(of(t[0]), of(t[1]), of(t[2]), 1, c.kernel / 2);
  return c.added ? y + of(t[3]) : y;
}

// Layouts, and sizes and types without a kernel: the same function.
TEST(Conv, TakesWhatItsKernelsDoNot) {
  for (const Case& c : std::vector<Case>{{2, 32, 32, 8, 8, 3, true},
                                         {2, 1, 32, 8, 8, 3, false},
                                         {2, 32, 3, 8, 8, 3, true},
                                         {1, 16, 16, 6, 6, 3, true},
                                         {1, 16, 16, 8, 8, 5, true}}) {
    SCOPED_TRACE(testing::PrintToString(c));
    // Twice the roundings where both are of one precision.
    expect_rounded(c, run(c, at::kDouble, true), run(c, at::kDouble, false), 2 * kDoubleUnit);
    const std::vector<at::Tensor> t = inputs(c);  // not channels-last, and without gradients
    const at::NoGradGuard no_grad;
    const at::Tensor y = conv(t[0], t[1], t[2]);
    const auto products = static_cast<double>(c.kernel * c.kernel * c.in);
    Case alone = c;
    alone.added = false;
    expect_within(y,
                  in_float64(alone, t, false),
                  (products + 2) * kUnit * in_float64(alone, t, true),
                  "y alone");
  }
}

/// Without gradients the kernels take every size: widths below, at and above those of a tile,
/// channels that no vector divides, one pixel, and maps that are larger than training gives them.
/// The last few are enough work for several threads.
std::vector<Case> any_sizes() {
  return {{3, 1, 1, 1, 1, 3, true},
          {3, 1, 1, 1, 1, 1, true},
          {3, 5, 3, 7, 1, 3, true},
          {3, 3, 17, 5, 2, 3, true},
          {3, 7, 19, 1, 3, 3, true},
          {3, 33, 35, 3, 5, 3, true},
          {3, 19, 1, 4, 7, 3, false},
          {3, 16, 16, 5, 8, 3, true},
          {3, 3, 5, 9, 9, 3, true},
          {3, 13, 31, 2, 17, 3, true},
          {3, 7, 9, 3, 5, 1, true},
          {3, 17, 3, 5, 3, 1, false},
          {3, 12, 20, 8, 8, 1, true},
          {3, 130, 129, 5, 5, 1, true},
          {3, 33, 35, 13, 23, 3, true},
          {3, 5, 3, 90, 91, 3, true}};
}

at::Tensor laid_out(const at::Tensor& t, bool channels_last) {
  return channels_last ? t.contiguous(at::MemoryFormat::ChannelsLast) : t.contiguous();
}

TEST(ConvWithoutGradients, EqualsTheOperatorInFloat64ToRounding) {
  const at::NoGradGuard no_grad;
  for (const Case& c : any_sizes()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const std::vector<at::Tensor> t = inputs(c);
    const at::Tensor right = in_float64(c, t, false);
    // As in expect_rounded(): products, the bias, `added` and a product's own rounding.
    const at::Tensor bound =
        static_cast<double>(c.kernel * c.kernel * c.in + 3) * kUnit * in_float64(c, t, true);
    expect_telling(right, bound, "y");
    for (const bool x_last : {false, true})
      for (const bool weight_last : {false, true})
        for (const bool added_last : {false, true}) {
          const at::Tensor y = conv(laid_out(t[0], x_last),
                                    laid_out(t[1], weight_last),
                                    t[2],
                                    c.added ? laid_out(t[3], added_last) : at::Tensor());
          ASSERT_EQ(y.scalar_type(), at::kFloat);
          EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
          expect_within(y, right, bound, "y");
        }
  }
}

TEST(ConvWithoutGradients, NoBitDependsOnTheBatchOrTheThreads) {
  const at::NoGradGuard no_grad;
  for (const Case& c : any_sizes()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const std::vector<at::Tensor> t = inputs(c);
    expect_same_in_parts(3, [&](int64_t first, int64_t count) {
      return conv(t[0].narrow(0, first, count),
                  t[1],
                  t[2],
                  c.added ? t[3].narrow(0, first, count) : at::Tensor());
    });
  }
}

// What is added is neither forgotten nor another pixel's: of a convolution that is zero only it is
// left.
TEST(ConvWithoutGradients, AddsTheMapItself) {
  const at::NoGradGuard no_grad;
  for (Case c : any_sizes()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const std::vector<at::Tensor> t = inputs(c);
    const at::Tensor none = at::zeros_like(t[1]), bias = at::zeros_like(t[2]);
    for (const bool last : {false, true})
      EXPECT_TRUE(at::equal(conv(t[0], none, bias, laid_out(t[3], last)), t[3]));
  }
}

TEST(PixelConv, EqualsTheOperatorInFloat64ToRounding) {
  const at::NoGradGuard no_grad;
  for (Case c : any_sizes()) {
    if (c.kernel != 1) continue;
    for (const bool added : {false, true})
      for (const bool with_bias : {false, true}) {
        c.added = added;
        SCOPED_TRACE(testing::PrintToString(c) + (with_bias ? "" : ", no bias"));
        std::vector<at::Tensor> t = inputs(c);
        if (!with_bias) t[2].zero_();
        const at::Tensor right = in_float64(c, t, false);
        const at::Tensor bound = static_cast<double>(c.in + 3) * kUnit * in_float64(c, t, true);
        expect_telling(right, bound, "y");
        const auto of = [&](int64_t first, int64_t count, bool x_last, bool added_last) {
          return pixel_conv(
              laid_out(t[0], x_last).narrow(0, first, count),
              t[1].flatten(1),
              with_bias ? t[2] : at::Tensor(),
              added ? laid_out(t[3], added_last).narrow(0, first, count) : at::Tensor());
        };
        for (const bool x_last : {false, true})
          for (const bool added_last : {false, true})
            expect_within(of(0, c.n, x_last, added_last), right, bound, "y");
        expect_same_in_parts(
            3, [&](int64_t first, int64_t count) { return of(first, count, true, true); });
      }
  }
}

/// Halved maps of one pixel, of odd numbers of them, and of enough work for several threads.
std::vector<Case> halved_sizes() {
  return {{3, 1, 1, 2, 2, 3, false},
          {3, 3, 5, 2, 6, 3, false},
          {3, 16, 16, 8, 8, 3, false},
          {3, 7, 33, 10, 14, 3, false},
          {3, 33, 35, 26, 18, 3, false}};
}

// Every other pixel of the convolution with stride 1: those of even rows and columns where a border
// of zeros is on every side, those of odd ones where it is at the right and below.
TEST(HalvedConv, IsEveryOtherPixelOfTheConvolution) {
  const at::NoGradGuard no_grad;
  for (const Case& c : halved_sizes())
    for (const int64_t padding : {0, 1}) {
      SCOPED_TRACE(testing::PrintToString(c) + ", padding " + std::to_string(padding));
      const std::vector<at::Tensor> t = inputs(c);
      const auto every_other = [&](bool size) {
        const at::Tensor y = in_float64(c, t, size);
        return y.slice(2, 1 - padding, {}, 2).slice(3, 1 - padding, {}, 2);
      };
      const at::Tensor right = every_other(false), size = every_other(true);
      const auto roundings = static_cast<double>(9 * c.in + 2);
      expect_telling(right, roundings * kUnit * size, "y");
      const auto wide = [](const at::Tensor& from) { return from.to(at::kDouble); };
      // In float64 both are the same operator's, which adds up twice.
      for (const auto& body : {halved_conv, composed_halved_conv})
        expect_within(body(wide(t[0]), wide(t[1]), wide(t[2]), padding),
                      right,
                      2 * roundings * kDoubleUnit * size,
                      "in float64");
      for (const bool x_last : {false, true})
        for (const bool weight_last : {false, true}) {
          const at::Tensor x = laid_out(t[0], x_last), weight = laid_out(t[1], weight_last);
          expect_within(
              halved_conv(x, weight, t[2], padding), right, roundings * kUnit * size, "y");
          expect_within(composed_halved_conv(x, weight, t[2], padding),
                        right,
                        roundings * kUnit * size,
                        "composed");
        }
      expect_same_in_parts(3, [&](int64_t first, int64_t count) {
        return halved_conv(t[0].narrow(0, first, count), t[1], t[2], padding);
      });
    }
}

TEST(HalvedConv, WithGradientsIsLibTorchs) {
  const Case c{2, 3, 5, 6, 4, 3, false};
  const std::vector<at::Tensor> t = inputs(c);
  for (const int64_t padding : {0, 1}) {
    const auto gradient = [&](auto body) {
      const at::Tensor x = t[0].clone().requires_grad_();
      body(x, t[1], t[2], padding).sum().backward();
      return x.grad();
    };
    EXPECT_TRUE(at::equal(gradient(halved_conv), gradient(composed_halved_conv)));
  }
}

// Rows below, at and above the eight that are taken at once; few rows and many columns, which the
// threads share.
TEST(Linear, EqualsTheOperatorInFloat64ToRounding) {
  const at::NoGradGuard no_grad;
  struct Size {
    int64_t rows, in, out;
  };
  for (const Size& s : std::vector<Size>{
           {1, 1, 1}, {3, 7, 5}, {8, 16, 32}, {9, 33, 17}, {3, 257, 1031}, {17, 130, 65}}) {
    SCOPED_TRACE(std::to_string(s.rows) + " x " + std::to_string(s.in) + " to " +
                 std::to_string(s.out));
    at::manual_seed(11);
    const at::Tensor x = at::randn({s.rows, s.in}), weight = at::randn({s.out, s.in}),
                     bias = at::randn({s.out});
    const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
    for (const bool with_bias : {false, true}) {
      const at::Tensor b = with_bias ? bias : at::Tensor();
      const at::Tensor right = at::linear(wide(x), wide(weight), with_bias ? wide(bias) : b);
      // Products and the bias.
      const at::Tensor bound =
          static_cast<double>(s.in + 2) * kUnit *
          at::linear(wide(x).abs(), wide(weight).abs(), with_bias ? wide(bias).abs() : b);
      expect_telling(right, bound, "y");
      // Rows and columns with gaps and in another order, too.
      const at::Tensor gaps = at::constant_pad_nd(x, {2, 1, 1, 0});
      for (const at::Tensor& rows :
           {x, x.t().contiguous().t(), gaps.narrow(0, 1, s.rows).narrow(1, 2, s.in)})
        for (const at::Tensor& matrix : {weight, weight.t().contiguous().t()}) {
          const at::Tensor y = linear(rows, matrix, b);
          ASSERT_EQ(y.scalar_type(), at::kFloat);
          expect_within(y, right, bound, "y");
        }
      expect_same_in_parts(s.rows, [&](int64_t first, int64_t count) {
        return linear(x.narrow(0, first, count), weight, b);
      });
    }
  }
}

TEST(Linear, WithGradientsIsLibTorchs) {
  at::manual_seed(12);
  const at::Tensor x = at::randn({5, 7}), weight = at::randn({3, 7}), bias = at::randn({3});
  const at::Tensor leaf = weight.clone().requires_grad_();
  const at::Tensor y = linear(x, leaf, bias);
  EXPECT_TRUE(at::equal(y, at::linear(x, weight, bias)));
  y.sum().backward();
  expect_within(leaf.grad(),
                x.to(at::kDouble).sum(0).expand({3, 7}),
                5 * kUnit * x.to(at::kDouble).abs().sum(0).expand({3, 7}),
                "gradient");
}

// Of x alone, as sampling by an ordinary differential equation needs it.
TEST(Conv, GivesTheGradientThatIsAskedFor) {
  const std::vector<at::Tensor> t = inputs({2, 32, 16, 4, 8, 3, false});
  const at::Tensor x = t[0].detach().requires_grad_();
  conv(x, t[1], t[2]).backward(t[4]);
  const Outcome all = run({2, 32, 16, 4, 8, 3, false}, at::kFloat, true);
  EXPECT_TRUE(at::equal(x.grad(), all.dx));
}

// oneDNN would run programs that it could not allocate.
TEST(Conv, IsOutOfMemoryWhereItsProgramsMayNotFit) {
  if (!kCanLimitCost) GTEST_SKIP() << "the sanitizer reserves terabytes of addresses";
  const Case c{1, 64, 64, 32, 32, 3, false};
  const std::vector<at::Tensor> t = inputs(c);
  const at::Tensor x = t[0].detach().requires_grad_();
  const auto all = [&] {
    return std::vector<at::Tensor>{
        conv(x, t[1], t[2]), halved_conv(x, t[1], t[2], 1), upsampled_conv(x, t[1], t[2])};
  };
  const MappingLimit enough(256);
  for (const at::Tensor& y : all()) {
    {
      const MappingLimit little(16);
      EXPECT_THROW(conv(x, t[1], t[2]), std::bad_alloc);
      EXPECT_THROW(halved_conv(x, t[1], t[2], 1), std::bad_alloc);
      EXPECT_THROW(upsampled_conv(x, t[1], t[2]), std::bad_alloc);
      EXPECT_THROW(y.sum().backward(), std::bad_alloc);
    }
    for (const at::Tensor& again : all()) EXPECT_NO_THROW(again.sum().backward());
  }
}

// Every instruction set, on one picture of integers, whose sums are exact.
TEST(ConvKernels, InstructionSetsAgree) {
  const kernels::ConvShape s{.height = 5, .width = 8, .in = 48, .out = 16, .kernel = 3};
  const int64_t pixels = s.height * s.width, weights = s.out * 9 * s.in;
  std::vector<float> x(static_cast<size_t>(pixels * s.in)), w(static_cast<size_t>(weights)),
      b(static_cast<size_t>(s.out));
  int value = 0;
  for (std::vector<float>* all : {&x, &w, &b})
    for (float& v : *all) v = static_cast<float>((value = (value * 5 + 3) % 17) - 8);
  std::vector<std::vector<float>> first;
  for (const kernels::CpuKernels* table : kernels::cpu_kernel_tables()) {
    SCOPED_TRACE(table->name);
    const kernels::ConvKernels& k = table->conv;
    const int64_t blocks = (s.out + k.block - 1) / k.block;
    std::vector<float> packed(static_cast<size_t>(blocks * k.block * 9 * s.in));
    for (int64_t i = 0; i < blocks * 9; ++i) k.pack(s, w.data(), false, i, packed.data());
    std::vector<float> y(static_cast<size_t>(pixels * s.out)), dw(w.size()), db(b.size());
    k.forward(s, 1, 0, s.height, 0, blocks, packed.data(), b.data(), nullptr, x.data(), y.data());
    k.weights(s,
              1,
              x.data(),
              y.data(),
              {.in = 0, .in_end = s.in, .out = 0, .out_end = s.out},
              dw.data(),
              db.data());
    if (first.empty()) first = {y, dw, db};
    EXPECT_EQ(first, (std::vector<std::vector<float>>{y, dw, db}));
  }
}

}  // namespace
}  // namespace diffuse
