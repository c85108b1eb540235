// SPDX-License-Identifier: MIT
#include "diffusion/objective.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numbers>
#include <utility>

#include "base/error.h"
#include "diffusion/bound.h"
#include "ops/loss.h"

namespace diffuse {
namespace {

using Row = at::Tensor Objective::Rows::*;

/// The rows of Objective::numbers(), in their order; those from c_out on are the bound's.
constexpr std::array<Row, 14> kRows{&Objective::Rows::input_x0,
                                    &Objective::Rows::input_eps,
                                    &Objective::Rows::time,
                                    &Objective::Rows::target_x0,
                                    &Objective::Rows::target_eps,
                                    &Objective::Rows::weight,
                                    &Objective::Rows::share,
                                    &Objective::Rows::logsnr,
                                    &Objective::Rows::c_out,
                                    &Objective::Rows::mean_error,
                                    &Objective::Rows::mean_x0,
                                    &Objective::Rows::log_posterior,
                                    &Objective::Rows::log_offset,
                                    &Objective::Rows::log_slope};

struct Points {
  std::vector<NoisePoint> points;
  std::vector<double> shares;
};

Points points_of(const Process& process, const Time* times, int64_t n) {
  Points out;
  for (int64_t i = 0; i < n; ++i) {
    out.points.push_back(process.at(times[i].u));
    out.shares.push_back(times[i].weight);
  }
  return out;
}

}  // namespace

Objective::Objective(const DiffusionOptions& options, at::Device device, int64_t bits)
    : options_(options),
      process_(make_process(options)),
      terms_(options.loss()),
      learns_variance_(is_learned(options.variance)),
      device_(device),
      bits_(bits) {
  for (const Finding& finding : check(options))
    if (finding.error)
      throw Error(Exit::config, "diffusion." + finding.key + ": " + finding.message);
}

Objective::Rows Objective::rows(const Time* times, int64_t n) const {
  const auto [points, shares] = points_of(process_, times, n);
  return rows_at(points, shares, has_bound());
}

at::Tensor Objective::numbers(const Time* times, int64_t n) const {
  const auto [points, shares] = points_of(process_, times, n);
  return numbers_at(points, shares, false);
}

Objective::Rows Objective::rows_of_steps(const std::vector<int64_t>& steps) const {
  std::vector<NoisePoint> points;
  for (const int64_t t : steps)
    points.push_back({.level = process_.chain().level(t), .t = t, .slope = 0});
  return rows_at(points, std::vector<double>(points.size(), 1), true);
}

Objective::Rows Objective::rows_of_points(const std::vector<NoisePoint>& points) const {
  // Between steps there is no bound.
  const bool steps =
      std::all_of(points.begin(), points.end(), [](const NoisePoint& p) { return p.t >= 0; });
  return rows_at(points, std::vector<double>(points.size(), 1), steps && terms_.bound > 0);
}

Objective::Rows Objective::rows_in(const at::Tensor& numbers) {
  Rows out;
  for (int64_t i = 0; i < numbers.size(0); ++i) out.*kRows[static_cast<size_t>(i)] = numbers[i];
  return out;
}

Objective::Rows Objective::rows_at(const std::vector<NoisePoint>& points,
                                   const std::vector<double>& shares,
                                   bool with_bound) const {
  Rows out = rows_in(numbers_at(points, shares, with_bound).to(device_));
  if (!with_bound) return out;
  std::vector<int64_t> decoded;
  for (size_t i = 0; i < points.size(); ++i)
    if (points[i].t == 0) decoded.push_back(static_cast<int64_t>(i));
  out.decoded = at::tensor(decoded, at::kLong).to(device_);
  return out;
}

at::Tensor Objective::numbers_at(const std::vector<NoisePoint>& points,
                                 const std::vector<double>& shares,
                                 bool with_bound) const {
  std::vector<double> values;
  const auto add = [&](const std::function<double(size_t)>& value) {
    for (size_t i = 0; i < points.size(); ++i) values.push_back(value(i));
  };
  std::vector<Coefficients> c;
  std::vector<TargetCoefficients> targets;
  for (const NoisePoint& point : points) {
    c.push_back(options_.target(point.level));
    targets.push_back(target_coefficients(options_.target, point.level));
  }
  // In the order of kRows.
  add([&](size_t i) { return c[i].c_in * points[i].level.alpha; });
  add([&](size_t i) { return c[i].c_in * points[i].level.sigma; });
  add([&](size_t i) { return c[i].c_noise; });
  add([&](size_t i) { return targets[i].x0; });
  add([&](size_t i) { return targets[i].eps; });
  add([&](size_t i) {
    const bool trained = points[i].t < 0 || !process_.continuous();
    return trained ? network_weight(options_, process_, points[i]) : 0;
  });
  add([&](size_t i) { return shares[i]; });
  add([&](size_t i) { return points[i].level.logsnr; });
  if (with_bound) {
    for (const NoisePoint& point : points) DIFFUSE_CHECK(point.t >= 0);
    const Chain& chain = process_.chain();
    const auto model = [&](size_t i) { return options_.variance(chain, points[i].t); };
    const auto mean_x0 = [&](size_t i) {
      return chain.posterior_mean_x0[static_cast<size_t>(points[i].t)];
    };
    add([&](size_t i) { return c[i].c_out; });
    add([&](size_t i) { return mean_x0(i) * c[i].c_out; });
    add(mean_x0);
    add([&](size_t i) { return std::log(clipped_posterior_variance(chain, points[i].t)); });
    add([&](size_t i) {
      const ModelVariance m = model(i);
      return m.learned ? m.log_offset : std::log(m.fixed);
    });
    add([&](size_t i) { return model(i).log_slope; });
  }
  return at::tensor(values, at::kDouble)
      .view({-1, static_cast<int64_t>(points.size())})
      .to(at::kFloat);
}

at::Tensor Objective::input(const at::Tensor& x0, const at::Tensor& eps, const Rows& rows) const {
  return mix(rows.input_x0, x0, rows.input_eps, eps);  // Ho et al. 2020, eq. 4
}

at::Tensor Objective::target(const at::Tensor& x0, const at::Tensor& eps, const Rows& rows) const {
  return mix(rows.target_x0, x0, rows.target_eps, eps);
}

std::pair<at::Tensor, at::Tensor> Objective::split(const at::Tensor& output) const {
  if (!learns_variance_) return {output, {}};
  const int64_t channels = output.size(1) / 2;
  return {output.narrow(1, 0, channels), output.narrow(1, channels, channels)};
}

Objective::Loss Objective::loss(const at::Tensor& output,
                                const at::Tensor& x0,
                                const at::Tensor& eps,
                                const Rows& rows,
                                bool fused) const {
  const auto [f, v] = split(output);
  const ErrorTerms terms{.x0 = x0,
                         .eps = eps,
                         .target_x0 = rows.target_x0,
                         .target_eps = rows.target_eps,
                         .weight = rows.weight,
                         .huber = terms_.huber};
  const ErrorLoss of_error =
      fused && f.is_cuda() ? error_loss(f, terms) : composed_error_loss(f, terms);
  Loss out{.weighted = {}, .error = {}, .weighted_bound = {}, .raw = of_error.raw, .bound = {}};
  if (terms_.error) out.error = of_error.weighted;
  if (has_bound()) {
    const at::Tensor error = at::sub(f.to(x0.scalar_type()), target(x0, eps, rows));
    const at::Tensor bits = bound_bits(terms_.bound_of_mean ? error : error.detach(),
                                       v.defined() ? v.to(x0.scalar_type()) : v,
                                       x0,
                                       rows);
    out.bound = bits.detach();
    const double factor = terms_.bound * static_cast<double>(process_.chain().steps());
    out.weighted_bound = at::mul(bits, factor);
  }
  out.weighted = !out.weighted_bound.defined() ? out.error
                 : !out.error.defined()        ? out.weighted_bound
                                               : at::add(out.error, out.weighted_bound);
  return out;
}

at::Tensor Objective::bound_bits(const at::Tensor& error,
                                 const at::Tensor& v,
                                 const at::Tensor& x0,
                                 const Rows& rows) const {
  return bound_terms(error, rows.mean_error, rows.c_out, v, x0, rows);
}

at::Tensor Objective::bound_bits_of_estimate(const at::Tensor& error,
                                             const at::Tensor& v,
                                             const at::Tensor& x0,
                                             const Rows& rows) const {
  return bound_terms(error, rows.mean_x0, at::ones_like(rows.mean_x0), v, x0, rows);
}

at::Tensor Objective::bound_terms(const at::Tensor& error,
                                  const at::Tensor& to_mean,
                                  const at::Tensor& to_x0,
                                  const at::Tensor& v,
                                  const at::Tensor& x0,
                                  const Rows& rows) const {
  const at::Tensor offset = column(rows.log_offset, error);
  const at::Tensor log_variance =
      v.defined() ? at::addcmul(offset, v, column(rows.log_slope, error)) : offset;
  at::Tensor nats = at::mean(
      gaussian_kl(
          at::mul(error, column(to_mean, error)), column(rows.log_posterior, error), log_variance),
      {1, 2, 3});
  if (rows.decoded.size(0) > 0) {  // p(x_0 | z_0) = N(x0_hat, sigma_0^2), in bins of the data
    const auto some = [&](const at::Tensor& all) { return all.index_select(0, rows.decoded); };
    const at::Tensor x = some(x0);
    const at::Tensor x_hat = at::add(x, at::mul(some(error), column(some(to_x0), x)));
    const at::Tensor decoder = decoder_nll(x, x_hat, at::mul(some(log_variance), 0.5), bits_);
    nats = nats.index_copy(0, rows.decoded, at::mean(decoder, {1, 2, 3}));
  }
  return at::mul(nats, 1 / std::numbers::ln2);
}

}  // namespace diffuse
