// SPDX-License-Identifier: MIT
#include "ops/steady.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "ops/parts.h"
#include "ops/rounding.h"

namespace diffuse {
namespace {

struct Function {
  const char* name;
  at::Tensor (*steady)(const at::Tensor&);
  at::Tensor (*by_libtorch)(const at::Tensor&);
  double units;  // of kUnit, relative
};

/// The C library's functions are a unit in the last place off at most, two of kUnit; silu has an
/// exponential, a sum and a quotient.
std::vector<Function> functions() {
  return {{"silu", steady_silu, at::silu, 4},
          {"exp", steady_exp, at::exp, 2},
          {"sin", steady_sin, at::sin, 2},
          {"cos", steady_cos, at::cos, 2}};
}

TEST(Steady, EqualsLibTorchInFloat64ToRounding) {
  const at::NoGradGuard no_grad;
  at::manual_seed(1);
  for (const Function& f : functions()) {
    SCOPED_TRACE(f.name);
    for (const double size : {1e-6, 1.0, 20.0, 80.0}) {
      const at::Tensor x = at::randn({3, 5, 7, 11}).clamp(-4, 1) * size;
      for (const at::Tensor& map : {x, x.contiguous(at::MemoryFormat::ChannelsLast)}) {
        const at::Tensor got = f.steady(map), right = f.by_libtorch(map.to(at::kDouble));
        ASSERT_EQ(got.scalar_type(), at::kFloat);
        // Where e^-x is beyond float32, silu is 0 instead of at most 89 e^-88; where e^x is below
        // its normal numbers, those are 2^-149 apart.
        const at::Tensor bound = 1.01 * f.units * kUnit * right.abs() + 1e-36;
        expect_within(got, right, bound, "value");
        expect_telling(right, bound, "value");
      }
    }
  }
}

// Of a batch, a vector and a thread's share, the last few values, too.
TEST(Steady, NoBitDependsOnTheBatchOrTheThreads) {
  const at::NoGradGuard no_grad;
  at::manual_seed(2);
  for (const Function& f : functions())
    for (const int64_t values : {1, 7, 19, 2741}) {
      SCOPED_TRACE(f.name + std::string(" of ") + std::to_string(values));
      const at::Tensor x = at::randn({3, values}) * 5;
      expect_same_in_parts(
          3, [&](int64_t first, int64_t count) { return f.steady(x.narrow(0, first, count)); });
    }
}

TEST(Steady, InfinitiesAndNan) {
  const at::NoGradGuard no_grad;
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor x = at::tensor({-infinity, infinity, std::nan("")}).to(at::kFloat);
  const at::Tensor e = steady_exp(x), s = steady_silu(x);
  EXPECT_EQ(e[0].item<float>(), 0);
  EXPECT_EQ(e[1].item<double>(), infinity);
  EXPECT_EQ(s[1].item<double>(), infinity);
  EXPECT_TRUE(e[2].isnan().item<bool>() && s[2].isnan().item<bool>());
}

// With gradients, and in other types, it is LibTorch's.
TEST(Steady, ElsewhereIsLibTorchs) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({2, 37});
  for (const Function& f : functions()) {
    const at::Tensor leaf = x.clone().requires_grad_();
    const at::Tensor y = f.steady(leaf);
    EXPECT_TRUE(y.requires_grad()) << f.name;
    EXPECT_TRUE(at::equal(y.detach(), f.by_libtorch(x))) << f.name;
    const at::NoGradGuard no_grad;
    for (const at::ScalarType type : {at::kDouble, at::kBFloat16})
      EXPECT_TRUE(at::equal(f.steady(x.to(type)), f.by_libtorch(x.to(type)))) << f.name;
  }
}

}  // namespace
}  // namespace diffuse
