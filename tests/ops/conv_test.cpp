// SPDX-License-Identifier: MIT
#include "ops/conv.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

constexpr double kEps = 0x1p-24;  // of a rounding to float32

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

/// y of conv() or of LibTorch's operator and the gradients of sum(y g). `size`: of absolute values.
Outcome run(const Case& c, at::ScalarType type, bool ours, bool size = false) {
  std::vector<at::Tensor> leaves = inputs(c);
  for (at::Tensor& t : leaves) {
    t = (size ? t.abs() : t).to(type);
    if (t.dim() == 4) t = t.contiguous(at::MemoryFormat::ChannelsLast);
    t.requires_grad_();
  }
  const at::Tensor added = c.added ? leaves[3] : at::Tensor();
  at::Tensor y = ours ? conv(leaves[0], leaves[1], leaves[2], added)
                      : at::conv2d(leaves[0], leaves[1], leaves[2], 1, c.kernel / 2);
  if (!ours && c.added) y = y + added;
  y.backward(leaves[4].detach());
  return {y.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad(), leaves[3].grad()};
}

// A sum of k products with k + 1 roundings is off by at most (k + 1) eps times the sum of their
// absolute values (Higham 2002, sec. 3.1).
TEST(Conv, EqualsTheOperatorInFloat64ToRounding) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    const Outcome got = run(c, at::kFloat, true), right = run(c, at::kDouble, false),
                  size = run(c, at::kDouble, false, true);
    const auto expect = [&](const at::Tensor& a,
                            const at::Tensor& b,
                            const at::Tensor& sizes,
                            int64_t products,
                            const char* what) {
      ASSERT_EQ(a.scalar_type(), at::kFloat);
      ASSERT_EQ(a.sizes(), b.sizes());
      const at::Tensor excess =
          (a.to(at::kDouble) - b).abs() - static_cast<double>(products + 3) * kEps * sizes;
      EXPECT_LE(excess.max().item<double>(), 0) << what;
    };
    const int64_t area = c.kernel * c.kernel, pixels = c.n * c.height * c.width;
    expect(got.y, right.y, size.y, area * c.in, "y");
    EXPECT_TRUE(got.y.is_contiguous(at::MemoryFormat::ChannelsLast));
    expect(got.dx, right.dx, size.dx, area * c.out, "dx");
    expect(got.dw, right.dw, size.dw, pixels, "dw");
    expect(got.db, right.db, size.db, pixels, "db");
    if (c.added) {
      EXPECT_TRUE(at::equal(got.d_added, right.d_added.to(at::kFloat)));
    }
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
    const Outcome a = run(c, at::kDouble, true), b = run(c, at::kDouble, false);
    EXPECT_TRUE(at::allclose(a.y, b.y) && at::allclose(a.dw, b.dw) && at::allclose(a.dx, b.dx));
    const std::vector<at::Tensor> t = inputs(c);  // not channels-last, and without gradients
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(at::equal(conv(t[0], t[1], t[2]), conv(t[0], t[1], t[2], at::zeros_like(t[3]))));
    EXPECT_LE((conv(t[0], t[1], t[2]) - at::conv2d(t[0], t[1], t[2], 1, c.kernel / 2))
                  .abs()
                  .max()
                  .item<double>(),
              1e-3);
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
