// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/yaml.h"
#include "io/run_folder.h"
#include "report/bootstrap.h"
#include "report/metrics.h"
#include "report/validation_record.h"

// What two or more run folders say when they are read side by side: `diffuse compare`.

namespace diffuse {

struct ComparedRun {
  std::filesystem::path path;
  std::string name;  // the folder's, or the path where two folders have one name
  std::vector<ConfigValue> config;
  std::optional<RunStatus> status;
  std::vector<MetricRow> metrics;  // empty: none yet
  std::map<int64_t, std::filesystem::path> validations;
  std::optional<ValidationRecord> validation;  // the one that is compared
  std::optional<int64_t> parameters;
  std::filesystem::path samples;  // the newest grid; empty: none
};

/// A metric over a run: its last value and its lowest, none where it was never finite.
struct MetricFigures {
  std::optional<double> last, best;
  int64_t best_step = 0;
};
MetricFigures figures_of(const ComparedRun& run, const std::string& metric);
std::optional<double> median_of(const ComparedRun& run, const std::string& metric);

/// A config key that has not the same value in all runs.
struct DifferingKey {
  std::string key;
  std::vector<std::optional<std::string>>
      values;           // of each run; none where its axis has no such key
  bool matters = true;  // false: names, notes, logging
};

/// A figure of one run minus that of another; lower is better.
struct Difference {
  size_t run = 0;
  std::optional<double> logsnr;  // of mse_eps at this nominal level; none: bits/dim
  Interval interval;
  bool paired = true;
};
/// "better", "worse", or "not distinguishable" when the interval has 0 in it.
std::string verdict(const Interval& interval);

/// The runs from the best to the worst, by the mean of one figure of the held-out images.
struct Ranking {
  struct Place {
    size_t run = 0;
    double value = 0;
    Interval to_best;  // this run minus the best
  };
  std::string by;             // "bits/dim", ...; empty: there is no ranking
  std::string reason;         // why there is none
  std::vector<Place> places;  // best first
};

struct Comparison {
  std::vector<ComparedRun> runs;
  size_t baseline = 0;
  std::optional<int64_t> step;  // of the validations that are compared; none: not of one step
  std::vector<DifferingKey> keys;
  /// Keys of the objective or the data that differ: with any, the training losses are of different
  /// scales.
  std::vector<std::string> loss_keys;
  std::vector<Difference> differences;  // to the baseline
  Ranking ranking;
  std::vector<std::string> notes, warnings;
};

/// `baseline` is one of the paths or names; empty: the first. Throws Error{usage} when it is none,
/// or when two paths are one folder; Error{run_folder} when a path is no run folder; ConfigError.
Comparison compare_runs(const std::vector<std::string>& paths, const std::string& baseline);

/// "bits/dim" or "nats/dim", as the first record of the comparison calls it.
std::string bits_unit(const Comparison& comparison);

}  // namespace diffuse
