// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

namespace diffuse {

/// Process exit codes. They are part of the interface (README, "Exit codes"): scripts branch on
/// them.
enum class Exit {
  ok = 0,
  bug = 1,            // an exception that nobody expected
  usage = 2,          // the command line is wrong
  config = 3,         // the config is invalid
  run_folder = 4,     // run folder missing, in use, exists, or not writable
  data = 5,           // data missing or too many bad files
  checkpoint = 6,     // checkpoint unreadable, damaged or incompatible
  device = 7,         // device missing or out of memory
  diverged = 8,       // training or an ODE diverged; the last good checkpoint is kept
  write = 9,          // a checkpoint or result could not be written
  stopped = 75,       // stopped on request after saving: run the same command again
  interrupted = 130,  // Ctrl-C after saving
};

/// The one exception for what a user can cause and mend. `what()` is the whole message, with place
/// and remedy; `code` is the process exit code. Anything else that escapes is a bug (exit 1).
class Error : public std::runtime_error {
 public:
  Error(Exit exit, const std::string& message) : std::runtime_error(message), code(exit) {}
  Exit code;
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace diffuse

/// Invariant of the program itself (never of user input): throws std::logic_error, i.e. exit 1.
#define DIFFUSE_CHECK(condition) \
  ((condition) ? (void)0 : ::diffuse::check_failed(#condition, __FILE__, __LINE__))
