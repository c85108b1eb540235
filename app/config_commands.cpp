// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>

#include "command.h"
#include "config/schema.h"

namespace diffuse {
namespace {

std::string key_table() {
  const std::vector<KeyHelp> keys = config_keys();
  size_t width = 0;
  for (const KeyHelp& key : keys) width = std::max(width, key.key.size());
  std::string out;
  for (const KeyHelp& key : keys) {
    out += key.key + std::string(width + 2 - key.key.size(), ' ') + key.help;
    out += " [" + key.type + ", default " + key.value + "]\n";
  }
  return out;
}

}  // namespace

Run add_config(CLI::App& app, const Context& context) {
  app.description(
      "Print the config's schema, defaults, keys, or a config with everything filled in.");
  app.footer(
      "  diffuse config defaults > config.yaml\n"
      "  diffuse config resolve config.yaml --set train.steps=500\n"
      "  diffuse config schema > diffuse.schema.json    for editors");
  app.require_subcommand(0, 1);

  CLI::App* schema = app.add_subcommand("schema", "JSON schema (draft-07) of the config");
  schema->footer("  diffuse config schema > diffuse.schema.json");
  CLI::App* defaults =
      app.add_subcommand("defaults", "every key with help and default, as a config");
  defaults->footer("  diffuse config defaults > config.yaml");
  CLI::App* keys = app.add_subcommand("keys", "every key with help, type and default, one a line");
  keys->footer("  diffuse config keys | grep schedule");
  CLI::App* resolve =
      app.add_subcommand("resolve", "a config with every key, and where each value came from");
  resolve->footer("  diffuse config resolve config.yaml --set diffusion.schedule=cosine");
  struct Flags {
    std::string config;
    std::vector<std::string> set;
  };
  const auto flags = std::make_shared<Flags>();
  resolve->add_option("CONFIG", flags->config, "config file (YAML)")
      ->required()
      ->check(not_empty());
  add_set_option(*resolve, flags->set);

  return [=, &app, &context] {
    if (schema->parsed()) {
      print(config_schema());
    } else if (defaults->parsed()) {
      print(write_config(Config{}, true));
    } else if (keys->parsed()) {
      print(key_table());
    } else if (resolve->parsed()) {
      const LoadedConfig loaded = load_config(flags->config, set_overrides(flags->set));
      print_warnings(loaded, context);
      print(write_config(loaded.config, true, loaded.origin));
    } else {
      throw Error(Exit::usage,
                  "config needs one of: schema, defaults, keys, resolve; see " +
                      app.get_parent()->get_name() + " config --help");
    }
    return 0;
  };
}

}  // namespace diffuse
