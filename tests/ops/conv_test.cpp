// SPDX-License-Identifier: MIT
#include "ops/conv.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ops/kernels/cpu.h"
#include "ops/rounding.h"

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
  const int threads = at::get_num_threads();
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    at::set_num_threads(1);
    const Outcome alone = run(c, at::kFloat, true);
    at::set_num_threads(5);
    const Outcome shared = run(c, at::kFloat, true);
    at::set_num_threads(threads);
    EXPECT_TRUE(at::equal(alone.y, shared.y) && at::equal(alone.dx, shared.dx));
    EXPECT_TRUE(at::equal(alone.dw, shared.dw) && at::equal(alone.db, shared.db));
    const std::vector<at::Tensor> t = inputs(c);
    const at::Tensor last = c.added ? t[3].narrow(0, c.n - 1, 1) : at::Tensor();
    const at::Tensor y = conv(t[0].narrow(0, c.n - 1, 1), t[1], t[2], last);
    EXPECT_TRUE(at::equal(y, alone.y.narrow(0, c.n - 1, 1)));
  }
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
    EXPECT_TRUE(at::equal(y, conv(t[0], t[1], t[2], at::zeros_like(t[3]))));
    const auto in_float64 = [&](bool sizes) {
      const auto of = [&](const at::Tensor& from) {
        const at::Tensor wide = from.to(at::kDouble);
        return sizes ? wide.abs() : wide;
      };
      return at::conv2d(of(t[0]), of(t[1]), of(t[2]), 1, c.kernel / 2);
    };
    const auto products = static_cast<double>(c.kernel * c.kernel * c.in);
    expect_within(y, in_float64(false), (products + 2) * kUnit * in_float64(true), "y alone");
  }
}

// Of x alone, as sampling by an ordinary differential equation needs it.
TEST(Conv, GivesTheGradientThatIsAskedFor) {
  const std::vector<at::Tensor> t = inputs({2, 32, 16, 4, 8, 3, false});
  const at::Tensor x = t[0].detach().requires_grad_();
  conv(x, t[1], t[2]).backward(t[4]);
  const Outcome all = run({2, 32, 16, 4, 8, 3, false}, at::kFloat, true);
  EXPECT_TRUE(at::equal(x.grad(), all.dx));
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
    k.forward(s, 1, 0, blocks, packed.data(), b.data(), nullptr, x.data(), y.data());
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
