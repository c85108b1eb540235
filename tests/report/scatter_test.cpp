// SPDX-License-Identifier: MIT
#include "report/scatter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "report/read_svg.h"

namespace diffuse {
namespace {

// A panel alone is 460 wide, its upper left corner at (54, 42).
constexpr double kSide = 460, kLeft = 54, kTop = 42;

PlanePanel panel_of(const PlaneWindow& window) { return {.title = "panel", .window = window}; }

/// The paths' data with this fill or stroke.
std::vector<std::string> paths(const std::string& svg, const std::string& style) {
  std::vector<std::string> out;
  const std::string start = "<path d=\"";
  for (size_t i = svg.find(start); i != std::string::npos; i = svg.find(start, i + 1)) {
    const size_t end = svg.find("/>", i);
    const std::string element = svg.substr(i, end - i);
    if (element.find(style) == std::string::npos) continue;
    out.push_back(element.substr(start.size(), element.find('"', start.size()) - start.size()));
  }
  return out;
}

/// The polygons of a shade's path, in the coordinates of the window [-1, 1] x [-1, 1].
std::vector<std::vector<PlaneVector>> polygons(const std::string& path) {
  std::vector<std::vector<PlaneVector>> out;
  PlaneVector pen;
  for (size_t i = 0; i < path.size();) {
    const char command = path[i++];
    if (command == 'z') continue;
    const double x = number_at(path, i);
    const double y = number_at(path, i += path[i] == ' ');
    if (command == 'M') out.emplace_back();
    pen = command == 'M' ? PlaneVector{x, y} : PlaneVector{pen.x + x, pen.y + y};
    out.back().push_back({2 * (pen.x - kLeft) / kSide - 1, 1 - 2 * (pen.y - kTop) / kSide});
  }
  return out;
}

double area(const std::vector<PlaneVector>& polygon) {
  double sum = 0;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const PlaneVector a = polygon[i], b = polygon[(i + 1) % polygon.size()];
    sum += a.x * b.y - a.y * b.x;
  }
  return sum / 2;
}

// A contour's vertices: 0.05 pixels of rounding in each direction, and linear interpolation, which
// misses by at most cell^2 / 8 of the second derivative over the first.
TEST(PlaneSvg, ShadesBeginAtTheirLevels) {
  const double s = 0.3;
  PlanePanel panel = panel_of({});
  panel.density = [&](double x, double y) { return 7 * std::exp(-(x * x + y * y) / (2 * s * s)); };
  const auto shades = paths(plane_svg({panel}, 1), "fill=\"rgb");
  const std::vector<double> levels{0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
  ASSERT_EQ(shades.size(), levels.size());
  const double cell = 2.0 / 180, pixel = 2 / kSide;
  for (size_t k = 0; k < levels.size(); ++k) {
    const auto parts = polygons(shades[k]);
    ASSERT_EQ(parts.size(), 1);
    const double r = s * std::sqrt(-2 * std::log(levels[k]));
    const double bend = std::abs(r * r / (s * s) - 1) / r + 1 / r;
    const double tolerance = 0.05 * std::numbers::sqrt2 * pixel + 2 * cell * cell / 8 * bend;
    for (const PlaneVector& p : parts[0]) EXPECT_NEAR(std::hypot(p.x, p.y), r, tolerance);
    // Vertices left out move the line by at most a tenth of a pixel.
    EXPECT_NEAR(std::abs(area(parts[0])),
                std::numbers::pi * r * r,
                2 * std::numbers::pi * r * (tolerance + 0.1 * pixel));
  }
}

TEST(PlaneSvg, ShadesHaveHolesAndEndAtTheBorder) {
  PlanePanel panel = panel_of({});
  panel.density = [](double, double) { return 2.0; };
  auto shades = paths(plane_svg({panel}, 1), "fill=\"rgb");
  ASSERT_EQ(shades.size(), 10);
  for (const std::string& shade : shades) {
    const auto parts = polygons(shade);
    ASSERT_EQ(parts.size(), 1);
    EXPECT_NEAR(std::abs(area(parts[0])), 4, 1e-9);
  }
  // A ring: outside and hole run in opposite directions.
  panel.density = [](double x, double y) {
    const double r = std::hypot(x, y) - 0.5;
    return std::exp(-r * r / 0.005);
  };
  shades = paths(plane_svg({panel}, 1), "fill=\"rgb");
  ASSERT_EQ(shades.size(), 10);
  for (const std::string& shade : shades) {
    const auto parts = polygons(shade);
    ASSERT_EQ(parts.size(), 2);
    EXPECT_LT(area(parts[0]) * area(parts[1]), 0);
  }
}

// Two quarters that touch in the saddle u v at a cell's middle: joined below its height, apart
// above, in both diagonals.
TEST(PlaneSvg, SaddlesAreToldApart) {
  const double half = 1.0 / 180;  // of a cell, which begins at 0
  for (const double side : {1.0, -1.0}) {
    PlanePanel panel = panel_of({});
    panel.density = [&](double x, double y) {
      const double u = std::clamp(x / half - 1, -1.5, 1.5);
      const double v = std::clamp(y / half - 1, -1.5, 1.5);
      return 2.25 + side * u * v;  // up to 4.5
    };
    const auto shades = paths(plane_svg({panel}, 1), "fill=\"rgb");
    ASSERT_EQ(shades.size(), 10);
    EXPECT_EQ(polygons(shades[4]).size(), 1);  // 0.4
    EXPECT_EQ(polygons(shades[6]).size(), 2);  // 0.6
  }
}

TEST(PlaneSvg, DrawsThePointsInTheWindowAndCountsTheOthers) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  PlanePanel panel = panel_of({-1, 3, 0, 2});
  panel.points = {{-1, 0}, {1, 1.5}, {3, 2}, {3.1, 1}, {0, -0.1}, {nan, 1}};
  const std::string svg = plane_svg({panel}, 1);
  const auto texts = texts_of(svg);
  EXPECT_TRUE(has(texts, "3 of 6 outside"));
  EXPECT_EQ(count(svg, "<circle"), 3 + 1);  // and the legend's
  // 460 pixels for 4 units, equal scales.
  EXPECT_NE(svg.find("cx=\"54.0\" cy=\"272.0\""), std::string::npos);
  EXPECT_NE(svg.find("cx=\"284.0\" cy=\"99.5\""), std::string::npos);
  EXPECT_NE(svg.find("cx=\"514.0\" cy=\"42.0\""), std::string::npos);
  panel.points.resize(3);
  EXPECT_EQ(plane_svg({panel}, 1).find("outside"), std::string::npos);
}

struct Shaft {
  PlaneVector tail, tip;
};

/// The arrows of the panel's field, in the picture's coordinates; the legend's, which is last, is
/// left out.
std::vector<Shaft> shafts(const std::string& svg, const std::string& stroke) {
  auto found = paths(svg, "stroke=\"" + stroke + "\"");
  found.pop_back();
  std::vector<Shaft> out;
  for (const std::string& path : found)
    for (size_t i = 0; i < path.size();) {
      std::vector<double> v;  // M tail L tip M tip L barb M tip L barb
      for (int k = 0; k < 12; ++k) v.push_back(number_at(path, ++i));
      out.push_back({{v[0], v[1]}, {v[2], v[3]}});
    }
  return out;
}

constexpr const char* kFieldColor = "#1a1a1a";
constexpr const char* kTruthColor = "#e69f00";

// Lengths go with the square root of the magnitude; a coordinate is rounded by 0.05.
TEST(PlaneSvg, ArrowsPointAlongTheField) {
  PlanePanel panel = panel_of({});
  panel.field = [](double, double) { return PlaneVector{3, 4}; };
  panel.truth = [](double, double) { return PlaneVector{12, 16}; };
  const std::string svg = plane_svg({panel}, 1);
  const auto field = shafts(svg, kFieldColor), truth = shafts(svg, kTruthColor);
  ASSERT_EQ(field.size(), 19 * 19);
  ASSERT_EQ(truth.size(), 19 * 19);
  const double full = 0.92 * kSide / 19;
  for (size_t i = 0; i < field.size(); ++i) {
    EXPECT_NEAR(truth[i].tip.x - truth[i].tail.x, 0.6 * full, 0.1 + 1e-9);
    EXPECT_NEAR(truth[i].tip.y - truth[i].tail.y, -0.8 * full, 0.1 + 1e-9);  // y grows downwards
    EXPECT_NEAR(field[i].tip.x - field[i].tail.x, 0.6 * full / 2, 0.1 + 1e-9);
    EXPECT_NEAR(field[i].tip.y - field[i].tail.y, -0.8 * full / 2, 0.1 + 1e-9);
    for (const PlaneVector& p : {truth[i].tail, truth[i].tip}) {
      EXPECT_TRUE(p.x > kLeft && p.x < kLeft + kSide);
      EXPECT_TRUE(p.y > kTop && p.y < kTop + kSide);
    }
  }
}

TEST(PlaneSvg, LeavesOutWhatHasNoDirection) {
  PlanePanel panel = panel_of({});
  panel.field = [](double x, double) {
    return x > 0.01 ? PlaneVector{1, 0} : x < -0.01 ? PlaneVector{} : PlaneVector{std::nan(""), 1};
  };
  const std::string svg = plane_svg({panel}, 1);
  EXPECT_EQ(shafts(svg, kFieldColor).size(), 9 * 19);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  panel.field = [](double, double) { return PlaneVector{}; };
  EXPECT_TRUE(shafts(plane_svg({panel}, 1), kFieldColor).empty());
  panel.density = [](double, double) { return std::numeric_limits<double>::quiet_NaN(); };
  const std::string empty = plane_svg({panel}, 1);
  EXPECT_TRUE(paths(empty, "fill=\"rgb").empty());
  EXPECT_EQ(empty.find("nan"), std::string::npos);
}

TEST(PlaneSvg, LegendNamesWhatIsShown) {
  PlanePanel panel = panel_of({});
  EXPECT_FALSE(has(texts_of(plane_svg({panel}, 1)), "samples"));
  panel.points = {{0, 0}};
  panel.density = [](double, double) { return 1.0; };
  auto texts = texts_of(plane_svg({panel_of({}), panel}, 2));
  EXPECT_TRUE(has(texts, "samples"));
  EXPECT_TRUE(has(texts, "true density"));
  EXPECT_FALSE(has(texts, "model's score"));
  panel.field = [](double, double) { return PlaneVector{1, 0}; };
  texts = texts_of(
      plane_svg({panel}, 1, {.density = "p", .truth = "t", .field = "f", .points = "<q>"}));
  EXPECT_TRUE(has(texts, "p"));
  EXPECT_TRUE(has(texts, "f"));
  EXPECT_TRUE(has(texts, "&lt;q&gt;"));
  EXPECT_FALSE(has(texts, "t"));
}

TEST(PlaneSvg, RowsAndSizes) {
  const PlanePanel square = panel_of({}), flat = panel_of({-2, 2, -1, 1});
  const std::string svg = plane_svg({square, flat, flat}, 2);
  texts_of(svg);  // well-formed
  // Columns of 46 + 260 + 14, rows of 34 + height + 30, with 8 around and between.
  EXPECT_NE(svg.find("width=\"656\" height=\"568\""), std::string::npos) << svg.substr(0, 200);
  EXPECT_NE(svg.find("<rect x=\"54.0\" y=\"42.0\" width=\"260.0\" height=\"260.0\" stroke"),
            std::string::npos);
  EXPECT_NE(svg.find("<rect x=\"374.0\" y=\"42.0\" width=\"260.0\" height=\"130.0\" stroke"),
            std::string::npos);
  EXPECT_NE(svg.find("<rect x=\"54.0\" y=\"374.0\" width=\"260.0\" height=\"130.0\" stroke"),
            std::string::npos);
  EXPECT_EQ(svg, plane_svg({square, flat, flat}, 2));
  EXPECT_THROW(plane_svg({}, 2), std::logic_error);
  EXPECT_THROW(plane_svg({panel_of({0, 0, 0, 1})}, 2), std::logic_error);
  EXPECT_THROW(plane_svg({panel_of({0, 5, 0, 1})}, 2), std::logic_error);
}

TEST(PlaneSvg, CarriesItsMetadataEscaped) {
  PlanePanel panel;
  panel.points = {{0, 0}};
  EXPECT_NE(plane_svg({panel}, 1, {}, "{\"a\": \"<&\"}")
                .find("<metadata>{&quot;a&quot;: &quot;&lt;&amp;&quot;}</metadata>"),
            std::string::npos);
  EXPECT_EQ(plane_svg({panel}, 1).find("<metadata>"), std::string::npos);
}

}  // namespace
}  // namespace diffuse
