// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "config/yaml.h"

namespace diffuse::test {

/// Loads `text` as c.yaml of the current folder, with overrides named --set[1], ...
inline LoadedConfig load(const std::string& text, const std::vector<std::string>& set = {}) {
  std::vector<Override> overrides;
  for (const std::string& one : set)
    overrides.push_back({one, "--set[" + std::to_string(overrides.size() + 1) + "]"});
  return load_config_text(text, "c.yaml", ".", overrides);
}

/// The report of a config that does not load; "" when it does.
inline std::string errors(const std::string& text, const std::vector<std::string>& set = {}) {
  try {
    load(text, set);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

/// The smallest config: what has to be set.
inline const std::string kMinimal = "data: {path: /pictures}\n";

}  // namespace diffuse::test
