# SPDX-License-Identifier: MIT
# What the program is built from besides its sources: configs/*.yaml as `diffuse init` presets, and the versions
# that `diffuse --version` prints.
set(DIFFUSE_PRESETS_CPP ${PROJECT_BINARY_DIR}/presets.cpp)
file(GLOB configs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/configs/*.yaml)
set(rows "")
foreach(config ${configs})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${config})
  file(READ ${config} text)
  get_filename_component(name ${config} NAME_WE)
  string(APPEND rows "    {\"${name}\", R\"yaml(${text})yaml\"},\n")
endforeach()
file(CONFIGURE OUTPUT ${DIFFUSE_PRESETS_CPP} @ONLY CONTENT [[
// SPDX-License-Identifier: MIT
#include "presets.h"

#include <iterator>

namespace diffuse {

const Preset kPresets[] = {
@rows@};
const int kPresetCount = static_cast<int>(std::size(kPresets));

}  // namespace diffuse
]])

# The commit, read again whenever HEAD moves; a tarball has none.
set(git "unknown commit")
find_program(GIT_PROGRAM git)
if(GIT_PROGRAM AND EXISTS ${PROJECT_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_PROGRAM} -C ${PROJECT_SOURCE_DIR} rev-parse --short=10 HEAD
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(
    COMMAND ${GIT_PROGRAM} -C ${PROJECT_SOURCE_DIR} rev-parse --path-format=absolute --git-path logs/HEAD
    OUTPUT_VARIABLE head OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(commit)
    set(git ${commit})
  endif()
  if(head AND EXISTS ${head})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${head})
  endif()
endif()
set_property(SOURCE ${PROJECT_SOURCE_DIR}/app/version.cpp APPEND PROPERTY COMPILE_DEFINITIONS
  DIFFUSE_GIT="${git}"
  DIFFUSE_LIBTORCH_VERSION="${LibTorch_VERSION}"
  DIFFUSE_YAML_CPP_VERSION="${yaml-cpp_VERSION}"
  DIFFUSE_SPDLOG_VERSION="${spdlog_VERSION}"
  DIFFUSE_TURBOJPEG_VERSION="${turbojpeg_VERSION}"
  DIFFUSE_PNG_VERSION="${PNG_VERSION_STRING}")
