// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace diffuse {

enum class ProgressMode { automatic, bar, plain, none };

/// automatic becomes bar on a terminal that can redraw a line (TERM is set and not dumb), else
/// plain.
ProgressMode resolve_progress(ProgressMode mode);

/// One line on stderr: redrawn at most 10 times a second as a bar, or nothing between plain lines.
/// Log messages printed meanwhile do not tear it. While a second one lives (sampling within
/// training) the first is not drawn. Never throws for want of a working stderr.
class Progress {
 public:
  /// `done` of `total` steps were made before (a resumed run).
  Progress(ProgressMode mode, std::string title, int64_t done, int64_t total);
  ~Progress();  // clears the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// `text` follows the bar ("loss 0.031  512 img/s  wait 0%"); the ETA is computed here.
  void update(int64_t done, const std::string& text);
  /// A whole line for logs (plain mode): "train 500/3000 loss ... eta 1m02s". Nothing in bar mode.
  void line(int64_t done, const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "2d03h", "1h02m", "3m10s", "12s".
std::string format_duration(double seconds);

/// Speed over the recent past: about a minute, or some tens of steps where they are slow.
class SpeedWindow {
 public:
  /// `seconds` on any clock, ascending. A `done` below the last one (a rollback) starts anew.
  void add(double seconds, int64_t done);
  std::optional<double> eta(int64_t total) const;

 private:
  std::deque<std::pair<double, int64_t>> points_;
  bool started_ = false;  // the first point, which has the start-up behind it, is dropped
};

struct BarState {
  std::string title;
  int64_t done = 0;
  int64_t total = 0;
  double elapsed = 0;
  std::optional<double> eta;
  std::string text;
};

/// The line of a bar, at most `columns` characters wide: what matters less goes first where it is
/// narrow.
std::string bar_line(const BarState& state, size_t columns, bool utf8);

/// Whether the environment's locale (LC_ALL, LC_CTYPE, LANG) says UTF-8.
bool utf8_locale();

}  // namespace diffuse
