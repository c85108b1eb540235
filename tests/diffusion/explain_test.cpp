// SPDX-License-Identifier: MIT
#include "diffusion/explain.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace diffuse {
namespace {

DiffusionOptions options_of(const char* schedule, const char* target, const char* weighting) {
  DiffusionOptions out;
  out.schedule.select(schedule);
  out.target.select(target);
  out.weighting.select(weighting);
  return out;
}

// L_T in bits a dimension for E[x_0^2] = 1/4 and 1, in float64 from the closed form of the KL
// divergence.
TEST(Explain, PriorTerm) {
  const struct {
    const char* schedule;
    double quarter, one;
  } golden[] = {{"linear", 7.2787e-6, 2.9113e-5},
                {"cosine", 4.380e-10, 1.752e-9},
                {"scaled_linear", 8.4824e-4, 3.3694e-3}};
  for (const auto& g : golden) {
    const Explanation e = explain(options_of(g.schedule, "epsilon", "simple"));
    // The golden numbers have 4 or 5 digits.
    EXPECT_NEAR(e.prior_bits(0.25), g.quarter, 2e-4 * g.quarter) << g.schedule;
    EXPECT_NEAR(e.prior_bits(1), g.one, 2e-4 * g.one) << g.schedule;
  }
}

TEST(Explain, OneErrorOnEveryScale) {
  for (const auto& target : predictions())
    for (const auto& weighting : weightings()) {
      if (weighting.name == "table") continue;  // needs a file
      SCOPED_TRACE(target.name + " " + weighting.name);
      const DiffusionOptions options =
          options_of("linear", target.name.c_str(), weighting.name.c_str());
      const Chain chain = make_chain(options);
      const Explanation e = explain(options);
      ASSERT_EQ(e.steps.size(), 1000u);
      double shares = 0, density = 0;
      for (const ExplainedStep& s : e.steps) {
        const double snr = chain.snr(s.t);
        EXPECT_NEAR(s.on_eps * snr, s.on_x0, 1e-12 * s.on_x0);
        EXPECT_NEAR(s.on_velocity * (snr + 1), s.on_x0, 1e-11 * s.on_x0);
        EXPECT_NEAR(s.on_score * snr / (1 - chain.alpha_bar[static_cast<size_t>(s.t)]),
                    s.on_x0,
                    1e-11 * s.on_x0);  // sigma^2 is the square of a root
        const std::string& name = target.name;
        const double own = name == "epsilon"    ? s.on_eps
                           : name == "x0"       ? s.on_x0
                           : name == "velocity" ? s.on_velocity
                           : name == "score"    ? s.on_score
                                                : s.on_network;  // other scales have no column
        EXPECT_NEAR(s.on_network, own, 1e-11 * own);
        shares += s.share;
        density += s.density;
      }
      EXPECT_NEAR(shares, 1, 1e-12);
      EXPECT_NEAR(density, 1, 1e-12);
    }
}

// Kingma & Gao 2023, sec. 4 and table 1: which of the usual objectives are a bound with noised
// data.
TEST(Explain, Monotone) {
  const auto monotone = [](const char* schedule, const char* target, const char* weighting) {
    return explain(options_of(schedule, target, weighting)).monotone;
  };
  for (const char* schedule : {"linear", "cosine", "sigmoid"})
    for (const char* target : {"epsilon", "velocity"})
      EXPECT_TRUE(monotone(schedule, target, "vlb")) << schedule << " " << target;
  // sech(lambda / 2): rises up to lambda = 0 and falls after it.
  EXPECT_FALSE(monotone("cosine", "epsilon", "simple"));
  // exp(-lambda / 2): only falls.
  EXPECT_TRUE(monotone("cosine", "velocity", "simple"));
}

// For data of variance 1 and weight 1 on epsilon a step leaves SNR / (1 + SNR).
TEST(Explain, ShareOfTheSignal) {
  const DiffusionOptions options = options_of("linear", "epsilon", "simple");
  const Chain chain = make_chain(options);
  double noisy = 0, all = 0;
  for (int64_t t = 0; t < chain.steps(); ++t) {
    const double left = chain.snr(t) / (1 + chain.snr(t));
    all += left;
    noisy += chain.snr(t) < 1 ? left : 0;
  }
  EXPECT_NEAR(explain(options).share_below_snr_1, noisy / all, 1e-9);
  // Weight 1 on velocity leaves 1 at every step, also without signal.
  DiffusionOptions velocity = options_of("linear", "velocity", "simple");
  velocity.zero_terminal_snr = true;
  for (const ExplainedStep& step : explain(velocity).steps) EXPECT_NEAR(step.share, 1e-3, 1e-12);
}

// The bound itself: weight T / ln 2 times that of L_{t-1} in nats, whatever `weighting` says.
TEST(Explain, TheWholeBound) {
  for (const char* target : {"epsilon", "velocity", "mu"}) {
    DiffusionOptions bound = options_of("linear", target, "min_snr");
    bound.loss.select("vlb");
    const Explanation whole = explain(bound);
    const Explanation term = explain(options_of("linear", target, "vlb"));
    EXPECT_TRUE(whole.monotone) << target;
    for (size_t t = 0; t < 1000; t += 37)
      EXPECT_NEAR(whole.steps[t].on_x0,
                  term.steps[t].on_x0 * 1000 / std::numbers::ln2,
                  1e-12 * whole.steps[t].on_x0);
  }
}

TEST(Explain, EveryPathHasItsOwnScales) {
  for (const PathKind path : {PathKind::vp, PathKind::ve, PathKind::flow}) {
    DiffusionOptions options = options_of("cosine", "velocity", "simple");
    options.path = path;
    for (const ExplainedStep& step : explain(options).steps)
      EXPECT_NEAR(step.on_velocity, 1, 1e-11) << step.t;
  }
}

TEST(Explain, ZeroTerminalSnr) {
  DiffusionOptions options = options_of("linear", "velocity", "simple");
  options.zero_terminal_snr = true;
  const Explanation e = explain(options);
  EXPECT_EQ(e.terminal_snr, 0);
  EXPECT_EQ(e.prior_bits(1), 0);
  EXPECT_FALSE(std::isfinite(e.steps.back().on_eps));
  EXPECT_EQ(e.steps.back().on_velocity, 1);
}

}  // namespace
}  // namespace diffuse
