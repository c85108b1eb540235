// SPDX-License-Identifier: MIT
#include "ops/channels_last.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <vector>

#include "ops/parts.h"
#include "ops/rounding.h"

namespace diffuse {
namespace {

at::Tensor leaf(std::vector<int64_t> shape, at::ScalarType type) {
  return at::randn(shape, at::kDouble)
      .to(type)
      .contiguous(at::MemoryFormat::ChannelsLast)
      .requires_grad_();
}

struct Size {
  int64_t n, in, out, h, w;
};

std::ostream& operator<<(std::ostream& out, const Size& s) {
  return out << s.n << " of " << s.in << " to " << s.out << ", " << s.h << " x " << s.w;
}

struct Outcome {
  at::Tensor y, dx, dw, db;
};

enum class Body { ours, composed };

/// y and the gradients of sum(y g), computed in `type` from numbers that are rounded to `rounded`;
/// `sizes`: of their absolute values.
Outcome run(const Size& s,
            at::ScalarType rounded,
            at::ScalarType type,
            Body body,
            at::MemoryFormat layout = at::MemoryFormat::ChannelsLast,
            bool sizes = false) {
  at::manual_seed(2);
  const auto drawn = [&](std::vector<int64_t> shape) {
    const at::Tensor t = at::randn(shape, at::kDouble).to(rounded).to(type);
    return sizes ? t.abs() : t;
  };
  const at::Tensor x = drawn({s.n, s.in, s.h, s.w}).contiguous(layout).requires_grad_();
  const at::Tensor weight =
      drawn({s.out, s.in, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
  const at::Tensor bias = drawn({s.out}).requires_grad_();
  const at::Tensor y =
      (body == Body::ours ? upsampled_conv : composed_upsampled_conv)(x, weight, bias);
  y.backward(drawn({s.n, s.out, 2 * s.h, 2 * s.w}));
  return {y.detach(), x.grad(), weight.grad(), bias.grad()};
}

/// Roundings of y, dx, dw and db, each of at most the sum of the absolute values.
struct Roundings {
  double y, dx, dw, db;
};

/// Those of sums in float32 or float64: y is a bias and 4 in products, with weights of which up to
/// four were added up in two steps; dx 16 out products with the same; dw a sum over the pixels of x
/// and then of four of those; db over the pixels of y.
Roundings of_sums(const Size& s) {
  const auto count = [](int64_t n) { return static_cast<double>(n); };
  return {count(4 * s.in + 4),
          count(16 * s.out + 3),
          count(s.n * s.h * s.w + 3),
          count(4 * s.n * s.h * s.w)};
}

void expect_equal(const Size& s,
                  at::ScalarType type,
                  at::MemoryFormat layout,
                  double unit,
                  const Roundings& more,
                  double unit_of_more) {
  SCOPED_TRACE(testing::PrintToString(s));
  const Outcome got = run(s, type, type, Body::ours, layout);
  const Outcome right = run(s, type, at::kDouble, Body::composed);
  const Outcome size =
      run(s, type, at::kDouble, Body::composed, at::MemoryFormat::ChannelsLast, true);
  const Roundings sums = of_sums(s);
  const auto expect =
      [&](at::Tensor Outcome::*part, double Roundings::*roundings, const char* what) {
        ASSERT_EQ((got.*part).scalar_type(), type);
        const at::Tensor bound =
            (unit * sums.*roundings + unit_of_more * more.*roundings) * (size.*part);
        expect_within(got.*part, right.*part, bound, what);
        expect_telling(right.*part, bound, what, 1);
      };
  expect(&Outcome::y, &Roundings::y, "y");
  expect(&Outcome::dx, &Roundings::dx, "dx");
  expect(&Outcome::dw, &Roundings::dw, "dw");
  expect(&Outcome::db, &Roundings::db, "db");
}

std::vector<Size> sizes() {
  return {{1, 1, 1, 1, 1},
          {2, 3, 5, 4, 4},
          {1, 16, 16, 3, 7},
          {3, 8, 4, 1, 6},
          {2, 4, 8, 8, 2},
          {2, 64, 32, 8, 8}};
}

// The same products, added up in another order, of a map in either layout.
TEST(UpsampledConv, IsAConvolutionOfTheEnlargedMap) {
  for (const at::MemoryFormat layout :
       {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous})
    for (const Size& s : sizes()) {
      expect_equal(s, at::kFloat, layout, kUnit, {}, 0);
      // The reference is rounded, too: 9 in products of y, 36 out of dx, 4 n h w of dw and db.
      const double pixels = static_cast<double>(4 * s.n * s.h * s.w);
      expect_equal(s,
                   at::kDouble,
                   layout,
                   kDoubleUnit,
                   {.y = static_cast<double>(9 * s.in + 1),
                    .dx = static_cast<double>(36 * s.out),
                    .dw = pixels,
                    .db = pixels},
                   kDoubleUnit);
    }
}

// Without gradients in float32, four products of the map's own pixels instead of LibTorch's
// operator: widths, heights and channels that no vector divides, and enough work for threads.
TEST(UpsampledConv, WithoutGradientsTooAndInParts) {
  const at::NoGradGuard no_grad;
  std::vector<Size> all = sizes();
  for (const Size& s : std::vector<Size>{{1, 3, 1, 5, 7}, {3, 19, 33, 3, 1}, {3, 33, 35, 11, 13}})
    all.push_back(s);
  for (Size s : all) {
    s.n = 3;
    SCOPED_TRACE(testing::PrintToString(s));
    at::manual_seed(4);
    const at::Tensor x = at::randn({s.n, s.in, s.h, s.w}), weight = at::randn({s.out, s.in, 3, 3}),
                     bias = at::randn({s.out});
    const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
    const at::Tensor right = composed_upsampled_conv(wide(x), wide(weight), wide(bias));
    const at::Tensor bound =
        kUnit * of_sums(s).y *
        composed_upsampled_conv(wide(x).abs(), wide(weight).abs(), wide(bias).abs());
    expect_telling(right, bound, "y");
    for (const at::MemoryFormat layout :
         {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous})
      for (const at::MemoryFormat of_weight :
           {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous}) {
        const at::Tensor y =
            upsampled_conv(x.contiguous(layout), weight.contiguous(of_weight), bias);
        ASSERT_EQ(y.scalar_type(), at::kFloat);
        EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
        expect_within(y, right, bound, "y");
      }
    expect_same_in_parts(3, [&](int64_t first, int64_t count) {
      return upsampled_conv(x.narrow(0, first, count), weight, bias);
    });
  }
}

// bfloat16: the added weights are rounded once more, and the results. LibTorch's convolution may
// keep the sums of a tap (four of them and a bias in y) or of a picture's weights in bfloat16, and
// rounds what it adds to them each time.
TEST(UpsampledConv, InBfloat16) {
  for (const Size& s : sizes()) {
    const double pictures = static_cast<double>(s.n);
    expect_equal(s,
                 at::kBFloat16,
                 at::MemoryFormat::ChannelsLast,
                 kUnit,
                 {.y = 7, .dx = 3, .dw = pictures + 2, .db = pictures + 2},
                 kHalfUnit);
  }
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
  // An input that is not channels-last is taken as it is, and no gradient need be wanted.
  const at::Tensor a = at::randn({3, 2, 3, 3}), b = at::randn({3, 5, 3, 3});
  EXPECT_TRUE(at::equal(concat_channels(a, b), at::cat({a, b}, 1)));
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(concat_channels(a, b), at::cat({a, b}, 1)));
}

}  // namespace
}  // namespace diffuse
