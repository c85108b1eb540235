// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace diffuse {

enum class ProgressMode { automatic, bar, plain, none };

/// automatic becomes bar on a terminal that can redraw a line (TERM is set and not dumb), else
/// plain.
ProgressMode resolve_progress(ProgressMode mode);

/// One line on stderr: redrawn at most 10 times a second as a bar, or nothing between plain lines.
/// Log messages printed meanwhile do not tear it.
class Progress {
 public:
  Progress(ProgressMode mode, std::string title, int64_t done, int64_t total);
  ~Progress();  // clears the bar
  /// `text` follows the bar ("loss 0.031  512 img/s  wait 0%"); the ETA is computed here.
  void update(int64_t done, const std::string& text);
  /// A whole line for logs (plain mode): "train 500/3000 loss ... eta 1m02s". Nothing in bar mode.
  void line(int64_t done, const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "1h02m", "3m10s", "12s".
std::string format_duration(double seconds);

}  // namespace diffuse
