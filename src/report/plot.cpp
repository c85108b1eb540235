// SPDX-License-Identifier: MIT
#include "report/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "base/text.h"
#include "report/svg.h"

namespace diffuse {
namespace {

constexpr double kWidth = 860, kPlotHeight = 220;
constexpr double kLeft = 74, kRight = 24, kTop = 40, kBottom = 30, kXLabel = 20, kLegendRow = 20;
constexpr double kPlotWidth = kWidth - kLeft - kRight;
constexpr size_t kMaxPoints = 2000;
// Below it, no difference or ratio of two values overflows.
constexpr double kLargest = 1e100;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using svg::at;
using svg::Axis;
using svg::kPalette;
using svg::kSmallest;
using svg::line;
using svg::linear_axis;
using svg::text;
using svg::tick_label;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return low > high; }
};

Axis log_axis(double low, double high) {
  if (high < low * 1.5) {
    low /= 1.5;
    high *= 1.5;
  }
  const double spread = std::pow(high / low, 0.04);
  low /= spread;
  high *= spread;
  const double decades = std::log10(high / low);
  if (decades < 0.9) {  // too few round powers: the ticks of a linear axis, placed logarithmically
    Axis axis = linear_axis(low, high, 5, 0);
    axis.log = true;
    return axis;
  }
  Axis axis{low, high, true, {}, {}};
  const int stride = std::max(1, static_cast<int>(std::ceil(decades / 7)));
  const int first = static_cast<int>(std::floor(std::log10(low))),
            last = static_cast<int>(std::ceil(std::log10(high)));
  for (int e = first; e <= last; ++e) {
    if (e % stride != 0) continue;
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor != 1.0 && decades > 3) break;
      const double tick = factor * std::pow(10.0, e);
      if (tick < low || tick > high) continue;
      axis.ticks.push_back(tick);
      axis.labels.push_back(tick_label(tick, tick));
    }
  }
  return axis;
}

/// False for NaN, too.
bool drawable(const std::pair<double, double>& p, bool log_y) {
  return std::abs(p.first) < kLargest && std::abs(p.second) < kLargest &&
         (!log_y || p.second > kSmallest);
}

/// At most kMaxPoints points that show the same picture: of each stretch the least and the
/// greatest. A stretch without any drawable point becomes a break.
Points thin(const Points& points, bool log_y) {
  if (points.size() <= kMaxPoints) return points;
  const size_t stretches = kMaxPoints / 2;
  Points out;
  for (size_t s = 0; s < stretches; ++s) {
    const size_t begin = s * points.size() / stretches, end = (s + 1) * points.size() / stretches;
    size_t least = end, greatest = end;
    for (size_t i = begin; i < end; ++i) {
      if (!drawable(points[i], log_y)) continue;
      if (least == end || points[i].second < points[least].second) least = i;
      if (greatest == end || points[i].second > points[greatest].second) greatest = i;
    }
    if (least == end) {
      out.emplace_back(kNan, kNan);
      continue;
    }
    out.push_back(points[std::min(least, greatest)]);
    if (least != greatest) out.push_back(points[std::max(least, greatest)]);
  }
  return out;
}

struct LegendEntry {
  double x, row;
  size_t series;
};

size_t palette_place(const Panel& panel, size_t i) {
  const int color = panel.series[i].color;
  return color < 0 ? i : static_cast<size_t>(color);
}

std::string_view color_of(const Panel& panel, size_t i) {
  return kPalette[palette_place(panel, i) % kPalette.size()];
}

/// Once the colours are used up, dashes tell the next ones apart.
std::string dash_of(const Panel& panel, size_t i) {
  return palette_place(panel, i) < kPalette.size() ? "" : " stroke-dasharray=\"6 4\"";
}

/// Entries in rows as wide as the plot. Empty when there is nothing to tell apart.
std::vector<LegendEntry> legend_of(const Panel& panel) {
  std::vector<LegendEntry> out;
  double x = 0, row = 0;
  for (size_t i = 0; i < panel.series.size(); ++i) {
    const Series& s = panel.series[i];
    if (s.faint) continue;
    const double width = 40 + 6.6 * static_cast<double>(characters(s.name));
    if (x > 0 && x + width > kPlotWidth) {
      x = 0;
      ++row;
    }
    out.push_back({x, row, i});
    x += width;
  }
  return out.size() > 1 ? out : std::vector<LegendEntry>{};
}

double legend_height(const std::vector<LegendEntry>& legend) {
  return legend.empty() ? 0 : (legend.back().row + 1) * kLegendRow;
}

double panel_height(const Panel& panel) {
  return kTop + legend_height(legend_of(panel)) + kPlotHeight + kBottom +
         (panel.x_label.empty() ? 0 : kXLabel);
}

/// The strokes of a series, and its lone points (which no stroke would show) as dots.
std::pair<std::string, std::string> strokes_and_dots(const Points& points,
                                                     const Axis& x,
                                                     const Axis& y,
                                                     bool log_y) {
  std::string strokes, dots;
  const auto drawn = [&](size_t i) { return i < points.size() && drawable(points[i], log_y); };
  for (size_t i = 0; i < points.size(); ++i) {
    if (!drawn(i)) continue;
    const std::string px = at(kPlotWidth * x(points[i].first));
    const std::string py = at(kPlotHeight * (1 - y(points[i].second)));
    const bool continues = i > 0 && drawn(i - 1);
    if (continues || drawn(i + 1))
      strokes += (continues ? "L" : "M") + px + " " + py;
    else
      dots += "<circle cx=\"" + px + "\" cy=\"" + py + "\" r=\"2\"/>";
  }
  return {strokes, dots};
}

std::string draw_panel(const Panel& panel, size_t number, double top) {
  const std::vector<LegendEntry> legend = legend_of(panel);
  const double plot_top = top + kTop + legend_height(legend);
  const double bottom = plot_top + kPlotHeight, right = kLeft + kPlotWidth;

  std::string out = text(kLeft, top + 24, "start", " class=\"title\"", panel.title);
  for (const LegendEntry& entry : legend) {
    const double x = kLeft + entry.x, y = top + kTop + entry.row * kLegendRow;
    out += "<path d=\"M" + at(x) + " " + at(y) + "h18\" stroke=\"";
    out.append(color_of(panel, entry.series));
    out += "\" stroke-width=\"2.5\"" + dash_of(panel, entry.series) + "/>\n";
    out += text(x + 24, y + 4, "start", "", panel.series[entry.series].name);
  }

  Range xs, ys;
  for (const Series& s : panel.series)
    for (const auto& p : s.points)
      if (drawable(p, panel.log_y)) {
        xs.add(p.first);
        ys.add(p.second);
      }
  if (xs.empty()) {
    out += line(kLeft, bottom, right, bottom, "#999");
    return out + text((kLeft + right) / 2, plot_top + kPlotHeight / 2, "middle", "", "no data yet");
  }
  const Axis x = linear_axis(xs.low, xs.high, 8, 0);
  const Axis y = panel.log_y ? log_axis(ys.low, ys.high) : linear_axis(ys.low, ys.high, 5, 0.05);

  for (size_t i = 0; i < y.ticks.size(); ++i) {
    const double py = bottom - kPlotHeight * y(y.ticks[i]);
    out += line(kLeft, py, right, py, "#e6e6e6") + text(kLeft - 8, py + 4, "end", "", y.labels[i]);
  }
  for (size_t i = 0; i < x.ticks.size(); ++i) {
    const double px = kLeft + kPlotWidth * x(x.ticks[i]);
    out += line(px, plot_top, px, bottom, "#f0f0f0") +
           text(px, bottom + 18, "middle", "", x.labels[i]);
  }
  out += line(kLeft, bottom, right, bottom, "#999");
  if (!panel.x_label.empty())
    out += text((kLeft + right) / 2, bottom + 38, "middle", "", panel.x_label);
  if (!panel.y_label.empty()) {
    const double py = plot_top + kPlotHeight / 2;
    out += text(16, py, "middle", " transform=\"rotate(-90 16 " + at(py) + ")\"", panel.y_label);
  }

  const std::string clip = "clip" + std::to_string(number);
  out += "<clipPath id=\"" + clip + "\"><rect x=\"-2\" y=\"-2\" width=\"" + at(kPlotWidth + 4) +
         "\" height=\"" + at(kPlotHeight + 4) + "\"/></clipPath>\n<g transform=\"translate(" +
         at(kLeft) + " " + at(plot_top) + ")\" clip-path=\"url(#" + clip + ")\">\n";
  for (const bool faint : {true, false})  // pale ones below
    for (size_t i = 0; i < panel.series.size(); ++i) {
      const Series& s = panel.series[i];
      if (s.faint != faint) continue;
      const auto [strokes, dots] = strokes_and_dots(thin(s.points, panel.log_y), x, y, panel.log_y);
      const std::string color(color_of(panel, i));
      const std::string opacity = faint ? " opacity=\"0.3\"" : "";
      if (!strokes.empty())
        out += "<path d=\"" + strokes + "\" stroke=\"" + color + "\" stroke-width=\"" +
               (faint ? "1" : "1.8") + "\"" + dash_of(panel, i) + opacity + "/>\n";
      if (!dots.empty()) out += "<g fill=\"" + color + "\"" + opacity + ">" + dots + "</g>\n";
    }
  return out + "</g>\n";
}

/// A series for each metric whose name begins so, named by what follows.
std::vector<Series> series_of(const std::vector<MetricRow>& rows, std::string_view prefix) {
  std::vector<Series> out;
  for (const MetricRow& row : rows)
    for (const auto& [key, value] : row.values) {
      if (!key.starts_with(prefix)) continue;
      const std::string name = key.substr(prefix.size(), key.size() - prefix.size() - 1);
      auto series =
          std::find_if(out.begin(), out.end(), [&](const Series& s) { return s.name == name; });
      if (series == out.end()) series = out.insert(out.end(), {.name = name, .points = {}});
      series->points.emplace_back(static_cast<double>(row.step), value);
    }
  return out;
}

}  // namespace

Points points_of(const std::vector<MetricRow>& rows, std::string_view name) {
  Points out;
  for (const MetricRow& row : rows)
    for (const auto& [key, value] : row.values)
      if (key == name) out.emplace_back(static_cast<double>(row.step), value);
  return out;
}

Points smooth(const Points& points) {
  Points finite;
  for (const auto& p : points)
    if (std::isfinite(p.second)) finite.push_back(p);
  std::vector<double> sums{0};
  for (const auto& p : finite) sums.push_back(sums.back() + p.second);
  const size_t reach = finite.size() / 100;
  Points out;
  for (size_t i = 0; i < finite.size(); ++i) {
    const size_t begin = i - std::min(i, reach), end = std::min(i + reach + 1, finite.size());
    out.emplace_back(finite[i].first, (sums[end] - sums[begin]) / static_cast<double>(end - begin));
  }
  return out;
}

bool wants_log(const std::vector<Series>& series) {
  Range range;
  for (const Series& s : series)
    for (const auto& p : s.points)
      if (std::isfinite(p.second)) range.add(p.second);
  return !range.empty() && range.low > 0 && range.high > 10 * range.low;
}

std::string plot_svg(const std::vector<Panel>& panels) {
  double height = 10;
  for (const Panel& panel : panels) height += panel_height(panel);
  std::string out = svg::head(kWidth, height);
  double top = 0;
  for (size_t i = 0; i < panels.size(); ++i) {
    out += draw_panel(panels[i], i, top);
    top += panel_height(panels[i]);
  }
  return out + "</svg>\n";
}

std::string plot_training(const std::vector<MetricRow>& rows) {
  Panel loss{"Loss", "", "", false, {}};
  const Points trained = points_of(rows, "loss"), unweighted = points_of(rows, "loss_raw");
  const auto add = [&](const std::string& name, const Points& points, int color) {
    loss.series.push_back({name, points, true, color});
    loss.series.push_back({name, smooth(points), false, color});
  };
  add("loss", trained, 0);
  // With weight 1 both are the same line.
  if (!unweighted.empty() && unweighted != trained) add("unweighted loss", unweighted, 1);
  loss.log_y = wants_log(loss.series);

  Panel rate{"Learning rate", "", "", false, {{"lr", points_of(rows, "lr"), false, 2}}};
  const Points norms = points_of(rows, "grad_norm");
  Panel gradient{"Gradient norm",
                 "step",
                 "",
                 false,
                 {{"grad_norm", norms, true, 3}, {"grad_norm", smooth(norms), false, 3}}};
  gradient.log_y = wants_log(gradient.series);
  std::vector<Panel> panels{loss, rate, gradient};
  const auto add_panel = [&](const char* title, const char* y_label, std::vector<Series> series) {
    if (series.empty()) return;
    panels.back().x_label = "";
    Panel panel{title, "step", y_label, false, std::move(series)};
    panel.log_y = wants_log(panel.series);
    panels.push_back(std::move(panel));
  };
  if (const Points bits = points_of(rows, "val_bits"); !bits.empty())
    add_panel("Held-out bound", "bits/dim", {{"val_bits", bits, false, 0}});
  add_panel("Held-out bound by log SNR", "bits/dim", series_of(rows, "val_rest["));
  add_panel("Held-out loss at log SNR", "", series_of(rows, "val_loss["));
  return plot_svg(panels);
}

}  // namespace diffuse
