// SPDX-License-Identifier: MIT
#include <algorithm>

#include "command.h"

namespace diffuse {
namespace {

constexpr size_t kColumn = 28;  // of the descriptions
constexpr size_t kWidth = 96;

/// "  name        words", with the words wrapped in their column.
std::string entry(const std::string& name, const std::string& words) {
  std::string out = "  " + name;
  if (out.size() + 2 > kColumn)
    out += "\n" + std::string(kColumn, ' ');
  else
    out += std::string(kColumn - out.size(), ' ');
  size_t column = kColumn;
  for (size_t begin = 0; begin < words.size();) {
    const size_t end = std::min(words.find(' ', begin), words.size());
    if (column > kColumn && column + (end - begin) > kWidth) {
      out.pop_back();  // the space
      out += "\n" + std::string(kColumn, ' ');
      column = kColumn;
    }
    out += words.substr(begin, end - begin) + " ";
    column += end - begin + 1;
    begin = end + 1;
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out + "\n";
}

class HelpFormatter : public CLI::Formatter {
 public:
  // Examples are what people look for: they come before the options. They are the footer of the
  // app.
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode) const override {
    std::string out = app->get_description() + "\n";
    if (!app->get_footer().empty()) out += "\nExamples:\n" + app->get_footer() + "\n";
    out += "\n" + make_usage(app, std::move(name));
    out += make_positionals(app);
    const auto commands = app->get_subcommands([](const CLI::App*) { return true; });
    if (!commands.empty()) {
      out += "\nCommands:\n";
      for (const CLI::App* command : commands)
        out += entry(command->get_name(), command->get_description());
    }
    const auto options = app->get_options([](const CLI::Option* o) { return o->nonpositional(); });
    if (!options.empty())
      out += make_group(
          app->get_parent() == nullptr ? "Options, before or after the command" : "Options",
          false,
          options);
    if (app->get_parent() != nullptr)
      out += "\nAlso: -q, -v, --log-level, --color, --progress, --threads (see diffuse --help).\n";
    else
      out +=
          "\nExit codes: 0 done, 1 bug, 2 command line, 3 config, 4 run folder, 5 data, 6 "
          "checkpoint,\n"
          "7 device, 8 diverged, 9 cannot write, 75 stopped after saving (run it again), 130 "
          "Ctrl-C.\n";
    return out;
  }

  std::string make_option(const CLI::Option* option, bool positional) const override {
    return entry(make_option_name(option, positional) + make_option_opts(option),
                 make_option_desc(option));
  }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0 || option->get_positional()) return {};
    return " " + option->get_type_name();
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    std::string out = option->get_description();
    if (!option->get_default_str().empty()) out += " [default: " + option->get_default_str() + "]";
    if (!option->get_envname().empty()) out += " [env: " + option->get_envname() + "]";
    return out;
  }

  std::string make_group(std::string group,
                         bool positional,
                         std::vector<const CLI::Option*> options) const override {
    std::string out = "\n" + group + ":\n";
    for (const CLI::Option* option : options) out += make_option(option, positional);
    return out;
  }
};

}  // namespace

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  auto formatter = std::make_shared<HelpFormatter>();
  formatter->label("Positionals", "Arguments");
  formatter->label("SUBCOMMAND", "COMMAND");
  return formatter;
}

}  // namespace diffuse
