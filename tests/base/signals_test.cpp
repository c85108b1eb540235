// SPDX-License-Identifier: MIT
#include "base/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "support/forked.h"

namespace diffuse {
namespace {

void sleep_ms(int64_t ms) {
  timespec left{.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1'000'000};
  while (::nanosleep(&left, &left) != 0) {
  }
}

/// A program that is told to stop and never comes to it: a step that takes too long.
class Stubborn {
 public:
  Stubborn() {
    EXPECT_EQ(::pipe(pipe_.data()), 0);
    pid_ = fork_child([this] {
      ::close(STDERR_FILENO);
      const Signals signals;
      tell('r');
      while (signals.stop() == Exit::ok) sleep_ms(1);
      tell(static_cast<char>(signals.stop()));
      sleep_ms(60'000);
      return 1;
    });
    ::close(pipe_[1]);
    EXPECT_EQ(heard(), 'r');
  }
  ~Stubborn() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait_for(pid_);
    ::close(pipe_[0]);
  }
  Stubborn(const Stubborn&) = delete;
  Stubborn& operator=(const Stubborn&) = delete;

  void signal(int number) { ::kill(pid_, number); }
  /// What the program says next; 0 when it has ended.
  int heard() {
    char c = 0;
    return ::read(pipe_[0], &c, 1) == 1 ? static_cast<unsigned char>(c) : 0;
  }
  bool is_running() const {
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
    return info.si_pid == 0;
  }
  /// The exit code, or minus the signal.
  int end() { return wait_for(std::exchange(pid_, 0)); }

 private:
  void tell(char c) {
    if (::write(pipe_[1], &c, 1) != 1) ::_exit(98);
  }

  std::array<int, 2> pipe_{};
  pid_t pid_ = 0;
};

TEST(Signals, RequestsAreTakenOnce) {
  Signals signals;
  EXPECT_FALSE(signals.take_save_request());
  ::raise(SIGHUP);
  EXPECT_FALSE(signals.take_sample_request());
  EXPECT_TRUE(signals.take_save_request());
  EXPECT_FALSE(signals.take_save_request());
  ::raise(SIGUSR2);
  EXPECT_TRUE(signals.take_save_request());
  EXPECT_TRUE(signals.take_sample_request());
  EXPECT_FALSE(signals.take_save_request());
  EXPECT_FALSE(signals.take_sample_request());
  ::raise(SIGPIPE);
  EXPECT_EQ(signals.stop(), Exit::ok);
}

TEST(Signals, EachStopHasItsCode) {
  const struct {
    int signal;
    Exit code;
  } expected[] = {{SIGINT, Exit::interrupted},
                  {SIGTERM, Exit::stopped},
                  {SIGUSR1, Exit::stopped},
                  {SIGXCPU, Exit::stopped}};
  for (const auto& e : expected) {
    SCOPED_TRACE(::strsignal(e.signal));
    Stubborn program;
    program.signal(e.signal);
    EXPECT_EQ(program.heard(), static_cast<int>(e.code));
    EXPECT_TRUE(program.is_running());
  }
}

TEST(Signals, AStopLeavesErrnoAsItIs) {
  const pid_t child = fork_child([] {
    ::close(STDERR_FILENO);  // so that the handler's message is an error
    const Signals signals;
    errno = ENOSPC;
    ::raise(SIGTERM);
    return errno;
  });
  EXPECT_EQ(wait_for(child), ENOSPC);
}

TEST(Signals, ASecondInterruptEndsAtOnceByTheSignal) {
  Stubborn program;
  program.signal(SIGINT);
  ASSERT_EQ(program.heard(), 130);
  program.signal(SIGINT);
  EXPECT_EQ(program.end(), -SIGINT);
}

TEST(Signals, ASecondTermEndsAtOnceButNotInTheFirstTwoSeconds) {
  Stubborn program;
  program.signal(SIGTERM);
  ASSERT_EQ(program.heard(), 75);
  program.signal(SIGTERM);  // a job's processes are often signalled twice
  sleep_ms(3100);           // 2 s in whole seconds of the clock
  EXPECT_TRUE(program.is_running());
  program.signal(SIGTERM);
  EXPECT_EQ(program.end(), 75);
}

TEST(Signals, ThoseOfAProcessorsLimitAreRepeatedByTheKernel) {
  Stubborn program;
  program.signal(SIGXCPU);
  ASSERT_EQ(program.heard(), 75);
  sleep_ms(3100);
  program.signal(SIGXCPU);
  sleep_ms(100);
  EXPECT_TRUE(program.is_running());
}

TEST(Signals, TheCodeOfAProgramThatIsDoneStays) {
  const pid_t child = fork_child([] {
    { const Signals signals; }
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, SIGXCPU, SIGPIPE})
      ::raise(signal);
    return 7;
  });
  EXPECT_EQ(wait_for(child), 7);
}

}  // namespace
}  // namespace diffuse
