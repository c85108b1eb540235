// SPDX-License-Identifier: MIT
#include "report/scatter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "report/markup.h"
#include "report/svg.h"

namespace diffuse {
namespace {

using svg::at;

constexpr double kLeft = 46, kRight = 14, kTop = 34, kBottom = 30, kLegend = 34, kMargin = 8;
constexpr double kSide = 260, kLoneSide = 460;  // of a panel among others, and alone
constexpr int64_t kCells = 180;                 // of the density's grid, along the longer side
constexpr int64_t kArrows = 19;                 // likewise of the arrows'
constexpr std::string_view kPointColor = "#d55e00", kFieldColor = "#1a1a1a",
                           kTruthColor = "#e69f00";

/// From window to picture.
struct Frame {
  PlaneWindow window;
  double left, top, width, height;

  PlaneVector operator()(double x, double y) const {
    return {left + width * (x - window.low_x) / (window.high_x - window.low_x),
            top + height * (window.high_y - y) / (window.high_y - window.low_y)};
  }
  double longer() const { return std::max(width, height); }
  bool contains(const PlaneVector& p) const {
    return p.x >= window.low_x && p.x <= window.high_x && p.y >= window.low_y &&
           p.y <= window.high_y;
  }
};

/// Nodes that cover a window in squares, or nearly.
struct Grid {
  int64_t columns, rows;
  std::vector<double> x, y;

  Grid(const Frame& frame, int64_t cells)
      : columns(nodes(cells, frame.width / frame.longer())),
        rows(nodes(cells, frame.height / frame.longer())) {
    const PlaneWindow& w = frame.window;
    for (int64_t i = 0; i < columns; ++i) x.push_back(between(w.low_x, w.high_x, i, columns));
    for (int64_t j = 0; j < rows; ++j) y.push_back(between(w.low_y, w.high_y, j, rows));
  }

 private:
  static int64_t nodes(int64_t cells, double part) {
    return 1 + std::max<int64_t>(1, std::llround(static_cast<double>(cells) * part));
  }
  static double between(double low, double high, int64_t i, int64_t n) {
    return low + (high - low) * static_cast<double>(i) / static_cast<double>(n - 1);
  }
};

using Polygon = std::vector<PlaneVector>;

double distance_to_line(const PlaneVector& p, const PlaneVector& a, const PlaneVector& b) {
  const double dx = b.x - a.x, dy = b.y - a.y, length = std::hypot(dx, dy);
  if (length == 0) return std::hypot(p.x - a.x, p.y - a.y);
  return std::abs(dx * (p.y - a.y) - dy * (p.x - a.x)) / length;
}

/// Marks the vertices in (first, last) that the line needs to stay within a tenth of a pixel:
/// Douglas & Peucker 1973.
void mark_needed(const Polygon& line, size_t first, size_t last, std::vector<bool>& needed) {
  double furthest = 0.1;
  size_t split = last;
  for (size_t i = first + 1; i < last; ++i)
    if (const double d = distance_to_line(line[i], line[first], line[last]); d > furthest) {
      furthest = d;
      split = i;
    }
  if (split == last) return;
  needed[split] = true;
  mark_needed(line, first, split, needed);
  mark_needed(line, split, last, needed);
}

/// The path of a closed polygon, in relative coordinates, which are shorter.
std::string path_of(const Polygon& polygon) {
  std::vector<bool> needed(polygon.size());
  const size_t middle = polygon.size() / 2, last = polygon.size() - 1;
  needed[0] = needed[middle] = needed[last] = true;
  mark_needed(polygon, 0, middle, needed);
  mark_needed(polygon, middle, last, needed);
  const auto tenths = [](double v) { return std::round(10 * v) / 10; };
  std::string out;
  PlaneVector pen;
  for (size_t i = 0; i < polygon.size(); ++i) {
    if (!needed[i]) continue;
    const PlaneVector p{tenths(polygon[i].x), tenths(polygon[i].y)};
    out += i == 0 ? "M" + at(p.x) + " " + at(p.y) : "l" + at(p.x - pen.x) + " " + at(p.y - pen.y);
    pen = p;
  }
  return out + "z";
}

/// A function on a grid with a ring of minus infinity around it, in the picture's coordinates; the
/// ring lies on the border.
class Relief {
 public:
  Relief(const Frame& frame, const std::function<double(double, double)>& height)
      : grid_(frame, kCells), columns_(grid_.columns + 2), rows_(grid_.rows + 2) {
    for (int64_t j = 0; j < rows_; ++j)
      for (int64_t i = 0; i < columns_; ++i) {
        const int64_t inner_i = std::clamp<int64_t>(i - 1, 0, grid_.columns - 1);
        const int64_t inner_j = std::clamp<int64_t>(j - 1, 0, grid_.rows - 1);
        const double x = grid_.x[static_cast<size_t>(inner_i)];
        const double y = grid_.y[static_cast<size_t>(inner_j)];
        places_.push_back(frame(x, y));
        const bool outside = i != inner_i + 1 || j != inner_j + 1;
        const double value = outside ? 0 : height(x, y);
        values_.push_back(std::isfinite(value) && !outside ? value : -1);
        greatest_ = std::max(greatest_, values_.back());
      }
  }

  double greatest() const { return greatest_; }

  /// The boundary of where the function is above `level` >= 0, by marching squares (Lorensen &
  /// Cline 1987 in the plane). Each cell's segments have the region at their left; they meet at the
  /// cells' edges, where the function is taken to be linear.
  std::vector<Polygon> boundary(double level) const {
    // An edge's number is twice its lower left node's, plus 1 where it goes up.
    std::vector<int64_t> next(2 * values_.size(), -1);
    for (int64_t j = 0; j + 1 < rows_; ++j)
      for (int64_t i = 0; i + 1 < columns_; ++i)
        for (const auto& [from, to] : segments(node(i, j), level))
          next[static_cast<size_t>(from)] = to;
    std::vector<Polygon> out;
    for (size_t start = 0; start < next.size(); ++start) {
      Polygon polygon;
      for (size_t edge = start; next[edge] >= 0;) {
        polygon.push_back(crossing(static_cast<int64_t>(edge), level));
        edge = static_cast<size_t>(std::exchange(next[edge], -1));
      }
      if (!polygon.empty()) out.push_back(std::move(polygon));
    }
    return out;
  }

 private:
  int64_t node(int64_t i, int64_t j) const { return j * columns_ + i; }
  double value(int64_t n) const { return values_[static_cast<size_t>(n)]; }

  std::vector<std::pair<int64_t, int64_t>> segments(int64_t n, double level) const {
    const std::array<int64_t, 4> corners{n, n + 1, n + 1 + columns_, n + columns_};
    const std::array<int64_t, 4> edges{2 * n, 2 * (n + 1) + 1, 2 * (n + columns_), 2 * n + 1};
    std::vector<std::pair<int64_t, int64_t>> out;
    // Counterclockwise around the cell: the boundary comes in where the region ends and goes out
    // where it begins. A boundary with the region at its left enters through an edge whose first
    // corner is in and leaves through one whose first corner is out.
    std::vector<int64_t> in, leaving;
    double sum = 0;
    for (size_t k = 0; k < 4; ++k) {
      const bool a = value(corners[k]) > level, b = value(corners[(k + 1) % 4]) > level;
      if (a && !b) in.push_back(edges[k]);
      if (!a && b) leaving.push_back(edges[k]);
      sum += value(corners[k]);
    }
    if (in.size() == 1) out.emplace_back(in[0], leaving[0]);
    if (in.size() == 2) {
      // A saddle: the middle decides whether the region's corners are joined.
      const bool joined = sum / 4 > level;
      const bool first_in = value(corners[0]) > level;
      const size_t same = joined == first_in ? 0 : 1;
      out.emplace_back(in[0], leaving[same]);
      out.emplace_back(in[1], leaving[1 - same]);
    }
    return out;
  }

  PlaneVector crossing(int64_t edge, double level) const {
    const int64_t a = edge / 2, b = a + (edge % 2 == 0 ? 1 : columns_);
    const double part = (level - value(a)) / (value(b) - value(a));
    const PlaneVector p = places_[static_cast<size_t>(a)], q = places_[static_cast<size_t>(b)];
    return {p.x + part * (q.x - p.x), p.y + part * (q.y - p.y)};
  }

  Grid grid_;
  int64_t columns_, rows_;  // with the ring
  std::vector<PlaneVector> places_;
  std::vector<double> values_;
  double greatest_ = 0;
};

/// The lower bounds of the shades, as parts of the greatest density.
constexpr std::array<double, 10> kShades{0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

/// From nearly white to a blue on which dots and arrows still show.
std::string shade(size_t k) {
  const double part = static_cast<double>(k) / (kShades.size() - 1);
  const auto mixed = [&](double pale, double deep) {
    return std::to_string(std::lround(pale + part * (deep - pale)));
  };
  return "rgb(" + mixed(236, 107) + "," + mixed(243, 160) + "," + mixed(250, 208) + ")";
}

std::string draw_density(const Frame& frame, const PlanePanel& panel) {
  const Relief relief(frame, panel.density);
  std::string out;
  for (size_t k = 0; k < kShades.size() && relief.greatest() > 0; ++k) {
    std::string path;
    for (const Polygon& polygon : relief.boundary(kShades[k] * relief.greatest()))
      path += path_of(polygon);
    if (!path.empty())
      out += "<path d=\"" + path + "\" fill=\"" + shade(k) + "\" fill-rule=\"evenodd\"/>\n";
  }
  return out;
}

std::string arrow(const PlaneVector& middle, const PlaneVector& step) {
  const double head = 0.32;  // of the length
  const PlaneVector tip{middle.x + step.x / 2, middle.y + step.y / 2};
  const auto barb = [&](double side) {
    return "M" + at(tip.x) + " " + at(tip.y) + "L" +
           at(tip.x - head * (step.x + side * 0.55 * step.y)) + " " +
           at(tip.y - head * (step.y - side * 0.55 * step.x));
  };
  return "M" + at(middle.x - step.x / 2) + " " + at(middle.y - step.y / 2) + "L" + at(tip.x) + " " +
         at(tip.y) + barb(1) + barb(-1);
}

using Field = std::function<PlaneVector(double, double)>;

struct Arrow {
  PlaneVector place;  // in the picture
  PlaneVector value;
  double size() const { return std::hypot(value.x, value.y); }
};

std::vector<Arrow> arrows_of(const Frame& frame, const Field& field) {
  std::vector<Arrow> out;
  if (!field) return out;
  const Grid grid(frame, kArrows - 1);
  // Half a step inwards, so that no arrow is cut off.
  const PlaneWindow& w = frame.window;
  const auto inwards = [](double v, double low, double high, int64_t n) {
    return (low + high) / 2 +
           (v - (low + high) / 2) * static_cast<double>(n - 1) / static_cast<double>(n);
  };
  for (const double gy : grid.y)
    for (const double gx : grid.x) {
      const double x = inwards(gx, w.low_x, w.high_x, grid.columns);
      const double y = inwards(gy, w.low_y, w.high_y, grid.rows);
      const Arrow a{frame(x, y), field(x, y)};
      if (std::isfinite(a.size()) && a.size() > svg::kSmallest) out.push_back(a);
    }
  return out;
}

std::string draw_arrows(const std::vector<Arrow>& arrows,
                        double full,
                        double length,
                        std::string_view style) {
  std::string path;
  for (const Arrow& a : arrows) {
    const double drawn = length * std::sqrt(std::min(1.0, a.size() / full));
    if (drawn < 1) continue;  // would be a dot
    path += arrow(a.place, {drawn * a.value.x / a.size(), -drawn * a.value.y / a.size()});
  }
  if (path.empty()) return "";
  return "<path d=\"" + path + "\"" + std::string(style) + "/>\n";
}

std::string field_style() {
  return " stroke=\"" + std::string(kFieldColor) + "\" stroke-width=\"0.9\"";
}
std::string truth_style() {
  return " stroke=\"" + std::string(kTruthColor) + "\" stroke-width=\"2.4\" opacity=\"0.6\"";
}

std::string draw_fields(const Frame& frame, const PlanePanel& panel) {
  const std::vector<Arrow> truth = arrows_of(frame, panel.truth);
  const std::vector<Arrow> field = arrows_of(frame, panel.field);
  // A few large arrows must not make dots of the others: a quarter has full length.
  std::vector<double> sizes;
  for (const Arrow& a : truth.empty() ? field : truth) sizes.push_back(a.size());
  if (sizes.empty()) return "";
  const auto place = sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() * 3 / 4);
  std::nth_element(sizes.begin(), place, sizes.end());
  const double length = 0.92 * frame.longer() / kArrows;
  return draw_arrows(truth, *place, length, truth_style()) +
         draw_arrows(field, *place, length, field_style());
}

std::string point_style() {
  return " fill=\"" + std::string(kPointColor) +
         "\" fill-opacity=\"0.75\" stroke=\"#fff\" stroke-width=\"0.35\"";
}

std::string draw_points(const Frame& frame, const PlanePanel& panel) {
  std::string out;
  const double radius = frame.longer() >= kLoneSide ? 2.3 : 1.6;
  for (const PlaneVector& p : panel.points) {
    if (!frame.contains(p)) continue;
    const PlaneVector place = frame(p.x, p.y);
    out +=
        "<circle cx=\"" + at(place.x) + "\" cy=\"" + at(place.y) + "\" r=\"" + at(radius) + "\"/>";
  }
  return out.empty() ? "" : "<g" + point_style() + ">" + out + "</g>\n";
}

std::string draw_axes(const Frame& frame) {
  const double right = frame.left + frame.width, bottom = frame.top + frame.height;
  const PlaneWindow& w = frame.window;
  std::string out = "<rect x=\"" + at(frame.left) + "\" y=\"" + at(frame.top) + "\" width=\"" +
                    at(frame.width) + "\" height=\"" + at(frame.height) +
                    "\" stroke=\"#777\" stroke-width=\"0.8\"/>\n";
  const int ticks = frame.longer() >= kLoneSide ? 8 : 5;
  const auto wanted = [&](double side) {
    return std::max(2, static_cast<int>(std::lround(ticks * side / frame.longer())));
  };
  const svg::Axis x = svg::linear_axis(w.low_x, w.high_x, wanted(frame.width), 0);
  for (size_t i = 0; i < x.ticks.size(); ++i) {
    const double place = frame(x.ticks[i], 0).x;
    out += svg::line(place, bottom, place, bottom + 4, "#777") +
           svg::text(place, bottom + 17, "middle", " class=\"tick\"", x.labels[i]);
  }
  const svg::Axis y = svg::linear_axis(w.low_y, w.high_y, wanted(frame.height), 0);
  for (size_t i = 0; i < y.ticks.size(); ++i) {
    const double place = frame(0, y.ticks[i]).y;
    out += svg::line(frame.left - 4, place, frame.left, place, "#777") +
           svg::text(frame.left - 7, place + 4, "end", " class=\"tick\"", y.labels[i]);
  }
  return out + svg::line(frame.left, bottom, right, bottom, "#777");
}

std::string draw_panel(const PlanePanel& panel, const Frame& frame, size_t number) {
  const std::string clip = "clip" + std::to_string(number);
  std::string out = "<clipPath id=\"" + clip + "\"><rect x=\"" + at(frame.left) + "\" y=\"" +
                    at(frame.top) + "\" width=\"" + at(frame.width) + "\" height=\"" +
                    at(frame.height) + "\"/></clipPath>\n<g clip-path=\"url(#" + clip + ")\">\n";
  if (panel.density) out += draw_density(frame, panel);
  out += draw_fields(frame, panel) + draw_points(frame, panel) + "</g>\n" + draw_axes(frame);
  out += svg::text(frame.left, frame.top - 10, "start", " class=\"title\"", panel.title);
  const auto outside =
      std::ranges::count_if(panel.points, [&](const PlaneVector& p) { return !frame.contains(p); });
  if (outside > 0)
    out += svg::text(
        frame.left + frame.width,
        frame.top - 10,
        "end",
        " class=\"tick\"",
        std::to_string(outside) + " of " + std::to_string(panel.points.size()) + " outside");
  return out;
}

/// Centred under the panels.
std::string draw_legend(const std::vector<PlanePanel>& panels,
                        const PlaneLegend& legend,
                        double middle,
                        double y) {
  const auto any = [&](const auto& member) {
    return std::ranges::any_of(panels, [&](const PlanePanel& p) { return member(p); });
  };
  std::vector<std::pair<std::string, std::string>> entries;  // glyph at the origin, 30 wide; name
  if (any([](const PlanePanel& p) { return bool(p.density); })) {
    std::string glyph;
    for (size_t k = 0; k < kShades.size(); ++k)
      glyph += "<rect x=\"" + at(3 * static_cast<double>(k)) +
               "\" y=\"-5\" width=\"3.2\" height=\"10\" fill=\"" + shade(k) + "\"/>";
    entries.emplace_back(glyph, legend.density);
  }
  if (any([](const PlanePanel& p) { return !p.points.empty(); }))
    entries.emplace_back("<g" + point_style() + "><circle cx=\"15\" cy=\"0\" r=\"2.6\"/></g>",
                         legend.points);
  if (any([](const PlanePanel& p) { return bool(p.field); }))
    entries.emplace_back("<path d=\"" + arrow({15, 0}, {18, 0}) + "\"" + field_style() + "/>",
                         legend.field);
  if (any([](const PlanePanel& p) { return bool(p.truth); }))
    entries.emplace_back("<path d=\"" + arrow({15, 0}, {18, 0}) + "\"" + truth_style() + "/>",
                         legend.truth);
  const auto width = [](const std::string& name) {
    return 36 + 6.6 * static_cast<double>(name.size()) + 24;
  };
  double total = -24;
  for (const auto& [glyph, name] : entries) total += width(name);
  double x = middle - total / 2;
  std::string out;
  for (const auto& [glyph, name] : entries) {
    out += "<g transform=\"translate(" + at(x) + " " + at(y) + ")\">" + glyph + "</g>\n" +
           svg::text(x + 36, y + 4, "start", "", name);
    x += width(name);
  }
  return out;
}

}  // namespace

std::string plane_svg(const std::vector<PlanePanel>& panels,
                      int64_t columns,
                      const PlaneLegend& legend,
                      const std::string& metadata) {
  DIFFUSE_CHECK(columns >= 1 && !panels.empty());
  const auto in_row = std::min(static_cast<size_t>(columns), panels.size());
  const double side = in_row == 1 ? kLoneSide : kSide;
  std::vector<Frame> frames;
  double top = kMargin, lowest = 0;
  for (size_t i = 0; i < panels.size(); ++i) {
    const PlaneWindow& w = panels[i].window;
    const double dx = w.high_x - w.low_x, dy = w.high_y - w.low_y;
    DIFFUSE_CHECK(dx > 0 && dy > 0 && dx <= 4 * dy && dy <= 4 * dx && std::isfinite(dx + dy));
    if (i > 0 && i % in_row == 0) top = lowest + kMargin;
    const double left = kMargin + static_cast<double>(i % in_row) * (kLeft + side + kRight);
    frames.push_back({w, left + kLeft, top + kTop, side, side * dy / dx});
    lowest = std::max(lowest, top + kTop + side * dy / dx + kBottom);
  }
  const double width = 2 * kMargin + static_cast<double>(in_row) * (kLeft + side + kRight);
  std::string out = svg::head(width, lowest + kLegend);
  if (!metadata.empty()) out += "<metadata>" + escape_markup(metadata) + "</metadata>\n";
  out += "<style>.tick{font-size:11px}</style>\n";
  for (size_t i = 0; i < panels.size(); ++i) out += draw_panel(panels[i], frames[i], i);
  return out + draw_legend(panels, legend, width / 2, lowest + 14) + "</svg>\n";
}

}  // namespace diffuse
