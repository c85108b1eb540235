// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace diffuse::log {
namespace {

struct State {
  std::recursive_mutex mutex;
  std::shared_ptr<spdlog::sinks::ansicolor_stderr_sink_mt> terminal;
  std::unique_ptr<spdlog::logger> screen;
  std::unique_ptr<spdlog::logger> file;
  std::function<void()> before, after;
  /// What was said before a file was opened: the file begins with it.
  std::vector<std::pair<spdlog::level::level_enum, std::string>> early;
  bool failing = false;  // a message about the file itself is under way

  State() {
    terminal = std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>(spdlog::color_mode::never);
    screen = std::make_unique<spdlog::logger>("diffuse", terminal);
    screen->set_pattern("%^%v%$");
  }
};

State& state() {
  static State s;
  return s;
}

void write_to_file(State& s, spdlog::level::level_enum level, const std::string& message) {
  constexpr size_t kMostEarly = 1000;
  if (s.file)
    s.file->log(level, message);
  else if (s.early.size() < kMostEarly)
    s.early.emplace_back(level, message);
}

void write(spdlog::level::level_enum level, const char* prefix, const std::string& text) {
  const std::string message = printable(text, false);
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.screen->should_log(level)) {
    if (s.before) s.before();
    s.screen->log(level, "{}{}", prefix, message);
    s.screen->flush();
    if (s.after) s.after();
  }
  write_to_file(s, level, message);
}

}  // namespace

void set_level(Level level) {
  static constexpr spdlog::level::level_enum levels[] = {spdlog::level::debug,
                                                         spdlog::level::info,
                                                         spdlog::level::warn,
                                                         spdlog::level::err,
                                                         spdlog::level::off};
  state().screen->set_level(levels[static_cast<int>(level)]);
}

void set_color(bool on) {
  state().terminal->set_color_mode(on ? spdlog::color_mode::always : spdlog::color_mode::never);
}

void open_file(const std::string& path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (const std::string why = part_from_links(path); !why.empty()) warn(why);
  try {
    std::error_code error;
    // Opening a FIFO would wait for a reader for ever.
    if (std::filesystem::is_fifo(path, error))
      throw Error(Exit::run_folder, "cannot open the log file: " + path + " is no file but a FIFO");
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    s.file = std::make_unique<spdlog::logger>("file", sink);
  } catch (const spdlog::spdlog_ex& e) {
    throw Error(Exit::run_folder, "cannot open the log file: " + std::string(e.what()));
  }
  s.file->set_level(spdlog::level::debug);
  s.file->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  s.file->flush_on(spdlog::level::info);
  // A full disk must neither stop a run nor flood the terminal.
  const auto warning = std::make_shared<RareWarning>();
  s.file->set_error_handler([&s, path, warning](const std::string& reason) {
    if (s.failing) return;  // about the message that says so
    s.failing = true;
    const size_t system = reason.rfind(": ");  // spdlog's own words, then the system's
    warning->warn("cannot write " + path +
                  (system == std::string::npos ? "" : reason.substr(system)) +
                  "; the run goes on, and its messages are shown here alone");
    s.failing = false;
  });
  for (const auto& [level, message] : s.early) s.file->log(level, message);
  s.early.clear();
}

void close_file() {
  const std::lock_guard lock(state().mutex);
  state().file.reset();
}

void set_line_hooks(std::function<void()> before, std::function<void()> after) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.before = std::move(before);
  s.after = std::move(after);
}

void debug(const std::string& message) { write(spdlog::level::debug, "debug: ", message); }
void info(const std::string& message) { write(spdlog::level::info, "", message); }
void warn(const std::string& message) { write(spdlog::level::warn, "warning: ", message); }
void error(const std::string& message) { write(spdlog::level::err, "error: ", message); }

void remember(const std::string& warning) {
  const std::lock_guard lock(state().mutex);
  write_to_file(state(), spdlog::level::warn, printable(warning, false));
}

void RareWarning::warn(const std::string& message) {
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && now - *shown_ < interval_) {
    ++hidden_;
    return;
  }
  shown_ = now;
  log::warn(message +
            (hidden_ > 0 ? " (" + std::to_string(hidden_) + " more since the last)" : ""));
  hidden_ = 0;
}

}  // namespace diffuse::log
