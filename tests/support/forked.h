// SPDX-License-Identifier: MIT
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <utility>

namespace diffuse {

/// Runs f in a child process, which ends with its result as exit code (99: an exception). Returns
/// the pid.
template <class F>
pid_t fork_child(F&& f) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  int code = 99;
  try {
    code = std::forward<F>(f)();
  } catch (...) {
  }
  ::_exit(code);
}

/// The exit code of a child, or minus the signal that ended it.
inline int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace diffuse
