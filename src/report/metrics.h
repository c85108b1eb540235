// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
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

/// Names of what depends on the machine and the moment; all other values of two runs of the same
/// config are equal.
inline constexpr const char* kMeasuredMetrics[] = {"time", "img_s", "data_wait", "vram_gb"};

/// Appends whole lines, one write each. A failing write (disk full) warns once and never throws:
/// metrics must not stop training.
class MetricsWriter {
 public:
  /// Rows after `last_step` in an existing file are cut in place, also on a full disk, so that a
  /// resume leaves no duplicates; a torn last line, what is no row and rows that later ones repeat
  /// (see read_metrics()) are dropped, too. What cannot be cut stays, with a warning. Throws
  /// Error{run_folder} when the file cannot be opened.
  MetricsWriter(const std::filesystem::path& path, int64_t last_step);
  /// The same again. Rows up to `last_step` that a full disk has not taken yet are still written
  /// when it does.
  void go_back(int64_t last_step);
  void write(const MetricRow& row);
  /// Waits until the rows so far are on the disk.
  void sync();

 private:
  std::filesystem::path path_;
  std::optional<AppendFile> file_;
};

/// All complete rows of a metrics.jsonl, null as NaN, steps ascending: rows of an abandoned branch,
/// which stay where a cut failed, are left out, that is those with a step not below a later row's.
/// A torn last line is ignored, any other line that is no row is passed over with a warning. Throws
/// Error{run_folder} when there is no such file.
std::vector<MetricRow> read_metrics(const std::filesystem::path& path);

}  // namespace diffuse
