// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "diffusion/normal.h"
#include "diffusion/options.h"

namespace diffuse {
namespace {

const std::vector<double> kTimes{
    1e-9, 1e-4, 0.01, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 0.9999};

double sigma_over_alpha(double logsnr) { return std::exp(-logsnr / 2); }

DiffusionOptions options_of(const std::string& schedule, int64_t steps = 1000) {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.steps = steps;
  options.target.select("velocity");
  return options;
}

/// Every continuous schedule, with options other than the defaults, too.
std::vector<std::pair<std::string, ContinuousSchedule>> continuous_schedules() {
  std::vector<std::pair<std::string, ContinuousSchedule>> out;
  for (const auto& row : schedules()) {
    if (row.name == "table") continue;  // has no default file
    const Noising noising = Schedule(schedules(), row.name)(1000);
    if (noising.continuous) out.emplace_back(row.name, *noising.continuous);
  }
  FlowSchedule flow;
  flow.density = FlowDensity::logit_normal, flow.mean = 0.4, flow.std = 1.3;
  out.emplace_back("flow logit_normal", flow(1));
  flow.density = FlowDensity::mode;
  out.emplace_back("flow mode", flow(1));
  ShiftedCosineSchedule cosine;
  cosine.size = 256;
  out.emplace_back("shifted_cosine 256", cosine(1));
  LaplaceSchedule laplace;
  laplace.mu = -1, laplace.b = 2;
  out.emplace_back("laplace -1 2", laplace(1));
  return out;
}

TEST(Continuous, VpIsTheSdeInClosedForm) {
  // Karras et al. 2022, Table 1: sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1).
  const ContinuousSchedule vp = VpSchedule()(1);
  for (const double u : kTimes) {
    const double t = 1e-5 + (1 - 1e-5) * u;
    const double sigma = std::sqrt(std::expm1(0.5 * 19.9 * t * t + 0.1 * t));
    EXPECT_NEAR(sigma_over_alpha(vp.train(u).value), sigma, 1e-13 * sigma);
    EXPECT_NEAR(sigma_over_alpha(vp.chain(u)), sigma, 1e-13 * sigma);
    EXPECT_NEAR(vp.time(-2 * std::log(sigma)), t, 1e-12);
  }
  EXPECT_NEAR(sigma_over_alpha(vp.chain(1)), 152.167, 5e-4);  // sqrt(exp(10.05) - 1)
}

TEST(Continuous, VeHasEqualRatios) {
  VeSchedule schedule;
  schedule.sigma_min = 0.02, schedule.sigma_max = 100;
  const ContinuousSchedule ve = schedule(1);
  for (const double u : kTimes) {
    const double sigma = 0.02 * std::pow(100 / 0.02, u);
    EXPECT_NEAR(sigma_over_alpha(ve.train(u).value), sigma, 1e-13 * sigma);
    EXPECT_NEAR(sigma_over_alpha(ve.chain(u)), sigma, 1e-13 * sigma);
  }
}

TEST(Continuous, EdmHasTheQuantilesOfTheLogNormal) {
  const ContinuousSchedule edm = EdmSchedule()(1);
  for (const double u : kTimes) {
    const double x = (std::log(sigma_over_alpha(edm.train(u).value)) + 1.2) / 1.2;
    // du = density dx, and x is right to a few ulp of |x| + 1
    EXPECT_NEAR(0.5 * std::erfc(-x / std::numbers::sqrt2), u, 2e-14 * u);
  }
}

TEST(Continuous, EdmVisitsTheEighteenLevelsOfThePaper) {
  // Karras et al. 2022, eq. 5 with N = 18; 10 printed digits.
  const std::vector<double> expected{80,
                                     57.58598472,
                                     40.7855738,
                                     28.3745846,
                                     19.35245298,
                                     12.91008238,
                                     8.400935309,
                                     5.315194522,
                                     3.25682152,
                                     1.923339837,
                                     1.088170637,
                                     .5853481232,
                                     .2964422845,
                                     .1395164687,
                                     .05994731124,
                                     .02293451837,
                                     .007528019963,
                                     .002};
  DiffusionOptions options = options_of("edm", 18);
  options.time = TimeKind::discrete;
  const Process process = make_process(options);
  ASSERT_EQ(process.chain().steps(), 18);
  for (size_t i = 0; i < 18; ++i) {
    const Level& level = process.chain().level(17 - static_cast<int64_t>(i));
    EXPECT_NEAR(level.sigma, expected[i], 1e-9 * expected[i]);
    EXPECT_EQ(level.alpha, 1);
    // The network is told 1000 times the schedule's time, which goes in equal steps.
    EXPECT_NEAR(level.t, 1000 * (17.0 - static_cast<double>(i)) / 17, 1e-9);
  }
}

TEST(Continuous, FlowDensities) {
  FlowSchedule flow;
  // t = sigma / (alpha + sigma); the density of t is du/dt = 1 / (dt/du).
  const auto time = [](const LogSnr& l) { return 1 / (1 + std::exp(l.value / 2)); };
  const auto density = [&](const LogSnr& l) {
    const double t = time(l);
    return 1 / (-0.5 * l.slope * t * (1 - t));
  };
  ContinuousSchedule schedule = flow(1);
  for (const double u : kTimes) {
    EXPECT_NEAR(time(schedule.train(u)), 1e-5 + (1 - 2e-5) * u, 1e-14);
    EXPECT_NEAR(density(schedule.train(u)), 1 / (1 - 2e-5), 1e-11);
  }
  flow.density = FlowDensity::logit_normal;
  flow.mean = 0.5, flow.std = 0.8;
  schedule = flow(1);
  for (const double u : kTimes) {
    const LogSnr at = schedule.train(u);
    const double t = time(at);
    const double z = (std::log(t / (1 - t)) - 0.5) / 0.8;
    EXPECT_NEAR(0.5 * std::erfc(-z / std::numbers::sqrt2), u, 1e-12 * u);
    // Esser et al. 2024, eq. 19
    const double expected =
        std::exp(-z * z / 2) / (0.8 * std::sqrt(2 * std::numbers::pi) * t * (1 - t));
    EXPECT_NEAR(density(at), expected, 1e-11 * expected);
  }
  // A mean above 0 is more noise.
  EXPECT_GT(time(schedule.train(0.5)), 0.6);
  flow.density = FlowDensity::mode;
  for (const double s : {-1.0, 0.0, 1.29}) {
    flow.scale = s;
    schedule = flow(1);
    double mean = 0;
    for (int i = 0; i < 1000; ++i) {
      const double u = (i + 0.5) / 1000;
      // Esser et al. 2024, eq. 20; it falls in its argument and ours rises in u.
      const double v = 1 - u, c = std::cos(std::numbers::pi / 2 * v);
      const double t = 1e-5 + (1 - 2e-5) * (1 - v - s * (c * c - 1 + v));
      EXPECT_NEAR(time(schedule.train(u)), t, 1e-13);
      mean += time(schedule.train(u)) / 1000;
    }
    EXPECT_NEAR(mean, 0.5, 1e-12);  // symmetric
    // The density at t = 1/2 is 1 / |f'|, with f' = -1 + s (pi/2 - 1).
    EXPECT_NEAR(
        density(schedule.train(0.5)), 1 / (1 - 2e-5) / (1 - s * (std::numbers::pi / 2 - 1)), 1e-10);
  }
}

TEST(Continuous, ShiftedCosine) {
  // Hoogeboom et al. 2023: -2 log tan(pi t / 2) between its ends, and 2 log(64 / d) lower.
  ShiftedCosineSchedule options;
  const ContinuousSchedule plain = options(1);
  options.size = 256;
  const ContinuousSchedule shifted = options(1);
  const double a = std::atan(std::exp(-7.5)), b = std::atan(std::exp(7.5));
  for (const double u : kTimes) {
    const double t = a + (b - a) * u;
    EXPECT_NEAR(plain.train(u).value, 2 * std::log(std::cos(t) / std::sin(t)), 1e-11);
    EXPECT_NEAR(shifted.train(u).value, plain.train(u).value + 2 * std::log(64.0 / 256), 1e-13);
    EXPECT_EQ(shifted.chain(u), shifted.train(u).value);
  }
  EXPECT_NEAR(plain.chain(0), 15, 1e-11);
  EXPECT_NEAR(plain.chain(1), -15, 1e-11);
  // alpha_bar = cos^2: the ends are cut at 5.5e-4 of the quarter circle.
  const Level half = level_on(Path::vp, plain.chain(0.5));
  EXPECT_NEAR(half.alpha, std::cos(std::numbers::pi / 4), 1e-14);
}

TEST(Continuous, LaplaceIsItsDistribution) {
  for (const double b : {0.5, 2.0})
    for (const double mu : {0.0, -1.5}) {
      LaplaceSchedule options;
      options.b = b, options.mu = mu;
      const ContinuousSchedule laplace = options(1);
      const auto cdf = [&](double x) {
        return x < mu ? 0.5 * std::exp((x - mu) / b) : 1 - 0.5 * std::exp((mu - x) / b);
      };
      for (const double u : kTimes) {
        const LogSnr at = laplace.train(u);
        EXPECT_NEAR((cdf(10) - cdf(at.value)) / (cdf(10) - cdf(-10)), u, 1e-14);
        // density of log SNR = -du / d log SNR
        const double density =
            std::exp(-std::abs(at.value - mu) / b) / (2 * b) / (cdf(10) - cdf(-10));
        EXPECT_NEAR(-1 / at.slope, density, 1e-11 * density);
      }
      // Hang et al. 2024, Table 1, without the cut
      options.logsnr_max = 40, options.logsnr_min = -40;
      const double u = 0.3;
      EXPECT_NEAR(options(1).train(u).value, mu - b * std::log(1 - 2 * std::abs(0.5 - u)), 1e-8);
    }
}

TEST(Continuous, LaplaceStaysBetweenItsEnds) {
  LaplaceSchedule options;
  options.logsnr_max = 10, options.logsnr_min = -40;
  const ContinuousSchedule laplace = options(1);
  for (const double u : {0x1p-54, 0.5, 1 - 0x1p-30, 1 - 0x1p-53}) {
    const LogSnr at = laplace.train(u);
    EXPECT_GE(at.value, -40);
    EXPECT_LE(at.value, 10 + 1e-12);
    EXPECT_TRUE(std::isfinite(at.slope)) << u;
  }
}

TEST(Continuous, SlopesAreDerivatives) {
  for (const auto& [name, schedule] : continuous_schedules())
    for (double u = 0.01; u < 1; u += 0.049) {
      SCOPED_TRACE(name + " at " + std::to_string(u));
      const double h = 1e-4 * std::min(u, 1 - u);
      const double slope = (schedule.train(u + h).value - schedule.train(u - h).value) / (2 * h);
      // h^2 / 6 times the third derivative, at most about 2 / u^2 of the first; and the rounding of
      // values up to 20, 2e-15, over h.
      const double expected = schedule.train(u).slope;
      if (name.starts_with("laplace") && std::abs(u - 0.5) < 0.01) continue;  // the density's kink
      EXPECT_NEAR(slope, expected, 1e-7 * std::abs(expected) + 4e-15 / h);
      EXPECT_LT(expected, 0);
    }
}

TEST(Continuous, TimeInvertsTheChain) {
  for (const auto& [name, schedule] : continuous_schedules()) {
    SCOPED_TRACE(name);
    for (double v = 0; v <= 1; v += 1.0 / 64)
      // vp and flow have t in (t_min, 1) and (t_min, 1 - t_min), t_min = 1e-5
      EXPECT_NEAR(schedule.time(schedule.chain(v)), v, 1.001e-5);
    // It goes on beyond the ends.
    EXPECT_LT(schedule.time(schedule.chain(0) + 1), schedule.time(schedule.chain(0)));
    EXPECT_GT(schedule.time(schedule.chain(1) - 1), schedule.time(schedule.chain(1)));
  }
}

TEST(Continuous, ChainsOfAnyLengthFallOnEveryPath) {
  for (const auto& row : schedules()) {
    if (row.name == "table") continue;
    for (const PathKind path : {PathKind::vp, PathKind::ve, PathKind::flow})
      for (const int64_t steps : {1, 2, 30, 1000}) {
        if (steps < 21 && row.name.ends_with("linear")) continue;  // beta reaches 1
        SCOPED_TRACE(row.name + " " + std::to_string(steps));
        DiffusionOptions options = options_of(row.name, steps);
        options.path = path;
        const Chain chain = make_chain(options);
        ASSERT_EQ(chain.steps(), steps);
        for (int64_t t = 0; t < steps; ++t) {
          const auto i = static_cast<size_t>(t);
          EXPECT_GT(chain.beta[i], 0);
          if (t > 0) {
            EXPECT_LT(chain.level(t).logsnr, chain.level(t - 1).logsnr);
            EXPECT_GT(chain.level(t).t, chain.level(t - 1).t);
          }
          // What q adds: sigma_t^2 = (alpha_t / alpha_s)^2 sigma_s^2 + beta_t.
          const double kept = chain.alpha_bar[i] / chain.alpha_bar_prev[i] * chain.sigma2_prev[i];
          EXPECT_NEAR(kept + chain.beta[i], chain.sigma2[i], 1e-11 * chain.sigma2[i]);
        }
      }
  }
}

TEST(Path, ScalesOfSignalAndNoise) {
  for (double logsnr = -30; logsnr <= 30; logsnr += 1.5) {
    const Level vp = level_on(Path::vp, logsnr);
    const Level ve = level_on(Path::ve, logsnr);
    const Level flow = level_on(Path::flow, logsnr);
    const double ratio = std::exp(logsnr / 2);
    for (const Level& l : {vp, ve, flow}) {
      EXPECT_EQ(l.logsnr, logsnr);
      EXPECT_NEAR(l.alpha / l.sigma, ratio, 1e-14 * ratio);
      EXPECT_NEAR(l.snr(), std::exp(logsnr), 1e-14 * std::exp(logsnr) * (1 + std::abs(logsnr)));
      // Whatever the path, a network that divides by the standard deviation sees the same.
      const double std = std::sqrt(prior_variance(l));
      EXPECT_NEAR(l.alpha / std, vp.alpha, 1e-14);
      EXPECT_NEAR(l.sigma / std, vp.sigma, 1e-14);
    }
    EXPECT_NEAR(vp.alpha * vp.alpha + vp.sigma * vp.sigma, 1, 4e-16);
    EXPECT_EQ(ve.alpha, 1);
    EXPECT_NEAR(ve.c_in * std::sqrt(1 + ve.sigma * ve.sigma), 1, 1e-15);
    EXPECT_NEAR(flow.alpha + flow.sigma, 1, 2.3e-16);
    EXPECT_EQ(vp.c_in, 1);
    EXPECT_EQ(flow.c_in, 1);
  }
  for (const Path path : {Path::vp, Path::flow}) {
    const Level none = level_on(path, -std::numeric_limits<double>::infinity());
    EXPECT_EQ(none.alpha, 0);
    EXPECT_EQ(none.sigma, 1);
    EXPECT_EQ(prior_variance(none), 1);
  }
}

TEST(Process, ShiftOfTheFlowIsAShiftOfLogSnr) {
  // Esser et al. 2024, eq. 23: t' = s t / (1 + (s - 1) t).
  const Process plain = make_process(options_of("flow"));
  for (const double s : {0.5, 3.0}) {
    DiffusionOptions options = options_of("flow");
    options.logsnr_shift = -2 * std::log(s);
    const Process shifted = make_process(options);
    for (const double u : kTimes) {
      const double t = plain.at(u).level.sigma;
      EXPECT_NEAR(shifted.at(u).level.sigma, s * t / (1 + (s - 1) * t), 1e-14);
      EXPECT_NEAR(shifted.at(u).slope, plain.at(u).slope, 0);
      // The network is told the schedule's own time, as in the paper's code before the shift.
      EXPECT_NEAR(shifted.at(u).level.t, plain.at(u).level.t, 1e-10);
    }
  }
}

TEST(Process, InputScale) {
  // Chen 2023: z = sqrt(gamma) b x_0 + sqrt(1 - gamma) eps, divided by its standard deviation for
  // data of variance 1.
  for (const double b : {0.3, 1.7})
    for (const char* schedule : {"cosine", "sigmoid", "vp"}) {
      DiffusionOptions options = options_of(schedule);
      const Chain plain = make_chain(options);
      options.input_scale = b;
      const Chain scaled = make_chain(options);
      for (int64_t t = 0; t < 1000; t += 37) {
        const Level &l = plain.level(t), &m = scaled.level(t);
        const double std = std::sqrt(b * b * l.alpha * l.alpha + l.sigma * l.sigma);
        EXPECT_NEAR(m.alpha, b * l.alpha / std, 1e-13);
        EXPECT_NEAR(m.sigma, l.sigma / std, 1e-13);
        EXPECT_NEAR(scaled.snr(t), b * b * plain.snr(t), 1e-11 * plain.snr(t));
        EXPECT_NEAR(m.t, l.t, 1e-9);
      }
    }
}

TEST(Chain, PosteriorByCompletingTheSquareOnEveryPath) {
  for (const char* schedule : {"linear", "ve", "edm", "flow"})
    for (const PathKind path : {PathKind::vp, PathKind::ve, PathKind::flow}) {
      DiffusionOptions options = options_of(schedule, 100);
      options.path = path;
      options.time = TimeKind::discrete;
      const Chain full = make_chain(options);
      for (const Chain& chain : {full, respace(full, {0, 7, 50, 98, 99})})
        for (int64_t t = 1; t < chain.steps(); ++t) {
          const Level &clean = chain.level(t - 1), &noisy = chain.level(t);
          // z_s ~ N(alpha_s x0, sigma_s^2), z_t = a z_s + N(0, v)
          const double a = noisy.alpha / clean.alpha;
          const double v = noisy.sigma * noisy.sigma * -std::expm1(noisy.logsnr - clean.logsnr);
          const double precision = 1 / (clean.sigma * clean.sigma) + a * a / v;
          const double x0 = clean.alpha / (clean.sigma * clean.sigma) / precision;
          const double z = a / v / precision;
          const auto i = static_cast<size_t>(t);
          // alpha_bar of the linear chain is a product of 100 factors.
          EXPECT_NEAR(chain.posterior_variance[i] * precision, 1, 1e-10);
          EXPECT_NEAR(chain.posterior_mean_x0[i], x0, 1e-10 * x0);
          EXPECT_NEAR(chain.posterior_mean_xt[i], z, 1e-10 * z);
          if (chain.steps() == full.steps()) {
            EXPECT_EQ(noisy.mean_x0, chain.posterior_mean_x0[i]);
            EXPECT_EQ(noisy.mean_z, chain.posterior_mean_xt[i]);
          }
        }
    }
}

TEST(Edm, GoldenNumbers) {
  const Prediction edm(predictions(), "edm");
  const auto on_x0 = [&](const Level& level) {
    return Weighting(weightings(), "edm")({.level = level, .prediction = edm, .bound = 0}).on_x0;
  };
  // Karras et al. 2022, Table 1, for y + n; 9 printed digits.
  const Level low = level_on(Path::ve, -2 * std::log(0.2));
  const Coefficients c = edm(low);
  EXPECT_NEAR(on_x0(low), 29, 1e-12);
  EXPECT_NEAR(c.c_skip, .862068966, 1e-9);
  EXPECT_NEAR(c.c_out, .185695338, 1e-9);
  EXPECT_NEAR(c.c_in, 1.85695338, 1e-8);
  EXPECT_NEAR(c.c_noise, -.402359478, 1e-9);
  const Level high = level_on(Path::ve, -2 * std::log(80));
  EXPECT_NEAR(on_x0(high), 4.00015625, 1e-12);
  EXPECT_NEAR(edm(high).c_skip, 3.90609742e-5, 1e-13);
  // lambda c_out^2 = 1: the weight on the network's own error, on every path.
  DiffusionOptions options = options_of("edm");
  options.target.select("edm");
  options.weighting.select("edm");
  for (const PathKind path : {PathKind::vp, PathKind::ve, PathKind::flow}) {
    options.path = path;
    const Process process = make_process(options);
    for (const double u : kTimes)
      EXPECT_NEAR(network_weight(options, process, process.at(u)), 1, 1e-13);
  }
  // On other paths D sees z / alpha.
  for (const Path path : {Path::vp, Path::flow}) {
    const Level l = level_on(path, low.logsnr);
    EXPECT_NEAR(edm(l).c_skip * l.alpha, c.c_skip, 1e-14);
    EXPECT_NEAR(edm(l).c_out, c.c_out, 1e-14);
    EXPECT_NEAR(edm(l).c_in * l.alpha, c.c_in, 1e-14);
    EXPECT_EQ(edm(l).c_noise, c.c_noise);
  }
}

TEST(Normal, QuantilesInLongDouble) {
  std::vector<double> tails{0x1p-54, 1e-300};
  for (double tail = 0.499; tail > 1e-200; tail *= 0.37) tails.push_back(tail);
  for (const double tail : tails) {
    // Newton on log Q(x) = log(tail), Q = erfc(x / sqrt 2) / 2, in long double.
    long double x = std::sqrt(-2 * std::log(tail));
    for (int i = 0; i < 100; ++i) {
      const long double q = std::erfc(x / std::numbers::sqrt2_v<long double>) / 2;
      const long double slope = -std::exp(-x * x / 2) * std::numbers::inv_sqrtpi_v<long double> /
                                std::numbers::sqrt2_v<long double> / q;
      x -= (std::log(q) - std::log(static_cast<long double>(tail))) / slope;
    }
    const auto expected = static_cast<double>(x);
    EXPECT_NEAR(normal_quantile(tail), -expected, 1e-15 * std::max(1.0, expected)) << tail;
    if (tail > 1e-16) {
      const double p = 1 - tail;  // rounds; its own tail is exact
      const double there = normal_quantile(p);
      EXPECT_EQ(there, -normal_quantile(1 - p));
    }
    // Back again: a relative error e of x is x^2 e of the tail.
    EXPECT_NEAR(normal_cdf(normal_quantile(tail)) / tail, 1, 1e-15 * (2 + expected * expected));
  }
  EXPECT_NEAR(normal_quantile(0.5), 0, 1e-16);
  for (const double p : {1e-300, 1e-8, 0.3, 0.5, 0.999})
    EXPECT_NEAR(logistic(logit(p)) / p, 1, 2e-13);
}

TEST(Process, LevelBetweenTheSteps) {
  for (const PathKind path : {PathKind::vp, PathKind::ve, PathKind::flow}) {
    DiffusionOptions options = options_of("linear", 100);
    options.path = path;
    const Process process = make_process(options);
    const Chain& chain = process.chain();
    for (const int64_t t : {0, 1, 42, 98}) {
      const Level &clean = chain.level(t), &noisy = chain.level(t + 1);
      EXPECT_NEAR(process.level_at(clean.logsnr).t, clean.t, 1e-9);
      for (const double way : {0.25, 0.5, 0.9}) {
        const double logsnr = clean.logsnr + way * (noisy.logsnr - clean.logsnr);
        const Level level = process.level_at(logsnr);
        EXPECT_NEAR(level.t, static_cast<double>(t) + way, 1e-9);
        EXPECT_NEAR(level.alpha / level.sigma, std::exp(logsnr / 2), 1e-12 * std::exp(logsnr / 2));
        EXPECT_TRUE(std::isnan(level.mean_x0));
      }
    }
    // Beyond the ends the network is told the end's time, and the scales are the level's own.
    const Level cleaner = process.level_at(chain.level(0).logsnr + 2);
    EXPECT_EQ(cleaner.t, 0);
    EXPECT_NEAR(cleaner.snr(), chain.snr(0) * std::exp(2), 1e-11 * cleaner.snr());
    EXPECT_EQ(process.level_at(chain.level(99).logsnr - 2).t, 99);
  }
  // Towards a step without signal log SNR has no halfway: the cleaner step's time.
  DiffusionOptions options = options_of("linear", 100);
  options.zero_terminal_snr = true;
  const Process process = make_process(options);
  EXPECT_EQ(process.level_at(process.chain().level(98).logsnr - 3).t, 98);
}

TEST(Process, ContinuousAndDiscreteTimeOfOneSchedule) {
  for (const auto& row : schedules()) {
    if (row.name == "table") continue;
    DiffusionOptions options = options_of(row.name, 50);
    if (!options.schedule(50).continuous) {
      options.time = TimeKind::continuous;
      EXPECT_THROW(make_process(options), Error) << row.name;
      continue;
    }
    SCOPED_TRACE(row.name);
    const Process continuous = make_process(options);
    options.time = TimeKind::discrete;
    const Process discrete = make_process(options);
    EXPECT_TRUE(continuous.continuous());
    EXPECT_FALSE(discrete.continuous());
    EXPECT_EQ(discrete.bins(), 50);
    EXPECT_EQ(continuous.bins(), 256);
    for (int64_t t = 0; t < 50; ++t) {
      // Both sample through the same chain; the discrete one trains its steps, each as often.
      EXPECT_EQ(continuous.chain().level(t).logsnr, discrete.chain().level(t).logsnr);
      const NoisePoint point = discrete.at((static_cast<double>(t) + 0.5) / 50);
      EXPECT_EQ(point.t, t);
      EXPECT_EQ(point.level.logsnr, discrete.chain().level(t).logsnr);
      EXPECT_TRUE(std::isfinite(point.level.mean_x0));
      EXPECT_TRUE(std::isnan(continuous.chain().level(t).mean_x0));
    }
    EXPECT_EQ(continuous.at(0.3).t, -1);
    for (const Process* process : {&continuous, &discrete}) {
      const std::vector<double> edges = process->bin_edges();
      ASSERT_EQ(edges.size(), static_cast<size_t>(process->bins()) + 1);
      for (int64_t i = 0; i < process->bins(); ++i) {
        const double u = (static_cast<double>(i) + 0.5) / static_cast<double>(process->bins());
        const double logsnr = process->at(u).level.logsnr;
        EXPECT_LT(logsnr, edges[static_cast<size_t>(i)]);
        EXPECT_GT(logsnr, edges[static_cast<size_t>(i) + 1]);
      }
    }
  }
}

TEST(Process, BoundOfContinuousTimeIsTheLimitOfTheChains) {
  // Kingma et al. 2021, eq. 17: the weights of all steps on |x0 - x0_hat|^2 sum to half the fall of
  // the SNR, whatever the schedule's density.
  for (const char* name : {"vp", "flow", "edm", "laplace", "shifted_cosine", "ve"}) {
    SCOPED_TRACE(name);
    const DiffusionOptions options = options_of(name);
    const Process process = make_process(options);
    const double from = process.at(0.1).level.snr(), to = process.at(0.9).level.snr();
    double sum = 0;
    const int n = 100'000;  // midpoints of a smooth function: relative error below 1e-6
    for (int i = 0; i < n; ++i)
      sum +=
          bound_weight(process, options.variance, process.at(0.1 + 0.8 * (i + 0.5) / n)) * 0.8 / n;
    EXPECT_NEAR(sum, 0.5 * (from - to), 1e-6 * from);
  }
}

}  // namespace
}  // namespace diffuse
