// SPDX-License-Identifier: MIT
#include "report/progress.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "base/log.h"
#include "support/forked.h"

namespace diffuse {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0s");
  EXPECT_EQ(format_duration(12.4), "12s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(190), "3m10s");
  EXPECT_EQ(format_duration(3599.7), "1h00m");
  EXPECT_EQ(format_duration(3720), "1h02m");
  EXPECT_EQ(format_duration(2 * 86400 + 3 * 3600 + 59), "2d03h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(0.0 / 0.0), "?");
  EXPECT_EQ(format_duration(1e300), "?");
}

TEST(Progress, EtaFollowsTheRecentSpeed) {
  SpeedWindow speed;
  EXPECT_EQ(speed.eta(100), std::nullopt);
  speed.add(0, 0);
  EXPECT_EQ(speed.eta(100), std::nullopt);
  // A slow start, then 10 steps a second for 200 seconds: the window has forgotten the start.
  speed.add(30, 1);
  double now = 30;
  int64_t done = 1;
  for (int i = 0; i < 2000; ++i) speed.add(now += 0.1, ++done);
  EXPECT_NEAR(*speed.eta(done + 500), 50, 1e-6);
  // From now on 1 step in 2 seconds: after two minutes only that counts.
  for (int i = 0; i < 62; ++i) speed.add(now += 2, ++done);
  EXPECT_NEAR(*speed.eta(done + 10), 20, 1e-6);
  // Calls without progress change nothing.
  speed.add(now + 100, done);
  EXPECT_NEAR(*speed.eta(done + 10), 20, 1e-6);
  EXPECT_EQ(*speed.eta(done - 5), 0);
}

TEST(Progress, EtaStartsAnewAfterARollback) {
  SpeedWindow speed;
  for (int i = 0; i < 10; ++i) speed.add(i, 10 * i);
  speed.add(20, 5);
  EXPECT_EQ(speed.eta(100), std::nullopt);
  speed.add(22, 6);
  EXPECT_NEAR(*speed.eta(10), 8, 1e-9);
}

TEST(Progress, BarLineInFull) {
  const BarState state{"train", 250, 1000, 61, 183.0, "loss 0.03"};
  EXPECT_EQ(bar_line(state, 100, false),
            "train [#######-----------------------]  250/1000  25%  1m01s  eta 3m03s  loss 0.03");
  EXPECT_EQ(bar_line({"train", 0, 10, 0, std::nullopt, ""}, 60, true),
            "train ▕                              ▏  0/10   0%  0s");
  // 5/16 of 11 cells are 3 and 3.5 eighths.
  const std::string eighths = bar_line({"t", 5, 16, 0, std::nullopt, ""}, 30, true);
  EXPECT_TRUE(contains(eighths, "▕███▍       ▏")) << eighths;
}

TEST(Progress, BarLineFitsAnyWidth) {
  const BarState state{"träin", 999999, 1000000, 1e5, 1.0, "loss 0.03  512 img/s  wait 0%"};
  for (size_t columns = 0; columns <= 120; ++columns)
    for (const bool utf8 : {false, true}) {
      const std::string line = bar_line(state, columns, utf8);
      EXPECT_LE(characters(line), columns) << line;
      EXPECT_TRUE(columns < 120 || contains(line, "wait 0%")) << line;
      EXPECT_TRUE(columns < 30 || contains(line, " 999999/1000000  99%")) << line;
    }
  for (const int64_t total : {0, -1, 3})
    EXPECT_LE(characters(bar_line({"t", 7, total, -1, std::nullopt, ""}, 40, true)), 40u);
}

/// Sets a variable of the environment until destroyed.
class Variable {
 public:
  Variable(std::string name, const char* value) : name_(std::move(name)) {
    if (const char* old = std::getenv(name_.c_str())) old_ = old;
    set(value);
  }
  ~Variable() { set(old_ ? old_->c_str() : nullptr); }

 private:
  void set(const char* value) {
    if (value == nullptr)
      ::unsetenv(name_.c_str());
    else
      ::setenv(name_.c_str(), value, 1);
  }
  std::string name_;
  std::optional<std::string> old_;
};

TEST(Progress, Utf8OnlyWhereTheLocaleSaysSo) {
  const Variable lang("LANG", "de_DE.UTF-8"), ctype("LC_CTYPE", nullptr), all("LC_ALL", nullptr);
  EXPECT_TRUE(utf8_locale());
  {
    const Variable other("LC_CTYPE", "C.utf8");
    EXPECT_TRUE(utf8_locale());
  }
  {
    const Variable other("LC_ALL", "C");
    EXPECT_FALSE(utf8_locale());
  }
  {
    const Variable empty("LC_ALL", ""), none("LANG", nullptr);
    EXPECT_FALSE(utf8_locale());
  }
}

/// What f writes to stderr when that is a terminal of 60 columns, run in a child.
std::string on_terminal(const char* term, const std::function<void()>& f) {
  int master = -1, slave = -1;
  const winsize size{24, 60, 0, 0};
  if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) return "no pty";
  const pid_t child = fork_child([&] {
    ::setenv("TERM", term, 1);
    ::setenv("LC_ALL", "C", 1);
    ::dup2(slave, STDERR_FILENO);
    f();
    return 0;
  });
  ::close(slave);
  std::string out;
  char buffer[4096];
  for (ssize_t n; (n = ::read(master, buffer, sizeof(buffer))) > 0;)
    out.append(buffer, static_cast<size_t>(n));
  ::close(master);
  EXPECT_EQ(wait_for(child), 0);
  return out;
}

/// The lines that a terminal shows in the end (carriage return, erase to the end of line, new
/// line).
std::vector<std::string> screen_of(const std::string& output) {
  std::vector<std::string> lines{""};
  size_t column = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    std::string& line = lines.back();
    if (output[i] == '\r') {
      column = 0;
    } else if (output[i] == '\n') {
      lines.emplace_back();
    } else if (output.compare(i, 3, "\x1b[K") == 0) {
      line.resize(std::min(line.size(), column));
      i += 2;
    } else {
      line.resize(std::max(line.size(), column + 1), ' ');
      line[column++] = output[i];
    }
  }
  return lines;
}

TEST(Progress, TerminalsGetABarUnlessTheyAreDumb) {
  const auto mode = [](const char* term) {
    return on_terminal(term, [] {
      const bool bar = resolve_progress(ProgressMode::automatic) == ProgressMode::bar;
      (void)!::write(STDERR_FILENO, bar ? "bar" : "plain", bar ? 3 : 5);
    });
  };
  EXPECT_EQ(mode("xterm"), "bar");
  EXPECT_EQ(mode("dumb"), "plain");
  EXPECT_EQ(mode(""), "plain");
  EXPECT_EQ(resolve_progress(ProgressMode::none), ProgressMode::none);
  EXPECT_EQ(resolve_progress(ProgressMode::bar), ProgressMode::bar);
}

TEST(Progress, MessagesDoNotTearTheBar) {
  const std::string output = on_terminal("xterm", [] {
    Progress progress(ProgressMode::automatic, "train", 0, 4);
    progress.update(1, "loss 1");
    log::info("a message");
    log::warn("another");
    progress.update(4, "loss 4");
    log::info("the last");
  });
  const auto lines = screen_of(output);
  ASSERT_EQ(lines.size(), 4u) << output;
  EXPECT_EQ(lines[0], "a message");
  EXPECT_EQ(lines[1], "warning: another");
  EXPECT_EQ(lines[2], "the last");
  EXPECT_EQ(lines[3], "") << "the bar was not cleared";
  EXPECT_TRUE(contains(output, "1/4  25%")) << output;
  EXPECT_TRUE(contains(output, "4/4 100%")) << output;
}

TEST(Progress, IsRedrawnTenTimesASecondAtMost) {
  const std::string output = on_terminal("xterm", [] {
    Progress progress(ProgressMode::automatic, "train", 0, 1 << 30);
    for (int i = 1; i < 20000; ++i) progress.update(i, "");
  });
  // As many frames as tenths of a second have passed; 20000 updates take less than 100 seconds
  // anywhere.
  EXPECT_LT(std::count(output.begin(), output.end(), '/'), 1000);
  EXPECT_GE(std::count(output.begin(), output.end(), '/'), 1);
}

TEST(Progress, AnInnerBarTakesTurns) {
  const std::string output = on_terminal("xterm", [] {
    Progress outer(ProgressMode::automatic, "outer", 0, 2);
    outer.update(2, "");
    {
      Progress inner(ProgressMode::automatic, "inner", 0, 2);
      outer.update(2, "hidden");
      inner.update(2, "");
      log::info("within");
    }
    outer.update(2, "again");
    log::info("after");
  });
  const auto lines = screen_of(output);
  ASSERT_EQ(lines.size(), 3u) << output;
  EXPECT_EQ(lines[0], "within");
  EXPECT_EQ(lines[1], "after");
  EXPECT_FALSE(contains(output, "hidden"));
  EXPECT_TRUE(contains(output, "again"));
}

TEST(Progress, PlainLines) {
  testing::internal::CaptureStderr();
  {
    Progress progress(ProgressMode::plain, "train", 100, 3000);
    progress.update(101, "not shown");
    progress.line(500, "loss 0.5");
    progress.line(3000, "loss 0.4");
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.rfind("train 500/3000 loss 0.5 eta ", 0), 0u) << said;
  EXPECT_TRUE(contains(said, "\ntrain 3000/3000 loss 0.4\n")) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 2) << said;

  testing::internal::CaptureStderr();
  {
    Progress progress(ProgressMode::none, "train", 0, 10);
    progress.update(5, "x");
    progress.line(5, "x");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, AClosedStderrStopsNothing) {
  const pid_t child = fork_child([] {
    ::close(STDERR_FILENO);
    for (const ProgressMode mode :
         {ProgressMode::bar, ProgressMode::plain, ProgressMode::automatic}) {
      Progress progress(mode, "train", 0, 10);
      for (int i = 0; i <= 10; ++i) progress.update(i, "text");
      progress.line(10, "text");
      log::info("message");
    }
    return 0;
  });
  EXPECT_EQ(wait_for(child), 0);
}

}  // namespace
}  // namespace diffuse
