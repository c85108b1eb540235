// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace diffuse {

/// A place in the plane, or an arrow.
struct PlaneVector {
  double x = 0;
  double y = 0;
};

struct PlaneWindow {
  double low_x = -1;
  double high_x = 1;
  double low_y = -1;
  double high_y = 1;
};

/// What one panel shows, from the ground up; what is empty is left out.
struct PlanePanel {
  std::string title;
  PlaneWindow window;  // finite, low < high; the sides at most 4 to 1
  std::function<double(double x, double y)> density{};     // >= 0: shades between its contours
  std::function<PlaneVector(double x, double y)> truth{};  // pale arrows
  std::function<PlaneVector(double x, double y)> field{};  // dark arrows over them
  std::vector<PlaneVector> points{};
};

/// The names of the legend.
struct PlaneLegend {
  std::string density = "true density";
  std::string truth = "true score";
  std::string field = "model's score";
  std::string points = "samples";
};

/// Panels in rows of `columns` as one SVG document, with axes of equal scale and a legend: samples
/// over the density they should have, or a vector field over the density it belongs to. The shades
/// are tenths of the panel's greatest density, the lowest above a fiftieth; the arrows' lengths go
/// with the square root of the magnitude, in both fields of a panel alike, up to where three in
/// four magnitudes of the truth (else of the field) lie. Non-finite values are left out; points
/// outside the window are counted beside the title. `metadata`: text that the document carries
/// unseen. Equal input, equal text.
std::string plane_svg(const std::vector<PlanePanel>& panels,
                      int64_t columns,
                      const PlaneLegend& legend = {},
                      const std::string& metadata = "");

}  // namespace diffuse
