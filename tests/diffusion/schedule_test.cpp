// SPDX-License-Identifier: MIT
#include "diffusion/schedule.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "diffusion/options.h"

namespace diffuse {
namespace {

/// On the variance-preserving path.
Chain chain_of(const std::string& schedule, int64_t steps) {
  DiffusionOptions options;
  options.schedule.select(schedule);
  options.steps = steps;
  options.path = PathKind::vp;
  return make_chain(options);
}

struct Golden {
  const char* schedule;
  int64_t steps;
  int64_t t;
  double beta, alpha_bar, snr;
};

// Computed in float64 with Python's math module from the papers' formulas.
constexpr Golden kGolden[] = {
    {"linear", 1000, 0, 1.000000000000000e-04, 9.999000000000000e-01, 9.999000000001e+03},
    {"linear", 1000, 1, 1.199199199199199e-04, 9.997800920720721e-01, 4.546357657464e+03},
    {"linear", 1000, 250, 5.079979979979981e-03, 5.214230306185275e-01, 1.089528046643e+00},
    {"linear", 1000, 500, 1.005995995995996e-02, 7.779665836502386e-02, 8.435954941033e-02},
    {"linear", 1000, 999, 2.000000000000000e-02, 4.035829765375675e-05, 4.035992651168e-05},
    {"linear", 4000, 0, 2.500000000000000e-05, 9.999749999999999e-01, 3.999899999992e+04},
    {"linear", 4000, 2000, 2.513122030507627e-03, 7.874647522425243e-02, 8.547752937328e-02},
    {"linear", 4000, 3999, 5.000000000000000e-03, 4.246652275802247e-05, 4.246832624017e-05},
    {"cosine", 1000, 0, 4.128422482196914e-05, 9.999587157751780e-01, 2.422132715553e+04},
    {"cosine", 1000, 500, 3.155691441585007e-03, 4.922851724488030e-01, 9.696096031372e-01},
    {"cosine", 1000, 998, 7.499993929011166e-01, 2.428766907034854e-06, 2.428772805958e-06},
    {"cosine", 1000, 999, 9.990000000000000e-01, 2.428766907034857e-09, 2.428766912934e-09},
    {"cosine", 4000, 0, 9.865818813681315e-06, 9.999901341811863e-01, 1.013590613274e+05},
    {"cosine", 4000, 2000, 7.889355535104503e-04, 4.934539796742640e-01, 9.741542917600e-01},
    {"cosine", 4000, 3999, 9.990000000000000e-01, 1.517980468851452e-10, 1.517980469082e-10},
    {"scaled_linear", 1000, 999, 1.200000000000000e-02, 4.660098513077234e-03, 4.681916706158e-03},
    {"sigmoid", 1000, 500, 3.314364235860956e-03, 4.983428178820696e-01, 9.933931689727e-01},
    {"sigmoid", 1000, 999, 9.990000000000000e-01, 3.002791997493284e-07, 3.002792899170e-07},
};

TEST(Schedule, GoldenTables) {
  for (const Golden& g : kGolden) {
    SCOPED_TRACE(std::string(g.schedule) + " T=" + std::to_string(g.steps) +
                 " t=" + std::to_string(g.t));
    const Chain chain = chain_of(g.schedule, g.steps);
    const auto t = static_cast<size_t>(g.t);
    // beta = 1 - f(t+1)/f(t) loses log10(1/beta) of the 16 digits; 1 - alpha_bar in the SNR
    // likewise.
    const double digits = 4 * 2.2e-16 * static_cast<double>(g.t + 1);
    EXPECT_NEAR(chain.beta[t], g.beta, 1e-12 * g.beta + 1e-15);
    EXPECT_NEAR(chain.alpha_bar[t], g.alpha_bar, (1e-12 + digits) * g.alpha_bar);
    EXPECT_NEAR(chain.snr(g.t), g.snr, (1e-12 + digits + 1e-15 / (1 - g.alpha_bar)) * g.snr);
  }
}

TEST(Schedule, AlphaBarAt900) {
  // Products of the published betas, computed in float64 from the formulas.
  const Chain linear = chain_of("linear", 1000);
  const Chain cosine = chain_of("cosine", 1000);
  double product = 1;
  for (int i = 0; i <= 900; ++i) product *= 1 - (1e-4 + i * (0.02 - 1e-4) / 999);
  EXPECT_NEAR(linear.alpha_bar[900], product, 1e-12 * product);
  const auto f = [](double u) {
    return std::pow(std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2), 2);
  };
  EXPECT_NEAR(cosine.alpha_bar[900], f(0.901) / f(0), 1e-12 * f(0.901));
}

TEST(Schedule, EveryRowDescendsForEveryLength) {
  for (const auto& row : schedules()) {
    if (row.name == "table") continue;  // has no default file
    for (const int64_t steps : {21, 50, 100, 1000, 4000}) {
      SCOPED_TRACE(row.name + " T=" + std::to_string(steps));
      const Chain chain = chain_of(row.name, steps);
      ASSERT_EQ(chain.steps(), steps);
      for (int64_t t = 0; t < steps; ++t) {
        const auto i = static_cast<size_t>(t);
        EXPECT_LT(chain.alpha_bar[i], chain.alpha_bar_prev[i]);
        const Level level = chain.level(t);
        EXPECT_NEAR(level.alpha * level.alpha + level.sigma * level.sigma, 1, 4e-16);
        EXPECT_NEAR(std::exp(level.logsnr), chain.snr(t), 1e-12 * chain.snr(t));
      }
    }
  }
}

TEST(Schedule, LinearWithoutRescaleStopsEarly) {
  // Terminal alpha_bar of T linear steps without the factor 1000/T, and with it.
  const struct {
    int64_t steps;
    double plain, rescaled;
  } expected[] = {
      {50, .603, 7.7e-6}, {100, .364, 2.0e-5}, {200, .132, 3.0e-5}, {500, .00635, 3.8e-5}};
  for (const auto& e : expected) {
    LinearSchedule schedule;
    EXPECT_NEAR(make_chain(schedule(e.steps)).alpha_bar.back(), e.rescaled, 0.05e-5);
    schedule.rescale = false;
    EXPECT_NEAR(make_chain(schedule(e.steps)).alpha_bar.back(), e.plain, 0.005 * e.plain);
  }
}

TEST(Schedule, RefusesBetaFromOne) {
  try {
    LinearSchedule()(20);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::config);
    EXPECT_NE(std::string(e.what()).find("rescale: false"), std::string::npos) << e.what();
  }
  EXPECT_NO_THROW(LinearSchedule()(21));
}

TEST(Schedule, ZeroTerminalSnr) {
  const Chain chain = make_chain(zero_terminal_snr(LinearSchedule()(1000)));
  EXPECT_EQ(chain.beta.back(), 1);
  EXPECT_EQ(chain.alpha_bar.back(), 0);
  EXPECT_EQ(chain.snr(999), 0);
  EXPECT_NEAR(chain.alpha_bar[500], 7.524621570433e-02, 1e-12 * 7.5e-2);
  // The subtraction r - r_T leaves about 1e-3 of r here, and it is squared.
  EXPECT_NEAR(chain.alpha_bar[998], 4.213262465088e-09, 1e-11 * 4.2e-9);
  EXPECT_NEAR(chain.alpha_bar[0], 0.9999, 1e-15);
  EXPECT_TRUE(std::isinf(chain.level(999).logsnr));
}

TEST(Schedule, Table) {
  const auto path =
      std::filesystem::temp_directory_path() / ("diffuse-table-" + std::to_string(::getpid()));
  const auto write = [&](const std::string& text) { std::ofstream(path) << text; };
  TableSchedule schedule;
  schedule.file = path;
  write("# three steps\n0.1\n 0.2 # second\r\n\n3e-1\n");
  EXPECT_EQ(schedule(3), (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_THROW(schedule(4), Error);
  write("0.9\n0.5\n0.1\n");
  schedule.values = TableValues::alpha_bar;
  const Chain chain = make_chain(schedule(3));
  EXPECT_NEAR(chain.alpha_bar[1], 0.5, 1e-15);
  EXPECT_NEAR(chain.alpha_bar[2], 0.1, 1e-15);
  write("0.9\nhalf\n");
  try {
    schedule(2);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(":2: not a number: 'half'"), std::string::npos)
        << e.what();
  }
  // Not a text at all: told so, and none of its bytes reach a terminal as they are.
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {std::string("\x93NUMPY\1\0v\0", 10), ":1: not text, but a file of another kind"},
           {"1\x1B[2J" + std::string(5000, 'x') + "\n", ":1: not a number: '1\\x1b[2Jxxx"}}) {
    write(text);
    try {
      schedule(1);
      ADD_FAILURE() << text.substr(0, 20);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      EXPECT_LT(std::string(e.what()).size(), 300u);
    }
  }
  std::filesystem::remove(path);
}

TEST(Chain, RefusesBadBetas) {
  for (const std::vector<double>& beta : std::vector<std::vector<double>>{
           {}, {0.0}, {-0.1}, {1.0, 0.5}, {1.5}, {0.1, std::nan("")}, {0.1, 1e-20}})
    EXPECT_THROW(make_chain(beta), Error);
  EXPECT_NO_THROW(make_chain({0.5, 1.0}));
}

TEST(Chain, PosteriorOfGaussians) {
  // The product of q(x_{t-1} | x_0) and q(x_t | x_{t-1}) as functions of x_{t-1}, by completing the
  // square.
  const Chain chain = make_chain(CosineSchedule()(100));
  for (const size_t t : {size_t{1}, size_t{50}, size_t{98}}) {
    const double a = 1 - chain.beta[t];
    const double prev = chain.alpha_bar_prev[t];
    const double precision = 1 / (1 - prev) + a / chain.beta[t];
    EXPECT_NEAR(chain.posterior_variance[t], 1 / precision, 1e-12 / precision);
    EXPECT_NEAR(chain.posterior_mean_x0[t], std::sqrt(prev) / (1 - prev) / precision, 1e-12);
    EXPECT_NEAR(chain.posterior_mean_xt[t], std::sqrt(a) / chain.beta[t] / precision, 1e-12);
  }
  EXPECT_EQ(chain.posterior_variance[0], 0);
  EXPECT_NEAR(chain.posterior_mean_x0[0], 1, 1e-15);
  EXPECT_EQ(chain.posterior_mean_xt[0], 0);
}

TEST(Chain, RespacedKeepsAlphaBar) {
  const Chain full = make_chain(LinearSchedule()(1000));
  const Chain some = respace(full, {0, 10, 500, 999});
  ASSERT_EQ(some.steps(), 4);
  EXPECT_EQ(some.timestep, (std::vector<int64_t>{0, 10, 500, 999}));
  EXPECT_EQ(some.alpha_bar[2], full.alpha_bar[500]);
  EXPECT_EQ(some.alpha_bar_prev[2], full.alpha_bar[10]);
  EXPECT_EQ(some.level(3).t, 999);
  // The betas multiply up to the same alpha_bar.
  double bar = 1;
  for (const double b : some.beta) bar *= 1 - b;
  EXPECT_NEAR(bar, full.alpha_bar[999], 1e-12 * full.alpha_bar[999]);
}

}  // namespace
}  // namespace diffuse
