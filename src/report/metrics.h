// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "report/append_file.h"

namespace diffuse {

/// One line of metrics.jsonl: {"step": N, name: value, ...} in the given order. Non-finite values
/// are written as null; the numbers are the shortest that read back as the same double.
struct MetricRow {
  int64_t step = 0;
  std::vector<std::pair<std::string, double>> values;
};

/// Appends whole lines, one write each. A failing write (disk full) warns once and never throws:
/// metrics must not stop training.
class MetricsWriter {
 public:
  /// Rows after `last_step` in an existing file are cut (atomically), so that a resume leaves no
  /// duplicates; a torn last line is dropped. Throws Error{run_folder}.
  MetricsWriter(const std::filesystem::path& path, int64_t last_step);
  void write(const MetricRow& row);

 private:
  AppendFile file_;
};

/// All complete rows of a metrics.jsonl, null as NaN; a torn last line is ignored, any other line
/// that is no row is passed over with a warning. Throws Error{run_folder} when there is no such
/// file.
std::vector<MetricRow> read_metrics(const std::filesystem::path& path);

}  // namespace diffuse
