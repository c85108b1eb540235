// SPDX-License-Identifier: MIT
#include "likelihood/flow.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "diffusion/prediction.h"

namespace diffuse {
namespace {

/// A path's name and its level of a log-SNR.
const std::vector<std::pair<std::string, LevelAt>>& paths() {
  static const std::vector<std::pair<std::string, LevelAt>> table{
      {"vp",
       [](double logsnr) {
         return Level{.t = logsnr,
                      .logsnr = logsnr,
                      .alpha = 1 / std::sqrt(1 + std::exp(-logsnr)),
                      .sigma = 1 / std::sqrt(1 + std::exp(logsnr))};
       }},
      {"ve",
       [](double logsnr) {
         return Level{.t = logsnr, .logsnr = logsnr, .alpha = 1, .sigma = std::exp(-logsnr / 2)};
       }},
      {"flow", [](double logsnr) {
         const double ratio = std::exp(-logsnr / 2);
         return Level{
             .t = logsnr, .logsnr = logsnr, .alpha = 1 / (1 + ratio), .sigma = ratio / (1 + ratio)};
       }}};
  return table;
}

double log_normal(double x, double mean, double variance) {
  return -0.5 * (std::log(2 * std::numbers::pi * variance) + (x - mean) * (x - mean) / variance);
}

double sum_of(const at::Tensor& t) { return t.sum().item<double>(); }

/// Data with independent normal values, their exact denoiser, and what the flow's likelihood is in
/// closed form: each value is moved with its quantile, x~ - m by the ratio of the deviations.
struct Gaussian {
  std::vector<double> mean, variance;

  int64_t size() const { return static_cast<int64_t>(mean.size()); }

  Denoise denoiser() const {
    const at::Tensor m = at::tensor(mean, at::kDouble), v = at::tensor(variance, at::kDouble);
    return [m, v](const at::Tensor& z, const Level& l) {
      // E[x | z] of a normal x.
      const at::Tensor gain = l.alpha * v / (l.alpha * l.alpha * v + l.sigma * l.sigma);
      return z * gain.to(z.scalar_type()) + ((1 - l.alpha * gain) * m).to(z.scalar_type());
    };
  }

  at::Tensor draw(int64_t n) const {
    const at::Tensor x = at::empty({n, size()}, at::kDouble);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t e = 0; e < size(); ++e) {
        const Stream stream{17, Purpose::init, 0, static_cast<uint64_t>(i)};
        const auto k = static_cast<size_t>(e);
        x[i][e] =
            mean[k] + std::sqrt(variance[k]) * random_normal4(stream, static_cast<uint32_t>(e))[0];
      }
    return x;
  }

  struct Truth {
    double density = 0;     // log p(x) of the data itself
    double flow = 0;        // what the exact ODE with the prior N(0, I) of y gives
    double truncation = 0;  // |density - flow| is at most this: of the two ends
    double numerical = 0;   // the solver's error of `flow` is at most this for each step and tol
  };
  Truth truth(const at::Tensor& row, const FlowOptions& options) const {
    const double var_clean = std::exp(-options.logsnr_clean);
    const double var_noisy = std::exp(-options.logsnr_noisy);
    const double c = std::sqrt(1 + var_noisy);
    Truth out;
    double amplified = 1, largest = 0, weighted = 0, column = 0;
    for (int64_t e = 0; e < size(); ++e) {
      const double m = mean[static_cast<size_t>(e)], v = variance[static_cast<size_t>(e)];
      const double x = row[e].item<double>();
      const double end = m + (x - m) * std::sqrt((v + var_noisy) / (v + var_clean));
      out.density += log_normal(x, m, v);
      out.flow += log_normal(x, m, v + var_clean) + log_normal(end, 0, 1 + var_noisy) -
                  log_normal(end, m, v + var_noisy);
      // The clean end: |log N(v + s^2) - log N(v)| <= s^2 / 2v (1 + (x - m)^2 / v). The noisy end,
      // with y = end / c ~ N(m / c, 1 + q), q = (v - 1) / c^2, against N(0, 1).
      const double y = end / c, q = std::abs(v - 1) / (c * c), shift = std::abs(m) / c;
      out.truncation += 0.5 * var_clean / v * (1 + (x - m) * (x - m) / v) +
                        0.5 * (q + y * y * q + 2 * std::abs(y) * shift + shift * shift) / (1 - q);
      // An error of y keeps its sign and grows with the deviations' ratio, as y - m / c does.
      amplified = std::max({amplified, 1 / std::sqrt(v), std::sqrt(v)});
      largest = std::max(largest, std::abs(m) + std::abs(x - m) * amplified);
      weighted += std::abs(y);
      column += std::abs(std::log(v));
    }
    // A step errs in y by at most tol (1 + largest) sqrt(d) in one value, and that changes the
    // prior by |y| times as much; in log p by tol (1 + log p a dimension) d.
    const auto d = static_cast<double>(size());
    out.numerical = weighted * amplified * (1 + largest) * std::sqrt(d) + d * (1 + column / d);
    return out;
  }
};

FlowOptions exact_options() {
  return {.logsnr_clean = 16,
          .logsnr_noisy = -16,
          .probes = 0,
          .seed = 3,
          .ode = {.atol = 1e-8, .rtol = 1e-8, .max_evaluations = 100000},
          .type = at::kDouble};
}

std::vector<Gaussian> gaussians() {
  std::vector<Gaussian> all{
      {.mean = {0}, .variance = {1}},
      {.mean = {0.3}, .variance = {0.25}},
      {.mean = {0, 0}, .variance = {0.5, 0.5}},
      {.mean = {-0.5, 1}, .variance = {0.04, 2}},
      {.mean = std::vector<double>(16, 0), .variance = std::vector<double>(16, 0.3)}};
  Gaussian diagonal;
  for (int e = 0; e < 16; ++e) {
    diagonal.mean.push_back(0.1 * e - 0.8);
    diagonal.variance.push_back(0.05 + 0.1 * e);
  }
  all.push_back(diagonal);
  return all;
}

TEST(Flow, IsTheClosedFormOnGaussians) {
  for (const auto& [path, level_at] : paths())
    for (const Gaussian& data : gaussians()) {
      const FlowOptions options = exact_options();
      const at::Tensor x = data.draw(3);
      const FlowLikelihood got = flow_likelihood(data.denoiser(), level_at, x, 0, options);
      ASSERT_EQ(got.nats.sizes(), at::IntArrayRef({3}));
      for (int64_t i = 0; i < 3; ++i) {
        SCOPED_TRACE(path + ", d = " + std::to_string(data.size()) + ", row " + std::to_string(i));
        const Gaussian::Truth truth = data.truth(x[i], options);
        const double numerical =
            truth.numerical * static_cast<double>(got.accepted) * options.ode.rtol;
        ASSERT_LT(numerical, 1e-2);  // a wrong term would be seen
        EXPECT_NEAR(got.nats[i].item<double>(), truth.flow, numerical);
        EXPECT_NEAR(got.nats[i].item<double>(), truth.density, truth.truncation + numerical);
      }
    }
}

// The ends are parts of the answer: with much noise left at the clean end and much signal at the
// noisy one, what comes out is that of the data with the noise, under the prior.
TEST(Flow, EndsAreWhatTheyAreSaidToBe) {
  const Gaussian data{.mean = {0.5, 0}, .variance = {0.2, 3}};
  FlowOptions options = exact_options();
  options.logsnr_clean = 2;
  options.logsnr_noisy = -1;
  const at::Tensor x = data.draw(2);
  for (const auto& [path, level_at] : paths()) {
    const FlowLikelihood got = flow_likelihood(data.denoiser(), level_at, x, 0, options);
    for (int64_t i = 0; i < 2; ++i) {
      const Gaussian::Truth truth = data.truth(x[i], options);
      const double bound = truth.numerical * static_cast<double>(got.accepted) * options.ode.rtol;
      EXPECT_GT(std::abs(truth.flow - truth.density), 0.1);
      EXPECT_NEAR(got.nats[i].item<double>(), truth.flow, bound) << path;
    }
  }
}

// Where the flow bends: a mixture, whose density is known too. The noisy end is near N(0, I).
TEST(Flow, IsTheDensityOfAMixture) {
  const std::vector<double> weights{0.3, 0.7}, means{-1, 0.6}, variances{0.02, 0.1};
  const Denoise denoise = [&](const at::Tensor& z, const Level& l) {
    at::Tensor total, sum;
    for (size_t k = 0; k < 2; ++k) {
      const double variance = l.alpha * l.alpha * variances[k] + l.sigma * l.sigma;
      const at::Tensor off = z - l.alpha * means[k];
      const at::Tensor p =
          at::exp(-0.5 * off.square() / variance) * (weights[k] / std::sqrt(variance));
      const at::Tensor x_hat = means[k] + off * (l.alpha * variances[k] / variance);
      total = k == 0 ? p * x_hat : total + p * x_hat;
      sum = k == 0 ? p : sum + p;
    }
    return total / sum;
  };
  FlowOptions options = exact_options();
  options.logsnr_clean = 18;
  options.logsnr_noisy = -18;
  const at::Tensor x = at::tensor({-1.2, -0.9, -0.2, 0.6, 1.1}, at::kDouble).unsqueeze(1);
  for (const auto& [path, level_at] : paths()) {
    const FlowLikelihood got = flow_likelihood(denoise, level_at, x, 0, options);
    for (int64_t i = 0; i < x.size(0); ++i) {
      double p = 0, curvature = 0;  // p''
      for (size_t k = 0; k < 2; ++k) {
        const double off = x[i].item<double>() - means[k], v = variances[k];
        const double part = weights[k] * std::exp(log_normal(off, 0, v));
        p += part;
        curvature += part * (off * off / (v * v) - 1 / v);
      }
      // The clean end: noise of variance s^2 adds s^2 / 2 p''/p and terms of s^4. The noisy end: y
      // is normal but for means of up to |m| / c, c = e^9, and |y| < 4 there. The solver: 1e-8
      // (1 + |y|) a step, which grows by the quantiles' slope, p(x) / N(y) < 10, and changes log p
      // by the score, |x - m| / v < 15.
      const double ends = std::exp(-18.0) * std::abs(curvature / p) + 4 * std::exp(-9.0);
      const double numerical = static_cast<double>(got.accepted) * 1e-8 * (1 + 4) * (1 + 10 * 15);
      EXPECT_NEAR(got.nats[i].item<double>(), std::log(p), ends + numerical)
          << path << " at " << x[i].item<double>();
    }
  }
}

/// Two values of variance 1 and correlation rho: the divergence's off-diagonal half is known.
struct Correlated {
  double rho = 0.8;

  Denoise denoiser() const {
    const double r = rho;
    return [r](const at::Tensor& z, const Level& l) {
      const double high = gain(1 + r, l), low = gain(1 - r, l);
      const at::Tensor swapped = z.flip({1});
      return z * (0.5 * (high + low)) + swapped * (0.5 * (high - low));
    };
  }
  static double gain(double v, const Level& l) {
    return l.alpha * v / (l.alpha * l.alpha * v + l.sigma * l.sigma);
  }
  /// What a probe with e1 e2 = +1 adds to log p: -int 2 J12 ds along the flow, of div D's sign.
  double excess(const FlowOptions& options) const {
    // J12 = (g(1 + rho) - g(1 - rho)) / 2, g(v) = v / (v + e^2s), int g ds = s - log(v + e^2s) / 2.
    const auto integral = [](double v, double s) {
      return s - 0.5 * std::log(v + std::exp(2 * s));
    };
    const double a = -options.logsnr_clean / 2, b = -options.logsnr_noisy / 2;
    const double high = integral(1 + rho, b) - integral(1 + rho, a);
    const double low = integral(1 - rho, b) - integral(1 - rho, a);
    return -(high - low);
  }
};

TEST(Flow, ProbesAreUnbiasedAndSpreadAsTheyMust) {
  const Correlated data;
  const at::Tensor x = at::tensor({0.3, -0.2, 1.0, 0.9}, at::kDouble).view({2, 2});
  FlowOptions options = exact_options();
  const LevelAt& level_at = paths()[0].second;
  const FlowLikelihood exact = flow_likelihood(data.denoiser(), level_at, x, 0, options);
  EXPECT_EQ(exact.probe.sizes(), at::IntArrayRef({2, 1}));
  options.probes = 64;
  const FlowLikelihood random = flow_likelihood(data.denoiser(), level_at, x, 0, options);
  ASSERT_EQ(random.probe.sizes(), at::IntArrayRef({2, 64}));
  const double excess = data.excess(options);
  ASSERT_GT(std::abs(excess), 0.5);
  // As in ASplitIntoBatchesChangesNothing, |y| being below 1.5.
  const double bound = 1e-8 * static_cast<double>(exact.accepted + random.accepted) * 300;
  for (int64_t i = 0; i < 2; ++i) {
    // tr J is hit up to e1 e2 2 J12: every probe is off by the same amount, either way.
    int plus = 0;
    for (int64_t k = 0; k < 64; ++k) {
      const double off = random.probe[i][k].item<double>() - exact.nats[i].item<double>();
      EXPECT_NEAR(std::abs(off), std::abs(excess), bound);
      plus += off > 0;
    }
    EXPECT_NEAR(plus, 32, 4 * 4);  // four standard deviations of a fair coin
    const double error = probe_error(random)[i].item<double>();
    EXPECT_NEAR(error, std::abs(excess) / 8, 0.2 * std::abs(excess) / 8);
    EXPECT_NEAR(random.nats[i].item<double>(), exact.nats[i].item<double>(), 4 * error);
  }
  options.probes = 1;
  const FlowLikelihood one = flow_likelihood(data.denoiser(), level_at, x, 0, options);
  EXPECT_TRUE(std::isnan(probe_error(one)[0].item<double>())) << "one probe shows no spread";
}

// For a linear denoiser of any Jacobian the probes' mean is the trace, and their variance that of
// Hutchinson's estimate, 2 sum_{i != j} S_ij^2 for the symmetric part S (Avron & Toledo 2011).
TEST(Flow, ManyProbesFindTheTraceOfAFullMatrix) {
  constexpr int64_t d = 6, kProbes = 400;
  const at::Tensor matrix = at::empty({d, d}, at::kDouble);
  for (int64_t i = 0; i < d; ++i)
    for (int64_t j = 0; j < d; ++j)
      matrix[i][j] = 0.2 * random_normal4({5, Purpose::init, 0, static_cast<uint64_t>(i)},
                                          static_cast<uint32_t>(j))[0];
  // D(x~) = M x~ at every level: its divergence's integral is the way's length times tr M.
  const Denoise denoise = [&](const at::Tensor& z, const Level& l) {
    return at::matmul(z / l.alpha, matrix.t());
  };
  FlowOptions options = exact_options();
  options.logsnr_clean = 2;
  options.logsnr_noisy = -2;
  const at::Tensor x = at::full({1, d}, 0.3, at::kDouble);
  const LevelAt& level_at = paths()[2].second;
  const FlowLikelihood exact = flow_likelihood(denoise, level_at, x, 0, options);
  options.probes = kProbes;
  const FlowLikelihood random = flow_likelihood(denoise, level_at, x, 0, options);
  const at::Tensor symmetric = 0.5 * (matrix + matrix.t());
  const double squares = sum_of(symmetric.square()) - sum_of(symmetric.diagonal().square());
  const double length = 0.5 * (options.logsnr_clean - options.logsnr_noisy);
  const double deviation = length * std::sqrt(2 * squares);
  ASSERT_GT(deviation, 0.5);
  const double root = std::sqrt(static_cast<double>(kProbes));
  EXPECT_NEAR(random.nats.item<double>(), exact.nats.item<double>(), 4 * deviation / root);
  // A standard deviation over k draws has the deviation deviation sqrt((kurtosis - 1) / 4k), and
  // a quadratic form of signs at most the kurtosis of one of normal values, 15.
  EXPECT_NEAR(
      random.probe.std(1).item<double>(), deviation, 4 * deviation * std::sqrt(14.0 / 4) / root);
}

TEST(Flow, ASplitIntoBatchesChangesNothing) {
  const Correlated data;
  const Gaussian normal{.mean = {0, 0}, .variance = {1, 1}};
  const at::Tensor x = normal.draw(6);
  FlowOptions options = exact_options();
  options.probes = 3;
  const LevelAt& level_at = paths()[1].second;
  const FlowLikelihood all = flow_likelihood(data.denoiser(), level_at, x, 10, options);
  // Gaussian::Truth::numerical with the variances 1 + rho and 1 - rho, for each of two solutions.
  const double bound = 2 * 1e-8 * static_cast<double>(all.accepted) * 300;
  for (const auto& [first, last] : {std::pair<int64_t, int64_t>{0, 1}, {1, 4}, {4, 6}}) {
    const FlowLikelihood part =
        flow_likelihood(data.denoiser(), level_at, x.slice(0, first, last), 10 + first, options);
    // Other probes would be off by 2 |excess|, over 1.
    EXPECT_LT((part.probe - all.probe.slice(0, first, last)).abs().max().item<double>(), bound);
  }
  EXPECT_GT(std::abs(data.excess(options)), 100 * bound);
  options.seed += 1;
  const FlowLikelihood other = flow_likelihood(data.denoiser(), level_at, x, 10, options);
  EXPECT_GT((other.probe - all.probe).abs().max().item<double>(), 100 * bound);
}

TEST(Flow, NetworksSeeFloat32AndTheStateIsFloat64) {
  const Gaussian data{.mean = {0.2, -0.1}, .variance = {0.3, 0.6}};
  FlowOptions options = exact_options();
  options.logsnr_clean = 10;
  options.logsnr_noisy = -10;
  options.ode = {};
  options.type = at::kFloat;
  const at::Tensor x = data.draw(4).to(at::kFloat);
  bool float32 = true;
  const Denoise inner = data.denoiser();
  const Denoise denoise = [&](const at::Tensor& z, const Level& l) {
    float32 = float32 && z.scalar_type() == at::kFloat;
    return inner(z, l);
  };
  for (const int64_t probes : {0, 2}) {
    options.probes = probes;
    const FlowLikelihood got = flow_likelihood(denoise, paths()[0].second, x, 0, options);
    EXPECT_TRUE(float32);
    EXPECT_EQ(got.nats.scalar_type(), at::kDouble);
    for (int64_t i = 0; i < 4; ++i) {
      const Gaussian::Truth truth = data.truth(x[i], options);
      // Rounding: some eps of float32 in each slope, 2 values, over a way of 10.
      const double rounding = 10 * 2 * 20 * std::pow(2.0, -24);
      EXPECT_NEAR(got.nats[i].item<double>(),
                  truth.flow,
                  truth.numerical * static_cast<double>(got.accepted) * 1e-5 + rounding);
    }
  }
}

// A network in bfloat16 behind the program's own denoiser: slower convergence, no other answer.
TEST(Flow, SolvesBfloat16NetworksToTheirPrecision) {
  const Gaussian data{.mean = {0, 0, 0, 0}, .variance = {0.3, 0.6, 1, 0.5}};
  const LevelAt& level_at = paths()[0].second;
  const Denoise exact = data.denoiser();
  double logsnr = 0;
  const Network network = [&](const at::Tensor& x, const at::Tensor&) {
    const Level l = level_at(logsnr);
    return ((x - l.alpha * exact(x, l).x_hat) / l.sigma).to(at::kBFloat16);  // eps_hat
  };
  Prediction epsilon(predictions(), "epsilon");
  const Denoise denoise = make_denoiser(network, epsilon, /*clip=*/false);
  FlowOptions options = exact_options();
  options.logsnr_clean = 8;
  options.logsnr_noisy = -8;
  options.type = at::kFloat;
  options.ode = {.atol = 1e-2, .rtol = 1e-2, .max_evaluations = 5000};
  const at::Tensor x = data.draw(3);
  const FlowLikelihood got = flow_likelihood(
      denoise,
      [&](double at) {
        logsnr = at;
        return level_at(at);
      },
      x,
      0,
      options);
  for (int64_t i = 0; i < 3; ++i) {
    // Both slopes are right to 2^-8 of eps and of its derivative, over a way of 8.
    const Gaussian::Truth truth = data.truth(x[i], options);
    const double rounding =
        8 * std::pow(2.0, -8) * (4 + 2 * sum_of(x[i].square() / at::tensor(data.variance)));
    EXPECT_NEAR(got.nats[i].item<double>(), truth.flow, rounding + 0.02 * 4);
  }
}

TEST(Flow, RefusesExactTracesOfPictures) {
  FlowOptions options = exact_options();
  const Denoise never = [](const at::Tensor& z, const Level&) { return z; };
  try {
    flow_likelihood(never, paths()[0].second, at::zeros({1, 3, 32, 32}), 0, options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Exit::usage);
    EXPECT_NE(std::string(error.what()).find("3072 dimensions"), std::string::npos);
  }
  const FlowLikelihood none =
      flow_likelihood(never, paths()[0].second, at::zeros({0, 3, 32, 32}), 0, options);
  EXPECT_EQ(none.nats.size(0), 0);
}

// A denoiser that is cut off from its input has no divergence to be taken; 0 would be a wrong one.
TEST(Flow, NoticesDenoisersWithoutGradients) {
  const Denoise cut = [](const at::Tensor& z, const Level&) {
    const at::NoGradGuard no_grad;
    return z * 0.5;
  };
  EXPECT_THROW(flow_likelihood(cut, paths()[0].second, at::zeros({1, 2}), 0, exact_options()),
               std::logic_error);
}

TEST(Dequantise, FillsTheBinsEvenly) {
  for (const int bits : {1, 2, 8, 16}) {
    const double spacing = level_spacing(bits);
    EXPECT_NEAR(spacing * ((1 << bits) - 1), 2, 1e-15);
    const at::Tensor x = at::full({2000, 5}, 1.0);
    const at::Tensor u = (dequantise(x, bits, 1, 0, 0) - x) / spacing;
    EXPECT_EQ(u.scalar_type(), at::kDouble);
    // (x + a) - x costs the last bits of a number near 1.
    EXPECT_GE(u.min().item<double>(), -0.5 - 1e-11);
    EXPECT_LT(u.max().item<double>(), 0.5 + 1e-11);
    // Deviations of a mean and of a mean square of 10000 uniform values, four of them.
    EXPECT_NEAR(u.mean().item<double>(), 0, 4 * std::sqrt(1.0 / 12 / 10000));
    EXPECT_NEAR(u.square().mean().item<double>(), 1.0 / 12, 4 * std::sqrt(1.0 / 180 / 10000));
  }
}

TEST(Dequantise, IsKeyedBySampleAndDraw) {
  const at::Tensor x = at::zeros({4, 1, 2, 3});
  const at::Tensor all = dequantise(x, 8, 7, 0, 20);
  EXPECT_TRUE(at::equal(dequantise(x.slice(0, 2, 4), 8, 7, 0, 22), all.slice(0, 2, 4)));
  EXPECT_FALSE(at::equal(dequantise(x, 8, 7, 1, 20), all));
  EXPECT_FALSE(at::equal(dequantise(x, 8, 8, 0, 20), all));
  EXPECT_EQ(dequantise(x.slice(0, 0, 0), 8, 7, 0, 0).size(0), 0);
}

// A model that finds all 2^b values equally likely needs b bits for each of them.
TEST(Dequantise, TheOffsetCountsBins) {
  for (const int bits : {1, 5, 8, 12, 16}) {
    const double range = level_spacing(bits) * (1 << bits);  // with half a bin beyond both ends
    const at::Tensor nats = at::full({1}, -3 * std::log(range), at::kDouble);
    EXPECT_NEAR(bits_per_dimension(nats, 3).item<double>() + bin_offset(bits), bits, 1e-13);
  }
  EXPECT_NEAR(bin_offset(8), std::log2(127.5), 1e-14);
}

// E_u log N(x + (u - 1/2) w; 0, v) = log N(x; 0, v) - w^2 / 24 v, through the ODE as through the
// formula: what is reported is a bound, and by how much.
TEST(Dequantise, TheFlowOfDequantisedValues) {
  const Gaussian data{.mean = {0}, .variance = {0.4}};
  FlowOptions options = exact_options();
  const double value = 1.0 / 3, spacing = level_spacing(2);
  constexpr int64_t n = 2000;
  const at::Tensor x = dequantise(at::full({n, 1}, value, at::kDouble), 2, 4, 0, 0);
  const at::Tensor nats = flow_likelihood(data.denoiser(), paths()[0].second, x, 0, options).nats;
  const double error = nats.std(0).item<double>() / std::sqrt(static_cast<double>(n));
  const double expected = log_normal(value, 0, 0.4) - spacing * spacing / (24 * 0.4);
  EXPECT_NEAR(nats.mean().item<double>(), expected, 4 * error);
  EXPECT_LT(4 * error, 0.5 * spacing * spacing / (24 * 0.4)) << "the term would be seen";
}

}  // namespace
}  // namespace diffuse
