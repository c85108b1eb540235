// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "command.h"
#include "comparison.h"
#include "json_number.h"
#include "report/html.h"
#include "report/plot.h"
#include "report/table.h"

namespace diffuse {
namespace {

using Json = nlohmann::ordered_json;

struct CompareFlags {
  std::vector<std::string> runs;
  std::string baseline;
  std::string format = "table";
  std::string svg;
  std::string html;
};

constexpr const char* kMetrics[] = {"loss", "loss_raw", "val_loss", "val_bits"};

/// With `digits` significant digits, also where they are zeros: cells of a column look alike.
std::string number(double value, int digits = 4) {
  if (!std::isfinite(value)) return "-";
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 1e-4 || size >= 1e7) return significant(value, digits);
  const int decimals = digits - 1 - static_cast<int>(std::floor(std::log10(size)));
  return fixed(value, std::max(decimals, 0));
}

std::string number(const std::optional<double>& value) { return value ? number(*value) : "-"; }

/// With its sign: a difference.
std::string signed_number(double value) { return (value > 0 ? "+" : "") + number(value, 3); }

std::string interval_text(const Interval& interval) {
  if (!std::isfinite(interval.low)) return "-";
  return signed_number(interval.low) + " to " + signed_number(interval.high);
}

// Tables.

std::vector<std::string> names_of(const Comparison& c) {
  std::vector<std::string> out;
  for (const ComparedRun& run : c.runs) out.push_back(run.name);
  return out;
}

Table keys_table(const Comparison& c) {
  std::vector<const DifferingKey*> keys;
  for (const DifferingKey& key : c.keys)
    if (key.matters) keys.push_back(&key);
  Table out{.title = "config keys that differ", .head = {}, .rows = {}, .left = 1, .notes = {}};
  if (keys.empty()) {
    out.head = {"run"};
    for (const std::string& name : names_of(c)) out.rows.push_back({name});
    out.notes = {"none that matters"};
  } else if (keys.size() <= c.runs.size()) {  // the longer side goes down the page
    out.head = {"run"};
    for (const DifferingKey* key : keys) out.head.push_back(key->key);
    for (size_t i = 0; i < c.runs.size(); ++i) {
      std::vector<std::string> row{c.runs[i].name};
      for (const DifferingKey* key : keys) row.push_back(key->values[i].value_or("-"));
      out.rows.push_back(std::move(row));
    }
  } else {
    out.head = {"key"};
    for (const std::string& name : names_of(c)) out.head.push_back(name);
    for (const DifferingKey* key : keys) {
      std::vector<std::string> row{key->key};
      for (const auto& value : key->values) row.push_back(value.value_or("-"));
      out.rows.push_back(std::move(row));
    }
  }
  out.left = out.head.size();  // values are words as often as numbers
  return out;
}

Table runs_table(const Comparison& c) {
  Table out{.title = "runs",
            .head = {"run", "state", "step", "images/s", "seconds", "parameters"},
            .rows = {},
            .left = 2,
            .notes = {"images/s: median over the run; seconds: of training, over all its starts"}};
  for (const ComparedRun& run : c.runs) {
    const auto seconds = figures_of(run, "time").last;
    out.rows.push_back(
        {run.name,
         run.status ? run.status->state : "-",
         run.status ? std::to_string(run.status->step) + " of " + std::to_string(run.status->of)
                    : "-",
         number(median_of(run, "img_s")),
         seconds ? fixed(*seconds, *seconds < 10 ? 1 : 0) : "-",
         run.parameters ? std::to_string(*run.parameters) : "-"});
  }
  return out;
}

Table metrics_table(const Comparison& c) {
  Table out{.title = "last (lowest at its step)",
            .head = {"run"},
            .rows = {},
            .left = 1,
            .notes = {c.notes.front()}};
  for (const char* metric : kMetrics) out.head.emplace_back(metric);
  for (const ComparedRun& run : c.runs) {
    std::vector<std::string> row{run.name};
    for (const char* metric : kMetrics) {
      const MetricFigures figures = figures_of(run, metric);
      row.push_back(!figures.last ? "-"
                                  : number(figures.last) + " (" + number(figures.best) + " at " +
                                        std::to_string(figures.best_step) + ")");
    }
    out.rows.push_back(std::move(row));
  }
  return out;
}

std::string at_step(const Comparison& c) {
  return c.step ? " at step " + std::to_string(*c.step) : ", each run at its last validation";
}

bool any_validation(const Comparison& c) {
  return std::any_of(
      c.runs.begin(), c.runs.end(), [](const ComparedRun& run) { return run.validation; });
}

bool any_bits(const Comparison& c) {
  return std::any_of(c.runs.begin(), c.runs.end(), [](const ComparedRun& run) {
    return run.validation && run.validation->bits;
  });
}

/// The terms of the bound, by name.
std::vector<std::pair<const char*, const std::vector<double>*>> terms(
    const ValidationRecord::Bits& bits) {
  return {{"total", &bits.total},
          {"prior", &bits.prior},
          {"rest", &bits.rest},
          {"decoder", &bits.decoder}};
}

Table bits_table(const Comparison& c) {
  Table out{.title = bits_unit(c) + " on held-out images" + at_step(c),
            .head = {"run", "total", "std. error", "prior", "rest", "decoder", "images"},
            .rows = {},
            .left = 1,
            .notes = {"prior: L_T; rest: the sum of L_{t-1}; decoder: L_0"}};
  for (const ComparedRun& run : c.runs) {
    if (!run.validation || !run.validation->bits) {
      out.rows.push_back({run.name, "-", "-", "-", "-", "-", "-"});
      continue;
    }
    const ValidationRecord::Bits& bits = *run.validation->bits;
    out.rows.push_back({run.name,
                        number(mean_of(bits.total)),
                        number(standard_error(bits.total)),
                        number(mean_of(bits.prior)),
                        number(mean_of(bits.rest)),
                        number(mean_of(bits.decoder)),
                        std::to_string(run.validation->images)});
  }
  return out;
}

std::set<double> shown_levels(const Comparison& c) {
  std::set<double> out;
  for (const ComparedRun& run : c.runs)
    if (run.validation)
      for (const auto& [logsnr, level] : nominal_levels(*run.validation)) out.insert(logsnr);
  return out;
}

Table levels_table(const Comparison& c) {
  Table out{
      .title = "error of the predicted noise (mse_eps) by noise level" + at_step(c),
      .head = {"log SNR"},
      .rows = {},
      .left = 0,
      .notes = {"levels of held-out images, matched to the nearest log SNR that is a multiple of "
                "1.5"}};
  for (const std::string& name : names_of(c)) out.head.push_back(name);
  for (const double logsnr : shown_levels(c)) {
    std::vector<std::string> row{significant(logsnr, 4)};
    for (const ComparedRun& run : c.runs) {
      std::string cell = "-";
      if (run.validation) {
        const auto levels = nominal_levels(*run.validation);
        if (const auto at = levels.find(logsnr); at != levels.end())
          cell = number(mean_of(at->second->mse_eps));
      }
      row.push_back(cell);
    }
    out.rows.push_back(std::move(row));
  }
  return out;
}

std::string quantity(const Comparison& c, const Difference& difference) {
  return difference.logsnr ? "mse_eps at log SNR " + significant(*difference.logsnr, 4)
                           : bits_unit(c);
}

Table differences_table(const Comparison& c) {
  Table out{.title = "differences to " + printable(c.runs[c.baseline].name, true) + at_step(c),
            .head = {"run", "of", "difference", "95% interval", "verdict"},
            .rows = {},
            .left = 2,
            .notes = {"below 0 is better; bootstrap over the held-out images, " +
                      std::to_string(kResamples) + " resamples; each interval by itself"}};
  bool any_unpaired = false;
  for (const Difference& d : c.differences) {
    out.rows.push_back({c.runs[d.run].name,
                        quantity(c, d),
                        signed_number(d.interval.mean),
                        interval_text(d.interval),
                        verdict(d.interval) + (d.paired ? "" : " (not paired)")});
    any_unpaired = any_unpaired || !d.paired;
  }
  out.notes.emplace_back(
      any_unpaired ? "not paired: the held-out images differ, and each run's are drawn "
                     "independently"
                   : "paired: image by image, with the same noise (and terms of the bound, where "
                     "validate.timesteps are the same)");
  return out;
}

Table ranking_table(const Comparison& c) {
  const Ranking& r = c.ranking;
  Table out{.title = "ranking by " + r.by + " (lower is better)",
            .head = {"", "run", "value", "to the best", "95% interval", "verdict"},
            .rows = {},
            .left = 2,
            .notes = {}};
  for (size_t i = 0; i < r.places.size(); ++i) {
    const Ranking::Place& place = r.places[i];
    std::vector<std::string> row{
        std::to_string(i + 1), c.runs[place.run].name, number(place.value)};
    if (i == 0)
      row.insert(row.end(), {"", "", "best"});
    else
      row.insert(row.end(),
                 {signed_number(place.to_best.mean),
                  interval_text(place.to_best),
                  verdict(place.to_best)});
    out.rows.push_back(std::move(row));
  }
  if (r.by.empty()) {
    out.title = "ranking";
    out.head = {"no ranking: " + r.reason};
    out.left = 1;
  }
  return out;
}

/// The ranking comes last: in a terminal that is what stays in sight.
std::vector<Table> tables(const Comparison& c) {
  std::vector<Table> out{keys_table(c), runs_table(c), metrics_table(c)};
  if (any_bits(c)) out.push_back(bits_table(c));
  if (any_validation(c)) out.push_back(levels_table(c));
  if (!c.differences.empty()) out.push_back(differences_table(c));
  out.push_back(ranking_table(c));
  return out;
}

std::string as_table(const Comparison& c) {
  std::string out;
  for (const Table& table : tables(c)) out += (out.empty() ? "" : "\n") + table_text(table);
  return out;
}

// CSV: one figure a line.

class CsvWriter {
 public:
  void figure(const ComparedRun& run,
              const std::string& name,
              std::optional<double> logsnr,
              std::optional<int64_t> step,
              const Interval& value) {
    line(run.name,
         name,
         logsnr ? shortest(*logsnr) : "",
         step ? std::to_string(*step) : "",
         text(value.mean),
         text(value.low),
         text(value.high));
  }
  void figure(const ComparedRun& run,
              const std::string& name,
              std::optional<double> value,
              std::optional<int64_t> step = std::nullopt) {
    if (value) figure(run, name, std::nullopt, step, {*value, kNone, kNone});
  }
  void words(const ComparedRun& run, const std::string& name, const std::string& value) {
    line(run.name, name, "", "", value, "", "");
  }
  const std::string& text() const { return out_; }

 private:
  static constexpr double kNone = NAN;

  static std::string text(double value) { return std::isfinite(value) ? shortest(value) : ""; }

  template <class... Cells>
  void line(const Cells&... cells) {
    std::string row;
    ((row += csv_field(cells) + ","), ...);
    row.back() = '\n';
    out_ += row;
  }

  std::string out_ = "run,quantity,logsnr,step,value,low,high\n";
};

std::string as_csv(const Comparison& c) {
  CsvWriter out;
  for (size_t i = 0; i < c.runs.size(); ++i) {
    const ComparedRun& run = c.runs[i];
    out.words(run, "path", run.path.string());
    for (const DifferingKey& key : c.keys)
      if (key.values[i]) out.words(run, "config." + key.key, *key.values[i]);
    if (run.status) {
      out.words(run, "state", run.status->state);
      out.figure(run, "step", static_cast<double>(run.status->step));
      out.figure(run, "of", static_cast<double>(run.status->of));
    }
    out.figure(run, "images_per_second", median_of(run, "img_s"));
    out.figure(run, "seconds", figures_of(run, "time").last);
    if (run.parameters) out.figure(run, "parameters", static_cast<double>(*run.parameters));
    for (const std::string metric : kMetrics) {
      const MetricFigures figures = figures_of(run, metric);
      out.figure(run, metric + ".last", figures.last);
      out.figure(run, metric + ".best", figures.best, figures.best_step);
    }
    if (!run.validation) continue;
    const ValidationRecord& record = *run.validation;
    if (record.bits)
      for (const auto& [term, values] : terms(*record.bits)) {
        out.figure(run, record.unit + "." + term, mean_of(*values), record.step);
        out.figure(run,
                   record.unit + "." + term + ".standard_error",
                   standard_error(*values),
                   record.step);
      }
    for (const auto& [logsnr, level] : nominal_levels(record))
      out.figure(run, "mse_eps", logsnr, record.step, {mean_of(level->mse_eps), NAN, NAN});
  }
  for (const Difference& d : c.differences)
    out.figure(c.runs[d.run],
               (d.logsnr ? std::string("mse_eps") : bits_unit(c)) + ".difference" +
                   (d.paired ? "" : ".unpaired"),
               d.logsnr,
               c.runs[d.run].validation->step,
               d.interval);
  for (size_t i = 0; i < c.ranking.places.size(); ++i)
    out.figure(c.runs[c.ranking.places[i].run], "rank", static_cast<double>(i + 1));
  return out.text();
}

// JSON.

Json maybe(const std::optional<double>& value) { return value ? number_or_null(*value) : Json(); }

Json interval_json(const Interval& interval) {
  return {{"mean", number_or_null(interval.mean)},
          {"low", number_or_null(interval.low)},
          {"high", number_or_null(interval.high)}};
}

Json mean_json(const std::vector<double>& values) {
  return {{"mean", number_or_null(mean_of(values))},
          {"standard_error", number_or_null(standard_error(values))}};
}

Json validation_json(const ValidationRecord& record) {
  Json out{{"step", record.step},
           {"weights", record.weights},
           {"images", record.images},
           {"fingerprint", record.fingerprint},
           {"seed", record.seed},
           {"unit", record.unit},
           {"bits", nullptr},
           {"levels", Json::array()}};
  if (record.bits)
    for (const auto& [term, values] : terms(*record.bits)) out["bits"][term] = mean_json(*values);
  for (const auto& [logsnr, level] : nominal_levels(record))
    out["levels"].push_back({{"logsnr", logsnr},
                             {"logsnr_used", level->logsnr},
                             {"mse_eps", mean_json(level->mse_eps)}});
  return out;
}

Json run_json(const ComparedRun& run) {
  Json out{{"name", run.name},
           {"path", run.path.string()},
           {"state", run.status ? Json(run.status->state) : Json()},
           {"step", run.status ? Json(run.status->step) : Json()},
           {"of", run.status ? Json(run.status->of) : Json()},
           {"images_per_second", maybe(median_of(run, "img_s"))},
           {"seconds", maybe(figures_of(run, "time").last)},
           {"parameters", run.parameters ? Json(*run.parameters) : Json()},
           {"samples", run.samples.empty() ? Json() : Json(run.samples.string())},
           {"metrics", Json::object()},
           {"validation", run.validation ? validation_json(*run.validation) : Json()}};
  for (const char* metric : kMetrics) {
    const MetricFigures figures = figures_of(run, metric);
    if (figures.last)
      out["metrics"][metric] = {
          {"last", *figures.last}, {"best", *figures.best}, {"best_step", figures.best_step}};
  }
  return out;
}

std::string as_json(const Comparison& c) {
  Json out{{"baseline", c.runs[c.baseline].name},
           {"step", c.step ? Json(*c.step) : Json()},
           {"runs", Json::array()},
           {"config", Json::array()},
           {"training_losses_comparable", c.loss_keys.empty()},
           {"differences", Json::array()},
           {"ranking", Json::object()},
           {"notes", c.notes},
           {"warnings", c.warnings}};
  for (const ComparedRun& run : c.runs) out["runs"].push_back(run_json(run));
  for (const DifferingKey& key : c.keys) {
    Json one{{"key", key.key}, {"matters", key.matters}, {"values", Json::array()}};
    for (const auto& value : key.values) one["values"].push_back(value ? Json(*value) : Json());
    out["config"].push_back(std::move(one));
  }
  for (const Difference& d : c.differences)
    out["differences"].push_back({{"run", c.runs[d.run].name},
                                  {"of", d.logsnr ? "mse_eps" : bits_unit(c)},
                                  {"logsnr", d.logsnr ? Json(*d.logsnr) : Json()},
                                  {"paired", d.paired},
                                  {"difference", interval_json(d.interval)},
                                  {"verdict", verdict(d.interval)}});
  const Ranking& r = c.ranking;
  out["ranking"] = {{"by", r.by.empty() ? Json() : Json(r.by)},
                    {"reason", r.by.empty() ? Json(r.reason) : Json()},
                    {"places", Json::array()}};
  for (const Ranking::Place& place : r.places)
    out["ranking"]["places"].push_back({{"run", c.runs[place.run].name},
                                        {"value", place.value},
                                        {"to_best", interval_json(place.to_best)}});
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// Plots: one colour a run in all panels.

Panel levels_panel(const Comparison& c) {
  Panel out{.title = "error of the predicted noise by noise level" + at_step(c),
            .x_label = "log SNR (noise on the left)",
            .y_label = "mse_eps",
            .log_y = false,
            .series = {}};
  for (size_t i = 0; i < c.runs.size(); ++i) {
    if (!c.runs[i].validation) continue;
    Series series{.name = c.runs[i].name, .points = {}, .color = static_cast<int>(i)};
    for (const auto& [logsnr, level] : nominal_levels(*c.runs[i].validation))
      series.points.emplace_back(logsnr, mean_of(level->mse_eps));
    out.series.push_back(std::move(series));
  }
  out.log_y = wants_log(out.series);
  return out;
}

/// What the eye cannot see on the axis of the errors themselves.
Panel relative_panel(const Comparison& c) {
  const std::string& baseline = c.runs[c.baseline].name;
  Panel out{.title = "the same relative to " + baseline,
            .x_label = "log SNR (noise on the left)",
            .y_label = "percent more",
            .log_y = false,
            .series = {}};
  const auto of_baseline = nominal_levels(*c.runs[c.baseline].validation);
  for (size_t i = 0; i < c.runs.size(); ++i) {
    if (!c.runs[i].validation) continue;
    Series series{.name = c.runs[i].name, .points = {}, .color = static_cast<int>(i)};
    for (const auto& [logsnr, level] : nominal_levels(*c.runs[i].validation))
      if (const auto at = of_baseline.find(logsnr); at != of_baseline.end())
        series.points.emplace_back(
            logsnr, 100 * (mean_of(level->mse_eps) / mean_of(at->second->mse_eps) - 1));
    out.series.push_back(std::move(series));
  }
  return out;
}

/// The runs in groups whose training losses mean the same.
std::vector<std::vector<size_t>> loss_groups(const Comparison& c) {
  std::vector<std::pair<std::vector<std::string>, std::vector<size_t>>> groups;
  for (size_t i = 0; i < c.runs.size(); ++i) {
    std::vector<std::string> objective;
    for (const DifferingKey& key : c.keys)
      if (std::find(c.loss_keys.begin(), c.loss_keys.end(), key.key) != c.loss_keys.end())
        objective.push_back(key.values[i].value_or(""));
    const auto at = std::find_if(
        groups.begin(), groups.end(), [&](const auto& g) { return g.first == objective; });
    if (at == groups.end())
      groups.push_back({objective, {i}});
    else
      at->second.push_back(i);
  }
  std::vector<std::vector<size_t>> out;
  for (auto& [objective, runs] : groups) out.push_back(std::move(runs));
  return out;
}

Panel metric_panel(const Comparison& c,
                   const std::string& title,
                   const std::string& metric,
                   const std::vector<size_t>& runs,
                   bool smoothed) {
  Panel out{.title = title, .x_label = "step", .y_label = metric, .log_y = false, .series = {}};
  for (const size_t i : runs) {
    const Points points = points_of(c.runs[i].metrics, metric);
    if (points.empty()) continue;
    out.series.push_back({.name = c.runs[i].name,
                          .points = smoothed ? smooth(points) : points,
                          .faint = false,
                          .color = static_cast<int>(i)});
  }
  out.log_y = wants_log(out.series);
  return out;
}

std::string as_svg(const Comparison& c) {
  std::vector<Panel> panels;
  if (any_validation(c)) panels.push_back(levels_panel(c));
  if (c.runs[c.baseline].validation) panels.push_back(relative_panel(c));
  std::vector<size_t> all;
  for (size_t i = 0; i < c.runs.size(); ++i) all.push_back(i);
  Panel bits = metric_panel(c, bits_unit(c) + " on held-out images", "val_bits", all, false);
  if (!bits.series.empty()) panels.push_back(std::move(bits));
  // Losses of different scales get an axis each.
  for (const std::vector<size_t>& group : loss_groups(c)) {
    // A lone series has no legend.
    const std::string of = group.size() > 1 ? "" : " of " + c.runs[group.front()].name;
    panels.push_back(metric_panel(c, "training loss" + of + ", smoothed", "loss", group, true));
  }
  return plot_svg(panels);
}

// The page.

Picture samples_of(const ComparedRun& run) {
  Picture out{.title = run.name, .caption = "-", .file = {}};
  if (run.samples.empty()) return out;
  constexpr uint64_t kMaxGrid = uint64_t{64} << 20;
  try {
    out.file = read_file(run.samples, Exit::run_folder, kMaxGrid);
    out.caption = run.samples.filename().string();
  } catch (const Error& e) {
    log::warn(std::string(e.what()) + "; the page shows no samples of " + run.name);
  }
  return out;
}

std::string as_html(const Comparison& c) {
  std::vector<Picture> pictures;
  for (const ComparedRun& run : c.runs) pictures.push_back(samples_of(run));
  std::vector<Table> all = tables(c);
  // The answer first; below it what it rests on.
  std::string body = html_list(c.warnings) + html_table(all.back());
  all.pop_back();
  body += html_heading("newest samples") + html_pictures(pictures);
  body += html_heading("curves") + html_plot(as_svg(c));
  for (const Table& table : all) body += html_table(table);
  std::string title;
  for (const std::string& name : names_of(c)) title += (title.empty() ? "" : ", ") + name;
  return html_page("diffuse compare: " + title, body);
}

}  // namespace

Run add_compare(CLI::App& app, const Context&) {
  app.description("Compare runs: what differs, held-out figures, samples.");
  app.footer(
      "  diffuse compare runs/a runs/b\n"
      "  diffuse compare runs/sweep/* --baseline runs/sweep/linear-epsilon --html compare.html\n"
      "  diffuse compare runs/a runs/b --format csv > figures.csv");
  const auto flags = std::make_shared<CompareFlags>();
  app.add_option("RUN", flags->runs, "run folders, two or more")
      ->required()
      ->expected(1, -1)
      ->check(not_empty());
  app.add_option("--baseline",
                 flags->baseline,
                 "the run that differences are taken to [default: the first]")
      ->type_name("RUN")
      ->check(not_empty());
  app.add_option("--format", flags->format, "csv has one figure a line; json has all of them")
      ->type_name("table|csv|json")
      ->check(one_of({"table", "csv", "json"}))
      ->capture_default_str();
  app.add_option(
         "--svg", flags->svg, "also draw loss by log SNR and training curves into this file")
      ->type_name("FILE")
      ->check(not_empty());
  app.add_option("--html",
                 flags->html,
                 "also write one page that holds it all: tables, plots, sample grids")
      ->type_name("FILE")
      ->check(not_empty());
  return [flags] {
    if (flags->runs.size() < 2)
      throw Error(Exit::usage,
                  "compare needs two runs or more, got only " + flags->runs.front() +
                      "; see diffuse compare --help");
    const Comparison comparison = compare_runs(flags->runs, flags->baseline);
    for (const std::string& warning : comparison.warnings) log::warn(printable(warning, true));
    if (!flags->svg.empty()) write_named_file(flags->svg, as_svg(comparison));
    if (!flags->html.empty()) write_named_file(flags->html, as_html(comparison));
    print(flags->format == "csv"    ? as_csv(comparison)
          : flags->format == "json" ? as_json(comparison)
                                    : as_table(comparison));
    return 0;
  };
}

}  // namespace diffuse
