// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "command.h"
#include "config/suggest.h"

namespace diffuse {
namespace {

CLI::Validator integer(int64_t low, int64_t high, const std::string& range) {
  const auto check = [=](const std::string& value) -> std::string {
    int64_t number = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error == std::errc() && stop == end && number >= low && number <= high) return {};
    return "must be an integer " + range + ", got '" + value + "'";
  };
  return CLI::Validator(check, "");
}

}  // namespace

std::optional<int64_t> parse_count(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

void print(const std::string& text) {
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if ((written && std::fflush(stdout) == 0) || errno == EPIPE) return;
  throw Error(Exit::write, "cannot write to stdout: " + std::string(std::strerror(errno)));
}

CLI::Validator one_of(std::vector<std::string> names) {
  const auto check = [names = std::move(names)](std::string& value) -> std::string {
    if (std::find(names.begin(), names.end(), value) != names.end()) return {};
    std::string list;
    std::vector<Suggestion> candidates;
    for (const std::string& name : names) {
      list += (list.empty() ? "" : ", ") + name;
      candidates.push_back({name, {}});
    }
    const std::string near = closest_name(value, candidates);
    return "must be one of " + list + ", got '" + value + "'" +
           (near.empty() ? "" : "; did you mean '" + near + "'?");
  };
  return CLI::Validator(check, "");
}

CLI::Validator at_least(int64_t low) {
  return integer(low, INT64_MAX, "of at least " + std::to_string(low));
}

CLI::Validator between(int64_t low, int64_t high) {
  return integer(low, high, "from " + std::to_string(low) + " to " + std::to_string(high));
}

CLI::Validator not_empty() {
  return CLI::Validator(
      [](const std::string& text) {
        return text.empty() ? std::string("must not be empty (an unset variable of a script?)")
                            : std::string();
      },
      "",
      "not empty");
}

std::optional<std::vector<int64_t>> parse_counts(const std::string& text) {
  std::vector<int64_t> out;
  for (size_t begin = 0; !text.empty() && begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const auto number = parse_count(std::string_view(text).substr(begin, end - begin));
    if (!number) return std::nullopt;
    out.push_back(*number);
    begin = end + 1;
  }
  return out;
}

std::optional<int64_t> parse_duration(const std::string& text) {
  if (const auto seconds = parse_count(text)) return seconds;
  int64_t total = 0;
  char before = 'w';  // units go down: 2d3h, not 3h2d
  for (size_t begin = 0; begin < text.size();) {
    const size_t unit = text.find_first_of("dhms", begin);
    if (unit == std::string::npos || unit == begin) return std::nullopt;
    const auto number = parse_count(std::string_view(text).substr(begin, unit - begin));
    constexpr std::string_view order = "wdhms";
    constexpr int64_t seconds[] = {0, 86400, 3600, 60, 1};
    const size_t rank = order.find(text[unit]);
    if (!number || rank <= order.find(before) || *number > 1'000'000) return std::nullopt;
    total += *number * seconds[rank];
    before = text[unit];
    begin = unit + 1;
  }
  return text.empty() ? std::nullopt : std::optional<int64_t>(total);
}

std::vector<int64_t> parse_grid(const std::string& text) {
  const size_t x = text.find('x');
  if (x == std::string::npos) return {};
  const auto rows = parse_count(std::string_view(text).substr(0, x));
  const auto columns = parse_count(std::string_view(text).substr(x + 1));
  constexpr int64_t kMost = 1000;
  if (!rows || !columns || *rows < 1 || *columns < 1 || *rows > kMost || *columns > kMost)
    return {};
  return {*rows, *columns};
}

CLI::Option* add_set_option(CLI::App& app, std::vector<std::string>& texts) {
  return app
      .add_option(
          "-s,--set", texts, "change one value of the config, e.g. optim.lr=1.0e-4; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

std::vector<Override> set_overrides(const std::vector<std::string>& texts) {
  std::vector<Override> out;
  for (const std::string& text : texts)
    out.push_back({text, "--set[" + std::to_string(out.size() + 1) + "]"});
  return out;
}

void print_warnings(const LoadedConfig& loaded, const Context& context) {
  if (!context.warnings) return;
  for (const std::string& warning : loaded.warnings) {
    std::fprintf(stderr, "%s\n", warning.c_str());
    log::remember(warning);
  }
}

bool is_typed(const Context& context, const std::string& name) {
  return std::any_of(context.argv.begin(), context.argv.end(), [&](const std::string& argument) {
    return argument.substr(0, argument.find('=')) == name;
  });
}

}  // namespace diffuse
