// SPDX-License-Identifier: MIT
#include "ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ops/parts.h"
#include "ops/rounding.h"
#include "support/threads.h"

namespace diffuse {
namespace {

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

struct Inputs {
  at::Tensor q, k, v, d_out;  // [n, tokens, channels]
};

Inputs inputs(const Case& c, at::ScalarType type, double sharpness) {
  at::manual_seed(3);
  const auto normals = [&](double size) {
    return (at::randn({c.n, c.tokens, c.channels}) * size).to(type);
  };
  const at::Tensor q = normals(sharpness), k = normals(1), v = normals(1);
  return {q, k, v, normals(1)};
}

Inputs widened(const Inputs& in) {
  return {
      in.q.to(at::kDouble), in.k.to(at::kDouble), in.v.to(at::kDouble), in.d_out.to(at::kDouble)};
}

struct Outcome {
  at::Tensor out, dq, dk, dv;
};

Outcome run(const Inputs& in, int64_t head, bool fused) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& t : {in.q, in.k, in.v})
    leaves.push_back(t.detach().clone().requires_grad_());
  const at::Tensor out = fused ? attention(at::cat(leaves, 2), head)
                               : composed_attention(leaves[0], leaves[1], leaves[2], head);
  out.backward(in.d_out);
  return {out.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

/// How far each value of the kernel may be from the true one: first-order terms of every rounding,
/// with the sizes of all that is added up, from inputs in float64.
Outcome bounds(const Inputs& in, int64_t head, bool half) {
  const int64_t n = in.q.size(0), tokens = in.q.size(1), channels = in.q.size(2);
  const auto heads = [&](const at::Tensor& t) {  // [n, heads, tokens, head]
    return t.view({n, tokens, channels / head, head}).transpose(1, 2);
  };
  const auto product = [](const at::Tensor& a, const at::Tensor& b) {
    return at::matmul(a, b.transpose(2, 3));
  };
  const auto sum = [](const at::Tensor& t) { return t.sum({-1}, true); };
  const at::Tensor q = heads(in.q), k = heads(in.k), v = heads(in.v), g = heads(in.d_out);
  const double factor = 1 / std::sqrt(static_cast<double>(head));
  const double in_head = kUnit * static_cast<double>(head + 4),
               in_row = kUnit * static_cast<double>(tokens + 4);

  // Scores, their exponentials (2 units in the last place of e^x, the difference to the largest
  // rounded) and P, relative to its values.
  const at::Tensor scores = product(q, k) * factor;
  const at::Tensor of_score = in_head * factor * product(q.abs(), k.abs());
  const at::Tensor top = std::get<0>(scores.max(-1, true));
  const at::Tensor lse = scores.logsumexp(-1, true), p = at::exp(scores - lse);
  const at::Tensor of_exp = of_score + kUnit * ((top - scores) + 4);
  const at::Tensor of_sum = sum(p * of_exp) + in_row;
  const at::Tensor of_p = p * (of_exp + of_sum);
  const at::Tensor out = at::matmul(p, v);
  at::Tensor of_out = at::matmul(of_p + in_row * p, v.abs());
  if (half) of_out = of_out + kHalfUnit * (out.abs() + of_out);

  // Backward: P again, by the logarithm of the sum, which is rounded in its turn.
  const at::Tensor of_lse = of_sum + kUnit * (2 * (lse - top) + lse.abs());
  const at::Tensor of_p_again = p * (of_score + kUnit * ((lse - scores).abs() + 4) + of_lse);
  const at::Tensor dp = product(g, v), mean = sum(g * out);
  const at::Tensor slope = p * (dp - mean);
  const at::Tensor of_mean = sum(g.abs() * (in_head * out.abs() + of_out));
  const at::Tensor of_slope = (of_p_again + 2 * kUnit * p) * (dp - mean).abs() +
                              p * (in_head * product(g.abs(), v.abs()) + of_mean);
  const auto of_rows =
      [&](const at::Tensor& of_weights, const at::Tensor& weights, const at::Tensor& rows) {
        return at::matmul(of_weights + in_row * weights.abs(), rows.abs());
      };
  const auto turned = [](const at::Tensor& t) { return t.transpose(2, 3); };
  const auto done = [&](const at::Tensor& t) {
    // 1 %: terms of higher order. 1e-33: exponentials end at e^-87 and are of up to 256 tokens.
    return t.transpose(1, 2).reshape({n, tokens, channels}) * 1.01 + 1e-33;
  };
  return {done(of_out),
          done(factor * of_rows(of_slope, slope, k)),
          done(factor * of_rows(turned(of_slope), turned(slope), q)),
          done(of_rows(turned(of_p_again), turned(p), g))};
}

class AttentionKernel : public testing::TestWithParam<at::ScalarType> {};

// Against LibTorch's operator in float64, on the same numbers.
TEST_P(AttentionKernel, EqualsTheComposedBodyToRounding) {
  const at::ScalarType type = GetParam();
  const bool half = type == at::kBFloat16;
  for (const Case& c : cases()) {
    for (const double sharpness : {0.1, 1.0, 8.0}) {
      SCOPED_TRACE(testing::PrintToString(c) + " sharpness " + std::to_string(sharpness));
      const Inputs in = inputs(c, type, sharpness), wide = widened(in);
      const Outcome got = run(in, c.head, true), right = run(wide, c.head, false);
      const Outcome bound = bounds(wide, c.head, half);
      ASSERT_EQ(got.out.scalar_type(), type);
      const auto expect = [&](at::Tensor Outcome::*part, const char* what) {
        const at::Tensor& b = right.*part;
        at::Tensor allowed = bound.*part;
        if (half && part != &Outcome::out) allowed = allowed + kHalfUnit * (b.abs() + allowed);
        expect_within(got.*part, b, allowed, what);
        // Of one token, dq and dk are zeros.
        if (c.tokens > 1 || part == &Outcome::out || part == &Outcome::dv)
          expect_telling(b, allowed, what);
      };
      expect(&Outcome::out, "out");
      expect(&Outcome::dq, "dq");
      expect(&Outcome::dk, "dk");
      expect(&Outcome::dv, "dv");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AttentionKernel, testing::Values(at::kFloat, at::kBFloat16));

// Rows with gaps and in another order, of the input and of the gradient.
TEST(Attention, StridesChangeNothing) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor wide = at::randn({4, 21, 60}).to(type),
                     turned = at::randn({48, 19, 3}).to(type);
    const at::Tensor d_wide = at::randn({3, 19, 40}).to(type),
                     d_turned = at::randn({16, 3, 19}).to(type);
    const auto gradient = [](const at::Tensor& qkv, const at::Tensor& d_out) {
      const at::Tensor leaf = qkv.detach().requires_grad_();
      const at::Tensor out = attention(leaf, 8);
      out.backward(d_out);
      return std::pair(out.detach(), leaf.grad());
    };
    for (const at::Tensor& qkv :
         {wide.narrow(0, 1, 3).narrow(1, 2, 19).narrow(2, 5, 48), turned.permute({2, 1, 0})})
      for (const at::Tensor& d_out : {d_wide.narrow(2, 7, 16), d_turned.permute({1, 2, 0})}) {
        ASSERT_FALSE(qkv.is_contiguous() || d_out.is_contiguous());
        const auto [out, d_qkv] = gradient(qkv, d_out);
        const auto [want, d_want] = gradient(qkv.contiguous(), d_out.contiguous());
        EXPECT_TRUE(at::equal(out, want));
        EXPECT_TRUE(at::equal(d_qkv, d_want));
      }
  }
}

// Equal keys: every token is the mean of the values.
TEST(Attention, EqualKeysAverage) {
  const at::Tensor v = at::randn({2, 37, 16}), q = at::randn({2, 37, 16}) * 50;
  const at::Tensor out = attention(at::cat({q, at::ones({2, 37, 16}), v}, 2), 8);
  const at::Tensor mean = v.to(at::kDouble).mean(1, true).expand({2, 37, 16});
  // The exponentials are 1; 37 values are added up, and their sum is divided.
  EXPECT_LE(largest(out.to(at::kDouble) - mean), 40 * kUnit * largest(v));
}

TEST(Attention, HugeScoresDoNotOverflow) {
  const at::Tensor q = at::randn({1, 20, 8}) * 1e4;
  const at::Tensor out = attention(at::cat({q, q, at::randn({1, 20, 8})}, 2), 8);
  EXPECT_TRUE(at::isfinite(out).all().item<bool>());
}

// Beyond the kernel's heads LibTorch's operator takes over where there are gradients, and in
// bfloat16, with the same result.
TEST(Attention, LargeHeadsToo) {
  const at::Tensor qkv = at::randn({2, 9, 3 * 130});
  const auto expect_composed = [](const at::Tensor& all) {
    const std::vector<at::Tensor> parts = all.chunk(3, 2);
    EXPECT_TRUE(
        at::equal(attention(all, 65), composed_attention(parts[0], parts[1], parts[2], 65)));
  };
  expect_composed(qkv);
  const at::NoGradGuard no_grad;
  expect_composed(qkv.to(at::kBFloat16));
}

/// Without gradients heads of any size have the kernel.
std::vector<Case> any_heads() {
  std::vector<Case> all = cases();
  for (const Case& c : std::vector<Case>{
           {3, 9, 130, 65}, {1, 1, 65, 65}, {3, 35, 130, 130}, {1, 17, 260, 130}, {3, 64, 72, 72}})
    all.push_back(c);
  return all;
}

TEST(AttentionWithoutGradients, EqualsTheComposedBodyToRounding) {
  const at::NoGradGuard no_grad;
  for (const Case& c : any_heads())
    for (const double sharpness : {0.1, 1.0, 8.0}) {
      SCOPED_TRACE(testing::PrintToString(c) + " sharpness " + std::to_string(sharpness));
      const Inputs in = inputs(c, at::kFloat, sharpness), wide = widened(in);
      const at::Tensor right = composed_attention(wide.q, wide.k, wide.v, c.head);
      const at::Tensor bound = bounds(wide, c.head, false).out;
      const at::Tensor rows = at::cat({in.q, in.k, in.v}, 2);
      // As channels-last maps hand it on, as contiguous ones do, and with gaps.
      const at::Tensor padded = at::constant_pad_nd(rows, {3, 2, 1, 0});
      for (const at::Tensor& qkv : {rows,
                                    rows.transpose(1, 2).contiguous().transpose(1, 2),
                                    padded.narrow(1, 1, c.tokens).narrow(2, 3, 3 * c.channels)}) {
        const at::Tensor got = attention(qkv, c.head);
        ASSERT_EQ(got.scalar_type(), at::kFloat);
        expect_within(got, right, bound, "out");
      }
      expect_telling(right, bound, "out");
    }
}

TEST(AttentionWithoutGradients, NoBitDependsOnTheBatchOrTheThreads) {
  const at::NoGradGuard no_grad;
  for (Case c : any_heads()) {
    c.n = 3;
    SCOPED_TRACE(testing::PrintToString(c));
    const Inputs in = inputs(c, at::kFloat, 1);
    const at::Tensor qkv = at::cat({in.q, in.k, in.v}, 2);
    expect_same_in_parts(3, [&](int64_t first, int64_t count) {
      return attention(qkv.narrow(0, first, count), c.head);
    });
  }
}

// Of the heads that training has, too, in either type.
TEST(AttentionWithoutGradients, HasTheBitsOfTheKernelWithThem) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const Case& c : cases()) {
      const Inputs in = inputs(c, type, 1);
      const at::Tensor want = run(in, c.head, true).out;
      const at::NoGradGuard no_grad;
      EXPECT_TRUE(at::equal(attention(at::cat({in.q, in.k, in.v}, 2), c.head), want))
          << testing::PrintToString(c);
    }
}

TEST(Attention, ThreadsChangeNothing) {
  const Case c{3, 50, 24, 8};
  const Threads restored;
  at::set_num_threads(1);
  const Inputs in = inputs(c, at::kFloat, 1);
  const Outcome alone = run(in, c.head, true);
  at::set_num_threads(5);
  const Outcome shared = run(in, c.head, true);
  EXPECT_TRUE(at::equal(alone.out, shared.out));
  EXPECT_TRUE(at::equal(alone.dq, shared.dq) && at::equal(alone.dk, shared.dk) &&
              at::equal(alone.dv, shared.dv));
}

}  // namespace
}  // namespace diffuse
