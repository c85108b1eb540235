// SPDX-License-Identifier: MIT
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>

#include "command.h"
#include "config/scalar.h"
#include "config/schema.h"
#include "config/suggest.h"

namespace diffuse {
namespace {

struct Shortcut {
  const char* option;
  const char* key;
  const char* type;
  const char* help;
  const char* environment;  // nullptr: none
  bool text;                // quoted, so that a value like "a: b" is not read as YAML
};

constexpr Shortcut kShortcuts[] = {
    {"--name", "run.name", "NAME", "name of the new run folder", nullptr, true},
    {"--root", "run.root", "DIR", "folder of the run folders", "DIFFUSE_ROOT", true},
    {"--device", "train.device", "DEVICE", "auto, cpu, cuda or cuda:N", "DIFFUSE_DEVICE", true},
    {"--precision", "train.precision", "TYPE", "fp32, tf32 or bf16", "DIFFUSE_PRECISION", false},
    {"--steps", "train.steps", "N", "optimizer steps of the whole run", nullptr, false},
};

struct TrainFlags {
  std::string config;
  std::vector<std::string> set;
  std::vector<std::string> shortcuts = std::vector<std::string>(std::size(kShortcuts));
  std::string run_dir, resume;
  std::vector<std::string> allow_change;
  std::string stop_after;
  bool dry_run = false;
};

/// A misspelt --allow-change would be found out only after the data has been read.
void check_keys(const std::vector<std::string>& wanted) {
  std::vector<Suggestion> known;
  for (const KeyHelp& help : config_keys())
    for (size_t dot = help.key.find('.');; dot = help.key.find('.', dot + 1)) {
      known.push_back({help.key.substr(0, dot), {}});
      if (dot == std::string::npos) break;
    }
  for (const std::string& key : wanted) {
    const auto same = [&](const Suggestion& s) { return s.name == key; };
    if (std::find_if(known.begin(), known.end(), same) != known.end()) continue;
    const std::string near = closest_name(key, known);
    throw Error(
        Exit::usage,
        "--allow-change: unknown key '" + key + "'" +
            (near.empty() ? "; diffuse config keys lists them" : "; did you mean '" + near + "'?"));
  }
}

TrainRequest make_request(const TrainFlags& flags, const Context& context) {
  check_keys(flags.allow_change);
  TrainRequest request;
  request.global = context.global;
  request.command = context.argv;
  request.git = build_commit();
  request.config_text = read_config(flags.config);
  request.run_dir = flags.run_dir;
  request.resume = flags.resume.empty() ? (flags.run_dir.empty() ? "never" : "auto") : flags.resume;
  request.allow_change = flags.allow_change;
  request.dry_run = flags.dry_run;
  if (!flags.stop_after.empty()) {
    const auto seconds = parse_duration(flags.stop_after);
    if (!seconds || *seconds == 0)
      throw Error(Exit::usage,
                  "--stop-after must be a duration like 3h50m, 90m or 2d, got '" +
                      flags.stop_after + "'" +
                      (is_typed(context, "--stop-after") ? "" : " (from DIFFUSE_STOP_AFTER)"));
    request.stop_after_seconds = *seconds;
  }
  // Later ones win: the environment gives way to --set, which gives way to a typed shortcut.
  std::vector<Override> overrides, typed;
  for (size_t i = 0; i < std::size(kShortcuts); ++i) {
    const Shortcut& shortcut = kShortcuts[i];
    const std::string& value = flags.shortcuts[i];
    if (value.empty()) continue;
    const std::string text =
        std::string(shortcut.key) + "=" + (shortcut.text ? format_string(value) : value);
    if (shortcut.environment == nullptr || is_typed(context, shortcut.option))
      typed.push_back({text, shortcut.option});
    else
      overrides.push_back({text, shortcut.environment});
  }
  for (const auto& more : {set_overrides(flags.set), typed})
    overrides.insert(overrides.end(), more.begin(), more.end());
  for (const Override& override : overrides) request.overrides.push_back(override.text);
  request.loaded = load_config_text(request.config_text,
                                    flags.config,
                                    std::filesystem::absolute(flags.config).parent_path(),
                                    overrides);
  return request;
}

}  // namespace

Run add_train(CLI::App& app, const Context& context) {
  app.description("Train a model on a folder of pictures, or on points, as a config says.");
  app.footer(
      "  diffuse train configs/digits.yaml\n"
      "  diffuse train c.yaml --set optim.lr=1.0e-4 --set diffusion.schedule=cosine\n"
      "  diffuse train c.yaml --run-dir runs/a          again: goes on where it stopped\n"
      "  diffuse train c.yaml --dry-run                 one step, nothing written");
  const auto flags = std::make_shared<TrainFlags>();
  app.add_option("CONFIG", flags->config, "config file (YAML)")->required()->check(not_empty());
  add_set_option(app, flags->set);
  for (size_t i = 0; i < std::size(kShortcuts); ++i) {
    CLI::Option* option = app.add_option(kShortcuts[i].option,
                                         flags->shortcuts[i],
                                         std::string(kShortcuts[i].help) + "; short for --set " +
                                             kShortcuts[i].key + "=...")
                              ->type_name(kShortcuts[i].type)
                              ->check(not_empty());
    if (kShortcuts[i].environment != nullptr) option->envname(kShortcuts[i].environment);
  }
  app.add_option(
         "--run-dir", flags->run_dir, "exactly this run folder, instead of a new numbered one")
      ->type_name("DIR")
      ->check(not_empty());
  app.add_option("--resume",
                 flags->resume,
                 "auto: go on from the run folder's newest checkpoint if there is one; never; or a "
                 "checkpoint [default: auto with --run-dir, else never]")
      ->type_name("auto|never|PATH")
      ->check(not_empty());
  app.add_option("--allow-change",
                 flags->allow_change,
                 "a key that may differ from the resumed run's; repeatable")
      ->type_name("KEY")
      ->allow_extra_args(false);
  app.add_option(
         "--stop-after", flags->stop_after, "save and exit with 75 after this time, e.g. 3h50m")
      ->type_name("TIME")
      ->check(not_empty())
      ->envname("DIFFUSE_STOP_AFTER");
  app.add_flag("-n,--dry-run", flags->dry_run, "make one step and write nothing");
  return [flags, &context] {
    Signals signals;
    TrainRequest request = make_request(*flags, context);
    request.signals = &signals;
    print_warnings(request.loaded, context);
    return open_core().train(request);
  };
}

}  // namespace diffuse
