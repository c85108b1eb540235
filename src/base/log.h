// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

// Messages to people: stderr, and a file once one is opened. stdout carries results only.
namespace diffuse::log {

enum class Level { debug, info, warn, error, off };

void set_level(Level level);
/// Colour on stderr. Default: none.
void set_color(bool on);
/// Also append every message, with time and level, to `path` (created if missing), those since the
/// start too (the first 1000). Throws Error{run_folder}.
void open_file(const std::string& path);
void close_file();

/// Runs before and after each message on stderr: a progress bar clears and redraws its line. Null:
/// none.
void set_line_hooks(std::function<void()> before, std::function<void()> after);

void debug(const std::string& message);
void info(const std::string& message);
void warn(const std::string& message);
void error(const std::string& message);
/// For the file only: a warning that was shown in another way.
void remember(const std::string& warning);

/// A warning of what may fail again and again, as writing to a full disk does: the first is shown,
/// then at most one each `interval`, which says how many there were since. Not thread-safe.
class RareWarning {
 public:
  explicit RareWarning(std::chrono::seconds interval = std::chrono::minutes(10))
      : interval_(interval) {}
  void warn(const std::string& message);

 private:
  std::chrono::seconds interval_;
  std::optional<std::chrono::steady_clock::time_point> shown_;
  int64_t hidden_ = 0;
};

}  // namespace diffuse::log
