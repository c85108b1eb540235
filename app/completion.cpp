// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>

#include "command.h"
#include "config/schema.h"

namespace diffuse {
namespace {

/// A command's path ("config resolve"; "" for diffuse itself) and what may follow it.
struct CommandLevel {
  std::string path;
  std::vector<const CLI::App*> commands;
  std::vector<const CLI::Option*> options;
};

void collect(const CLI::App* app, const std::string& path, std::vector<CommandLevel>& out) {
  CommandLevel level{path, app->get_subcommands([](const CLI::App*) { return true; }), {}};
  level.options = app->get_options([](const CLI::Option* o) { return o->nonpositional(); });
  out.push_back(level);
  for (const CLI::App* command : level.commands)
    collect(command, path.empty() ? command->get_name() : path + " " + command->get_name(), out);
}

std::vector<std::string> option_names(const CLI::Option* option) {
  std::vector<std::string> out;
  for (const std::string& name : option->get_snames()) out.push_back("-" + name);
  for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
  return out;
}

/// The words of an option like `auto|cpu`; empty when its value is anything.
std::vector<std::string> choices(const CLI::Option* option) {
  std::vector<std::string> out;
  const std::string type = option->get_type_name();
  if (type.find('|') == std::string::npos) return out;
  for (size_t begin = 0; begin <= type.size();) {
    const size_t end = std::min(type.find('|', begin), type.size());
    const std::string word = type.substr(begin, end - begin);
    const bool placeholder =
        std::all_of(word.begin(), word.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (!placeholder) out.push_back(word);
    begin = end + 1;
  }
  return out;
}

/// The words that the only positional of a command may be.
std::vector<std::string> positional_choices(const CLI::App* app) {
  for (const CLI::Option* option :
       app->get_options([](const CLI::Option* o) { return o->get_positional(); }))
    if (const auto words = choices(option); !words.empty()) return words;
  return {};
}

std::string words_of(const CommandLevel& level, const CLI::App* app) {
  std::string out;
  for (const CLI::App* command : level.commands) out += command->get_name() + " ";
  for (const std::string& word : positional_choices(app)) out += word + " ";
  for (const CLI::Option* option : level.options)
    for (const std::string& name : option_names(option)) out += name + " ";
  if (!out.empty()) out.pop_back();
  return out;
}

const CLI::App* find(const CLI::App* root, const std::string& path) {
  const CLI::App* app = root;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find(' ', begin), path.size());
    app = app->get_subcommand(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return app;
}

std::string set_keys() {
  std::string out;
  for (const KeyHelp& key : config_keys()) out += (out.empty() ? "" : " ") + key.key + "=";
  return out;
}

/// A body for bash and zsh: sets `list` for the word being completed from `at`, the command so far,
/// and `prev`.
std::string word_cases(const CLI::App* root, const std::vector<CommandLevel>& levels) {
  std::string out = "  case \"$at $prev\" in\n";
  out += "    *' -s'|*' --set') list=\"$(_diffuse_keys)\"; kind=keys ;;\n";
  for (const CommandLevel& level : levels)
    for (const CLI::Option* option : level.options) {
      const std::vector<std::string> words = choices(option);
      if (words.empty()) continue;
      std::string pattern;
      for (const std::string& name : option_names(option)) {
        if (!pattern.empty()) pattern += "|";
        // Options of diffuse itself may follow any command.
        pattern += level.path.empty() ? "*' " + name + "'" : "'" + level.path + " " + name + "'";
      }
      std::string list;
      for (const std::string& word : words) list += (list.empty() ? "" : " ") + word;
      out += "    " + pattern + ") list='" + list + "' ;;\n";
    }
  out += "    *) case \"$at\" in\n";
  for (const CommandLevel& level : levels)
    out +=
        "      '" + level.path + "') list='" + words_of(level, find(root, level.path)) + "' ;;\n";
  out += "    esac ;;\n  esac\n";
  return out;
}

/// The body of a loop over the words before the cursor: `at` becomes the command that they name.
std::string path_loop(const std::vector<CommandLevel>& levels) {
  std::string cases;
  for (const CommandLevel& level : levels)
    if (!level.path.empty()) cases += (cases.empty() ? "'" : "|'") + level.path + "'";
  return "    case \"${at:+$at }$word\" in\n      " + cases +
         ") at=\"${at:+$at }$word\" ;;\n    esac\n";
}

std::string keys_function() { return "_diffuse_keys() {\n  printf '%s' '" + set_keys() + "'\n}\n"; }

std::string bash_script(const CLI::App* root, const std::vector<CommandLevel>& levels) {
  return "# bash completion of diffuse: source <(diffuse completion bash)\n" + keys_function() +
         "_diffuse() {\n"
         "  local current=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
         "  local at='' list='' kind='' word i\n"
         "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "    word=\"${COMP_WORDS[i]}\"\n" +
         path_loop(levels) + "  done\n" + word_cases(root, levels) +
         "  # Options once a dash is typed; files when nothing else fits.\n"
         "  local words=''\n"
         "  for word in $list; do\n"
         "    [[ $word == -* && $current != -* ]] || words+=\" $word\"\n"
         "  done\n"
         "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
         "  if [[ $kind == keys ]]; then compopt -o nospace; fi\n"
         "  if ((${#COMPREPLY[@]} == 0)); then mapfile -t COMPREPLY < <(compgen -f -- "
         "\"$current\"); fi\n"
         "}\n"
         "complete -o filenames -F _diffuse diffuse\n";
}

std::string zsh_script(const CLI::App* root, const std::vector<CommandLevel>& levels) {
  return "#compdef diffuse\n# zsh completion of diffuse: source <(diffuse completion zsh)\n" +
         keys_function() +
         "_diffuse() {\n"
         "  local prev=\"${words[CURRENT-1]}\" at='' list='' kind='' word i\n"
         "  for ((i = 2; i < CURRENT; i++)); do\n"
         "    word=\"${words[i]}\"\n" +
         path_loop(levels) + "  done\n" + word_cases(root, levels) +
         "  if [[ $kind == keys ]]; then compadd -S '' -- ${=list}; else compadd -- ${=list}; fi\n"
         "  _files\n"
         "}\n"
         "if [[ $funcstack[1] == _diffuse ]]; then _diffuse \"$@\"; else compdef _diffuse diffuse; "
         "fi\n";
}

std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_script(const CLI::App* root, const std::vector<CommandLevel>& levels) {
  std::string out = "# fish completion of diffuse: diffuse completion fish | source\n";
  for (const CommandLevel& level : levels) {
    std::string condition;
    for (size_t begin = 0; begin < level.path.size();) {
      const size_t end = std::min(level.path.find(' ', begin), level.path.size());
      condition += (condition.empty() ? "" : "; and ") +
                   std::string("__fish_seen_subcommand_from ") +
                   level.path.substr(begin, end - begin);
      begin = end + 1;
    }
    std::string below;  // a command is offered while none of its level has been given
    for (const CLI::App* command : level.commands) below += " " + command->get_name();
    const std::string lead = "complete -c diffuse";
    const std::string at = condition.empty() ? "" : " -n " + fish_quoted(condition);
    for (const CLI::App* command : level.commands) {
      const std::string when = (condition.empty() ? "" : condition + "; and ") +
                               "not __fish_seen_subcommand_from" + below;
      out += lead + " -f -n " + fish_quoted(when) + " -a " + command->get_name() + " -d " +
             fish_quoted(command->get_description()) + "\n";
    }
    for (const std::string& word : positional_choices(find(root, level.path)))
      out += lead + " -f" + at + " -a " + word + "\n";
    for (const CLI::Option* option : level.options) {
      out += lead + at;
      for (const std::string& name : option->get_snames()) out += " -s " + name;
      for (const std::string& name : option->get_lnames()) out += " -l " + name;
      const std::vector<std::string> words = choices(option);
      std::string list;
      for (const std::string& word : words) list += (list.empty() ? "" : " ") + word;
      if (option->check_name("--set")) list = set_keys();
      if (!list.empty())
        out += " -x -a " + fish_quoted(list);
      else if (option->get_type_size() != 0)
        out += " -r";
      out += " -d " + fish_quoted(option->get_description()) + "\n";
    }
  }
  return out;
}

}  // namespace

Run add_completion(CLI::App& app, const Context& context) {
  app.description("Print a completion script for a shell.");
  app.footer(
      "  source <(diffuse completion bash)\n"
      "  diffuse completion zsh > ~/.zfunc/_diffuse\n"
      "  diffuse completion fish > ~/.config/fish/completions/diffuse.fish");
  const auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")
      ->type_name("bash|zsh|fish")
      ->required()
      ->check(one_of({"bash", "zsh", "fish"}));
  return [shell, &context] {
    std::vector<CommandLevel> levels;
    collect(context.root, "", levels);
    if (*shell == "bash") print(bash_script(context.root, levels));
    if (*shell == "zsh") print(zsh_script(context.root, levels));
    if (*shell == "fish") print(fish_script(context.root, levels));
    return 0;
  };
}

}  // namespace diffuse
