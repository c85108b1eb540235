// SPDX-License-Identifier: MIT
#include "report/metrics.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"

namespace diffuse {
namespace {

using nlohmann::ordered_json;

std::optional<MetricRow> parse_row(std::string_view line) {
  const auto in = ordered_json::parse(line, nullptr, false);
  if (!in.is_object()) return std::nullopt;
  const auto step = in.find("step");
  if (step == in.end() || !step->is_number_integer()) return std::nullopt;
  MetricRow row;
  row.step = step->get<int64_t>();
  for (const auto& [name, value] : in.items()) {
    if (name == "step") continue;
    if (value.is_number()) row.values.emplace_back(name, value.get<double>());
    if (value.is_null()) row.values.emplace_back(name, std::numeric_limits<double>::quiet_NaN());
  }
  return row;
}

/// Calls f(line without its end, line number) for each line that has one.
template <class F>
void for_each_line(std::string_view text, F f) {
  size_t number = 0;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    f(text.substr(0, end), ++number);
    text.remove_prefix(end + 1);
  }
}

/// `path` with the rows after `last_step` cut.
const std::filesystem::path& cut(const std::filesystem::path& path, int64_t last_step) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return path;
  const std::string text = read_file(path, Exit::run_folder);
  std::string kept;
  for_each_line(text, [&](std::string_view line, size_t) {
    const auto row = parse_row(line);
    if (row && row->step <= last_step) kept.append(line) += '\n';
  });
  if (kept != text) write_file_atomic(path, kept, Exit::run_folder);
  return path;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, int64_t last_step)
    : file_(cut(path, last_step)) {}

void MetricsWriter::write(const MetricRow& row) {
  std::string line = "{\"step\":" + std::to_string(row.step);
  for (const auto& [name, value] : row.values) {
    line += "," + ordered_json(name).dump() + ":";
    line += std::isfinite(value) ? shortest(value) : "null";
  }
  file_.append(line + "}\n");
}

std::vector<MetricRow> read_metrics(const std::filesystem::path& path) {
  const std::string text = read_file(path, Exit::run_folder);
  std::vector<MetricRow> rows;
  for_each_line(text, [&](std::string_view line, size_t number) {
    if (auto row = parse_row(line))
      rows.push_back(std::move(*row));
    else
      log::warn(path.string() + ":" + std::to_string(number) +
                ": not a row of metrics; passed over");
  });
  return rows;
}

}  // namespace diffuse
