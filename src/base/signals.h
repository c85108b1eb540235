// SPDX-License-Identifier: MIT
#pragma once

#include "base/error.h"

namespace diffuse {

/// What signals have asked for. SIGINT, SIGTERM, SIGUSR1 and SIGXCPU: stop after the step and save;
/// a second one within 10 seconds leaves at once (nothing is lost: a checkpoint appears by rename);
/// any but SIGINT only after 2 seconds, as whoever stops a job often signals its processes twice.
/// SIGHUP: save and go on. SIGUSR2: save, draw a grid and go on. SIGPIPE is ignored.
class Signals {
 public:
  Signals();   // installs the handlers
  ~Signals();  // restores the former ones
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
