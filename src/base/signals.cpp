// SPDX-License-Identifier: MIT
#include "base/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

namespace diffuse {
namespace {

// Handlers may only touch lock-free atomics.
std::atomic<int> g_stop{0};  // the exit code asked for
std::atomic<int64_t> g_stop_time{0};
std::atomic<bool> g_save{false};
std::atomic<bool> g_sample{false};
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t now_seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

void on_stop(int signal) {
  const int code = static_cast<int>(signal == SIGINT ? Exit::interrupted : Exit::stopped);
  // The kernel repeats it with each second of processor time.
  if (g_stop != 0 && signal == SIGXCPU) return;
  const int64_t since = now_seconds() - g_stop_time;
  if (g_stop != 0 && since <= 10) {
    if (signal != SIGINT && since < 2) return;
    if (signal != SIGINT) _exit(code);
    // Ends by the signal itself, so that a shell's loop ends, too.
    ::signal(SIGINT, SIG_DFL);
    ::raise(SIGINT);  // pending until this handler returns
    return;
  }
  g_stop_time = now_seconds();
  g_stop = code;
  static constexpr char kMessage[] =
      "\nstopping after this step; the same signal again within 10 s leaves at once\n";
  // What the signal came into may be about to look at its own error.
  const int error = errno;
  if (::write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1) < 0) {
    // Nobody reads; the step is finished all the same.
  }
  errno = error;
}

void on_request(int signal) {
  g_save = true;
  if (signal == SIGUSR2) g_sample = true;
}

struct Handler {
  int signal;
  void (*function)(int);
};
const std::array<Handler, 7> kHandlers{{{SIGINT, on_stop},
                                        {SIGTERM, on_stop},
                                        {SIGUSR1, on_stop},
                                        {SIGXCPU, on_stop},
                                        {SIGHUP, on_request},
                                        {SIGUSR2, on_request},
                                        {SIGPIPE, SIG_IGN}}};

}  // namespace

Signals::Signals() {
  g_stop = 0;
  g_save = false;
  g_sample = false;
  for (const Handler& handler : kHandlers) {
    struct sigaction action {};
    action.sa_handler = handler.function;
    action.sa_flags = SA_RESTART;
    sigaction(handler.signal, &action, nullptr);
  }
}

Signals::~Signals() {
  for (const Handler& handler : kHandlers) ::signal(handler.signal, SIG_IGN);
}

Exit Signals::stop() const { return static_cast<Exit>(g_stop.load()); }
bool Signals::take_save_request() { return g_save.exchange(false); }
bool Signals::take_sample_request() { return g_sample.exchange(false); }

}  // namespace diffuse
