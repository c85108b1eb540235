// SPDX-License-Identifier: MIT
#include "report/svg.h"

#include <algorithm>

#include "base/text.h"
#include "report/markup.h"

namespace diffuse::svg {
namespace {

/// The round number (1, 2 or 5 times a power of ten) not below `wanted`.
double round_step(double wanted) {
  const double power = std::pow(10.0, std::floor(std::log10(wanted)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= wanted * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

}  // namespace

std::string at(double value) { return fixed(value, 1); }

std::string head(double width, double height) {
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + shortest(width) + "\" height=\"" +
         shortest(height) + "\" viewBox=\"0 0 " + shortest(width) + " " + shortest(height) +
         "\" fill=\"none\" stroke-linecap=\"round\" stroke-linejoin=\"round\">\n"
         "<style>text{font:12px \"Helvetica Neue\",Arial,\"DejaVu Sans\",sans-serif;fill:#444}"
         ".title{font-size:15px;font-weight:600;fill:#111}</style>\n"
         "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
}

std::string text(
    double x, double y, std::string_view anchor, std::string_view more, std::string_view content) {
  std::string out = "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" text-anchor=\"";
  out.append(anchor).append("\"").append(more).append(">");
  return out + escape_markup(content) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, std::string_view stroke) {
  std::string out =
      "<path d=\"M" + at(x1) + " " + at(y1) + "L" + at(x2) + " " + at(y2) + "\" stroke=\"";
  return out.append(stroke).append("\"/>\n");
}

std::string tick_label(double value, double step) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size < 1e-3 || size >= 1e9) {
    const int exponent = static_cast<int>(std::floor(std::log10(size) + 1e-9));
    // The mantissa has the decimals that tell it from its neighbours.
    const int decimals =
        std::clamp(exponent - static_cast<int>(std::floor(std::log10(step) + 1e-9)), 0, 6);
    const std::string mantissa = fixed(value / std::pow(10.0, exponent), decimals);
    return mantissa + "e" + std::to_string(exponent);
  }
  double unit = 1;
  const char* suffix = "";
  if (size >= 1e6 && step >= 1e3) {
    unit = 1e6;
    suffix = "M";
  } else if (size >= 1e3 && step >= 10) {
    unit = 1e3;
    suffix = "k";
  }
  std::string text =
      fixed(value / unit,
            std::clamp(static_cast<int>(std::ceil(-std::log10(step / unit) - 1e-9)), 0, 12));
  return text + suffix;
}

Axis linear_axis(double low, double high, int ticks_wanted, double margin) {
  const double size = std::max(std::abs(low), std::abs(high));
  if (high - low <= std::max(1e-12 * size, kSmallest)) {
    const double spread = size <= kSmallest ? 1 : 0.1 * size;
    low -= spread;
    high += spread;
  } else if (margin > 0) {
    const bool from_zero = low >= 0 && low < 0.5 * high;
    const double spread = margin * (high - low);
    low = from_zero ? 0 : low - spread;
    high += spread;
  }
  Axis axis{low, high, false, {}, {}};
  const double step = round_step((high - low) / ticks_wanted);
  const auto first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  for (double k = first; k <= last; ++k) {
    axis.ticks.push_back(k * step);
    axis.labels.push_back(tick_label(k * step, step));
  }
  return axis;
}

}  // namespace diffuse::svg
