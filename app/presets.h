// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

// The files of configs/, built into the program (scripts/cmake/AppSources.cmake writes the table).

namespace diffuse {

struct Preset {
  std::string_view name;  // "digits"
  std::string_view text;
};

extern const Preset kPresets[];
extern const int kPresetCount;

}  // namespace diffuse
