// SPDX-License-Identifier: MIT
#pragma once

#include "base/error.h"

namespace diffuse {

/// What signals have asked for. SIGINT, SIGTERM, SIGUSR1 and SIGXCPU: stop after the step and save;
/// a second one within 10 seconds leaves at once (nothing is lost: a checkpoint appears by rename);
/// SIGTERM and SIGUSR1 only after 2 seconds, as whoever stops a job often signals its processes
/// twice, and SIGXCPU, which the kernel repeats, never.
/// SIGHUP: save and go on. SIGUSR2: save, draw a grid and go on. SIGPIPE is ignored.
class Signals {
 public:
  Signals();  // installs the handlers
  /// From here on all of them are ignored: the program has its code and is about to end, of which
  /// a signal would make a death by that signal.
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  /// Exit::ok, or the code to leave with: interrupted (SIGINT) or stopped (the others).
  Exit stop() const;
  /// True once after each SIGHUP or SIGUSR2.
  bool take_save_request();
  /// True once after each SIGUSR2.
  bool take_sample_request();
};

}  // namespace diffuse
