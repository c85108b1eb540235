// SPDX-License-Identifier: MIT
#include "data/points.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

namespace diffuse {
namespace {

constexpr double kPi = std::numbers::pi;
using Distribution = std::unique_ptr<const PointDistribution>;

struct Case {
  std::string name;
  std::function<Distribution()> make;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

/// Every row of the table, and what its defaults leave out.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const PointSource::Row& row : point_sources())
    out.push_back({row.name, [name = row.name] { return PointSource(point_sources(), name)(); }});
  out.push_back(
      {"blurred_checkerboard", [] { return CheckerboardPoints{.cells = 4, .noise = 0.05}(); }});
  out.push_back(
      {"odd_checkerboard", [] { return CheckerboardPoints{.cells = 3, .noise = 0.02}(); }});
  out.push_back({"one_square", [] { return CheckerboardPoints{.cells = 1, .noise = 0}(); }});
  out.push_back({"narrow_roll", [] { return SwissRollPoints{.noise = 0.015}(); }});
  out.push_back(
      {"moved_gaussian", [] {
         return GaussianPoints{.mean = {0.4, -0.2}, .std = {0.1, 0.25}, .correlation = -0.9}();
       }});
  return out;
}

class Points : public testing::TestWithParam<Case> {
 protected:
  Distribution distribution = GetParam().make();
};

/// Levels from little noise to almost nothing else, also with alpha^2 + sigma^2 != 1.
const std::vector<std::pair<double, double>> kLevels{
    {0.99, 0.05}, {0.8, 0.6}, {1, 0.3}, {0.1, 0.995}, {1, 20}};

double norm2(Point p) { return p.x * p.x + p.y * p.y; }

/// Integral over the plane, at the middles of squares of side `step` within +-reach.
double integral(double reach, double step, const std::function<double(Point)>& f) {
  double sum = 0;
  const auto n = static_cast<int64_t>(std::round(2 * reach / step));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      sum += f({-reach + (static_cast<double>(i) + 0.5) * step,
                -reach + (static_cast<double>(j) + 0.5) * step});
  return sum * step * step;
}

// Steps of 2/3 of the least standard deviation: the rule's error is exp(-2 pi^2 9 / 4) = 1e-19,
// what lies beyond 9 standard deviations 1e-18; some 10^5 terms round.
TEST_P(Points, NoisedDensityIntegratesToOne) {
  for (const auto& [alpha, sigma] : kLevels) {
    const auto level = distribution->noised(alpha, sigma);
    const double reach = alpha * 2 + 9 * std::max(sigma, 0.25);  // 0.25: widest of the Gaussians
    EXPECT_NEAR(integral(reach,
                         reach / std::ceil(1.5 * reach / sigma),
                         [&](Point z) { return level->density(z); }),
                1,
                1e-10)
        << alpha << " " << sigma;
  }
}

// Means of functions over samples and over the density agree within 5 standard errors (one in 10^6
// each). The rule is within 1e-4 of the integrals: without a blur its squares lie within those of
// the board, else the blur has a standard deviation of one step at least.
TEST_P(Points, SamplesHaveTheDensity) {
  constexpr int64_t n = 10'000;
  const auto level = distribution->noised(1, 0);
  const std::vector<std::function<double(Point)>> functions{
      [](Point p) { return p.x; },
      [](Point p) { return p.y; },
      [](Point p) { return p.x * p.x; },
      [](Point p) { return p.y * p.y; },
      [](Point p) { return p.x * p.y; },
      [](Point p) { return std::cos(11 * p.x + 5 * p.y); },
      [](Point p) { return std::sin(4 * p.x - 9 * p.y); },
      [&](Point p) { return (*level)(p).log_density; }};
  std::vector<double> sums(functions.size()), squares(functions.size()), expected(functions.size());
  for (const Point& p : sample_points(*distribution, 7, 0, n)) {
    ASSERT_GT(level->density(p), 0);
    for (size_t i = 0; i < functions.size(); ++i) {
      sums[i] += functions[i](p) / n;
      squares[i] += functions[i](p) * functions[i](p) / n;
    }
  }
  constexpr double step = 0x1p-6;
  integral(1.5, step, [&](Point p) {
    const double density = level->density(p);
    if (density > 1e-12)
      for (size_t i = 0; i < functions.size(); ++i)
        expected[i] += step * step * density * functions[i](p);
    return density;
  });
  for (size_t i = 0; i < functions.size(); ++i) {
    const double error = std::sqrt(std::max(squares[i] - sums[i] * sums[i], 0.0) / n);
    EXPECT_NEAR(sums[i], expected[i], 5 * error + 1e-4) << "function " << i;
  }
}

TEST_P(Points, SamplesAreAFunctionOfTheirStream) {
  const auto whole = sample_points(*distribution, 3, 0, 40);
  const auto part = sample_points(*distribution, 3, 25, 15);
  const auto other = sample_points(*distribution, 4, 25, 15);
  for (size_t i = 0; i < part.size(); ++i) {
    EXPECT_EQ(part[i].x, whole[25 + i].x);
    EXPECT_EQ(part[i].y, whole[25 + i].y);
    EXPECT_NE(part[i].x, other[i].x);
    EXPECT_NE(part[i].x, whole[24 + i].x);
  }
}

// Four standard deviations: 6e-5 a coordinate, 1.3 of 10'000 expected, more than 10 once in 10^6.
TEST_P(Points, LieInTheBox) {
  const PointBox box = distribution->box();
  int64_t outside = 0;
  for (const Point& p : sample_points(*distribution, 1, 0, 10'000))
    outside += p.x < box.low.x || p.x > box.high.x || p.y < box.low.y || p.y > box.high.y;
  EXPECT_LE(outside, 10);
}

TEST(PointSources, LieWithinOneByDefault) {
  for (const PointSource::Row& row : point_sources()) {
    const auto distribution = PointSource(point_sources(), row.name)();
    int64_t outside = 0;
    for (const Point& p : sample_points(*distribution, 1, 0, 10'000))
      outside += std::max(std::abs(p.x), std::abs(p.y)) > 1;
    EXPECT_LE(outside, 10) << row.name;
  }
}

/// Points where z is likely, and some where it is not.
std::vector<Point> places(const PointDistribution& distribution, double alpha, double sigma) {
  std::vector<Point> out;
  for (const Point& p : sample_points(distribution, 11, 0, 12)) {
    const auto n = random_normal4({11, Purpose::noise, 0, out.size()}, 0);
    out.push_back({alpha * p.x + sigma * n[0], alpha * p.y + sigma * n[1]});
  }
  for (const Point& p : {Point{0, 0}, Point{1.3, -0.2}, Point{-0.7, 1.1}})
    out.push_back({alpha * p.x, alpha * p.y});
  return out;
}

// Central differences of fourth order with steps of std / 1000, std being the least blur there is
// at the level: a term of 1e-12 / std, and |log p| 2^-52 / step of rounding.
TEST_P(Points, ScoreIsTheGradientOfTheLogDensity) {
  for (const auto& [alpha, sigma] : kLevels) {
    const auto level = distribution->noised(alpha, sigma);
    const double h = sigma / 1000;
    const auto slope = [&](Point z, Point d) {
      const auto f = [&](double k) {
        return (*level)({z.x + k * h * d.x, z.y + k * h * d.y}).log_density;
      };
      return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * h);
    };
    for (const Point& z : places(*distribution, alpha, sigma)) {
      const PointPosterior p = (*level)(z);
      const double tolerance = (1e-9 + 4 * std::abs(p.log_density) * 0x1p-52 * 1000) / sigma +
                               1e-9 * std::sqrt(norm2(p.score));
      EXPECT_NEAR(p.score.x, slope(z, {1, 0}), tolerance) << alpha << " " << z.x << " " << z.y;
      EXPECT_NEAR(p.score.y, slope(z, {0, 1}), tolerance) << alpha << " " << z.x << " " << z.y;
    }
  }
}

// Robbins 1956 (Tweedie): alpha E[x0|z] = z + sigma^2 score. And for the covariance, alpha^2
// Cov[x0|z] = sigma^2 (1 + sigma^2 Hessian of log p), whose trace has the divergence of the score.
TEST_P(Points, DenoiserAndVarianceFollowFromTheScore) {
  for (const auto& [alpha, sigma] : kLevels) {
    const auto level = distribution->noised(alpha, sigma);
    const double s2 = sigma * sigma;
    for (const Point& z : places(*distribution, alpha, sigma)) {
      const PointPosterior p = (*level)(z);
      // The score's rounding, 2^-50 of its largest part, comes back times sigma^2 / alpha.
      const double tolerance = 0x1p-48 * (std::sqrt(norm2(z)) + 1) / alpha;
      EXPECT_NEAR(p.x_hat.x, (z.x + s2 * p.score.x) / alpha, tolerance);
      EXPECT_NEAR(p.x_hat.y, (z.y + s2 * p.score.y) / alpha, tolerance);

      const double h = sigma / 1000;
      const auto dx = [&](double k) { return (*level)({z.x + k * h, z.y}).score.x; };
      const auto dy = [&](double k) { return (*level)({z.x, z.y + k * h}).score.y; };
      const auto slope = [&](const auto& f) {
        return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * h);
      };
      const double divergence = slope(dx) + slope(dy);
      // Roundings; and between two far modes the score is like q tanh(q z) with q = alpha /
      // sigma^2, whose fifth derivative is at most 16 q^6.
      const double size = std::sqrt(norm2(p.score)) + 1 / sigma, q = alpha / s2;
      const double error =
          1e-9 / s2 + 16 * size * 0x1p-52 / h + std::pow(h * q, 4) * 16 / 30 * q * q;
      EXPECT_NEAR(p.variance,
                  s2 / (alpha * alpha) * (2 + s2 * divergence),
                  s2 * s2 / (alpha * alpha) * error)
          << alpha << " " << sigma << " " << z.x << " " << z.y;
    }
  }
}

TEST_P(Points, NoNoiseKnowsTheDataAndNothingElseTheirMean) {
  for (const Point& z : sample_points(*distribution, 2, 0, 20)) {
    const PointPosterior p = (*distribution->noised(0.5, 0))({0.5 * z.x, 0.5 * z.y});
    EXPECT_NEAR(p.x_hat.x, z.x, 1e-12);
    EXPECT_NEAR(p.x_hat.y, z.y, 1e-12);
    EXPECT_NEAR(p.variance, 0, 1e-12);
    EXPECT_NEAR(std::exp(p.log_density),
                distribution->noised(1, 0)->density(z) / 0.25,
                1e-9 * std::exp(p.log_density));
  }
  const auto blind = distribution->noised(0, 1);
  const PointPosterior here = (*blind)({0.3, -0.4});
  const PointPosterior there = (*blind)({-5, 8});
  EXPECT_NEAR(here.log_density, -0.125 - std::log(2 * kPi), 1e-12);
  EXPECT_NEAR(here.x_hat.x, there.x_hat.x, 1e-12);
  EXPECT_NEAR(here.x_hat.y, there.x_hat.y, 1e-12);
  EXPECT_NEAR(here.variance, there.variance, 1e-12);
  // alpha -> 0 is continuous.
  const PointPosterior dim = (*distribution->noised(1e-9, 1))({0.3, -0.4});
  EXPECT_NEAR(dim.x_hat.x, here.x_hat.x, 1e-8);
  EXPECT_NEAR(dim.variance, here.variance, 1e-8);
  EXPECT_EQ(distribution->noised(0.5, 0)->minimal_loss().value, 0);
}

// No denoiser's loss on samples is known better than within its standard error: five of them.
TEST_P(Points, MinimalLossIsTheDenoisersOnSamples) {
  constexpr uint64_t n = 2000;
  for (const auto& [alpha, sigma] : kLevels) {
    const auto level = distribution->noised(alpha, sigma);
    const Approximation least = level->minimal_loss();
    EXPECT_LE(least.error, 1e-6 * least.value);
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const Point x = sample_points(*distribution, 5, i, 1)[0];
      const auto e = random_normal4({5, Purpose::noise, 0, i}, 0);
      const Point hat = (*level)({alpha * x.x + sigma * e[0], alpha * x.y + sigma * e[1]}).x_hat;
      const double loss = norm2({x.x - hat.x, x.y - hat.y});
      sum += loss;
      squares += loss * loss;
    }
    const double mean = sum / n, error = std::sqrt((squares / n - mean * mean) / n);
    EXPECT_NEAR(least.value, mean, 5 * error) << alpha << " " << sigma;
  }
}

TEST_P(Points, FarAwayEverythingIsFinite) {
  for (const auto& [alpha, sigma] : kLevels)
    for (const Point z : {Point{1e8, 3}, Point{-40, 1e3}, Point{0.1, -1e5}}) {
      const PointPosterior p = (*distribution->noised(alpha, sigma))(z);
      for (const double v : {p.log_density, p.score.x, p.score.y, p.x_hat.x, p.x_hat.y})
        EXPECT_TRUE(std::isfinite(v));
      EXPECT_GE(p.variance, 0);
    }
}

INSTANTIATE_TEST_SUITE_P(Data, Points, testing::ValuesIn(cases()), [](const auto& instance) {
  return instance.param.name;
});

/// Simpson's rule.
double simpson(double low, double high, int64_t n, const std::function<double(double)>& f) {
  double sum = f(low) + f(high);
  const double h = (high - low) / static_cast<double>(n);
  for (int64_t i = 1; i < n; ++i) sum += (i % 2 == 0 ? 2 : 4) * f(low + static_cast<double>(i) * h);
  return sum * h / 3;
}

// Another rule, with the curves written out again.
TEST(Curves, DensityIsTheIntegralAlongThem) {
  const double r = 0.85 / 1.5, noise = 0.04;
  const auto moons = MoonsPoints{.noise = noise}();
  const auto roll = SwissRollPoints{.noise = noise}();
  for (const auto& [alpha, sigma] : std::vector<std::pair<double, double>>{{1, 0}, {0.9, 0.1}}) {
    const double v = alpha * alpha * noise * noise + sigma * sigma;
    const auto kernel = [&, a = alpha](Point z, Point c) {
      return std::exp(-norm2({z.x - a * c.x, z.y - a * c.y}) / (2 * v)) / (2 * kPi * v);
    };
    for (const Point& z :
         {Point{-0.5, 0.2}, Point{0.1, 0}, Point{0.3, -0.45}, Point{0.6, 0.4}, Point{0.75, 0.65}}) {
      const double on_moons = simpson(0, kPi, 20'000, [&](double t) {
        return (kernel(z, {r * (std::cos(t) - 0.5), r * (std::sin(t) - 0.25)}) +
                kernel(z, {r * (1 - std::cos(t) - 0.5), r * (0.5 - std::sin(t) - 0.25)})) /
               (2 * kPi);
      });
      const double p = moons->noised(alpha, sigma)->density(z);
      EXPECT_NEAR(p, on_moons, 1e-12 * on_moons + 1e-17 / v) << z.x << " " << z.y;
      const double on_roll = simpson(1.5 * kPi, 4.5 * kPi, 40'000, [&](double t) {
        const double s = 0.85 / (4.5 * kPi) * t;
        return kernel(z, {s * std::cos(t), s * std::sin(t)}) / (3 * kPi);
      });
      EXPECT_NEAR(roll->noised(alpha, sigma)->density(z), on_roll, 1e-12 * on_roll + 1e-17 / v);
    }
  }
}

// One square: two independent coordinates, each a truncated normal; near, far out and blind.
TEST(Checkerboard, SquareIsTwoTruncatedNormals) {
  const auto square = CheckerboardPoints{.cells = 1, .noise = 0}();
  for (const auto& [alpha, sigma] : std::vector<std::pair<double, double>>{
           {1, 0.4}, {0.7, 0.05}, {1, 3}, {0.01, 1}, {0.3, 0.25}})
    for (const double z : {0.0, 0.3, -0.9, 1.0, 1.4, -1.9}) {
      const double nearest = std::clamp(z, -alpha, alpha);
      const auto weight = [&, a = alpha, s = sigma](double c) {
        return std::exp(-((z - a * c) * (z - a * c) - (z - nearest) * (z - nearest)) / (2 * s * s));
      };
      const double mass = simpson(-1, 1, 100'000, weight);
      const double mean = simpson(-1, 1, 100'000, [&](double c) { return c * weight(c); }) / mass;
      const double variance =
          simpson(-1, 1, 100'000, [&](double c) { return (c - mean) * (c - mean) * weight(c); }) /
          mass;
      const PointPosterior p = (*square->noised(alpha, sigma))({z, z});
      // Simpson's error: the tails fall by at most a factor of exp(0.02) a step, 0.02^4 / 180 =
      // 1e-9.
      EXPECT_NEAR(p.x_hat.x, mean, 1e-9);
      EXPECT_NEAR(p.x_hat.y, mean, 1e-9);
      EXPECT_NEAR(p.variance, 2 * variance, 1e-8 * variance);
      const double log_p =
          2 * (std::log(mass / 2) - (z - nearest) * (z - nearest) / (2 * sigma * sigma) -
               std::log(2 * kPi * sigma * sigma) / 2);
      EXPECT_NEAR(p.log_density, log_p, 1e-8 + 1e-14 * std::abs(log_p));
    }
}

TEST(Checkerboard, IsPiecewiseConstantWithoutNoise) {
  const auto even = CheckerboardPoints{.cells = 4, .noise = 0}()->noised(1, 0);
  const auto odd = CheckerboardPoints{.cells = 3, .noise = 0}()->noised(1, 0);
  EXPECT_DOUBLE_EQ(even->density({-0.9, -0.9}), 1 / (8 * 0.25));
  EXPECT_EQ(even->density({-0.4, -0.9}), 0);
  EXPECT_DOUBLE_EQ(even->density({-0.1, -0.1}), 1 / (8 * 0.25));
  EXPECT_EQ(even->density({1.1, 0.9}), 0);
  EXPECT_EQ(even->density({-1.1, 0.1}), 0);
  EXPECT_NEAR(odd->density({0.9, 0.9}), 1 / (5 * 4.0 / 9), 1e-14);
  EXPECT_NEAR(odd->density({0, 0}), 1 / (5 * 4.0 / 9), 1e-14);
  EXPECT_EQ(odd->density({0, 0.9}), 0);
  // As much data in each black square, within 5 standard errors.
  const auto board = CheckerboardPoints{.cells = 3, .noise = 0}();
  std::vector<int64_t> counts(9);
  for (const Point& p : sample_points(*board, 1, 0, 5000))
    ++counts[static_cast<size_t>(std::floor((p.y + 1) * 1.5) * 3 + std::floor((p.x + 1) * 1.5))];
  for (size_t i = 0; i < 9; ++i)
    EXPECT_NEAR(static_cast<double>(counts[i]), i % 2 == 0 ? 1000 : 0, i % 2 == 0 ? 5 * 28.3 : 0);
}

// Published closed forms: one coordinate has the ratio sigma^2 s^2 / (alpha^2 s^2 + sigma^2).
TEST(MinimalLoss, OfGaussians) {
  const auto round = GaussianPoints{.mean = {3, 1}, .std = {0.5, 0.2}, .correlation = 0}();
  const auto of = [](double s, double alpha, double sigma) {
    return sigma * sigma * s * s / (alpha * alpha * s * s + sigma * sigma);
  };
  EXPECT_NEAR(
      round->noised(0.8, 0.6)->minimal_loss().value, of(0.5, 0.8, 0.6) + of(0.2, 0.8, 0.6), 1e-15);
  // Correlation turns the axes: variances 1.5 and 0.5 of the unit's.
  const auto turned = GaussianPoints{.mean = {0, 0}, .std = {0.4, 0.4}, .correlation = 0.5}();
  EXPECT_NEAR(turned->noised(0.8, 0.6)->minimal_loss().value,
              of(0.4 * std::sqrt(1.5), 0.8, 0.6) + of(0.4 * std::sqrt(0.5), 0.8, 0.6),
              1e-15);
  const Approximation one =
      MixturePoints{.modes = 1, .radius = 0.75, .std = 0.1}()->noised(0.8, 0.6)->minimal_loss();
  EXPECT_NEAR(one.value, 2 * of(0.1, 0.8, 0.6), 1e-14);
}

// Two modes at +-r: c given z is +-r with mean r tanh(alpha r z / v), so that its variance is r^2
// sech^2(alpha r z / v); the rest is one integral over z.
TEST(MinimalLoss, OfTwoModes) {
  const double r = 0.75, s = 0.06;
  const auto pair = MixturePoints{.modes = 2, .radius = r, .std = s}();
  for (const auto& [alpha, sigma] :
       std::vector<std::pair<double, double>>{{1, 0.1}, {0.9, 0.4}, {0.5, 0.8}, {1, 10}}) {
    const double v = alpha * alpha * s * s + sigma * sigma, rest = sigma * sigma / v;
    const double reach = alpha * r + 12 * std::sqrt(v);
    const double spread = simpson(-reach, reach, 200'000, [&, a = alpha](double z) {
      const double sech = 1 / std::cosh(a * r * z / v);
      return r * r * sech * sech *
             (std::exp(-(z - a * r) * (z - a * r) / (2 * v)) +
              std::exp(-(z + a * r) * (z + a * r) / (2 * v))) /
             (2 * std::sqrt(2 * kPi * v));
    });
    const Approximation least = pair->noised(alpha, sigma)->minimal_loss();
    EXPECT_NEAR(least.value, 2 * s * s * rest + rest * rest * spread, least.error + 1e-12);
  }
}

}  // namespace
}  // namespace diffuse
