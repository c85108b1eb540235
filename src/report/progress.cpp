// SPDX-License-Identifier: MIT
#include "report/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "base/log.h"

namespace diffuse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr size_t kWidestBar = 30, kNarrowestBar = 8;
constexpr const char* kClearLine = "\r\x1b[K";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A terminal that is gone, full or not reading costs a frame, nothing else.
void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

size_t columns_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !continues_character(c); }));
}

std::string fit(const std::string& text, size_t columns) {
  size_t used = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if (!continues_character(text[i]) && used++ == columns) return text.substr(0, i);
  return text;
}

std::string draw_bar(double fraction, size_t columns, bool utf8) {
  if (!utf8) {
    const auto filled = static_cast<size_t>(fraction * static_cast<double>(columns));
    return "[" + std::string(filled, '#') + std::string(columns - filled, '-') + "]";
  }
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<size_t>(fraction * static_cast<double>(8 * columns));
  std::string out = "▕";
  for (size_t i = 0; i < eighths / 8; ++i) out += "█";
  out += kEighths[eighths % 8];
  out.append(columns - (eighths + 7) / 8, ' ');
  return out + "▏";
}

}  // namespace

ProgressMode resolve_progress(ProgressMode mode) {
  if (mode != ProgressMode::automatic) return mode;
  const char* terminal = std::getenv("TERM");
  const bool redraws = ::isatty(STDERR_FILENO) == 1 && terminal != nullptr && *terminal != '\0' &&
                       std::string_view(terminal) != "dumb";
  return redraws ? ProgressMode::bar : ProgressMode::plain;
}

bool utf8_locale() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') continue;
    std::string name(value);
    for (char& c : name)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return name.find("utf-8") != std::string::npos || name.find("utf8") != std::string::npos;
  }
  return false;
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const auto two = [](int64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
  if (whole < 60) return std::to_string(whole) + "s";
  if (whole < 3600) return std::to_string(whole / 60) + "m" + two(whole % 60) + "s";
  if (whole < 86400) return std::to_string(whole / 3600) + "h" + two(whole / 60 % 60) + "m";
  return std::to_string(whole / 86400) + "d" + two(whole / 3600 % 24) + "h";
}

void SpeedWindow::add(double seconds, int64_t done) {
  constexpr double kSpacing = 1;
  constexpr size_t kPoints = 61;
  if (!points_.empty() && done < points_.back().second) {
    points_.clear();
    started_ = false;
  }
  if (!points_.empty() && done == points_.back().second) return;
  // The newest point always moves along; the older ones stay a second apart.
  if (points_.size() >= 2 && seconds - points_[points_.size() - 2].first < kSpacing)
    points_.pop_back();
  points_.emplace_back(seconds, done);
  if (!started_ && points_.size() == 3) {
    points_.pop_front();
    started_ = true;
  }
  if (points_.size() > kPoints) points_.pop_front();
}

std::optional<double> SpeedWindow::eta(int64_t total) const {
  if (points_.size() < 2) return std::nullopt;
  const double seconds = points_.back().first - points_.front().first;
  const auto steps = static_cast<double>(points_.back().second - points_.front().second);
  return static_cast<double>(std::max<int64_t>(total - points_.back().second, 0)) * seconds / steps;
}

std::string bar_line(const BarState& state, size_t columns, bool utf8) {
  const double fraction =
      state.total > 0
          ? std::clamp(static_cast<double>(state.done) / static_cast<double>(state.total), 0.0, 1.0)
          : 0;
  const std::string total = std::to_string(state.total);
  std::string done = std::to_string(state.done);
  // As wide as it will become, so that nothing jumps when a digit is added.
  if (done.size() < total.size()) done.insert(0, total.size() - done.size(), ' ');
  std::string percent = std::to_string(static_cast<int>(100 * fraction));
  percent.insert(0, 3 - percent.size(), ' ');

  const std::string counts = done + "/" + total + " " + percent + "%";
  std::string times = "  " + format_duration(state.elapsed);
  if (state.eta) times += "  eta " + format_duration(*state.eta);
  const std::string text = state.text.empty() ? "" : "  " + state.text;
  const std::string head = state.title + " ";

  const size_t frame = 3;  // both ends of the bar and a space
  const size_t fixed = columns_of(head) + columns_of(counts) + columns_of(times);
  const auto bar_beside = [&](size_t others) -> std::string {
    if (others + frame + kNarrowestBar > columns) return "";
    return draw_bar(fraction, std::min(kWidestBar, columns - others - frame), utf8) + " ";
  };
  std::string bar = bar_beside(fixed + columns_of(text));
  if (bar.empty()) bar = bar_beside(fixed);
  return fit(head + bar + counts + times + text, columns);
}

struct Progress::Impl {
  ProgressMode mode;
  BarState state;
  bool utf8 = utf8_locale();
  Clock::time_point start = Clock::now();
  Clock::time_point drawn_at = start - kRedraw;
  SpeedWindow speed;
  std::mutex mutex;  // log messages may come from other threads
  bool visible = false;
  bool suspended = false;
  Impl* outer = nullptr;

  /// The bar that is drawn now. Bars are made and destroyed by one thread, like a stack.
  static Impl*& active() {
    static Impl* a = nullptr;
    return a;
  }

  void record(int64_t done, const std::string& text) {
    state.done = done;
    state.text = text;
    state.elapsed = seconds_since(start);
    speed.add(state.elapsed, done);
    state.eta = speed.eta(state.total);
  }
  void clear() {
    if (visible) write_stderr(kClearLine);
    visible = false;
  }
  void draw() {
    // One column stays free: a full line would make some terminals begin the next.
    write_stderr(kClearLine + bar_line(state, terminal_columns() - 1, utf8));
    visible = true;
    drawn_at = Clock::now();
  }
  void hook() {
    log::set_line_hooks(
        [this] {
          const std::lock_guard lock(mutex);
          if (visible) write_stderr(kClearLine);
        },
        [this] {
          const std::lock_guard lock(mutex);
          if (visible) draw();
        });
  }
  void suspend(bool yes) {
    const std::lock_guard lock(mutex);
    suspended = yes;
    if (yes) clear();
  }
};

Progress::Progress(ProgressMode mode, std::string title, int64_t done, int64_t total)
    : impl_(std::make_unique<Impl>()) {
  impl_->mode = resolve_progress(mode);
  impl_->state.title = std::move(title);
  impl_->state.total = total;
  impl_->record(done, "");
  if (impl_->mode != ProgressMode::bar) return;
  impl_->outer = Impl::active();
  if (impl_->outer != nullptr) impl_->outer->suspend(true);
  Impl::active() = impl_.get();
  impl_->hook();
}

Progress::~Progress() {
  if (impl_->mode != ProgressMode::bar) return;
  log::set_line_hooks(nullptr, nullptr);
  impl_->suspend(true);
  Impl::active() = impl_->outer;
  if (impl_->outer != nullptr) {
    impl_->outer->hook();
    impl_->outer->suspend(false);
  }
}

void Progress::update(int64_t done, const std::string& text) {
  const std::lock_guard lock(impl_->mutex);
  impl_->record(done, text);
  if (impl_->mode != ProgressMode::bar || impl_->suspended) return;
  const bool last = done >= impl_->state.total;
  if (last || Clock::now() - impl_->drawn_at >= kRedraw) impl_->draw();
}

void Progress::line(int64_t done, const std::string& text) {
  std::string out;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->record(done, text);
    if (impl_->mode != ProgressMode::plain) return;
    const BarState& s = impl_->state;
    out = s.title + " " + std::to_string(s.done) + "/" + std::to_string(s.total);
    if (!text.empty()) out += " " + text;
    if (s.eta && s.done < s.total) out += " eta " + format_duration(*s.eta);
  }
  log::info(out);
}

}  // namespace diffuse
