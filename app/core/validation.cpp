// SPDX-License-Identifier: MIT
#include "core/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/files.h"
#include "base/log.h"
#include "base/random.h"
#include "base/text.h"
#include "json_number.h"
#include "ops/noise.h"

namespace diffuse {
namespace {

/// Every run is measured with the same noise.
constexpr uint64_t kSeed = 0;

constexpr double kEdges[] = {-9, -6, -3, 0, 3, 6, 9};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> values_of(const at::Tensor& t) {
  const at::Tensor host = t.to(at::kDouble).cpu().contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

/// Numbers that JSON does not have (a network gone astray) are null.
nlohmann::ordered_json list_json(const at::Tensor& t) {
  auto out = nlohmann::ordered_json::array();
  for (const double value : values_of(t)) out.push_back(number_or_null(value));
  return out;
}

}  // namespace

std::vector<ValidationLevel> validation_levels(const Process& process) {
  std::vector<ValidationLevel> out;
  for (int64_t number = 0; number <= 12; ++number) {
    const double logsnr = -9 + 1.5 * static_cast<double>(number);
    if (process.continuous()) {
      if (process.at(0.001).level.logsnr >= logsnr && process.at(0.999).level.logsnr <= logsnr)
        out.push_back(
            {.logsnr = logsnr, .number = number, .point = process.at(process.u_of(logsnr))});
      continue;
    }
    const auto& levels = process.chain().levels;
    const auto distance = [&](const Level& level) { return std::abs(level.logsnr - logsnr); };
    const auto nearest =
        std::min_element(levels.begin(), levels.end(), [&](const Level& a, const Level& b) {
          return distance(a) < distance(b);
        });
    const double first = levels.front().logsnr, last = levels.back().logsnr;
    if (logsnr > first || logsnr < last || !std::isfinite(nearest->logsnr)) continue;
    const ValidationLevel level{
        .logsnr = logsnr,
        .number = number,
        .point = {.level = *nearest, .t = nearest - levels.begin(), .slope = 0}};
    if (out.empty() || out.back().point.t != level.point.t) {
      out.push_back(level);
    } else if (distance(*nearest) < std::abs(nearest->logsnr - out.back().logsnr)) {
      out.back() = level;
    }
  }
  return out;
}

Validator::Validator(const Config& config,
                     std::filesystem::path folder,
                     const Model& network,
                     const Objective& objective,
                     const Dataset* data)
    : config_(config),
      folder_(std::move(folder)),
      network_(network),
      objective_(objective),
      levels_(validation_levels(objective.process())) {
  if (data == nullptr) {
    images_ = load_test_points(config.data, config.validate.images);
    return;
  }
  std::vector<int64_t> held_out(static_cast<size_t>(data->held_out()));
  std::iota(held_out.begin(), held_out.end(), data->size());
  images_ = load_test_images(
      *data, config.data, held_out, config.validate.images, network.num_classes() > 0);
}

Validator::AtLevel Validator::at_level(const ValidationLevel& level,
                                       const Weights& weights,
                                       int64_t batch,
                                       const std::function<void()>& check) const {
  const at::Device device = weights.front().device();
  const int64_t n = images_.x0.size(0);
  std::vector<at::Tensor> loss, mse_eps;
  for (int64_t first = 0; first < n; first += batch) {
    check();
    const int64_t size = std::min(batch, n - first);
    const at::Tensor x0 = images_.x0.narrow(0, first, size).to(device);
    const Network f = images_.bind(network_, weights, first, size);
    const at::Tensor eps = at::empty_like(x0);
    fill_normal(eps, kSeed, Purpose::validate, static_cast<uint64_t>(level.number), first);
    const auto rows_at = [&](const NoisePoint& point) {
      return objective_.rows_of_points(std::vector<NoisePoint>(static_cast<size_t>(size), point));
    };
    Objective::Rows rows = rows_at(level.point);
    at::Tensor output = f(objective_.input(x0, eps, rows), rows.time);
    loss.push_back(objective_.loss(output, x0, eps, rows).weighted.to(at::kDouble).cpu());
    // At the very log SNR of the grid, so that runs on other chains can be held against this one:
    // in continuous time that is the level which is trained. `mu` is known at steps alone.
    Level l = level.point.level;
    if (!objective_.process().continuous() && config_.diffusion.target.name() != "mu") {
      l = objective_.process().level_at(level.logsnr);
      rows = rows_at({.level = l});
      output = f(objective_.input(x0, eps, rows), rows.time);
    }
    // eps_hat - eps = -(alpha / sigma) c_out (F - F*)
    const double scale = l.alpha / l.sigma * config_.diffusion.target(l).c_out;
    const at::Tensor error = objective_.split(output).first.sub(objective_.target(x0, eps, rows));
    mse_eps.push_back(at::mean(at::square(error), {1, 2, 3}).to(at::kDouble).cpu() * scale * scale);
  }
  return {.loss = at::cat(loss), .mse_eps = at::cat(mse_eps)};
}

std::vector<std::pair<std::string, double>> Validator::run(const TrainState& state,
                                                           const std::function<void()>& check) {
  const at::NoGradGuard no_grad;
  const bool raw = config_.sample.weights == WeightSet::raw;
  const Weights weights = weights_of(state, network_, config_.sample.weights);
  const int64_t n = images_.x0.size(0);
  const int64_t batch = images_at_once(config_.data.shape(), config_.sample.batch, n);

  nlohmann::ordered_json json{{"step", state.step},
                              {"weights", raw ? "raw" : "ema"},
                              {"images", n},
                              {"fingerprint", hex(images_.fingerprint)},
                              {"seed", kSeed},
                              {"unit", "bits/dim"},
                              {"levels", nlohmann::ordered_json::array()}};
  std::vector<std::pair<std::string, double>> losses;
  double loss = 0;
  for (const ValidationLevel& level : levels_) {
    const AtLevel measured = at_level(level, weights, batch, check);
    json["levels"].push_back({{"logsnr", level.logsnr},
                              {"trained_logsnr", level.point.level.logsnr},
                              {"t", level.point.t},
                              {"mse_eps", list_json(measured.mse_eps)},
                              {"loss", list_json(measured.loss)}});
    const double mean = mean_of(measured.loss).mean;
    losses.emplace_back("val_loss[" + shortest(level.logsnr) + "]", mean);
    loss += mean / static_cast<double>(levels_.size());
  }

  const Chain& chain = objective_.process().chain();
  const BoundTable bound = bound_table({.objective = objective_,
                                        .network = network_,
                                        .weights = weights,
                                        .images = images_,
                                        .parts = config_.validate.timesteps,
                                        .batch = batch,
                                        .seed = kSeed,
                                        .progress = [&](int64_t, int64_t) { check(); }});
  // Pictures lie in [-1, 1], points need not.
  const bool clipped = !config_.data.are_points();
  json["bits"] = {{"prior", list_json(bound.prior)},
                  {"rest", list_json(bound.rest(clipped))},
                  {"decoder", list_json(bound.decoder(clipped))},
                  {"total", list_json(bound.total(clipped))}};
  std::vector<std::pair<std::string, double>> out;
  if (!levels_.empty()) out.emplace_back("val_loss", loss);
  out.emplace_back("val_bits", mean_of(bound.total(clipped)).mean);
  out.emplace_back("val_prior", mean_of(bound.prior).mean);
  out.emplace_back("val_decoder", mean_of(bound.decoder(clipped)).mean);
  out.emplace_back("val_rest", mean_of(bound.rest(clipped)).mean);

  // The sum over t >= 1 once more, by log SNR.
  constexpr size_t kBins = std::size(kEdges) + 1;
  const auto bin_of = [&](int64_t t) {
    const double logsnr = chain.level(t).logsnr;
    return static_cast<size_t>(std::upper_bound(std::begin(kEdges), std::end(kEdges), logsnr) -
                               std::begin(kEdges));
  };
  std::vector<double> sums(kBins), steps_in(kBins);
  for (int64_t t = 1; t < chain.steps(); ++t) ++steps_in[bin_of(t)];
  const int64_t parts = bound.steps.size(1) - 1;
  const std::vector<double> terms =
      values_of((clipped ? bound.clipped_bits : bound.bits).mul(bound.weight).narrow(1, 1, parts));
  const std::vector<double> steps = values_of(bound.steps.narrow(1, 1, parts));
  for (size_t i = 0; i < terms.size(); ++i)
    sums[bin_of(static_cast<int64_t>(steps[i]))] += terms[i] / static_cast<double>(n);
  for (size_t bin = 0; bin < kBins; ++bin) {
    if (steps_in[bin] == 0) continue;
    const double low = bin == 0 ? -kInfinity : kEdges[bin - 1];
    const double high = bin + 1 == kBins ? kInfinity : kEdges[bin];
    out.emplace_back("val_rest[" + shortest(low) + "," + shortest(high) + ")", sums[bin]);
  }
  out.insert(out.end(), losses.begin(), losses.end());

  try {
    std::error_code ignored;  // writing says why
    std::filesystem::create_directories(folder_, ignored);
    write_file_atomic(folder_ / ("step-" + zero_padded(state.step, 9) + ".json"),
                      json.dump() + "\n");
  } catch (const Error& e) {
    warning_.warn(std::string("no validation file: ") + e.what() + "; the run goes on");
  }
  return out;
}

}  // namespace diffuse
