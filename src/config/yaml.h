// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "config/config.h"

namespace diffuse {

/// One `--set key=value`; `origin` names it in messages ("--set[1]").
struct Override {
  std::string text;
  std::string origin;
};

/// Everything that is wrong with a config: what() is a finished report with `error:` in each entry.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& report) : Error(Exit::config, report) {}
};

struct LoadedConfig {
  Config config;
  std::vector<std::string>
      warnings;  // each laid out like an error: "config.yaml:3:5: warning: ..."
  /// Where a full key's value came from: "config.yaml:12", "--set[1]" or "default".
  std::function<std::string(const std::string&)> origin;
};

/// Reads a config (YAML 1.2 core without anchors, aliases, tags, merge keys, duplicate keys; at
/// most 1 MiB, depth 64, 10,000 nodes, UTF-8), applies the overrides in order and checks it. All
/// errors at once (20 are shown), each with file:line:column, source line and remedy, in one
/// ConfigError. A relative path in the file is relative to `base_folder` (load_config: the file's
/// folder), one in an override to the current folder; the loaded config holds absolute paths.
LoadedConfig load_config(const std::filesystem::path& file, const std::vector<Override>& overrides);
/// The text of a config file, for load_config_text. Throws Error{config}.
std::string read_config(const std::filesystem::path& file);
LoadedConfig load_config_text(std::string_view text,
                              const std::string& name,
                              const std::filesystem::path& base_folder,
                              const std::vector<Override>& overrides);

/// The whole config as YAML; reading it gives an equal config. With `comments`, each key's help and
/// (when `origin` is given) where it came from.
std::string write_config(const Config& config,
                         bool comments,
                         const std::function<std::string(const std::string&)>& origin = nullptr);

/// One key of a config with its value as YAML.
struct ConfigValue {
  std::string key, value;
  bool affects_result = true;  // false: may change on resume
};
/// Every key with a value, in order; of an axis its row and that row's options.
std::vector<ConfigValue> config_values(const Config& config);

/// The keys whose values differ, as "diffusion.target: epsilon -> velocity". `affects_result_only`
/// leaves out the fields that may change on resume.
std::vector<std::string> config_differences(const Config& a,
                                            const Config& b,
                                            bool affects_result_only);

}  // namespace diffuse
