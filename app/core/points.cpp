// SPDX-License-Identifier: MIT
#include "core/points.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "base/text.h"
#include "diffusion/denoiser.h"

namespace diffuse {
namespace {

at::Tensor to_cpu(const at::Tensor& x) { return x.detach().to(at::kFloat).cpu().contiguous(); }

/// [n, 2, 1, 1] on the CPU.
void append(const at::Tensor& x, std::vector<PlaneVector>& out) {
  const float* values = x.const_data_ptr<float>();
  for (int64_t i = 0; i < x.size(0); ++i) out.push_back({values[2 * i], values[2 * i + 1]});
}

/// Where z = alpha x0 + sigma eps lies, with a margin.
PlaneWindow window_of(const PointBox& box, double alpha, double sigma) {
  const auto side = [&](double low, double high) {
    const double margin = 3 * sigma + 0.04 * alpha * (high - low);
    return std::pair(alpha * low - margin, alpha * high + margin);
  };
  auto [low_x, high_x] = side(box.low.x, box.high.x);
  auto [low_y, high_y] = side(box.low.y, box.high.y);
  // plane_svg draws nothing flatter than 4 to 1.
  const double least = std::max(high_x - low_x, high_y - low_y) / 3.9;
  const auto widen = [&](double& low, double& high) {
    const double more = std::max(0.0, least - (high - low)) / 2;
    low -= more, high += more;
  };
  widen(low_x, high_x);
  widen(low_y, high_y);
  return {low_x, high_x, low_y, high_y};
}

/// A panel with the true density of a noise level.
PlanePanel panel_of(const PointDistribution& truth,
                    const std::shared_ptr<const NoisedPoints>& noised,
                    const Level& level,
                    std::string title) {
  PlanePanel panel;
  panel.title = std::move(title);
  panel.window = window_of(truth.box(), level.alpha, level.sigma);
  panel.density = [noised](double x, double y) { return noised->density({x, y}); };
  return panel;
}

std::shared_ptr<const NoisedPoints> noised_at(const PointDistribution& truth, const Level& level) {
  return truth.noised(level.alpha, level.sigma);
}

std::string level_title(int64_t t, const Level& level) {
  return "t = " + std::to_string(t) + ", SNR " + significant(level.snr(), 3);
}

int64_t columns_for(size_t panels) { return panels == 4 ? 2 : 3; }

constexpr Level kClean{};  // alpha 1, sigma 0

}  // namespace

std::optional<PointDrawing> draw_points(const Model& network,
                                        const Weights& weights,
                                        const DrawRequest& request) {
  PointDrawing out;
  const bool done = draw_batches(network, weights, request, to_cpu, [&](const DrawnBatch& batch) {
    append(batch.x, out.points);
    out.x_t.resize(batch.x_t.size());
    for (size_t k = 0; k < batch.x_t.size(); ++k) append(batch.x_t[k], out.x_t[k]);
  });
  if (!done) return std::nullopt;
  return out;
}

std::string points_svg(const Config& config,
                       const std::vector<PlaneVector>& points,
                       const std::string& made) {
  const auto truth = config.data.points();
  PlanePanel panel = panel_of(*truth,
                              noised_at(*truth, kClean),
                              kClean,
                              counted(static_cast<int64_t>(points.size()), "point") + ", target " +
                                  config.diffusion.target.name());
  panel.points = points;
  return plane_svg({panel}, 1, {}, made);
}

std::string trajectory_svg(const Config& config,
                           const PointDrawing& drawing,
                           const std::string& made) {
  const auto truth = config.data.points();
  const std::vector<SamplerStep> steps = sampler_steps(config.sample, config.diffusion);
  const std::vector<int64_t> kept =
      kept_steps(static_cast<int64_t>(steps.size()), static_cast<int64_t>(drawing.x_t.size()));
  std::vector<PlanePanel> panels;
  for (size_t k = 0; k < kept.size(); ++k) {
    const auto next = static_cast<size_t>(kept[k]) + 1;  // the step that finds x as it is drawn
    const bool last = next == steps.size();
    const Level& level = last ? kClean : steps[next].level;
    panels.push_back(panel_of(*truth,
                              noised_at(*truth, level),
                              level,
                              last ? "x_0" : level_title(steps[next].timestep, level)));
    panels.back().points = drawing.x_t[k];
  }
  return plane_svg(panels, columns_for(panels.size()), {}, made);
}

std::string score_svg(const Config& config,
                      const Model& network,
                      const Weights& weights,
                      const std::vector<int64_t>& steps,
                      bool bf16,
                      const std::string& made) {
  const at::NoGradGuard no_grad;
  const auto truth = config.data.points();
  const Chain chain = make_chain(config.diffusion);
  const at::Device device = weights.front().device();
  const Network f = [&](const at::Tensor& x, const at::Tensor& t) {
    return network.forward(weights, x, t, {}, nullptr, bf16);
  };
  const Denoise denoise = make_denoiser(f, config.diffusion.target, /*clip=*/false);
  std::vector<PlanePanel> panels;
  for (const int64_t t : steps) {
    const Level level = chain.level(t);
    const auto noised = noised_at(*truth, level);
    PlanePanel panel = panel_of(*truth, noised, level, level_title(t, level));
    panel.truth = [noised](double x, double y) -> PlaneVector {
      const Point score = (*noised)({x, y}).score;
      return {score.x, score.y};
    };
    panel.field = [&denoise, device, level](double x, double y) -> PlaneVector {
      const at::Tensor z =
          at::tensor({static_cast<float>(x), static_cast<float>(y)}).view({1, 2, 1, 1}).to(device);
      const at::Tensor x_hat = to_cpu(denoise(z, level).x_hat);
      const float* estimate = x_hat.const_data_ptr<float>();
      // Tweedie's formula: Efron 2011, eq. 1.4, for z = alpha x_0 + sigma eps.
      const double variance = level.sigma * level.sigma;
      return {(level.alpha * estimate[0] - x) / variance,
              (level.alpha * estimate[1] - y) / variance};
    };
    panels.push_back(std::move(panel));
  }
  return plane_svg(panels, columns_for(panels.size()), {}, made);
}

std::vector<int64_t> telling_steps(const DiffusionOptions& diffusion) {
  const Chain chain = make_chain(diffusion);
  std::vector<int64_t> out;
  // The share of noise, whichever path scales it.
  for (const double wanted : {0.95, 0.7, 0.4, 0.2, 0.1, 0.05}) {
    const auto off = [&](int64_t t) {
      const Level& level = chain.level(t);
      return std::abs(std::log(level.sigma / std::hypot(level.alpha, level.sigma) / wanted));
    };
    int64_t nearest = 0;
    for (int64_t t = 1; t < chain.steps(); ++t)
      if (off(t) < off(nearest)) nearest = t;
    if (out.empty() || nearest != out.back()) out.push_back(nearest);
  }
  return out;
}

std::string points_csv(const std::vector<PlaneVector>& points) {
  std::string out = "x,y\n";
  for (const PlaneVector& p : points) out += significant(p.x, 9) + "," + significant(p.y, 9) + "\n";
  return out;
}

}  // namespace diffuse
