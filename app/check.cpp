// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "command.h"
#include "data/dataset.h"

namespace diffuse {
namespace {

using Json = nlohmann::ordered_json;

struct CheckFlags {
  std::string config;
  std::vector<std::string> set;
  std::string data = "headers";
  bool json = false;
};

/// What the data part found.
struct DataSummary {
  std::string path;
  int64_t pictures = 0;  // with those held out
  int64_t held_out = 0;
  std::vector<std::string> classes;
  std::vector<SkippedFile> skipped;
};

/// Decodes every picture. The data set itself stops at too many bad ones.
DataSummary decode_all(const DataOptions& options, ProgressMode mode) {
  std::optional<Progress> progress;  // once it is known how many there are
  const auto shown = [&](int64_t done, int64_t total) {
    if (!progress) progress.emplace(mode, "decode", 0, total);
    progress->update(done, std::to_string(done) + "/" + std::to_string(total) + " pictures");
  };
  const Dataset data(options, shown);
  if (!data.cached()) {
    std::vector<uint8_t> pixels(
        static_cast<size_t>(options.height() * options.width() * options.channels));
    const int64_t count = data.size() + data.held_out();
    for (int64_t i = 0; i < count; ++i) {
      data.fetch(i, false, 0.5, 0.5, pixels.data());
      shown(i + 1, count);
    }
  }
  return {options.path, data.usable(), data.held_out(), data.scan().label_names, data.bad()};
}

DataSummary scan_headers(const DataOptions& options) {
  const DataScan scan = scan_folder(options, true);
  refuse_bad(options, scan.skipped);
  const auto bad = std::count_if(scan.skipped.begin(),
                                 scan.skipped.end(),
                                 [](const SkippedFile& file) { return file.picture; });
  const auto good = static_cast<int64_t>(scan.entries.size());
  refuse_too_many_bad(options, bad, good + bad, [&] { return scan.skipped; });
  return {options.path, good, scan.held_out, scan.label_names, scan.skipped};
}

/// The distribution's options, as they are written in a config.
std::vector<std::pair<std::string, std::string>> point_options(const Config& config) {
  const std::string prefix = "data.points.";
  std::vector<std::pair<std::string, std::string>> out;
  for (const ConfigValue& value : config_values(config))
    if (value.key.starts_with(prefix))
      out.emplace_back(value.key.substr(prefix.size()), value.value);
  return out;
}

Json summary_json(const LoadedConfig& loaded, const std::optional<DataSummary>& data) {
  Json out{{"ok", true}, {"warnings", loaded.warnings}};
  if (loaded.config.data.are_points()) {
    out["data"] = {{"points", loaded.config.data.points.name()}};
    for (const auto& [name, value] : point_options(loaded.config)) out["data"][name] = value;
  }
  if (!data) return out;
  Json skipped = Json::array();
  for (const SkippedFile& file : data->skipped)
    skipped.push_back({{"path", file.path}, {"reason", file.reason}});
  out["data"] = {{"path", data->path},
                 {"pictures", data->pictures},
                 {"held_out", data->held_out},
                 {"classes", data->classes},
                 {"skipped", skipped}};
  return out;
}

std::string counted(size_t n, const std::string& one, const std::string& many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

std::string summary_text(const CheckFlags& flags,
                         const LoadedConfig& loaded,
                         const std::optional<DataSummary>& data) {
  const Config& c = loaded.config;
  std::string out = "config  " + flags.config + ": ok";
  if (!loaded.warnings.empty())
    out += ", " + counted(loaded.warnings.size(), "warning", "warnings");
  out += "\nmodel   " +
         (c.data.are_points()
              ? "points in the plane"
              : std::to_string(c.data.height()) + " x " + std::to_string(c.data.width()) + " x " +
                    std::to_string(c.data.channels)) +
         ", " + c.diffusion.target.name() + " on " + c.diffusion.schedule.name() + " " +
         std::to_string(c.diffusion.steps) + ", weighting " + c.diffusion.weighting.name() + "\n";
  if (c.data.are_points()) {
    out += "data    " + described(c.data.points);
    for (const auto& [name, value] : point_options(c)) out += ", " + name + " " + value;
    return out + "\n";
  }
  if (!data) return out;
  out += "data    " + data->path + ": " +
         counted(static_cast<size_t>(data->pictures), "picture", "pictures");
  if (data->held_out > 0) out += ", " + std::to_string(data->held_out) + " held out";
  if (!data->classes.empty()) out += ", " + counted(data->classes.size(), "class", "classes");
  if (!data->skipped.empty()) out += ", " + list_skipped(data->skipped, 10);
  if (out.back() != '\n') out += '\n';
  return out;
}

int run_check(const CheckFlags& flags, const Context& context) {
  const LoadedConfig loaded = load_config(flags.config, set_overrides(flags.set));
  if (!flags.json) print_warnings(loaded, context);
  std::optional<DataSummary> data;
  const DataOptions& options = loaded.config.data;
  const bool pictures = !options.are_points();
  if (pictures && flags.data == "headers") data = scan_headers(options);
  if (pictures && flags.data == "full") data = decode_all(options, context.global.progress);
  if (data && loaded.config.model.class_conditional) require_classes(options, data->classes);
  if (flags.json)
    print(summary_json(loaded, data).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  else
    print(summary_text(flags, loaded, data));
  return 0;
}

}  // namespace

Run add_check(CLI::App& app, const Context& context) {
  app.description("Check a config and its data, without training.");
  app.footer(
      "  diffuse check config.yaml\n"
      "  diffuse check config.yaml --set diffusion.target=velocity --data none\n"
      "  diffuse check config.yaml --data full          decodes every picture");
  const auto flags = std::make_shared<CheckFlags>();
  app.add_option("CONFIG", flags->config, "config file (YAML)")->required()->check(not_empty());
  add_set_option(app, flags->set);
  app.add_option("--data", flags->data, "how far the pictures are read")
      ->type_name("none|headers|full")
      ->check(one_of({"none", "headers", "full"}))
      ->capture_default_str();
  app.add_flag("--json", flags->json, "the result, or the error, as JSON on stdout");
  return [flags, &context] {
    try {
      return run_check(*flags, context);
    } catch (const Error& e) {
      if (!flags->json) throw;
      const Json out{{"ok", false}, {"exit", static_cast<int>(e.code)}, {"error", e.what()}};
      print(out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
      return static_cast<int>(e.code);
    }
  };
}

}  // namespace diffuse
