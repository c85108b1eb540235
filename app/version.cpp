// SPDX-License-Identifier: MIT
#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>

#include "command.h"

namespace diffuse {

std::string build_commit() { return DIFFUSE_GIT; }

std::string version_text(bool json) {
  // scripts/cmake/AppSources.cmake defines the versions of what has none in its headers.
  nlohmann::ordered_json out{{"diffuse", DIFFUSE_VERSION}, {"git", DIFFUSE_GIT}};
  out["compiler"] = "GCC " __VERSION__;
#ifdef __clang__
  out["compiler"] = __VERSION__;
#endif
  out["built against"] = {{"LibTorch", DIFFUSE_LIBTORCH_VERSION},
                          {"CLI11", CLI11_VERSION},
                          {"yaml-cpp", DIFFUSE_YAML_CPP_VERSION},
                          {"spdlog", DIFFUSE_SPDLOG_VERSION},
                          {"nlohmann-json",
                           std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." +
                               std::to_string(NLOHMANN_JSON_VERSION_MINOR) + "." +
                               std::to_string(NLOHMANN_JSON_VERSION_PATCH)},
                          {"libjpeg-turbo", DIFFUSE_TURBOJPEG_VERSION},
                          {"libpng", DIFFUSE_PNG_VERSION}};
  if (json) return out.dump(2) + "\n";
  std::string text =
      "diffuse " DIFFUSE_VERSION " (" DIFFUSE_GIT ", " + out["compiler"].get<std::string>() + ")\n";
  for (const auto& [name, version] : out["built against"].items())
    text += "  " + name + " " + version.get<std::string>() + "\n";
  return text;
}

}  // namespace diffuse
