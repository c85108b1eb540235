// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/metrics.h"

namespace diffuse {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

struct Panel {
  std::string title;
  std::string x_label, y_label;
  bool log_y = false;
  std::vector<Series> series;
};

/// Panels below each other as one SVG document; axes with round ticks, a legend where a panel has
/// several series. Non-finite points break the line.
std::string plot_svg(const std::vector<Panel>& panels);

/// Loss (with a smoothed line), learning rate and gradient norm over steps: plots/train.svg.
std::string plot_training(const std::vector<MetricRow>& rows);

}  // namespace diffuse
