// SPDX-License-Identifier: MIT
#include "diffusion/time_sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "diffusion/options.h"
#include "diffusion/support.h"

namespace diffuse {
namespace {

DiffusionOptions options_of(const std::string& schedule) {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.steps = 100;
  options.target.select("velocity");
  options.weighting.select("min_snr");
  return options;
}

const std::vector<std::string> kSchedules{"linear", "vp", "edm", "flow"};

/// A full history in which every loss of bin i is values[i].
LossHistory history_of(const std::vector<double>& values) {
  LossHistory history(static_cast<int64_t>(values.size()));
  for (size_t bin = 0; bin < values.size(); ++bin)
    for (int64_t i = 0; i < LossHistory::kLength; ++i)
      history.add(static_cast<int64_t>(bin), values[bin]);
  return history;
}

/// Means over a bin of u, by the midpoints of 64 parts; on a chain the level is one.
std::vector<double> bin_means(const Process& process,
                              const std::function<double(const Level&)>& f) {
  std::vector<double> out;
  const auto bins = static_cast<double>(process.bins());
  for (int64_t bin = 0; bin < process.bins(); ++bin) {
    double sum = 0;
    for (int part = 0; part < 64; ++part)
      sum += f(process.at((static_cast<double>(bin) + (part + 0.5) / 64) / bins).level);
    out.push_back(sum / 64);
  }
  return out;
}

double mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

/// The least expected loss at a level for data N(0, std^2): the network's weight on the variance of
/// F* given z, Var[x_0 | z] / c_out^2.
double exact_loss(const DiffusionOptions& options, const Process& process, const Level& level) {
  const double std = 0.5, a = level.alpha * std;
  const double variance =
      std * std * level.sigma * level.sigma / (a * a + level.sigma * level.sigma);
  const double c_out = options.target(level).c_out;
  const NoisePoint point{.level = level, .t = process.continuous() ? -1 : 0, .slope = 0};
  return network_weight(options, process, point) * variance / (c_out * c_out);
}

TEST(TimeSampler, TheExpectedLossIsTheSameUnderEvery) {
  for (const std::string& schedule : kSchedules) {
    const DiffusionOptions options = options_of(schedule);
    const Process process = make_process(options);
    const auto bins = static_cast<size_t>(process.bins());
    const std::vector<std::function<double(const Level&)>> functions{
        [](const Level&) { return 1.0; },
        [](const Level& l) { return 1 / (1 + std::exp(-l.logsnr)); },
        [](const Level& l) { return std::exp(-0.5 * (l.logsnr + 3) * (l.logsnr + 3)); },
        [&](const Level& l) { return exact_loss(options, process, l); }};
    std::vector<double> skew(bins);  // anything: the estimate is unbiased whatever was seen
    for (size_t i = 0; i < bins; ++i) skew[i] = 1 + static_cast<double>((7 * i) % 50);
    const LossHistory history = history_of(skew);
    for (const auto& row : time_samplers()) {
      const TimeDraw draw(TimeSampler(time_samplers(), row.name), process.bin_edges());
      const std::vector<double> p = draw.probabilities(&history);
      ASSERT_EQ(p.size(), bins);
      EXPECT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 1, 1e-12);
      for (const double probability : p) EXPECT_GT(probability, 0);
      const int64_t n = 20'000;
      const auto times = draw({.seed = 3, .step = 17, .batch = n}, &history);
      for (size_t k = 0; k < functions.size(); ++k) {
        SCOPED_TRACE(schedule + " " + row.name + " function " + std::to_string(k));
        const auto& f = functions[k];
        const double expected = mean(bin_means(process, f));
        const auto squares = bin_means(process, [&](const Level& l) { return f(l) * f(l); });
        // E[(weight f)^2] = sum_b p_b E_b[f^2] / (B p_b)^2
        double second = 0;
        for (size_t b = 0; b < bins; ++b)
          second += squares[b] / (p[b] * static_cast<double>(bins * bins));
        double sum = 0;
        for (const Time& time : times) sum += time.weight * f(process.at(time.u).level);
        const double error = std::sqrt((second - expected * expected) / static_cast<double>(n));
        // Stratified draws are closer still. 1e-5: midpoints, and draws that keep 2^-20 of a bin
        // away from its ends.
        EXPECT_NEAR(sum / static_cast<double>(n), expected, 4 * error + 1e-5 * expected);
      }
    }
  }
}

TEST(TimeSampler, DrawsAreKeyedAndInTheirBins) {
  for (const std::string& schedule : kSchedules) {
    const Process process = make_process(options_of(schedule));
    const auto bins = static_cast<double>(process.bins());
    const LossHistory history = history_of([&] {
      std::vector<double> values(static_cast<size_t>(process.bins()));
      for (size_t i = 0; i < values.size(); ++i) values[i] = i % 3 == 0 ? 10 : 0.1;
      return values;
    }());
    for (const auto& row : time_samplers()) {
      SCOPED_TRACE(schedule + " " + row.name);
      const TimeDraw draw(TimeSampler(time_samplers(), row.name), process.bin_edges());
      const std::vector<double> p = draw.probabilities(&history);
      const auto a = draw({.seed = 5, .step = 8, .batch = 64}, &history);
      const auto again = draw({.seed = 5, .step = 8, .batch = 64}, &history);
      const auto next = draw({.seed = 5, .step = 9, .batch = 64}, &history);
      const auto other = draw({.seed = 6, .step = 8, .batch = 64}, &history);
      int same = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].u, again[i].u);
        same += a[i].u == next[i].u || a[i].u == other[i].u;
        EXPECT_EQ(a[i].bin, static_cast<int64_t>(a[i].u * bins));
        EXPECT_GE(a[i].u, 0);
        EXPECT_LT(a[i].u, 1);
        EXPECT_NEAR(a[i].weight * p[static_cast<size_t>(a[i].bin)] * bins, 1, 1e-13);
        const NoisePoint point = process.at(a[i].u);
        if (!process.continuous()) {
          EXPECT_EQ(point.t, a[i].bin);
        }
      }
      EXPECT_EQ(same, 0);
      if (row.name == "stratified") continue;
      // A sample's time does not depend on the size of the batch.
      const auto fewer = draw({.seed = 5, .step = 8, .batch = 10}, &history);
      for (size_t i = 0; i < fewer.size(); ++i) EXPECT_EQ(fewer[i].u, a[i].u);
    }
  }
}

/// P(ln(sigma / alpha) <= x) of each sampler with a density of its own, with its defaults.
double claimed_cdf(const std::string& name, double x) {
  if (name == "lognormal") return 0.5 * std::erfc(-(x + 1.2) / 1.2 / std::numbers::sqrt2);
  if (name == "logit_normal") return 0.5 * std::erfc(-x / std::numbers::sqrt2);
  return 1 / (1 + std::exp(-(x + 1.2) / 0.6));  // log_logistic
}

TEST(TimeSampler, DensitiesAreTheClaimedOnes) {
  for (const std::string& schedule : kSchedules)
    for (const char* name : {"lognormal", "logit_normal", "log_logistic"}) {
      SCOPED_TRACE(schedule + " " + name);
      const Process process = make_process(options_of(schedule));
      const std::vector<double> edges = process.bin_edges();
      const auto bins = static_cast<size_t>(process.bins());
      const TimeDraw draw(TimeSampler(time_samplers(), name), edges);
      const std::vector<double> p = draw.probabilities();
      const auto below = [&](size_t edge) { return claimed_cdf(name, -edges[edge] / 2); };
      const double total = below(bins) - below(0);
      const int64_t n = 50'000;
      std::vector<double> counts(bins);
      for (const Time& time : draw({.seed = 1, .step = 2, .batch = n}))
        ++counts[static_cast<size_t>(time.bin)];
      double cumulative = 0, counted = 0, distance = 0;
      for (size_t b = 0; b < bins; ++b) {
        const double expected =
            0.95 * (below(b + 1) - below(b)) / total + 0.05 / static_cast<double>(bins);
        EXPECT_NEAR(p[b], expected, 1e-14);
        cumulative += expected;
        counted += counts[b] / static_cast<double>(n);
        distance = std::max(distance, std::abs(counted - cumulative));
      }
      // Kolmogorov-Smirnov: P(distance > 1.95 / sqrt(n)) < 0.001.
      EXPECT_LT(distance, 1.95 / std::sqrt(static_cast<double>(n)));
    }
}

TEST(TimeSampler, WithinABinTimesAreUniform) {
  const Process process = make_process(options_of("edm"));
  for (const char* name : {"uniform", "lognormal"}) {
    const TimeDraw draw(TimeSampler(time_samplers(), name), process.bin_edges());
    const int64_t n = 50'000;
    std::vector<double> within;
    for (const Time& time : draw({.seed = 1, .step = 3, .batch = n})) {
      const double x = time.u * 256;
      within.push_back(x - std::floor(x));
    }
    std::sort(within.begin(), within.end());
    double distance = 0;
    for (size_t i = 0; i < within.size(); ++i)
      distance = std::max(distance, std::abs(within[i] - (static_cast<double>(i) + 0.5) / n));
    EXPECT_LT(distance, 1.95 / std::sqrt(static_cast<double>(n))) << name;
  }
}

TEST(TimeSampler, StratifiedFillsTheStrata) {
  const Process process = make_process(options_of("flow"));
  const int64_t batch = 96;
  const TimeDraw draw(TimeSampler(time_samplers(), "stratified"), process.bin_edges());
  for (uint64_t step = 0; step < 20; ++step) {
    std::vector<int> count(batch);
    for (const Time& time : draw({.seed = 9, .step = step, .batch = batch})) {
      ++count[static_cast<size_t>(time.u * batch)];
      EXPECT_EQ(time.weight, 1);
    }
    for (const int n : count) EXPECT_EQ(n, 1);
  }
  // With a density the strata have equal mass: every bin gets its share, rounded up or down.
  for (const char* name : {"lognormal", "logit_normal", "log_logistic"}) {
    TimeSampler sampler(time_samplers(), name);
    set_option(sampler, "stratified", true);
    const TimeDraw dense(sampler, process.bin_edges());
    const std::vector<double> p = dense.probabilities();
    const int64_t n = 1000;
    std::vector<double> count(p.size());
    for (const Time& time : dense({.seed = 9, .step = 1, .batch = n}))
      ++count[static_cast<size_t>(time.bin)];
    for (size_t b = 0; b < p.size(); ++b) EXPECT_LT(std::abs(count[b] - n * p[b]), 1 + 1e-9);
  }
}

TEST(TimeSampler, StratifiedHasTheLowerVariance) {
  // The mean of a smooth function over a batch, over many steps.
  const Process process = make_process(options_of("vp"));
  const auto spread = [&](const char* name) {
    const TimeDraw draw(TimeSampler(time_samplers(), name), process.bin_edges());
    double sum = 0, squares = 0;
    for (uint64_t step = 0; step < 200; ++step) {
      double batch = 0;
      for (const Time& time : draw({.seed = 2, .step = step, .batch = 32}))
        batch += process.at(time.u).level.alpha / 32;
      sum += batch, squares += batch * batch;
    }
    return squares / 200 - sum / 200 * sum / 200;
  };
  EXPECT_LT(spread("stratified"), 0.05 * spread("uniform"));
}

TEST(Importance, UniformUntilEveryBinHasTenLosses) {
  const TimeSampler sampler(time_samplers(), "importance");
  EXPECT_TRUE(needs_history(sampler));
  const std::vector<double> edges{4, 1, -1, -4};
  const TimeDraw draw(sampler, edges);
  LossHistory history(3);
  for (int64_t bin = 0; bin < 3; ++bin)
    for (int i = 0; i < 10; ++i) {
      EXPECT_FALSE(history.full());
      for (const double p : draw.probabilities(&history)) EXPECT_EQ(p, 1.0 / 3);
      for (const Time& time : draw({.seed = 0, .step = 0, .batch = 8}, &history))
        EXPECT_EQ(time.weight, 1);
      history.add(bin, std::numeric_limits<double>::quiet_NaN());  // a skipped update
      history.add(bin, std::pow(2.0, static_cast<double>(bin)));
    }
  ASSERT_TRUE(history.full());
  // By hand: rms 1, 2, 4; p = 0.999 {1, 2, 4} / 7 + 0.001 / 3; the loss counts 1 / (3 p) (Nichol &
  // Dhariwal 2021, eq. 18).
  const std::vector<double> p = draw.probabilities(&history);
  EXPECT_NEAR(p[0], 0.143047619047619, 1e-15);
  EXPECT_NEAR(p[1], 0.285761904761905, 1e-15);
  EXPECT_NEAR(p[2], 0.571190476190476, 1e-15);
  const std::vector<double> weights{2.330226364846871, 1.166472254624229, 0.583576490204252};
  std::vector<int> seen(3);
  for (const Time& time : draw({.seed = 0, .step = 1, .batch = 100}, &history)) {
    ++seen[static_cast<size_t>(time.bin)];
    EXPECT_NEAR(time.weight, weights[static_cast<size_t>(time.bin)], 1e-13);
  }
  for (const int n : seen) EXPECT_GT(n, 0);
  // The ring forgets: after ten more losses of bin 0 only they count.
  for (int i = 0; i < 9; ++i) history.add(0, 3);
  EXPECT_NEAR(history.mean_square(0), (9 * 9.0 + 1) / 10, 1e-15);
  history.add(0, 3);
  EXPECT_NEAR(history.mean_square(0), 9, 1e-15);
  history.add(0, 1e3);
  EXPECT_NEAR(history.mean_square(0), (9 * 9.0 + 1e6) / 10, 1e-9);
  EXPECT_EQ(history.count[0], 21);
}

TEST(Importance, RootMeanSquareNotMean) {
  LossHistory history(2);
  for (int i = 0; i < 10; ++i) {
    history.add(0, 1);
    history.add(1, i == 0 ? 10 : 0);  // the same mean, sqrt(10) times the rms
  }
  const std::vector<double> edges{1, 0, -1};
  const std::vector<double> p =
      TimeDraw(TimeSampler(time_samplers(), "importance"), edges).probabilities(&history);
  EXPECT_NEAR((p[1] - 0.0005) / (p[0] - 0.0005), std::sqrt(10.0), 1e-12);
}

TEST(Importance, NeverMoreVarianceThanUniform) {
  // A history that holds the true root mean squares, and a loss that only a few steps have: the
  // bound's on a cosine chain.
  DiffusionOptions options = options_of("cosine");
  options.target.select("epsilon");
  options.weighting.select("vlb");
  const Process process = make_process(options);
  const auto bins = static_cast<size_t>(process.bins());
  std::vector<double> loss(bins);
  for (size_t t = 0; t < bins; ++t)
    loss[t] = network_weight(options,
                             process,
                             {.level = process.chain().level(static_cast<int64_t>(t)),
                              .t = static_cast<int64_t>(t),
                              .slope = 0});
  const LossHistory history = history_of(loss);
  const TimeDraw uniform(TimeSampler(time_samplers(), "uniform"), process.bin_edges());
  const TimeDraw importance(TimeSampler(time_samplers(), "importance"), process.bin_edges());
  const double expected = mean(loss);
  const auto variance = [&](const TimeDraw& draw) {  // exactly: losses without noise of their own
    const std::vector<double> p = draw.probabilities(&history);
    double second = 0;
    for (size_t t = 0; t < bins; ++t)
      second += loss[t] * loss[t] / (p[t] * static_cast<double>(bins * bins));
    return second - expected * expected;
  };
  // With p in proportion to the loss only the uniform share leaves a variance.
  EXPECT_LT(variance(importance), 2e-3 * expected * expected);
  EXPECT_GT(variance(uniform), 10 * expected * expected);
  // And so it is drawn.
  double sum = 0, squares = 0;
  const int64_t n = 10'000;
  for (const Time& time : importance({.seed = 4, .step = 0, .batch = n}, &history)) {
    const double value = time.weight * loss[static_cast<size_t>(time.bin)];
    sum += value, squares += value * value;
  }
  const double average = sum / static_cast<double>(n);
  EXPECT_NEAR(average, expected, 4 * std::sqrt(variance(importance) / static_cast<double>(n)));
  EXPECT_LT(squares / static_cast<double>(n) - average * average, 0.01 * variance(uniform));
}

}  // namespace
}  // namespace diffuse
