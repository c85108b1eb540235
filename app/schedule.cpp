// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/text.h"
#include "command.h"
#include "json_number.h"
#include "report/plot.h"
#include "report/table.h"

namespace diffuse {
namespace {

struct ScheduleFlags {
  std::string config;
  std::vector<std::string> set;
  std::vector<std::string> types;
  int64_t steps = 0;
  int64_t rows = 11;
  std::string format = "table";
  std::string svg;
};

struct Named {
  std::string name;
  Chain chain;
};

constexpr const char* kNoConfig = "version: 1\ndata: {path: .}\n";

DiffusionOptions load(const ScheduleFlags& flags, const std::string& type) {
  // A chain shorter than the config samples with is no mistake here.
  std::vector<Override> overrides{{"sample.steps=auto", "schedule"}};
  for (Override& set : set_overrides(flags.set)) overrides.push_back(std::move(set));
  if (flags.steps > 0)
    overrides.push_back({"diffusion.steps=" + std::to_string(flags.steps), "--steps"});
  if (!type.empty()) overrides.push_back({"diffusion.schedule=" + type, "--type"});
  if (!flags.config.empty()) return load_config(flags.config, overrides).config.diffusion;
  return load_config_text(kNoConfig, "defaults", ".", overrides).config.diffusion;
}

std::vector<Named> load_all(const ScheduleFlags& flags) {
  std::vector<std::string> types = flags.types;
  if (types.empty()) types.emplace_back();
  std::vector<Named> out;
  for (const std::string& type : types) {
    const DiffusionOptions options = load(flags, type);
    // Two of one type differ in their options: they are named as they were typed.
    const bool plain = type.empty() || type == options.schedule.name();
    out.push_back({plain ? options.schedule.name() : type, make_chain(options)});
  }
  return out;
}

/// `count` steps of 0..T-1 with both ends; all when there are no more.
std::vector<int64_t> shown_steps(int64_t steps, int64_t count) {
  std::vector<int64_t> out;
  const int64_t n = std::min(count, steps);
  for (int64_t i = 0; i < n; ++i) out.push_back(n > 1 ? i * (steps - 1) / (n - 1) : steps - 1);
  return out;
}

struct Column {
  const char* name;
  double (*value)(const Chain&, int64_t);
};

constexpr Column kColumns[] = {
    {"beta", [](const Chain& c, int64_t t) { return c.beta[static_cast<size_t>(t)]; }},
    {"alpha_bar", [](const Chain& c, int64_t t) { return c.alpha_bar[static_cast<size_t>(t)]; }},
    {"sigma", [](const Chain& c, int64_t t) { return c.level(t).sigma; }},
    {"snr", [](const Chain& c, int64_t t) { return c.snr(t); }},
    {"logsnr", [](const Chain& c, int64_t t) { return c.level(t).logsnr; }},
    {"posterior_variance",
     [](const Chain& c, int64_t t) { return c.posterior_variance[static_cast<size_t>(t)]; }},
};

std::string cell(double value) { return significant(value, 6); }

/// Where two schedules of one length differ most in log SNR.
std::string largest_difference(const Named& a, const Named& b) {
  int64_t at = 0;
  double most = -1;
  for (int64_t t = 0; t < std::min(a.chain.steps(), b.chain.steps()); ++t) {
    const double difference = std::abs(a.chain.level(t).logsnr - b.chain.level(t).logsnr);
    if (std::isfinite(difference) && difference > most) most = difference, at = t;
  }
  return a.name + " and " + b.name + " differ most at t = " + std::to_string(at) + ": log SNR " +
         cell(a.chain.level(at).logsnr) + " and " + cell(b.chain.level(at).logsnr) + "\n";
}

std::string as_table(const std::vector<Named>& schedules, int64_t rows) {
  std::string out;
  for (const Named& schedule : schedules) {
    const Chain& chain = schedule.chain;
    out += (out.empty() ? "" : "\n") + schedule.name + ", T = " + std::to_string(chain.steps()) +
           ", terminal SNR " + cell(chain.snr(chain.steps() - 1)) + "\n" + padded("t", 7);
    for (const Column& column : kColumns)
      out += padded(column.name, column.name[0] == 'p' ? 20 : 14);
    out += "\n";
    for (const int64_t t : shown_steps(chain.steps(), rows)) {
      out += padded(std::to_string(t), 7);
      for (const Column& column : kColumns)
        out += padded(cell(column.value(chain, t)), column.name[0] == 'p' ? 20 : 14);
      out += "\n";
    }
  }
  for (size_t i = 1; i < schedules.size(); ++i)
    out += (i == 1 ? "\n" : "") + largest_difference(schedules[0], schedules[i]);
  return out;
}

std::string as_csv(const std::vector<Named>& schedules) {
  std::string out = "schedule,t";
  for (const Column& column : kColumns) out += std::string(",") + column.name;
  out += "\n";
  for (const Named& schedule : schedules) {
    const std::string name = csv_field(schedule.name);
    for (int64_t t = 0; t < schedule.chain.steps(); ++t) {
      out += name + "," + std::to_string(t);
      for (const Column& column : kColumns) out += "," + shortest(column.value(schedule.chain, t));
      out += "\n";
    }
  }
  return out;
}

std::string as_json(const std::vector<Named>& schedules) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const Named& schedule : schedules) {
    nlohmann::ordered_json one{{"schedule", schedule.name}, {"steps", schedule.chain.steps()}};
    for (const Column& column : kColumns)
      for (int64_t t = 0; t < schedule.chain.steps(); ++t) {
        const double value = column.value(schedule.chain, t);
        one[column.name].push_back(number_or_null(value));
      }
    out.push_back(std::move(one));
  }
  return out.dump(1) + "\n";
}

std::string as_svg(const std::vector<Named>& schedules) {
  const auto panel = [&](const char* title, const Column& column, bool log_y) {
    Panel out{.title = title, .x_label = "t", .y_label = column.name, .log_y = log_y, .series = {}};
    for (const Named& schedule : schedules) {
      Series series{.name = schedule.name, .points = {}};
      for (int64_t t = 0; t < schedule.chain.steps(); ++t)
        series.points.emplace_back(static_cast<double>(t), column.value(schedule.chain, t));
      out.series.push_back(std::move(series));
    }
    return out;
  };
  return plot_svg({panel("log SNR", kColumns[4], false),
                   panel("signal kept: alpha_bar", kColumns[1], false),
                   panel("beta", kColumns[0], true)});
}

}  // namespace

Run add_schedule(CLI::App& app, const Context&) {
  app.description("Show noise schedules: beta, alpha_bar, SNR, side by side.");
  app.footer(
      "  diffuse schedule -t linear -t cosine           tables, and where they differ most\n"
      "  diffuse schedule -t linear -t cosine --svg s.svg\n"
      "  diffuse schedule -t '{type: cosine, s: 0.02}' --steps 4000 --format csv > cosine.csv\n"
      "  diffuse schedule config.yaml                   as a config has it");
  const auto flags = std::make_shared<ScheduleFlags>();
  app.add_option("CONFIG", flags->config, "config file (YAML) [default: none]");
  add_set_option(app, flags->set);
  app.add_option("-t,--type",
                 flags->types,
                 "a schedule: its name or {type: name, option: value}; repeatable [default: the "
                 "config's]")
      ->type_name("TYPE")
      ->allow_extra_args(false)
      ->check(not_empty());
  app.add_option("--steps", flags->steps, "T [default: the config's, or 1000]")
      ->type_name("N")
      ->check(between(1, 1'000'000));
  app.add_option("--rows", flags->rows, "steps that the table shows")
      ->type_name("N")
      ->check(at_least(1))
      ->capture_default_str();
  app.add_option("--format", flags->format, "table of some steps; csv and json have all of them")
      ->type_name("table|csv|json")
      ->check(one_of({"table", "csv", "json"}))
      ->capture_default_str();
  app.add_option("--svg", flags->svg, "also draw log SNR, alpha_bar and beta over t into this file")
      ->type_name("FILE")
      ->check(not_empty());
  return [flags] {
    const std::vector<Named> schedules = load_all(*flags);
    if (!flags->svg.empty()) write_named_file(flags->svg, as_svg(schedules));
    print(flags->format == "csv"    ? as_csv(schedules)
          : flags->format == "json" ? as_json(schedules)
                                    : as_table(schedules, flags->rows));
    return 0;
  };
}

}  // namespace diffuse
