// SPDX-License-Identifier: MIT
#include <string>
#include <string_view>
#include <vector>

#include "config/yaml.h"
#include "input_file.h"
#include "targets.h"

namespace diffuse::fuzz {
namespace {

/// Takes "123:" off the front.
bool take_number(std::string_view& text) {
  const size_t end = text.find_first_not_of("0123456789");
  if (end == 0 || end == std::string_view::npos || text[end] != ':') return false;
  text.remove_prefix(end + 1);
  return true;
}

/// "c.yaml:LINE:COLUMN: error: ..." or "--set[N]:COLUMN: error: ...".
bool has_place(std::string_view line) {
  if (line.starts_with("c.yaml:")) {
    line.remove_prefix(7);
    return take_number(line) && take_number(line);
  }
  if (!line.starts_with("--set[")) return false;
  line.remove_prefix(line.find("]:") + 2);
  return take_number(line);
}

void check_report(std::string_view report) {
  DIFFUSE_CHECK(report.ends_with(". Nothing was started."));
  size_t placed = 0;
  for (size_t begin = 0; begin < report.size();) {
    const size_t end = std::min(report.find('\n', begin), report.size());
    const std::string_view line = report.substr(begin, end - begin);
    DIFFUSE_CHECK(line.size() < 2000);
    // Source lines are indented.
    if (!line.starts_with(' ') && line.find(": error: ") != std::string_view::npos) {
      DIFFUSE_CHECK(has_place(line));
      ++placed;
    }
    begin = end + 1;
  }
  DIFFUSE_CHECK(placed > 0);
  for (const char c : report)
    DIFFUSE_CHECK(static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t');
}

}  // namespace

void config(Bytes input) {
  constexpr char kSeparator = '\x1E';
  std::string_view rest = text_of(input);
  const std::string_view text = rest.substr(0, rest.find(kSeparator));
  std::vector<Override> overrides;
  while (rest.find(kSeparator) != std::string_view::npos) {
    rest.remove_prefix(rest.find(kSeparator) + 1);
    overrides.push_back({std::string(rest.substr(0, rest.find(kSeparator))),
                         "--set[" + std::to_string(overrides.size() + 1) + "]"});
  }
  try {
    const Config config = load_config_text(text, "c.yaml", "/", overrides).config;
    if (!is_drawn(input)) return;  // the rest takes as long as all before
    const Config again = load_config_text(write_config(config, false), "c.yaml", "/", {}).config;
    DIFFUSE_CHECK(config_differences(config, again, false).empty());
  } catch (const ConfigError& e) {
    check_report(e.what());
  }
}

}  // namespace diffuse::fuzz
