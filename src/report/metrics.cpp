// SPDX-License-Identifier: MIT
#include "report/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

namespace diffuse {
namespace {

using nlohmann::ordered_json;

std::optional<MetricRow> parse_row(std::string_view line) {
  const auto in = parse_json<ordered_json>(line);
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

/// Some ten million rows.
constexpr uint64_t kMaxMetrics = uint64_t{4} << 30;

/// Calls f(line without its end, line number) for each line that has one.
template <class F>
void for_each_line(std::string_view text, F f) {
  size_t number = 0;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    f(text.substr(0, end), ++number);
    text.remove_prefix(end + 1);
  }
}

/// Shortens the file, which takes no room on a full disk, and lasts once this returns.
void shorten(const std::filesystem::path& path, size_t size) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0 || ::ftruncate(file.fd, static_cast<off_t>(size)) != 0 || ::fsync(file.fd) != 0)
    throw Error(Exit::run_folder, "cannot cut " + path.string() + ": " + std::strerror(errno));
}

/// Leaves out rows whose step is not below that of a later one.
template <class Row>
void drop_repeated(std::vector<Row>& rows) {
  auto kept = rows.end();
  for (auto row = rows.end(); row != rows.begin();) {
    --row;
    if (kept != rows.end() && row->step >= kept->step) continue;
    if (--kept != row) *kept = std::move(*row);
  }
  rows.erase(rows.begin(), kept);
}

struct Line {
  std::string_view text;  // without its end
  int64_t step = 0;
};

/// The rows to keep of `text`.
std::vector<Line> rows_until(std::string_view text, int64_t last_step) {
  std::vector<Line> rows;
  for_each_line(text, [&](std::string_view line, size_t) {
    const auto row = parse_row(line);
    if (row && row->step <= last_step) rows.push_back({.text = line, .step = row->step});
  });
  drop_repeated(rows);
  return rows;
}

std::string joined(const std::vector<Line>& rows) {
  std::string out;
  for (const Line& row : rows) out.append(row.text) += '\n';
  return out;
}

/// The bytes of the file.
std::string read_rows(const std::filesystem::path& path) {
  try {
    return read_file(path, Exit::run_folder, kMaxMetrics);
  } catch (const Error& e) {
    throw Error(e.code, std::string(e.what()) + "; a run goes on without it when it is moved away");
  }
}

/// `path` with the rows after `last_step` cut.
const std::filesystem::path& cut(const std::filesystem::path& path, int64_t last_step) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return path;
  if (const std::string why = part_from_links(path); !why.empty()) log::warn(why);
  const std::string text = read_rows(path);
  const std::vector<Line> rows = rows_until(text, last_step);
  const std::string kept = joined(rows);
  size_t end = 0;  // of the last line to keep
  if (!rows.empty()) {
    const std::string_view last = rows.back().text;
    end = static_cast<size_t>(last.data() - text.data()) + last.size() + 1;
  }
  try {
    // Only what is between lines to keep needs another file: rows that could not be cut before, and
    // what no run writes.
    if (kept.size() < end) {
      write_file_atomic(path, kept, Exit::run_folder);
      return path;
    }
  } catch (const Error& e) {
    log::warn(std::string(e.what()) +
              "; lines there that are no rows of this run, or of before, stay");
  }
  try {
    if (end < text.size()) shorten(path, end);
  } catch (const Error& e) {
    log::warn(std::string(e.what()) + "; its rows after step " + std::to_string(last_step) +
              " are of before and stay");
  }
  return path;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& path, int64_t last_step)
    : path_(path), file_(cut(path, last_step)) {}

void MetricsWriter::go_back(int64_t last_step) {
  const std::string waiting = file_->take_kept();
  file_.emplace(cut(path_, last_step));  // which may be another file now
  const std::vector<Line> rows = rows_until(waiting, last_step);
  if (!rows.empty()) file_->append(joined(rows));
}

void MetricsWriter::write(const MetricRow& row) {
  std::string line = "{\"step\":" + std::to_string(row.step);
  for (const auto& [name, value] : row.values) {
    line += "," + ordered_json(name).dump() + ":";
    line += std::isfinite(value) ? shortest(value) : "null";
  }
  file_->append(line + "}\n");
}

void MetricsWriter::sync() { file_->sync(); }

std::vector<MetricRow> read_metrics(const std::filesystem::path& path) {
  const std::string text = read_rows(path);
  std::vector<MetricRow> rows;
  for_each_line(text, [&](std::string_view line, size_t number) {
    if (auto row = parse_row(line))
      rows.push_back(std::move(*row));
    else
      log::warn(path.string() + ":" + std::to_string(number) +
                ": not a row of metrics; passed over");
  });
  drop_repeated(rows);
  return rows;
}

}  // namespace diffuse
