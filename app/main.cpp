// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>
#include <thread>

#include "base/log.h"
#include "command.h"
#include "config/suggest.h"

namespace diffuse {
namespace {

struct Command {
  const char* name;
  Run (*add)(CLI::App&, const Context&);
};

constexpr Command kCommands[] = {
    {"train", add_train},
    {"sample", add_sample},
    {"evaluate", add_evaluate},
    {"check", add_check},
    {"inspect", add_inspect},
    {"verify", add_verify},
    {"schedule", add_schedule},
    {"explain", add_explain},
    {"compare", add_compare},
    {"bench", add_bench},
    {"config", add_config},
    {"init", add_init},
    {"completion", add_completion},
};

struct GlobalFlags {
  bool version = false;
  bool json = false;
  bool quiet = false;
  bool verbose = false;
  std::string log_level;
  std::string color = "auto";
  std::string progress = "auto";
  int threads = 0;
};

void add_globals(CLI::App& app, GlobalFlags& flags) {
  app.add_flag("--version", flags.version, "print the version and those of the libraries");
  app.add_flag("--json", flags.json, "with --version: as JSON");
  app.add_flag("-q,--quiet", flags.quiet, "warnings and errors only");
  app.add_flag("-v,--verbose", flags.verbose, "details, too");
  app.add_option("--log-level",
                 flags.log_level,
                 "messages on stderr; stronger than -q and -v [default: info]")
      ->type_name("debug|info|warn|error|off")
      ->check(one_of({"debug", "info", "warn", "error", "off"}))
      ->envname("DIFFUSE_LOG_LEVEL");
  app.add_option(
         "--color", flags.color, "colour on stderr; auto: on a terminal, unless NO_COLOR is set")
      ->type_name("auto|always|never")
      ->check(one_of({"auto", "always", "never"}))
      ->capture_default_str()
      ->envname("DIFFUSE_COLOR");
  app.add_option("--progress",
                 flags.progress,
                 "bar: one line redrawn; plain: a line now and then; auto: by the terminal")
      ->type_name("auto|bar|plain|none")
      ->check(one_of({"auto", "bar", "plain", "none"}))
      ->capture_default_str()
      ->envname("DIFFUSE_PROGRESS");
  app.add_option("--threads",
                 flags.threads,
                 "threads of the tensor work (pictures are decoded by data.workers); 0: one a core")
      ->type_name("N")
      ->check(between(0, 4096))
      ->capture_default_str()
      ->envname("DIFFUSE_THREADS");
}

bool use_color(const std::string& choice) {
  if (choice != "auto") return choice == "always";
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::string(terminal) == "dumb";
  return ::isatty(STDERR_FILENO) && !dumb && (no_color == nullptr || *no_color == '\0');
}

void apply_globals(const GlobalFlags& flags, Context& context) {
  GlobalOptions& out = context.global;
  std::string level = flags.log_level;
  if (level.empty()) level = flags.quiet ? "warn" : flags.verbose ? "debug" : "info";
  log::set_level(level == "debug"  ? log::Level::debug
                 : level == "info" ? log::Level::info
                 : level == "warn" ? log::Level::warn
                 : level == "off"  ? log::Level::off
                                   : log::Level::error);
  context.warnings = level != "error" && level != "off";
  log::set_color(use_color(flags.color));
  out.progress = flags.progress == "bar"     ? ProgressMode::bar
                 : flags.progress == "plain" ? ProgressMode::plain
                 : flags.progress == "none"  ? ProgressMode::none
                                             : ProgressMode::automatic;
  // -q asks for silence: the lines of plain progress are no warnings.
  if (flags.quiet && out.progress == ProgressMode::automatic) out.progress = ProgressMode::none;
  out.threads = flags.threads;
}

/// The innermost command that was given.
const CLI::App& chosen(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  return *at;
}

std::string command_line(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : command_line(*app.get_parent()) + " " + app.get_name();
}

/// What is wrong with an argument that nothing takes.
std::string explain_extra(const CLI::App& root, const CLI::App& command) {
  const std::vector<std::string> extras = root.remaining(true);
  std::string wrong = extras.at(0);
  for (auto it = extras.rbegin(); it != extras.rend();
       ++it)  // `--devise cpu`: not cpu is the mistake
    if (it->starts_with("-")) wrong = *it;
  std::vector<Suggestion> candidates;
  if (wrong.starts_with("-")) {
    wrong = wrong.substr(0, wrong.find('='));
    for (const CLI::App* app : {&command, &root})
      for (const CLI::Option* option :
           app->get_options([](const CLI::Option* o) { return o->nonpositional(); }))
        for (const std::string& name : option->get_lnames())
          candidates.push_back({"--" + name, {}});
  } else {
    for (const CLI::App* app : command.get_subcommands([](const CLI::App*) { return true; }))
      candidates.push_back({app->get_name(), {}});
  }
  const std::string kind = wrong.starts_with("-") ? "unknown option"
                           : candidates.empty()   ? "unexpected argument"
                                                  : "unknown command";
  const std::string near = closest_name(wrong, candidates);
  return kind + " '" + wrong + "'" + (near.empty() ? "" : "; did you mean '" + near + "'?");
}

/// An option whose value came from the environment is not to be looked for on the command line.
std::string environment_of(const CLI::App& app,
                           const std::string& message,
                           const Context& context) {
  for (const CLI::Option* option : app.get_options()) {
    const std::string& name = option->get_envname();
    if (!name.empty() && std::getenv(name.c_str()) != nullptr &&
        message.starts_with(option->get_name() + ":") && !is_typed(context, option->get_name()))
      return " (from the environment: " + name + ")";
  }
  return {};
}

int usage_error(const CLI::App& root, const std::string& message) {
  log::error(message + "; see " + command_line(chosen(root)) + " --help");
  return static_cast<int>(Exit::usage);
}

int run(int argc, char** argv) {
  Context context;
  context.argv.assign(argv, argv + argc);
  CLI::App app("Train and sample denoising diffusion models of images.", "diffuse");
  context.root = &app;
  app.formatter(help_formatter());
  app.footer(
      "  diffuse init my-model                          a commented config to start from\n"
      "  diffuse check my-model/config.yaml             config and pictures, without training\n"
      "  diffuse train my-model/config.yaml --run-dir runs/a\n"
      "  diffuse sample runs/a -o grid.png");
  app.set_help_flag("-h,--help", "print this help");
  app.require_subcommand(0, 1);
  app.fallthrough();  // inherited by the commands: global options may follow them
  GlobalFlags flags;
  add_globals(app, flags);
  std::vector<std::pair<const CLI::App*, Run>> commands;
  for (const Command& command : kCommands) {
    CLI::App* added = app.add_subcommand(command.name);
    added->footer("");
    commands.emplace_back(added, command.add(*added, context));
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print(app.help());
    return 0;
  } catch (const CLI::ExtrasError&) {
    return usage_error(app, explain_extra(app, chosen(app)));
  } catch (const CLI::ParseError& e) {
    const std::string message = e.what();
    return usage_error(app,
                       message + environment_of(app, message, context) +
                           environment_of(chosen(app), message, context));
  }

  // Where a command knows --json, it is the command's own: this one would change nothing.
  if (flags.json && !flags.version)
    return usage_error(app, "--json goes with --version, or behind check, inspect or verify");
  apply_globals(flags, context);
  if (flags.version) {
    print(version_text(flags.json));
    return 0;
  }
  for (const auto& [command, action] : commands) {
    if (!command->parsed()) continue;
    try {
      return action();
    } catch (const ConfigError& e) {
      if (flags.log_level != "off") std::fprintf(stderr, "%s\n", e.what());  // has its own layout
      return static_cast<int>(e.code);
    }
  }
  std::cerr << app.help();
  return static_cast<int>(Exit::usage);
}

/// Without it a file that is opened later may get the number of a stream that the caller closed,
/// and would hold our messages. A result for a closed stdout is still an error: it is not writable.
void open_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0)
      ::open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY);  // the lowest free number
}

int run_to_exit_code(int argc, char** argv) {
  namespace fs = std::filesystem;
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    log::error(e.what());
    return static_cast<int>(e.code);
  } catch (const fs::filesystem_error& e) {
    const std::string place = e.path1().empty() ? "a file" : e.path1().string();
    log::error("cannot use " + place + ": " + e.code().message() +
               "; choose another place, or mend its rights");
    return static_cast<int>(Exit::run_folder);
  } catch (const std::system_error& e) {
    log::error(std::string("the system refuses a thread: ") + e.what() +
               "; ask for fewer (--threads, data.workers), or raise ulimit -u and -v");
    return static_cast<int>(Exit::device);
  } catch (const std::bad_alloc&) {
    log::error("out of memory; ask for less at once (train.batch, data.cache, --count)");
    return static_cast<int>(Exit::device);
  } catch (const std::exception& e) {
    log::error(std::string("bug: ") + e.what() +
               "; please report this with the command and its output");
    return static_cast<int>(Exit::bug);
  }
}

/// `work()` with a stack that it can rely on, here and in all threads that are made from now on: a
/// low limit (ulimit -s) would end the program by a signal somewhere in LibTorch.
template <class Work>
int with_enough_stack(Work work) {
  constexpr rlim_t kEnough = 8 << 20;
  rlimit limit{};
  if (::getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= kEnough) return work();
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kEnough);
  ::pthread_setattr_default_np(&attributes);
  ::pthread_attr_destroy(&attributes);
  int code = 0;
  try {
    std::thread([&] { code = work(); }).join();
  } catch (const std::system_error&) {  // no memory for it
    log::error("the stack is limited to " + std::to_string(limit.rlim_cur) +
               " bytes and no thread with a larger one can be made; raise ulimit -s or -v");
    return static_cast<int>(Exit::device);
  }
  return code;
}

}  // namespace
}  // namespace diffuse

int main(int argc, char** argv) {
  diffuse::open_closed_streams();
  // A reader that goes away (a pager, ssh) must stop neither training nor a result's last lines.
  std::signal(SIGPIPE, SIG_IGN);
  // A file size limit (ulimit -f) then is a write that fails, with a message and an exit code.
  std::signal(SIGXFSZ, SIG_IGN);
  const int code =
      diffuse::with_enough_stack([&] { return diffuse::run_to_exit_code(argc, argv); });
  if (code == static_cast<int>(diffuse::Exit::interrupted)) {
    // Only a program that SIGINT has ended stops the loop of a shell around it; $? is 130 all the
    // same.
    std::fflush(nullptr);
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
  return code;
}
