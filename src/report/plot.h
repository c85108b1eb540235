// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/metrics.h"

namespace diffuse {

using Points = std::vector<std::pair<double, double>>;

struct Series {
  std::string name;
  Points points;       // x ascending
  bool faint = false;  // drawn pale and not in the legend: raw data under a smooth line
  int color = -1;      // place in the palette; -1: the place in the panel
};

struct Panel {
  std::string title;
  std::string x_label, y_label;
  bool log_y = false;
  std::vector<Series> series;
};

/// Panels below each other as one SVG document; axes with round ticks, a legend where a panel has
/// several series. Non-finite points, those beyond 1e100 and, on a log axis, those below 1e-100
/// break the line. More than 2000 points of a series are thinned to the least and the greatest of
/// each stretch. Equal input, equal text.
std::string plot_svg(const std::vector<Panel>& panels);

/// A metric over the step, where a row has it.
Points points_of(const std::vector<MetricRow>& rows, std::string_view name);

/// Mean over about a fiftieth of the points around each, so that the line does not lag behind the
/// data; narrower towards both ends. Non-finite points are left out.
Points smooth(const Points& points);

/// Whether a log axis shows these values better: all positive, over more than a factor of ten.
bool wants_log(const std::vector<Series>& series);

/// Loss (with a smoothed line), learning rate and gradient norm over steps: plots/train.svg. Reads
/// the metrics "loss", "loss_raw" (unweighted), "lr" and "grad_norm"; and, where they are,
/// "val_bits", "val_rest[...": bits/dim by log SNR, and "val_loss[...": the loss at levels of log
/// SNR, in three more panels.
std::string plot_training(const std::vector<MetricRow>& rows);

}  // namespace diffuse
