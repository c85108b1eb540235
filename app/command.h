// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/yaml.h"
#include "core.h"

// A subcommand is a row of the table in main.cpp and one file: a function that adds its options to
// the command line and returns what to do when it was chosen.

namespace diffuse {

/// What every command may need to know. Filled in when its function runs, not when options are
/// added.
struct Context {
  GlobalOptions global;
  bool warnings = true;  // whether they are shown
  std::vector<std::string> argv;
  const CLI::App* root = nullptr;
};

/// Returns the exit code; throws Error.
using Run = std::function<int()>;

Run add_train(CLI::App& app, const Context& context);
Run add_sample(CLI::App& app, const Context& context);
Run add_evaluate(CLI::App& app, const Context& context);
Run add_check(CLI::App& app, const Context& context);
Run add_inspect(CLI::App& app, const Context& context);
Run add_verify(CLI::App& app, const Context& context);
Run add_schedule(CLI::App& app, const Context& context);
Run add_explain(CLI::App& app, const Context& context);
Run add_compare(CLI::App& app, const Context& context);
Run add_bench(CLI::App& app, const Context& context);
Run add_config(CLI::App& app, const Context& context);
Run add_init(CLI::App& app, const Context& context);
Run add_completion(CLI::App& app, const Context& context);

/// Result on stdout. Throws Error{write} when it cannot be written; a reader that has gone (head)
/// is no error.
void print(const std::string& text);

/// `--version` and `--version --json`: without LibTorch.
std::string version_text(bool json);

/// The commit that the program was built from, as far as that is known.
std::string build_commit();

/// Validators with messages that name the choices, the bound and the nearest name.
CLI::Validator one_of(std::vector<std::string> names);
CLI::Validator at_least(int64_t low);
CLI::Validator between(int64_t low, int64_t high);
/// A script's unset variable must not mean the default.
CLI::Validator not_empty();

/// An option whose values are the names of a table's rows (base/choice.h).
template <class Table, class Value>
CLI::Option* add_row_option(CLI::App& app,
                            const std::string& name,
                            Value& value,
                            const Table& table,
                            const std::string& help) {
  std::vector<std::string> names;
  std::string list;
  for (const auto& row : table) {
    names.push_back(row.name);
    list += (list.empty() ? "" : "|") + row.name;
  }
  return app.add_option(name, value, help)->type_name(list)->check(one_of(names));
}

/// The whole of `text` as an integer of at least 0; none when it is none.
std::optional<int64_t> parse_count(std::string_view text);

/// "0,100,400" -> {0, 100, 400}; "" -> {}; none when it is no such list.
std::optional<std::vector<int64_t>> parse_counts(const std::string& text);

/// "3h50m", "90s", "2d", "45" (seconds) -> seconds; none when it is no duration.
std::optional<int64_t> parse_duration(const std::string& text);

/// "8x4" -> {8, 4}; empty when it is no grid.
std::vector<int64_t> parse_grid(const std::string& text);

/// The `-s/--set` option into `texts`.
CLI::Option* add_set_option(CLI::App& app, std::vector<std::string>& texts);
/// The --set texts as overrides named --set[1], --set[2], ...
std::vector<Override> set_overrides(const std::vector<std::string>& texts);
/// Prints the warnings of a config on stderr as they are, where warnings are shown.
void print_warnings(const LoadedConfig& loaded, const Context& context);

/// Whether `--name` or `--name=value` was typed; if not, a value came from the environment.
bool is_typed(const Context& context, const std::string& name);

/// The formatter of --help: description, examples, usage, options.
std::shared_ptr<CLI::FormatterBase> help_formatter();

}  // namespace diffuse
