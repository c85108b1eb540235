// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace diffuse {

/// JSON schema (draft-07) of the config, with defaults, bounds and help, for editors.
std::string config_schema();

/// Every full key ("diffusion.schedule.s") with help, type and default; for help and completion.
struct KeyHelp {
  std::string key, type, value, help;
};
std::vector<KeyHelp> config_keys();

}  // namespace diffuse
