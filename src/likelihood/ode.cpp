// SPDX-License-Identifier: MIT
#include "likelihood/ode.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace diffuse {
namespace {

// Dormand & Prince 1980, table 2 (RK5(4)7M). The last row of A is the 5th-order solution itself,
// so the seventh stage is the next step's first.
constexpr int kStages = 7;
constexpr std::array<double, kStages> kNode{0, 1. / 5, 3. / 10, 4. / 5, 8. / 9, 1, 1};
constexpr double kA[kStages][kStages - 1] = {
    {},
    {1. / 5},
    {3. / 40, 9. / 40},
    {44. / 45, -56. / 15, 32. / 9},
    {19372. / 6561, -25360. / 2187, 64448. / 6561, -212. / 729},
    {9017. / 3168, -355. / 33, 46732. / 5247, 49. / 176, -5103. / 18656},
    {35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84},
};
// The 5th-order weights less the 4th-order ones.
constexpr std::array<double, kStages> kError{35. / 384 - 5179. / 57600,
                                             0,
                                             500. / 1113 - 7571. / 16695,
                                             125. / 192 - 393. / 640,
                                             -2187. / 6784 + 92097. / 339200,
                                             11. / 84 - 187. / 2100,
                                             -1. / 40};

/// sum_j weights[j] slopes[j], part by part.
template <class Weights>
OdeState combine(const Weights& weights, const std::vector<OdeState>& slopes) {
  OdeState sum;
  for (size_t part = 0; part < slopes[0].size(); ++part) {
    at::Tensor total = at::zeros_like(slopes[0][part]);
    for (size_t j = 0; j < slopes.size(); ++j)
      if (weights[j] != 0) total.add_(slopes[j][part], weights[j]);
    sum.push_back(std::move(total));
  }
  return sum;
}

/// y + h slope.
OdeState moved(const OdeState& y, double h, const OdeState& slope) {
  OdeState out;
  for (size_t part = 0; part < y.size(); ++part) out.push_back(at::add(y[part], slope[part], h));
  return out;
}

/// The largest root mean square, over parts and samples, of value / (atol + rtol |scale|); NaN
/// where a value is not finite.
double norm(const OdeState& value, const OdeState& scale, const OdeOptions& options) {
  double worst = 0;
  for (size_t part = 0; part < value.size(); ++part) {
    const at::Tensor unit = scale[part].mul(options.rtol).add_(options.atol);
    const double largest =
        value[part].div(unit).square_().flatten(1).mean(1).sqrt_().max().item<double>();
    if (!std::isfinite(largest)) return std::numeric_limits<double>::quiet_NaN();
    worst = std::max(worst, largest);
  }
  return worst;
}

OdeState absolute(const OdeState& y) {
  OdeState out;
  for (const at::Tensor& part : y) out.push_back(part.abs());
  return out;
}

OdeState larger(const OdeState& a, const OdeState& b) {
  OdeState out;
  for (size_t part = 0; part < a.size(); ++part)
    out.push_back(at::maximum(a[part].abs(), b[part].abs()));
  return out;
}

/// The length of the first step, for an order of 5: Hairer, Norsett & Wanner 1993, II.4, "Starting
/// step size". One evaluation.
double first_step(const OdeFunction& f,
                  double t,
                  double span,
                  const OdeState& y,
                  const OdeState& slope,
                  const OdeOptions& options) {
  const OdeState scale = absolute(y);
  const double d0 = norm(y, scale, options);
  const double d1 = norm(slope, scale, options);
  const double h0 = std::min(d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1, std::abs(span));
  const double sign = std::copysign(1.0, span);
  const OdeState probe = f(t + sign * h0, moved(y, sign * h0, slope));
  const double d2 = norm(moved(probe, -1, slope), scale, options) / h0;
  const double steepest = std::max(d1, d2);
  const double h1 =
      steepest <= 1e-15 ? std::max(1e-6, h0 * 1e-3) : std::pow(0.01 / steepest, 1.0 / 5);
  // A NaN leaves the length to the controller, which ends with a message where it stays one.
  return std::isfinite(h1) ? std::min({100 * h0, h1, std::abs(span)}) : h0;
}

}  // namespace

OdeStep ode_step(
    const OdeFunction& f, double t, double h, const OdeState& y, const OdeState& slope) {
  std::vector<OdeState> slopes{slope};
  OdeState next;
  for (int stage = 1; stage < kStages; ++stage) {
    next = moved(y, h, combine(kA[stage], slopes));
    slopes.push_back(f(t + kNode[static_cast<size_t>(stage)] * h, next));
  }
  OdeState error = combine(kError, slopes);
  for (at::Tensor& part : error) part.mul_(h);
  return {.y = std::move(next), .error = std::move(error), .slope = std::move(slopes.back())};
}

OdeResult solve_ode(
    const OdeFunction& f, OdeState y, double t0, double t1, const OdeOptions& options) {
  DIFFUSE_CHECK(!y.empty() && std::isfinite(t0) && std::isfinite(t1));
  DIFFUSE_CHECK(options.atol > 0 && options.rtol >= 0 && options.max_evaluations > 0);
  for (const at::Tensor& part : y)
    DIFFUSE_CHECK(part.scalar_type() == at::kDouble && part.dim() >= 1);
  const at::NoGradGuard no_grad;
  OdeResult result{.y = std::move(y), .evaluations = 0, .accepted = 0, .rejected = 0};
  if (t0 == t1 || result.y[0].size(0) == 0) return result;
  const OdeFunction counted = [&](double t, const OdeState& state) {
    if (++result.evaluations > options.max_evaluations)
      throw Error(Exit::diverged,
                  "the ODE needs more than " + std::to_string(options.max_evaluations) +
                      " evaluations of the network (it came to " + significant(t, 4) +
                      " on the way from " + significant(t0, 4) + " to " + significant(t1, 4) +
                      "): allow more, or loosen the tolerance of " + significant(options.rtol, 3));
    return f(t, state);
  };

  double t = t0;
  OdeState slope = counted(t, result.y);
  double h = first_step(counted, t, t1 - t0, result.y, slope, options);
  bool rejected = false;
  while (t != t1) {
    // The step that reaches the end may be a little longer, rather than followed by a tiny one.
    const bool last = 1.01 * h >= std::abs(t1 - t);
    const double length = last ? t1 - t : std::copysign(h, t1 - t);
    if (std::abs(length) < 16 * std::numeric_limits<double>::epsilon() * std::abs(t) || h == 0)
      throw Error(Exit::diverged,
                  "the ODE cannot be solved beyond " + significant(t, 4) + " (from " +
                      significant(t0, 4) + " to " + significant(t1, 4) +
                      "): the network's output is not finite, or too rough for the tolerance of " +
                      significant(options.rtol, 3) + "; loosen it, or evaluate in float32");
    OdeStep step = ode_step(counted, t, length, result.y, slope);
    const double error = norm(step.error, larger(result.y, step.y), options);
    // Hairer, Norsett & Wanner 1993, eq. II.4.13: 0.9 for safety, never more than 5 times longer
    // or shorter, and not longer right after a rejection.
    const double factor =
        std::isnan(error) ? 0.2 : std::clamp(0.9 * std::pow(error, -1.0 / 5), 0.2, 5.0);
    if (error <= 1) {
      t = last ? t1 : t + length;
      result.y = std::move(step.y);
      slope = std::move(step.slope);
      ++result.accepted;
      h = std::abs(length) * (rejected ? std::min(factor, 1.0) : factor);
      rejected = false;
    } else {
      ++result.rejected;
      h = std::abs(length) * std::min(factor, 0.9);
      rejected = true;
    }
  }
  return result;
}

}  // namespace diffuse
