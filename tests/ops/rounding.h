// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

namespace diffuse {

// The largest relative error of rounding to float64, float32 and bfloat16.
inline constexpr double kDoubleUnit = 0x1p-53, kUnit = 0x1p-24, kHalfUnit = 0x1p-8;

inline double largest(const at::Tensor& t) { return t.abs().max().item<double>(); }

/// |got - expected| against a bound for each element; both of one shape, `expected` and `bound` in
/// float64. A sum of k products has k + 1 roundings of at most the sum of the absolute values each
/// (Higham 2002, sec. 3.1).
inline void expect_within(const at::Tensor& got,
                          const at::Tensor& expected,
                          const at::Tensor& bound,
                          const std::string& what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const at::Tensor error = (got.to(at::kDouble) - expected).abs();
  EXPECT_TRUE((error <= bound).all().item<bool>())
      << what << ": " << largest(error) << " where " << largest(bound) << " is allowed at most, "
      << largest(error / bound) << " of the bound";
}

/// The bound means something: zeros are beyond it, by a factor.
inline void expect_telling(const at::Tensor& expected,
                           const at::Tensor& bound,
                           const std::string& what,
                           double factor = 10) {
  EXPECT_TRUE((expected.abs() > factor * bound).any().item<bool>())
      << what << ": zeros are less than " << factor << " bounds off";
}

}  // namespace diffuse
