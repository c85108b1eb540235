// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/device.h"
#include "base/memory.h"
#include "base/text.h"
#include "command.h"
#include "config/memory_plan.h"
#include "data/dataset.h"

namespace diffuse {
namespace {

using Json = nlohmann::ordered_json;

struct CheckFlags {
  std::string config;
  std::vector<std::string> set;
  std::string data = "headers";
  bool plan = false;
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

/// The plan for a config, with the micro-batch that it says.
struct Planned {
  MemoryPlan plan;
  bool gpu = false;  // the config asks for one
  int64_t micro_batch = 0;
  int64_t available = 0;
};

/// Threads that LibTorch computes with where nobody says.
int64_t usual_threads() {
  const char* const asked = std::getenv("OMP_NUM_THREADS");
  const int64_t threads = asked != nullptr ? std::atoll(asked) : 0;
  return threads > 0 ? threads : std::max<int64_t>(std::thread::hardware_concurrency(), 1);
}

Planned plan_for(const Config& config, const std::optional<DataSummary>& data, int threads) {
  PlanQuery query{.pictures = data ? data->pictures : 0,
                  .classes = data && config.model.class_conditional
                                 ? static_cast<int64_t>(data->classes.size())
                                 : 0,
                  .bf16 = true};
  Planned out;
  out.available = memory_available();
  const auto device = parse_device(config.train.device);
  out.gpu = device && device->kind == DeviceName::Kind::cuda;
  if (!out.gpu) query.threads = threads > 0 ? threads : usual_threads();
  // A GPU is tried with the whole batch.
  const int64_t automatic =
      out.gpu ? config.train.batch : largest_micro_batch(config, query, out.available / 10 * 9);
  out.micro_batch = std::min(config.train.micro_batch.value_or(automatic), config.train.batch);
  query.micro_batch = out.micro_batch;
  out.plan = plan_memory(config, query);
  return out;
}

Json need_json(const MemoryNeed& need) {
  Json out{{"total", need.total()}};
  for (const auto& [name, bytes] : need.parts) out[name] = bytes;
  return out;
}

Json plan_json(const Planned& planned) {
  return {{"estimate", true},
          {"parameters", planned.plan.parameters},
          {"available", planned.available},
          {"device", planned.gpu ? "cuda" : "cpu"},
          {"micro_batch", planned.micro_batch},
          {"train", need_json(planned.plan.train)},
          {"sample", need_json(planned.plan.sample)},
          {"evaluate", need_json(planned.plan.evaluate)}};
}

std::string plan_text(const Planned& planned) {
  std::string out = "plan    an estimate of the memory, ";
  out += planned.gpu ? "the GPU's but for program and pictures"
                     : "on the CPU, " + format_bytes(planned.available) + " are available";
  out += "; " + std::to_string(planned.plan.parameters) + " parameters\n";
  const auto line = [&](const char* command, const std::string& what, const MemoryNeed& need) {
    out += "  " + std::string(command) + format_bytes(need.total()) + what + ":";
    const char* comma = " ";
    for (const auto& [name, bytes] : need.parts) {
      if (bytes == 0) continue;
      out += comma + name + " " + format_bytes(bytes);
      comma = ", ";
    }
    out += "\n";
  };
  line("train     ",
       " with " + std::to_string(planned.micro_batch) + " at once (train.micro_batch)",
       planned.plan.train);
  line("sample    ", "", planned.plan.sample);
  line("evaluate  ", "", planned.plan.evaluate);
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

std::string summary_text(const CheckFlags& flags,
                         const LoadedConfig& loaded,
                         const std::optional<DataSummary>& data) {
  const Config& c = loaded.config;
  std::string out = "config  " + flags.config + ": ok";
  if (!loaded.warnings.empty())
    out += ", " + counted(static_cast<int64_t>(loaded.warnings.size()), "warning");
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
  out += "data    " + data->path + ": " + counted(data->pictures, "picture");
  if (data->held_out > 0) out += ", " + std::to_string(data->held_out) + " held out";
  if (!data->classes.empty())
    out += ", " + counted(static_cast<int64_t>(data->classes.size()), "class", "classes");
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
  std::optional<Planned> planned;
  if (flags.plan) planned = plan_for(loaded.config, data, context.global.threads);
  if (flags.json) {
    Json out = summary_json(loaded, data);
    if (planned) out["plan"] = plan_json(*planned);
    print(out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    print(summary_text(flags, loaded, data) + (planned ? plan_text(*planned) : ""));
  }
  return 0;
}

}  // namespace

Run add_check(CLI::App& app, const Context& context) {
  app.description("Check a config and its data, without training.");
  app.footer(
      "  diffuse check config.yaml\n"
      "  diffuse check config.yaml --set diffusion.target=velocity --data none\n"
      "  diffuse check config.yaml --data full          decodes every picture\n"
      "  diffuse check config.yaml --plan               how much memory will be needed");
  const auto flags = std::make_shared<CheckFlags>();
  app.add_option("CONFIG", flags->config, "config file (YAML)")->required()->check(not_empty());
  add_set_option(app, flags->set);
  app.add_option("--data", flags->data, "how far the pictures are read")
      ->type_name("none|headers|full")
      ->check(one_of({"none", "headers", "full"}))
      ->capture_default_str();
  app.add_flag("--plan", flags->plan, "estimate the memory of train, sample and evaluate");
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
