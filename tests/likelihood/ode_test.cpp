// SPDX-License-Identifier: MIT
#include "likelihood/ode.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <utility>

#include "base/error.h"

namespace diffuse {
namespace {

at::Tensor column(std::initializer_list<double> values) {
  return at::tensor(at::ArrayRef<double>(values), at::kDouble).unsqueeze(1);
}

OdeOptions tolerance(double tol) { return {.atol = tol, .rtol = tol, .max_evaluations = 100000}; }

/// y' = y cos t, y = e^(sin t) from (0, 1): an error made at one time grows at most by e^2.
OdeState exp_sin(double t, const OdeState& y) { return {y[0] * std::cos(t)}; }

Error error_of(const OdeFunction& f, double t1, const OdeOptions& options) {
  try {
    solve_ode(f, {column({1})}, 0, t1, options);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return {Exit::ok, ""};
}

// Of order 5 as a quadrature: exact up to t^4; the embedded rule of order 4 up to t^3.
TEST(Ode, IntegratesPolynomialsOfItsOrdersExactly) {
  for (int power = 0; power <= 5; ++power) {
    const OdeFunction f = [&](double t, const OdeState&) -> OdeState {
      return {column({(power + 1) * std::pow(t, power)})};
    };
    const OdeStep step = ode_step(f, 0.5, 1, {column({std::pow(0.5, power + 1)})}, f(0.5, {}));
    const double error = step.y[0].item<double>() - std::pow(1.5, power + 1);
    const double rounding =
        20 * 1.5 * (power + 1) * std::pow(1.5, power) * std::numeric_limits<double>::epsilon();
    if (power <= 4)
      EXPECT_NEAR(error, 0, rounding) << power;
    else
      EXPECT_GT(std::abs(error), 1e-6) << power;
    if (power <= 3)
      EXPECT_NEAR(step.error[0].item<double>(), 0, rounding) << power;
    else
      EXPECT_GT(std::abs(step.error[0].item<double>()), 1e-6) << power;
    EXPECT_NEAR(step.slope[0].item<double>(), (power + 1) * std::pow(1.5, power), rounding);
  }
}

// And of those orders where the slope depends on y: errors of one step are O(h^6) and O(h^5), so
// halving h divides them by 64 and 32, up to a share of h.
TEST(Ode, StepsHaveTheOrdersOfThePair) {
  const auto errors = [](double h) {
    // y' = -y^2 through (1, 1) is y = 1 / t: derivatives of one size, none of which vanishes.
    const OdeFunction f = [](double, const OdeState& y) -> OdeState { return {-y[0].square()}; };
    const OdeState y{column({1})};
    const OdeStep step = ode_step(f, 1, h, y, f(1, y));
    return std::pair(std::abs(step.y[0].item<double>() - 1 / (1 + h)),
                     std::abs(step.error[0].item<double>()));
  };
  const auto [solution, estimate] = errors(0.05);
  const auto [solution_half, estimate_half] = errors(0.025);
  EXPECT_NEAR(std::log2(solution / solution_half), 6, 0.5);
  EXPECT_NEAR(std::log2(estimate / estimate_half), 5, 0.5);
}

TEST(Ode, ErrorsStayWithinTheTolerance) {
  const double end = 2 * std::numbers::pi + 1;
  double previous = 0;
  for (const double tol : {1e-3, 1e-6, 1e-9}) {
    int64_t calls = 0;
    const OdeFunction counted = [&](double t, const OdeState& y) {
      ++calls;
      return exp_sin(t, y);
    };
    const OdeResult result = solve_ode(counted, {column({1})}, 0, end, tolerance(tol));
    // Every step errs by at most tol (1 + |y|), |y| <= e, which then grows at most by e^2.
    const double bound =
        static_cast<double>(result.accepted) * tol * (1 + std::numbers::e) * std::exp(2);
    EXPECT_NEAR(result.y[0].item<double>(), std::exp(std::sin(end)), bound) << tol;
    EXPECT_EQ(result.evaluations, calls);
    // Two to begin with, six a step: the first stage is the last step's seventh.
    EXPECT_EQ(result.evaluations, 2 + 6 * (result.accepted + result.rejected));
    EXPECT_GT(result.accepted, 2 * previous) << "a tighter tolerance takes more steps";
    previous = static_cast<double>(result.accepted);
  }
}

TEST(Ode, RunsBackwards) {
  const OdeResult result =
      solve_ode(exp_sin, {column({std::exp(std::sin(5.0))})}, 5, 0, tolerance(1e-9));
  EXPECT_NEAR(result.y[0].item<double>(),
              1,
              static_cast<double>(result.accepted) * 1e-9 * (1 + std::numbers::e) * std::exp(2));
}

TEST(Ode, NothingToDoTakesNoEvaluation) {
  const OdeResult result = solve_ode(exp_sin, {column({3})}, 2, 2, {});
  EXPECT_EQ(result.evaluations, 0);
  EXPECT_EQ(result.y[0].item<double>(), 3);
}

// 99 samples that stand still must not dilute the error of the one that turns fast, nor one that
// is small the error of a large one: the result is that of the fast one alone, to the bit.
TEST(Ode, TheWorstSampleDecides) {
  const at::Tensor rates = at::zeros({100, 1}, at::kDouble);
  rates[42] = 30;
  const auto rotation = [](const at::Tensor& rate) -> OdeFunction {
    return [rate](double, const OdeState& y) -> OdeState { return {-rate * y[1], rate * y[0]}; };
  };
  const at::Tensor one = at::ones({100, 1}, at::kDouble);
  const OdeResult all =
      solve_ode(rotation(rates), {one, at::zeros_like(one)}, 0, 1, tolerance(1e-7));
  const at::Tensor alone_rate = rates.slice(0, 42, 43);
  const OdeResult alone =
      solve_ode(rotation(alone_rate), {column({1}), column({0})}, 0, 1, tolerance(1e-7));
  EXPECT_EQ(all.accepted, alone.accepted);
  EXPECT_EQ(all.y[0][42].item<double>(), alone.y[0].item<double>());
  EXPECT_EQ(all.y[0][0].item<double>(), 1);
  const double bound = static_cast<double>(alone.accepted) * 1e-7 * 2 * 2;
  EXPECT_NEAR(alone.y[0].item<double>(), std::cos(30), bound);
  EXPECT_NEAR(alone.y[1].item<double>(), std::sin(30), bound);
}

TEST(Ode, WhatCannotBeSolvedSaysWhere) {
  const Error limit = error_of(exp_sin, 6, {.atol = 1e-9, .rtol = 1e-9, .max_evaluations = 50});
  EXPECT_EQ(limit.code, Exit::diverged);
  EXPECT_NE(std::string(limit.what()).find("more than 50 evaluations"), std::string::npos)
      << limit.what();
  // y' = y^2 has a pole at 1.
  const Error pole = error_of(
      [](double, const OdeState& y) -> OdeState { return {y[0].square()}; }, 2, tolerance(1e-5));
  EXPECT_EQ(pole.code, Exit::diverged);
  EXPECT_NE(std::string(pole.what()).find("beyond 1 "), std::string::npos) << pole.what();
  const Error not_finite = error_of(
      [](double t, const OdeState& y) -> OdeState {
        return {t > 0.5 ? at::full_like(y[0], std::numeric_limits<double>::quiet_NaN()) : y[0]};
      },
      2,
      tolerance(1e-5));
  EXPECT_EQ(not_finite.code, Exit::diverged);
  EXPECT_NE(std::string(not_finite.what()).find("beyond 0.5 "), std::string::npos)
      << not_finite.what();
}

}  // namespace
}  // namespace diffuse
