// SPDX-License-Identifier: MIT
#include "report/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"

namespace diffuse {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// n standard normals, number `which`.
std::vector<double> normals(size_t n, uint64_t which) {
  std::vector<double> out;
  for (uint32_t block = 0; out.size() < n; ++block)
    for (const float v : random_normal4({3, Purpose::noise, 0, which}, block))
      if (out.size() < n) out.push_back(v);
  return out;
}

/// The values and their mirror images: no skewness, mean `center`.
std::vector<double> symmetric(size_t pairs, double center, double scale) {
  std::vector<double> out;
  for (const double v : normals(pairs, 0)) {
    out.push_back(center + scale * v);
    out.push_back(center - scale * v);
  }
  return out;
}

/// The bootstrap's own standard error: with n, not n - 1.
double spread(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  return standard_error(values) * std::sqrt((n - 1) / n);
}

// The 2.5% quantile of B normal means has the standard deviation sqrt(p (1 - p) / B) / phi(1.96),
// 0.0267 standard errors at B = 10,000: five of them.
constexpr double kQuantileError = 5 * 0.0267;

TEST(Bootstrap, OfNormalDataIsTheClosedForm) {
  const std::vector<double> values = symmetric(200, 3.2, 0.4);
  const Interval found = bootstrap_means({values}).front();
  const double s = spread(values);
  EXPECT_NEAR(found.mean, 3.2, 1e-12);
  EXPECT_NEAR(found.low, 3.2 - 1.96 * s, kQuantileError * s);
  EXPECT_NEAR(found.high, 3.2 + 1.96 * s, kQuantileError * s);
}

TEST(Bootstrap, OfTwoSamplesIsTheClosedForm) {
  const std::vector<double> a = symmetric(150, 1.5, 0.4), b = symmetric(80, 1, 0.3);
  const Interval found = bootstrap_differences({a}, {b}).front();
  const double s = std::hypot(spread(a), spread(b));  // independent: the variances add
  EXPECT_NEAR(found.mean, 0.5, 1e-12);
  EXPECT_NEAR(found.low, 0.5 - 1.96 * s, kQuantileError * s);
  EXPECT_NEAR(found.high, 0.5 + 1.96 * s, kQuantileError * s);
}

TEST(Bootstrap, CoversTheTruthAsOftenAsItSays) {
  // A percentile interval of n values is as wide as +-1.96 sqrt((n - 1) / n) standard errors:
  // Student's t with 59 degrees of freedom lies within that with probability 0.943. Of 400 trials,
  // within four binomial standard deviations.
  int covered = 0;
  for (uint64_t trial = 0; trial < 400; ++trial) {
    const Interval found = bootstrap_means({normals(60, trial + 1)}, 500).front();
    covered += found.low <= 0 && 0 <= found.high;
  }
  EXPECT_NEAR(covered / 400.0, 0.943, 4 * std::sqrt(0.943 * 0.057 / 400));
}

TEST(Bootstrap, OfTwoValuesKnowsBothEnds) {
  // Each end is drawn twice by a quarter of the resamples.
  const Interval found = bootstrap_means({{0, 1}}).front();
  EXPECT_EQ(found.low, 0);
  EXPECT_EQ(found.high, 1);
}

TEST(Bootstrap, PairsRemoveWhatImagesShare) {
  std::vector<double> a = normals(100, 7), b = a;
  for (double& v : a) v += 0.01;
  std::vector<double> difference;
  for (size_t i = 0; i < a.size(); ++i) difference.push_back(a[i] - b[i]);
  const Interval paired = bootstrap_means({difference}).front();
  EXPECT_NEAR(paired.low, 0.01, 1e-15);
  EXPECT_NEAR(paired.high, 0.01, 1e-15);
  const Interval apart = bootstrap_differences({a}, {b}).front();
  EXPECT_LT(apart.low, 0);
  EXPECT_GT(apart.high, 0.02);
}

TEST(Bootstrap, AColumnDoesNotDependOnTheOthers) {
  const std::vector<double> a = normals(40, 1), b = normals(40, 2);
  const std::vector<Interval> both = bootstrap_means({a, b}, 1000);
  const Interval alone = bootstrap_means({b}, 1000).front();
  EXPECT_EQ(both[1].low, alone.low);
  EXPECT_EQ(both[1].high, alone.high);
}

TEST(Bootstrap, SaysNothingOfTooLittle) {
  const Interval one = bootstrap_means({{2.5}}).front();
  EXPECT_EQ(one.mean, 2.5);
  EXPECT_TRUE(std::isnan(one.low) && std::isnan(one.high));
  EXPECT_TRUE(std::isnan(bootstrap_means({{}}).front().mean));
  const Interval broken = bootstrap_means({{1, kNan, 2}}).front();
  EXPECT_TRUE(std::isnan(broken.mean) && std::isnan(broken.low));
  EXPECT_TRUE(bootstrap_means({}).empty());
  EXPECT_TRUE(std::isnan(standard_error({1})));
  EXPECT_DOUBLE_EQ(standard_error({1, 3}), 1);
}

}  // namespace
}  // namespace diffuse
