// SPDX-License-Identifier: MIT
#include "ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace diffuse {
namespace {

constexpr double kEps = 1.1920929e-7;  // of float32

struct Case {
  int64_t n, tokens, channels, head;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.n << " x " << c.tokens << " x " << c.channels << ", heads of " << c.head;
}

/// Heads of U-Nets and heads that no vector divides; one token, odd numbers of them, and many.
std::vector<Case> cases() {
  return {{2, 64, 32, 8},
          {1, 1, 8, 8},
          {3, 35, 12, 3},
          {1, 17, 64, 64},
          {2, 256, 16, 16},
          {1, 100, 40, 20},
          {2, 7, 6, 1},
          {1, 48, 33, 33}};
}

struct Outcome {
  at::Tensor out, dq, dk, dv;
};

Outcome run(const Case& c, at::ScalarType type, double sharpness, bool fused) {
  at::manual_seed(3);
  const at::ScalarType rounded = type == at::kDouble ? at::kFloat : type;
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 3; ++i) leaves.push_back(at::randn({c.n, c.tokens, c.channels}));
  leaves[0] = leaves[0] * sharpness;
  const at::Tensor d_out = at::randn({c.n, c.tokens, c.channels}).to(rounded);
  for (at::Tensor& leaf : leaves) leaf = leaf.to(rounded).to(type).requires_grad_();
  const at::Tensor out = fused ? attention(at::cat(leaves, 2), c.head)
                               : composed_attention(leaves[0], leaves[1], leaves[2], c.head);
  out.backward(d_out.to(type));
  return {out.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

double largest(const at::Tensor& t) { return t.abs().max().item<double>(); }

/// Inputs of bfloat16 are exact in both; float64 is given the same numbers.
Outcome reference(const Case& c, at::ScalarType type, double sharpness) {
  if (type == at::kFloat) return run(c, at::kDouble, sharpness, false);
  at::manual_seed(3);
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 3; ++i) leaves.push_back(at::randn({c.n, c.tokens, c.channels}));
  leaves[0] = leaves[0] * sharpness;
  const at::Tensor d_out = at::randn({c.n, c.tokens, c.channels}).to(type).to(at::kDouble);
  for (at::Tensor& leaf : leaves) leaf = leaf.to(type).to(at::kDouble).requires_grad_();
  const at::Tensor out = composed_attention(leaves[0], leaves[1], leaves[2], c.head);
  out.backward(d_out);
  return {out.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

class AttentionKernel : public testing::TestWithParam<at::ScalarType> {};

// Against LibTorch's operator in float64. A score is a sum of `head` products of size |q||k| / root
// head, so off by some eps (head + 4) times that, which moves its exponential by as much relative
// to it; outputs are averages of v with such weights, over sums of `tokens` terms. Gradients have
// one product more. bfloat16 rounds what comes out, and `out` where backward reads it.
TEST_P(AttentionKernel, EqualsTheComposedBodyToRounding) {
  const at::ScalarType type = GetParam();
  const bool half = type == at::kBFloat16;
  for (const Case& c : cases()) {
    for (const double sharpness : {0.1, 1.0, 8.0}) {
      SCOPED_TRACE(testing::PrintToString(c) + " sharpness " + std::to_string(sharpness));
      const Outcome got = run(c, type, sharpness, true), right = reference(c, type, sharpness);
      ASSERT_EQ(got.out.scalar_type(), type);
      // |N(0, 1)| stays below 5 in tests of this size.
      const double score = sharpness * 25 * std::sqrt(static_cast<double>(c.head));
      const double relative = kEps * (4 * (static_cast<double>(c.head) / 8 + 4) * score / 4 +
                                      static_cast<double>(c.tokens));
      const auto expect =
          [&](const at::Tensor& a, const at::Tensor& b, double size, const char* w) {
            const double tolerance =
                relative * size + (half ? 0x1p-8 * (largest(b) + 0.1 * size) : 0);
            EXPECT_LE(largest(a.to(at::kDouble) - b), tolerance) << w;
          };
      expect(got.out, right.out, 5, "out");
      const double slope = 5 * 25 * std::sqrt(static_cast<double>(c.head));  // |P (dP - mean)| k
      expect(got.dq, right.dq, slope, "dq");
      expect(got.dk, right.dk, slope * sharpness * std::sqrt(static_cast<double>(c.tokens)), "dk");
      expect(got.dv, right.dv, 5 * std::sqrt(static_cast<double>(c.tokens)), "dv");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AttentionKernel, testing::Values(at::kFloat, at::kBFloat16));

// Equal keys: every token is the mean of the values.
TEST(Attention, EqualKeysAverage) {
  const at::Tensor v = at::randn({2, 37, 16}), q = at::randn({2, 37, 16}) * 50;
  const at::Tensor out = attention(at::cat({q, at::ones({2, 37, 16}), v}, 2), 8);
  const at::Tensor mean = v.to(at::kDouble).mean(1, true).expand({2, 37, 16});
  EXPECT_LE(largest(out.to(at::kDouble) - mean), 40 * kEps * 5);
}

TEST(Attention, HugeScoresDoNotOverflow) {
  const at::Tensor q = at::randn({1, 20, 8}) * 1e4;
  const at::Tensor out = attention(at::cat({q, q, at::randn({1, 20, 8})}, 2), 8);
  EXPECT_TRUE(at::isfinite(out).all().item<bool>());
}

// Beyond the kernel's heads LibTorch's operator takes over, with the same result.
TEST(Attention, LargeHeadsToo) {
  const at::Tensor qkv = at::randn({2, 9, 3 * 130});
  const std::vector<at::Tensor> parts = qkv.chunk(3, 2);
  EXPECT_TRUE(at::equal(attention(qkv, 65), composed_attention(parts[0], parts[1], parts[2], 65)));
}

TEST(Attention, ThreadsChangeNothing) {
  const Case c{3, 50, 24, 8};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Outcome alone = run(c, at::kFloat, 1, true);
  at::set_num_threads(5);
  const Outcome shared = run(c, at::kFloat, 1, true);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(alone.out, shared.out));
  EXPECT_TRUE(at::equal(alone.dq, shared.dq) && at::equal(alone.dk, shared.dk) &&
              at::equal(alone.dv, shared.dv));
}

}  // namespace
}  // namespace diffuse
