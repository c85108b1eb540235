// SPDX-License-Identifier: MIT
#include "diffusion/objective.h"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <utility>

#include "base/error.h"
#include "diffusion/bound.h"

namespace diffuse {
namespace {

/// [n] values as [n, 1, 1, 1], in the type of `like`.
at::Tensor column(const at::Tensor& values, const at::Tensor& like) {
  return values.to(like.scalar_type()).view({-1, 1, 1, 1});
}

at::Tensor mix(const at::Tensor& a, const at::Tensor& x, const at::Tensor& b, const at::Tensor& y) {
  return at::addcmul(at::mul(x, column(a, x)), y, column(b, y));
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
  std::vector<NoisePoint> points;
  std::vector<double> shares;
  for (int64_t i = 0; i < n; ++i) {
    points.push_back(process_.at(times[i].u));
    shares.push_back(times[i].weight);
  }
  return rows_at(points, shares, terms_.bound > 0);
}

Objective::Rows Objective::rows_of_steps(const std::vector<int64_t>& steps) const {
  std::vector<NoisePoint> points;
  for (const int64_t t : steps)
    points.push_back({.level = process_.chain().level(t), .t = t, .slope = 0});
  return rows_at(points, std::vector<double>(points.size(), 1), true);
}

Objective::Rows Objective::rows_of_points(const std::vector<NoisePoint>& points) const {
  return rows_at(points, std::vector<double>(points.size(), 1), terms_.bound > 0);
}

Objective::Rows Objective::rows_at(const std::vector<NoisePoint>& points,
                                   const std::vector<double>& shares,
                                   bool with_bound) const {
  const auto n = static_cast<int64_t>(points.size());
  std::vector<double> values;  // one row of [n] for each tensor, copied to the device at once
  std::vector<at::Tensor*> wanted;
  const auto add = [&](at::Tensor& out, const std::function<double(size_t)>& value) {
    wanted.push_back(&out);
    for (size_t i = 0; i < points.size(); ++i) values.push_back(value(i));
  };
  std::vector<Coefficients> c;
  std::vector<TargetCoefficients> targets;
  for (const NoisePoint& point : points) {
    c.push_back(options_.target(point.level));
    targets.push_back(target_coefficients(options_.target, point.level));
  }
  Rows out;
  add(out.input_x0, [&](size_t i) { return c[i].c_in * points[i].level.alpha; });
  add(out.input_eps, [&](size_t i) { return c[i].c_in * points[i].level.sigma; });
  add(out.time, [&](size_t i) { return c[i].c_noise; });
  add(out.target_x0, [&](size_t i) { return targets[i].x0; });
  add(out.target_eps, [&](size_t i) { return targets[i].eps; });
  add(out.weight, [&](size_t i) {
    const bool trained = points[i].t < 0 || !process_.continuous();
    return trained ? network_weight(options_, process_, points[i]) : 0;
  });
  add(out.share, [&](size_t i) { return shares[i]; });
  add(out.logsnr, [&](size_t i) { return points[i].level.logsnr; });
  std::vector<int64_t> decoded;
  if (with_bound) {
    const Chain& chain = process_.chain();
    const auto model = [&](size_t i) { return options_.variance(chain, points[i].t); };
    add(out.c_out, [&](size_t i) { return c[i].c_out; });
    add(out.mean_error, [&](size_t i) {
      return chain.posterior_mean_x0[static_cast<size_t>(points[i].t)] * c[i].c_out;
    });
    add(out.mean_x0,
        [&](size_t i) { return chain.posterior_mean_x0[static_cast<size_t>(points[i].t)]; });
    add(out.log_posterior,
        [&](size_t i) { return std::log(clipped_posterior_variance(chain, points[i].t)); });
    add(out.log_offset, [&](size_t i) {
      const ModelVariance m = model(i);
      return m.learned ? m.log_offset : std::log(m.fixed);
    });
    add(out.log_slope, [&](size_t i) { return model(i).log_slope; });
    for (size_t i = 0; i < points.size(); ++i)
      if (points[i].t == 0) decoded.push_back(static_cast<int64_t>(i));
    out.decoded = at::tensor(decoded, at::kLong).to(device_);
  }
  const at::Tensor all = at::tensor(values, at::kDouble)
                             .view({static_cast<int64_t>(wanted.size()), n})
                             .to(at::kFloat)
                             .to(device_);
  for (size_t i = 0; i < wanted.size(); ++i) *wanted[i] = all[static_cast<int64_t>(i)];
  return out;
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
                                const Rows& rows) const {
  // A bfloat16 network's output is compared in float32.
  const auto [f, v] = split(output.to(x0.scalar_type()));
  const at::Tensor error = at::sub(f, target(x0, eps, rows));
  const at::Tensor raw = at::mean(at::square(error), {1, 2, 3});
  Loss out{.weighted = {}, .error = {}, .weighted_bound = {}, .raw = raw.detach(), .bound = {}};
  if (terms_.error) {
    const at::Tensor mean =
        terms_.huber > 0
            ? at::mean(
                  at::huber_loss(error, at::zeros_like(error), at::Reduction::None, terms_.huber)
                      .mul(2),
                  {1, 2, 3})
            : raw;
    out.error = at::mul(mean, rows.weight.to(raw.scalar_type()));
  }
  if (terms_.bound > 0) {
    const at::Tensor bits = bound_bits(terms_.bound_of_mean ? error : error.detach(), v, x0, rows);
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
