// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/model.h"
#include "report/scatter.h"

// Points in the plane: drawn by a model, and shown over the density that they should have.

namespace diffuse {

struct PointDrawing {
  std::vector<PlaneVector> points;
  std::vector<std::vector<PlaneVector>> x_t;  // [trajectory][count]
};

/// Empty when cancelled.
std::optional<PointDrawing> draw_points(const Model& network,
                                        const Weights& weights,
                                        const DrawRequest& request);

/// Points of x_0 over its true density, as SVG. `made`: how (see describe_drawing).
std::string points_svg(const Config& config,
                       const std::vector<PlaneVector>& points,
                       const std::string& made);

/// The cloud at the points of its chain, each over the true density of that noise level.
std::string trajectory_svg(const Config& config,
                           const PointDrawing& drawing,
                           const std::string& made);

/// The network's score (alpha x_hat - z) / sigma^2, without clipping, at steps of the trained
/// chain, over the true density and score of these noise levels.
std::string score_svg(const Config& config,
                      const Model& network,
                      const Weights& weights,
                      const std::vector<int64_t>& steps,
                      bool bf16,
                      const std::string& made);

/// At most six steps of the chain, noisiest first, spread over the noise levels at which points
/// within [-1, 1] change their shape.
std::vector<int64_t> telling_steps(const DiffusionOptions& diffusion);

/// "x,y" and a line a point, with the digits that float32 needs.
std::string points_csv(const std::vector<PlaneVector>& points);

}  // namespace diffuse
