// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

namespace diffuse {

/// A mean and its bootstrap interval. NaN where values are not finite; low and high also where
/// there are fewer than two.
struct Interval {
  double mean = 0, low = 0, high = 0;
};

/// Columns of numbers for the same items, all of one length.
using Columns = std::vector<std::vector<double>>;

constexpr int64_t kResamples = 10'000;

/// The mean of each column with its 95% percentile interval: the 2.5th and 97.5th percentile of the
/// means of `resamples` samples of items with replacement (Efron & Tibshirani 1993, eq. 13.5).
/// Resample b draws the same items for every column. Equal input, equal bits.
std::vector<Interval> bootstrap_means(const Columns& columns, int64_t resamples = kResamples);

/// mean(a) - mean(b) of each pair of columns with its interval, the items of `a` and `b` drawn
/// independently: two samples that are not paired.
std::vector<Interval> bootstrap_differences(const Columns& a,
                                            const Columns& b,
                                            int64_t resamples = kResamples);

/// NaN of no values.
double mean_of(const std::vector<double>& values);

/// Standard error of the mean, with n - 1; NaN of fewer than two values.
double standard_error(const std::vector<double>& values);

}  // namespace diffuse
