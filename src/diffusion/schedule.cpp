// SPDX-License-Identifier: MIT
#include "diffusion/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "diffusion/normal.h"
#include "diffusion/number_file.h"

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

/// Options of both schedules between two betas.
template <class S>
void linear_fields(S& schedule, Fields& f) {
  f(schedule.beta_start, "beta_start", "beta of the first of 1000 steps").above(0).below(1);
  f(schedule.beta_end, "beta_end", "beta of the last of 1000 steps").above(0).below(1);
  f(schedule.rescale,
    "rescale",
    "multiply beta by 1000/T, so that any number of steps ends at the same noise as the published "
    "1000; without it a chain of 100 linear steps stops at alpha_bar 0.36");
}

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
      Schedule::row<VpSchedule>(
          "vp", "continuous: beta in proportion to time", "Song et al. 2021, section 3.4"),
      Schedule::row<VeSchedule>(
          "ve", "continuous: sigma in equal ratios", "Song et al. 2021, appendix C"),
      Schedule::row<EdmSchedule>(
          "edm", "continuous: sigma log-normal", "Karras et al. 2022, Table 1"),
      Schedule::row<FlowSchedule>("flow",
                                  "continuous: a straight line from data to noise",
                                  "Liu et al. 2022; Lipman et al. 2022"),
      Schedule::row<ShiftedCosineSchedule>("shifted_cosine",
                                           "continuous: cosine, shifted for larger pictures",
                                           "Hoogeboom et al. 2023, section 3.1"),
      Schedule::row<ContinuousSigmoidSchedule>("continuous_sigmoid",
                                               "continuous: alpha_bar a logistic curve",
                                               "Jabri et al. 2022; Chen 2023, algorithm 1"),
      Schedule::row<LaplaceSchedule>(
          "laplace", "continuous: log SNR of a Laplace density", "Hang et al. 2024, section 3"),
  };
  return table;
}

void LinearSchedule::fields(Fields& f) { linear_fields(*this, f); }

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

void ScaledLinearSchedule::fields(Fields& f) { linear_fields(*this, f); }

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
  std::vector<double> numbers;
  for (const auto& row : read_number_file(file, 1)) numbers.push_back(row[0]);
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

void VpSchedule::fields(Fields& f) {
  f(beta_min, "beta_min", "beta at time 0").at_least(0).at_most(1000);
  f(beta_max, "beta_max", "beta at time 1").above(0).at_most(1000);
  f(t_min, "t_min", "the least time: below it the loss's weights have no bound").above(0).below(1);
}

ContinuousSchedule VpSchedule::operator()(int64_t) const {
  if (!(beta_min < beta_max)) throw Error(Exit::config, "schedule 'vp' needs beta_min < beta_max");
  const auto integral = [low = beta_min, slope = beta_max - beta_min](double t) {
    return t * (low + 0.5 * slope * t);
  };
  const auto time_of = [first = t_min](double u) { return first + (1 - first) * u; };
  // alpha^2 = exp(-I), I = integral of beta: Song et al. 2021, eq. 33; log SNR = -log(exp(I) - 1).
  const auto logsnr = [integral](double t) { return -std::log(std::expm1(integral(t))); };
  return {.train =
              [=, *this](double u) {
                const double t = time_of(u);
                const double beta = beta_min + (beta_max - beta_min) * t;
                return LogSnr{.value = logsnr(t),
                              .slope = (1 - t_min) * beta / std::expm1(-integral(t))};
              },
          .chain = [=](double v) { return logsnr(time_of(v)); },
          .time =
              [low = beta_min, slope = beta_max - beta_min](double value) {
                const double i = std::log1p(std::exp(-value));
                return 2 * i / (low + std::sqrt(low * low + 2 * slope * i));
              },
          .path = Path::vp};
}

void VeSchedule::fields(Fields& f) {
  f(sigma_min, "sigma_min", "the least standard deviation of the noise").above(0);
  f(sigma_max, "sigma_max", "the largest").above(0).at_most(1e6);
}

ContinuousSchedule VeSchedule::operator()(int64_t) const {
  if (!(sigma_min < sigma_max))
    throw Error(Exit::config, "schedule 've' needs sigma_min < sigma_max");
  const double first = std::log(sigma_min), way = std::log(sigma_max / sigma_min);
  const auto logsnr = [=](double v) { return -2 * (first + way * v); };
  return {.train = [=](double u) { return LogSnr{.value = logsnr(u), .slope = -2 * way}; },
          .chain = logsnr,
          .time = [=](double value) { return (-0.5 * value - first) / way; },
          .path = Path::ve};
}

void EdmSchedule::fields(Fields& f) {
  f(p_mean, "p_mean", "mean of ln(sigma) in training").at_least(-20).at_most(20);
  f(p_std, "p_std", "its standard deviation").above(0).at_most(10);
  f(sigma_min, "sigma_min", "the last sigma of a chain before the data").above(0);
  f(sigma_max, "sigma_max", "the first sigma of a chain").above(0).at_most(1e6);
  f(rho, "rho", "a chain takes equal steps of sigma^(1/rho)").at_least(1).at_most(100);
}

ContinuousSchedule EdmSchedule::operator()(int64_t) const {
  if (!(sigma_min < sigma_max))
    throw Error(Exit::config, "schedule 'edm' needs sigma_min < sigma_max");
  const double first = std::pow(sigma_min, 1 / rho), last = std::pow(sigma_max, 1 / rho);
  return {
      .train =
          [mean = p_mean, std = p_std](double u) {
            const double x = normal_quantile(u);
            return LogSnr{.value = -2 * (mean + std * x), .slope = -2 * std / normal_density(x)};
          },
      // Karras et al. 2022, eq. 5
      .chain = [=, r = rho](double v) { return -2 * r * std::log(first + v * (last - first)); },
      .time = [=, r = rho](
                  double value) { return (std::exp(-0.5 * value / r) - first) / (last - first); },
      .path = Path::ve};
}

void FlowSchedule::fields(Fields& f) {
  f.one_of(density,
           "density",
           {{FlowDensity::uniform, "uniform"},
            {FlowDensity::logit_normal, "logit_normal"},
            {FlowDensity::mode, "mode"}},
           "of the times that are trained");
  f(mean, "mean", "of logit(t) with density logit_normal; t = 1 is noise, so above 0: more noise")
      .at_least(-20)
      .at_most(20);
  f(std, "std", "of logit(t) with density logit_normal").above(0).at_most(10);
  f(scale, "scale", "of density mode").at_least(-1).below(1.75);
  f(t_min, "t_min", "times are from t_min to 1 - t_min").above(0).at_most(0.1);
}

ContinuousSchedule FlowSchedule::operator()(int64_t) const {
  // sigma / alpha = t / (1 - t)
  const auto logsnr = [](double t) { return -2 * logit(t); };
  return {
      .train =
          [=, *this](double u) {
            if (density == FlowDensity::logit_normal) {  // Esser et al. 2024, eq. 19
              const double x = normal_quantile(u);
              return LogSnr{.value = -2 * (mean + std * x), .slope = -2 * std / normal_density(x)};
            }
            double t = u, slope = 1;
            if (density == FlowDensity::mode) {  // Esser et al. 2024, eq. 20, on u -> 1 - u
              const double c = std::cos(std::numbers::pi / 2 * (1 - u));
              t = u - scale * (c * c - u);
              slope = 1 - scale * (std::numbers::pi / 2 * std::sin(std::numbers::pi * (1 - u)) - 1);
            }
            t = t_min + (1 - 2 * t_min) * t;
            slope *= 1 - 2 * t_min;
            return LogSnr{.value = logsnr(t), .slope = -2 * slope / (t * (1 - t))};
          },
      .chain = [=, low = t_min](double v) { return logsnr(low + (1 - 2 * low) * v); },
      .time = [](double value) { return logistic(-0.5 * value); },
      .path = Path::flow};
}

void ShiftedCosineSchedule::fields(Fields& f) {
  f(logsnr_max, "logsnr_max", "log SNR at the clean end, before the shift").at_least(0).at_most(40);
  f(logsnr_min, "logsnr_min", "log SNR at the noisy end").at_least(-40).at_most(0);
  f(reference_size, "reference_size", "size at which nothing is shifted").above(0);
  f(size, "size", "size of the pictures: log SNR changes by 2 ln(reference_size / size)").above(0);
}

ContinuousSchedule ShiftedCosineSchedule::operator()(int64_t) const {
  if (!(logsnr_min < logsnr_max))
    throw Error(Exit::config, "schedule 'shifted_cosine' needs logsnr_min < logsnr_max");
  const double first = std::atan(std::exp(-logsnr_max / 2));
  const double way = std::atan(std::exp(-logsnr_min / 2)) - first;
  const double shift = 2 * std::log(reference_size / size);
  const auto logsnr = [=](double v) { return shift - 2 * std::log(std::tan(first + way * v)); };
  return {
      .train =
          [=](double u) {
            // d(-2 log tan a) / da = -4 / sin(2 a)
            return LogSnr{.value = logsnr(u), .slope = -4 * way / std::sin(2 * (first + way * u))};
          },
      .chain = logsnr,
      .time =
          [=](double value) { return (std::atan(std::exp((shift - value) / 2)) - first) / way; },
      .path = Path::vp};
}

void ContinuousSigmoidSchedule::fields(Fields& f) {
  f(start, "start", "left end of the logistic curve").at_least(-30).at_most(30);
  f(end, "end", "right end; above start").at_least(-30).at_most(30);
  f(tau, "tau", "temperature: larger is closer to a straight line").above(0);
  f(t_min, "t_min", "times are from t_min to 1 - t_min").above(0).at_most(0.1);
}

ContinuousSchedule ContinuousSigmoidSchedule::operator()(int64_t) const {
  if (!(start < end)) throw Error(Exit::config, "schedule 'continuous_sigmoid' needs start < end");
  const double low = logistic(start / tau), high = logistic(end / tau), way = 1 - 2 * t_min;
  const auto at = [=, *this](double u) {
    const double x = ((t_min + way * u) * (end - start) + start) / tau;
    const double w = logistic(x);
    // alpha_bar = (high - w) / (high - low); of both differences the small one keeps its digits as
    // a product: logistic(a) - logistic(b) = logistic(a) logistic(-b) (1 - e^(b - a)).
    const double signal = -high * logistic(-x) * std::expm1(x - end / tau);
    const double noise = -w * logistic(-start / tau) * std::expm1(start / tau - x);
    const double slope = way * (end - start) / tau * w * logistic(-x);
    return LogSnr{.value = std::log(signal / noise), .slope = -slope * (1 / signal + 1 / noise)};
  };
  return {.train = at,
          .chain = [=](double v) { return at(v).value; },
          .time =
              [=, *this](double value) {
                // w = low + (1 - alpha_bar) (high - low)
                const double w = low + logistic(-value) * (high - low);
                return ((logit(w) * tau - start) / (end - start) - t_min) / way;
              },
          .path = Path::vp};
}

void LaplaceSchedule::fields(Fields& f) {
  f(mu, "mu", "log SNR that is trained most").at_least(-20).at_most(20);
  f(b, "b", "width of the density of log SNR").above(0).at_most(20);
  f(logsnr_max, "logsnr_max", "log SNR at the clean end").at_least(-40).at_most(40);
  f(logsnr_min, "logsnr_min", "log SNR at the noisy end").at_least(-40).at_most(40);
}

ContinuousSchedule LaplaceSchedule::operator()(int64_t) const {
  if (!(logsnr_min < mu && mu < logsnr_max))
    throw Error(Exit::config, "schedule 'laplace' needs logsnr_min < mu < logsnr_max");
  // The mass below the ends is left out, so that u covers what is between them.
  const double first = 0.5 * std::exp((mu - logsnr_max) / b);
  const double way = 1 - 0.5 * std::exp((logsnr_min - mu) / b) - first;
  return {
      .train =
          [=, *this](double u) {
            // Hang et al. 2024, Table 1: mu - b sign(1/2 - u) ln(1 - 2 |1/2 - u|)
            const double p = first + way * u;
            const double tail = std::fmin(p, 1 - p);
            const double value = mu + (p < 0.5 ? -1 : 1) * b * std::log(2 * tail);
            return LogSnr{.value = value, .slope = -b * way / tail};
          },
      .chain = [high = logsnr_max, low = logsnr_min](double v) { return high + (low - high) * v; },
      .time = [high = logsnr_max,
               low = logsnr_min](double value) { return (value - high) / (low - high); },
      .path = Path::vp};
}

}  // namespace diffuse
