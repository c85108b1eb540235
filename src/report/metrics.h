// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace diffuse {

/// One line of metrics.jsonl: {"step": N, name: value, ...} in the given order. Non-finite values are
/// written as null.
struct MetricRow {
  int64_t step = 0;
  std::vector<std::pair<std::string, double>> values;
};

/// Appends whole lines, one write each. A failing write (disk full) warns once and never throws: metrics
/// must not stop training.
class MetricsWriter {
 public:
  /// Rows after `last_step` in an existing file are cut (atomically), so that a resume leaves no
  /// duplicates; a torn last line is dropped.
  MetricsWriter(const std::filesystem::path& path, int64_t last_step);
  ~MetricsWriter();
  void write(const MetricRow& row);

 private:
  int fd_ = -1;
  bool warned_ = false;
};

/// All complete rows of a metrics.jsonl; a torn last line is ignored.
std::vector<MetricRow> read_metrics(const std::filesystem::path& path);

}  // namespace diffuse
