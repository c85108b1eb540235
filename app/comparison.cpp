// SPDX-License-Identifier: MIT
#include "comparison.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResolved = "config.resolved.yaml";
constexpr int64_t kFewImages = 20;

std::string joined_list(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

/// The folder behind a path that a shell may have completed with a slash.
fs::path folder_of(const std::string& path) {
  fs::path out = fs::path(path).lexically_normal();
  return out.has_filename() ? out : out.parent_path();
}

fs::path newest_samples(const fs::path& run) {
  fs::path out;
  std::error_code error;
  for (fs::directory_iterator it(run / "samples", error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    // The steps have leading zeros: the newest name is the greatest.
    if (name.starts_with("step-") && (name.ends_with(".png") || name.ends_with(".svg")) &&
        name > out.filename().string())
      out = it->path();
  }
  return out;
}

/// None where there is no whole checkpoint.
std::optional<int64_t> parameters_of(const fs::path& run, std::vector<std::string>& warnings) {
  const std::vector<fs::path> checkpoints = list_checkpoints(run / "checkpoints");
  if (checkpoints.empty()) return std::nullopt;
  try {
    const SafetensorsFile model(checkpoints.back() / "model.safetensors");
    int64_t out = 0;
    for (const TensorView& tensor : model.tensors()) out += tensor.values();
    return out;
  } catch (const Error& e) {
    warnings.push_back(std::string(e.what()) + "; its parameters are not counted");
    return std::nullopt;
  }
}

ComparedRun read_run(const std::string& typed, std::vector<std::string>& warnings) {
  ComparedRun run;
  run.path = folder_of(typed);
  std::error_code ignored;
  if (std::error_code error; !fs::exists(run.path, error))
    throw Error(Exit::run_folder,
                (error ? "cannot read " + run.path.string() + ": " + error.message()
                       : run.path.string() + " does not exist") +
                    "; name a run folder");
  if (!fs::is_regular_file(run.path / kResolved, ignored))
    throw Error(Exit::run_folder,
                run.path.string() + " is no run folder: it has no " + kResolved +
                    "; name a folder that `diffuse train` wrote, like runs/my-run-001");
  run.config = config_values(load_config(run.path / kResolved, {}).config);
  run.status = read_status(run.path);
  if (fs::is_regular_file(run.path / "metrics.jsonl", ignored))
    run.metrics = read_metrics(run.path / "metrics.jsonl");
  run.validations = list_validations(run.path);
  run.parameters = parameters_of(run.path, warnings);
  run.samples = newest_samples(run.path);
  return run;
}

/// The folders' names, or the paths as they were typed where two have one name.
void name_runs(std::vector<ComparedRun>& runs) {
  for (ComparedRun& run : runs) {
    const std::string name = fs::canonical(run.path).filename().string();
    run.name = name.empty() ? run.path.string() : name;
  }
  std::map<std::string, size_t> count;
  for (const ComparedRun& run : runs) ++count[run.name];
  for (ComparedRun& run : runs)
    if (count[run.name] > 1) run.name = run.path.string();
}

void refuse_one_folder_twice(const std::vector<ComparedRun>& runs) {
  for (size_t i = 0; i < runs.size(); ++i)
    for (size_t k = 0; k < i; ++k)
      if (std::error_code ignored; fs::equivalent(runs[i].path, runs[k].path, ignored))
        throw Error(Exit::usage,
                    runs[k].path.string() + " and " + runs[i].path.string() +
                        " are one folder; name different runs");
}

size_t find_baseline(const std::vector<ComparedRun>& runs, const std::string& wanted) {
  if (wanted.empty()) return 0;
  std::vector<std::string> names;
  for (size_t i = 0; i < runs.size(); ++i) {
    std::error_code ignored;
    if (runs[i].name == wanted || fs::equivalent(runs[i].path, wanted, ignored)) return i;
    names.push_back(runs[i].name);
  }
  throw Error(
      Exit::usage,
      "--baseline " + wanted + " is none of the runs that are compared: " + joined_list(names));
}

void warn_of_unfinished(const ComparedRun& run, std::vector<std::string>& warnings) {
  if (run.metrics.empty()) warnings.push_back(run.name + " has no metrics yet");
  if (!run.status)
    warnings.push_back(run.name + " has no status.json: whether it has finished is not known");
  else if (run.status->state != "finished")
    warnings.push_back(run.name + " is not finished (" + run.status->state + " at step " +
                       std::to_string(run.status->step) + " of " + std::to_string(run.status->of) +
                       "): its figures are of the steps so far");
}

/// The greatest step at which every run that has validations has one.
std::optional<int64_t> common_step(const std::vector<ComparedRun>& runs) {
  std::optional<std::set<int64_t>> common;
  for (const ComparedRun& run : runs) {
    if (run.validations.empty()) continue;
    std::set<int64_t> steps;
    for (const auto& [step, path] : run.validations)
      if (!common || common->contains(step)) steps.insert(step);
    common = steps;
  }
  if (!common || common->empty()) return std::nullopt;
  return *common->rbegin();
}

/// Reads one record a run: of the latest step that all have, or else each its last. A damaged one
/// is passed over.
void read_validations(Comparison& c) {
  for (bool again = true; again;) {
    again = false;
    c.step = common_step(c.runs);
    for (ComparedRun& run : c.runs) {
      if (run.validations.empty()) continue;
      const auto at = c.step ? run.validations.find(*c.step) : std::prev(run.validations.end());
      try {
        run.validation = read_validation(at->second);
      } catch (const Error& e) {
        c.warnings.push_back(std::string(e.what()) + "; it is passed over");
        run.validations.erase(at);
        run.validation.reset();
        again = true;
      }
    }
  }
  std::vector<std::string> without, at_steps;
  for (const ComparedRun& run : c.runs) {
    if (!run.validation)
      without.push_back(run.name);
    else
      at_steps.push_back(run.name + " at " + std::to_string(run.validation->step));
  }
  if (!at_steps.empty() && !c.step)
    c.warnings.push_back(
        "the runs were validated at no common step; each is compared at its last one: " +
        joined_list(at_steps));
  if (!at_steps.empty() && !without.empty())
    c.warnings.push_back("without validation on held-out images: " + joined_list(without));
  const ValidationRecord* first = nullptr;
  for (const ComparedRun& run : c.runs) {
    if (!run.validation) continue;
    if (run.validation->images < kFewImages)
      c.warnings.push_back(run.name + " was validated on " +
                           std::to_string(run.validation->images) +
                           " images: intervals of so few are too narrow");
    if (first == nullptr) first = &*run.validation;
    if (first->weights != run.validation->weights)
      c.warnings.push_back("the runs were validated with different weights (" + first->weights +
                           " and " + run.validation->weights + ", " + run.name + ")");
  }
}

bool key_matters(const std::string& key) {
  for (const char* prefix : {"checkpoint.", "log."})
    if (key.starts_with(prefix)) return false;
  for (const char* name : {"version", "run.name", "run.root", "run.notes", "sample.every_steps"})
    if (key == name) return false;
  return true;
}

std::vector<DifferingKey> differing_keys(const std::vector<ComparedRun>& runs) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::optional<std::string>>> values;
  for (size_t i = 0; i < runs.size(); ++i)
    for (const ConfigValue& value : runs[i].config) {
      auto& of_key = values[value.key];
      if (of_key.empty()) {
        order.push_back(value.key);
        of_key.resize(runs.size());
      }
      of_key[i] = value.value;
    }
  std::vector<DifferingKey> out;
  for (const std::string& key : order) {
    // Where a run has no such key, the row of its axis differs, and that says so.
    std::set<std::string> found;
    for (const auto& value : values[key])
      if (value) found.insert(*value);
    if (found.size() > 1) out.push_back({key, values[key], key_matters(key)});
  }
  return out;
}

/// Keys that the training loss means another thing with.
std::vector<std::string> differing_loss_keys(const Comparison& c) {
  std::set<std::string> free;
  for (const ConfigValue& value : c.runs.front().config)
    if (!value.affects_result && value.key != "data.path") free.insert(value.key);
  std::vector<std::string> out;
  for (const DifferingKey& key : c.keys)
    if ((key.key.starts_with("diffusion.") || key.key.starts_with("data.")) &&
        !free.contains(key.key))
      out.push_back(key.key);
  return out;
}

bool same_images(const ValidationRecord& a, const ValidationRecord& b) {
  return a.fingerprint == b.fingerprint && a.images == b.images;
}

/// Intervals of mean(a) - mean(b), column by column.
std::vector<Interval> intervals(const Columns& a, const Columns& b, bool paired) {
  if (!paired) return bootstrap_differences(a, b);
  Columns differences = a;
  for (size_t c = 0; c < a.size(); ++c)
    for (size_t i = 0; i < a[c].size(); ++i) differences[c][i] -= b[c][i];
  return bootstrap_means(differences);
}

void add_differences(Comparison& c, size_t run) {
  const ValidationRecord& a = *c.runs[run].validation;
  const ValidationRecord& b = *c.runs[c.baseline].validation;
  const std::string names = c.runs[run].name + " and " + c.runs[c.baseline].name;
  const bool paired = same_images(a, b);
  if (!paired)
    c.warnings.push_back(names +
                         " were validated on different images: their differences are not paired, "
                         "and the intervals are wider");
  else if (a.seed != b.seed)
    c.warnings.push_back(names + " were validated with different noise (seeds " +
                         std::to_string(a.seed) + " and " + std::to_string(b.seed) +
                         "): the intervals of their differences are wider");
  Columns left, right;
  std::vector<std::optional<double>> levels;
  if (a.bits && b.bits && a.unit == b.unit) {
    left.push_back(a.bits->total);
    right.push_back(b.bits->total);
    levels.emplace_back();
  }
  const auto of_baseline = nominal_levels(b);
  for (const auto& [logsnr, level] : nominal_levels(a)) {
    const auto other = of_baseline.find(logsnr);
    if (other == of_baseline.end()) continue;
    left.push_back(level->mse_eps);
    right.push_back(other->second->mse_eps);
    levels.emplace_back(logsnr);
  }
  const std::vector<Interval> found = intervals(left, right, paired);
  for (size_t i = 0; i < found.size(); ++i)
    c.differences.push_back({run, levels[i], found[i], paired});
}

/// Per image: the mean over the levels that all runs have.
std::vector<double> mean_error(const ValidationRecord& record, const std::set<double>& levels) {
  std::vector<double> out(static_cast<size_t>(record.images), 0.0);
  for (const auto& [logsnr, level] : nominal_levels(record))
    if (levels.contains(logsnr))
      for (size_t i = 0; i < out.size(); ++i)
        out[i] += level->mse_eps[i] / static_cast<double>(levels.size());
  return out;
}

bool all_finite(const Columns& of_runs) {
  return std::all_of(of_runs.begin(), of_runs.end(), [](const std::vector<double>& values) {
    return std::isfinite(mean_of(values));
  });
}

/// `figure` holds each run's values of the held-out images.
void rank_by(Comparison& c, const std::string& by, const Columns& figure) {
  Ranking& out = c.ranking;
  out.by = by;
  for (size_t i = 0; i < figure.size(); ++i)
    out.places.push_back({.run = i, .value = mean_of(figure[i]), .to_best = {}});
  std::stable_sort(out.places.begin(), out.places.end(), [](const auto& a, const auto& b) {
    return a.value < b.value;
  });
  const size_t best = out.places.front().run;
  for (Ranking::Place& place : out.places) {
    const bool paired = same_images(*c.runs[place.run].validation, *c.runs[best].validation);
    place.to_best = intervals({figure[place.run]}, {figure[best]}, paired).front();
  }
}

void rank(Comparison& c) {
  std::vector<std::string> without;
  for (const ComparedRun& run : c.runs)
    if (!run.validation) without.push_back(run.name);
  if (!without.empty()) {
    c.ranking.reason = "no validation on held-out images (data.holdout) in " + joined_list(without);
    return;
  }
  const bool bits = std::all_of(c.runs.begin(), c.runs.end(), [&](const ComparedRun& run) {
    return run.validation->bits && run.validation->unit == c.runs.front().validation->unit;
  });
  if (bits) {
    Columns totals;
    for (const ComparedRun& run : c.runs) totals.push_back(run.validation->bits->total);
    if (all_finite(totals)) return rank_by(c, bits_unit(c), totals);
  }
  std::set<double> levels;
  for (const auto& [logsnr, level] : nominal_levels(*c.runs.front().validation))
    levels.insert(logsnr);
  for (const ComparedRun& run : c.runs) {
    const auto of_run = nominal_levels(*run.validation);
    std::erase_if(levels, [&](double logsnr) { return !of_run.contains(logsnr); });
  }
  if (levels.empty()) {
    c.ranking.reason = "the runs share neither bits/dim nor a noise level";
    return;
  }
  Columns errors;
  for (const ComparedRun& run : c.runs) errors.push_back(mean_error(*run.validation, levels));
  if (!all_finite(errors)) {
    c.ranking.reason = "a run's figures on the held-out images are not finite";
    return;
  }
  rank_by(c,
          "mean mse_eps over log SNR " + significant(*levels.begin(), 4) + " to " +
              significant(*levels.rbegin(), 4) + " (" +
              counted(static_cast<int64_t>(levels.size()), "level") + ")",
          errors);
}

std::string loss_note(const Comparison& c) {
  if (c.loss_keys.empty())
    return "training losses can be compared: the runs share the objective (diffusion.*) and the "
           "data";
  return "training losses are not ranked against each other: " + joined_list(c.loss_keys) +
         (c.loss_keys.size() > 1 ? " differ" : " differs") +
         (std::all_of(c.loss_keys.begin(),
                      c.loss_keys.end(),
                      [](const std::string& key) { return key.starts_with("data."); })
              ? ", so they were taken on other pictures; "
              : ", so the numbers have different units or scales; ") +
         (c.ranking.by.empty() ? "nothing is ranked: " + c.ranking.reason
                               : "ranked by " + c.ranking.by + " on held-out images instead");
}

}  // namespace

MetricFigures figures_of(const ComparedRun& run, const std::string& metric) {
  MetricFigures out;
  for (const MetricRow& row : run.metrics)
    for (const auto& [name, value] : row.values) {
      if (name != metric || !std::isfinite(value)) continue;
      out.last = value;
      if (out.best && *out.best <= value) continue;
      out.best = value;
      out.best_step = row.step;
    }
  return out;
}

std::optional<double> median_of(const ComparedRun& run, const std::string& metric) {
  std::vector<double> values;
  for (const MetricRow& row : run.metrics)
    for (const auto& [name, value] : row.values)
      if (name == metric && std::isfinite(value)) values.push_back(value);
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

std::string verdict(const Interval& interval) {
  if (!std::isfinite(interval.low) || !std::isfinite(interval.high)) return "not known";
  return interval.low > 0 ? "worse" : interval.high < 0 ? "better" : "not distinguishable";
}

std::string bits_unit(const Comparison& comparison) {
  for (const ComparedRun& run : comparison.runs)
    if (run.validation) return run.validation->unit;
  return "bits/dim";
}

Comparison compare_runs(const std::vector<std::string>& paths, const std::string& baseline) {
  Comparison out;
  for (const std::string& path : paths) out.runs.push_back(read_run(path, out.warnings));
  refuse_one_folder_twice(out.runs);
  name_runs(out.runs);
  out.baseline = find_baseline(out.runs, baseline);
  for (const ComparedRun& run : out.runs) warn_of_unfinished(run, out.warnings);
  out.keys = differing_keys(out.runs);
  out.loss_keys = differing_loss_keys(out);
  read_validations(out);
  if (out.runs[out.baseline].validation)
    for (size_t i = 0; i < out.runs.size(); ++i)
      if (i != out.baseline && out.runs[i].validation) add_differences(out, i);
  rank(out);
  out.notes.push_back(loss_note(out));
  if (!out.ranking.by.empty() && !out.step)
    out.warnings.push_back("the ranking is of runs at different steps");
  return out;
}

}  // namespace diffuse
