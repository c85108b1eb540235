// SPDX-License-Identifier: MIT
#include "diffusion/bound.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "diffusion/objective.h"

namespace diffuse {
namespace {

using Real = long double;
constexpr Real kRoot2 = std::numbers::sqrt2_v<Real>;

/// -log(Phi(high) - Phi(low)) by erfc, on the side of 0 where it keeps its digits. Good while
/// erfcl does not underflow, |z| < 150.
Real nll_of_interval(Real low, Real high) {
  if (low > 0) return nll_of_interval(-high, -low);
  if (high > 0)  // no cancellation: the two sides of 0 add up
    return -std::log((std::erf(high / kRoot2) + std::erf(-low / kRoot2)) / 2);
  return -std::log((std::erfc(-high / kRoot2) - std::erfc(-low / kRoot2)) / 2);
}

/// Level k of 2^bits, its mean and standard deviation -> Ho et al. 2020, eq. 13.
Real decoder_reference(int64_t k, int64_t bits, Real mean, Real std) {
  const Real levels = std::pow(Real{2}, static_cast<Real>(bits)), half = 1 / (levels - 1);
  const Real infinite = std::numeric_limits<Real>::infinity();
  const Real x = 2 * half * static_cast<Real>(k) - 1;
  const Real low = k == 0 ? -infinite : (x - half - mean) / std;
  const Real high = k + 1 == static_cast<int64_t>(levels) ? infinite : (x + half - mean) / std;
  return nll_of_interval(low, high);
}

/// Level k of 2^bits in [-1, 1].
double level_value(int64_t k, int64_t bits) {
  return 2.0 * static_cast<double>(k) / (std::pow(2.0, static_cast<double>(bits)) - 1) - 1;
}

at::Tensor scalar(double value) { return at::full({1}, value, at::kDouble); }

double decoder(int64_t k, int64_t bits, double mean, double std) {
  return decoder_nll(scalar(level_value(k, bits)), scalar(mean), scalar(std::log(std)), bits)
      .item<double>();
}

TEST(GaussianKl, ClosedForm) {
  for (const double d : {0.0, 1e-8, 0.3, -4.0})
    for (const double a : {-20.0, -3.0, 0.0, 1.5})
      for (const double gap : {0.0, 1e-9, -1e-4, 0.2, -3.0, 5.0}) {
        const double b = a - gap;
        const Real exact_gap = Real{a} - Real{b};
        // DDPM's normal_kl, with expm1 for what would cancel.
        const Real expected =
            (std::expm1(exact_gap) - exact_gap + Real{d} * Real{d} * std::exp(-Real{b})) / 2;
        const double ours = gaussian_kl(scalar(d), scalar(a), scalar(b)).item<double>();
        // expm1(g) - g is g^2 / 2, of two numbers near g.
        EXPECT_NEAR(ours,
                    static_cast<double>(expected),
                    1e-14 * static_cast<double>(expected) + 3e-16 * std::abs(gap));
        if (d == 0 && a == b) {
          EXPECT_EQ(ours, 0);
        }
      }
}

TEST(Decoder, IsTheIntegralInLongDouble) {
  for (const int64_t bits : {1, 2, 8, 12, 16}) {
    const int64_t last = (int64_t{1} << bits) - 1;
    for (const int64_t k : {int64_t{0}, last / 3, last - last / 3, last})
      for (const double std : {1e-5, 1e-3, 7e-3, 0.05, 1.0, 30.0})
        for (const double z : {-90.0, -12.0, -2.0, -0.3, 0.0, 0.4, 1.0, 6.0, 35.0}) {
          SCOPED_TRACE("bits " + std::to_string(bits) + " level " + std::to_string(k) + " std " +
                       std::to_string(std) + " z " + std::to_string(z));
          const double mean = level_value(k, bits) - z * std;
          const auto expected = static_cast<double>(decoder_reference(k, bits, mean, std));
          // The ends in units of std carry the rounding of x, 2.2e-16 / std, times the slope of the
          // logarithm, |z| + 1 / width; and log Phi is right to 1e-14 of itself, which a bin of
          // that width sees divided by it.
          const double width =
              std::min(1.0, 2 / (std::pow(2.0, static_cast<double>(bits)) - 1) / std);
          const double ends = 4e-16 * (1 + std::abs(mean)) / std;
          const double tolerance = 4e-15 * (1 + z * z) / width + ends * (std::abs(z) + 2 / width);
          ASSERT_LT(tolerance, 1e-3);
          EXPECT_NEAR(decoder(k, bits, mean, std), expected, tolerance + 1e-14 * expected);
        }
  }
}

TEST(Decoder, BinsOfEveryDepthSumToOne) {
  for (int64_t bits = 1; bits <= 16; ++bits)
    for (const double mean : {-1.3, -1.0, 0.0123, 0.999})
      for (const double std : {1e-4, 3e-3, 0.3, 20.0}) {
        const int64_t levels = int64_t{1} << bits;
        const at::Tensor x =
            at::arange(levels, at::kDouble) * (2.0 / static_cast<double>(levels - 1)) - 1;
        const at::Tensor nll =
            decoder_nll(x, at::full_like(x, mean), at::full_like(x, std::log(std)), bits);
        // Every bin is right to 1e-15 of Phi at its ends.
        EXPECT_NEAR(at::exp(-nll).sum().item<double>(), 1, 4e-15 * static_cast<double>(levels))
            << bits << " " << mean << " " << std;
      }
}

TEST(Decoder, EdgeBinsReachToInfinity) {
  for (const int64_t bits : {8, 16}) {
    const int64_t last = (int64_t{1} << bits) - 1;
    // A mean far beyond the end costs nothing, and the neighbour has a bin of its own. (A threshold
    // of 0.999, right for 8 bits, would take 65 of 65536 levels for the edge.)
    EXPECT_NEAR(decoder(0, bits, -3, 0.1), 0, 1e-12);
    EXPECT_NEAR(decoder(last, bits, 3, 0.1), 0, 1e-12);
    EXPECT_GT(decoder(1, bits, -3, 0.1), 100);
    EXPECT_GT(decoder(last - 1, bits, 3, 0.1), 100);
    // Levels as training has them, in float32.
    for (const int64_t k : {int64_t{0}, int64_t{1}, last - 1, last}) {
      const double std = 2.0 / static_cast<double>(last);
      const at::Tensor x = scalar(level_value(k, bits)).to(at::kFloat);
      const double ours =
          decoder_nll(x, x, scalar(std::log(std)).to(at::kFloat), bits).item<double>();
      const auto expected =
          static_cast<double>(decoder_reference(k, bits, Real{level_value(k, bits)}, std));
      // 1 - float(1 - 2 / 65535) is right to 3e-8, a thousandth of the half bin.
      EXPECT_NEAR(ours, expected, bits == 8 ? 1e-5 : 1e-3 * expected + 1e-5);
    }
  }
}

TEST(Decoder, GradientsAreDifferences) {
  for (const int64_t bits : {0, 1, 8, 16}) {
    const int64_t last = (int64_t{1} << std::max(bits, int64_t{1})) - 1;
    for (const int64_t k : {int64_t{0}, last / 2, last})
      for (const double std : {2e-3, 0.2})
        for (const double z : {-8.0, -0.7, 0.0, 0.5, 20.0}) {
          const double x = level_value(k, std::max(bits, int64_t{1}));
          const auto nll = [&](double mean, double log_std) {
            return decoder_nll(scalar(x), scalar(mean), scalar(log_std), bits).item<double>();
          };
          at::Tensor mean = scalar(x - z * std).requires_grad_(true);
          at::Tensor log_std = scalar(std::log(std)).requires_grad_(true);
          decoder_nll(scalar(x), mean, log_std, bits).sum().backward();
          const double m = x - z * std, l = std::log(std);
          const double h = 1e-4;
          const double by_mean = (nll(m + h * std, l) - nll(m - h * std, l)) / (2 * h * std);
          const double by_std = (nll(m, l + h) - nll(m, l - h)) / (2 * h);
          SCOPED_TRACE(std::to_string(bits) + " " + std::to_string(k) + " " + std::to_string(std) +
                       " " + std::to_string(z));
          // h^2 times the third derivative, and the rounding of 1e-15 z^2 / width over h.
          const double width = std::min(1.0, 2.0 / static_cast<double>(last) / std);
          const double rounding = 1e-14 * (1 + z * z) / (bits > 0 ? width : 1) / h;
          const double size = 1 + z * z;
          EXPECT_NEAR(mean.grad().item<double>() * std, by_mean * std, 4 * h * h * size + rounding);
          EXPECT_NEAR(log_std.grad().item<double>(), by_std, 4 * h * h * size + rounding);
        }
  }
}

TEST(Decoder, FarTailsAreFiniteWithAGradientThatLeadsBack) {
  for (const int64_t bits : {1, 8, 16})
    for (const double far : {-1e5, -300.0, 300.0, 1e5})
      for (const double log_std : {-12.0, -5.0, 0.0}) {
        const int64_t k = (int64_t{1} << bits) / 2;
        at::Tensor mean =
            scalar(level_value(k, bits) + far * std::exp(log_std)).requires_grad_(true);
        at::Tensor scale = scalar(log_std).requires_grad_(true);
        const at::Tensor nll = decoder_nll(scalar(level_value(k, bits)), mean, scale, bits);
        nll.backward();
        SCOPED_TRACE(std::to_string(bits) + " " + std::to_string(far) + " " +
                     std::to_string(log_std));
        ASSERT_TRUE(std::isfinite(nll.item<double>()));
        const double half = 1 / (std::pow(2.0, static_cast<double>(bits)) - 1);
        const double width = 2 * half * std::exp(-log_std);
        // To the nearer end of the bin.
        const double z = std::abs(far) - width / 2;
        if (bits == 1 && far > 0) {
          EXPECT_EQ(nll.item<double>(), 0);  // the last bin, and the mean is inside of it
        } else if (z > 100) {
          // Mills: z^2 / 2 + log(z sqrt(2 pi)) beyond that end, less what is beyond the other.
          const double expected = z * z / 2 + std::log(z * std::sqrt(2 * std::numbers::pi)) -
                                  std::log(-std::expm1(-width * z - width * width / 2));
          EXPECT_NEAR(nll.item<double>(), expected, 1e-4 * expected);
          // d/d mean is z / std or, in a narrow bin, that of the density at its middle
          EXPECT_NEAR(mean.grad().item<double>() * std::exp(log_std) / (far > 0 ? z : -z), 1, 0.05);
          EXPECT_LT(scale.grad().item<double>(), 0);  // a larger std would help
        }
        EXPECT_TRUE(std::isfinite(mean.grad().item<double>()));
        EXPECT_TRUE(std::isfinite(scale.grad().item<double>()));
      }
}

TEST(Decoder, ContinuousDataHasADensity) {
  for (const double z : {-3.0, 0.0, 0.8})
    for (const double std : {1e-3, 2.0}) {
      const double expected = z * z / 2 + std::log(std) + 0.5 * std::log(2 * std::numbers::pi);
      EXPECT_NEAR(
          decoder_nll(scalar(0.3), scalar(0.3 - z * std), scalar(std::log(std)), 0).item<double>(),
          expected,
          1e-12);
    }
}

// The whole objective, against scalar code from the papers.

constexpr int64_t kSteps = 60;

/// A cosine chain from its betas (Nichol & Dhariwal 2021, eq. 17), in plain doubles.
struct Paper {
  std::vector<double> beta, bar;
  Paper() {
    const auto f = [](double u) {
      return std::pow(std::cos((u / kSteps + 0.008) / 1.008 * std::numbers::pi / 2), 2);
    };
    double product = 1;
    for (int64_t i = 0; i < kSteps; ++i) {
      const auto u = static_cast<double>(i);
      beta.push_back(std::min(1 - f(u + 1) / f(u), 0.999));
      product *= 1 - beta.back();
      bar.push_back(product);
    }
  }
  double before(size_t t) const { return t == 0 ? 1 : bar[t - 1]; }
  double posterior(size_t t) const {  // beta~, with beta~_1 at t = 0 as improved-diffusion has it
    if (t == 0) t = 1;
    return beta[t] * (1 - before(t)) / (1 - bar[t]);
  }
  double x0_of(const std::string& target, size_t t, double z, double f) const {
    const double a = std::sqrt(bar[t]), s = std::sqrt(1 - bar[t]);
    if (target == "epsilon") return (z - s * f) / a;
    if (target == "x0") return f;
    if (target == "velocity") return a * z - s * f;
    if (target == "score") return (z + s * s * f) / a;
    if (target == "flow") return (z - s * f) / (a + s);  // z = a x0 + s (f + x0)
    if (target == "mu") return (f - c2(t) * z) / c1(t);
    const double k = s / a, v = k * k + 0.25;  // edm: Karras et al. 2022, eq. 7
    return 0.25 / v * (z / a) + k * 0.5 / std::sqrt(v) * f;
  }
  double c1(size_t t) const { return std::sqrt(before(t)) * beta[t] / (1 - bar[t]); }
  double c2(size_t t) const { return std::sqrt(1 - beta[t]) * (1 - before(t)) / (1 - bar[t]); }
  double log_variance(const std::string& name, size_t t, double v) const {
    if (name == "fixed_small") return std::log(posterior(t));
    if (name == "fixed_large") return std::log(t == 0 ? posterior(0) : beta[t]);
    if (name == "learned") return v;
    const double f = (v + 1) / 2;  // Nichol & Dhariwal 2021, eq. 15
    return f * std::log(beta[t]) + (1 - f) * std::log(posterior(t));
  }
  /// Ho et al. 2020, eq. 5, in bits.
  double term(size_t t, double x0, double x_hat, double z, double log_variance) const {
    if (t == 0)
      return static_cast<double>(decoder_reference(
                 std::lround((x0 + 1) * 127.5), 8, Real{x_hat}, std::exp(log_variance / 2))) /
             std::numbers::ln2;
    const double mean = c1(t) * x0 + c2(t) * z, model = c1(t) * x_hat + c2(t) * z;
    const double q = std::log(posterior(t));
    return 0.5 *
           (-1 + log_variance - q + std::exp(q - log_variance) +
            (mean - model) * (mean - model) * std::exp(-log_variance)) /
           std::numbers::ln2;
  }
};

DiffusionOptions options_of(const std::string& target,
                            const std::string& variance,
                            const std::string& loss) {
  DiffusionOptions options;
  options.steps = kSteps;
  options.schedule.select("cosine");
  options.target.select(target);
  options.variance.select(variance);
  options.loss.select(loss);
  return options;
}

struct Batch {
  std::vector<int64_t> t{0, 1, 2, 30, 58, 59, 0};
  at::Tensor x0 = at::randint(0, 256, {7, 2, 3, 2}, at::kDouble).div(127.5).sub(1);
  at::Tensor eps = at::randn({7, 2, 3, 2}, at::kDouble);
  at::Tensor error = 0.1 * at::randn({7, 2, 3, 2}, at::kDouble);
  at::Tensor v = at::randn({7, 2, 3, 2}, at::kDouble);
};

TEST(Bound, EveryTargetAndVariance) {
  at::manual_seed(11);
  const Paper paper;
  for (const auto& target : predictions())
    for (const auto& variance : variances()) {
      SCOPED_TRACE(target.name + " " + variance.name);
      const bool learned = is_learned(Variance(variances(), variance.name));
      const Objective objective(options_of(target.name, variance.name, "vlb"), at::kCPU);
      Batch d;
      if (variance.name == "learned") {  // log sigma^2: near beta
        for (int64_t i = 0; i < 7; ++i)
          d.v[i] =
              0.3 * d.v[i] + std::log(paper.beta[static_cast<size_t>(d.t[static_cast<size_t>(i)])]);
      }
      const Objective::Rows rows = objective.rows_of_steps(d.t);
      const at::Tensor right = objective.target(d.x0, d.eps, rows);
      // In units of what the target is at that step.
      const at::Tensor error = d.error * right.abs().amax({1, 2, 3}, true);
      const at::Tensor output = right + error;
      const at::Tensor whole = learned ? at::cat({output, d.v}, 1) : output;
      const Objective::Loss loss = objective.loss(whole, d.x0, d.eps, rows);
      for (int64_t i = 0; i < 7; ++i) {
        const auto t = static_cast<size_t>(d.t[static_cast<size_t>(i)]);
        const double a = std::sqrt(paper.bar[t]), s = std::sqrt(1 - paper.bar[t]);
        double sum = 0;
        const at::Tensor x0 = d.x0[i].flatten(), eps = d.eps[i].flatten(), f = output[i].flatten(),
                         v = d.v[i].flatten();
        for (int64_t j = 0; j < 12; ++j) {
          const double x = x0[j].item<double>(), z = a * x + s * eps[j].item<double>();
          sum += paper.term(t,
                            x,
                            paper.x0_of(target.name, t, z, f[j].item<double>()),
                            z,
                            paper.log_variance(variance.name, t, v[j].item<double>()));
        }
        // Coefficients rounded to float32: 6e-8 of logarithms up to 10 and of outputs.
        const double expected = sum / 12;
        EXPECT_NEAR(loss.bound[i].item<double>(), expected, 2e-5 * std::abs(expected) + 1e-6)
            << "t=" << t;
        // vlb: T L_t, so that the mean over t is the sum.
        EXPECT_NEAR(loss.weighted[i].item<double>(),
                    kSteps * loss.bound[i].item<double>(),
                    1e-12 * kSteps * std::abs(expected));
      }
    }
}

TEST(Bound, VlbMeanOverStepsIsTheSumOfTerms) {
  at::manual_seed(12);
  const Objective objective(options_of("epsilon", "fixed_large", "vlb"), at::kCPU);
  std::vector<int64_t> all(kSteps);
  for (int64_t t = 0; t < kSteps; ++t) all[static_cast<size_t>(t)] = t;
  const at::Tensor x0 =
      at::randint(0, 256, {1, 1, 4, 4}, at::kDouble).div(127.5).sub(1).expand({kSteps, 1, 4, 4});
  const at::Tensor eps = at::randn({kSteps, 1, 4, 4}, at::kDouble);
  const Objective::Rows rows = objective.rows_of_steps(all);
  const at::Tensor output = eps + 0.2 * at::randn_like(eps);
  const Objective::Loss loss = objective.loss(output, x0, eps, rows);
  const at::Tensor terms = objective.bound_bits(output - eps, {}, x0, rows);
  EXPECT_NEAR(loss.weighted.mean().item<double>(), terms.sum().item<double>(), 1e-5);
  // With a fixed variance the terms after the first are eq. 12's weighted squares and a constant.
  const Paper paper;
  for (size_t t = 1; t < static_cast<size_t>(kSteps); ++t) {
    const double weight = paper.beta[t] * paper.beta[t] /
                          (2 * paper.beta[t] * (1 - paper.beta[t]) * (1 - paper.bar[t]));
    const double ratio = paper.posterior(t) / paper.beta[t];
    const double constant = 0.5 * (ratio - 1 - std::log(ratio));
    const auto i = static_cast<int64_t>(t);
    const double expected = (weight * loss.raw[i].item<double>() + constant) / std::numbers::ln2;
    EXPECT_NEAR(terms[i].item<double>(), expected, 2e-5 * expected + 1e-6) << t;
  }
}

TEST(Bound, HybridTrainsTheMeanBySimpleAndTheVarianceByTheBound) {
  at::manual_seed(13);
  for (const auto& target : predictions())
    for (const char* variance : {"learned", "learned_range"}) {
      SCOPED_TRACE(target.name + " " + variance);
      Batch d;
      const Objective hybrid(options_of(target.name, variance, "hybrid"), at::kCPU);
      const Objective simple(options_of(target.name, "fixed_small", "mse"), at::kCPU);
      const Objective::Rows rows = hybrid.rows_of_steps(d.t);
      const at::Tensor right = hybrid.target(d.x0, d.eps, rows);
      const at::Tensor error = d.error * right.abs().amax({1, 2, 3}, true);
      const at::Tensor f = right + error;
      at::Tensor output = at::cat({f, d.v}, 1).requires_grad_(true);
      const Objective::Loss loss = hybrid.loss(output, d.x0, d.eps, rows);
      loss.weighted.sum().backward();

      at::Tensor mean = f.clone().requires_grad_(true);
      const Objective::Loss alone = simple.loss(mean, d.x0, d.eps, rows);
      alone.weighted.sum().backward();
      EXPECT_TRUE(at::equal(output.grad().narrow(1, 0, 2), mean.grad()));

      // v: lambda T dL_t/dv, with dKL/dv = slope / 2 (1 - e^(q - p) - d^2 e^-p) for t > 0.
      const double factor = 0.001 * kSteps / (12 * std::numbers::ln2);
      const Paper paper;
      for (int64_t i = 1; i < 6; ++i) {
        const auto t = static_cast<size_t>(d.t[static_cast<size_t>(i)]);
        const double q = std::log(paper.posterior(t));
        const at::Tensor p =
            std::string(variance) == "learned"
                ? d.v[i]
                : (d.v[i] + 1) / 2 * std::log(paper.beta[t]) + (1 - d.v[i]) / 2 * q;
        const double slope =
            std::string(variance) == "learned" ? 1 : (std::log(paper.beta[t]) - q) / 2;
        const at::Tensor distance = error[i] * rows.mean_error[i].item<double>();
        const at::Tensor expected =
            factor * slope / 2 * (1 - at::exp(q - p) - distance.square() * at::exp(-p));
        const at::Tensor ours = output.grad()[i].narrow(0, 2, 2);
        // 1 - e^(q - p) cancels: float32 logarithms of size 10, so 1e-6 of each term.
        const double size = factor * std::abs(slope) *
                            (1 + at::exp(q - p).max().item<double>() +
                             (distance.square() * at::exp(-p)).max().item<double>());
        EXPECT_LT((ours - expected).abs().max().item<double>(), 4e-6 * size) << "t=" << t;
      }
      // The factor: lambda = 0.001 of T L_t in bits is T / 1000 of L_t, and 1.4427e-3 in nats.
      const at::Tensor added = loss.weighted.detach() - alone.weighted.detach();
      for (int64_t i = 0; i < 7; ++i) {
        const double bits = loss.bound[i].item<double>(), nats = bits * std::numbers::ln2;
        const double size = loss.weighted[i].item<double>();
        EXPECT_NEAR(added[i].item<double>(), kSteps / 1000.0 * bits, 1e-14 * size);
        EXPECT_NEAR(added[i].item<double>(),
                    1.4427e-3 * kSteps * nats,
                    1e-5 * std::abs(added[i].item<double>()) + 1e-14 * size);
      }
    }
}

TEST(Loss, HuberIsSquaredThenLinear) {
  at::manual_seed(14);
  DiffusionOptions options = options_of("velocity", "fixed_small", "huber");
  options.weighting.select("min_snr");
  const double delta = 1;
  const Objective huber(options, at::kCPU);
  options.loss.select("mse");
  const Objective mse(options, at::kCPU);
  const Batch d;
  const Objective::Rows rows = huber.rows_of_steps(d.t);
  for (const double size : {0.5, 30.0}) {
    const at::Tensor error = size * (10 * d.error).clamp(-2, 2);
    const at::Tensor output = huber.target(d.x0, d.eps, rows) + error;
    const Objective::Loss loss = huber.loss(output, d.x0, d.eps, rows);
    const Objective::Loss squared = mse.loss(output, d.x0, d.eps, rows);
    for (int64_t i = 0; i < 7; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < 12; ++j) {
        const double e = std::abs(error[i].flatten()[j].item<double>());
        sum += e <= delta ? e * e : 2 * delta * e - delta * delta;
      }
      const double expected = sum / 12 * rows.weight[i].item<double>();
      EXPECT_NEAR(loss.weighted[i].item<double>(), expected, 1e-12 * (1 + expected));
      EXPECT_EQ(loss.raw[i].item<double>(), squared.raw[i].item<double>());  // stays comparable
    }
    if (size < 1) {
      EXPECT_TRUE(at::allclose(loss.weighted, squared.weighted, 1e-13, 0));
    }
  }
}

// Denoising score matching is the score target with weight 1 - alpha_bar: one network eps(z), three
// losses, one gradient.

TEST(ScoreMatching, NoisePredictionAndTheSdeWeightHaveOneGradient) {
  at::manual_seed(15);
  for (const char* schedule : {"linear", "vp", "ve", "flow"}) {
    SCOPED_TRACE(schedule);
    DiffusionOptions options;
    options.schedule.select(schedule);
    options.steps = 100;
    options.target.select("epsilon");
    const Objective noise(options, at::kCPU);
    options.target.select("score");
    options.weighting.select("snr");
    const Objective score(options, at::kCPU);

    const int64_t n = 6;
    std::vector<Time> times(n);
    for (int64_t i = 0; i < n; ++i)
      times[static_cast<size_t>(i)].u = (static_cast<double>(i) + 0.4) / n;
    const at::Tensor x0 = at::randn({n, 1, 2, 3}, at::kDouble);
    const at::Tensor eps = at::randn({n, 1, 2, 3}, at::kDouble);
    const Objective::Rows noise_rows = noise.rows(times.data(), n);
    const Objective::Rows score_rows = score.rows(times.data(), n);
    const at::Tensor input = noise.input(x0, eps, noise_rows);
    ASSERT_TRUE(at::equal(input, score.input(x0, eps, score_rows)));
    at::Tensor sigma = at::empty({n, 1, 1, 1}, at::kDouble), alpha = at::empty_like(sigma);
    for (int64_t i = 0; i < n; ++i) {
      const Level level = noise.process().at(times[static_cast<size_t>(i)].u).level;
      sigma[i] = level.sigma;
      alpha[i] = level.alpha;
    }
    // A network with a hidden layer.
    const at::Tensor w1 = 0.5 * at::randn({6, 8}, at::kDouble), w2 = at::randn({8, 6}, at::kDouble);
    const auto gradients = [&](const auto& loss) {
      at::Tensor a = w1.clone().requires_grad_(true), b = w2.clone().requires_grad_(true);
      const at::Tensor eps_hat =
          at::matmul(at::tanh(at::matmul(input.view({n, 6}), a)), b).view({n, 1, 2, 3});
      loss(eps_hat).backward();
      return at::cat({a.grad().flatten(), b.grad().flatten()});
    };
    const at::Tensor by_noise = gradients([&](const at::Tensor& eps_hat) {
      return noise.loss(eps_hat, x0, eps, noise_rows).weighted.sum();
    });
    const at::Tensor by_score = gradients([&](const at::Tensor& eps_hat) {
      return score.loss(-eps_hat / sigma, x0, eps, score_rows).weighted.sum();
    });
    // Vincent 2011, eq. 9: |s(z) - d log q(z | x0) / dz|^2 with d log q / dz = (alpha x0 - z) /
    // sigma^2, times Song et al. 2021's lambda = 1 / E|d log q / dz|^2 = sigma^2, which is
    // 1 - alpha_bar on vp.
    const at::Tensor z = alpha * x0 + sigma * eps;
    const at::Tensor by_dsm = gradients([&](const at::Tensor& eps_hat) {
      const at::Tensor s = -eps_hat / sigma;
      const at::Tensor matched = (s - (alpha * x0 - z) / sigma.square()).square();
      return (sigma.square() * matched).mean({1, 2, 3}).sum();
    });
    const double size = by_noise.abs().max().item<double>();
    ASSERT_GT(size, 0.1);
    // The objectives' numbers are rounded to float32, the score's 1 / sigma too: a target of size 3
    // to 2e-7, weights to 6e-8.
    EXPECT_LT((by_score - by_noise).abs().max().item<double>(), 2e-6 * size);
    EXPECT_LT((by_dsm - by_noise).abs().max().item<double>(), 2e-6 * size);
  }
}

}  // namespace
}  // namespace diffuse
