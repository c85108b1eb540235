// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string_view>
#include <thread>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/text.h"
#include "io/checkpoint.h"
#include "report/metrics.h"
#include "verify.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxText = uint64_t{64} << 20;
constexpr uint64_t kMaxState = uint64_t{1} << 20;

/// Both runs and their messages; removed at the end unless they are to be kept.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& out) : keep_(!out.empty()) {
    if (keep_) {
      std::error_code error;
      path_ = out;
      if (fs::exists(path_, error))
        throw Error(Exit::run_folder, out + " exists; choose another --out");
      fs::create_directories(path_, error);
      if (error)
        throw Error(Exit::run_folder,
                    "cannot create " + out + ": " + error.message() + "; choose another --out");
      return;
    }
    std::error_code error;
    std::string pattern = (fs::temp_directory_path(error) / "diffuse-verify-XXXXXX").string();
    if (error || ::mkdtemp(pattern.data()) == nullptr)
      throw Error(Exit::run_folder,
                  "cannot make a temporary folder: " +
                      (error ? error.message() : std::string(std::strerror(errno))) +
                      "; choose a place with --out");
    path_ = pattern;
  }
  ~WorkFolder() {
    std::error_code ignored;
    if (!keep_) fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const fs::path& path() const { return path_; }
  void keep() { keep_ = true; }

 private:
  fs::path path_;
  bool keep_;
};

/// The number at `at` of `text`; -1 when there is none.
int64_t number_at(std::string_view text, size_t at) {
  const size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
  return parse_count(text.substr(at, end - at)).value_or(-1);
}

/// What `diffuse train` says, line by line. That its training begins, and where, is in no file of
/// the run folder: status.json is "running" before the pictures are read, and metrics.jsonl has the
/// lines of an earlier start until then.
class Messages {
 public:
  void add(std::string_view text) {
    line_ += text;
    for (size_t end = line_.find('\n'); end != std::string::npos; end = line_.find('\n')) {
      take(std::string_view(line_).substr(0, end));
      line_.erase(0, end + 1);
    }
  }

  /// The step of the checkpoint that training goes on from, 0 for a new run, none before it began.
  std::optional<int64_t> first_step() const { return first_step_; }
  /// The step of the last progress line; -1 before the first.
  int64_t last_step() const { return last_step_; }
  /// The error that ended it; empty when there is none.
  std::string error() const { return error_; }

 private:
  void take(std::string_view line) {
    constexpr std::string_view kError = "error: ", kProgress = "train ", kFrom = "going on from ",
                               kName = "/checkpoints/step-";
    if (line.starts_with(kError)) {
      error_ = line.substr(kError.size());
    } else if (!error_.empty() && error_.size() < kMaxError) {
      error_.append("\n").append(line);  // of the same message
    } else if (line.starts_with(kProgress)) {
      last_step_ = number_at(line, kProgress.size());
    } else if (line.starts_with("training in ")) {
      first_step_ = 0;
    } else if (const size_t at = line.find(kFrom); at != std::string::npos) {
      const size_t name = line.find(kName, at);
      if (name != std::string::npos) first_step_ = number_at(line, name + kName.size());
    }
  }

  static constexpr size_t kMaxError = 64 << 10;
  std::string line_;  // that has no end yet
  std::optional<int64_t> first_step_;
  int64_t last_step_ = -1;
  std::string error_;
};

/// `diffuse train` in a process of its own.
class Child {
 public:
  /// `copy`: a file for its messages, as far as there is room for them.
  Child(std::vector<std::string> words, const fs::path& copy)
      : copy_(::open(copy.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const FileDescriptor nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    int ends[2] = {-1, -1};
    if (nothing.fd < 0 || ::pipe2(ends, O_CLOEXEC) != 0) cannot_start();
    messages_from_.fd = ends[0];
    const FileDescriptor messages_to(ends[1]);
    ::fcntl(messages_from_.fd, F_SETFL, O_NONBLOCK);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) cannot_start();
    if (pid_ > 0) return;
    // A training that nobody waits for any more would hold the folder and the cores.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    // Ctrl-C is the parent's business, which would take it for one of its own interruptions.
    ::setpgid(0, 0);
    ::dup2(nothing.fd, STDIN_FILENO);
    ::dup2(nothing.fd, STDOUT_FILENO);
    ::dup2(messages_to.fd, STDERR_FILENO);
    ::execv("/proc/self/exe", argv.data());
    ::_exit(127);
  }
  ~Child() {
    if (ended_) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Waits until it says something or ends, at most `most` and not long: a signal for this program
  /// may come just before. False: it has ended, and messages() is complete.
  bool wait(std::chrono::duration<double> most = kLongest) {
    if (ended_) return false;
    pollfd said{.fd = messages_from_.fd, .events = POLLIN, .revents = 0};
    const auto wanted = std::chrono::ceil<std::chrono::milliseconds>(most).count();
    ::poll(&said, 1, static_cast<int>(std::clamp<int64_t>(wanted, 0, kLongest.count())));
    // Before its messages are read to their end, or the last ones could be missed.
    int status = 0;
    const bool ended = ::waitpid(pid_, &status, WNOHANG) == pid_;
    const bool closed = !read_messages();
    if (ended) {
      status_ = status;
      ended_ = true;
    } else if (closed) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // it is just about to end
    }
    return !ended_;
  }
  /// Only of one whose end wait() has not told.
  void signal(int number) { ::kill(pid_, number); }
  /// Exit code, or 128 + the signal that ended it. Only of one that has ended.
  int code() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_); }
  const Messages& messages() const { return messages_; }

  static constexpr std::chrono::milliseconds kLongest{100};

 private:
  [[noreturn]] static void cannot_start() {
    throw Error(Exit::device, std::string("cannot start a process: ") + std::strerror(errno));
  }

  /// Takes what is there. False: there will be no more.
  bool read_messages() {
    char text[4096];
    while (true) {
      const ssize_t n = ::read(messages_from_.fd, text, sizeof(text));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return true;
      if (n == 0) return false;
      messages_.add(std::string_view(text, static_cast<size_t>(n)));
      if (copy_.fd >= 0 && ::write(copy_.fd, text, static_cast<size_t>(n)) < 0) {
        // For people, and only where there is room; what matters is in messages_.
      }
    }
  }

  FileDescriptor copy_, messages_from_{-1};
  Messages messages_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

/// One start of the run that is interrupted.
struct Start {
  int64_t from = -1;  // its first step; -1: ended before it trained
  int64_t seen = -1;  // the last step that it reported
  std::string way;    // "SIGTERM", "kill -9", ...; empty: it was let finish
  int code = 0;
};

class Proof {
 public:
  Proof(const ResumeProof& options, const Context& context)
      : options_(options),
        context_(context),
        work_(options.out),
        random_(static_cast<uint64_t>(options.seed)) {
    // It would stop the run that is to be uninterrupted.
    ::unsetenv("DIFFUSE_STOP_AFTER");
  }

  int run(bool json) {
    say("training " + counted(options_.steps, "step") + " without a break");
    train_whole();
    say("training them again, interrupted " + counted(options_.interruptions, "time"));
    train_interrupted();
    if (killed_ + signalled_ == 0)
      throw Error(Exit::usage,
                  "the run was over before it could be interrupted: give it more --steps");
    compare();
    print(json ? report().dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
               : report_text());
    if (differences_.empty()) return 0;
    refuse_other_micro_batches();
    work_.keep();
    throw Error(Exit::checkpoint,
                "the resumed run differs from the uninterrupted one in " +
                    counted(static_cast<int64_t>(differences_.size()), "place") +
                    "; both are kept in " + work_.path().string() +
                    ". On the CPU this is a bug, unless the pictures changed meanwhile: please "
                    "report it. On a GPU, sums in another order change last bits");
  }

 private:
  static void say(const std::string& text) { log::info(text); }
  fs::path whole() const { return work_.path() / "whole"; }
  fs::path resumed() const { return work_.path() / "resumed"; }

  std::vector<std::string> words(const fs::path& folder) const {
    std::vector<std::string> out{"diffuse",
                                 "train",
                                 options_.config,
                                 "--run-dir",
                                 folder.string(),
                                 "--color",
                                 "never",
                                 "--progress",
                                 "plain",
                                 "--log-level",
                                 "info"};
    if (context_.global.threads > 0) {
      out.push_back("--threads");
      out.push_back(std::to_string(context_.global.threads));
    }
    // What is written often and out of step with each other; what is drawn proves nothing.
    const auto set = [&](const std::string& text) {
      out.push_back("--set");
      out.push_back(text);
    };
    set("log.every_steps=" + std::to_string(log_every()));
    set("checkpoint.every_steps=" + std::to_string(std::max<int64_t>(options_.steps / 5, 1)));
    set("checkpoint.every_minutes=0");
    set("checkpoint.keep_last=" + std::to_string(options_.steps + 1));
    set("sample.every_steps=0");
    set("validate.every_steps=0");
    set("log.tensorboard=false");
    set("log.plots=false");
    for (const std::string& text : options_.set) set(text);
    out.push_back("--steps");
    out.push_back(std::to_string(options_.steps));
    return out;
  }
  int64_t log_every() const { return std::max<int64_t>(options_.steps / 6, 1); }

  void check_stop() const {
    if (signals_.stop() != Exit::ok) throw Error(signals_.stop(), "stopped: there is no result");
  }

  /// Waits for the child's end.
  void finish(Child& child) const {
    while (child.wait()) check_stop();
  }

  [[noreturn]] void fail(const Child& child, const std::string& what) const {
    const int code = child.code();
    const bool known = code >= 1 && code <= 9;
    const bool killed = code == 128 + SIGKILL;  // by nobody here
    std::string error = child.messages().error();
    if (error.empty() && !killed) error = "it gave no reason";
    const bool no_place =
        code == static_cast<int>(Exit::run_folder) || code == static_cast<int>(Exit::write);
    throw Error(
        known    ? static_cast<Exit>(code)
        : killed ? Exit::device
                 : Exit::bug,
        what + (killed ? " was killed (out of memory?)" : " ended with " + std::to_string(code)) +
            (error.empty() ? "" : ": " + error) +
            (no_place ? "; both runs go to another disk with --out DIR" : ""));
  }

  void train_whole() {
    Child child(words(whole()), work_.path() / "whole.txt");
    std::optional<Clock::time_point> began;
    while (child.wait()) {
      check_stop();
      if (!began && child.messages().first_step()) began = Clock::now();
    }
    if (child.code() != 0) fail(child, "the uninterrupted run");
    if (began) seconds_a_step_ = seconds_since(*began) / static_cast<double>(options_.steps);
  }

  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  struct Interruption {
    double at = 0;  // steps
    int signal = 0;
  };

  std::vector<Interruption> plan() {
    std::vector<Interruption> out;
    const int kind[] = {SIGKILL, SIGTERM, SIGKILL, SIGINT, SIGKILL, SIGUSR1};
    std::uniform_real_distribution<double> anywhere(0, static_cast<double>(options_.steps));
    for (int64_t i = 0; i < options_.interruptions; ++i)
      out.push_back({anywhere(random_), kind[static_cast<size_t>(i) % std::size(kind)]});
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
    // Which way comes when is as random as when.
    for (size_t i = out.size(); i > 1; --i)
      std::swap(out[i - 1].signal,
                out[std::uniform_int_distribution<size_t>(0, i - 1)(random_)].signal);
    return out;
  }

  void train_interrupted() {
    for (const Interruption& interruption : plan())
      if (!start(interruption)) return;
    start(std::nullopt);
  }

  /// Whether the run is to go on.
  bool start(const std::optional<Interruption>& interruption) {
    Child child(words(resumed()),
                work_.path() / ("resumed-" + std::to_string(starts_.size() + 1) + ".txt"));
    const bool fired = interruption && interrupt(child, *interruption);
    finish(child);
    Start out{.from = child.messages().first_step().value_or(-1),
              .seen = child.messages().last_step(),
              .way = fired ? way_of(interruption->signal) : "",
              .code = child.code()};
    const bool stopped = fired && (out.code == static_cast<int>(Exit::stopped) ||
                                   out.code == 128 + interruption->signal);
    if (out.code != 0 && !stopped) fail(child, "a resumed run");
    // The signal may have come after the last step.
    if (out.code == 0) out.way.clear();
    if (!out.way.empty()) ++(interruption->signal == SIGKILL ? killed_ : signalled_);
    say("  start " + std::to_string(starts_.size() + 1) + ": " + describe(out));
    starts_.push_back(out);
    return out.code != 0;
  }

  /// Signals the child when it is about `interruption.at` steps on. False: it ended before.
  bool interrupt(Child& child, const Interruption& interruption) const {
    const double at = interruption.at;
    // The last line before it, and from there by the clock.
    const int64_t line = static_cast<int64_t>(at) / log_every() * log_every();
    Clock::time_point since;
    int64_t from = 0;
    while (true) {
      if (!child.wait()) return false;
      check_stop();
      if (const auto first = child.messages().first_step()) {
        from = std::max(*first, child.messages().last_step());
        since = Clock::now();
        if (from >= line) break;
      }
    }
    // Beyond the place already: at any moment of the step that it is in.
    const double left = std::max(at - static_cast<double>(from), at - std::floor(at));
    while (true) {
      const double rest = left * seconds_a_step_ - seconds_since(since);
      if (!child.wait(std::chrono::duration<double>(rest))) return false;
      check_stop();
      if (rest <= 0) break;
    }
    child.signal(interruption.signal);
    return true;
  }

  static std::string way_of(int number) {
    return number == SIGKILL   ? "kill -9"
           : number == SIGTERM ? "SIGTERM"
           : number == SIGINT  ? "SIGINT"
                               : "SIGUSR1";
  }

  static std::string describe(const Start& start) {
    if (start.from < 0 && start.way.empty()) return "all steps were done";
    std::string out = start.from < 0    ? "before it trained"
                      : start.from == 0 ? "from the beginning"
                                        : "from step " + std::to_string(start.from);
    if (start.way.empty()) return out + ", finished";
    out += ", ended by " + start.way;
    return start.seen > 0 ? out + " after the line of step " + std::to_string(start.seen) : out;
  }

  static std::vector<std::string> metric_lines(const fs::path& folder) {
    std::vector<std::string> out;
    std::istringstream in(read_file(folder / "metrics.jsonl", Exit::run_folder, kMaxText));
    for (std::string line; std::getline(in, line);) {
      Json json = Json::parse(line, nullptr, false);
      if (json.is_object())
        for (const char* measured : kMeasuredMetrics) json.erase(measured);
      out.push_back(json.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    return out;
  }

  void compare() {
    std::vector<fs::path> wanted = list_checkpoints(whole() / "checkpoints");
    for (const fs::path& path : wanted) {
      const std::string name = path.filename().string();
      const std::vector<ManifestEntry> a = verify_checkpoint(path);
      const fs::path other = resumed() / "checkpoints" / name;
      if (!fs::exists(other)) {
        // One that came between a save and a kill is missing only if it is the last.
        if (path == wanted.back()) differences_.push_back(name + " is missing in the resumed run");
        continue;
      }
      const std::vector<ManifestEntry> b = verify_checkpoint(other);
      ++checkpoints_;
      for (const ManifestEntry& file : a) {
        const auto found = std::find_if(
            b.begin(), b.end(), [&](const ManifestEntry& e) { return e.name == file.name; });
        if (found == b.end() || found->xxh3_128 != file.xxh3_128 || found->size != file.size)
          differences_.push_back(name + "/" + file.name);
        bytes_ += file.size;
        ++files_;
      }
      if (b.size() > a.size()) differences_.push_back(name + " has more files");
    }
    const std::vector<std::string> a = metric_lines(whole()), b = metric_lines(resumed());
    lines_ = static_cast<int64_t>(a.size());
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i)
      if (i >= a.size() || i >= b.size() || a[i] != b[i])
        differences_.push_back("metrics.jsonl, line " + std::to_string(i + 1));
    hash_ = checkpoint_hash(wanted.back());
  }

  /// How many pictures went through the network at once, by what the checkpoints say; 0: the whole
  /// batch, or what the config says.
  static std::set<int64_t> micro_batches(const fs::path& folder) {
    std::set<int64_t> out;
    for (const fs::path& path : list_checkpoints(folder / "checkpoints")) {
      const auto state =
          parse_json<Json>(read_file(path / "state.json", Exit::checkpoint, kMaxState));
      out.insert(state.value("micro_batch", int64_t{0}));
    }
    return out;
  }

  /// `train.micro_batch: auto` takes what fits into the memory that is there when a run starts.
  /// With other parts of a batch the sums are others: no fault of resuming.
  void refuse_other_micro_batches() const {
    std::set<int64_t> found = micro_batches(whole());
    found.merge(micro_batches(resumed()));
    found.erase(0);
    if (found.empty()) return;
    throw Error(Exit::device,
                "there is no result: with train.micro_batch auto the runs sent other numbers of "
                "pictures through the network at once, as the memory that was available changed; "
                "--set train.micro_batch=" +
                    std::to_string(*found.begin()) + " gives both the same");
  }

  Json report() const {
    Json list = Json::array();
    for (const Start& s : starts_)
      list.push_back({{"from", s.from},
                      {"last_line", s.seen},
                      {"ended_by", s.way.empty() ? Json() : Json(s.way)},
                      {"exit", s.code}});
    Json out{{"config", options_.config},
             {"steps", options_.steps},
             {"seed", options_.seed},
             {"killed", killed_},
             {"signalled", signalled_},
             {"starts", list},
             {"checkpoints", checkpoints_},
             {"files", files_},
             {"bytes", bytes_},
             {"metric_lines", lines_},
             {"hash", hash_},
             {"differences", differences_},
             {"equal", differences_.empty()}};
    if (!options_.out.empty()) out["folder"] = work_.path().string();
    return out;
  }

  std::string report_text() const {
    std::string out;
    for (const std::string& place : differences_) out += "differs  " + place + "\n";
    out += (differences_.empty() ? "equal    " : "compared ") + counted(files_, "file") + " (" +
           std::to_string(bytes_) + " bytes) of " + counted(checkpoints_, "checkpoint") +
           ": weights, EMA, moments, state; " + counted(lines_, "line") +
           " of metrics without times\n";
    out += "         " + counted(options_.steps, "step") + ", " +
           counted(static_cast<int64_t>(starts_.size()), "start") + ", ended " +
           counted(killed_, "time") + " by kill -9 and " + counted(signalled_, "time") +
           " by another signal (seed " + std::to_string(options_.seed) +
           "); the last checkpoint is " + hash_ + "\n";
    return out;
  }

  const ResumeProof& options_;
  const Context& context_;
  Signals signals_;
  WorkFolder work_;
  std::mt19937_64 random_;
  double seconds_a_step_ = 0.1;
  std::vector<Start> starts_;
  int64_t killed_ = 0, signalled_ = 0;
  int64_t checkpoints_ = 0, files_ = 0, lines_ = 0;
  uint64_t bytes_ = 0;
  std::string hash_;
  std::vector<std::string> differences_;
};

}  // namespace

int prove_resume(const ResumeProof& proof, bool json, const Context& context) {
  // What is wrong with the config is said as `train` says it, before anything is started.
  print_warnings(load_config(proof.config, set_overrides(proof.set)), context);
  return Proof(proof, context).run(json);
}

}  // namespace diffuse
