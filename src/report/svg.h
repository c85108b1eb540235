// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

// What the drawings share: SVG as text. Equal input, equal text.

namespace diffuse::svg {

// Okabe and Ito's colours, which stay apart for colour-blind readers.
inline constexpr std::array<std::string_view, 8> kPalette{
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"};

/// Values nearer to zero count as zero: no ratio of two others overflows.
inline constexpr double kSmallest = 1e-100;

/// A coordinate of the picture: a tenth of a pixel is fine enough.
std::string at(double value);

/// The document's beginning, with a white ground; "</svg>" ends it.
std::string head(double width, double height);

/// `anchor`: start, middle or end; `more`: further attributes, with a space before each.
std::string text(
    double x, double y, std::string_view anchor, std::string_view more, std::string_view content);

std::string line(double x1, double y1, double x2, double y2, std::string_view stroke);

/// One axis: values -> [0, 1], and its ticks.
struct Axis {
  double low, high;
  bool log = false;
  std::vector<double> ticks;
  std::vector<std::string> labels;

  double operator()(double v) const {
    return log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
  }
};

/// 12000 -> 12k, 0.00025 -> 2.5e-4, with the decimals that ticks `step` apart need.
std::string tick_label(double value, double step);

/// About `ticks_wanted` round ticks. The axis reaches `margin` (a part of the range) beyond both
/// ends, or to zero where that is near; an empty range is widened.
Axis linear_axis(double low, double high, int ticks_wanted, double margin);

}  // namespace diffuse::svg
