// SPDX-License-Identifier: MIT
#include "report/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace diffuse {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// For each column the means of its resamples. `set` names the items: other sets, other draws.
Columns resampled_means(const Columns& columns, int64_t resamples, uint64_t set) {
  if (columns.empty()) return {};
  const size_t n = columns.front().size();
  for (const auto& column : columns) DIFFUSE_CHECK(column.size() == n);
  Columns out(columns.size(), std::vector<double>(static_cast<size_t>(resamples), kNan));
  if (n == 0) return out;
  std::vector<size_t> items(n);
  for (size_t b = 0; b < static_cast<size_t>(resamples); ++b) {
    const Stream stream{0, Purpose::bootstrap, b, set};
    for (size_t i = 0; i < n; ++i)
      items[i] = static_cast<size_t>(random_below(stream, n, static_cast<uint32_t>(i)));
    for (size_t c = 0; c < columns.size(); ++c) {
      double sum = 0;
      for (const size_t item : items) sum += columns[c][item];
      out[c][b] = sum / static_cast<double>(n);
    }
  }
  return out;
}

/// Between the two nearest order statistics (Hyndman & Fan 1996, definition 7).
double quantile(std::vector<double>& values, double p) {
  const double place = p * static_cast<double>(values.size() - 1);
  const auto k = static_cast<std::ptrdiff_t>(std::floor(place));
  std::nth_element(values.begin(), values.begin() + k, values.end());
  const double at = values[static_cast<size_t>(k)];
  if (static_cast<size_t>(k) + 1 == values.size()) return at;
  const double next = *std::min_element(values.begin() + k + 1, values.end());
  return at + (place - static_cast<double>(k)) * (next - at);
}

Interval interval_of(double mean, bool enough, std::vector<double>& means) {
  if (!std::isfinite(mean)) return {kNan, kNan, kNan};
  if (!enough || means.empty()) return {mean, kNan, kNan};
  return {mean, quantile(means, 0.025), quantile(means, 0.975)};
}

}  // namespace

double mean_of(const std::vector<double>& values) {
  if (values.empty()) return kNan;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return kNan;
  const double mean = mean_of(values);
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

std::vector<Interval> bootstrap_means(const Columns& columns, int64_t resamples) {
  Columns means = resampled_means(columns, resamples, 0);
  std::vector<Interval> out;
  for (size_t c = 0; c < columns.size(); ++c)
    out.push_back(interval_of(mean_of(columns[c]), columns[c].size() >= 2, means[c]));
  return out;
}

std::vector<Interval> bootstrap_differences(const Columns& a, const Columns& b, int64_t resamples) {
  DIFFUSE_CHECK(a.size() == b.size());
  Columns means = resampled_means(a, resamples, 0);
  const Columns other = resampled_means(b, resamples, 1);
  std::vector<Interval> out;
  for (size_t c = 0; c < a.size(); ++c) {
    for (size_t i = 0; i < means[c].size(); ++i) means[c][i] -= other[c][i];
    const bool enough = a[c].size() >= 2 && b[c].size() >= 2;
    out.push_back(interval_of(mean_of(a[c]) - mean_of(b[c]), enough, means[c]));
  }
  return out;
}

}  // namespace diffuse
