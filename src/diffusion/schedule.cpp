// SPDX-License-Identifier: MIT
#include "diffusion/schedule.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <numbers>
#include <sstream>

#include "base/error.h"
#include "base/files.h"

namespace diffuse {
namespace {

std::vector<double> linspace(double first, double last, int64_t n) {
  std::vector<double> out(static_cast<size_t>(n), first);
  const double step = n > 1 ? (last - first) / static_cast<double>(n - 1) : 0;
  for (int64_t i = 0; i < n; ++i)
    out[static_cast<size_t>(i)] = first + static_cast<double>(i) * step;
  if (n > 1) out.back() = last;
  return out;
}

/// 1000/T: beta of a chain of T steps that does to the data what the published 1000 steps do.
double rescale_factor(bool rescale, int64_t steps) {
  return rescale ? 1000.0 / static_cast<double>(steps) : 1.0;
}

void refuse_beta_from_one(const std::vector<double>& beta, const char* name) {
  if (beta.back() >= 1)
    throw Error(Exit::config,
                std::string("schedule '") + name + "' reaches beta = " +
                    std::to_string(beta.back()) + " >= 1 at " + std::to_string(beta.size()) +
                    " steps; use more steps, a smaller beta_end, or rescale: false");
}

/// beta_i = 1 - alpha_bar(i+1) / alpha_bar(i), capped (Nichol & Dhariwal 2021, sec. 3.2).
std::vector<double> betas_of(const std::function<double(double)>& alpha_bar,
                             int64_t steps,
                             double beta_max) {
  std::vector<double> out;
  const auto n = static_cast<double>(steps);
  for (int64_t i = 0; i < steps; ++i) {
    const auto u = static_cast<double>(i);
    out.push_back(std::min(1 - alpha_bar((u + 1) / n) / alpha_bar(u / n), beta_max));
  }
  return out;
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

constexpr const char* kRescaleHelp =
    "multiply beta by 1000/T, so that any number of steps ends at the same noise as the published "
    "1000; without it a chain of 100 linear steps stops at alpha_bar 0.36";

}  // namespace

const Schedule::Table& schedules() {
  static const Schedule::Table table{
      Schedule::row<LinearSchedule>("linear", "beta in equal steps", "Ho et al. 2020, section 4"),
      Schedule::row<CosineSchedule>(
          "cosine", "alpha_bar a squared cosine", "Nichol & Dhariwal 2021, eq. 17"),
      Schedule::row<ScaledLinearSchedule>(
          "scaled_linear", "sqrt(beta) in equal steps", "Rombach et al. 2022"),
      Schedule::row<SigmoidSchedule>(
          "sigmoid", "alpha_bar a logistic curve", "Jabri et al. 2022; Chen 2023, algorithm 1"),
      Schedule::row<TableSchedule>("table", "beta or alpha_bar from a text file", ""),
  };
  return table;
}

void LinearSchedule::fields(Fields& f) {
  f(beta_start, "beta_start", "beta of the first of 1000 steps").above(0).below(1);
  f(beta_end, "beta_end", "beta of the last of 1000 steps").above(0).below(1);
  f(rescale, "rescale", kRescaleHelp);
}

std::vector<double> LinearSchedule::operator()(int64_t steps) const {
  const double s = rescale_factor(rescale, steps);
  auto beta = linspace(s * beta_start, s * beta_end, steps);
  refuse_beta_from_one(beta, "linear");
  return beta;
}

void CosineSchedule::fields(Fields& f) {
  f(s, "s", "offset that keeps the first betas from being too small").at_least(0).below(1);
  f(beta_max, "beta_max", "cap on beta near the end of the chain").above(0).below(1);
}

std::vector<double> CosineSchedule::operator()(int64_t steps) const {
  const auto f = [this](double u) {
    const double c = std::cos((u + s) / (1 + s) * std::numbers::pi / 2);
    return c * c;
  };
  return betas_of(f, steps, beta_max);
}

void ScaledLinearSchedule::fields(Fields& f) {
  f(beta_start, "beta_start", "beta of the first of 1000 steps").above(0).below(1);
  f(beta_end, "beta_end", "beta of the last of 1000 steps").above(0).below(1);
  f(rescale, "rescale", kRescaleHelp);
}

std::vector<double> ScaledLinearSchedule::operator()(int64_t steps) const {
  auto beta = linspace(std::sqrt(beta_start), std::sqrt(beta_end), steps);
  for (double& b : beta) b = b * b * rescale_factor(rescale, steps);
  refuse_beta_from_one(beta, "scaled_linear");
  return beta;
}

void SigmoidSchedule::fields(Fields& f) {
  f(start, "start", "left end of the logistic curve");
  f(end, "end", "right end; above start");
  f(tau, "tau", "temperature: larger is closer to a straight line").above(0);
  f(beta_max, "beta_max", "cap on beta near the end of the chain").above(0).below(1);
}

std::vector<double> SigmoidSchedule::operator()(int64_t steps) const {
  if (!(start < end)) throw Error(Exit::config, "schedule 'sigmoid' needs start < end");
  const double low = logistic(start / tau);
  const double high = logistic(end / tau);
  const auto f = [&](double u) {
    return (high - logistic((u * (end - start) + start) / tau)) / (high - low);
  };
  return betas_of(f, steps, beta_max);
}

void TableSchedule::fields(Fields& f) {
  f(file, "file", "text file with one number a step and a line; '#' starts a comment")
      .path()
      .must_be_set();
  f.one_of(values,
           "values",
           {{TableValues::beta, "beta"}, {TableValues::alpha_bar, "alpha_bar"}},
           "what the numbers are");
}

std::vector<double> TableSchedule::operator()(int64_t steps) const {
  std::istringstream in(read_file(file, Exit::config, 64 << 20));
  std::vector<double> numbers;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    line = line.substr(0, line.find('#'));
    const auto first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) continue;
    line = line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
    double value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error != std::errc() || end != line.data() + line.size() || !std::isfinite(value))
      throw Error(Exit::config,
                  file + ":" + std::to_string(number) + ": not a number: '" + line + "'");
    numbers.push_back(value);
  }
  if (static_cast<int64_t>(numbers.size()) != steps)
    throw Error(Exit::config,
                file + " holds " + std::to_string(numbers.size()) +
                    " numbers, but diffusion.steps is " + std::to_string(steps));
  if (values == TableValues::beta) return numbers;
  std::vector<double> beta;
  double prev = 1;
  for (const double bar : numbers) {
    beta.push_back(1 - bar / prev);
    prev = bar;
  }
  return beta;
}

}  // namespace diffuse
