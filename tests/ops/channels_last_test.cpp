// SPDX-License-Identifier: MIT
#include "ops/channels_last.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace diffuse {
namespace {

double largest(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor leaf(std::vector<int64_t> shape, at::ScalarType type) {
  return at::randn(shape, at::kDouble)
      .to(type)
      .contiguous(at::MemoryFormat::ChannelsLast)
      .requires_grad_();
}

struct Outcome {
  at::Tensor y, dx, dw, db;
};

/// In two ways, from the same numbers: y and the gradients of sum(y g).
Outcome run(
    int64_t n, int64_t in, int64_t out, int64_t h, int64_t w, at::ScalarType type, bool ours) {
  at::manual_seed(2);
  const at::Tensor x = leaf({n, in, h, w}, type), weight = leaf({out, in, 3, 3}, type);
  const at::Tensor bias = at::randn({out}, at::kDouble).to(type).requires_grad_();
  const at::Tensor y =
      ours ? upsampled_conv(x, weight, bias)
           : at::conv2d(at::upsample_nearest2d(x, {2 * h, 2 * w}), weight, bias, 1, 1);
  y.backward(at::randn(y.sizes(), at::kDouble).to(type));
  return {y.detach(), x.grad(), weight.grad(), bias.grad()};
}

// The same products, added up in another order: in float64 to some roundings of 36 in (out) terms.
TEST(UpsampledConv, IsAConvolutionOfTheEnlargedMap) {
  struct Size {
    int64_t n, in, out, h, w;
  };
  for (const Size& s : std::vector<Size>{
           {1, 1, 1, 1, 1}, {2, 3, 5, 4, 4}, {1, 16, 16, 3, 7}, {3, 8, 4, 1, 6}, {2, 4, 8, 8, 2}}) {
    const Outcome a = run(s.n, s.in, s.out, s.h, s.w, at::kDouble, true);
    const Outcome b = run(s.n, s.in, s.out, s.h, s.w, at::kDouble, false);
    EXPECT_EQ(a.y.sizes(), b.y.sizes());
    for (const auto& [x, y] :
         {std::pair(a.y, b.y), std::pair(a.dx, b.dx), std::pair(a.dw, b.dw), std::pair(a.db, b.db)})
      EXPECT_LE(largest(x - y), 1e-13 * (1 + largest(y)));
  }
}

// bfloat16: the added weights are rounded once more, to 2^-9 each; the output once.
TEST(UpsampledConv, InBfloat16) {
  const Outcome a = run(2, 16, 8, 4, 4, at::kBFloat16, true);
  const Outcome b = run(2, 16, 8, 4, 4, at::kBFloat16, false);
  EXPECT_EQ(a.y.scalar_type(), at::kBFloat16);
  for (const auto& [x, y] : {std::pair(a.y, b.y), std::pair(a.dx, b.dx), std::pair(a.dw, b.dw)})
    EXPECT_LE(largest(x.to(at::kDouble) - y), 4 * 0x1p-8 * largest(y));
}

TEST(ConcatChannels, IsCatForwardAndBackward) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const at::Tensor a = leaf({2, 3, 4, 5}, type), b = leaf({2, 70, 4, 5}, type);
    const at::Tensor y = concat_channels(a, b);
    EXPECT_TRUE(at::equal(y, at::cat({a, b}, 1)));
    EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
    const at::Tensor g = at::randn(y.sizes()).to(type);  // contiguous, as LibTorch may hand it on
    y.backward(g);
    EXPECT_TRUE(at::equal(a.grad(), g.narrow(1, 0, 3)));
    EXPECT_TRUE(at::equal(b.grad(), g.narrow(1, 3, 70)));
    EXPECT_TRUE(b.grad().is_contiguous(at::MemoryFormat::ChannelsLast));
  }
  // An input that is not channels-last is taken as it is.
  const at::Tensor a = at::randn({1, 2, 3, 3}), b = at::randn({1, 4, 3, 3});
  EXPECT_TRUE(at::equal(concat_channels(a, b), at::cat({a, b}, 1)));
}

}  // namespace
}  // namespace diffuse
